"""Where a training's processor time goes: environment, forward pass, gradient, and the rest.

R2D2's default run on PositionCartPole, without its evaluations. `environment` is what Gymnasium's
vector environment spends in step and reset, `forward` the acting network, `gradient` the learner's
unrolls, loss, backward pass and optimiser step. The rest is ours: replay, blocks, policy, loop.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from benchmarks import Result

ENV_STEPS = 20_000


class Timers:
    """Processor seconds by name, by wrapping methods of live objects."""

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


def run() -> Iterator[Result]:
    """Shares of the processor time of a training's steps."""
    import torch

    from recollect import presets, training
    from recollect.runtime.inline import Inline

    torch.set_num_threads(1)
    job = training.prepare(
        "r2d2",
        env="recollect/PositionCartPole-v0",
        env_steps=ENV_STEPS,
        settings={"evaluation_period": 0},
    )
    runtime = Inline(presets.agent("r2d2").program(job.config, job.env, job.seed))
    # The first updates compile and allocate: they are not what a run consists of.
    runtime.run(lambda counts: counts["updates"] >= 20)
    timers, actor, learner = Timers(), runtime.parts["actor/0"], runtime.parts["learner"]
    inner = actor._env._env
    timers.wrap(inner, "step", "environment")
    timers.wrap(inner, "reset", "environment")
    timers.wrap(actor._policy, "forward", "forward")
    timers.wrap(learner, "gradients", "gradient")
    timers.wrap(learner, "apply", "gradient")
    before, start = runtime.counts()["env_steps"], time.process_time()
    runtime.run(lambda counts: counts["env_steps"] >= ENV_STEPS)
    total = time.process_time() - start
    steps = runtime.counts()["env_steps"] - before
    shares = {name: spent / total for name, spent in timers.seconds.items()}
    for name in ("environment", "forward", "gradient"):
        yield Result(f"share of processor time: {name}", shares[name], "of 1")
    yield Result("share of processor time: the rest", 1 - sum(shares.values()), "of 1")
    yield Result("processor time per environment step", total / steps * 1e6, "microseconds")
