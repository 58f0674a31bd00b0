"""Acting in 32 slots of Pong, with blocks, windows and priorities: against its bare parts.

Bare are ale-py's vector environment, stepped by random actions, and the paper's network on what 32
slots see, in one batch. Both in float32 on as many threads, in rounds taken in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import Result
from benchmarks.learner import interleaved
from recollect import machine

SLOTS, TURNS, ROUNDS = 32, 40, 9


def bare_environment() -> Callable[[], None]:
    """ale-py's own vector with the same options, and nothing around it."""
    from recollect.envs import registry

    made: Any = registry.make("ALE/Pong-v5", SLOTS)
    env = made._env._env  # ale-py's
    env.reset(seed=np.arange(SLOTS))
    rng = np.random.default_rng(0)

    def turns() -> None:
        for _ in range(TURNS):
            env.step(rng.integers(0, 18, SLOTS))

    return turns


def bare_forward(network: Any) -> Callable[[], None]:
    """The network alone on a batch of all slots."""
    frames = torch.randint(0, 256, (4, SLOTS, 84, 84), dtype=torch.uint8)
    action, reward = torch.zeros(1, SLOTS, dtype=torch.int64), torch.zeros(1, SLOTS)
    state = torch.zeros(SLOTS, network.state_size)

    def turns() -> None:
        with torch.inference_mode():
            for _ in range(TURNS):
                network({"observation": frames}, action, reward, state)

    return turns


def run() -> Iterator[Result]:
    """Time of a turn against the sum of its parts, and environment steps per second."""
    from recollect import presets, training
    from recollect.runtime.inline import Inline

    machine.keep_memory()
    torch.set_num_threads(machine.processors())
    job = training.prepare(
        "r2d2",
        env="ALE/Pong-v5",
        preset="paper",
        settings={
            "actors": SLOTS,
            "replay_steps": 50_000,
            "min_replay_steps": 40_000,
            "evaluation_period": 0,
            "codec": "zstd",
        },
    )
    runtime = Inline(presets.agent("r2d2").program(job.config, job.env, job.seed))
    actor, network = runtime.parts["actor/0"], runtime.parts["learner"].network

    def turns() -> None:
        for _ in range(TURNS):
            actor.step()

    for _ in range(4):
        turns()  # all kinds of blocks and windows have been made
    calls = {
        "acting": turns,
        "environment": bare_environment(),
        "forward": bare_forward(network),
    }
    seconds = interleaved(calls, ROUNDS)
    runtime.close()
    each = {name: spent / TURNS * 1e3 for name, spent in seconds.items()}
    for name in ("environment", "forward"):
        yield Result(f"bare {name}, 32 slots", each[name], "ms a turn")
    ratio = each["acting"] / (each["environment"] + each["forward"])
    yield Result("acting, everything on", each["acting"], "ms a turn", "the bare two", ratio)
    yield Result("acting, everything on", SLOTS / each["acting"] * 1e3, "steps/s")
