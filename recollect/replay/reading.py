"""Reading a saved state, which may come from anybody: nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recollect.types import Array

LARGEST_COUNT = 2**53
"""Up to here a float64 tells every whole number from the next."""


def read(state: Mapping[str, Any], wanted: Mapping[str, tuple[str, int]]) -> list[Array]:
    """The arrays of a state, in the order of `wanted`.

    Args:
        state: what was saved.
        wanted: dtype and number of dimensions by name.
    Raises:
        ValueError: another set of names, or something of another kind than wanted.
    """
    if not isinstance(state, Mapping) or state.keys() != wanted.keys():
        found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"a state of {sorted(wanted)} was wanted, not {found}: it is damaged")
    return [_one(name, state[name], *kind) for name, kind in wanted.items()]


def read_count(name: str, number: Array) -> int:
    """The whole number [] that counts something.

    Raises:
        ValueError: it is negative, or above LARGEST_COUNT.
    """
    if not 0 <= int(number) <= LARGEST_COUNT:
        raise ValueError(f"{name} cannot be negative, nor above 2^53, and is {number}: damaged")
    return int(number)


def _one(name: str, value: Any, dtype: str, dimensions: int) -> Array:
    if not isinstance(value, np.ndarray | np.generic | int | float):
        raise ValueError(f"{name} must be an array, not {type(value).__name__}: it is damaged")
    array = np.asarray(value)
    if array.dtype != dtype or array.ndim != dimensions:
        raise ValueError(
            f"{name} must be {dtype} of {dimensions} dimensions, not {array.dtype} "
            f"{list(array.shape)}: the state is damaged"
        )
    return array
