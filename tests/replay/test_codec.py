from __future__ import annotations

import copy
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay import codec
from recollect.replay.blocks import Block, BlockSpec
from recollect.types import Array, ArraySpec, ConfigError

DTYPES = ["uint8", "int8", "int16", "int64", "float32", "float64", "bool"]


@st.composite
def specs(draw: st.DrawFn) -> BlockSpec:
    def array(dtypes: list[str]) -> ArraySpec:
        shape = draw(st.lists(st.integers(1, 9), max_size=3))
        return ArraySpec(tuple(shape), draw(st.sampled_from(dtypes)))

    period = draw(st.integers(1, 12))
    offsets = draw(st.sets(st.integers(0, period - 1)))
    return BlockSpec(
        observation={
            key: array(DTYPES)
            for key in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True))
        },
        action=array(["int64", "int32", "float32"]),
        state_size=draw(st.integers(0, 20)),
        period=period,
        state_offsets=tuple(sorted({0, *offsets})),
        stack=draw(st.integers(1, 4)),
        codec="zstd",
    )


def build(
    spec: BlockSpec, steps: int, last: bool, index: int, values: Callable[..., Array]
) -> Block:
    """A block with what `values(shape, dtype)` gives in every field."""
    rows = spec.stack - 1 + steps + last
    return Block.build(
        spec,
        episode=7,
        index=index,
        observations={k: values((rows, *s.shape), s.dtype) for k, s in spec.observation.items()},
        actions=values((steps, *spec.action.shape), spec.action.dtype),
        rewards=values((steps,), "float32"),
        discounts=values((steps,), "float32"),
        states=values((sum(o < steps for o in spec.state_offsets), spec.state_size), "float32"),
        previous_action=values(spec.action.shape, spec.action.dtype),
        previous_reward=float(values((), "float32")),
        last=last,
    )


def values_of(seed: int, levels: int) -> Callable[..., Array]:
    """Draws of few or many different values: of many, little is packed."""
    rng = np.random.default_rng(seed)

    def values(shape: tuple[int, ...], dtype: str) -> Array:
        return np.asarray(rng.integers(0, levels, shape)).astype(dtype)

    return values


@given(
    spec=specs(),
    seed=st.integers(0, 99),
    levels=st.sampled_from([1, 3, 256]),
    last=st.booleans(),
    data=st.data(),
)
@settings(deadline=None, max_examples=150)
def test_every_field_of_a_packed_block_is_what_went_in(
    spec: BlockSpec, seed: int, levels: int, last: bool, data: st.DataObject
) -> None:
    """S3-12: lossless, in memory and on the wire, whatever the spec."""
    steps = data.draw(st.integers(0, spec.period)) if last else spec.period
    plain = build(replace(spec, codec="none"), steps, last, 1, values_of(seed, levels))
    block = build(spec, steps, last, 1, values_of(seed, levels))
    assert block.nbytes <= block.raw_nbytes == plain.nbytes
    assert not block.buffer.flags.writeable
    wire = np.frombuffer(b"x" + bytes(block.buffer), np.uint8)[1:]  # begins anywhere
    header = (spec, 7, 1, steps, last)
    for found in (block, block.unpacked(), Block.from_buffer(*header, wire), copy.deepcopy(block)):
        assert bytes(found.unpacked().buffer) == bytes(plain.buffer)
        for i in range(len(spec.fields)):
            np.testing.assert_array_equal(found.field(i), plain.field(i), strict=True)
            assert not found.field(i).flags.writeable
        assert found.observation.keys() == plain.observation.keys()


def test_what_cannot_be_packed_is_kept_as_it_is() -> None:
    """So replay never takes more than its need without a codec."""
    spec = BlockSpec({"o": ArraySpec((64, 64), "uint8")}, ArraySpec((), "int64"), 0, 4, (0,))
    packed = replace(spec, codec="zstd")
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64), np.uint8)

    def values(shape: tuple[int, ...], dtype: str) -> Array:
        return noise if dtype == "uint8" else np.zeros(shape, dtype)

    block = build(packed, 4, False, 0, values)
    assert not codec.pack(noise.reshape(-1)).nbytes < noise.nbytes
    np.testing.assert_array_equal(block.observation["o"], noise)
    still = build(packed, 4, False, 0, values_of(0, 1))
    assert still.packed
    assert still.nbytes < still.raw_nbytes / 50
    assert not build(spec, 4, False, 0, values_of(0, 1)).packed
    tiny = np.random.default_rng(1).integers(0, 256, 64, np.uint8)
    assert codec.pack(tiny) is tiny


def test_packed_to_just_as_many_bytes_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block's bytes are taken for raw ones where they are as many."""

    class Useless:
        def compress(self, data: memoryview) -> bytes:
            return bytes(len(data))

    monkeypatch.setattr(codec._local, "compressor", Useless())
    raw = np.arange(200, dtype=np.uint8)
    assert codec.pack(raw) is raw


def test_a_codec_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"codec must be one of .*, not 'lz4'"):
        BlockSpec({"o": ArraySpec(())}, ArraySpec((), "int64"), 0, 4, (0,), codec="lz4")


# --- Strangers ------------------------------------------------------------------------------------

SIZE = 100_000


def frame(size: int = SIZE, **settings: bool) -> bytes:
    return zstandard.ZstdCompressor(level=1, **settings).compress(bytes(size))


def lies() -> bytes:
    """It says SIZE, and holds ten times that."""
    true = frame(10 * SIZE)
    return true.replace((10 * SIZE).to_bytes(4, "little"), SIZE.to_bytes(4, "little"), 1)


HOSTILE = {
    "a bomb that says so": frame(500 * SIZE),
    "a bomb that says nothing": frame(10 * SIZE, write_content_size=False),
    "a bomb that lies": lies(),
    "too little": frame(SIZE - 1),
    "cut": frame()[:-2],
    "only a header": frame()[:9],
    "two frames": frame(SIZE // 2) * 2,
    "not zstd": bytes(range(200)),
    "one byte": b"\x28",
    "a skippable frame": (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + bytes(4),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bytes_that_do_not_hold_exactly_a_block_are_refused_at_its_price(name: str) -> None:
    """C3: whoever made them, no more memory than the block's own is taken, and none beside it."""
    packed = np.frombuffer(HOSTILE[name], np.uint8)
    room = np.full(SIZE + 4096, 85, np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="packed bytes do not hold the 100,000 bytes"):
            codec.unpack(packed, SIZE)
        with pytest.raises(ValueError, match="packed bytes do not hold the 100,000 bytes"):
            codec.unpack_into(packed, room[:SIZE])
        assert tracemalloc.get_traced_memory()[1] < SIZE + 200_000
    finally:
        tracemalloc.stop()
    assert (room[SIZE:] == 85).all()


def test_more_after_a_frame_is_refused() -> None:
    packed = np.frombuffer(frame() + b"more", np.uint8)
    with pytest.raises(ValueError, match="packed bytes do not hold"):
        codec.unpack(packed, SIZE)


def test_threads_do_not_share_contexts_or_scratch() -> None:
    arrays = [np.repeat(np.arange(200, dtype=np.uint8) + i, 500) for i in range(4)]
    packed = [codec.pack(array) for array in arrays]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(100):
            room = codec.scratch(len(arrays[i]))
            codec.unpack_into(packed[i], room)
            if not np.array_equal(room, arrays[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_scratch_is_used_again_and_aligned() -> None:
    first = codec.scratch(10_000)
    assert first.ctypes.data % 64 == 0
    assert codec.scratch(500).ctypes.data == first.ctypes.data
    for nbytes in (10_001, 10_002, 500, 20_000):
        assert len(codec.scratch(nbytes)) == nbytes
