from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay.limiter import Limiter


def test_sampling_waits_for_min_size_and_what_came_before_is_not_owed() -> None:
    limiter = Limiter(ratio=2.0, min_size=100, tolerance=30.0)
    limiter.inserted(99)
    assert limiter.wants_insert(can_sample=True)
    assert not limiter.wants_sample(can_sample=True)
    limiter.inserted(1)
    assert limiter.wants_sample(can_sample=True)
    assert limiter.surplus == 0.0
    limiter.learned(5)  # one sample, then inserting has to catch up: no burst
    assert not limiter.wants_sample(can_sample=True)
    limiter.inserted(2)
    assert limiter.surplus == 2.0 * 2 - 5
    assert not limiter.wants_sample(can_sample=True)
    limiter.inserted(1)
    assert limiter.surplus == 2.0 * 3 - 5
    assert limiter.wants_sample(can_sample=True)


def test_inserting_waits_once_learning_is_behind_by_the_tolerance() -> None:
    limiter = Limiter(ratio=2.0, min_size=0, tolerance=30.0)
    limiter.inserted(14)
    assert limiter.wants_insert(can_sample=True)
    limiter.inserted(1)
    assert not limiter.wants_insert(can_sample=True)
    limiter.learned(1)
    assert limiter.wants_insert(can_sample=True)


def test_where_nothing_can_be_sampled_inserting_is_wanted_however_far_behind_learning_is() -> None:
    limiter = Limiter(ratio=2.0, min_size=0, tolerance=1.0)
    limiter.inserted(1000)
    assert not limiter.wants_insert(can_sample=True)
    assert limiter.wants_insert(can_sample=False)
    assert not limiter.wants_sample(can_sample=False)


def test_trap_19_the_ratio_is_that_of_observations_not_of_sequences() -> None:
    """Trap 19: 400 unique steps in windows of 80 learned steps every 40, each drawn 0.77 times.

    The steps inserted are 400, not the 800 that the windows' learned parts add up to.
    """
    windows, learned_steps, period = 10, 80, 40
    limiter = Limiter(ratio=1.54, min_size=0, tolerance=1000.0)
    limiter.inserted(windows * period)
    for _ in range(77):
        limiter.learned(windows * learned_steps // 100)
    figures = limiter.metrics()
    assert figures["inserted_steps"] == 400.0
    assert math.isclose(figures["observation_replay_ratio"], 2 * 0.77)
    assert math.isclose(figures["surplus_steps"], 0.0, abs_tol=1e-9)


ratios = st.one_of(st.floats(0.01, 50.0), st.sampled_from([0.25, 1.0, 8.0]))
sizes = st.integers(0, 500)


@settings(deadline=None, max_examples=200)
@given(
    ratio=st.one_of(st.none(), ratios),
    min_size=sizes,
    tolerance=st.floats(0.0, 1000.0),
    turns=st.lists(st.tuples(st.booleans(), sizes, st.booleans(), st.booleans()), max_size=60),
)
def test_one_side_is_always_wanted(
    ratio: float | None,
    min_size: int,
    tolerance: float,
    turns: list[tuple[bool, int, bool, bool]],
) -> None:
    """For any sizes, wanted or not, also where nothing can be sampled or the surplus restarts."""
    limiter = Limiter(ratio, min_size, tolerance)
    for insert, steps, can_sample, restart in turns:
        assert limiter.wants_insert(can_sample) or limiter.wants_sample(can_sample)
        assert not (limiter.wants_sample(can_sample) and not can_sample)
        (limiter.inserted if insert else limiter.learned)(steps)
        if restart:
            limiter.restart_surplus()
            assert limiter.surplus == 0.0
    assert limiter.wants_insert(True) or limiter.wants_sample(True)


@settings(deadline=None, max_examples=200)
@given(
    ratio=ratios,
    min_size=sizes,
    tolerance=st.floats(0.0, 1000.0),
    turns=st.lists(
        st.tuples(st.booleans(), st.integers(1, 500), st.integers(1, 500)), max_size=100
    ),
)
def test_the_realised_ratio_stays_within_the_bounds(
    ratio: float, min_size: int, tolerance: float, turns: list[tuple[bool, int, int]]
) -> None:
    """Turns prefer one side at random, and only do what is wanted."""
    limiter = Limiter(ratio, min_size, tolerance)
    inserted = learned = largest_insert = largest_sample = 0
    for prefer_insert, insert, sample in turns:
        wants = limiter.wants_insert(True), limiter.wants_sample(True)
        if wants[0] and (prefer_insert or not wants[1]):
            limiter.inserted(insert)
            inserted, largest_insert = inserted + insert, max(largest_insert, insert)
        else:
            assert inserted >= min_size
            limiter.learned(sample)
            learned, largest_sample = learned + sample, max(largest_sample, sample)
        behind = ratio * max(0, inserted - min_size) - learned
        assert math.isclose(limiter.surplus, behind)
        assert -largest_sample <= behind <= tolerance + ratio * largest_insert


def test_with_room_for_the_largest_of_both_the_sides_take_turns() -> None:
    # After any insert a sample is wanted or another insert is, and the other way round.
    limiter = Limiter(ratio=1.0, min_size=0, tolerance=40.0 + 80.0)
    limiter.inserted(40)
    for _ in range(100):
        assert limiter.wants_insert(True)
        limiter.inserted(40)
        limiter.inserted(40)
        assert limiter.wants_sample(True)
        limiter.learned(80)


@pytest.mark.parametrize("min_size", [0, 50])
def test_without_a_ratio_both_sides_are_wanted_once_min_size_is_reached(min_size: int) -> None:
    limiter = Limiter(None, min_size, 0.0)
    limiter.inserted(min_size)
    for steps in (0, 10_000):
        limiter.inserted(steps)
        assert limiter.wants_insert(True)
        assert limiter.wants_sample(True)
        assert not limiter.wants_sample(False)
        limiter.learned(3 * steps)
    assert limiter.surplus == 0.0
    if min_size:
        fresh = Limiter(None, min_size, 0.0)
        assert fresh.wants_insert(True)
        assert not fresh.wants_sample(True)


def test_restarting_forgets_what_either_side_owed() -> None:
    for learned in (0, 500):
        limiter = Limiter(1.0, 10, 20.0)
        limiter.inserted(200)
        limiter.learned(learned)
        limiter.restart_surplus()
        assert limiter.surplus == 0.0
        limiter.inserted(3)
        assert limiter.surplus == 3.0
        assert limiter.metrics()["inserted_steps"] == 203.0


def test_restarting_before_min_size_still_owes_nothing_up_to_it() -> None:
    limiter = Limiter(1.0, 10, 20.0)
    limiter.inserted(4)
    limiter.restart_surplus()
    limiter.inserted(6)
    assert limiter.surplus == 0.0
    limiter.inserted(1)
    assert limiter.surplus == 1.0


def test_metrics_before_min_size_divide_by_nothing() -> None:
    limiter = Limiter(1.0, 10, 20.0)
    limiter.inserted(10)
    assert limiter.metrics() == {
        "inserted_steps": 10.0,
        "learned_steps": 0.0,
        "surplus_steps": 0.0,
        "observation_replay_ratio": 0.0,
    }


def test_a_restored_limiter_goes_on_identically() -> None:
    """D1: after a restore sampling does not wait for `min_size` again."""
    limiter = Limiter(1.5, 10, 20.0)
    limiter.inserted(33)
    limiter.learned(7)
    limiter.restart_surplus()
    limiter.inserted(9)
    restored = Limiter(1.5, 10, 20.0)
    restored.load_state_dict(limiter.state_dict())
    assert restored.surplus == limiter.surplus == 1.5 * 9
    assert restored.metrics() == limiter.metrics()
    assert restored.wants_sample(True)


@pytest.mark.parametrize(("ratio", "min_size"), [(3.0, 10), (None, 10), (1.5, 60)])
def test_under_other_settings_the_totals_go_on_and_the_surplus_restarts(
    ratio: float | None, min_size: int
) -> None:
    limiter = Limiter(1.5, 10, 20.0)
    limiter.inserted(50)
    limiter.learned(7)
    restored = Limiter(ratio, min_size, 20.0)
    restored.load_state_dict(limiter.state_dict())
    assert restored.surplus == 0.0
    assert restored.metrics()["inserted_steps"] == 50.0
    assert restored.metrics()["learned_steps"] == 7.0


def test_a_damaged_state_is_refused_and_changes_nothing() -> None:
    limiter = Limiter(1.5, 10, 20.0)
    limiter.inserted(50)
    state = limiter.state_dict()
    for name in ("inserted", "learned", "inserted_from", "learned_from"):
        with pytest.raises(ValueError, match="cannot be negative"):
            limiter.load_state_dict({**state, name: np.array(-1)})
    assert limiter.surplus == 1.5 * 40


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio must be a finite number above 0, or None"):
        Limiter(ratio, 0, 0.0)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_out_of_range_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance must be finite and at least 0"):
        Limiter(1.0, 0, tolerance)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="min_size must be at least 0 steps, not -1"):
        Limiter(1.0, -1, 0.0)
    limiter = Limiter(1.0, 0, 0.0)
    for count in (limiter.inserted, limiter.learned):
        with pytest.raises(ValueError, match="cannot be negative: -1"):
            count(-1)


@given(
    learned=st.lists(st.integers(0, 50), max_size=6),
    restart=st.integers(0, 6),
    back=st.lists(st.integers(0, 90), max_size=4),
)
def test_what_is_unlearned_is_owed_again_down_to_where_the_surplus_began(
    learned: list[int], restart: int, back: list[int]
) -> None:
    """R3."""
    limiter = Limiter(ratio=1.0, min_size=0, tolerance=30.0)
    limiter.inserted(100)
    for i, steps in enumerate(learned):
        if i == restart:
            limiter.restart_surplus()
        limiter.learned(steps)
    begun = sum(learned[:restart]) if restart < len(learned) else 0
    for steps in back:
        surplus, before = limiter.surplus, limiter.totals.learned
        taken = limiter.unlearned(steps)
        assert taken == min(steps, before - begun)
        assert limiter.totals.learned == before - taken
        assert limiter.surplus == surplus + taken
    other = Limiter(ratio=1.0, min_size=0, tolerance=30.0)
    other.load_state_dict(limiter.state_dict())
    assert other.totals == limiter.totals
