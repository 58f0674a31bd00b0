"""C3, D1: states of samplers, tree and limiter that nobody saved: refused, and nothing changes."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.sum_tree import SumTree
from recollect.replay.table import Table
from recollect.replay.uniform import Uniform
from tests.replay.lived import assert_same_state


def lived(made: Any) -> Any:
    """Slots set, one of them of priority 0, and two removed again."""
    made.set(np.array([9, 2, 5, 3, 11]), np.array([1.0, 0.0, 3.0, 0.5, 2.0]))
    made.remove(np.array([5, 9]))
    return made


def tree() -> SumTree:
    made = SumTree(20)
    made.set(np.array([3, 19]), np.array([2.0, 0.5]))
    return made


def limiter() -> Limiter:
    made = Limiter(1.5, 10, 20.0)
    made.inserted(50)
    made.learned(7)
    made.restart_surplus()
    made.inserted(5)
    return made


MAKERS: dict[str, Callable[[], Any]] = {
    "uniform": lambda: lived(Uniform()),
    "prioritized": lambda: lived(Prioritized(0.7)),
    "tree": tree,
    "limiter": limiter,
}
NUMBERS = [
    0,
    1,
    -1,
    2**31,
    2**60,
    -(2**63),
    0.5,
    -0.0,
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    1e-320,
]
INSTEAD = [None, "1", b"1", [], [1], {}, {"a": 1}, object(), np.array(None), np.array("x"), 2**70]
INSTEAD += [
    np.zeros(0),
    np.zeros((0, 3)),
    np.zeros((2, 2), np.int64),
    np.array([True]),
    np.arange(3),
]


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A kind, and a state of it with one thing wrong, or all well by chance."""
    kind = draw(st.sampled_from(sorted(MAKERS)))
    state: dict[str, Any] = MAKERS[kind]().state_dict()
    name = draw(st.sampled_from(sorted(state)))
    array = np.array(state[name])
    how = draw(st.sampled_from(["number", "instead", "shape", "dtype", "gone", "more"]))
    if how == "number":
        number = draw(st.sampled_from(NUMBERS))
        with np.errstate(all="ignore"):
            try:
                array.reshape(-1)[draw(st.integers(0, array.size - 1))] = number
            except (OverflowError, ValueError):
                array = np.full(array.shape, number)
        state[name] = array
    elif how == "instead":
        state[name] = draw(st.sampled_from([*NUMBERS, *INSTEAD]))
    elif how == "shape":
        state[name] = draw(
            st.sampled_from([array[None], array.reshape(-1)[:1], array.ravel()[:-1]])
        )
    elif how == "dtype":
        dtype = draw(st.sampled_from(["bool", "int8", "uint64", "float32", "complex64", "object"]))
        state[name] = array.astype(dtype)
    elif how == "gone":
        del state[name]
    else:
        state["another"] = array
    return kind, state


@given(damages())
def test_a_damaged_state_is_refused_or_sound_and_changes_nothing(
    damage: tuple[str, dict[str, Any]],
) -> None:
    kind, state = damage
    made = MAKERS[kind]()
    before = made.state_dict()
    try:
        made.load_state_dict(state)
    except ValueError:
        assert_same_state(made.state_dict(), before)
        return
    if kind == "limiter":
        assert made.wants_insert(True) or made.wants_sample(True)
        assert made.wants_insert(False)
        return
    made.check_valid()
    if kind == "tree":
        assert not made.total or made.get(made.find(np.array([0.0, 0.99]))).all()
    elif made.mass:
        slots, probabilities = made.draw(np.linspace(0, 0.999, 50))
        assert np.isin(slots, made.slots()).all()
        assert ((probabilities > 0) & (probabilities <= 1)).all()


@pytest.mark.parametrize("kind", sorted(MAKERS))
@pytest.mark.parametrize("state", [None, 3, "text", [], [1], {}, {1: 2}])
def test_what_is_no_state_is_refused(kind: str, state: Any) -> None:
    with pytest.raises(ValueError, match="damaged"):
        MAKERS[kind]().load_state_dict(state)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_state_that_was_saved_is_taken(kind: str) -> None:
    """The refusals above are not of everything."""
    made = MAKERS[kind]()
    state = made.state_dict()
    other = {"uniform": Uniform, "tree": lambda: SumTree(3), "limiter": lambda: Limiter(1.5, 10, 1)}
    fresh = other.get(kind, lambda: Prioritized(0.7))()
    fresh.load_state_dict(state)
    assert_same_state(fresh.state_dict(), state)


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("inserted", 2**60, "above 2\\^53"),
        ("learned", -1, "cannot be negative"),
        ("inserted_from", 56, "do not fit"),  # after all that was inserted
        ("inserted_from", 9, "do not fit"),  # before min_size
        ("learned_from", 8, "do not fit"),
        ("ratio", math.nan, "ratio of the limiter is nan"),
        ("ratio", math.inf, "ratio of the limiter is inf"),
    ],
)
def test_counters_that_no_limiter_can_reach_are_refused(
    name: str, number: float, message: str
) -> None:
    """With them one side would wait for steps that never come."""
    made = limiter()
    with pytest.raises(ValueError, match=message):
        made.load_state_dict({**made.state_dict(), name: np.array(number)})


def test_no_state_asks_for_memory_that_its_arrays_do_not_explain() -> None:
    """A few numbers that speak of 2^60 slots are refused, and nothing is allocated for them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    huge = np.array([2**60, 0, -1], np.int64)
    with pytest.raises(ValueError, match="damaged"):
        Uniform().load_state_dict({"places": huge})
    with pytest.raises(ValueError, match="damaged"):
        Uniform().load_state_dict({"slots": huge, "capacity": np.array(2**60)})
    with pytest.raises(ValueError, match="rows and free rows do not fit"):
        Table(4).restore([0, 2**60], [1], np.zeros((2, 2), np.int64))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_table_with_lines_of_another_width_is_refused_and_stays_as_it_was() -> None:
    table = Table(4)
    with pytest.raises(ValueError, match="reshape"):
        table.restore([0, 1], [], np.zeros((2, 3), np.int64))
    assert (len(table), table.used, table.ages()) == (0, 0, [])
