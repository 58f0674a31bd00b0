"""Draws item slots in proportion to a power of their priorities.

P(i) = p_i^exponent / sum_j p_j^exponent (Schaul et al. 2016, section 3.3). The exponent is 0.9 in
R2D2 and 0.6 in Ape-X; neither is the exponent of the importance weights, which is 0.6 and 0.4 there
and belongs to the learner. A negative exponent draws what matters least, as Ape-X DPG does to
decide what to evict (-0.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numba import njit, types

from recollect.replay.reading import read
from recollect.replay.sum_tree import LARGEST_VALUE, SumTree
from recollect.replay.uniform import distinct_live, whole_slots
from recollect.types import Array

# Below it a sum over slots would leave the range in which float64 keeps its precision.
SMALLEST_VALUE = 1e-300

_FIRST_CAPACITY = 16

_FLOATS = types.Array(types.float64, 1, "C")
_GIVEN_FLOATS = types.Array(types.float64, 1, "A", readonly=True)
_GIVEN_INTS = types.Array(types.int64, 1, "A", readonly=True)


@njit([types.int64(_GIVEN_FLOATS, _FLOATS)], cache=True, nogil=True)
def _limit(priorities, values):  # type: ignore[no-untyped-def]
    """Bring the priorities' powers into the tree's range: 0 for 0, else at least SMALLEST_VALUE.

    Returns:
        -1, or the place of the first that cannot be.
    """
    for i in range(len(priorities)):
        if not 0.0 <= priorities[i] < np.inf:
            return i
        if priorities[i] == 0.0:
            values[i] = 0.0
        elif values[i] < SMALLEST_VALUE:
            values[i] = SMALLEST_VALUE
        if not values[i] <= LARGEST_VALUE:
            return i
    return -1


@njit([types.int64(types.Array(types.boolean, 1, "C"), _GIVEN_INTS)], cache=True, nogil=True)
def _revive(live, slots):  # type: ignore[no-untyped-def]
    """Make slots live; how many were not."""
    fresh = 0
    for slot in slots:
        fresh += not live[slot]
        live[slot] = True
    return fresh


class Prioritized:
    """Live slots and their priorities. What lies in a slot is the caller's business.

    Of a slot only priority**exponent is kept, raised to SMALLEST_VALUE where it is less. A priority
    of 0 stays 0 whatever the exponent: the slot is live and never drawn.

    Args:
        exponent: alpha, finite; 0 draws all slots of positive priority alike.
    Raises:
        ValueError: if `exponent` is not finite.
    """

    def __init__(self, exponent: float) -> None:
        if not math.isfinite(exponent):
            raise ValueError(f"the priority exponent must be finite, not {exponent}")
        self._exponent = float(exponent)
        self._tree = SumTree(_FIRST_CAPACITY)
        self._live = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._count = 0

    def __len__(self) -> int:
        """Live slots."""
        return self._count

    @property
    def mass(self) -> float:
        """Sum of priority**exponent over the live slots."""
        return self._tree.total

    @property
    def capacity(self) -> int:
        """Slots are 0 .. capacity - 1."""
        return self._tree.capacity

    def ensure(self, capacity: int) -> None:
        """Make room for slots 0 .. capacity - 1 at least; room at least doubles.

        Raises:
            ValueError: if `capacity` is more than a sum tree can have.
        """
        if capacity <= self.capacity:
            return
        self._tree.grow(max(capacity, 2 * self.capacity))
        live = np.zeros(self.capacity, np.bool_)
        live[: len(self._live)] = self._live
        self._live = live

    def set(self, slots: Array, priorities: Array) -> None:
        """Make slots [n] live, if they are not, with `priorities` [n]; the last of repeated counts.

        Raises:
            ValueError: if a slot is outside the capacity, or a priority is negative, not finite, or
                its power above LARGEST_VALUE. Nothing has changed then.
        """
        priorities = np.asarray(priorities, np.float64)
        slots = whole_slots(slots, priorities.shape)
        # numpy's power: that of compiled code has other last bits, and is slower.
        with np.errstate(all="ignore"):
            values = np.asarray(priorities**self._exponent)
        bad = _limit(priorities, values)
        if bad >= 0 and not 0.0 <= priorities[bad] < np.inf:  # also where NaN
            raise ValueError(
                f"a priority must be finite and at least 0: slot {slots[bad]} was given "
                f"{priorities[bad]}"
            )
        if bad >= 0:
            raise ValueError(
                f"priority**{self._exponent} must be at most {LARGEST_VALUE}: slot "
                f"{slots[bad]} was given {priorities[bad]}"
            )
        self._tree.set(slots, values)
        self._count += _revive(self._live, slots)

    def remove(self, slots: Array) -> None:
        """Forget slots [n].

        Raises:
            ValueError: if a slot is not live, or given twice. Nothing has changed then.
        """
        slots = distinct_live(slots, self.capacity, lambda given: self._live[given])
        self._tree.set(slots, np.zeros(len(slots)))
        self._live[slots] = False
        self._count -= len(slots)

    def draw(self, uniforms: Array) -> tuple[Array, Array]:
        """Look up one slot for each number of `uniforms` [n] in [0, 1), independently.

        Returns:
            slots [n] int64, and the probability [n] float64 with which each draw gives its slot.
        Raises:
            ValueError: if a uniform is outside [0, 1).
            RuntimeError: if `mass` is 0.
        """
        slots, values = self._tree.find_with_values(uniforms)
        return slots, values / self._tree.total

    def check_valid(self) -> None:
        """Check the tree, and that what is not live has no mass.

        Raises:
            RuntimeError: if something does not hold.
        """
        self._tree.check_valid()
        if self._count != np.count_nonzero(self._live):
            raise RuntimeError(
                f"{self._count} slots were counted, {np.count_nonzero(self._live)} are live"
            )
        dead = np.flatnonzero(~self._live)
        ghosts = dead[self._tree.get(dead) != 0.0]
        if ghosts.size:
            raise RuntimeError(f"slots {ghosts[:8].tolist()} are not live and could be drawn")

    def slots(self) -> Array:
        """The live slots [len] int64, rising."""
        return np.flatnonzero(self._live)

    def state_dict(self) -> dict[str, Array]:
        """`exponent` [], `values` [capacity] = priority**exponent, `live` [capacity] bool."""
        return {
            "exponent": np.array(self._exponent),
            "values": self._tree.state_dict()["leaves"],
            "live": self._live.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Become the sampler whose state this was, of its capacity.

        Raises:
            ValueError: if it had another exponent, or its arrays do not fit each other. Nothing has
                changed then.
        """
        exponent, values, live = read(
            state, {"exponent": ("float64", 0), "values": ("float64", 1), "live": ("bool", 1)}
        )
        if float(exponent) != self._exponent:
            raise ValueError(
                f"the saved priorities were raised to {exponent}, wanted is {self._exponent}: "
                "resume with the exponent of the run"
            )
        if live.shape != values.shape or np.any(values[~live] != 0.0):
            raise ValueError("the saved priorities and live slots do not fit: the state is damaged")
        if np.any((values != 0.0) & ~(values >= SMALLEST_VALUE)):  # also where NaN
            raise ValueError(
                f"a saved priority is neither 0 nor at least {SMALLEST_VALUE}: the state is damaged"
            )
        self._tree.load_state_dict({"leaves": values})
        self._live = live.copy()
        self._count = int(np.count_nonzero(live))
