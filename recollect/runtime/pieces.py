"""A part's state on its way between its process and the driver: buffers in pieces.

Replay's blocks can be more than any message should hold. They stay behind when a state is taken, as
`Elsewhere`, and are fetched some at a time; those that the last checkpoint has on disk are not
fetched at all. Those of a state that is given back are sent ahead likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recollect.run.state_tree import below
from recollect.types import Array, Buffers

PIECE_BYTES = 32 << 20
"""Of a state's buffers, that travel at once."""

OnDisk = Mapping[str, Buffers]
"""Buffers that a state's writer has already, by place."""

Ask = Callable[..., Any]
"""Asks a part's host, a method and its arguments, and waits for the answer."""


@dataclass(frozen=True)
class Elsewhere:
    """Stands in a state for `Buffers` that did not come along: see `fetched`."""

    numbers: Array


# --- In the part's process -----------------------------------------------------------------------


def taken_out(tree: Any, place: str, found: dict[str, Buffers]) -> Any:
    """A state without its buffers, which go to `found` by place."""
    if isinstance(tree, Buffers):
        found[place] = tree
        return Elsewhere(tree.numbers)
    if isinstance(tree, Mapping):
        return {key: taken_out(x, below(place, key), found) for key, x in tree.items()}
    return tree


def put_back(tree: Any, place: str, given: Mapping[str, tuple[list[int], list[Array]]]) -> Any:
    """A state with the buffers that were given: numbers and arrays by place."""
    if isinstance(tree, Elsewhere):
        numbers, arrays = given.get(place, ([], []))
        for array in arrays:
            array.setflags(write=False)
        return Buffers(np.array(numbers, np.int64), arrays)
    if isinstance(tree, Mapping):
        return {key: put_back(x, below(place, key), given) for key, x in tree.items()}
    return tree


# --- In the driver's -----------------------------------------------------------------------------


def fetched(ask: Ask, tree: Any, above: str, on_disk: OnDisk, place: str = "") -> Any:
    """A part's state with the buffers that stayed behind.

    Args:
        ask: asks the part's host.
        tree: as `taken_out` left it.
        above: where the part stands in the state of all, for `on_disk`.
        on_disk: what need not be fetched.
        place: of the tree in the part's state.
    """
    if isinstance(tree, Mapping):
        return {k: fetched(ask, x, above, on_disk, below(place, k)) for k, x in tree.items()}
    if not isinstance(tree, Elsewhere):
        return tree
    known = on_disk.get(above + place, Buffers(np.empty(0, np.int64), []))
    at = np.searchsorted(known.numbers, tree.numbers)
    inside = at < len(known.numbers)
    inside[inside] = known.numbers[at[inside]] == tree.numbers[inside]
    missing = tree.numbers[~inside]
    news: list[Array] = []
    size = 1  # more, once it is known how large they are
    while len(news) < len(missing):
        came = ask("pieces", place, missing[len(news) : len(news) + size])
        news += came
        size = max(1, int(PIECE_BYTES / max(1.0, sum(map(len, came)) / len(came))))
    return Buffers(tree.numbers, _Both(known.arrays, at, news, inside))


def without_buffers(tree: Any) -> Any:
    """A part's state without its buffers, which are sent ahead: see `sent_ahead`."""
    if isinstance(tree, Mapping):
        return {key: without_buffers(x) for key, x in tree.items()}
    return Elsewhere(tree.numbers) if isinstance(tree, Buffers) else tree


def sent_ahead(tree: Any, place: str = "") -> Iterator[tuple[str, Array, list[Array]]]:
    """The buffers of a part's state as a host's `give` wants them, some at a time."""
    if isinstance(tree, Mapping):
        for key, x in tree.items():
            yield from sent_ahead(x, below(place, key))
    if not isinstance(tree, Buffers):
        return
    first = 0
    while first < len(tree.numbers):
        group: list[Array] = []
        nbytes = 0
        while first + len(group) < len(tree.numbers) and nbytes < PIECE_BYTES:
            group.append(tree.arrays[first + len(group)])
            nbytes += len(group[-1])
        yield place, tree.numbers[first : first + len(group)], group
        first += len(group)


class _Both(Sequence[Array]):
    """Buffers, of which some lie on disk and the others were fetched: cut when asked for."""

    def __init__(self, known: Sequence[Array], at: Array, news: list[Array], inside: Array) -> None:
        self._known, self._at, self._news, self._inside = known, at, news, inside
        self._rank = np.cumsum(~inside) - 1  # among what was fetched

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if self._inside[at]:
            return self._known[int(self._at[at])]
        return self._news[int(self._rank[at])]
