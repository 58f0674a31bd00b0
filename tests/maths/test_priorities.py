"""Priorities, chances and weights: by hand, by loop, and what must not be confused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.maths.priorities import (
    importance_weights,
    sampling_probabilities,
    sequence_priority,
)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 7),
    batch=st.integers(1, 5),
    eta=st.floats(0, 1),
)
@settings(deadline=None, max_examples=100)
def test_sequence_priority_agrees_with_a_loop(
    seed: int, steps: int, batch: int, eta: float
) -> None:
    """S0-8: eta max |delta| + (1 - eta) mean |delta| over real steps; NaN elsewhere is not read."""
    generator = torch.Generator().manual_seed(seed)
    errors = torch.randn(steps, batch, generator=generator, dtype=torch.float64)
    mask = torch.rand(steps, batch, generator=generator) < 0.6
    priorities = sequence_priority(torch.where(mask, errors, math.nan), mask, eta)
    for b in range(batch):
        real = [abs(errors[t, b].item()) for t in range(steps) if mask[t, b]]
        expected = eta * max(real) + (1 - eta) * sum(real) / len(real) if real else 0
        assert priorities[b].item() == pytest.approx(expected)


def test_eta_1_is_the_maximum_and_0_the_mean() -> None:
    """S0-8."""
    errors, mask = doubles(1, -6, 2)[:, None], torch.ones(3, 1)
    assert sequence_priority(errors, mask, eta=1).item() == 6
    assert sequence_priority(errors, mask, eta=0).item() == pytest.approx((1 + 6 + 2) / 3)
    assert sequence_priority(errors, mask).item() == pytest.approx(0.9 * 6 + 0.1 * (1 + 6 + 2) / 3)


@pytest.mark.parametrize("eta", [0, 0.3, 0.9, 1])
def test_one_step_has_its_own_error_for_priority(eta: float) -> None:
    """A transition is a sequence of one step."""
    assert sequence_priority(doubles(-3)[None], torch.ones(1, 1), eta).item() == pytest.approx(3)


def test_one_large_error_in_80_dominates() -> None:
    """S1-8: the mean alone would hide it."""
    errors = torch.full((80, 1), 0.01)
    errors[33] = -10.0
    mask = torch.ones(80, 1)
    assert sequence_priority(errors, mask).item() > 0.9 * 10
    assert sequence_priority(errors, mask, eta=0).item() < 0.02 * 10


def test_trap_13_errors_count_by_their_size_not_their_sign_or_square() -> None:
    """S0-8: all negative, mixed, and far from 1, where squares show."""
    errors = doubles(-4, 3, -2, 2).view(2, 2)  # [T, B]: (-4, -2) and (3, 2)
    mask = torch.ones(2, 2)
    expected = [0.9 * 4 + 0.1 * (4 + 2) / 2, 0.9 * 3 + 0.1 * (3 + 2) / 2]
    assert sequence_priority(errors, mask).tolist() == pytest.approx(expected)
    balanced = doubles(-5, 5)[:, None]  # its signed mean is 0
    assert sequence_priority(balanced, mask[:, :1], eta=0).item() == 5


def test_trap_17_padding_neither_dilutes_the_mean_nor_makes_the_maximum() -> None:
    """S0-8: two real steps and two padded, whose errors are 0 or huge."""
    mask = torch.tensor([[1, 1], [1, 1], [0, 0], [0, 0]])
    errors = torch.tensor([[1.0, 1.0], [3.0, 3.0], [0.0, 99.0], [0.0, -99.0]])
    expected = 0.9 * 3 + 0.1 * (1 + 3) / 2
    assert sequence_priority(errors, mask).tolist() == pytest.approx([expected, expected])


def test_trap_14_alpha_shapes_the_chances_and_beta_the_weights() -> None:
    """S2-8, X-7: R2D2 has alpha 0.9 and beta 0.6, Ape-X 0.6 and 0.4."""
    priorities = doubles(1, 2, 4)
    for alpha, beta in ((0.9, 0.6), (0.6, 0.4)):
        total = 1 + 2**alpha + 4**alpha
        chances = sampling_probabilities(priorities, alpha)
        assert chances.tolist() == pytest.approx([1 / total, 2**alpha / total, 4**alpha / total])
        weights = importance_weights(chances, 3, beta)
        assert weights.tolist() == pytest.approx([1, 2 ** -(alpha * beta), 4 ** -(alpha * beta)])
        # alpha beta is the same both ways round: only a chance seen alone tells them apart.
        assert weights.tolist() == pytest.approx([(chances[0] / p).item() ** beta for p in chances])
    r2d2, apex = (sampling_probabilities(priorities, alpha) for alpha in (0.9, 0.6))
    assert r2d2[2].item() == pytest.approx(0.5485, abs=5e-5)
    assert apex[2].item() == pytest.approx(0.4773, abs=5e-5)
    assert importance_weights(doubles(0.1, 0.4), 9, 0.6)[1].item() == pytest.approx(0.25**0.6)
    assert importance_weights(doubles(0.1, 0.4), 9, 0.4)[1].item() == pytest.approx(0.25**0.4)


@pytest.mark.parametrize("exponent", [0, 0.6, 1, -0.4])
def test_priority_0_is_never_drawn(exponent: float) -> None:
    """X-11 for the exponent below 0, which prefers small priorities."""
    chances = sampling_probabilities(doubles(0, 1, 3), exponent)
    expected = [0, 1 / (1 + 3**exponent), 3**exponent / (1 + 3**exponent)]
    assert chances.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("priorities", [[1, -1], [1, math.nan], [1, math.inf], [0, 0]])
def test_priorities_that_cannot_be_drawn_from_are_refused(priorities: list[float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        sampling_probabilities(doubles(*priorities), 0.9)


@given(
    probabilities=st.lists(st.floats(1e-9, 1), min_size=1, max_size=9),
    size=st.integers(1, 10**7),
    beta=st.floats(0, 1),
)
@settings(deadline=None, max_examples=100)
def test_weights_agree_with_a_loop(probabilities: list[float], size: int, beta: float) -> None:
    weights = importance_weights(doubles(*probabilities), size, beta)
    raw = [(1 / (size * p)) ** beta for p in probabilities]
    assert weights.tolist() == pytest.approx([w / max(raw) for w in raw])
    assert weights.max() == 1


def test_beta_0_corrects_nothing_and_1_fully() -> None:
    chances = doubles(0.125, 0.5, 0.25)
    assert importance_weights(chances, 7, 0).tolist() == [1, 1, 1]
    assert importance_weights(chances, 7, 1).tolist() == pytest.approx([1, 1 / 4, 1 / 2])
    # Fully corrected, what is drawn often counts as often as under uniform sampling.
    assert (chances * importance_weights(chances, 7, 1)).tolist() == pytest.approx([0.125] * 3)


def test_trap_25_weights_are_relative_to_the_whole_batch() -> None:
    """The rarest item stands in the first half, and items outside the batch play no part."""
    weights = importance_weights(doubles(0.01, 0.04, 0.09, 0.16), 1000, 0.5)
    assert weights.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert importance_weights(doubles(0.09, 0.16), 1000, 0.5).tolist() == pytest.approx([1, 3 / 4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    x = torch.full((5, 7), 0.5, dtype=dtype)
    assert sequence_priority(x, torch.ones(5, 7)).dtype == dtype
    assert sampling_probabilities(x[0], 0.9).dtype == dtype
    assert importance_weights(x[0], 10, 0.6).dtype == dtype


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="eta must be in"):
        sequence_priority(torch.zeros(5, 3), torch.ones(5, 3), eta=1.1)
    with pytest.raises(ValueError, match=r"shape \[5, 3\] of td_errors, got \[5\]"):
        sequence_priority(torch.zeros(5, 3), torch.ones(5))
    for beta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="beta must be in"):
            importance_weights(doubles(0.5), 3, beta)
    for probability in (0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="probabilities must be in"):
            importance_weights(doubles(0.5, probability), 3, 0.6)
    with pytest.raises(ValueError, match="size must be at least 1"):
        importance_weights(doubles(0.5), 0, 0.6)
