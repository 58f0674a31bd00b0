"""One batch, whatever it lies in, whatever its blocks are packed with, however many threads."""

from __future__ import annotations

import copy
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay import codec, copying, gathering
from recollect.replay.batch import Batch
from recollect.replay.memory import PAGE
from recollect.replay.store import Replay
from recollect.replay.windows import Windows
from recollect.types import Array
from tests.replay.lived import (
    UNEVEN,
    assert_same_batch,
    filled,
    geometries,
    insert_episode,
    make_episode,
    make_replay,
    make_spec,
)


def arrays_of(batch: Batch) -> dict[str, Array]:
    named = {f"observation {key}": array for key, array in batch.observation.items()}
    return named | {k: v for k, v in vars(batch).items() if isinstance(v, np.ndarray)}


def spoil(batch: Batch) -> None:
    """So that a cell which is not written is found."""
    for array in arrays_of(batch).values():
        if array.ndim > 1:  # the others are the draw's own
            array[...] = 1


def both(windows: Windows, lengths: list[int], **change: Any) -> tuple[Replay, Replay]:
    """The same episodes in two stores, the second one's blocks packed."""
    stores = []
    for name in ("none", "zstd"):
        spec = make_spec(windows, codec=name, **change)
        stores.append(make_replay(windows, spec))
        for uid, steps in enumerate(lengths):
            insert_episode(stores[-1], windows, spec, make_episode(spec, uid, steps))
    return stores[0], stores[1]


@given(
    windows=geometries(),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    stack=st.integers(1, 3),
    every_state=st.booleans(),
    uniforms=st.lists(st.floats(0, 0.999), min_size=1, max_size=9),
    group=st.sampled_from([1, 700, 1 << 20]),
    streamed=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_batch_is_the_same_by_time_or_window_packed_or_not_on_any_threads(
    windows: Windows,
    lengths: list[int],
    stack: int,
    every_state: bool,
    uniforms: list[float],
    group: int,
    streamed: bool,
) -> None:
    """S3-12: what packing changes is bytes held, not a bit of what is learned from."""
    plain, packed = both(windows, lengths, stack=stack, every_state=every_state)
    draws = [store.draw(np.array(uniforms)) for store in (plain, packed)]
    wanted = plain.gather(draws[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "_GROUP_BYTES", group)
        patch.setattr(gathering, "_STREAM_BYTES", 0 if streamed else 1 << 40)
        patch.setattr(gathering, "_STREAM_ROW", 0)
        for store, draw in zip((plain, packed), draws, strict=True):
            for batch_major in (False, True):
                out = store.gather(draw, batch_major=batch_major)
                assert_same_batch(out, wanted)
                for threads in (1, 3):
                    spoil(out)
                    assert_same_batch(store.gather(draw, out, threads=threads), wanted)


@pytest.mark.parametrize("group", [1, 700, 1 << 20])
def test_blocks_that_could_not_be_packed_lie_among_packed_ones(
    group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3-12: each is read from where its own bytes are."""
    inner, count = codec.pack, itertools.count()
    monkeypatch.setattr(codec, "pack", lambda raw: raw if next(count) % 3 else inner(raw))
    monkeypatch.setattr(gathering, "_GROUP_BYTES", group)
    plain, packed = both(Windows(burn_in=4, trace=4, period=2, tail=1), [60, 31])
    uniforms = np.linspace(0, 0.99, 50)
    wanted, draw = plain.gather(plain.draw(uniforms)), packed.draw(uniforms)
    kinds = {block.packed for block in draw.blocks.flat if block is not None}
    assert kinds == {False, True}
    for threads in (1, 3):
        assert_same_batch(packed.gather(draw, threads=threads), wanted)


@pytest.mark.parametrize("shift", [0, 7])
def test_streamed_rows_arrive_whole_wherever_they_begin(shift: int) -> None:
    """Parts of cache lines at both ends, and rows shorter than a line."""
    source = np.random.default_rng(0).integers(0, 256, 1000, np.uint8)
    for size in (1, 63, 64, 65, 127, 500):
        target = np.zeros(1200, np.uint8)
        for begin in (0, 1, 31, 63):
            target[:] = 0
            place = target.ctypes.data + begin
            copying._stream(place, source.ctypes.data + shift, size)
            np.testing.assert_array_equal(target[begin : begin + size], source[shift:][:size])
            assert target.sum() == target[begin : begin + size].sum(), "nothing beside it"


@pytest.mark.parametrize("group", [1, 700, 1 << 20])
def test_each_block_of_a_draw_is_unpacked_once(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, packed = both(Windows(burn_in=4, trace=4, period=2, tail=1), [60, 60])
    unpacked: list[int] = []
    inner = codec.unpack_into

    def counted(buffer: Array, out: Array) -> None:
        unpacked.append(buffer.ctypes.data)
        assert out.ctypes.data % 64 == 0
        inner(buffer, out)

    monkeypatch.setattr(codec, "unpack_into", counted)
    monkeypatch.setattr(gathering, "_GROUP_BYTES", group)
    draw = packed.draw(np.linspace(0, 0.99, 300))
    packed.gather(draw)
    held = {draw.blocks[b, k].address for b in range(300) for k in range(draw.held[b])}
    assert len(unpacked) == len(set(unpacked))
    assert set(unpacked) == held
    assert len(held) > 50


def test_batches_are_gathered_in_another_thread_while_experience_comes_in() -> None:
    """Decided in the turn, copied ahead: what is drawn stays what it was."""
    _, packed = both(UNEVEN, [60], stack=2)
    spec = make_spec(UNEVEN, stack=2, codec="zstd")
    small = make_replay(UNEVEN, spec, capacity_steps=60)
    insert_episode(small, UNEVEN, spec, make_episode(spec, 0, 60))
    uniforms = np.linspace(0, 0.99, 20)
    draw, wanted = small.draw(uniforms), packed.gather(packed.draw(uniforms))
    with ThreadPoolExecutor(1) as ahead:
        batches = ahead.submit(lambda: [small.gather(draw, threads=2) for _ in range(50)])
        for uid in range(1, 12):
            insert_episode(small, UNEVEN, spec, make_episode(spec, uid, 30))
            small.gather(small.draw(uniforms), threads=2)
    for batch in batches.result():
        assert_same_batch(batch, wanted)


def test_a_forked_process_takes_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has none of its parent's, and would wait for them."""
    _, packed = both(UNEVEN, [30])
    draw = packed.draw(np.linspace(0, 0.9, 9))
    packed.gather(draw, threads=2)
    pools = gathering._pool.cache_info().misses
    packed.gather(draw, threads=2)
    assert gathering._pool.cache_info().misses == pools
    monkeypatch.setattr(gathering.os, "getpid", lambda: -7)
    packed.gather(draw, threads=2)
    assert gathering._pool.cache_info().misses == pools + 1


def test_by_window_a_window_is_one_piece_of_memory() -> None:
    replay, _ = filled(UNEVEN, [30], stack=2)
    batch = replay.gather(replay.draw(np.linspace(0, 0.9, 5)), batch_major=True)
    for name, array in arrays_of(batch).items():
        if array.ndim >= 2 and name != "recurrent_state":
            assert array.shape[1] == 5, name
            assert array.swapaxes(0, 1).flags.c_contiguous, name
    plain = replay.gather(replay.draw(np.linspace(0, 0.9, 5)))
    assert all(array.flags.c_contiguous for array in arrays_of(plain).values())


@pytest.mark.parametrize("batch_major", [False, True])
def test_arrays_of_a_page_or_more_begin_with_one(batch_major: bool) -> None:
    """So that each can be pinned alone."""
    replay, _ = filled(UNEVEN, [30])
    draw = replay.draw(np.linspace(0, 0.9, 300))
    batch = replay.gather(draw, batch_major=batch_major)
    large = 0
    for name, array in arrays_of(batch).items():
        if array.ndim >= 2 and name != "recurrent_state":
            assert array.ctypes.data % (PAGE if array.nbytes >= PAGE else 64) == 0, name
            large += array.nbytes >= PAGE
    assert large > 3


def test_a_damaged_block_is_named_by_what_it_lacks_and_ends_every_thread() -> None:
    _, packed = both(UNEVEN, [40])
    draw = packed.draw(np.linspace(0, 0.99, 20))
    block = copy.copy(draw.blocks[0, 0])
    object.__setattr__(block, "buffer", block.buffer[:-3])
    blocks = draw.blocks.copy()
    blocks[draw.blocks == draw.blocks[0, 0]] = block
    for threads in (1, 3):
        with pytest.raises(ValueError, match="packed bytes do not hold"):
            packed.gather(replace(draw, blocks=blocks), threads=threads)


def test_a_window_that_does_not_fit_its_blocks_is_refused_before_anything_is_read() -> None:
    replay, _ = filled(UNEVEN, [40])
    draw = replay.draw(np.linspace(0, 0.99, 6))
    for change in ({"held": draw.held - 2}, {"tail": draw.tail + 50}, {"prefix": draw.prefix + 9}):
        with pytest.raises(RuntimeError, match="do not fit each other"):
            replay.gather(replace(draw, **change))
    with pytest.raises(ValueError, match="threads must be at least 1"):
        replay.gather(draw, threads=0)


def test_an_array_that_does_not_fit_its_field_is_refused() -> None:
    """The kernels write by address: before that its place and its rows are looked at."""
    spec = make_spec(UNEVEN)
    field = len(spec.observation) + 1  # the rewards
    cells = [np.zeros(2, np.int64)] * 3
    right = np.zeros((5, 2), np.float32)
    frozen = right.copy()
    frozen.setflags(write=False)
    gathering.Copy(spec, 2).add(right, field, *cells)
    for array, says in (
        (right.astype(np.float64), "must have rows of 4 bytes"),
        (np.zeros((5, 3), np.float32), "hold 2 windows"),
        (np.zeros((5, 4), np.float32)[:, ::2], "must be contiguous"),
        (frozen, "to write to must be"),
    ):
        with pytest.raises(ValueError, match=says):
            gathering.Copy(spec, 2).add(array, field, *cells)


@pytest.mark.parametrize(("first", "column", "count"), [(-1, 0, 2), (0, -1, 2), (0, 2, 2)])
def test_nothing_is_copied_beside_an_array(first: int, column: int, count: int) -> None:
    """Also where another thread has not come to fill that window's cells, and to check it."""
    source, room = np.ones(64, np.uint8), np.zeros(12, np.uint8)  # 3 rows in the middle of 12
    lines = (1, 1, 0, 0, 0, 0, 0)  # bytes of a row, by window, of a row, field, lead, closing, ...
    targets = np.array([(room.ctypes.data + 4, 3, 1, *lines)], np.int64)
    pieces = np.array([[(source.ctypes.data + 32, 8, 0)]], np.int64)
    offsets, which = np.zeros((2, 9, 2), np.int64), np.zeros((1, 2), np.int64)

    def copied(*cells: int) -> bool:
        table = np.array(cells, np.int64).reshape(1, 3, 1)
        held = np.ones(1, np.int64)
        return bool(copying.copy_pieces(targets, table, pieces, held, offsets, which))

    assert not copied(first, column, count)
    assert not room.any()
    assert copied(0, 1, 2)
    assert room.tolist() == [0] * 5 + [1] * 2 + [0] * 5
