"""Which runtime a job has, and what its parts need to know of where they are."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recollect import presets
from recollect.agents import computing
from recollect.machine import free_memory, processors
from recollect.maths import philox
from recollect.program import Part, Program
from recollect.run.signals import Interrupted, Stop
from recollect.runtime.hosting import Setting
from recollect.runtime.inline import Inline
from recollect.runtime.remote import Remote
from recollect.training import room
from recollect.training.job import Job

STORE_BYTES = (200_000_000, 4_000_000_000)
"""Of shared memory for what is under way between the parts of a run on this machine."""

JOURNAL = "journal"

Runtime = Inline | Remote


def program_of(job: Job) -> Program:
    """The program of a job.

    On Ray an actor has the GPU that `place` gives it, and does not look for the learner's.
    """
    config = job.config
    if (
        job.runtime != "inline"
        and config.actor_device == "auto"
        and not room.kinds(job)["actor"].gpus
    ):
        config = replace(config, actor_device="cpu")
    return presets.agent(job.agent).program(config, job.env, job.seed, job.network)


def begun(
    job: Job,
    program: Program,
    stop: Stop,
    folder: Path,
    epochs: Mapping[str, int],
    saved: Callable[[], Mapping[str, Any] | None],
) -> Runtime:
    """The runtime of a job with the parts of its program.

    Args:
        folder: of the run.
        epochs, saved: see `Lives`.
    Raises:
        ConfigError: no room for them; the cluster cannot be joined.
        Interrupted: a signal came before all of them were there; those that were have ended.
    """
    if job.runtime == "inline":
        return Inline(program)
    from recollect.runtime import transport

    def look() -> None:
        if stop.requested:
            raise Interrupted(stop.requested)

    look()
    kinds = room.kinds(job)
    demands = {part.name: kinds[part.kind] for part in program.parts}
    settings = {part.name: _setting(job, part, number) for number, part in enumerate(program.parts)}
    least, most = STORE_BYTES
    store = min(most, max(least, int(0.1 * (free_memory() or 0))))
    made = transport.opened(demands, settings, job.address, store)
    return Remote(
        program,
        made,
        job.config.env_deadline,
        look,
        epochs=epochs,
        saved=saved,
        journal=journal_folder(job, folder),
    )


def journal_folder(job: Job, folder: Path) -> str:
    """Where shards write down what happens to them: in the run's folder, where they can see it."""
    if not job.address:
        return str(folder / JOURNAL)
    return "recollect-" + hashlib.sha256(f"{platform.node()} {folder}".encode()).hexdigest()[:16]


def starting(job: Job, program: Program) -> str:
    """What takes its time before the first turn; empty where nothing does."""
    if job.runtime == "inline":
        return ""
    ray = (
        f"joining the cluster at {job.address} and starting" if job.address else "starting Ray and"
    )
    return f"{ray} {len(program.parts)} parts"


def told(job: Job) -> str:
    """One line on where the parts of a job run."""
    if job.runtime == "inline":
        return _told_inline(job)
    config, where = job.config, f"the cluster at {job.address}" if job.address else "this machine"
    actors, shards = config.actor_processes, config.replay_shards
    threads = _learner_threads(job)
    line = (
        f"on {where} a process for each part: a learner on {threads} thread{'s' * (threads > 1)}, "
        f"{actors} for {config.actors} actors, {shards} for replay"
    )
    if not job.address and actors < min(config.actors, processors() - 1):
        line += f"; with {processors()} processors, more actor_processes act faster"
    return line


def _told_inline(job: Job) -> str:
    config = job.config
    said = [computing.told(config, job.env)] if job.env.has_images else []
    numbers = {"actor_processes": config.actor_processes, "replay_shards": config.replay_shards}
    if several := " and ".join(f"{name} {n}" for name, n in numbers.items() if n > 1):
        said.append(f"{several}: all in this one process, runtime ray gives each part its own")
    return "; ".join(said)


def _setting(job: Job, part: Part, number: int) -> Setting:
    """Torch computes on one thread in all parts but the learner."""
    threads = _learner_threads(job) if part.kind == "learner" else 1
    seed = int(philox.seeds(job.seed, philox.Purpose.INITIALISATION, 0, 0, 2 + number))
    images = job.env.has_images and part.kind != "replay"
    deadline = job.config.env_deadline
    return Setting(os.getcwd(), tuple(sys.path), threads, seed, images, deadline)


def _learner_threads(job: Job) -> int:
    """As many as it was given, or as inline; here it leaves a processor to each actor."""
    given = int(room.kinds(job)["learner"].cpus)
    if not job.address:
        given = min(given, processors())
    wanted = given if given > 1 else computing.threads(job.config.threads, job.env)
    if given > 1 or job.config.threads or job.address:
        return wanted
    return max(1, min(wanted, processors() - job.config.actor_processes))
