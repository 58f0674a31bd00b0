"""A table of numbers whose rows are linked by age, and used again once they are free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recollect.types import Array


class Table:
    """Rows of int64 that grow by doubling, linked from the oldest to the newest.

    Columns 0 and 1 are the next older and the next newer row, -1 at the ends; column 2 is -1 in a
    row that is free. Freed rows are used again, the last freed first.
    """

    def __init__(self, columns: int) -> None:
        self.rows = np.full((16, columns), -1, np.int64)
        self.used = 0  # rows that were ever in use
        self.free: list[int] = []
        self.oldest = self.newest = -1

    def __len__(self) -> int:
        return self.used - len(self.free)

    def add(self, *values: int) -> int:
        """Write a new newest row, from column 2 on, and return its number."""
        if self.free:
            row = self.free.pop()
        else:
            row = self.used
            self.used += 1
            self.ensure(self.used)
        self._link(row, values)
        return row

    def remove(self, row: int) -> None:
        """Free a row."""
        older, newer = int(self.rows[row, 0]), int(self.rows[row, 1])
        if older < 0:
            self.oldest = newer
        else:
            self.rows[older, 1] = newer
        if newer < 0:
            self.newest = older
        else:
            self.rows[newer, 0] = older
        self.rows[row] = -1
        self.free.append(row)

    def ensure(self, used: int) -> None:
        """Make room for `used` rows."""
        if used > len(self.rows):
            grown = np.full((max(used, 2 * len(self.rows)), self.rows.shape[1]), -1, np.int64)
            grown[: len(self.rows)] = self.rows
            self.rows = grown

    def ages(self) -> list[int]:
        """The rows in use, oldest first."""
        found: list[int] = []
        row = self.oldest
        while row >= 0 and len(found) <= self.used:
            found.append(row)
            row = int(self.rows[row, 1])
        return found

    def restore(self, rows: Sequence[int], free: Sequence[int], values: Array) -> None:
        """Become the table with `values` [n, columns - 2] in `rows` [n], oldest first.

        Raises:
            ValueError: `rows` and `free` are not together all rows there are, or there is not a
                line of `values` for each row. Nothing has changed then.
        """
        used = len(rows) + len(free)
        if sorted([*rows, *free]) != list(range(used)):
            raise ValueError("the saved rows and free rows do not fit: the state is damaged")
        lines = np.reshape(values, (len(rows), self.rows.shape[1] - 2))
        while len(self.rows) < used:  # to the room it had: it grew row by row
            self.ensure(len(self.rows) + 1)
        self.used, self.free = used, list(free)
        for row, line in zip(rows, lines, strict=True):
            self._link(row, line)

    def _link(self, row: int, values: Any) -> None:
        self.rows[row, 0] = self.newest
        self.rows[row, 1] = -1
        self.rows[row, 2:] = values
        if self.newest < 0:
            self.oldest = row
        else:
            self.rows[self.newest, 1] = row
        self.newest = row
