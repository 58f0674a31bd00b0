"""Rows of one size in a ring: replay of transitions that stand alone.

`store` keeps episodes: frames once, windows over them, recurrent states. Where a transition is a
few numbers and shares nothing with its neighbours (vectors of a robot's joints; a model's data) all
that is a burden. Here row number i, its *uid*, lies in slot i modulo the capacity until row
i + capacity takes it, so that a uid alone says whether a row is still there: nothing is kept per
row but the row and its priority. All is done for many rows at a time; no Python runs per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types

from recollect import states
from recollect.replay.copying import copy_bytes
from recollect.replay.memory import address
from recollect.replay.sampler import Sampler
from recollect.types import Array, ArraySpec, ConfigError, Metrics

_INTS = types.Array(types.int64, 1, "C")
_GIVEN_INTS = types.Array(types.int64, 1, "A", readonly=True)
_INT = types.int64


@njit([types.void(_INT, _GIVEN_INTS, types.Array(types.uint8, 2, "C"))], cache=True, nogil=True)
def _take(source, slots, out):  # type: ignore[no-untyped-def]
    """Copy the rows in these slots of the ring at address `source` to `out` [n, bytes]."""
    target, size = out.ctypes.data, out.shape[1]
    for i in range(len(slots)):
        copy_bytes(target + i * size, source + slots[i] * size, size)


@njit([types.void(_GIVEN_INTS, _INT, _INT, _INTS)], cache=True, nogil=True)
def _number(slots, following, capacity, uids):  # type: ignore[no-untyped-def]
    """The uids of the rows in these slots, where `following` is that of the row to come."""
    turn = following - following % capacity
    for i in range(len(slots)):
        before = turn + slots[i] >= following  # it is of the ring's turn before
        uids[i] = turn + slots[i] - before * capacity


@njit([_INT(_GIVEN_INTS, _INT, _INT, _INTS)], cache=True, nogil=True)
def _locate(uids, following, capacity, slots):  # type: ignore[no-untyped-def]
    """The slots of the rows of these uids, -1 for those that have gone; how many these are."""
    gone = 0
    turn = following - following % capacity
    for i in range(len(uids)):
        slot = uids[i] - turn
        slots[i] = slot if slot >= 0 else slot + capacity
        if uids[i] < max(0, following - capacity) or uids[i] >= following:
            slots[i] = -1
            gone += 1
    return gone


@dataclass(frozen=True)
class RowBatch:
    """Rows that were drawn.

    Attributes:
        fields: per name [B, ...].
        uids: [B] int64, to write priorities back with.
        probabilities: [B] float64 with which each was drawn.
        size: rows in replay when they were drawn.
    """

    fields: dict[str, Array]
    uids: Array
    probabilities: Array
    size: int


class Rows:
    """The newest `capacity` rows.

    Args:
        fields: one row: at least one byte.
        sampler: which rows are drawn, `Prioritized` or `Uniform`; empty, and the ring's own from
            now on.
        capacity: rows, at least 1.

    Raises:
        ConfigError: a capacity below 1, or no fields of numbers.
    """

    def __init__(self, fields: Mapping[str, ArraySpec], sampler: Sampler, capacity: int) -> None:
        if capacity < 1:
            raise ConfigError(f"rows must have a capacity of at least 1, not {capacity}")
        if not fields:
            raise ConfigError("a row must have at least one field")
        for name, spec in fields.items():
            if np.dtype(spec.dtype).kind not in "biuf" or spec.nbytes == 0:
                raise ConfigError(f"field {name!r} must be numbers, at least one, not {spec}")
        self._fields = dict(fields)
        # A row's fields lie side by side: drawing it is one wait for memory.
        layout = [(name, spec.dtype, spec.shape) for name, spec in fields.items()]
        self._rows = np.zeros(capacity, np.dtype(layout, align=True))
        self._columns = {name: self._rows[name] for name in fields}  # views
        self._place = address(self._rows.view(np.uint8))
        self._sampler = sampler
        self._next_uid = 0
        self._stale_write_backs = 0

    def __len__(self) -> int:
        """Rows."""
        return min(self._next_uid, self.capacity)

    @property
    def capacity(self) -> int:
        """Rows held at most."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes taken by the room for rows, whether or not it is full."""
        return self._rows.nbytes

    def insert(self, rows: Mapping[str, Array], priorities: Array) -> Array:
        """Take in n rows; where there is no more room they take the oldest ones' place.

        Args:
            rows: per field [n, ...], of its dtype.
            priorities: [n] at least 0; of 0, never drawn by priority.
        Returns:
            [n] their uids.
        Raises:
            ValueError: other fields, shapes or dtypes; a priority the sampler refuses; more rows
                than the capacity. Nothing has changed then.
        """
        priorities = np.asarray(priorities, np.float64)
        n = len(priorities) if priorities.ndim == 1 else -1
        if rows.keys() != self._fields.keys():
            raise ValueError(f"a row has the fields {sorted(self._fields)}, not {sorted(rows)}")
        for name, spec in self._fields.items():
            given = rows[name]
            if given.shape != (n, *spec.shape) or given.dtype != spec.dtype:
                raise ValueError(
                    f"{name} must be {spec.dtype} of shape [n, *{spec.shape}], one for each "
                    f"priority {list(priorities.shape)}, not {given.dtype} {list(given.shape)}"
                )
        if n > self.capacity:
            raise ValueError(f"{n} rows came into a capacity of {self.capacity}: insert fewer")
        uids = np.arange(self._next_uid, self._next_uid + n)
        self._sampler.ensure(self.capacity)
        self._sampler.set(uids % self.capacity, priorities)
        begin = self._next_uid % self.capacity
        first = min(n, self.capacity - begin)  # the others go on at the ring's beginning
        for name in self._fields:
            self._columns[name][begin : begin + first] = rows[name][:first]
            if first < n:
                self._columns[name][: n - first] = rows[name][first:]
        self._next_uid += n
        return uids

    def sample(self, uniforms: Array) -> RowBatch:
        """Draw one row for each of `uniforms` [B] in [0, 1).

        Raises:
            ValueError: a uniform outside [0, 1).
            RuntimeError: there is nothing to draw.
        """
        slots, probabilities = self._sampler.draw(uniforms)
        uids = np.empty(len(slots), np.int64)
        _number(slots, self._next_uid, self.capacity, uids)
        taken = np.empty(len(slots), self._rows.dtype)
        _take(self._place, slots, taken.view(np.uint8).reshape(len(slots), -1))
        fields = {name: taken[name].copy() for name in self._fields}
        return RowBatch(fields, uids, probabilities, len(self))

    def update_priorities(self, uids: Array, priorities: Array) -> None:
        """Write back priorities [B] of rows drawn earlier; rows that have gone are counted.

        Raises:
            ValueError: arrays of different lengths, or a priority the sampler refuses: nothing has
                changed then.
        """
        uids, priorities = np.asarray(uids, np.int64), np.asarray(priorities, np.float64)
        if uids.shape != priorities.shape or uids.ndim != 1:
            raise ValueError(
                f"uids {uids.shape} and priorities {priorities.shape} must be [B] alike"
            )
        slots = np.empty(len(uids), np.int64)
        stale = _locate(uids, self._next_uid, self.capacity, slots)
        if stale:
            there = slots >= 0
            slots, priorities = slots[there], priorities[there]
        self._sampler.set(slots, priorities)
        self._stale_write_backs += stale

    def metrics(self) -> Metrics:
        """What is held: `rows`, `bytes`, `fill` (share of the capacity); what happened so far.

        Totals: `inserted_rows`, `stale_write_backs`.
        """
        return {
            "rows": float(len(self)),
            "bytes": float(self.nbytes),
            "fill": len(self) / self.capacity,
            "inserted_rows": float(self._next_uid),
            "stale_write_backs": float(self._stale_write_backs),
        }

    def check_valid(self) -> None:
        """Check that exactly the rows that are there can be drawn.

        Raises:
            RuntimeError: if not.
        """
        self._sampler.check_valid()
        if not np.array_equal(self._sampler.slots(), np.arange(len(self))):
            raise RuntimeError("the sampler's slots are not those of the rows: replay is damaged")

    def state_dict(self) -> dict[str, Any]:
        """Everything: the rows in the order in which they lie, per field."""
        return {
            "capacity": self.capacity,
            "next_uid": self._next_uid,
            "stale_write_backs": self._stale_write_backs,
            "rows": {name: self._columns[name][: len(self)].copy() for name in self._fields},
            "sampler": self._sampler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the ring whose state this was. Nothing in it is trusted.

        Raises:
            ValueError: it had another capacity or other fields, or is damaged. The ring and its
                sampler are not to be used then.
        """
        capacity = states.count(state, "capacity", 1)
        if capacity != self.capacity:
            raise ValueError(
                f"the saved rows had a capacity of {capacity}, wanted is {self.capacity}: resume "
                "with the settings of the run"
            )
        next_uid = states.count(state, "next_uid")
        stale = states.count(state, "stale_write_backs")
        held, given = min(next_uid, capacity), states.part(state, "rows")
        if given.keys() != self._fields.keys():
            raise ValueError(f"the saved rows have the fields {sorted(given)}: it is damaged")
        found = {n: states.array(given, n, s.zeros(held)) for n, s in self._fields.items()}
        self._sampler.load_state_dict(states.part(state, "sampler"))
        self._sampler.ensure(capacity)
        if not np.array_equal(self._sampler.slots(), np.arange(held)):
            raise ValueError("the saved sampler has other rows than there are: it is damaged")
        for name, rows in found.items():
            self._columns[name][:held] = rows
        self._next_uid, self._stale_write_backs = next_uid, stale
