from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.run.statistics import mean_interval, summary


def test_summary_of_numbers_the_eye_can_check() -> None:
    found = summary([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 99.0])
    assert found["return_mean"] == (0 + 1 + 2 + 3 + 4 + 5 + 6 + 99) / 8
    assert found["return_median"] == (3 + 4) / 2
    assert found["return_iqm"] == (2 + 3 + 4 + 5) / 4
    assert found["episodes"] == 8


def test_the_interval_of_three_values_is_students() -> None:
    # t_{2, 0.975} = 4.3027; the values' standard deviation is 1.
    low, high = summary([1.0, 2.0, 3.0])["return_ci95"]
    assert low == pytest.approx(2 - 4.3027 / np.sqrt(3), abs=1e-4)
    assert high == pytest.approx(2 + 4.3027 / np.sqrt(3), abs=1e-4)


def test_equal_returns_have_an_interval_of_no_length() -> None:
    assert summary([5.0] * 7)["return_ci95"] == [5.0, 5.0]


def test_one_return_has_no_interval() -> None:
    found = summary(np.array([3.0], np.float32))
    assert found["return_mean"] == found["return_median"] == found["return_iqm"] == 3.0
    assert np.isnan(found["return_ci95"]).all()


def test_no_returns_and_returns_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="no returns to summarise"):
        summary([])
    with pytest.raises(ValueError, match="must be finite, found"):
        summary([1.0, np.nan])


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    """5 seeds, 2,000 studies: 95% of the intervals hold the mean; binomial error is 0.5%."""
    draws = np.random.default_rng(3).normal(7.0, 2.0, (5, 2000))
    _, low, high = mean_interval(draws)
    assert np.mean((low <= 7.0) & (high >= 7.0)) == pytest.approx(0.95, abs=0.02)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12), st.integers(1, 4))
def test_columns_are_treated_each_for_itself(values: list[float], columns: int) -> None:
    stacked = np.stack([np.asarray(values) + column for column in range(columns)], axis=1)
    mean, low, high = mean_interval(stacked)
    for column in range(columns):
        alone = mean_interval(stacked[:, column])
        found = (mean[column], low[column], high[column])
        np.testing.assert_allclose(found, alone, rtol=1e-12, atol=1e-6)
