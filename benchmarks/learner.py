"""One update of the paper's network, 8 x (40 + 80): against matrix products and a plain step.

Work is counted by one formula: two operations for each multiplication of a weight, forward over all
observations of the online and of the target network, and twice that again backward over those that
are learned from, less the first layer's, of which the input has no gradient.

The priorities of the two number formats are those of the same batch and parameters.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import Result
from benchmarks.filling import fill
from benchmarks.plain import Step
from recollect import machine
from recollect.types import ActionSpec, ArraySpec, EnvSpec

ATARI = EnvSpec("ALE/Pong-v5", {}, {"observation": ArraySpec((84, 84), "uint8")}, ActionSpec(18))
BATCH, ROUNDS = 8, 9
FORWARD = 2 * (
    400 * 32 * 256 + 81 * 64 * 512 + 49 * 64 * 576  # convolutions
    + 3136 * 512 + (531 + 512) * 2048 + 512 * 1024 + 512 * 19
)  # fmt: skip
FIRST = 2 * 400 * 32 * 256


def work(burn_in: int, learned: int) -> float:
    """Operations of an update by the formula above; `learned` counts tail and closing too."""
    online = burn_in * FORWARD + learned * (3 * FORWARD - FIRST)
    return BATCH * (online + (burn_in + learned) * FORWARD)


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def learner(dtype: Any) -> tuple[Any, Any]:
    """A learner of the paper's network on random images, and its replay."""
    from recollect.agents import computing, r2d2, wiring
    from recollect.parameters import Parameters

    config = r2d2.R2D2Config(
        actors=1, batch_size=BATCH, frame_stack=4, min_replay_steps=0, replay_steps=10_000,
        dtype=dtype, replay_ratio=1e6,
    )  # fmt: skip
    make = lambda: wiring.q_network(config, ATARI, 0)  # noqa: E731
    spec = wiring.block_spec(config, ATARI, make().state_size)
    replay = wiring.make_replay(config, spec)
    fill(replay, steps=5_000)
    compute = computing.learner(config, ATARI)
    return r2d2.Learner(config, replay, Parameters(), make, 0, compute), replay


def run() -> Iterator[Result]:
    """Updates and frames per second, and shares of what matrix products reach."""
    machine.keep_memory()
    torch.set_num_threads(2)
    ours, replay = learner("float32")
    theirs, _ = learner("bfloat16")
    plain = Step(18)
    rng = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (129, BATCH, 84, 84), generator=rng, dtype=torch.uint8)
    action = torch.randint(0, 18, (126, BATCH), generator=rng)
    reward, weights = torch.rand((126, BATCH), generator=rng), torch.ones(BATCH)
    a, b = (torch.rand(2048, 2048, generator=rng) for _ in range(2))
    calls = {
        "float32": ours.step,
        "bfloat16": theirs.step,
        "plain": lambda: plain(frames, action, reward, weights),
        "mm": lambda: a @ b,
    }
    seconds = interleaved(calls, ROUNDS)
    product = 2 * 2048**3 / seconds["mm"]
    yield Result("torch.mm 2048^3, float32, 2 threads", product / 1e9, "GF/s")
    for name in ("float32", "bfloat16", "plain"):
        against, ratio = "torch.mm in float32", work(40, 86) / seconds[name] / product
        if name == "bfloat16":
            against, ratio = "float32", seconds["float32"] / seconds[name]
        rate = BATCH * 120 / seconds[name]
        yield Result(f"learner, {name}: frames of burn-in and trace", rate, "/s", against, ratio)
    ratio = seconds["plain"] / seconds["float32"]
    yield Result("learner, float32", 1 / seconds["float32"], "updates/s", "the plain step", ratio)
    batch = replay.sample(np.random.default_rng(0).random(BATCH))
    theirs.online_parameters.vector.copy_(ours.online_parameters.vector)
    theirs.target_parameters.vector.copy_(ours.target_parameters.vector)
    exact, fast = (each.gradients(batch) for each in (ours, theirs))
    apart = np.abs(fast.priorities / exact.priorities - 1).max()
    yield Result("bfloat16: largest difference of a priority", 100 * apart, "%")
    loss = abs(fast.figures["loss"] / exact.figures["loss"] - 1)
    yield Result("bfloat16: difference of the loss", 100 * loss, "%")
