"""Random numbers as a pure function of what they are for: Philox4x32-10, counter-based.

A draw is named by the run's seed, its purpose, the environment slot, the episode, the epoch of the
part that draws and the step. It depends on nothing else: not on other draws, their order, how slots
are spread over processes, or a restart.

Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import math
import operator
from enum import IntEnum

import numba
import numpy as np
import numpy.typing as npt

Integers = int | np.integer | npt.NDArray[np.integer]

_WORD = 0xFFFFFFFF
# Typed, for numba would take a plain integer for signed and mix it with uint64 into float64.
_LOW = np.uint64(_WORD)
_32 = np.uint64(32)
_11 = np.uint64(11)
_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)
_WEYL_1 = np.uint64(0xBB67AE85)
_ROUNDS = 10


class Purpose(IntEnum):
    """What a draw is for. The numbers are part of every recorded run: add, never renumber."""

    EXPLORATION = 1
    RESET = 2
    SAMPLING = 3
    EVALUATION = 4
    EVALUATION_RESET = 5
    INITIALISATION = 6


def bits(
    key0: Integers, key1: Integers, c0: Integers, c1: Integers, c2: Integers, c3: Integers
) -> npt.NDArray[np.uint32]:
    """Philox4x32-10 of the counter (c0, c1, c2, c3) under the key (key0, key1).

    Args:
        key0: first word of the key; all six are integers in [0, 2^32) and broadcast together.
        key1: second word of the key.
        c0: first word of the counter.
        c1: second word of the counter.
        c2: third word of the counter.
        c3: fourth word of the counter.
    Returns:
        [..., 4] uint32 random words.
    Raises:
        ValueError: a word is outside [0, 2^32).
        TypeError: a word is not an integer.
    """
    words, shape = _words(key0, key1, c0, c1, c2, c3)
    out = np.empty((words.shape[1], 4), np.uint32)
    if not _fill_bits(words, out):
        raise _out_of_range(words)
    return out.reshape(*shape, 4)


def uniforms(
    seed: int, purpose: int, slot: Integers, episode: Integers, epoch: Integers, step: Integers
) -> npt.NDArray[np.float64]:
    """Two uniforms in [0, 1), of 53 random bits each, for each (slot, episode, epoch, step).

    The key is (seed's low 32 bits, seed's high 32 bits xor purpose), the counter (step, episode,
    slot, epoch); words w of `bits` make (w0 + 2^32 w1) >> 11 and (w2 + 2^32 w3) >> 11, over 2^53.

    Args:
        seed: of the run, in [0, 2^64).
        purpose: a `Purpose`.
        slot: global number of the environment slot; this and the next three are integers in
            [0, 2^32) and broadcast together.
        episode: number of the episode in its slot.
        epoch: how often the part that draws was restarted anew.
        step: number of the step in its episode.
    Returns:
        [..., 2] float64.
    Raises:
        ValueError: the seed is outside [0, 2^64), or another number outside [0, 2^32).
        TypeError: one of them is not an integer.
    """
    low, high = _key(seed, purpose)
    counters, shape = _words(step, episode, slot, epoch)
    out = np.empty((counters.shape[1], 2))
    if not _fill_uniforms(low, high, counters, out):
        raise _out_of_range(counters)
    return out.reshape(*shape, 2)


def seeds(
    seed: int, purpose: int, slot: Integers, episode: Integers, epoch: Integers
) -> npt.NDArray[np.int64]:
    """Seeds in [0, 2^31) for the resets of environments, one for each (slot, episode, epoch).

    Args:
        seed: of the run, in [0, 2^64).
        purpose: a `Purpose`.
        slot: global number of the environment slot; this and the next two are integers in
            [0, 2^32) and broadcast together.
        episode: number of the episode in its slot.
        epoch: how often the part that draws was restarted anew.
    Returns:
        [...] int64: the upper 31 bits of the first word of `bits` at step 0, keyed as `uniforms`.
    Raises:
        ValueError: the seed is outside [0, 2^64), or another number outside [0, 2^32).
        TypeError: one of them is not an integer.
    """
    low, high = _key(seed, purpose)
    return (bits(low, high, 0, episode, slot, epoch)[..., 0] >> np.uint32(1)).astype(np.int64)


def _key(seed: int, purpose: int) -> tuple[int, int]:
    number = operator.index(seed)
    if not 0 <= number < 1 << 64:
        raise ValueError(f"seed must be in [0, 2^64), got {number}: take one that fits 64 bits")
    use = operator.index(purpose)
    if not 0 <= use <= _WORD:
        raise ValueError(f"purpose must be in [0, 2^32), got {use}: take one of `Purpose`")
    return number & _WORD, (number >> 32) ^ use


def _words(*columns: Integers) -> tuple[npt.NDArray[np.int64], tuple[int, ...]]:
    """The words of each draw, [columns, draws], and the shape the columns broadcast to."""
    shape = np.broadcast(*columns).shape
    words = np.empty((len(columns), *shape), np.int64)
    for i, column in enumerate(columns):
        np.copyto(words[i, ...], column, casting="same_kind")
    return words.reshape(len(columns), math.prod(shape)), shape


def _out_of_range(words: npt.NDArray[np.int64]) -> ValueError:
    wrong = words[(words < 0) | (words > _WORD)]
    return ValueError(
        f"every word of key and counter must be in [0, 2^32), got {wrong[0]}: "
        "count slots, episodes, epochs and steps from 0"
    )


@numba.njit(cache=True, nogil=True)
def _philox(key0, key1, counter0, counter1, counter2, counter3):  # type: ignore[no-untyped-def]
    """The four output words of one draw, as uint64."""
    k0, k1 = np.uint64(key0), np.uint64(key1)
    c0, c1 = np.uint64(counter0), np.uint64(counter1)
    c2, c3 = np.uint64(counter2), np.uint64(counter3)
    for _ in range(_ROUNDS):
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (
            (product_1 >> _32) ^ c1 ^ k0,
            product_1 & _LOW,
            (product_0 >> _32) ^ c3 ^ k1,
            product_0 & _LOW,
        )
        k0 = (k0 + _WEYL_0) & _LOW
        k1 = (k1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3


@numba.njit(cache=True, nogil=True)
def _in_range(words):  # type: ignore[no-untyped-def]
    excess = np.int64(0)
    for word in words.flat:
        excess |= word >> 32  # not 0 for a negative word, nor for one above 32 bits
    return excess == 0


@numba.njit(cache=True, nogil=True)
def _fill_bits(words, out):  # type: ignore[no-untyped-def]
    for i in range(words.shape[1]):
        out[i] = _philox(
            words[0, i], words[1, i], words[2, i], words[3, i], words[4, i], words[5, i]
        )
    return _in_range(words)


@numba.njit(cache=True, nogil=True)
def _fill_uniforms(key0, key1, counters, out):  # type: ignore[no-untyped-def]
    for i in range(counters.shape[1]):
        w0, w1, w2, w3 = _philox(
            key0, key1, counters[0, i], counters[1, i], counters[2, i], counters[3, i]
        )
        out[i, 0] = ((w0 | w1 << _32) >> _11) * 2.0**-53
        out[i, 1] = ((w2 | w3 << _32) >> _11) * 2.0**-53
    return _in_range(counters)
