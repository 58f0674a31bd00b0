"""The kernel that copies rows from many blocks into one batch.

It reads by address: who calls it keeps the blocks alive meanwhile.
"""

from __future__ import annotations

from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


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


_copy_bytes: Any = _memcpy  # as compiled code calls it: (target, source, count)


_INTS = [types.Array(types.int64, n, "C", readonly=True) for n in range(4)]


@njit(
    [
        types.boolean(
            types.Array(types.uint8, 3, "C"),
            _INTS[3],
            _INTS[1],
            _INTS[3],
            *[types.int64] * 3,
            *[_INTS[1]] * 3,
            types.uint8,
        )
    ],
    cache=True,
    nogil=True,
)
def copy_rows(  # type: ignore[no-untyped-def]
    out, pieces, held, offsets, field, lead, closing, first, column, count, fill
):
    """Copy runs of one field's rows out of chains of blocks, one chain per member of a batch.

    out[column[b] + i, b] is row first[b] + i of chain b for 0 <= i < count[b]: rows are counted
    from the first of the chain's first block, and the `lead` rows of later blocks are passed over,
    for the rows before them say the same. Every other byte of `out` is set to `fill`.

    Args:
        out: [R, B, bytes of a row] uint8.
        pieces: [B, K, 3] address, steps and last of the blocks of each chain.
        held: [B] how many blocks each chain has.
        offsets: the spec's.
        field: number of the field.
        lead: its rows before a block's first step.
        closing: its rows after the last step of an episode's last block.
        first: [B] row of the first block to begin with.
        column: [B] row of `out` to begin at.
        count: [B] rows to copy.
        fill: a byte.

    Returns:
        False if a chain had fewer rows than asked for, or `out` less room: then the copy stopped.
    """
    rows, batch, size = out.shape
    begin = out.ctypes.data
    stride = batch * size
    for b in range(batch):
        until = column[b] + count[b]
        if column[b] < 0 or count[b] < 0 or first[b] < 0 or until > rows:
            return False
        for t in range(rows):
            if t < column[b] or t >= until:
                out[t, b, :] = fill
        target = begin + column[b] * stride + b * size
        left = count[b]
        row = first[b]
        k = 0
        while left > 0:
            if k >= held[b]:
                return False
            steps = pieces[b, k, 1]
            last = pieces[b, k, 2]
            run = min(left, lead + steps + closing * last - row)
            if run <= 0:
                return False
            source = pieces[b, k, 0] + offsets[last, steps, field] + row * size
            # With a constant size a copy is one load and one store.
            if size == 4:
                for _ in range(run):
                    _copy_bytes(target, source, 4)
                    target += stride
                    source += 4
            elif size == 8:
                for _ in range(run):
                    _copy_bytes(target, source, 8)
                    target += stride
                    source += 8
            else:
                for _ in range(run):
                    _copy_bytes(target, source, size)
                    target += stride
                    source += size
            left -= run
            row = lead
            k += 1
    return True
