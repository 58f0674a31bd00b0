"""Draws item slots uniformly: the interface of `Prioritized`, for replay without priorities."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from recollect.replay.reading import read
from recollect.types import Array

_FIRST_CAPACITY = 16
_NOWHERE = -1


class Uniform:
    """Live slots, drawn alike. What lies in a slot is the caller's business.

    Priorities are ignored, whatever they are: a slot of priority 0 is drawn like the others.

    The live slots stand side by side in one array, in no particular order; a removed one leaves a
    hole that the last one fills. The order decides what a given uniform number draws, so it is part
    of the state.
    """

    def __init__(self) -> None:
        self._dense = np.zeros(_FIRST_CAPACITY, np.int64)  # the first len(self) are live slots
        self._place = np.full(_FIRST_CAPACITY, _NOWHERE, np.int64)  # of a slot in _dense
        self._count = 0

    def __len__(self) -> int:
        """Live slots."""
        return self._count

    @property
    def mass(self) -> float:
        """1 for each live slot."""
        return float(self._count)

    @property
    def capacity(self) -> int:
        """Slots are 0 .. capacity - 1."""
        return len(self._place)

    def ensure(self, capacity: int) -> None:
        """Make room for slots 0 .. capacity - 1 at least; room at least doubles."""
        if capacity <= self.capacity:
            return
        more = max(capacity, 2 * self.capacity) - self.capacity
        self._dense = np.concatenate([self._dense, np.zeros(more, np.int64)])
        self._place = np.concatenate([self._place, np.full(more, _NOWHERE, np.int64)])

    def set(self, slots: Array, priorities: Array) -> None:
        """Make slots [n] live, if they are not. `priorities` [n] are not looked at.

        Raises:
            ValueError: if a slot is outside the capacity. Nothing has changed then.
        """
        slots = whole_slots(slots, np.shape(priorities))
        outside = (slots < 0) | (slots >= self.capacity)
        if outside.any():
            raise ValueError(
                f"slot {slots[outside][0]} is outside [0, {self.capacity}); call ensure() first"
            )
        fresh = slots[self._place[slots] == _NOWHERE]
        if fresh.size == 0:
            return
        _, first = np.unique(fresh, return_index=True)
        fresh = fresh[np.sort(first)]  # once each, in the order given
        end = self._count + len(fresh)
        self._dense[self._count : end] = fresh
        self._place[fresh] = np.arange(self._count, end)
        self._count = end

    def remove(self, slots: Array) -> None:
        """Forget slots [n].

        Raises:
            ValueError: if a slot is not live, or given twice. Nothing has changed then.
        """
        slots = distinct_live(slots, self.capacity, lambda given: self._place[given] != _NOWHERE)
        end = self._count - len(slots)
        places = self._place[slots]
        self._place[slots] = _NOWHERE
        tail = self._dense[end : self._count]
        stay = tail[self._place[tail] != _NOWHERE]
        holes = np.sort(places[places < end])  # as many as stay: the tail was len(slots) long
        self._dense[holes] = stay
        self._place[stay] = holes
        self._count = end

    def draw(self, uniforms: Array) -> tuple[Array, Array]:
        """Look up one slot for each number of `uniforms` [n] in [0, 1), independently.

        Returns:
            slots [n] int64, and the probability [n] float64 with which each draw gives its slot.
        Raises:
            ValueError: if a uniform is outside [0, 1).
            RuntimeError: if there are no slots.
        """
        uniforms = np.asarray(uniforms, np.float64)
        if self._count == 0:
            raise RuntimeError("nothing to draw: there are no slots; set one first")
        refuse_outside(uniforms)
        # The product rounds up to the count itself for a number just below 1.
        places = np.minimum((uniforms * self._count).astype(np.int64), self._count - 1)
        return self._dense[places], np.full(uniforms.shape, 1.0 / self._count)

    def check_valid(self) -> None:
        """Check that both arrays say the same.

        Raises:
            RuntimeError: if they do not.
        """
        live = self._dense[: self._count]
        if np.any(self._place[live] != np.arange(self._count)):
            raise RuntimeError("a live slot does not stand where it is said to")
        if np.count_nonzero(self._place != _NOWHERE) != self._count:
            raise RuntimeError(f"{self._count} slots were counted, another number has a place")

    def slots(self) -> Array:
        """The live slots [len] int64, rising."""
        return np.sort(self._dense[: self._count])

    def state_dict(self) -> dict[str, Array]:
        """`places` [capacity] int64: where each slot stands among the live ones; -1: it is not."""
        return {"places": self._place.copy()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Become the sampler whose state this was, of its capacity.

        Raises:
            ValueError: if the places of its live slots are not 0, 1, 2, ..., each once. Nothing has
                changed then.
        """
        (places,) = read(state, {"places": ("int64", 1)})
        live = np.flatnonzero(places != _NOWHERE)
        if not np.array_equal(np.sort(places[live]), np.arange(len(live))):
            raise ValueError("the saved places of live slots do not fit: the state is damaged")
        dense = np.zeros(len(places), np.int64)
        dense[places[live]] = live
        self._dense, self._place, self._count = dense, places.copy(), len(live)


def batch_of_uniforms(uniforms: Array) -> Array:
    """`uniforms` as float64 [B]; ValueError if they are none, or stand otherwise."""
    uniforms = np.asarray(uniforms, np.float64)
    if uniforms.ndim != 1 or not uniforms.size:
        raise ValueError(f"uniforms must be [B] with B >= 1, not {list(uniforms.shape)}")
    return uniforms


def refuse_outside(uniforms: Array) -> None:
    """Raise ValueError if one of `uniforms` is outside [0, 1)."""
    bad = ~((uniforms >= 0.0) & (uniforms < 1.0))  # also where NaN
    if bad.any():
        raise ValueError(f"a uniform must be in [0, 1), not {uniforms[bad][0]}")


def whole_slots(slots: Array, shape: tuple[int, ...]) -> Array:
    """`slots` as int64 [n], where `shape` is that of what comes with them.

    Raises:
        ValueError: if they are not integers [n], or not of that shape.
    """
    slots = np.asarray(slots)
    if slots.ndim != 1 or (slots.size and slots.dtype.kind not in "iu"):
        raise ValueError(f"slots must be integers [n], not {slots.dtype} {list(slots.shape)}")
    if slots.shape != shape:
        raise ValueError(f"each slot takes one priority: {len(slots)} came with {list(shape)}")
    return slots.astype(np.int64, copy=False)


def distinct_live(slots: Array, capacity: int, live: Callable[[Array], Array]) -> Array:
    """`slots` [n] as int64, all of them live and none given twice.

    Args:
        live: says of slots [n] inside the capacity which are live, [n] bool.
    Raises:
        ValueError: if that is not so.
    """
    slots = whole_slots(slots, np.shape(slots))
    wanted = (slots >= 0) & (slots < capacity)
    wanted[wanted] = live(slots[wanted])
    if not wanted.all():
        raise ValueError(f"slot {slots[~wanted][0]} is not live: only live ones can be removed")
    if len(np.unique(slots)) != len(slots):
        raise ValueError("a slot was given twice: remove each once")
    return slots
