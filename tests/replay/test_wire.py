"""What of replay travels comes out as it went in, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay import batch, wire
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.windows import Windows
from recollect.replay.wire import Drawn, Parcel
from recollect.types import Array, ArraySpec
from tests.replay.lived import (
    UNEVEN,
    assert_same_batch,
    cut,
    filled,
    geometries,
    make_episode,
    make_spec,
    messages,
)
from tests.runtime.faked import sent

SCREEN = {"screen": ArraySpec((150, 150), "uint8")}
"""A block of three steps is more than `_ALONE_BYTES`."""


def blocks_of(windows: Windows, lengths: list[int], **change: Any) -> tuple[BlockSpec, list[Block]]:
    spec = make_spec(windows, **change)
    episodes = [make_episode(spec, uid, steps) for uid, steps in enumerate(lengths)]
    return spec, [block for episode in episodes for block in cut(spec, episode)]


def large_blocks(number: int, codec: str) -> tuple[BlockSpec, list[Block]]:
    spec = replace(make_spec(UNEVEN, codec=codec), observation=SCREEN)
    blocks = []
    for uid in range(number):
        episode = make_episode(make_spec(UNEVEN), uid, 3)
        screens = np.random.default_rng(uid).integers(0, 256, (4, 150, 150))
        episode.frames = {"screen": screens.astype(np.uint8)}
        blocks += cut(spec, episode)
    return spec, blocks


def assert_same_blocks(found: list[Block], wanted: list[Block]) -> None:
    for one, other in zip(found, wanted, strict=True):
        for name in ("episode", "index", "steps", "last"):
            assert getattr(one, name) == getattr(other, name), name
        np.testing.assert_array_equal(one.buffer, other.buffer, strict=True)
        assert not one.buffer.flags.writeable


@given(
    windows=geometries(),
    lengths=st.lists(st.integers(1, 14), max_size=5),
    stack=st.integers(1, 3),
    codec=st.sampled_from(["none", "zstd"]),
    far=st.booleans(),
)
@settings(max_examples=60)
def test_blocks_come_out_bit_for_bit(
    windows: Windows, lengths: list[int], stack: int, codec: str, far: bool
) -> None:
    """S3-12: raw and packed, none, one and many."""
    spec, blocks = blocks_of(windows, lengths, stack=stack, codec=codec)
    parcel = wire.pack_blocks(blocks)
    assert parcel.nbytes == sum(block.nbytes for block in blocks) == sum(map(len, parcel.data))
    assert len(parcel.data) <= 1, "these are small: they travel together"
    assert_same_blocks(wire.unpack_blocks(spec, sent(parcel) if far else parcel), blocks)


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("number", [1, 4])
def test_large_blocks_travel_by_themselves_and_are_not_copied(number: int, codec: str) -> None:
    spec, blocks = large_blocks(number, codec)
    parcel = wire.pack_blocks(blocks)
    assert len(parcel.data) == number
    assert all(data is block.buffer for data, block in zip(parcel.data, blocks, strict=True))
    arrived = sent(parcel)
    found = wire.unpack_blocks(spec, arrived)
    assert_same_blocks(found, blocks)
    assert all(np.shares_memory(b.buffer, d) for b, d in zip(found, arrived.data, strict=True))


@given(windows=geometries(), lengths=st.lists(st.integers(1, 14), max_size=4))
def test_items_come_out_as_they_were(windows: Windows, lengths: list[int]) -> None:
    spec = make_spec(windows)
    items = []
    for uid, steps in enumerate(lengths):
        for _, some in messages(
            windows, cut(spec, make_episode(spec, uid, steps)), lambda k: k / 7
        ):
            items += some
    assert wire.unpack_items(sent(wire.pack_items(items))) == items


def test_episodes_of_any_number_keep_it() -> None:
    spec, (block, *_) = blocks_of(UNEVEN, [4])
    last = Block.from_buffer(spec, 2**62 + 5, 0, block.steps, block.last, block.buffer)
    assert wire.unpack_blocks(spec, sent(wire.pack_blocks([last, block])))[0].episode == 2**62 + 5


@given(
    windows=geometries(),
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=4),
    uniforms=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=9),
    codec=st.sampled_from(["none", "zstd"]),
)
@settings(max_examples=40)
def test_what_was_drawn_gathers_the_same_batch(
    windows: Windows, lengths: list[int], uniforms: list[float], codec: str
) -> None:
    replay, _ = filled(windows, lengths, codec=codec)
    draw = replay.draw(np.array(uniforms))
    drawn = sent(wire.pack_draw(draw))
    assert len(drawn.parcel.header) == len({id(block) for block in draw.blocks.flat}), "once each"
    places = np.arange(len(uniforms))
    again = wire.unpack_draws(replay.spec, [(drawn, places)], drawn.probabilities, len(replay))
    found = batch.gather(replay.spec, windows, again)
    assert_same_batch(found, replay.gather(draw))


# --- What does not fit ----------------------------------------------------------------------------


def parcel_of(number: int = 3) -> tuple[BlockSpec, Parcel]:
    spec, blocks = blocks_of(UNEVEN, [3] * number)
    return spec, wire.pack_blocks(blocks)


def changed(header: Array, at: tuple[int, int], value: int) -> Array:
    header = header.copy()
    header[at] = value
    return header


HEADERS: dict[str, Callable[[Array], Array]] = {
    "another dtype": lambda h: h.astype(np.float64),
    "too few columns": lambda h: h[:, :4],
    "flat": lambda h: h.ravel(),
    "a block more": lambda h: np.concatenate([h, h[:1]]),
    "a block less": lambda h: h[:-1],
    "bytes of the next": lambda h: changed(changed(h, (0, 4), h[0, 4] + 8), (1, 4), h[1, 4] - 8),
    "negative bytes": lambda h: changed(changed(h, (0, 4), -8), (1, 4), 2 * h[1, 4] + 8),
    "no bytes": lambda h: changed(changed(h, (0, 4), 0), (1, 4), 2 * h[1, 4]),
    "bytes that overflow": lambda h: changed(changed(h, (0, 4), 2**62), (1, 4), 2**62),
    "negative episode": lambda h: changed(h, (0, 0), -1),
    "negative index": lambda h: changed(h, (0, 1), -1),
    "too many steps": lambda h: changed(h, (0, 2), 4),
    "no steps": lambda h: changed(h, (0, 2), 0),
    "far too many steps": lambda h: changed(h, (0, 2), 2**62),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_does_not_fit_is_refused(name: str) -> None:
    spec, parcel = parcel_of()
    with pytest.raises(ValueError, match=r".+"):
        wire.unpack_blocks(spec, parcel._replace(header=HEADERS[name](parcel.header)))


@pytest.mark.parametrize(
    "data",
    [
        lambda d: (),
        lambda d: (d[0][:-1],),
        lambda d: (np.append(d[0], d[0][:1]),),
        lambda d: (d[0].astype(np.int8),),
        lambda d: (d[0].reshape(3, -1),),
        lambda d: (d[0], d[0]),
        lambda d: (d[0], d[0], d[0]),
    ],
)
def test_buffers_that_do_not_fit_are_refused(data: Callable[[Any], Any]) -> None:
    spec, parcel = parcel_of()
    with pytest.raises(ValueError, match=r".+"):
        wire.unpack_blocks(spec, parcel._replace(data=data(parcel.data)))


def test_blocks_of_another_spec_are_refused() -> None:
    _, parcel = parcel_of()
    with pytest.raises(ValueError, match="contiguous bytes"):
        wire.unpack_blocks(replace(make_spec(UNEVEN), observation=SCREEN), parcel)


@pytest.mark.parametrize(
    ("items", "priorities"),
    [
        (np.zeros((2, 6), np.int64), np.ones(3)),
        (np.zeros((2, 5), np.int64), np.ones(2)),
        (np.zeros((2, 6)), np.ones(2)),
        (np.zeros(12, np.int64), np.ones(12)),
    ],
)
def test_items_that_do_not_fit_are_refused(items: Array, priorities: Array) -> None:
    with pytest.raises(ValueError, match=r".+"):
        wire.unpack_items((items, priorities))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d._replace(windows=d.windows[:7]),
        lambda d: d._replace(windows=d.windows[:, :1]),
        lambda d: d._replace(probabilities=d.probabilities[:1]),
        lambda d: d._replace(chain=d.chain[:1]),
        lambda d: d._replace(chain=d.chain + 99),
        lambda d: d._replace(chain=d.chain - 99),
        lambda d: d._replace(chain=d.chain[:, :0]),
        lambda d: d._replace(chain=d.chain[0]),
        lambda d: d._replace(windows=np.where(np.arange(8)[:, None] == 7, 99, d.windows)),
        lambda d: d._replace(parcel=wire.pack_blocks([])),
    ],
)
def test_windows_over_blocks_that_did_not_come_are_refused(
    spoil: Callable[[Drawn], Drawn],
) -> None:
    """They are read by address later."""
    replay, _ = filled(UNEVEN, [9, 4])
    drawn = wire.pack_draw(replay.draw(np.array([0.1, 0.5, 0.9])))
    with pytest.raises(ValueError, match="came"):
        wire.unpack_draws(replay.spec, [(spoil(drawn), np.arange(3))], np.ones(3), 3)
