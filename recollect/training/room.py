"""Whether this machine has room for the parts of a run: seen before anything is started."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from recollect.machine import free_memory, gpu, gpus
from recollect.runtime import placing
from recollect.runtime.placing import Demand
from recollect.training.job import Job
from recollect.types import ConfigError

HERE = "127.0.0.1"
"""The address of this machine in a cluster of a run's own."""
PART_BYTES = 200_000_000
"""Of memory that a part takes for itself at least, before it holds anything: 210 to 240 MB were
measured of replay, parameters and actors, 390 MB of a learner."""
RAY_BYTES = 300_000_000
"""That Ray's own processes take, and the one that starts them."""


def kinds(job: Job) -> dict[str, Demand]:
    """What each kind of part takes; the learner a GPU where it computes on one."""
    found, wanted = placing.parse(job.place), job.config.device
    here = wanted == "auto" and job.env.has_images and not job.address
    here = here and gpu() and gpus() != 0  # there may be a driver, and no GPU to be seen
    if (wanted == "cuda" or here) and not found["learner"].gpus:
        found["learner"] = replace(found["learner"], gpus=1.0)
    return found


def check(job: Job) -> None:
    """Refuse what a run on Ray on this machine alone cannot have; of a cluster, it says so itself.

    Raises:
        ConfigError: Ray is not installed; a part is to be on another machine; there are fewer
            GPUs, or there is less memory than the parts take for themselves.
    """
    if job.runtime == "inline":
        return
    if importlib.util.find_spec("ray") is None:
        from recollect.runtime import ray

        raise ray.missing()
    if job.address:
        return
    config, found = job.config, kinds(job)
    for kind, demand in found.items():
        if demand.node not in ("", HERE):
            raise ConfigError(
                f"place 'node={demand.node}' of {kind} is for a cluster, and without address all "
                "parts are on this machine: leave it out, or add address HOST:PORT"
            )
    numbers = {"learner": 1, "parameters": 1, "evaluator": int(config.evaluation_period > 0)}
    numbers |= {"actor": config.actor_processes, "replay": config.replay_shards}
    _check_gpus({kind: n * found[kind].gpus for kind, n in numbers.items() if found[kind].gpus})
    parts = sum(numbers.values())
    need, free = RAY_BYTES + parts * PART_BYTES, free_memory()
    if free is not None and need > free:
        raise ConfigError(
            f"{parts} parts in processes of their own need at least "
            f"{need / 1e9:.1f} GB before they hold anything, and {free / 1e9:.1f} GB are free: "
            f"lower actor_processes, which is {config.actor_processes}, or replay_shards, which is "
            f"{config.replay_shards}"
        )


def _check_gpus(wanted: dict[str, float]) -> None:
    """Raise ConfigError if these kinds of parts want more GPUs than there are."""
    there, total = gpus(), sum(wanted.values())
    if there is None or total <= there:
        return
    whose = " and ".join(f"{amount:g} for {kind}" for kind, amount in wanted.items())
    raise ConfigError(
        f"the parts want {total:g} GPU ({whose}), and this machine has {there or 'none'}: take "
        "fewer with place, or device cpu and no gpus in place for none"
    )
