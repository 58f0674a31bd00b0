"""Where a training's processor time goes: environment, forward pass, gradient, and the rest.

R2D2 on PositionCartPole as its preset has it, and on Pong with the paper's network, lengths and
replay ratio, as its preset fits them to the machine; both without evaluations. `environment` is
what the vector environment spends in step and reset, `forward` the acting network, `gradient` the
learner's unrolls, loss, backward pass and optimiser step. The rest is ours: replay, blocks, policy,
loop.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from benchmarks import Result

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    # name: environment, environment steps that are measured, settings
    "PositionCartPole": ("recollect/PositionCartPole-v0", 17_000, {}),
    "Pong": ("ALE/Pong-v5", 16_000, {"min_replay_steps": 4_000, "replay_steps": 100_000}),
}


class Timers:
    """Processor seconds of all threads by name, by wrapping methods of live objects."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Time every call of `owner.method` under `name`."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time_ns()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] += (time.process_time_ns() - start) / 1e9

        setattr(owner, method, timed)


def one(name: str) -> Iterator[Result]:
    """Shares of the processor time of a training's steps."""
    import torch

    from recollect import machine, presets, training
    from recollect.agents import computing
    from recollect.runtime.inline import Inline

    env, env_steps, settings = CASES[name]
    job = training.prepare("r2d2", env=env, settings={"evaluation_period": 0, **settings})
    torch.set_num_threads(computing.threads(job.config.threads, job.env))
    if job.env.has_images:
        machine.keep_memory()
    runtime = Inline(presets.agent("r2d2").program(job.config, job.env, job.seed))
    # The first updates compile and allocate: they are not what a run consists of.
    least = 20 if name == "PositionCartPole" else 3
    runtime.run(lambda counts: counts["updates"] >= least)
    timers, actor, learner = Timers(), runtime.parts["actor/0"], runtime.parts["learner"]
    inner = actor._env._env
    timers.wrap(inner, "step", "environment")
    timers.wrap(inner, "reset", "environment")
    timers.wrap(actor._policy, "forward", "forward")
    timers.wrap(learner, "gradients", "gradient")
    timers.wrap(learner, "apply", "gradient")
    before = runtime.counts()
    start, wall = time.process_time(), time.perf_counter()
    runtime.run(lambda counts: counts["env_steps"] >= before["env_steps"] + env_steps)
    total, wall = time.process_time() - start, time.perf_counter() - wall
    after = runtime.counts()
    runtime.close()
    steps = after["env_steps"] - before["env_steps"]
    for part in ("environment", "forward", "gradient"):
        yield Result(f"{name}: share of {part}", timers.seconds[part] / total, "of 1")
    rest = total - sum(timers.seconds.values())
    yield Result(f"{name}: share of the rest", rest / total, "of 1")
    yield Result(f"{name}: the rest, per environment step", rest / steps * 1e6, "microseconds")
    yield Result(f"{name}: environment steps", steps / wall, "/s")
    yield Result(f"{name}: updates", (after["updates"] - before["updates"]) / wall, "/s")


def run() -> Iterator[Result]:
    """All cases."""
    for name in CASES:
        yield from one(name)
