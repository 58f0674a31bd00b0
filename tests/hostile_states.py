"""Trees of states: all their places, and what a stranger may put there instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recollect.run import checkpoint
from recollect.types import Buffers

MISSING = object()

INSTEAD: dict[str, Any] = {
    "missing": MISSING,
    "None": None,
    "text": "text",
    "a list": [1, 2],
    "an empty list": [],
    "a dict": {},
    "True": True,
    "-1": -1,
    "2^62": 2**62,
    "2^63": 2**63,
    "2^70": 2**70,
    "2^2000": 2**2000,
    "NaN": float("nan"),
    "inf": float("inf"),
    "1e300": 1e300,
    "no dimension": np.array(3),
    "nothing in 2^40 rows": np.zeros((2**40, 0), np.float32),
    "text in an array": np.array(["x"]),
}


def on_disk(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The state as a checkpoint gives it back."""
    meta = {"env_steps": 0}
    saved = checkpoint.Checkpoints(folder).save("last", parameters={}, meta=meta, state=state)
    found = checkpoint.load(saved.path).state
    assert found is not None
    return dict(found)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all that stands in a tree, inner dicts and lists too."""
    if path:
        yield path
    if isinstance(tree, Mapping):
        for key in tree:
            yield from places(tree[key], (*path, key))
    elif isinstance(tree, list):
        for index, inner in enumerate(tree):
            yield from places(inner, (*path, index))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    """What stands there."""
    for key in path:
        tree = tree[key]
    return tree


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A tree with another value at `path`, or nothing; the rest is shared."""
    key, *rest = path
    inner = replaced(tree[key], tuple(rest), value) if rest else value
    if isinstance(tree, list):
        return [
            each
            for i, each in enumerate([*tree[:key], inner, *tree[key + 1 :]])
            if i != key or inner is not MISSING
        ]
    return {k: v for k, v in {**tree, key: inner}.items() if v is not MISSING}


def instead_of(value: Any) -> dict[str, Any]:
    """What else may stand there, by what it is called."""
    others = dict(INSTEAD)
    if isinstance(value, Mapping):
        others["one more key"] = {**value, "more": 1}
    if isinstance(value, Buffers) and len(value.arrays):
        others["one less"] = Buffers(value.numbers[1:], value.arrays[1:])
        others["cut"] = Buffers(value.numbers, [buffer[:-1] for buffer in value.arrays])
    if isinstance(value, np.ndarray):
        others |= {
            "empty": value.reshape(-1)[:0],
            "longer": np.concatenate([value.reshape(-1), value.reshape(-1)[:1]]),
            "another shape": value[None],
            "other numbers": np.zeros(
                value.shape, np.float16 if value.dtype != np.float16 else np.int8
            ),
        }
        extremes: list[Any] = [np.nan, np.inf, -np.inf, 1e30]
        if value.dtype.kind in "iu":
            extremes = [-(2**62), -2, -1, 0, 1, 2**31, 2**62, 2**63 - 1]
        if value.dtype.kind == "b":
            extremes = [False, True]
        for extreme in extremes:
            with np.errstate(all="ignore"):
                filled = np.full_like(value, np.asarray(extreme).astype(value.dtype))
            others[f"full of {extreme}"] = filled
            if filled.size:
                one = value.copy()
                one.reshape(-1)[0] = filled.reshape(-1)[0]
                others[f"beginning with {extreme}"] = one
                one = value.copy()
                one.reshape(-1)[-1] = filled.reshape(-1)[0]
                others[f"ending with {extreme}"] = one
    return others
