"""The ladder of epsilons, and who explores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.maths.exploration import epsilon_greedy, epsilon_ladder


@given(n=st.integers(2, 300), base=st.floats(0.01, 1), alpha=st.floats(0, 10))
@settings(deadline=None, max_examples=50)
def test_ladder_agrees_with_a_loop(n: int, base: float, alpha: float) -> None:
    expected = [base ** (1 + alpha * i / (n - 1)) for i in range(n)]
    assert epsilon_ladder(n, base, alpha).tolist() == pytest.approx(expected)


def test_trap_23_every_actor_has_its_own_rung() -> None:
    """S4-13: 0.4 down to 0.4^8, by global slot; the quartiles of 360 actors; one actor alone."""
    assert epsilon_ladder(3).tolist() == pytest.approx([0.4, 0.4**4.5, 0.4**8])
    ladder = epsilon_ladder(360)
    assert ladder.dtype == np.float64
    assert ladder[0] == pytest.approx(0.4)
    assert ladder[-1] == pytest.approx(0.000655, abs=5e-7)
    assert ladder[[90, 180, 270]] == pytest.approx([0.0801, 0.0160, 0.0032], rel=0.005)
    assert (np.diff(ladder) < 0).all()
    assert epsilon_ladder(1).tolist() == pytest.approx([0.4 ** (1 + 7 / 2)])


def test_trap_23_each_slot_explores_at_its_own_rate() -> None:
    """S4-13: over many steps, exploring slots deviate as often as their own epsilon says."""
    steps, actions = 20_000, 5
    ladder = epsilon_ladder(4, alpha=3)  # 0.4, 0.16, 0.064, 0.0256
    generator = np.random.default_rng(5)
    explore, choice = generator.random((2, steps, 4))
    values = np.tile(np.array([0, 0, 1, 0, 0], np.float32), (4, 1))
    taken = np.array([epsilon_greedy(values, ladder, explore[t], choice[t]) for t in range(steps)])
    expected = ladder * (actions - 1) / actions  # a random action may be the best one
    tolerance = 5 * np.sqrt(expected / steps)
    assert (np.abs((taken != 2).mean(0) - expected) < tolerance).all()
    shares = np.bincount(taken[explore < ladder], minlength=actions) / (explore < ladder).sum()
    assert shares == pytest.approx(np.full(actions, 1 / actions), abs=0.02)


@given(seed=st.integers(0, 10**6), slots=st.integers(1, 7), actions=st.integers(1, 5))
@settings(deadline=None, max_examples=100)
def test_epsilon_greedy_agrees_with_a_loop(seed: int, slots: int, actions: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 3, (slots, actions)).astype(np.float32)  # with ties
    epsilon, explore, choice = generator.random((3, slots))
    taken = epsilon_greedy(values, epsilon, explore, choice)
    assert taken.dtype == np.int64
    assert taken.shape == (slots,)
    for e in range(slots):
        row = values[e].tolist()
        random = math.floor(choice[e] * actions)
        assert taken[e] == (random if explore[e] < epsilon[e] else row.index(max(row)))


def test_epsilon_0_never_explores_and_1_always_does() -> None:
    values = np.array([[0, 1, 0]] * 2, np.float32)
    lowest, highest = np.zeros(2), np.full(2, np.nextafter(1, 0))
    for explore in (lowest, highest):
        assert epsilon_greedy(values, np.zeros(2), explore, highest).tolist() == [1, 1]
        assert epsilon_greedy(values, np.ones(2), explore, highest).tolist() == [2, 2]
        assert epsilon_greedy(values, np.ones(2), explore, lowest).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_uniform_is_the_last_action(dtype: type) -> None:
    one = np.ones(1)
    largest = np.nextafter(dtype(1), dtype(0))[None]
    for actions in range(1, 2000):
        values = np.zeros((1, actions), np.float32)
        assert epsilon_greedy(values, one, 0 * one, largest) == actions - 1


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="num_actors must be at least 1, got 0"):
        epsilon_ladder(0)
    for base in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="base must be in"):
            epsilon_ladder(3, base=base)
    assert epsilon_ladder(3, base=0).tolist() == [0, 0, 0], "nobody explores"
    for alpha in (-1, math.nan):
        with pytest.raises(ValueError, match="alpha must be at least 0"):
            epsilon_ladder(3, alpha=alpha)
