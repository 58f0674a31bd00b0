from __future__ import annotations

import numpy as np
import pytest

from recollect.replay.table import Table


def test_rows_are_linked_by_age_and_used_again_whatever_is_added_and_removed() -> None:
    """Against a list, oldest first."""
    rng = np.random.default_rng(0)
    table, model, free, used = Table(4), [], [], 0
    for value in range(600):
        if model and rng.random() < 0.45:
            row, _ = model.pop(int(rng.integers(len(model))))
            table.remove(row)
            free.append(row)
        else:
            wanted = free.pop() if free else used
            used = max(used, wanted + 1)
            assert table.add(value, -value) == wanted, "the last freed first"
            model.append((wanted, value))
        assert table.ages() == [row for row, _ in model]
        assert [table.oldest, table.newest] == ([model[0][0], model[-1][0]] if model else [-1, -1])
        assert len(table) == len(model)
        assert (table.rows[free, 2] == -1).all()
    assert table.used == used > 16, "it has grown"
    assert table.rows[table.ages(), 2:].tolist() == [[value, -value] for _, value in model]
    other = Table(4)
    other.restore(table.ages(), table.free, table.rows[table.ages(), 2:])
    assert other.ages() == table.ages()
    np.testing.assert_array_equal(other.rows[:used], table.rows[:used])
    assert other.add(7, 8) == table.add(7, 8)


@pytest.mark.parametrize(("rows", "free"), [([0, 2], []), ([0, 1], [1]), ([0, -1], [1]), ([], [1])])
def test_rows_that_leave_gaps_or_repeat_are_refused(rows: list[int], free: list[int]) -> None:
    with pytest.raises(ValueError, match="rows and free rows do not fit"):
        Table(4).restore(rows, free, np.zeros((len(rows), 2), np.int64))
