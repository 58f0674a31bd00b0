"""M1: replay in a process of its own never takes more memory than its budget and a little."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Item
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.store import Replay
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Windows
from recollect.types import ArraySpec

FIXED_BASE = 6 << 20
"""Of a process that holds a full replay: a batch, and what the allocator keeps for itself."""
GROWTH = 3 << 20
"""Of what the allocator scatters, once replay is full; a leak of 4 bytes a step is more."""


def rss() -> int:
    """Bytes of this process that are in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fill(budget: int, steps_in_all: int, sampler: str, pixels: int) -> dict[str, int]:
    """Insert episodes of 1 to 400 steps, block by block; draw and write back now and then.

    Returns:
        Bytes: resident `base` before, `most_stored`, and the most resident, `early` in the first
        tenth of the steps and `late` in all others.
    """
    windows = Windows(burn_in=4, trace=8, period=4, tail=2)
    observation = {"observation": ArraySpec((pixels,), "uint8")}
    spec = BlockSpec(observation, ArraySpec((), "int64"), 8, windows.period, windows.state_offsets)

    def make() -> Replay:
        made = Prioritized(0.9) if sampler == "prioritized" else Uniform()
        return Replay(spec, windows, made, Limiter(None, 0, 0.0), capacity_bytes=budget)

    rng = np.random.default_rng(0)

    def run(replay: Replay, count: int) -> tuple[list[int], int]:
        resident, most, done, uid = [], 0, 0, 0
        while done < count:
            steps, k = int(np.exp(rng.uniform(0, 6))), 0
            for index in range(-(-steps // windows.period)):
                length = min(windows.period, steps - index * windows.period)
                last = (index + 1) * windows.period >= steps
                offsets = sum(offset < length for offset in spec.state_offsets)
                block = Block.build(
                    spec,
                    episode=uid,
                    index=index,
                    observations={"observation": np.full((length + last, pixels), 7, np.uint8)},
                    actions=np.zeros(length, np.int64),
                    rewards=np.zeros(length, np.float32),
                    discounts=np.ones(length, np.float32),
                    states=np.zeros((offsets, 8), np.float32),
                    previous_action=0 if index else -1,
                    previous_reward=0.0,
                    last=last,
                )
                items = []
                lived = index * windows.period + length
                while windows.ready(k, lived, last):
                    w = windows.window(k, lived)
                    items.append(Item(uid, w.start, w.prefix, w.learned, w.tail, rng.random(), 0))
                    k += 1
                replay.insert([block], items)
                most = max(most, replay.nbytes)
                if rng.random() < 0.02 and len(replay):
                    batch = replay.sample(rng.random(16))
                    replay.update_priorities(batch.slots, batch.uids, rng.random(16))
                if (done + length) * 200 // count > done * 200 // count:
                    resident.append(rss())
                done += length
            uid += 1
        replay.check_valid()
        return resident, most

    run(make(), 500)  # kernels are loaded, and all modules
    base = rss()
    resident, most = run(make(), steps_in_all)
    tenth = len(resident) // 10
    early, late = max(resident[:tenth]), max(resident[tenth:])
    return {"base": base, "most_stored": most, "early": early, "late": late}


def check(budget: int, steps: int, sampler: str, pixels: int) -> None:
    command = [sys.executable, "-m", "tests.replay.test_memory_bound"]
    done = subprocess.run(
        [*command, *map(str, (budget, steps, sampler, pixels))],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    print(f"M1: budget {budget:,}, {steps:,} steps of {pixels} bytes, {sampler}: {found}")
    assert 0.9 * budget < found["most_stored"] <= budget
    assert found["late"] - found["base"] <= 1.15 * budget + FIXED_BASE
    assert found["late"] - found["early"] <= GROWTH


@pytest.mark.parametrize(("sampler", "pixels"), [("prioritized", 64), ("uniform", 1000)])
def test_a_full_replay_stays_within_its_budget(sampler: str, pixels: int) -> None:
    """M1, quick."""
    check(3 << 20, 40_000, sampler, pixels)


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "pixels"), [("prioritized", 64), ("uniform", 7056)])
def test_a_full_replay_stays_within_its_budget_over_a_million_steps(
    sampler: str, pixels: int
) -> None:
    """M1."""
    check(32 << 20, 1_000_000, sampler, pixels)


if __name__ == "__main__":
    print(json.dumps(fill(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
