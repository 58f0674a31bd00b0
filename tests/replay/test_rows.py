from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay.prioritized import Prioritized
from recollect.replay.rows import Rows
from recollect.replay.uniform import Uniform
from recollect.types import Array, ArraySpec, ConfigError
from tests.replay.lived import assert_same_state, on_disk

FIELDS = {
    "flag": ArraySpec((), "bool"),
    "o": ArraySpec((3, 2), "float32"),
    "a": ArraySpec((), "int64"),
}


def some(uids: Array) -> dict[str, Array]:
    """Rows that say their own number."""
    return {
        "flag": uids % 2 == 0,
        "o": (uids[:, None, None] + np.arange(6).reshape(3, 2) / 8).astype(np.float32),
        "a": uids * 10,
    }


def filled(count: int, capacity: int, sampler: Any = None) -> Rows:
    rows = Rows(FIELDS, Prioritized(1.0) if sampler is None else sampler, capacity)
    for uid in range(count):
        rows.insert(some(np.array([uid])), np.array([1.0 + uid]))
    return rows


@given(
    capacity=st.integers(1, 40),
    messages=st.lists(st.integers(0, 25), min_size=1, max_size=12),
    uniform=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=100)
def test_the_newest_rows_are_drawn_as_they_came_in(
    capacity: int, messages: list[int], uniform: bool, seed: int
) -> None:
    """S3-9: against a dict from uid to priority; rows and numbers fit each other."""
    rng = np.random.default_rng(seed)
    rows = Rows(FIELDS, Uniform() if uniform else Prioritized(0.7), capacity)
    held: dict[int, float] = {}
    stale = inserted = 0
    for n in messages:
        n = min(n, capacity)
        priorities = 0.1 + rng.random(n)
        uids = rows.insert(some(np.arange(n) + inserted), priorities)
        inserted += n
        held |= dict(zip(uids.tolist(), priorities.tolist(), strict=True))
        held = {uid: held[uid] for uid in sorted(held)[-capacity:]}
        assert len(rows) == len(held)
        if not held:
            continue
        batch = rows.sample(rng.random(30))
        assert batch.size == len(held)
        for name, wanted in some(batch.uids).items():
            np.testing.assert_array_equal(batch.fields[name], wanted, strict=True)
            assert batch.fields[name].flags.c_contiguous
        total = sum(p**0.7 for p in held.values())
        chances = [1 / len(held) if uniform else held[uid] ** 0.7 / total for uid in batch.uids]
        np.testing.assert_allclose(batch.probabilities, chances, rtol=1e-9)
        newest = max(held)
        given = rng.integers(max(0, newest - 2 * capacity), newest + 3, 8)
        given, changed = np.unique(given), 0.1 + rng.random(8)
        changed = changed[: len(given)]
        rows.update_priorities(given, changed)
        for uid, priority in zip(given.tolist(), changed.tolist(), strict=True):
            stale += uid not in held
            held |= {uid: priority} if uid in held else {}
        assert rows.metrics()["stale_write_backs"] == stale
        rows.check_valid()


def test_trap_26_a_priority_for_a_row_that_has_gone_is_dropped_and_counted() -> None:
    rows = filled(4, capacity=4)
    old = rows.sample(np.array([0.0, 0.99]))
    rows.insert(some(np.arange(4, 8)), np.ones(4))
    rows.update_priorities(old.uids, np.array([1e6, 1e6]))
    assert rows.metrics()["stale_write_backs"] == 2
    np.testing.assert_array_equal(rows.sample(np.array([0.1, 0.9])).probabilities, [0.25, 0.25])


@pytest.mark.parametrize("make_sampler", [Uniform, lambda: Prioritized(0.7)])
@pytest.mark.parametrize("count", [0, 5, 30])
def test_trap_27_a_restored_ring_goes_on_identically(
    make_sampler: Callable[[], Any], count: int
) -> None:
    rows, other = filled(count, 8, make_sampler()), Rows(FIELDS, make_sampler(), 8)
    rows.update_priorities(np.array([count - 1, -1]), np.array([0.5, 0.5]))
    other.load_state_dict(on_disk(rows.state_dict()))
    other.check_valid()
    rng = np.random.default_rng(0)
    for turn in range(6):
        given = some(np.arange(3) + count + 3 * turn)
        priorities, uniforms = rng.random(3), rng.random(7)
        found = []
        for each in (rows, other):
            each.insert(given, priorities)
            batch = each.sample(uniforms)
            each.update_priorities(batch.uids, uniforms)
            found.append(batch)
        assert_same_state(vars(found[1]), vars(found[0]))
    assert_same_state(other.state_dict(), rows.state_dict())


def change(**members: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update(members)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change(capacity=9), "had a capacity of 9, wanted is 8"),
        (change(next_uid=4), "was wanted"),
        (change(next_uid=6), "was wanted"),
        (change(next_uid=-1), "next_uid"),
        (change(next_uid=2**63), "next_uid"),
        (change(stale_write_backs="x"), "stale_write_backs"),
        (change(rows=3), "a dict was wanted"),
        (change(rows={}), "have the fields"),
        (change(sampler={}), "damaged"),
        (lambda state: state["rows"].update(o=np.zeros((5, 6), np.float32)), "o is float32"),
        (lambda state: state["rows"].update(a=np.zeros(5)), "a is float64"),
        (lambda state: state["sampler"]["live"].__setitem__(7, True), "other rows than there are"),
        (lambda state: state["sampler"].update(exponent=np.array(2.0)), "exponent"),
    ],
)
def test_a_damaged_state_is_refused(damage: Callable[[dict[str, Any]], None], message: str) -> None:
    state = on_disk(filled(5, 8).state_dict())
    damage(state)
    with pytest.raises(ValueError, match=message):
        Rows(FIELDS, Prioritized(1.0), 8).load_state_dict(state)


@pytest.mark.parametrize(
    ("rows", "priorities", "message"),
    [
        ({"o": np.zeros((1, 3, 2), np.float32)}, [1.0], "a row has the fields"),
        ({**some(np.arange(2)), "o": np.zeros((2, 3), np.float32)}, [1.0, 1.0], "o must be"),
        ({**some(np.arange(2)), "a": np.zeros(2)}, [1.0, 1.0], "a must be int64"),
        (some(np.arange(2)), [1.0], "one for each priority"),
        (some(np.arange(2)), [[1.0, 1.0]], "one for each priority"),
        (some(np.arange(2)), [1.0, -1.0], "finite and at least 0"),
        (some(np.arange(2)), [1.0, np.nan], "finite and at least 0"),
        (some(np.arange(9)), [1.0] * 9, "9 rows came into a capacity of 8"),
    ],
)
def test_rows_that_cannot_be_change_nothing(
    rows: dict[str, Array], priorities: Any, message: str
) -> None:
    held = filled(11, 8)
    before = on_disk(held.state_dict())
    with pytest.raises(ValueError, match=message):
        held.insert(rows, np.array(priorities))
    for uids, back in (([9], [-1.0]), ([9, 10], [1.0]), ([[9]], [[1.0]])):
        with pytest.raises(ValueError, match=r"priority|alike"):
            held.update_priorities(np.array(uids), np.array(back))
    assert_same_state(on_disk(held.state_dict()), before)


def test_rings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        Rows(FIELDS, Uniform(), 0)
    with pytest.raises(ConfigError, match="at least one field"):
        Rows({}, Uniform(), 5)
    with pytest.raises(ConfigError, match="'text' must be numbers"):
        Rows({"text": ArraySpec((), "object")}, Uniform(), 5)
    with pytest.raises(RuntimeError, match="nothing to"):
        Rows(FIELDS, Prioritized(1.0), 5).sample(np.array([0.5]))


def test_the_bytes_of_rows_are_all_there_are() -> None:
    assert Rows({"o": ArraySpec((9,)), "r": ArraySpec(())}, Uniform(), 1000).nbytes == 40 * 1000
