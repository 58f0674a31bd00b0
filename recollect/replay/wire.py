"""Blocks, items and draws as arrays: what of replay travels from one process to another.

A message has few arrays, for each costs about as much as copying some ten kilobytes: packed blocks
stand one after another in one, blocks that are large by themselves are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recollect.replay.batch import Draw
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Item
from recollect.types import Array

_ALONE_BYTES = 1 << 16
"""Blocks of at least so many bytes on average are arrays of their own."""

_WINDOW = ("slots", "uids", "start", "prefix", "learned", "tail", "version", "held")


class Parcel(NamedTuple):
    """Blocks on their way.

    Attributes:
        header: [n, 5] int64: episode, index, steps, last, bytes.
        data: their buffers: one array uint8 with all of them, or one for each.
    """

    header: Array
    data: tuple[Array, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return int(self.header[:, 4].sum())


class Drawn(NamedTuple):
    """Windows that were drawn from one store, and the blocks they lie in, each once.

    Attributes:
        windows: [8, B] int64: slots, uids, start, prefix, learned, tail, version, held of a `Draw`.
        probabilities: [B] float64, likewise.
        chain: [B, K] int64, which blocks of the parcel each window lies in.
        parcel: the blocks.
    """

    windows: Array
    probabilities: Array
    chain: Array
    parcel: Parcel


def pack_blocks(blocks: Sequence[Block]) -> Parcel:
    """Blocks for the way; their buffers are copied only where they are small."""
    header = np.array(
        [(b.episode, b.index, b.steps, b.last, b.nbytes) for b in blocks], np.int64
    ).reshape(-1, 5)
    buffers = tuple(block.buffer for block in blocks)
    if len(buffers) > 1 and header[:, 4].mean() < _ALONE_BYTES:
        buffers = (np.concatenate(buffers),)
    return Parcel(header, buffers)


def unpack_blocks(spec: BlockSpec, parcel: Parcel) -> list[Block]:
    """The blocks again; their bytes are those of the parcel where these are aligned.

    Raises:
        ValueError: a block of another size than the spec's, buffers that do not fit the header.
    """
    header, data = parcel
    _check_table("a header of blocks", header, 5)
    sizes = [len(each) for each in data]
    if not (
        len(data) in (min(1, len(header)), len(header))
        and all(each.dtype == np.uint8 and each.ndim == 1 for each in data)
        and (header[:, 4] >= 0).all()
        and (sizes == header[:, 4].tolist() or sizes == [sum(header[:, 4].tolist())])
    ):
        raise ValueError(f"buffers of {sizes} bytes came for blocks of {header[:, 4].tolist()}")
    ends = np.cumsum(header[:, 4]).tolist()
    together = len(data) == 1
    blocks = []
    for i, (episode, index, steps, last, nbytes) in enumerate(header.tolist()):
        buffer = data[0][ends[i] - nbytes : ends[i]] if together else data[i]
        blocks.append(Block.from_buffer(spec, episode, index, steps, bool(last), buffer))
    return blocks


def pack_items(items: Sequence[Item]) -> tuple[Array, Array]:
    """Items as [m, 6] int64 and their priorities [m] float64."""
    numbers = [(i.episode, i.start, i.prefix, i.learned, i.tail, i.version) for i in items]
    priorities = np.array([item.priority for item in items], np.float64)
    return np.array(numbers, np.int64).reshape(-1, 6), priorities


def unpack_items(packed: tuple[Array, Array]) -> list[Item]:
    """The items again.

    Raises:
        ValueError: the arrays are others, or not of one length.
    """
    _check_table("items", packed[0], 6)
    found = []
    for line, priority in zip(packed[0].tolist(), packed[1].tolist(), strict=True):
        episode, start, prefix, learned, tail, version = line
        found.append(Item(episode, start, prefix, learned, tail, priority, version))
    return found


def pack_draw(draw: Draw) -> Drawn:
    """What was drawn, for the way."""
    # Where its bytes begin tells a block from all others.
    _, first, chain = np.unique(draw.pieces[:, :, 0], return_index=True, return_inverse=True)
    windows = np.stack([getattr(draw, name) for name in _WINDOW])
    parcel = pack_blocks(draw.blocks.ravel()[first].tolist())
    return Drawn(windows, draw.probabilities, chain.reshape(draw.blocks.shape), parcel)


def unpack_draws(
    spec: BlockSpec, parts: Sequence[tuple[Drawn, Array]], probabilities: Array, size: int
) -> Draw:
    """One draw out of those of several stores.

    Args:
        spec: of the blocks.
        parts: what each store drew, and where in the batch it stands: [n] of 0 .. B - 1.
        probabilities: [B] with which each window was drawn.
        size: items in all stores together.
    Raises:
        ValueError: blocks as of `unpack_blocks`, or a window of blocks that did not come.
    """
    batch = len(probabilities)
    for drawn, places in parts:
        _check_drawn(drawn, len(places))
    depth = max(drawn.chain.shape[1] for drawn, _ in parts)
    windows = np.zeros((len(_WINDOW), batch), np.int64)
    pieces = np.zeros((batch, depth, 3), np.int64)
    bodies = np.empty((batch, depth), object)
    for drawn, places in parts:
        windows[:, places] = drawn.windows
        blocks = unpack_blocks(spec, drawn.parcel)
        table = np.array([(b.address, b.steps, b.last) for b in blocks], np.int64)
        row = np.empty(len(blocks), object)
        row[:] = blocks
        # Beyond a window's last block its first one stands in, and is not read.
        short = depth - drawn.chain.shape[1]
        chain = np.concatenate([drawn.chain, np.repeat(drawn.chain[:, :1], short, axis=1)], axis=1)
        pieces[places], bodies[places] = table[chain], row[chain]
    return Draw(
        **dict(zip(_WINDOW, windows, strict=True)),
        probabilities=probabilities,
        size=size,
        pieces=pieces,
        blocks=bodies,
    )


def _check_table(name: str, table: Array, columns: int) -> None:
    """Raise ValueError unless it is [n, columns] int64."""
    if table.dtype != np.int64 or table.ndim != 2 or table.shape[1] != columns:
        raise ValueError(
            f"{name} must be int64 [n, {columns}], not {table.dtype} {list(table.shape)}"
        )


def _check_drawn(drawn: Drawn, batch: int) -> None:
    """Raise ValueError unless these are `batch` windows over blocks that came with them."""
    windows, chain, blocks = drawn.windows, drawn.chain, len(drawn.parcel.header)
    if (
        windows.shape != (len(_WINDOW), batch)
        or drawn.probabilities.shape != (batch,)
        or chain.ndim != 2
        or len(chain) != batch
    ):
        raise ValueError(
            f"{batch} windows were asked for, {list(windows.shape)} with probabilities "
            f"{list(drawn.probabilities.shape)} and blocks {list(chain.shape)} came"
        )
    held = windows[_WINDOW.index("held")]
    if not chain.size or chain.min() < 0 or chain.max() >= blocks or held.max() > chain.shape[1]:
        raise ValueError(f"windows over blocks came that did not come, of which there are {blocks}")
