"""Delta-Q: its equation, what it ignores, and where it is read."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.maths.staleness import delta_q, first_and_last


def random_case(
    seed: int, steps: int, batch: int, actions: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    unrolled, stored = torch.randn(2, steps, batch, actions, generator=generator).double()
    return unrolled, stored, torch.rand(steps, batch, generator=generator) < 0.7


@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(1, 3)),
)
@settings(deadline=None, max_examples=100)
def test_agrees_with_a_loop(seed: int, sizes: tuple[int, int, int]) -> None:
    """S0-15: NaN in masked steps is neither in the norm nor in the normaliser."""
    unrolled, stored, mask = random_case(seed, *sizes)
    steps, batch, actions = sizes
    garbage = [torch.where(mask[..., None], q, math.nan) for q in (unrolled, stored)]
    delta = delta_q(*garbage, mask)
    assert delta.shape == (steps, batch)
    for b in range(batch):
        real = [t for t in range(steps) if mask[t, b]]
        largest = max((unrolled[t, b, a].item() for t in real for a in range(actions)), default=1)
        for t in range(steps):
            squares = [(unrolled[t, b, a] - stored[t, b, a]).item() ** 2 for a in range(actions)]
            expected = math.sqrt(sum(squares)) / abs(largest) if mask[t, b] else 0
            assert delta[t, b].item() == pytest.approx(expected)


def test_by_hand() -> None:
    """S0-15: a difference of (3, 4), and -2 the largest of all values though not in size."""
    unrolled = torch.tensor([[-2.0, -9.0], [-5.0, -3.0]])[:, None]  # [T, 1, A]
    stored = torch.tensor([[-2.0, -9.0], [-2.0, -7.0]])[:, None]
    assert delta_q(unrolled, stored, torch.ones(2, 1))[:, 0].tolist() == [0, 5 / 2]


def test_equal_states_have_no_discrepancy() -> None:
    """S0-15: zero when the states, and so the values, are equal."""
    q, _, mask = random_case(0, 5, 7, 3)
    assert not bool(delta_q(q, q, mask).any())


@pytest.mark.parametrize("scale", [1e-3, 7, 1e6])
def test_scaling_all_values_changes_nothing(scale: float) -> None:
    """S0-15: scale invariant in Q, and each sequence has its own normaliser."""
    unrolled, stored, mask = random_case(1, 5, 7, 3)
    scales = torch.linspace(1, scale, 7, dtype=torch.float64)[:, None]  # [B, 1]
    torch.testing.assert_close(
        delta_q(unrolled * scales, stored * scales, mask), delta_q(unrolled, stored, mask)
    )


def test_the_current_network_and_not_the_stored_values_normalise() -> None:
    """S0-15: the maximum is over the unrolled values alone."""
    unrolled, stored, mask = (
        torch.full((2, 1, 1), 2.0),
        torch.full((2, 1, 1), 8.0),
        torch.ones(2, 1),
    )
    assert delta_q(unrolled, stored, mask)[0].item() == (8 - 2) / 2


def test_a_normaliser_of_0_gives_the_difference_itself() -> None:
    """A network whose last layer is still zero has no discrepancy; nothing is ever infinite."""
    zeros, mask = torch.zeros(2, 1, 2), torch.ones(2, 1)
    assert delta_q(zeros, zeros, mask).tolist() == [[0], [0]]
    stored = torch.tensor([[3.0, 4.0], [0.0, 0.0]])[:, None]
    assert delta_q(zeros, stored, mask).tolist() == [[5], [0]]


def test_first_and_last_are_the_ends_of_the_learned_part() -> None:
    """S0-16: i = l and i = l + m - 1, for l = 3 steps of burn-in, m = 4 learned, 2 of tail."""
    burn_in, learned, tail = 3, 4, 2
    steps = burn_in + learned + tail
    delta = torch.arange(steps, dtype=torch.float32)[:, None].expand(steps, 2).clone()
    mask = torch.zeros(steps, 2)
    mask[burn_in : burn_in + learned, 0] = 1
    mask[burn_in : burn_in + 2, 1] = 1  # the episode ends after two learned steps
    first, last = first_and_last(delta, mask)
    assert first.tolist() == [burn_in, burn_in]
    assert last.tolist() == [burn_in + learned - 1, burn_in + 1]


def test_first_and_last_of_one_step_and_of_none() -> None:
    delta = torch.tensor([[math.nan, 1.0], [math.nan, 2.0], [math.nan, 3.0]])
    first, last = first_and_last(delta, torch.tensor([[0, 0], [0, 1], [0, 0]]))
    assert (first.tolist(), last.tolist()) == ([0, 2], [0, 2])


def test_wrong_shapes_are_named() -> None:
    q = torch.zeros(5, 3, 2)
    with pytest.raises(ValueError, match=r"got \[5, 3, 2\], \[5, 3, 1\] and \[5, 3\]"):
        delta_q(q, q[..., :1], torch.ones(5, 3))
    with pytest.raises(ValueError, match="must be"):
        delta_q(q, q, torch.ones(5))
