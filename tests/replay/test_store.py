from __future__ import annotations

import copy
import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.store import (
    BLOCK_OVERHEAD,
    ITEM_OVERHEAD,
    Batch,
    Item,
    Replay,
    memory_need,
)
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Window, Windows
from recollect.types import NO_ACTION, Array, ArraySpec, ConfigError

# --- Episodes, kept whole -----------------------------------------------------------------------

STATE = 3


def make_spec(
    windows: Windows, stack: int = 1, every_state: bool = False, box: bool = False
) -> BlockSpec:
    return BlockSpec(
        observation={
            "pixels": ArraySpec((2, 1), "uint8"),
            "clock": ArraySpec((2,), "float32"),  # episode and time
        },
        action=ArraySpec((2,), "float32") if box else ArraySpec((), "int64"),
        state_size=STATE,
        period=windows.period,
        state_offsets=tuple(range(windows.period)) if every_state else windows.state_offsets,
        stack=stack,
    )


@dataclass
class Episode:
    """All of an episode; `frames` of each key begin with the C frames before the first."""

    uid: int
    steps: int
    frames: dict[str, Array]
    action: Array
    reward: Array
    discount: Array
    states: Array  # [T + 1, H] before each observation


def remember(state: Array, clock: Array) -> Array:
    """A recurrent network that nothing else imitates: counter, rolling hash, last input."""
    count, rolled, _ = state
    return np.array([count + 1, (rolled * 7 + clock[1] + 1) % 1009, clock[1]], np.float32)


def make_episode(spec: BlockSpec, uid: int, steps: int, padded: bool | None = None) -> Episode:
    rng = np.random.default_rng([uid, steps])
    context = spec.stack - 1
    frames = {
        "pixels": rng.integers(1, 256, (context + steps + 1, 2, 1)).astype(np.uint8),
        "clock": np.array([[uid, t] for t in range(-context, steps + 1)], np.float32),
    }
    if padded is None:
        padded = bool(uid % 2)
    for rows in frames.values():  # before the first frame: zeros (ALE), or it again (Gymnasium)
        rows[:context] = 0 if padded else rows[context]
    states = [np.zeros(STATE, np.float32)]
    for t in range(steps):
        states.append(remember(states[-1], frames["clock"][context + t]))
    if np.dtype(spec.action.dtype).kind == "i":
        action: Array = rng.integers(0, 5, steps)
    else:
        action = rng.normal(size=(steps, *spec.action.shape)).astype(np.float32)
    return Episode(
        uid=uid,
        steps=steps,
        frames=frames,
        action=action,
        reward=rng.normal(size=steps).astype(np.float32),
        discount=(rng.random(steps) < 0.9).astype(np.float32),
        states=np.array(states),
    )


def cut(spec: BlockSpec, episode: Episode, closing: bool = False) -> list[Block]:
    """The episode's blocks; `closing`: if the last is full, one more with no step."""
    period, context = spec.period, spec.stack - 1
    starts = list(range(0, episode.steps, period))
    if closing and episode.steps % period == 0:
        starts.append(episode.steps)
    blocks = []
    for index, start in enumerate(starts):
        stop, last = min(start + period, episode.steps), start == starts[-1]
        none = NO_ACTION if episode.action.ndim == 1 else np.zeros(2)
        blocks.append(
            Block.build(
                spec,
                episode=episode.uid,
                index=index,
                observations={
                    key: rows[start : stop + context + last] for key, rows in episode.frames.items()
                },
                actions=episode.action[start:stop],
                rewards=episode.reward[start:stop],
                discounts=episode.discount[start:stop],
                states=episode.states[
                    [start + o for o in spec.state_offsets if start + o < stop]
                ].reshape(-1, STATE),
                previous_action=episode.action[start - 1] if start else none,
                previous_reward=episode.reward[start - 1] if start else 0.0,
                last=last,
            )
        )
    return blocks


def make_item(episode: int, window: Window, priority: float = 1.0, version: int = 0) -> Item:
    return Item(
        episode, window.start, window.prefix, window.learned, window.tail, priority, version
    )


def messages(
    windows: Windows, blocks: list[Block], priority: Callable[[int], float] = lambda k: 1.0
) -> Iterator[tuple[list[Block], list[Item]]]:
    """What an actor sends, block by block: the windows that each makes whole go with it."""
    steps = k = 0
    for block in blocks:
        steps += block.steps
        items = []
        while windows.ready(k, steps, block.last):
            window = windows.window(k, steps)
            items.append(make_item(block.episode, window, priority(k), version=100 + k))
            k += 1
        yield [block], items


def make_replay(
    windows: Windows, spec: BlockSpec | None = None, sampler: Any = None, **capacity: int
) -> Replay:
    return Replay(
        spec or make_spec(windows),
        windows,
        Uniform() if sampler is None else sampler,
        Limiter(1.0, 0, 1e9),
        **(capacity or {"capacity_steps": 10**6}),
    )


def insert_episode(replay: Replay, windows: Windows, spec: BlockSpec, episode: Episode) -> None:
    for blocks, items in messages(windows, cut(spec, episode)):
        replay.insert(blocks, items)


def everything(replay: Replay) -> Batch:
    """A batch with each item once: for a `Uniform` sampler."""
    return replay.sample((np.arange(len(replay)) + 0.5) / len(replay))


# --- The judge: windows cut out of whole episodes by list slicing -------------------------------


def expected_columns(
    windows: Windows, spec: BlockSpec, episode: Episode, window: Window, length: int
) -> dict[str, Any]:
    """What one column b of the batch should hold, as lists over time."""
    column = windows.burn_in - window.prefix
    first, stop, context = window.first, window.stop, spec.stack - 1
    steps = stop - first

    def placed(values: Any, rows: int, none: Any) -> list[Any]:
        out = [none] * rows
        out[column : column + len(values)] = list(values)
        return out

    zero = np.zeros(spec.action.shape, spec.action.dtype)
    none = zero - 1 if spec.action.dtype == "int64" else zero
    previous_action = [none, *episode.action][first : stop + 1]
    previous_reward = [0.0, *episode.reward][first : stop + 1]
    return {
        **{
            key: placed(
                rows[first : stop + context + 1], length + 1 + context, np.zeros_like(rows[0])
            )
            for key, rows in episode.frames.items()
        },
        "previous_action": placed(previous_action, length + 1, none),
        "previous_reward": placed(previous_reward, length + 1, 0.0),
        "action": placed(episode.action[first:stop], length, zero),
        "reward": placed(episode.reward[first:stop], length, 0.0),
        "discount": placed(episode.discount[first:stop], length, 0.0),
        "mask": placed([True] * steps, length, False),
        "learned": placed(
            [window.start <= t < window.start + window.learned for t in range(first, stop)],
            length,
            False,
        ),
        "states": placed(episode.states[first:stop], length, np.zeros(STATE)),
        "recurrent_state": episode.states[first],
        "prefix": window.prefix > 0,
        "mid_episode": first > 0,
    }


OVER_TIME = ["previous_action", "previous_reward", "action", "reward", "discount"]
OVER_TIME += ["mask", "learned"]


def assert_batch(
    windows: Windows,
    spec: BlockSpec,
    batch: Batch,
    found: list[tuple[Episode, Window]],
) -> None:
    """Every cell of the batch, bit for bit."""
    length = len(batch.mask)
    if not windows.trajectory:
        assert length == windows.steps
    else:
        assert length == max(window.learned for _, window in found)
    for b, (episode, window) in enumerate(found):
        want = expected_columns(windows, spec, episode, window, length)
        for key in spec.observation:
            got = batch.observation[key][:, b]
            assert got.dtype == spec.observation[key].dtype
            np.testing.assert_array_equal(got, want[key], err_msg=key)
        for name in OVER_TIME:
            got = getattr(batch, name)[:, b]
            np.testing.assert_array_equal(got, want[name], err_msg=name)
        np.testing.assert_array_equal(batch.recurrent_state[b], want["recurrent_state"])
        if spec.every_state:
            assert batch.states is not None
            np.testing.assert_array_equal(batch.states[:, b], want["states"])
        else:
            assert batch.states is None
        assert batch.prefix[b] == want["prefix"]
        assert batch.mid_episode[b] == want["mid_episode"]
        assert batch.version[b] == 100 + window.start // windows.period


def live_items(replay: Replay) -> dict[int, tuple[int, int]]:
    """uid -> (episode, start) of what is held, oldest first."""
    items = replay.state_dict()["items"]
    return {
        int(uid): (int(episode), int(start))
        for uid, episode, start in zip(items["uid"], items["episode"], items["start"], strict=True)
    }


def assert_contents(
    replay: Replay, windows: Windows, spec: BlockSpec, episodes: dict[int, Episode]
) -> None:
    """All that can be drawn is as it was lived."""
    replay.check_valid()
    if not len(replay):
        return
    batch = everything(replay)
    held = live_items(replay)
    assert sorted(batch.uids) == sorted(held)
    found = []
    for uid in batch.uids.tolist():
        episode = episodes[held[uid][0]]
        k = held[uid][1] // windows.period
        found.append((episode, windows.window(k, episode.steps)))
    assert_batch(windows, spec, batch, found)


@st.composite
def geometries(draw: st.DrawFn) -> Windows:
    period = draw(st.integers(1, 5))
    if draw(st.integers(0, 9)) == 0:
        return Windows.trajectories(period)
    return Windows(
        burn_in=draw(st.sampled_from([0, 1, 3, period, 2 * period, 7])),
        trace=period + draw(st.integers(0, 6)),
        period=period,
        tail=draw(st.integers(0, 4)),
    )


# --- What comes out is what was lived -----------------------------------------------------------


@given(
    windows=geometries(),
    stack=st.integers(1, 4),
    every_state=st.booleans(),
    box=st.booleans(),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    closing=st.booleans(),
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
    data: st.DataObject,
) -> None:
    """S0-5, S0-11, S0-14: windows, stored states, and states at every step."""
    spec = make_spec(windows, stack, every_state, box)
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


# --- Traps --------------------------------------------------------------------------------------

UNEVEN = Windows(burn_in=5, trace=6, period=3, tail=2)  # the period does not divide burn_in


def filled(windows: Windows, lengths: list[int], **change: Any) -> tuple[Replay, list[Episode]]:
    spec = make_spec(windows, **change)
    episodes = [make_episode(spec, uid, steps) for uid, steps in enumerate(lengths)]
    replay = make_replay(windows, spec)
    for episode in episodes:
        insert_episode(replay, windows, spec, episode)
    return replay, episodes


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


# --- Capacity -----------------------------------------------------------------------------------


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
    for wrong in ({}, {"capacity_steps": 100, "capacity_bytes": 100_000}):
        with pytest.raises(ConfigError, match="one capacity, in steps or in bytes"):
            Replay(*parts, **wrong)
    with pytest.raises(ConfigError, match=r"cannot hold one window.* 15 steps are the least"):
        Replay(*parts, capacity_steps=14)
    assert UNEVEN.blocks * UNEVEN.period == 15
    with pytest.raises(ConfigError, match=r"cannot hold one window.* bytes are the least"):
        Replay(*parts, capacity_bytes=5000)
    for other in (Windows(5, 6, 2, 2), Windows(4, 6, 3, 2)):
        with pytest.raises(ConfigError, match="do not serve windows"):
            Replay(spec, other, *parts[2:], capacity_steps=100)


# --- What is refused ----------------------------------------------------------------------------


def refusals() -> dict[str, tuple[Any, Any, type[Exception], str]]:
    windows = UNEVEN
    spec = make_spec(windows)
    blocks = cut(spec, make_episode(spec, 0, 14))
    other = cut(make_spec(windows, stack=2), make_episode(make_spec(windows, stack=2), 7, 3))
    first = make_item(0, windows.window(0, 14))
    second = make_item(0, windows.window(1, 14))
    return {
        "layout": (other, [], ValueError, "a block laid out as .* was wanted"),
        "gap": ([blocks[4]], [], RuntimeError, "block 4 of episode 0 came, wanted was block 3"),
        "again": ([blocks[2]], [], RuntimeError, "block 2 of episode 0 came, wanted was block 3"),
        "after the end": (
            [*blocks[3:], blocks[4]], [], RuntimeError, "wanted was none, as it has ended",
        ),
        "item first": ([], [make_item(5, windows.window(0, 9))], RuntimeError, "blocks before it"),
        "early": ([], [second], RuntimeError, "wanted was window 0"),
        "unfinished": (
            [blocks[3]], [first, second, make_item(0, windows.window(2, 14))],
            RuntimeError, "window 2 of episode 0 came after 12 steps",
        ),
        "twice": ([blocks[3]], [first, first], RuntimeError, "wanted was window 1"),
        "no such window": (
            blocks[3:],
            [make_item(0, w) for w in (*windows.windows_of(14), windows.window(4, 99))],
            RuntimeError, "window 4 of episode 0 came after 14 steps",
        ),
        "shape": ([], [replace(first, learned=5)], ValueError, "window 0 of episode 0 is Window"),
        "place": ([], [replace(first, start=1)], ValueError, "window 0 of episode 0 is Window"),
        "nan": ([], [replace(first, priority=float("nan"))], ValueError, "must be in .0, 1e.100"),
        "inf": ([], [replace(first, priority=float("inf"))], ValueError, "must be in .0, 1e.100"),
        "huge": ([], [replace(first, priority=1e200)], ValueError, "has priority 1e.200"),
        "negative": ([], [replace(first, priority=-1.0)], ValueError, "has priority -1.0"),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(refusals()))
def test_what_is_out_of_order_or_no_window_is_refused_and_nothing_changes(name: str) -> None:
    """R9: no priority that is not finite comes in."""
    blocks, items, error, message = refusals()[name]
    spec = make_spec(UNEVEN)
    episode = make_episode(spec, 0, 14)
    replay = make_replay(UNEVEN, spec)
    replay.insert(cut(spec, episode)[:3], [])
    before = replay.state_dict()
    with pytest.raises(error, match=message):
        replay.insert(blocks, items)
    assert_same_state(replay.state_dict(), before)
    replay.check_valid()
    replay.insert(cut(spec, episode)[3:], [make_item(0, w, 1, 100 + k) for k, w in enumerate(
        UNEVEN.windows_of(14))])  # fmt: skip
    assert_contents(replay, UNEVEN, spec, {0: episode})


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


# --- Drawing now and gathering later ------------------------------------------------------------


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


def assert_same_batch(found: Batch, wanted: Batch) -> None:
    for name, value in vars(wanted).items():
        other = getattr(found, name)
        if isinstance(value, dict):
            for key in value:
                np.testing.assert_array_equal(other[key], value[key], strict=True)
        else:
            np.testing.assert_array_equal(other, value, strict=True)


def assert_same_state(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_same_state(found[key], wanted[key])
    else:
        np.testing.assert_array_equal(found, wanted, strict=isinstance(wanted, np.ndarray))


# --- Saved and restored -------------------------------------------------------------------------


def on_disk(state: Any) -> Any:
    """As if written and read: nothing shared, and only what a checkpoint may hold."""
    if isinstance(state, dict):
        return {str(key): on_disk(value) for key, value in state.items()}
    assert type(state) in (int, float, str) or (
        isinstance(state, np.ndarray) and state.dtype.kind in "biuf"
    ), type(state)
    return state.copy() if isinstance(state, np.ndarray) else state


@pytest.mark.parametrize("make_sampler", [Uniform, lambda: Prioritized(0.7)])
def test_trap_27_a_restored_store_draws_gathers_and_evicts_identically(
    make_sampler: Callable[[], Any],
) -> None:
    """C4: in the middle of episodes, with holes in the tables."""
    spec = make_spec(UNEVEN, stack=2)
    rng = np.random.default_rng(4)
    replay = make_replay(UNEVEN, spec, make_sampler(), capacity_steps=90)
    live = [
        messages(UNEVEN, cut(spec, make_episode(spec, uid, 60)), lambda k: float(rng.random()))
        for uid in range(3)
    ]
    for _ in range(12):
        for slot in live:
            replay.insert(*next(slot))
    replay.drop_episode(1)
    replay.sample(rng.random(5))
    state = on_disk(replay.state_dict())
    other = make_replay(UNEVEN, spec, make_sampler(), capacity_steps=90)
    other.load_state_dict(state)
    other.check_valid()
    assert_same_state(other.state_dict(), replay.state_dict())
    assert other.metrics() == replay.metrics()
    slots = [live[0], live[2]]
    fresh = [
        messages(UNEVEN, cut(spec, make_episode(spec, uid, 25)), lambda k: float(rng.random()))
        for uid in range(10, 16)
    ]
    for turn in range(45):
        slot = slots[turn % 2]
        message = next(slot, None)
        if message is None:
            slots[turn % 2] = fresh.pop()
            message = next(slots[turn % 2])
        uniforms = rng.random(6)
        batches = []
        for store in (replay, other):
            store.insert(*message)
            batches.append(store.sample(uniforms))
            store.update_priorities(batches[-1].slots, batches[-1].uids, uniforms)
        assert_same_batch(batches[1], batches[0])
    assert_same_state(other.state_dict(), replay.state_dict())
    assert replay.metrics()["evicted_items"] > 20


def test_a_state_is_not_changed_by_what_happens_after_it_was_taken() -> None:
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec, Prioritized(0.9), capacity_steps=30)
    insert_episode(replay, UNEVEN, spec, make_episode(spec, 0, 30))
    state = replay.state_dict()
    before = on_disk(state)
    for uid in range(1, 5):
        insert_episode(replay, UNEVEN, spec, make_episode(spec, uid, 30))
    assert_same_state(on_disk(state), before)


def test_a_buffer_keeps_its_name_from_one_state_to_the_next() -> None:
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec, capacity_steps=30)
    buffers: dict[str, bytes] = {}
    for uid in range(6):
        insert_episode(replay, UNEVEN, spec, make_episode(spec, uid, 11))
        for name, buffer in replay.state_dict()["buffers"].items():
            assert buffers.setdefault(name, bytes(buffer)) == bytes(buffer)
    assert len(buffers) == 6 * 4


def test_another_layout_or_a_smaller_capacity_is_refused() -> None:
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec, capacity_steps=60)
    for uid in range(2):
        insert_episode(replay, UNEVEN, spec, make_episode(spec, uid, 30))
    state = replay.state_dict()
    with pytest.raises(ValueError, match=r"stack 1.* wanted is .*stack 2"):
        make_replay(UNEVEN, make_spec(UNEVEN, stack=2)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"wanted is .*tail=1"):
        make_replay(Windows(5, 6, 3, 1), spec).load_state_dict(state)
    with pytest.raises(ValueError, match="steps within the capacity"):
        make_replay(UNEVEN, spec, capacity_steps=59).load_state_dict(state)
    larger = make_replay(UNEVEN, spec, capacity_steps=90)
    larger.load_state_dict(state)
    assert larger.steps == 60


def damages() -> Iterator[tuple[str, Callable[[dict[str, Any]], None]]]:
    """Every number of a state, put out of range or swapped."""

    def change(group: str, name: str, value: int, where: int) -> Callable[[Any], None]:
        def damage(state: dict[str, Any]) -> None:
            state[group][name][where] = value

        return damage

    for group, names in (
        ("items", "row free uid episode start prefix learned tail"),
        ("blocks", "row free serial episode index steps last"),
        ("episodes", "uid window"),
    ):
        for name, value, where in itertools.product(names.split(), (-1, 1, 2**62), (0, -1)):
            if (name, value) != ("last", 2**62):  # true, like 1
                yield f"{group}.{name}[{where}]={value}", change(group, name, value, where)
    yield "no items", lambda state: state.pop("items")
    yield "no limiter", lambda state: state.pop("limiter")
    yield (
        "a shorter column",
        lambda state: state["items"].update(start=state["items"]["start"][:-1]),
    )
    yield "a lost buffer", lambda state: state["buffers"].pop(next(iter(state["buffers"])))
    yield (
        "a cut buffer",
        lambda state: state["buffers"].update(
            {key: buffer[:-1] for key, buffer in state["buffers"].items()}
        ),
    )
    yield (
        "a text for a buffer",
        lambda state: state["buffers"].update(dict.fromkeys(state["buffers"], "text")),
    )
    yield "next uid", lambda state: state["counters"].update(next_uid=0)
    yield "no counter", lambda state: state["counters"].pop("late_items")
    yield "counters", lambda state: state.update(counters=3)


@pytest.mark.parametrize(("name", "damage"), [pytest.param(n, d, id=n) for n, d in damages()])
def test_a_damaged_state_is_refused_or_does_no_harm(
    name: str, damage: Callable[[dict[str, Any]], None]
) -> None:
    """C3: nothing in a state leads to a read outside the blocks."""
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec, Prioritized(0.9), capacity_steps=45)
    for uid in range(4):
        insert_episode(replay, UNEVEN, spec, make_episode(spec, 3 + uid, 14))
    for message in list(messages(UNEVEN, cut(spec, make_episode(spec, 9, 14))))[:4]:
        replay.insert(*message)
    replay.drop_episode(5)
    state = on_disk(replay.state_dict())
    damage(state)
    other = make_replay(UNEVEN, spec, Prioritized(0.9), capacity_steps=45)
    try:
        other.load_state_dict(state)
    except ValueError:
        assert len(other) == 0
        assert other.nbytes == 0
    else:
        other.check_valid()
        other.sample(np.linspace(0, 0.99, 40))


# --- D1: against a model ------------------------------------------------------------------------


@dataclass
class Model:
    """Replay as dicts and lists: blocks and items oldest first, all else worked out each time."""

    windows: Windows
    spec: BlockSpec
    capacity_steps: float
    blocks: list[tuple[int, int, Block]] = field(default_factory=list)  # episode, index
    items: list[tuple[int, Item]] = field(default_factory=list)  # uid
    next_window: dict[int, int] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)  # of episodes that have ended
    priorities: dict[int, float] = field(default_factory=dict)
    uids: int = 0
    late: int = 0
    stale: int = 0

    @property
    def steps(self) -> int:
        return sum(block.steps for *_, block in self.blocks)

    def needs(self, item: Item, episode: int, index: int) -> bool:
        """Whether the item lies in this block: any of its observations does."""
        if item.episode != episode:
            return False
        stop = item.start + item.learned + item.tail
        closing = stop == self.lengths.get(episode) and stop % self.windows.period == 0
        places = {t // self.windows.period for t in range(item.start - item.prefix, stop + 1)}
        if closing:  # it lies with the last step
            places.discard(stop // self.windows.period)
        return index in places

    def wanted(self, episode: int, index: int) -> bool:
        """Whether an item needs the block, or a window to come will."""
        if any(self.needs(item, episode, index) for _, item in self.items):
            return True
        k = self.next_window[episode]
        steps = self.lengths.get(episode, 10**6)
        if not self.windows.exists(k, steps):
            return False
        near = range(k, k + self.windows.burn_in + 2)
        return any(
            self.windows.window(j, 10**6).first // self.windows.period <= index for j in near
        )

    def purge(self) -> None:
        """Blocks go from an episode's oldest on."""
        for episode in {episode for episode, *_ in self.blocks}:
            for entry in [entry for entry in self.blocks if entry[0] == episode]:
                if self.wanted(*entry[:2]):
                    break
                self.blocks.remove(entry)

    def insert(self, blocks: list[Block], items: list[Item]) -> None:
        for block in blocks:
            if block.index == 0:
                self.next_window[block.episode] = 0
            if block.last:
                steps = block.index * self.windows.period + block.steps
                self.lengths[block.episode] = steps
        while self.steps + sum(block.steps for block in blocks) > self.capacity_steps:
            episode, index, _ = self.blocks[0]
            if any(self.needs(item, episode, index) for _, item in self.items):
                self.items.pop(0)
            else:
                self.blocks.pop(0)
            self.purge()
        self.blocks += [(block.episode, block.index, block) for block in blocks]
        for item in items:
            first = (item.start - item.prefix) // self.windows.period
            if any(entry[:2] == (item.episode, first) for entry in self.blocks):
                self.items.append((self.uids, item))
                self.priorities[self.uids] = item.priority
                self.uids += 1
            else:
                self.late += 1
            self.next_window[item.episode] = item.start // self.windows.period + 1
        self.purge()

    def drop(self, episode: int) -> None:
        self.items = [entry for entry in self.items if entry[1].episode != episode]
        self.blocks = [entry for entry in self.blocks if entry[0] != episode]

    def update(self, uids: Array, priorities: Array) -> None:
        live = {uid for uid, _ in self.items}
        for uid, priority in zip(uids.tolist(), priorities.tolist(), strict=True):
            if uid in live:
                self.priorities[uid] = priority
            else:
                self.stale += 1


@pytest.mark.parametrize("seed", range(6))
def test_replay_equals_its_model_after_every_operation(seed: int) -> None:
    """D1: insert, evict, sample, update, save, load, drop, in any order."""
    rng = np.random.default_rng(seed)
    period = int(rng.integers(1, 4))
    windows = Windows(
        int(rng.integers(0, 6)), period + int(rng.integers(0, 5)), period, int(rng.integers(0, 4))
    )
    spec = make_spec(windows, stack=1 + seed % 3, every_state=seed % 2 == 0)
    capacity = windows.blocks * period + int(rng.integers(0, 40))
    exponent = 0.8

    def empty() -> Replay:
        return make_replay(windows, spec, Prioritized(exponent), capacity_steps=capacity)

    replay, model = empty(), Model(windows, spec, capacity)
    episodes: dict[int, Episode] = {}
    slots: list[Iterator[Any]] = [iter(()) for _ in range(1 + seed % 3)]
    running = [-1] * len(slots)
    remembered: list[Batch] = []
    for _ in range(500):
        choice = rng.random()
        slot = int(rng.integers(len(slots)))
        if choice < 0.6:
            message = next(slots[slot], None)
            if message is None:
                uid = len(episodes)
                running[slot] = uid
                episodes[uid] = make_episode(spec, uid, int(rng.integers(1, 30)))
                slots[slot] = messages(
                    windows, cut(spec, episodes[uid]), lambda k: float(rng.random())
                )
                message = next(slots[slot])
            replay.insert(*message)
            model.insert(*message)
        elif choice < 0.8 and len(replay):
            batch = replay.sample(rng.random(5))
            items = dict(model.items)
            total = sum(model.priorities[uid] ** exponent for uid in items)
            wanted = [model.priorities[uid] ** exponent / total for uid in batch.uids.tolist()]
            np.testing.assert_allclose(batch.probabilities, wanted)
            assert batch.size == len(items)
            found = []
            for uid in batch.uids.tolist():
                episode = episodes[items[uid].episode]
                found.append((episode, windows.window(items[uid].start // period, episode.steps)))
            assert_batch(windows, spec, batch, found)
            remembered.append(batch)
        elif choice < 0.92 and remembered:
            batch = remembered.pop(int(rng.integers(len(remembered))))
            # As a learner would: one priority per item, however often it was drawn.
            priorities = (batch.uids % 7 + rng.random()) / 7
            replay.update_priorities(batch.slots, batch.uids, priorities)
            model.update(batch.uids, priorities)
        elif choice < 0.96:
            state = on_disk(replay.state_dict())
            replay = empty()
            replay.load_state_dict(state)
        elif running[slot] >= 0:
            replay.drop_episode(running[slot])
            model.drop(running[slot])
            slots[slot], running[slot] = iter(()), -1
        replay.check_valid()
        assert list(live_items(replay).items()) == [
            (uid, (item.episode, item.start)) for uid, item in model.items
        ]
        blocks = replay.state_dict()["blocks"]
        held = zip(blocks["episode"].tolist(), blocks["index"].tolist(), strict=True)
        assert list(held) == [entry[:2] for entry in model.blocks]
        assert replay.steps == model.steps <= capacity
        assert replay.metrics()["late_items"] == model.late
        assert replay.metrics()["stale_write_backs"] == model.stale
    assert replay.metrics()["evicted_items"] > 20


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


def test_check_valid_finds_a_seam_that_does_not_fit() -> None:
    """Trap 33 where it would arise: in the actor."""
    spec = make_spec(UNEVEN)
    episode = make_episode(spec, 0, 9)
    wrong = copy.deepcopy(episode)
    wrong.action[2] += 1
    replay = make_replay(UNEVEN, spec)
    replay.insert([cut(spec, episode)[0], *cut(spec, wrong)[1:]], [])
    with pytest.raises(RuntimeError, match="episode 0, block 1: previous action"):
        replay.check_valid()
