"""Picking values out of action values, by hand and by loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.maths.rescaling import inverse_rescale, rescale
from recollect.maths.returns import n_step_returns
from recollect.maths.value_learning import action_values, double_q_bootstrap, half_squared


@given(seed=st.integers(0, 10**6), sizes=st.tuples(*[st.integers(1, 5)] * 3))
@settings(deadline=None, max_examples=50)
def test_both_agree_with_a_loop(seed: int, sizes: tuple[int, int, int]) -> None:
    """S0-7: a* by the online network, its value by the target network."""
    generator = torch.Generator().manual_seed(seed)
    online = torch.randn(*sizes, generator=generator)
    target = torch.randn(*sizes, generator=generator)
    a = torch.randint(sizes[2], sizes[:2], generator=generator)
    taken, double = action_values(online, a), double_q_bootstrap(online, target)
    assert taken.shape == double.shape == sizes[:2]
    for t in range(sizes[0]):
        for b in range(sizes[1]):
            row = online[t, b].tolist()
            assert taken[t, b] == row[a[t, b]]
            assert double[t, b] == target[t, b, row.index(max(row))]


def test_the_target_judges_what_the_online_network_chose() -> None:
    """S0-4, S0-7: double Q-learning is neither network's own maximum."""
    online, target = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([30.0, 10.0, 20.0])
    assert double_q_bootstrap(online, target).item() == 10
    assert double_q_bootstrap(online, online).item() == 3  # one network: ordinary Q-learning


def test_gradient_reaches_only_the_action_taken() -> None:
    q = torch.zeros(1, 1, 3, requires_grad=True)
    action_values(q, torch.tensor([[2]])).sum().backward()
    assert q.grad is not None
    assert q.grad.tolist() == [[[0, 0, 1]]]


def test_no_action_has_no_value() -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        action_values(torch.zeros(1, 3), torch.tensor([-1]))


def test_the_whole_target_by_hand() -> None:
    """S0-7, S2-11, S3-14: y = h(sum gamma^k r + gamma^n h^-1(Q(s_{t+n}, a*; theta^-))), n = 2.

    Three steps; in the second sequence the second step terminates, inside n of the first.
    """
    gamma = 0.9
    r_t = torch.tensor([[1, 1], [2, 2], [4, 4]], dtype=torch.float64)
    discount_t = torch.tensor([[gamma, gamma], [gamma, 0], [gamma, gamma]], dtype=torch.float64)
    online = torch.tensor([[0, 1], [1, 0], [0, 1]], dtype=torch.float64)  # [T, A]: a* = 1, 0, 1
    target = torch.tensor([[5, 6], [7, 8], [9, 10]], dtype=torch.float64)  # values 6, 7, 10
    q_t = double_q_bootstrap(online, target)[:, None].expand(3, 2)
    y = rescale(n_step_returns(r_t, discount_t, inverse_rescale(q_t), n=2))

    def h(x: float) -> float:
        return (x + 1) ** 0.5 - 1 + 1e-3 * x

    def inverse(x: float) -> float:
        return (((1 + 4e-3 * (x + 1 + 1e-3)) ** 0.5 - 1) / 2e-3) ** 2 - 1

    assert y[:, 0].tolist() == pytest.approx(
        [
            h(1 + gamma * 2 + gamma**2 * inverse(7)),
            h(2 + gamma * 4 + gamma**2 * inverse(10)),
            h(4 + gamma * inverse(10)),
        ]
    )
    assert y[:, 1].tolist() == pytest.approx([h(1 + gamma * 2), h(2), h(4 + gamma * inverse(10))])


def test_half_squared_by_hand_and_with_a_line_beyond_huber() -> None:
    """S3-15: half the square; with huber = 2 the error 5 costs 2 (5 - 1)."""
    errors = torch.tensor([-3.0, 0.0, 1.0, 5.0])
    assert half_squared(errors).tolist() == [4.5, 0.0, 0.5, 12.5]
    assert half_squared(errors, 2.0).tolist() == [2 * (3 - 1), 0.0, 0.5, 2 * (5 - 1)]


def test_half_squared_has_the_clipped_error_as_its_slope() -> None:
    errors = torch.tensor([-3.0, -0.5, 0.25, 5.0], requires_grad=True)
    half_squared(errors, 2.0).sum().backward()
    assert errors.grad is not None
    assert errors.grad.tolist() == [-2.0, -0.5, 0.25, 2.0]
