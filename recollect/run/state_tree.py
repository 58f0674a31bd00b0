"""A state as a tree: JSON for its shape and plain values, arrays beside it by their path.

A path is an RFC 6901 pointer: `/replay/items/0`, with `~1` for a slash in a key and `~0` for `~`.
In the JSON an object with the one key `$` stands for what lies elsewhere: `{"$": "array"}`,
`{"$": "scalar"}` (a numpy number), `{"$": "buffers"}`. A key of the tree that begins with `$` gets
one more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import numpy as np

from recollect.run import strict_json, tensors
from recollect.run.damage import CheckpointError, shown
from recollect.run.files import CHUNK_BYTES
from recollect.types import Array, Buffers


@dataclass(frozen=True)
class Flat:
    """A tree taken apart: JSON, and arrays and buffers by path."""

    tree: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)
    buffers: dict[str, Buffers] = field(default_factory=dict)


def flatten(state: Mapping[str, Any]) -> Flat:
    """Take a tree apart; nothing is copied but arrays that are not in C order.

    Args:
        state: nested dicts with text as keys, lists, tuples (which come back as lists), numbers,
            text, None, numpy arrays and numbers, `Buffers`.
    Raises:
        ValueError: it holds anything else, or is nested too deep; its path is named.
    """
    flat = Flat({})
    flat.tree.update(_flatten(state, "", flat, 1))
    return flat


def rebuild(flat: Flat, where: object) -> dict[str, Any]:
    """The tree again.

    Raises:
        CheckpointError: something is missing, left over, or is not a tree of `flatten`.
    """
    used: set[str] = set()
    state = _rebuild(flat.tree, "", flat, used, where)
    left = (flat.arrays.keys() | flat.buffers.keys()) - used
    if left:
        raise CheckpointError(f"{where}: expected a place for each array, found {shown(min(left))}")
    if not isinstance(state, dict):
        raise CheckpointError(f"{where}: expected a tree, found {shown(flat.tree)}")
    return state


def places(tree: object, path: str = "") -> Iterator[str]:
    """The paths of a JSON tree's buffers."""
    if isinstance(tree, dict) and "$" in tree:
        if tree["$"] == "buffers":
            yield path
    elif isinstance(tree, dict):
        for key, inner in tree.items():
            yield from places(inner, below(path, _unescaped(key)))
    elif isinstance(tree, list):
        for index, inner in enumerate(tree):
            yield from places(inner, f"{path}/{index}")


def digest(state: Mapping[str, Any]) -> str:
    """SHA-256 over all of a state: equal for equal bytes, types and shapes, in whatever order."""
    flat = flatten(state)
    found = hashlib.sha256(json.dumps(flat.tree, sort_keys=True).encode())
    for path in sorted(flat.arrays):
        array = flat.arrays[path]
        found.update(json.dumps([path, array.dtype.name, array.shape]).encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    for path in sorted(flat.buffers):
        buffers = flat.buffers[path]
        sizes = lengths(buffers.arrays)
        found.update(json.dumps([path, len(sizes)]).encode())
        found.update(buffers.numbers.astype("<i8").data)
        found.update(sizes.astype("<i8").data)
        for piece in joined(buffers.arrays, sizes):
            found.update(piece if isinstance(piece, bytes) else piece.data)
    return found.hexdigest()


def lengths(arrays: Sequence[Array]) -> Array:
    """[n] int64, bytes of each.

    Raises:
        ValueError: one is no array of bytes.
    """
    try:
        return np.fromiter(map(len, arrays), np.int64, len(arrays))
    except TypeError as error:
        raise ValueError(f"a buffer is not an array uint8 [bytes]: {error}") from error


def joined(arrays: Sequence[Array], sizes: Array) -> Iterator[bytes | Array]:
    """The bytes of all, one after another, in pieces of about CHUNK_BYTES.

    Raises:
        ValueError: one is not uint8 [bytes] in C order.
    """
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(CHUNK_BYTES, total, CHUNK_BYTES))
    # Cut behind as well: what is larger than a piece is then alone, and not copied.
    counts = np.diff(np.unique(np.concatenate(([0], cuts, cuts + 1, [len(sizes)])))).tolist()
    rest = iter(arrays)
    done = 0
    for count in counts:
        group = list(islice(rest, count))
        wanted = int(sizes[done : done + count].sum())
        done += count
        alone = count == 1 and isinstance(group[0], np.ndarray) and group[0].flags.c_contiguous
        try:
            piece = group[0] if alone else b"".join(cast(list[bytes], group))
        except (BufferError, TypeError) as error:
            raise ValueError(
                f"a buffer is not an array uint8 [bytes] in C order: {error}"
            ) from error
        if memoryview(cast(bytes, piece)).nbytes != wanted:
            raise ValueError(
                "a buffer is not an array uint8 [bytes]: it holds more than its length"
            )
        yield piece


def below(path: str, key: str) -> str:
    """The path of what stands under a key."""
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def _flatten(value: object, path: str, flat: Flat, depth: int) -> Any:
    if depth > strict_json.DEPTH_LIMIT - 2:
        raise ValueError(f"{shown(path)} is nested deeper than {strict_json.DEPTH_LIMIT - 2}")
    if isinstance(value, Mapping):
        tree = {}
        for key, inner in value.items():
            if type(key) is not str:
                raise ValueError(f"{path or '/'} has the key {shown(key)}: keys must be text")
            escaped = f"${key}" if key.startswith("$") else key
            tree[escaped] = _flatten(inner, below(path, key), flat, depth + 1)
        return tree
    if isinstance(value, list | tuple):
        return [_flatten(each, f"{path}/{i}", flat, depth + 1) for i, each in enumerate(value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        flat.arrays[path] = tensors.packed(path, np.asarray(value))
        return {"$": "array" if isinstance(value, np.ndarray) else "scalar"}
    if isinstance(value, Buffers):
        _check_buffers(path, value)
        flat.buffers[path] = value
        return {"$": "buffers"}
    raise ValueError(
        f"{path} is a {type(value).__name__}, and a state holds dicts, lists, numbers, text, None, "
        "numpy arrays and Buffers"
    )


def _check_buffers(path: str, buffers: Buffers) -> None:
    numbers = buffers.numbers
    if numbers.dtype != np.int64 or numbers.ndim != 1 or len(numbers) != len(buffers.arrays):
        raise ValueError(
            f"{path}: wanted numbers [{len(buffers.arrays)}] int64, one for each buffer, got "
            f"{list(numbers.shape)} {numbers.dtype}"
        )
    if len(numbers) and not (numbers[1:] > numbers[:-1]).all():
        raise ValueError(f"{path}: the numbers of buffers must rise")


def _unescaped(key: str) -> str:
    return key[1:] if key.startswith("$") else key


def _rebuild(tree: Any, path: str, flat: Flat, used: set[str], where: object) -> Any:
    if isinstance(tree, list):
        return [_rebuild(each, f"{path}/{i}", flat, used, where) for i, each in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    if "$" in tree:
        return _leaf(tree, path, flat, used, where)
    state = {}
    for key, inner in tree.items():
        if key.startswith("$") and not key.startswith("$$"):
            raise CheckpointError(f"{where}: expected a key, found {shown(key)}")
        name = _unescaped(key)
        state[name] = _rebuild(inner, below(path, name), flat, used, where)
    return state


def _leaf(tree: dict[str, Any], path: str, flat: Flat, used: set[str], where: object) -> Any:
    kind = tree["$"] if len(tree) == 1 else tree
    found = (flat.buffers if kind == "buffers" else flat.arrays).get(path)
    if kind not in ("array", "scalar", "buffers"):
        raise CheckpointError(f"{where}: expected a kind of array, found {shown(kind)}")
    if found is None:
        raise CheckpointError(f"{where}: expected {kind} at {shown(path)}, found nothing")
    used.add(path)
    if kind != "scalar":
        return found
    if not isinstance(found, np.ndarray) or found.ndim:
        raise CheckpointError(f"{where}: expected a number at {shown(path)}, found an array")
    return found[()]
