"""Reading back what a `state_dict` gave: it may have lain on disk, and be anybody's.

Each function raises ValueError saying what was wanted and what came, before anything is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recollect.types import Array

LARGEST_COUNT = 2**62
"""No count comes near it, and sums of two stay within 64 bits."""


def array(state: Mapping[str, Any], name: str, like: Array) -> Array:
    """A copy of the array of this name, which must have shape and dtype of `like`."""
    found = member(state, name)
    if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != (like.shape, like.dtype):
        raise ValueError(f"{name} is {_form(found)}, {_form(like)} was wanted")
    return found.copy()


def column(state: Mapping[str, Any], name: str, dtype: Any = np.int64) -> Array:
    """A copy of the one-dimensional array of this name and dtype, of any length."""
    found = member(state, name)
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype != dtype:
        raise ValueError(f"{name} is {_form(found)}, {np.dtype(dtype)} of [n] was wanted")
    return found.copy()


def count(state: Mapping[str, Any], name: str, least: int = 0) -> int:
    """The whole number of this name, from `least`."""
    found = member(state, name)
    whole = isinstance(found, int) and not isinstance(found, bool)
    if not whole or not least <= found <= LARGEST_COUNT:
        raise ValueError(f"{name} is {_said(found)}, a whole number from {least} was wanted")
    return int(found)


def number(state: Mapping[str, Any], name: str) -> float:
    """The number of this name; it may be infinite or NaN."""
    found = member(state, name)
    small = isinstance(found, float) or (isinstance(found, int) and abs(found) <= LARGEST_COUNT)
    if not small or isinstance(found, bool):
        raise ValueError(f"{name} is {_said(found)}, a number was wanted")
    return float(found)


def figures(state: Mapping[str, Any], name: str) -> list[dict[str, float]]:
    """The list of dicts of numbers that `columns` made the dict of this name of."""
    found = part(state, name)
    arrays = [column(found, key, np.float64).tolist() for key in found]
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"{name} are not of one length")
    return [dict(zip(found, values, strict=True)) for values in zip(*arrays, strict=True)]


def columns(figures: Sequence[Mapping[str, float]]) -> dict[str, Array]:
    """Dicts of numbers, all with the same keys, as one array float64 for each key."""
    keys = figures[0].keys() if figures else ()
    return {key: np.array([each[key] for each in figures], np.float64) for key in keys}


def part(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The dict of this name."""
    found = member(state, name)
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} is {_form(found)}, a dict was wanted")
    return found


def member(state: Mapping[str, Any], name: str) -> Any:
    """What is there under this name."""
    if not isinstance(state, Mapping) or name not in state:
        raise ValueError(f"{name} is missing")
    return state[name]


def _form(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of {list(value.shape)}"
    return _said(value)


def _said(value: object) -> str:
    if isinstance(value, int | float | str | bool | None):
        return repr(value)[:40]
    return f"a {type(value).__name__}"
