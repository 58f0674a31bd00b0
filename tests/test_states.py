"""Reading back what a `state_dict` gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recollect import states


def test_arrays_are_copies() -> None:
    state = {"x": np.zeros(3)}
    for own in (states.array(state, "x", np.ones(3)), states.column(state, "x", np.float64)):
        own[0] = 7
        own.setflags(write=False)
    assert state["x"].tolist() == [0, 0, 0]
    assert state["x"].flags.writeable


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (states.count, True, "x is True, a whole number from 0 was wanted"),
        (states.count, 1.0, "x is 1.0, a whole number from 0 was wanted"),
        (states.count, -1, "x is -1, a whole number from 0 was wanted"),
        (states.count, 2**62 + 1, "x is 4611686018427387905, a whole number from 0 was wanted"),
        (states.number, 2**2000, r"x is 1148130695\d+, a number was wanted"),
        (states.number, -(2**2000), r"x is -114813069\d+, a number was wanted"),
        (states.number, False, "x is False, a number was wanted"),
        (states.number, "1", "x is '1', a number was wanted"),
        (states.part, [1], "x is a list, a dict was wanted"),
        (states.part, np.zeros(2), r"x is float64 of \[2\], a dict was wanted"),
        (states.column, np.zeros((2, 2), np.int64), r"x is int64 of \[2, 2\], int64 of \[n\] was"),
        (states.column, np.zeros(2), r"x is float64 of \[2\], int64 of \[n\] was wanted"),
        (states.figures, {"a": np.zeros(2), "b": np.zeros(3)}, "x are not of one length"),
    ],
)
def test_what_was_wanted_and_what_came_is_said(read: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        read({"x": value}, "x")
    with pytest.raises(ValueError, match="x is missing"):
        read({}, "x")


def test_an_array_must_have_shape_and_dtype() -> None:
    for other in (np.zeros(4), np.zeros((1, 3)), np.zeros(3, np.float32), [0.0, 0.0, 0.0], None):
        with pytest.raises(ValueError, match=r"float64 of \[3\] was wanted"):
            states.array({"x": other}, "x", np.ones(3))


def test_the_largest_count_and_numbers_that_are_not_finite_are_taken() -> None:
    assert states.count({"x": 2**62}, "x") == 2**62
    assert states.number({"x": 3}, "x") == 3.0
    assert states.number({"x": float("-inf")}, "x") == -np.inf


def test_columns_and_figures_are_inverse() -> None:
    figures = [{"a": 1.0, "b": float("inf")}, {"a": -0.5, "b": 2.0}]
    assert states.figures({"x": states.columns(figures)}, "x") == figures
    assert states.figures({"x": states.columns([])}, "x") == []
