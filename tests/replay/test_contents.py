from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay.contents import BLOCK_OVERHEAD, ITEM_OVERHEAD
from recollect.replay.prioritized import Prioritized
from recollect.replay.windows import Windows
from tests.replay.lived import (
    UNEVEN,
    Episode,
    assert_contents,
    cut,
    filled,
    geometries,
    insert_episode,
    live_items,
    make_episode,
    make_replay,
    make_spec,
    messages,
)


@given(
    windows=geometries(),
    stack=st.integers(1, 3),
    room=st.integers(0, 12),
    in_bytes=st.booleans(),
    lengths=st.lists(st.integers(1, 50), min_size=2, max_size=8),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_what_is_left_after_evictions_is_still_what_was_lived(
    windows: Windows,
    stack: int,
    room: int,
    in_bytes: bool,
    lengths: list[int],
    data: st.DataObject,
) -> None:
    spec = make_spec(windows, stack)
    blocks = windows.blocks + room
    size = spec.nbytes(spec.period, True) + BLOCK_OVERHEAD + ITEM_OVERHEAD
    capacity = {"capacity_bytes": blocks * size} if in_bytes else {}
    replay = make_replay(windows, spec, **(capacity or {"capacity_steps": blocks * spec.period}))
    episodes: dict[int, Episode] = {}
    slots: list[Iterator[Any]] = [iter(()) for _ in range(data.draw(st.integers(1, 3)))]
    rest = list(enumerate(lengths))
    while True:
        turn = data.draw(st.integers(0, len(slots) - 1))
        message = next(slots[turn], None)
        if message is None:
            if not rest:
                break
            uid, steps = rest.pop()
            episodes[uid] = make_episode(spec, uid, steps)
            slots[turn] = messages(windows, cut(spec, episodes[uid]))
            continue
        replay.insert(*message)
        assert_contents(replay, windows, spec, episodes)
    if len(slots) == 1 and not windows.trajectory:
        assert replay.metrics()["late_items"] == 0, "one slot's own windows always fit"


def test_an_actor_may_send_its_blocks_and_windows_all_at_once() -> None:
    windows = Windows(burn_in=3, trace=4, period=2, tail=1)
    spec = make_spec(windows)
    episode = make_episode(spec, 5, 13)
    blocks, items = zip(*messages(windows, cut(spec, episode)), strict=True)
    replay = make_replay(windows, spec)
    replay.insert(list(itertools.chain(*blocks)), list(itertools.chain(*items)))
    assert_contents(replay, windows, spec, {5: episode})
    assert len(replay) == len(windows.windows_of(13))


def test_eviction_takes_the_oldest_items_first() -> None:
    windows = Windows(burn_in=0, trace=4, period=2, tail=0)
    spec = make_spec(windows)
    replay = make_replay(windows, spec, capacity_steps=20)
    for uid in range(6):
        insert_episode(replay, windows, spec, make_episode(spec, uid, 6))
        uids = list(live_items(replay))
        assert uids == list(range(uids[0], 2 * uid + 2)), "the newest, without a gap"
    assert live_items(replay) == {
        6: (3, 0), 7: (3, 2), 8: (4, 0), 9: (4, 2), 10: (5, 0), 11: (5, 2)
    }  # fmt: skip
    assert replay.steps == 18
    assert replay.metrics()["evicted_items"] == 6


def test_windows_share_their_blocks() -> None:
    """A step that three windows learn from lies in memory once."""
    windows = Windows(burn_in=0, trace=6, period=2, tail=0)
    replay, _ = filled(windows, [40])
    assert len(replay) == 18
    metrics = replay.metrics()
    assert metrics["blocks"] == 20
    assert metrics["bytes"] == (
        20 * BLOCK_OVERHEAD
        + 18 * ITEM_OVERHEAD
        + 19 * make_spec(windows).nbytes(2, False)
        + make_spec(windows).nbytes(2, True)
    )


def test_an_episode_longer_than_the_store_is_held_by_its_newest_part() -> None:
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec, capacity_steps=UNEVEN.blocks * 3)
    episode = make_episode(spec, 2, 500)
    for blocks, items in messages(UNEVEN, cut(spec, episode)):
        replay.insert(blocks, items)
        assert_contents(replay, UNEVEN, spec, {2: episode})
        assert replay.metrics()["episodes"] == 1
    assert replay.metrics()["late_items"] == 0
    assert max(start for _, start in live_items(replay).values()) >= 490


def test_episodes_that_end_leave_nothing_behind() -> None:
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec, capacity_steps=30)
    for uid in range(50):
        insert_episode(replay, UNEVEN, spec, make_episode(spec, uid, 1 + uid % 17))
        assert replay.metrics()["waiting_blocks"] == 0
        assert replay.metrics()["episodes"] <= len(live_items(replay))


def test_blocks_of_an_actor_that_died_go_when_they_are_the_oldest() -> None:
    """R1: what a killed actor left half-built does not stay."""
    windows = Windows(burn_in=0, trace=4, period=2, tail=0)
    spec = make_spec(windows)
    replay = make_replay(windows, spec, capacity_steps=20)
    dead = list(messages(windows, cut(spec, make_episode(spec, 0, 30))))
    for message in dead[:2]:
        replay.insert(*message)
    assert replay.metrics()["waiting_blocks"] == 2
    for uid in range(1, 4):
        insert_episode(replay, windows, spec, make_episode(spec, uid, 6))
    assert replay.metrics()["abandoned_blocks"] == 1
    insert_episode(replay, windows, spec, make_episode(spec, 4, 6))
    replay.check_valid()
    metrics = replay.metrics()
    assert metrics["abandoned_blocks"] == 2
    assert metrics["waiting_blocks"] == 0
    assert metrics["episodes"] == 3


def test_a_window_whose_blocks_went_while_it_was_made_is_dropped_and_counted() -> None:
    windows = Windows(burn_in=0, trace=6, period=2, tail=0)
    spec = make_spec(windows)
    replay = make_replay(windows, spec, capacity_steps=8)
    slow, fast = (make_episode(spec, uid, steps) for uid, steps in ((0, 12), (1, 40)))
    slowly = messages(windows, cut(spec, slow))
    quickly = messages(windows, cut(spec, fast))
    for _ in range(5):
        replay.insert(*next(slowly))
        for _ in range(2):
            replay.insert(*next(quickly))
            assert_contents(replay, windows, spec, {0: slow, 1: fast})
    assert replay.metrics()["late_items"] > 0
    for message in (*slowly, *quickly):
        replay.insert(*message)
        assert_contents(replay, windows, spec, {0: slow, 1: fast})
    assert len(replay) > 0


def test_an_episode_whose_first_blocks_were_lost_is_taken_in_from_where_it_is() -> None:
    """R2: a shard restored to an earlier state is sent the rest of episodes it never saw begin."""
    spec = make_spec(UNEVEN)
    episode = make_episode(spec, 9, 40)
    replay = make_replay(UNEVEN, spec)
    for message in itertools.islice(messages(UNEVEN, cut(spec, episode)), 4, None):
        replay.insert(*message)
        assert_contents(replay, UNEVEN, spec, {9: episode})
    windows = UNEVEN.windows_of(40)
    assert list(live_items(replay).values()) == [(9, w.start) for w in windows if w.first >= 12]
    assert replay.metrics()["late_items"] > 0
    assert replay.metrics()["waiting_blocks"] == 0


def test_dropping_an_episode_removes_all_of_it_and_nothing_else() -> None:
    """R8: only the episode at fault is dropped."""
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec, Prioritized(0.9))
    episodes = {uid: make_episode(spec, uid, 20) for uid in range(3)}
    for blocks in zip(*(messages(UNEVEN, cut(spec, e)) for e in episodes.values()), strict=True):
        for message in blocks:
            replay.insert(*message)
    replay.drop_episode(1)
    replay.drop_episode(77)
    replay.check_valid()
    assert {episode for episode, _ in live_items(replay).values()} == {0, 2}
    assert replay.steps == 40
    assert replay.metrics()["dropped_episodes"] == 1
    batch = replay.sample(np.linspace(0, 0.999, 50))
    assert set(batch.observation["clock"][UNEVEN.burn_in, :, 0]) == {0, 2}
