"""The kernels that copy rows from many blocks into one batch.

They read and write by address: who calls them keeps blocks and batch alive meanwhile, and they look
at every place before they touch it. They hold no lock of Python's: threads may share a batch, each
with other pieces.

A *piece* (b, k) is what the k-th block of window b gives. A batch lies in memory by time, [T, B,
...], or by window, [B, T, ...]. There the rows of a piece are one run, and copied as such; by time
they lie B rows apart, and the first rows of all pieces are copied, then the second ones, so that
what is written lies side by side again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Columns of a table of targets: what one field is copied to, and how.
ADDRESS, ROWS, TIME_STRIDE, BATCH_STRIDE, SIZE, FIELD, LEAD, CLOSING, FILL, STREAM = range(10)
# What stands in a table of cells for each target and window.
FIRST, COLUMN, COUNT = range(3)


@intrinsic
def _memcpy(typing_context, target, source, count):  # type: ignore[no-untyped-def]
    """Copy `count` bytes from one address to another."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, begin, size = arguments
        to = builder.inttoptr(to, cgutils.voidptr_t)
        begin = builder.inttoptr(begin, cgutils.voidptr_t)
        cgutils.raw_memcpy(builder, to, begin, size, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _memset(typing_context, target, count, value):  # type: ignore[no-untyped-def]
    """Set `count` bytes from an address on."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, size, byte = arguments
        to = builder.inttoptr(to, cgutils.voidptr_t)
        cgutils.memset(builder, to, size, builder.trunc(byte, ir.IntType(8)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _stream_line(typing_context, target, source):  # type: ignore[no-untyped-def]
    """Copy 64 bytes to an address that is a multiple of 64, past the caches."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        line = ir.VectorType(ir.IntType(64), 8).as_pointer()
        to, begin = (builder.inttoptr(argument, line) for argument in arguments)
        loaded = builder.load(begin)
        loaded.align = 1
        stored = builder.store(loaded, to)
        stored.align = 64
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        stored.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _fence(typing_context):  # type: ignore[no-untyped-def]
    """Wait until all that was written can be seen by other threads: streamed lines are not else."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


# As compiled code calls them.
copy_bytes: Any = _memcpy  # (target, source, count)
_set_bytes: Any = _memset  # (target, count, byte)
_copy_line: Any = _stream_line  # (target, source)
_wait: Any = _fence  # ()

_INTS = [types.Array(types.int64, n, "C", readonly=True) for n in range(4)]
_CELLS = types.Array(types.int64, 3, "C", readonly=True)


@njit([types.void(*[types.int64] * 3)], cache=True, nogil=True)
def _stream(target, source, size):  # type: ignore[no-untyped-def]
    """Copy `size` bytes; whole cache lines without reading what they replace."""
    done = min(-target & 63, size)
    copy_bytes(target, source, done)
    while done + 64 <= size:
        _copy_line(target + done, source + done)
        done += 64
    copy_bytes(target + done, source + done, size - done)


@njit([types.boolean(_INTS[2], _CELLS, types.int64, types.int64)], cache=True, nogil=True)
def fill_cells(targets, cells, begin, end):  # type: ignore[no-untyped-def]
    """Set all that no piece is copied to, of windows `begin` to `end`, to each target's FILL.

    Returns:
        False if what is to be copied would lie outside a target: then nothing may be copied.
    """
    for f in range(targets.shape[0]):
        target, rows, size = targets[f, ADDRESS], targets[f, ROWS], targets[f, SIZE]
        stride = targets[f, TIME_STRIDE]
        for b in range(begin, end):
            column, count = cells[f, COLUMN, b], cells[f, COUNT, b]
            if column < 0 or count < 0 or cells[f, FIRST, b] < 0 or column + count > rows:
                return False
            cell = target + b * targets[f, BATCH_STRIDE]
            for t in range(rows):
                if t < column or t >= column + count:
                    _set_bytes(cell + t * stride, size, targets[f, FILL])
    return True


@njit(
    [types.boolean(_INTS[2], _CELLS, _INTS[3], _INTS[1], _INTS[3], _INTS[2])],
    cache=True,
    nogil=True,
)
def copy_pieces(targets, cells, pieces, held, offsets, which):  # type: ignore[no-untyped-def]
    """Copy what some pieces give to every target.

    In target f, at [cells[f, COLUMN, b] + i, b] comes row cells[f, FIRST, b] + i of the chain of b,
    for 0 <= i < cells[f, COUNT, b]: rows are counted from the first of the chain's first block, and
    the `lead` rows of later blocks are passed over, for the rows before them say the same.

    Args:
        targets: [F, 10] the arrays to write to, one line each: address, rows, bytes from one time
            to the next and from one window to the next, bytes of a row, number of the field, its
            rows before a block's first step, its rows after the last step of an episode's last
            block, the byte for cells without a row, and whether whole lines are streamed.
        cells: [F, 3, B] first row, column and count.
        pieces: [B, K, 3] address, steps and last of the blocks of each chain.
        held: [B] how many blocks each chain has.
        offsets: the spec's.
        which: [n, 2] b and k of the pieces to copy.

    Returns:
        False if a chain has fewer rows than asked for, or its first block no such row, or a target
        less room: the copy stopped.
    """
    n = which.shape[0]
    period = offsets.shape[1] - 1
    sources, places, runs = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for f in range(targets.shape[0]):
        size, stride, field = targets[f, SIZE], targets[f, TIME_STRIDE], targets[f, FIELD]
        lead, closing = targets[f, LEAD], targets[f, CLOSING]
        longest = 0
        for i in range(n):
            b, k = which[i, 0], which[i, 1]
            first, column, count = cells[f, FIRST, b], cells[f, COLUMN, b], cells[f, COUNT, b]
            steps, last = pieces[b, k, 1], pieces[b, k, 2]
            row, done = first, 0
            if k > 0:
                # All blocks before are whole ones: those that are not are their chain's last.
                row, done = lead, max(0, lead + k * period - first)
            run = max(0, min(count - done, lead + steps + closing * last - row))
            short = steps < period or k == held[b] - 1
            if (short and done + run < count) or (k == 0 and run == 0 and count > 0):
                return False
            if first < 0 or column < 0 or column + count > targets[f, ROWS]:
                return False
            runs[i] = run
            longest = max(longest, run)
            sources[i] = pieces[b, k, 0] + offsets[last, steps, field] + row * size
            places[i] = (
                targets[f, ADDRESS] + b * targets[f, BATCH_STRIDE] + (column + done) * stride
            )
        # With a constant size a copy is one load and one store.
        if size == stride:
            for i in range(n):
                copy_bytes(places[i], sources[i], runs[i] * size)
        elif size == 4:
            for i in range(n):
                for t in range(runs[i]):
                    copy_bytes(places[i] + t * stride, sources[i] + t * 4, 4)
        elif size == 8:
            for i in range(n):
                for t in range(runs[i]):
                    copy_bytes(places[i] + t * stride, sources[i] + t * 8, 8)
        elif targets[f, STREAM]:
            for t in range(longest):
                for i in range(n):
                    if t < runs[i]:
                        _stream(places[i] + t * stride, sources[i] + t * size, size)
            _wait()
        else:
            for t in range(longest):
                for i in range(n):
                    if t < runs[i]:
                        copy_bytes(places[i] + t * stride, sources[i] + t * size, size)
    return True
