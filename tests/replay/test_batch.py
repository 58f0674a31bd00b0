from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay.batch import Batch
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.windows import Windows
from recollect.types import NO_ACTION, Array
from tests.replay.lived import (
    STATE,
    UNEVEN,
    Episode,
    assert_contents,
    assert_same_batch,
    cut,
    everything,
    filled,
    geometries,
    insert_episode,
    live_items,
    make_episode,
    make_item,
    make_replay,
    make_spec,
    messages,
    remember,
)


@given(
    windows=geometries(),
    stack=st.integers(1, 4),
    every_state=st.booleans(),
    box=st.booleans(),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    closing=st.booleans(),
    codec=st.sampled_from(["none", "zstd"]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_every_cell_of_a_batch_is_what_slicing_whole_episodes_gives(
    windows: Windows,
    stack: int,
    every_state: bool,
    box: bool,
    lengths: list[int],
    closing: bool,
    codec: str,
    data: st.DataObject,
) -> None:
    """S0-5, S0-11, S0-14: windows, stored states, and states at every step."""
    spec = make_spec(windows, stack, every_state, box, codec)
    episodes = {uid: make_episode(spec, uid, steps) for uid, steps in enumerate(lengths)}
    replay = make_replay(windows, spec)
    slots = {uid: messages(windows, cut(spec, e, closing)) for uid, e in episodes.items()}
    while slots:
        turn = data.draw(st.sampled_from(sorted(slots)))
        message = next(slots[turn], None)
        if message is None:
            del slots[turn]
        else:
            replay.insert(*message)
    assert_contents(replay, windows, spec, episodes)
    wanted = [
        (uid, window.start) for uid, e in episodes.items() for window in windows.windows_of(e.steps)
    ]
    assert sorted(live_items(replay).values()) == sorted(wanted)
    assert replay.steps == sum(lengths)
    assert replay.metrics()["waiting_blocks"] == 0


def test_observations_before_any_step_of_a_feed_forward_network_need_no_state() -> None:
    windows = Windows(burn_in=0, trace=3, period=3, tail=1)
    spec = replace(make_spec(windows), state_size=0)
    episode = make_episode(spec, 1, 7)
    replay = make_replay(windows, spec)
    for block in cut_without_state(spec, episode):
        replay.insert([block], [])
    for window in windows.windows_of(7):
        replay.insert([], [make_item(1, window)])
    batch = everything(replay)
    assert batch.recurrent_state.shape == (len(replay), 0)
    assert batch.states is None
    np.testing.assert_array_equal(batch.reward[:3, 0], episode.reward[:3])


def cut_without_state(spec: BlockSpec, episode: Episode) -> list[Block]:
    bare = Episode(**{**vars(episode), "states": np.zeros((episode.steps + 1, STATE), np.float32)})
    whole = cut(replace(spec, state_size=STATE), bare)
    return [
        Block.build(
            spec,
            block.episode,
            block.index,
            block.observation,
            block.action,
            block.reward,
            block.discount,
            block.states[:, :0],
            block.previous_action,
            block.previous_reward,
            block.last,
        )
        for block in whole
    ]


# --- Traps ----------------------------------------------------------------------------------------


def first_columns(batch: Batch) -> Array:
    """[B] the column of each window's first real step."""
    return batch.mask.argmax(axis=0)


def test_trap_01_the_stored_state_is_the_one_at_the_windows_first_step() -> None:
    """S0-11: unrolling the network from the episode's start gives the stored state."""
    for windows in (UNEVEN, Windows(4, 4, 2, 1), Windows(3, 7, 7, 0), Windows(0, 5, 2, 3)):
        replay, _ = filled(windows, [40, 9, 23])
        batch = everything(replay)
        for b, column in enumerate(first_columns(batch)):
            uid, time = batch.observation["clock"][column, b]
            state = np.zeros(STATE, np.float32)
            for t in range(int(time)):
                state = remember(state, np.array([uid, t]))
            np.testing.assert_array_equal(batch.recurrent_state[b], state)
        assert batch.prefix.any() == (windows.burn_in > 0)


def test_trap_02_states_of_an_episodes_first_windows_are_those_of_their_own_start() -> None:
    replay, _ = filled(Windows(burn_in=4, trace=4, period=4, tail=0), [20])
    batch = everything(replay)
    counts = sorted(
        (int(time[column]), int(state[0]))
        for time, column, state in zip(
            batch.observation["clock"][:, :, 1].T,
            first_columns(batch),
            batch.recurrent_state,
            strict=True,
        )
    )
    assert counts == [(0, 0), (0, 0), (4, 4), (8, 8), (12, 12)]


def test_trap_03_the_stored_state_has_not_seen_the_first_observation() -> None:
    replay, _ = filled(UNEVEN, [31], every_state=True)
    batch = everything(replay)
    assert batch.states is not None
    for b in range(len(replay)):
        state = batch.recurrent_state[b]
        for t in np.flatnonzero(batch.mask[:, b]):
            clock = batch.observation["clock"][t, b]
            assert state[0] == clock[1], "a counter says how many observations it has seen"
            np.testing.assert_array_equal(batch.states[t, b], state)
            state = remember(state, clock)


def test_trap_04_time_rises_by_one_inside_a_window_and_never_crosses_episodes() -> None:
    for windows in (UNEVEN, Windows(0, 3, 2, 4), Windows.trajectories(4)):
        replay, _ = filled(windows, [17, 2, 30, 5])
        batch = everything(replay)
        for b in range(len(replay)):
            real = np.flatnonzero(batch.mask[:, b])
            rows = np.append(real, real[-1] + 1)  # with the closing observation
            episode, time = batch.observation["clock"][rows, b].T
            assert (np.diff(rows) == 1).all()
            assert (np.diff(time) == 1).all()
            assert (episode == episode[0]).all()


def learned_steps(batch: Batch) -> list[tuple[int, int]]:
    """(episode, time) of every step in a learned part."""
    clock = batch.observation["clock"][: len(batch.learned)][batch.learned]
    return [(int(episode), int(time)) for episode, time in clock]


@pytest.mark.parametrize("windows", [UNEVEN, Windows(6, 4, 4, 0), Windows.trajectories(4)])
def test_trap_05_every_step_of_every_episode_is_learned_from(windows: Windows) -> None:
    lengths = [1, 2, 3, 4, 11, 26]
    replay, _ = filled(windows, lengths)
    assert set(learned_steps(everything(replay))) == {
        (uid, t) for uid, steps in enumerate(lengths) for t in range(steps)
    }


def test_trap_06_the_first_burn_in_steps_of_an_episode_are_learned_from() -> None:
    replay, _ = filled(UNEVEN, [20])
    batch = everything(replay)
    assert {(0, t) for t in range(UNEVEN.burn_in)} <= set(learned_steps(batch))
    start = np.flatnonzero(~batch.mid_episode & ~batch.prefix)
    assert start.size
    for b in start:
        assert not batch.mask[: UNEVEN.burn_in, b].any()
        assert batch.learned[UNEVEN.burn_in, b]
        assert not batch.observation["pixels"][: UNEVEN.burn_in, b].any()


def test_trap_17_padding_is_masked_and_the_learned_part_is_real() -> None:
    replay, _ = filled(UNEVEN, [1, 7, 8])
    batch = everything(replay)
    assert not (batch.learned & ~batch.mask).any()
    length = batch.mask.sum(axis=0)
    expected = {1: 1, 7: 7, 8: 8}
    for b in range(len(replay)):
        steps = expected[[1, 7, 8][int(batch.observation["clock"][first_columns(batch)[b], b, 0])]]
        time = int(batch.observation["clock"][first_columns(batch)[b], b, 1])
        assert length[b] == min(steps - time, 5 * batch.prefix[b] + 6 + 2)
    assert not batch.reward[~batch.mask].any()
    assert not batch.discount[~batch.mask].any()
    after = ~np.insert(batch.mask, 0, False, axis=0) & ~np.append(
        batch.mask, np.zeros((1, len(replay)), bool), axis=0
    )
    assert not batch.observation["pixels"][after].any(), "pixels are never 0 where they are real"
    assert (batch.previous_action[after] == NO_ACTION).all()


def test_trap_20_n_more_steps_follow_the_learned_ones_unless_the_episode_ends() -> None:
    windows = Windows(burn_in=2, trace=4, period=4, tail=3)
    replay, episodes = filled(windows, [13])
    batch = everything(replay)
    tails = {}
    for b in range(len(replay)):
        tail = batch.mask[:, b] & ~batch.learned[:, b]
        tail[: windows.burn_in] = False
        times = batch.observation["clock"][:-1, b, 1][tail].astype(int).tolist()
        tails[int(batch.observation["clock"][windows.burn_in, b, 1])] = times
        np.testing.assert_array_equal(batch.reward[:, b][tail], episodes[0].reward[times])
    assert tails == {0: [4, 5, 6], 4: [8, 9, 10], 8: [12], 12: []}


def test_trap_33_the_action_and_reward_before_a_window_are_those_the_network_saw() -> None:
    windows = Windows(burn_in=2, trace=3, period=3, tail=1)
    for box in (False, True):
        spec = make_spec(windows, box=box)
        # Of the capacity only the last windows are left: the blocks before theirs are gone.
        replay = make_replay(windows, spec, capacity_steps=12)
        episode = make_episode(spec, 3, 30)
        insert_episode(replay, windows, spec, episode)
        batch = everything(replay)
        assert batch.mid_episode.all()
        for b, column in enumerate(first_columns(batch)):
            time = int(batch.observation["clock"][column, b, 1])
            assert time > 0
            np.testing.assert_array_equal(
                batch.previous_action[column, b], episode.action[time - 1]
            )
            assert batch.previous_reward[column, b] == episode.reward[time - 1]
        assert {int(t) for t in batch.observation["clock"][0, :, 1]} >= {22, 25}
        # At an episode's start there was none: not action 0.
        insert_episode(replay, windows, spec, make_episode(spec, 4, 2))
        batch = everything(replay)
        start = np.flatnonzero(~batch.mid_episode)
        assert start.size == 1
        none = np.zeros(2) if box else NO_ACTION
        np.testing.assert_array_equal(batch.previous_action[windows.burn_in, start[0]], none)
        assert batch.previous_reward[windows.burn_in, start[0]] == 0


@pytest.mark.parametrize("padded", [True, False], ids=["zeros", "repeated"])
def test_trap_34_a_frame_stack_equals_the_one_seen(padded: bool) -> None:
    windows = Windows(burn_in=2, trace=3, period=3, tail=1)
    spec = make_spec(windows, stack=4)
    episode = make_episode(spec, 0, 30, padded)
    seen = [episode.frames["pixels"][t : t + 4].copy() for t in range(31)]
    zeros = not seen[0][:3].any()
    assert zeros == padded
    for capacity in (100, 12):  # with all blocks, and with the blocks before gone
        replay = make_replay(windows, spec, capacity_steps=capacity)
        insert_episode(replay, windows, spec, episode)
        batch = everything(replay)
        assert batch.mid_episode.all() == (capacity == 12)
        for b in range(len(replay)):
            real = np.flatnonzero(batch.mask[:, b])
            for column in (*real, real[-1] + 1):
                time = int(batch.observation["clock"][column + 3, b, 1])
                stack = batch.observation["pixels"][column : column + 4, b]
                np.testing.assert_array_equal(stack, seen[time])


# --- Drawing now and gathering later --------------------------------------------------------------


def test_what_was_drawn_is_gathered_the_same_after_it_was_evicted() -> None:
    spec = make_spec(UNEVEN, stack=2)
    replay = make_replay(UNEVEN, spec, capacity_steps=30)
    insert_episode(replay, UNEVEN, spec, make_episode(spec, 0, 30))
    draw = replay.draw(np.linspace(0, 0.99, 7))
    now = replay.gather(draw)
    for uid in range(1, 9):
        insert_episode(replay, UNEVEN, spec, make_episode(spec, uid, 30))
    assert not set(draw.uids.tolist()) & set(live_items(replay))
    assert_same_batch(replay.gather(draw), now)


def test_a_batch_is_written_again_into_an_earlier_one() -> None:
    replay, _ = filled(UNEVEN, [25, 4], every_state=True)
    first = replay.sample(np.linspace(0, 0.99, 6))
    draw = replay.draw(np.linspace(0.99, 0, 6))
    wanted = copy.deepcopy(replay.gather(draw))
    again = replay.gather(draw, out=first)
    assert_same_batch(again, wanted)
    for name in ("previous_action", "reward", "mask", "learned", "states", "recurrent_state"):
        assert getattr(again, name) is getattr(first, name)
    with pytest.raises(ValueError, match=r"\(13, 6\) steps, \(13, 4\) are wanted"):
        replay.gather(replay.draw(np.linspace(0, 0.9, 4)), out=first)
    split = replace(first, reward=np.zeros((13, 12), np.float32)[:, ::2])
    with pytest.raises(ValueError, match="contiguous"):
        replay.gather(draw, out=split)
