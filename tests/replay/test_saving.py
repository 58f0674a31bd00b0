from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from recollect.replay.prioritized import Prioritized
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Windows
from recollect.run import checkpoint
from recollect.run.checkpoint import Checkpoints
from recollect.types import Array, Buffers
from tests.replay.lived import (
    UNEVEN,
    assert_same_batch,
    assert_same_state,
    cut,
    insert_episode,
    make_episode,
    make_replay,
    make_spec,
    messages,
    on_disk,
)


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("make_sampler", [Uniform, lambda: Prioritized(0.7)])
def test_trap_27_a_restored_store_draws_gathers_and_evicts_identically(
    make_sampler: Callable[[], Any], codec: str
) -> None:
    """C4: in the middle of episodes, with holes in the tables."""
    spec = make_spec(UNEVEN, stack=2, codec=codec)
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
    kept: dict[int, bytes] = {}
    for uid in range(6):
        insert_episode(replay, UNEVEN, spec, make_episode(spec, uid, 11))
        buffers = replay.state_dict()["buffers"]
        for number, buffer in zip(buffers.numbers.tolist(), buffers.arrays, strict=True):
            assert kept.setdefault(number, bytes(buffer)) == bytes(buffer)
    assert len(kept) == 6 * 4


def test_another_layout_or_a_smaller_capacity_is_refused() -> None:
    spec = make_spec(UNEVEN)
    replay = make_replay(UNEVEN, spec, capacity_steps=60)
    for uid in range(2):
        insert_episode(replay, UNEVEN, spec, make_episode(spec, uid, 30))
    state = replay.state_dict()
    with pytest.raises(ValueError, match=r"stack 1.* wanted is .*stack 2"):
        make_replay(UNEVEN, make_spec(UNEVEN, stack=2)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"wanted is .*stack 1, codec zstd, Windows"):
        make_replay(UNEVEN, make_spec(UNEVEN, codec="zstd")).load_state_dict(state)
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

    def buffers(change: Callable[[Buffers], Any]) -> Callable[[Any], None]:
        return lambda state: state.update(buffers=change(state["buffers"]))

    yield "a lost buffer", buffers(lambda b: Buffers(b.numbers[1:], b.arrays[1:]))
    yield "a buffer too few", buffers(lambda b: Buffers(b.numbers, b.arrays[1:]))
    yield "another's number", buffers(lambda b: Buffers(b.numbers + 1, b.arrays))
    yield "cut buffers", buffers(lambda b: Buffers(b.numbers, [a[:-1] for a in b.arrays]))
    yield "texts for buffers", buffers(lambda b: Buffers(b.numbers, ["text"] * len(b.arrays)))
    yield "text for all buffers", buffers(lambda b: "text")
    yield "next uid", lambda state: state["counters"].update(next_uid=0)
    yield "no counter", lambda state: state["counters"].pop("late_items")
    yield "counters", lambda state: state.update(counters=3)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_a_store_comes_back_from_the_disk(codec: str, tmp_path: Path) -> None:
    """Trap 27, S3-12: packed blocks are of any size and lie anywhere in a file."""
    spec = make_spec(UNEVEN, stack=2, codec=codec)
    replay, other = (make_replay(UNEVEN, spec, Prioritized(0.9)) for _ in range(2))
    for uid in range(5):
        insert_episode(replay, UNEVEN, spec, make_episode(spec, uid, 7 + 3 * uid))
    state = {"replay": replay.state_dict()}
    saved = Checkpoints(tmp_path).save("last", parameters={}, meta={"env_steps": 1}, state=state)
    loaded = checkpoint.load(saved.path).state
    assert loaded is not None
    other.load_state_dict(loaded["replay"])
    assert_same_state(other.state_dict(), replay.state_dict())
    assert other.metrics() == replay.metrics()
    uniforms = np.linspace(0, 0.99, 30)
    assert_same_batch(other.sample(uniforms), replay.sample(uniforms))


def test_a_state_without_a_codec_says_nothing_of_one() -> None:
    """It is the one that was written before there were any."""
    state = make_replay(UNEVEN, make_spec(UNEVEN)).state_dict()
    assert "codec" not in state["layout"]


def packed_damages() -> Iterator[tuple[str, Callable[[Array], bytes]]]:
    """What a stranger may put in the place of a packed block."""
    compress = zstandard.ZstdCompressor(level=1).compress
    yield "cut", lambda packed: bytes(packed[:-1])
    yield "one byte more", lambda packed: bytes(packed) + b"x"
    yield "a bit turned", lambda packed: bytes([packed[0] ^ 1]) + bytes(packed[1:])
    yield "one byte", lambda packed: b"x"
    yield "nothing", lambda packed: b""
    yield "a bomb", lambda packed: compress(bytes(10**6))
    yield "noise", lambda packed: np.random.default_rng(0).bytes(len(packed))


@pytest.mark.parametrize("where", [0, -1])
@pytest.mark.parametrize("damage", [pytest.param(d, id=n) for n, d in packed_damages()])
def test_a_packed_block_that_is_not_one_is_refused_by_name(
    damage: Callable[[Array], bytes], where: int
) -> None:
    """C3: it would be read by address later."""
    spec = make_spec(UNEVEN, codec="zstd")
    replay = make_replay(UNEVEN, spec)
    for uid, steps in enumerate((14, 2)):  # the last block is one that no other goes on from
        insert_episode(replay, UNEVEN, spec, make_episode(spec, uid, steps))
    state = on_disk(replay.state_dict())
    arrays = list(state["buffers"].arrays)
    assert len(arrays[where]) < spec.nbytes(2, True), "it is a packed one"
    arrays[where] = np.frombuffer(damage(arrays[where]), np.uint8)
    state["buffers"] = Buffers(state["buffers"].numbers, arrays)
    with pytest.raises(ValueError, match=r"block \d of episode \d"):
        replay.load_state_dict(state)
    assert len(replay) == replay.nbytes == 0


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize(("name", "damage"), [pytest.param(n, d, id=n) for n, d in damages()])
def test_a_damaged_state_is_refused_or_does_no_harm(
    name: str, damage: Callable[[dict[str, Any]], None], codec: str
) -> None:
    """C3: nothing in a state leads to a read outside the blocks."""
    spec = make_spec(UNEVEN, codec=codec)
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


def test_an_episode_whose_beginning_was_lost_is_still_joined_after_a_resume() -> None:
    """Its first window here may be any; one that has begun goes on with the next."""
    spec = make_spec(UNEVEN)
    replay, other = (make_replay(UNEVEN, spec) for _ in range(2))
    sent = list(messages(UNEVEN, cut(spec, make_episode(spec, 0, 40))))
    blocks, _ = sent[6]
    replay.insert(blocks, [])
    other.load_state_dict(on_disk(replay.state_dict()))
    for message in sent[7:]:
        for store in (replay, other):
            store.insert(*message)
    assert_same_state(other.state_dict(), replay.state_dict())
    assert len(other) > 0
