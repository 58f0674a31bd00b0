"""Bytes in memory that begin where processors like them to."""

from __future__ import annotations

import numpy as np

from recollect.types import Array

ALIGNMENT = 64  # bytes: a cache line, and what processors and pinned copies like
PAGE = 4096  # bytes: what is pinned for a GPU is pinned by the page


def address(array: Array) -> int:
    """Where the array begins."""
    return int(array.__array_interface__["data"][0])


def aligned_zeros(nbytes: int, alignment: int = ALIGNMENT) -> Array:
    """[nbytes] uint8 zeros that begin at a multiple of `alignment`."""
    return _cut(np.zeros(nbytes + alignment, np.uint8), nbytes, alignment)


def aligned_empty(nbytes: int, alignment: int = ALIGNMENT) -> Array:
    """[nbytes] uint8 that begin at a multiple of `alignment` and are not set."""
    return _cut(np.empty(nbytes + alignment, np.uint8), nbytes, alignment)


def aligned_copy(buffer: Array) -> Array:
    """A read-only copy of a row of bytes, at a multiple of ALIGNMENT.

    Raises:
        ValueError: it is not a row of bytes.
    """
    if buffer.dtype != np.uint8 or buffer.ndim != 1:
        raise ValueError(f"a buffer is a row of bytes, not {buffer.dtype} {buffer.shape}")
    copy = aligned_empty(len(buffer))
    copy[...] = buffer
    copy.setflags(write=False)
    return copy


def _cut(room: Array, nbytes: int, alignment: int) -> Array:
    start = -address(room) % alignment
    return room[start : start + nbytes]
