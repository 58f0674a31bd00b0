from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay.contents import BLOCK_OVERHEAD, ITEM_OVERHEAD
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.store import Replay, memory_need
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Windows
from recollect.types import ArraySpec, ConfigError
from tests.replay.lived import (
    UNEVEN,
    cut,
    everything,
    filled,
    insert_episode,
    make_episode,
    make_replay,
    make_spec,
    messages,
)


def test_trap_19_a_step_that_several_windows_cover_is_counted_once() -> None:
    windows = Windows(burn_in=2, trace=6, period=2, tail=1)
    replay, _ = filled(windows, [20, 5])
    metrics = replay.metrics()
    assert metrics["inserted_steps"] == 20 + 5
    assert metrics["steps"] == replay.steps == 20 + 5
    assert metrics["learned_steps"] == 0
    batch = everything(replay)
    assert replay.metrics()["learned_steps"] == batch.learned.sum()
    assert batch.learned.sum() == sum(w.learned for t in (20, 5) for w in windows.windows_of(t))


def test_trap_26_a_priority_for_an_item_that_has_gone_is_dropped_and_counted() -> None:
    windows = Windows(burn_in=0, trace=2, period=2, tail=0)
    spec = make_spec(windows)
    replay = make_replay(windows, spec, Prioritized(1.0), capacity_steps=4)
    insert_episode(replay, windows, spec, make_episode(spec, 0, 4))
    old = replay.sample(np.array([0.1, 0.9]))
    insert_episode(replay, windows, spec, make_episode(spec, 1, 4))
    new = replay.sample(np.array([0.1, 0.9]))
    assert set(new.slots) == set(old.slots), "the slots were given again"
    assert not set(new.uids) & set(old.uids), "the numbers were not"
    replay.update_priorities(old.slots, old.uids, np.array([1e6, 1e6]))
    assert replay.metrics()["stale_write_backs"] == 2
    after = replay.sample(np.array([0.1, 0.9]))
    np.testing.assert_array_equal(after.probabilities, [0.5, 0.5])
    replay.update_priorities(new.slots, new.uids, np.array([1.0, 3.0]))
    found = replay.sample(np.array([0.1, 0.9]))
    np.testing.assert_array_equal(sorted(found.probabilities), [0.25, 0.75])
    replay.drop_episode(1)
    replay.update_priorities(new.slots, new.uids, np.array([1.0, 3.0]))
    assert replay.metrics()["stale_write_backs"] == 4, "slots that are empty now"


@pytest.mark.parametrize("unit", ["steps", "bytes"])
def test_the_capacity_is_never_exceeded(unit: str) -> None:
    """M1: episodes of varying length, several slots, many inserts."""
    windows = Windows(burn_in=3, trace=6, period=3, tail=2)
    spec = make_spec(windows, stack=2)
    budget = 120 if unit == "steps" else 100_000
    replay = make_replay(windows, spec, Prioritized(0.9), **{f"capacity_{unit}": budget})
    rng = np.random.default_rng(0)
    slots: list[Iterator[Any]] = [iter(()) for _ in range(3)]
    counter = itertools.count()
    largest = 0
    for turn in range(3000):
        slot = int(rng.integers(3))
        message = next(slots[slot], None)
        if message is None:
            uid = next(counter)
            episode = make_episode(spec, uid, int(rng.integers(1, 40)))
            slots[slot] = messages(windows, cut(spec, episode), lambda k: 1.0 + k)
            message = next(slots[slot])
        replay.insert(*message)
        held = replay.steps if unit == "steps" else replay.nbytes
        largest = max(largest, held)
        assert held <= budget
        if turn % 100 == 0:
            replay.check_valid()
    assert largest > 0.9 * budget
    metrics = replay.metrics()
    assert metrics["late_items"] == metrics["abandoned_blocks"] == 0
    assert metrics["evicted_items"] > 1000
    assert metrics["fill"] == held / budget
    assert len(replay.state_dict()["items"]["free"]) < 100, "rows are used again"


@given(
    seed=st.integers(0, 999),
    budget=st.integers(22_000, 60_000),
    levels=st.lists(st.sampled_from([1, 2, 20, 255]), min_size=2, max_size=12),
)
@settings(deadline=None, max_examples=25)
def test_the_capacity_in_bytes_holds_for_blocks_that_pack_differently(
    seed: int, budget: int, levels: list[int]
) -> None:
    """M1, S3-12: packed bytes are what is counted, and both counts are right."""
    windows = Windows(burn_in=3, trace=6, period=3, tail=2)
    spec = replace(make_spec(windows, stack=2, codec="zstd"), observation=SCREEN)
    replay = make_replay(windows, spec, Prioritized(0.9), capacity_bytes=budget)
    rng = np.random.default_rng(seed)
    for uid, level in enumerate(levels):
        episode = make_episode(make_spec(windows, stack=2), uid, int(rng.integers(1, 40)))
        screens = rng.integers(0, level, (len(episode.frames["pixels"]), 20, 20))
        episode.frames = {"screen": screens.astype(np.uint8)}
        for message in messages(windows, cut(spec, episode)):
            replay.insert(*message)
            assert replay.nbytes <= budget
            metrics = replay.metrics()
            assert metrics["bytes"] == replay.nbytes <= metrics["bytes_unpacked"]
    replay.check_valid()
    blocks = replay._contents.bodies[replay._contents.blocks.ages()]
    saved = sum(block.raw_nbytes - block.nbytes for block in blocks)
    assert replay.metrics()["bytes_unpacked"] == replay.nbytes + saved
    assert saved > 0


SCREEN = {"screen": ArraySpec((20, 20), "uint8")}


def test_the_bytes_counted_are_at_least_the_bytes_taken() -> None:
    """M1: the overheads stated are enough, for the smallest blocks too, and nothing grows."""
    windows = Windows(burn_in=2, trace=4, period=2, tail=1)
    spec = make_spec(windows)
    budget = 1_000_000
    replay = make_replay(windows, spec, Prioritized(0.9), capacity_bytes=budget)
    uid = itertools.count()
    rng = np.random.default_rng(0)

    def insert(steps: int) -> None:
        while steps > 0:
            length = int(rng.integers(1, 12))
            insert_episode(replay, windows, spec, make_episode(spec, next(uid), length))
            steps -= length

    insert(40)  # compiles
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0] - replay.nbytes
        taken = []
        for _ in range(6):
            insert(800)
            taken.append(tracemalloc.get_traced_memory()[0] - before)
            assert taken[-1] <= replay.nbytes * 1.05 + 50_000
    finally:
        tracemalloc.stop()
    assert replay.nbytes > 0.95 * budget
    assert max(taken[3:]) <= taken[2] * 1.05


def test_a_capacity_in_steps_takes_no_more_than_memory_need_says() -> None:
    windows = Windows(burn_in=4, trace=8, period=4, tail=3)
    spec = make_spec(windows, stack=3)
    need = memory_need(spec, windows, 200)
    assert need == 50 * (spec.nbytes(4, True) + BLOCK_OVERHEAD + ITEM_OVERHEAD)
    replay = make_replay(windows, spec, capacity_steps=200)
    for uid in range(20):
        insert_episode(replay, windows, spec, make_episode(spec, uid, 40))
        assert replay.nbytes <= need
    assert replay.nbytes > 0.8 * need


def test_more_than_the_capacity_at_once_is_refused_and_nothing_changes() -> None:
    windows = Windows(burn_in=0, trace=2, period=2, tail=0)
    spec = make_spec(windows)
    replay = make_replay(windows, spec, capacity_steps=8)
    blocks = cut(spec, make_episode(spec, 0, 10))
    with pytest.raises(RuntimeError, match=r"10 steps .* capacity of 8: insert fewer blocks"):
        replay.insert(blocks, [])
    assert replay.steps == 0
    replay.insert(blocks[:4], [])
    assert replay.steps == 8
    replay = make_replay(windows, spec, capacity_bytes=6000)
    with pytest.raises(RuntimeError, match="bytes were inserted at once into a capacity of 6000"):
        replay.insert(blocks, [])


def test_capacities_that_cannot_be_are_refused() -> None:
    spec = make_spec(UNEVEN)
    parts: Any = (spec, UNEVEN, Uniform(), Limiter(1.0, 0, 0))
    for wrong in ({}, {"capacity_steps": None, "capacity_bytes": None}):
        with pytest.raises(ConfigError, match="a capacity, in steps, in bytes or both"):
            Replay(*parts, **wrong)
    with pytest.raises(ConfigError, match=r"cannot hold one window.* 15 steps are the least"):
        Replay(*parts, capacity_steps=14)
    assert UNEVEN.blocks * UNEVEN.period == 15
    with pytest.raises(ConfigError, match=r"cannot hold one window.* bytes are the least"):
        Replay(*parts, capacity_bytes=5000)
    for other in (Windows(5, 6, 2, 2), Windows(4, 6, 3, 2)):
        with pytest.raises(ConfigError, match="do not serve windows"):
            Replay(spec, other, *parts[2:], capacity_steps=100)


def test_drawing_says_what_is_wrong() -> None:
    replay = make_replay(UNEVEN, sampler=Prioritized(0.9))
    assert not replay.wants_sample()
    assert replay.wants_insert()
    with pytest.raises(RuntimeError, match="nothing to draw: ask wants_sample"):
        replay.sample(np.array([0.5]))
    spec = make_spec(UNEVEN)
    insert_episode(replay, UNEVEN, spec, make_episode(spec, 0, 9))
    assert replay.wants_sample()
    for wrong in (np.zeros(0), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="uniforms must be"):
            replay.sample(wrong)
    with pytest.raises(ValueError, match="uniform"):
        replay.sample(np.array([1.0]))


def test_items_of_priority_0_are_held_and_not_drawn() -> None:
    replay = make_replay(UNEVEN, sampler=Prioritized(0.9))
    spec = make_spec(UNEVEN)
    for message in messages(UNEVEN, cut(spec, make_episode(spec, 0, 9)), lambda k: 0.0):
        replay.insert(*message)
    assert len(replay) > 0
    assert not replay.wants_sample()


def test_priorities_that_cannot_be_are_refused_whole() -> None:
    """R9."""
    replay = make_replay(UNEVEN, sampler=Prioritized(1.0))
    spec = make_spec(UNEVEN)
    insert_episode(replay, UNEVEN, spec, make_episode(spec, 0, 20))
    batch = replay.sample(np.array([0.1, 0.6]))
    for bad in (np.nan, np.inf, -1.0):
        with pytest.raises(ValueError, match=f"priority of item {batch.uids[1]} is {bad}"):
            replay.update_priorities(batch.slots, batch.uids, np.array([5.0, bad]))
    with pytest.raises(ValueError, match="alike"):
        replay.update_priorities(batch.slots, batch.uids, np.ones(3))
    again = replay.sample(np.array([0.1, 0.6]))
    np.testing.assert_array_equal(again.probabilities, batch.probabilities)


def test_priorities_decide_what_is_drawn() -> None:
    windows = Windows(burn_in=0, trace=2, period=2, tail=0)
    spec = make_spec(windows)
    replay = make_replay(windows, spec, Prioritized(2.0))
    for message in messages(windows, cut(spec, make_episode(spec, 0, 6)), lambda k: 1.0 + k):
        replay.insert(*message)
    batch = replay.sample(np.array([0.0, 2.5 / 14, 0.99]))
    np.testing.assert_allclose(batch.probabilities, [1 / 14, 4 / 14, 9 / 14])
    np.testing.assert_array_equal(batch.observation["clock"][0, :, 1], [0, 2, 4])
    assert batch.size == 3
    assert batch.probabilities.dtype == np.float64


def test_the_limiter_hears_of_steps_and_decides() -> None:
    windows = Windows(burn_in=0, trace=2, period=2, tail=0)
    spec = make_spec(windows)
    replay = Replay(
        spec, windows, Uniform(), Limiter(1.0, min_size=4, tolerance=2), capacity_steps=100
    )
    first, second, third, *_ = messages(windows, cut(spec, make_episode(spec, 0, 20)))
    replay.insert(*first)
    assert (replay.wants_insert(), replay.wants_sample()) == (True, False)
    replay.insert(*second)
    assert (replay.wants_insert(), replay.wants_sample()) == (True, True)
    replay.insert(*third)
    assert (replay.wants_insert(), replay.wants_sample()) == (False, True)
    replay.sample(np.array([0.2, 0.3]))
    assert (replay.wants_insert(), replay.wants_sample()) == (True, False)
