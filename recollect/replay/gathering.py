"""Copying the fields of a batch out of their blocks: unpacked where need be, on several threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from recollect.replay import codec
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.copying import copy_pieces, fill_cells
from recollect.replay.memory import address
from recollect.types import Array

_GROUP_BYTES = 1 << 20
"""Unpacked at once, if it is more than one block: what a core's own cache takes."""
_STREAM_BYTES = 16 << 20
"""Arrays of at least so much are written past the caches, which would not keep them."""
_STREAM_ROW = 1024
"""Rows of less are not: too much of them is parts of cache lines."""


class Copy:
    """What goes where: `add` each array of a batch, then `run`.

    Args:
        spec: of the blocks.
        batch: B.
    """

    def __init__(self, spec: BlockSpec, batch: int) -> None:
        self._spec, self._batch = spec, batch
        self._targets: list[tuple[int, ...]] = []
        self._cells: list[tuple[Array, Array, Array]] = []

    def add(
        self, array: Array, field: int, first: Array, count: Array, column: Array, fill: int = 0
    ) -> None:
        """Copy runs of one field's rows to `array`, one for each window.

        Args:
            array: [R, B, ...] contiguous, or with its first two axes swapped.
            field: number of the field.
            first: [B] row of the window's first block to begin with.
            count: [B] rows to copy.
            column: [B] row of `array` to begin at.
            fill: the byte that all other rows are set to.

        Raises:
            ValueError: the array lies otherwise, or its rows are not the field's.
        """
        one, row = self._spec.fields[field], self._spec.row_bytes[field]
        lies = array.flags.c_contiguous or array.swapaxes(0, 1).flags.c_contiguous
        if not lies or array.shape[1] != self._batch or not array.flags.writeable:
            raise ValueError(
                f"an array to write to must be contiguous and hold {self._batch} windows"
            )
        if array.nbytes != len(array) * self._batch * row:
            raise ValueError(f"an array to write {one.name} to must have rows of {row} bytes")
        strides = array.strides[:2]
        if array.flags.c_contiguous:  # of axes of length 1, numpy may say anything
            strides = (self._batch * row, row)
        streams = array.nbytes >= _STREAM_BYTES and row >= _STREAM_ROW
        lines = (row, field, one.lead, one.closing, fill, int(streams))
        self._targets.append((address(array), len(array), *strides, *lines))
        self._cells.append((first, column, count))

    def run(self, pieces: Array, held: Array, blocks: Array, threads: int) -> None:
        """Copy all.

        Args:
            pieces: [B, K, 3] int64 address, steps and last of the blocks of each window.
            held: [B] int64 how many of K these are.
            blocks: [B, K] the blocks.
            threads: that work at once.

        Raises:
            ValueError: a packed block is damaged.
            RuntimeError: windows, blocks and arrays do not fit each other.
        """
        targets, cells = np.array(self._targets, np.int64), np.array(self._cells, np.int64)

        def fill(part: int, parts: int) -> None:
            share = self._batch * part // parts, self._batch * (part + 1) // parts
            _require(fill_cells(targets, cells, *share))

        def copy(which: Array, pieces: Array) -> None:
            _require(copy_pieces(targets, cells, pieces, held, self._spec.offsets, which))

        # By block first: by time, the first rows of all windows are to be copied after another.
        k, b = np.nonzero(np.arange(pieces.shape[1])[:, None] < held)
        which = np.stack([b, k], axis=1)  # [n, 2]
        if self._spec.codec == "none":

            def work(part: int, parts: int) -> None:
                fill(part, parts)
                share = which[len(which) * part // parts : len(which) * (part + 1) // parts]
                copy(share, pieces)
        else:
            groups = self._groups(pieces, which)

            def work(part: int, parts: int) -> None:
                fill(part, parts)
                mine = pieces.copy()
                for group in groups[
                    len(groups) * part // parts : len(groups) * (part + 1) // parts
                ]:
                    self._unpack(mine, blocks, group)
                    copy(group, mine)

        _spread(work, threads)

    def _groups(self, pieces: Array, which: Array) -> list[Array]:
        """`which` cut where the blocks of one group are more than _GROUP_BYTES, each block once."""
        places = pieces[which[:, 0], which[:, 1]]  # [n, 3]
        order = np.argsort(places[:, 0], kind="stable")
        places, which = places[order], which[order]
        sizes = self._spec.offsets[places[:, 2], places[:, 1], -1]
        sizes[1:][np.diff(places[:, 0]) == 0] = 0
        groups = np.cumsum(sizes) // _GROUP_BYTES
        return np.split(which, np.flatnonzero(np.diff(groups)) + 1)

    def _unpack(self, pieces: Array, blocks: Array, group: Array) -> None:
        """Put into `pieces` where the blocks of a group lie unpacked, until the next group's do."""
        room = codec.scratch(_GROUP_BYTES + self._spec.nbytes(self._spec.period, True))
        begin, place, before = address(room), 0, None
        for b, k in group.tolist():
            block: Block = blocks[b, k]
            if block is not before and block.packed:
                codec.unpack_into(block.buffer, room[place : place + block.raw_nbytes])
                source, place = begin + place, place + block.raw_nbytes
            elif block is not before:
                source = block.address
            pieces[b, k, 0], before = source, block


def _require(fits: bool) -> None:
    if not fits:
        raise RuntimeError("a window and its blocks or its batch do not fit each other")


def _spread(work: Callable[[int, int], None], threads: int) -> None:
    """Call work(part, threads) for every part, each in a thread; the first error is raised."""
    others = [_pool(os.getpid(), threads).submit(work, part, threads) for part in range(1, threads)]
    try:
        work(0, threads)
    finally:  # nothing may be written after this has returned
        for other in others:
            other.exception()
    for other in others:
        other.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that are kept; a forked process has none of its parent's."""
    return ThreadPoolExecutor(threads - 1, "gather")
