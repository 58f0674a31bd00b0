"""Which runtime a job has, and what its parts need to know of where they are."""

from __future__ import annotations

import os
import sys

from recollect.agents import computing
from recollect.machine import free_memory, processors
from recollect.maths import philox
from recollect.program import Part, Program
from recollect.runtime import placing
from recollect.runtime.hosting import Setting
from recollect.runtime.inline import Inline
from recollect.runtime.placing import Demand
from recollect.runtime.remote import Remote
from recollect.training.job import Job

STORE_BYTES = (200_000_000, 4_000_000_000)
"""Of shared memory for what is under way between the parts of a run on this machine."""

Runtime = Inline | Remote


def begun(job: Job, program: Program) -> Runtime:
    """The runtime of a job with the parts of its program.

    Raises:
        ConfigError: no room for them; the cluster cannot be joined.
    """
    if job.runtime == "inline":
        return Inline(program)
    from recollect.runtime import transport

    kinds = placing.parse(job.place)
    demands = {part.name: kinds[part.kind] for part in program.parts}
    settings = {part.name: _setting(job, part, demands[part.name]) for part in program.parts}
    least, most = STORE_BYTES
    store = min(most, max(least, int(0.1 * (free_memory() or 0))))
    made = transport.opened(demands, settings, job.address, store)
    return Remote(program, made, job.config.env_deadline)


def _setting(job: Job, part: Part, demand: Demand) -> Setting:
    """Torch computes on one thread in all parts but the learner."""
    threads = 1
    if part.kind == "learner":
        threads = int(demand.cpus) if demand.cpus > 1 else _learner_threads(job)
    seed = int(
        philox.seeds(job.seed, philox.Purpose.INITIALISATION, 0, 0, 1 + _number_of(part.name))
    )
    images = job.env.has_images and part.kind != "replay"
    return Setting(os.getcwd(), tuple(sys.path), threads, seed, images)


def _learner_threads(job: Job) -> int:
    """As inline, but that on this machine it leaves a processor to each actor."""
    wanted = computing.threads(job.config.threads, job.env)
    if job.config.threads or job.address:
        return wanted
    return max(1, min(wanted, processors() - job.config.actor_processes))


def _number_of(name: str) -> int:
    """Some number of a part's own."""
    return int.from_bytes(name.encode()[:4], "little") + len(name)
