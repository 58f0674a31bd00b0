"""A store whose later experience is lost goes on: with what it has, and with what comes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay.contents import ABANDONED
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Windows
from tests.replay.lived import (
    UNEVEN,
    assert_batch,
    assert_contents,
    assert_same_state,
    cut,
    everything,
    filled,
    geometries,
    live_items,
    make_episode,
    make_item,
    make_replay,
    make_spec,
    messages,
    on_disk,
)


@given(
    windows=geometries(),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    held=st.lists(st.integers(0, 20), min_size=5, max_size=5),
    lost=st.lists(st.integers(0, 6), min_size=5, max_size=5),
    again=st.booleans(),
    room=st.one_of(st.none(), st.integers(0, 4)),
    stack=st.integers(1, 2),
)
@settings(max_examples=80)
def test_what_is_held_stays_and_what_comes_later_is_as_of_episodes_not_known(
    windows: Windows,
    lengths: list[int],
    held: list[int],
    lost: list[int],
    again: bool,
    room: int | None,
    stack: int,
) -> None:
    """R2: some messages of each episode were taken, some are lost, and the rest comes."""
    spec = make_spec(windows, stack)
    most = {} if room is None else {"capacity_steps": (windows.blocks + room) * windows.period}
    replay = make_replay(windows, spec, **most)
    episodes = {uid: make_episode(spec, uid, steps) for uid, steps in enumerate(lengths)}
    told = {uid: list(messages(windows, cut(spec, each))) for uid, each in episodes.items()}
    for uid, count in enumerate(held[: len(lengths)]):
        for blocks, items in told[uid][:count]:
            replay.insert(blocks, items)
    before = live_items(replay)
    state = on_disk(replay.state_dict())
    replay.abandon()
    for _ in range(again):
        replay.abandon()
    replay.check_valid()
    owner = {}  # of an abandoned uid
    for uid, (episode, start) in live_items(replay).items():
        owner[episode] = before[uid][0]
        assert before[uid][1] == start
    assert live_items(replay).keys() == before.keys()
    assert all(uid == owner[uid] or uid >= ABANDONED for uid in owner)
    other = make_replay(windows, spec, **most)
    other.load_state_dict(on_disk(replay.state_dict()))
    other.gaps = True
    for store in (replay, other):
        for uid, count in enumerate(held[: len(lengths)]):
            for blocks, items in told[uid][count + lost[uid] :]:
                store.insert(blocks, items)
                store.check_valid()
    assert_same_state(replay.state_dict(), other.state_dict())
    assert replay.state_dict()["counters"]["next_serial"] >= state["counters"]["next_serial"]
    if not len(replay):
        return
    batch = everything(replay)
    found = []
    for uid in batch.uids.tolist():
        episode, start = live_items(replay)[uid]
        lived = episodes[owner.get(episode, episode)]
        found.append((lived, windows.window(start // windows.period, lived.steps)))
    assert_batch(windows, spec, batch, found)


def test_an_abandoned_episode_goes_by_age_like_any_other() -> None:
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec, Uniform(), capacity_steps=60)
    for blocks, items in list(messages(UNEVEN, cut(spec, make_episode(spec, 0, 40))))[:-2]:
        replay.insert(blocks, items)
    replay.abandon()
    for uid in range(1, 9):
        for blocks, items in messages(UNEVEN, cut(spec, make_episode(spec, uid, 20))):
            replay.insert(blocks, items)
            replay.check_valid()
    assert set(replay.state_dict()["episodes"]["uid"]) <= set(range(1, 9))


def test_windows_whose_blocks_are_lost_are_late_and_no_error() -> None:
    replay, episodes = filled(UNEVEN, [9])
    item = make_item(7, UNEVEN.window(0, 20))
    with pytest.raises(RuntimeError, match="none of its blocks is here"):
        replay.insert([], [item])
    replay.abandon()
    replay.insert([], [item])
    assert replay.metrics()["late_items"] == 1
    assert_contents(replay, UNEVEN, replay.spec, {0: episodes[0]})


def test_numbers_given_after_the_state_are_not_given_again() -> None:
    """A priority written back to an item of the lost time finds no other one."""
    replay, _ = filled(UNEVEN, [9])
    state = on_disk(replay.state_dict())
    spec = make_spec(UNEVEN)
    later = list(messages(UNEVEN, cut(spec, make_episode(spec, 1, 9))))
    for blocks, items in later:
        replay.insert(blocks, items)
    lost = set(live_items(replay)) - set(state["items"]["uid"].tolist())
    serials = set(replay.state_dict()["blocks"]["serial"].tolist())
    replay.load_state_dict(state)
    replay.abandon()
    for blocks, items in later:
        replay.insert(blocks, items)
    assert not lost & set(live_items(replay))
    fresh = replay.state_dict()["blocks"]["serial"].tolist()
    assert set(fresh) & serials == set(state["blocks"]["serial"].tolist())
    slots = np.arange(len(lost))
    replay.update_priorities(slots, np.array(sorted(lost)), np.ones(len(lost)))
    assert replay.metrics()["stale_write_backs"] == len(lost)


def test_windows_may_be_missing_of_an_episode_that_has_ended() -> None:
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec)
    told = list(messages(UNEVEN, cut(spec, make_episode(spec, 0, 20))))
    for blocks, _ in told:
        replay.insert(blocks, [])
    items = [item for _, each in told for item in each]
    replay.insert([], items[:1])
    with pytest.raises(RuntimeError, match="wanted was window 1"):
        replay.insert([], items[2:3])
    replay.abandon()
    replay.insert([], items[2:])
    assert len(replay) == len(items) - 1
    replay.check_valid()
