"""Episodes kept whole, how they come into replay, and the judge of what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from recollect.replay.batch import Batch
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Item
from recollect.replay.limiter import Limiter
from recollect.replay.store import Replay
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Window, Windows
from recollect.types import NO_ACTION, Array, ArraySpec, Buffers

STATE = 3


def make_spec(
    windows: Windows,
    stack: int = 1,
    every_state: bool = False,
    box: bool = False,
    codec: str = "none",
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
        codec=codec,
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


# --- The judge: windows cut out of whole episodes by list slicing ---------------------------------


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


UNEVEN = Windows(burn_in=5, trace=6, period=3, tail=2)  # the period does not divide burn_in


def filled(windows: Windows, lengths: list[int], **change: Any) -> tuple[Replay, list[Episode]]:
    spec = make_spec(windows, **change)
    episodes = [make_episode(spec, uid, steps) for uid, steps in enumerate(lengths)]
    replay = make_replay(windows, spec)
    for episode in episodes:
        insert_episode(replay, windows, spec, episode)
    return replay, episodes


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
    elif isinstance(wanted, Buffers):
        assert_same_state([found.numbers, *found.arrays], [wanted.numbers, *wanted.arrays])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same_state(one, other)
    else:
        np.testing.assert_array_equal(found, wanted, strict=isinstance(wanted, np.ndarray))


def on_disk(state: Any) -> Any:
    """As if written and read: nothing shared, and only what a checkpoint may hold."""
    if isinstance(state, dict):
        return {str(key): on_disk(value) for key, value in state.items()}
    if isinstance(state, Buffers):
        return Buffers(on_disk(state.numbers), [on_disk(array) for array in state.arrays])
    assert type(state) in (int, float, str) or (
        isinstance(state, np.ndarray) and state.dtype.kind in "biuf"
    ), type(state)
    return state.copy() if isinstance(state, np.ndarray) else state
