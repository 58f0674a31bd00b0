"""n-step returns, judged by a loop that follows the equation literally."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.maths.returns import n_step_returns

DOUBLE = torch.float64


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=DOUBLE)[:, None]  # [T, 1]


def by_loop(
    r: torch.Tensor, d: torch.Tensor, v: torch.Tensor, n: int, real: torch.Tensor
) -> torch.Tensor:
    returns = torch.zeros_like(r)
    for b in range(r.shape[1]):
        steps = [t for t in range(r.shape[0]) if real[t, b]]
        for i in steps:
            m = min(n, steps[-1] + 1 - i)
            product = 1.0
            for k in range(m):
                returns[i, b] += product * r[i + k, b].item()
                product *= d[i + k, b].item()
            returns[i, b] += product * v[i + m - 1, b].item()
    return returns


def random_case(
    seed: int, steps: int, batch: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, discounts with zeros among them, values, and a run of real steps in each column."""
    generator = torch.Generator().manual_seed(seed)
    r, v = torch.randn(2, steps, batch, generator=generator, dtype=DOUBLE)
    d = torch.rand(steps, batch, generator=generator, dtype=DOUBLE)
    d[torch.rand(steps, batch, generator=generator) < 0.15] = 0
    ends = torch.randint(steps + 1, (2, batch), generator=generator).sort(0).values
    t = torch.arange(steps)[:, None]
    return r, d, v, (t >= ends[0]) & (t < ends[1])


@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 9),
    batch=st.integers(1, 5),
    n=st.integers(1, 12),
    garbage=st.sampled_from([0.0, 1e9, math.nan, math.inf]),
)
@settings(deadline=None, max_examples=200)
def test_agrees_with_a_loop(seed: int, steps: int, batch: int, n: int, garbage: float) -> None:
    """S0-7, C-1: any n, masked columns before and after, terminations inside, anything masked."""
    r, d, v, real = random_case(seed, steps, batch)
    expected = by_loop(r, d, v, n, real)
    filled = [torch.where(real, x, garbage) for x in (r, d, v)]
    torch.testing.assert_close(n_step_returns(*filled, n, real), expected)
    torch.testing.assert_close(n_step_returns(*filled, n, real.double()), expected)
    everything = torch.ones_like(real)
    torch.testing.assert_close(n_step_returns(r, d, v, n), by_loop(r, d, v, n, everything))


def test_trap_10_bootstraps_n_steps_on() -> None:
    """S0-7: rewards of n steps go with the value n steps on, not with the next one."""
    returns = n_step_returns(
        column(1, 2, 3, 4), column(0.9, 0.9, 0.9, 0.9), column(100, 200, 300, 400), n=3
    )
    assert returns[0].item() == pytest.approx(1 + 0.9 * 2 + 0.9**2 * 3 + 0.9**3 * 300)
    assert returns[1].item() == pytest.approx(2 + 0.9 * 3 + 0.9**2 * 4 + 0.9**3 * 400)


def test_trap_11_the_newest_reward_is_discounted_most() -> None:
    """S0-7: reward k has the product of the k discounts before it, each its own."""
    returns = n_step_returns(column(1, 10, 100), column(0.5, 0.6, 0.7), column(0, 0, 1000), n=3)
    assert returns[0].item() == pytest.approx(
        1 + 0.5 * 10 + 0.5 * 0.6 * 100 + 0.5 * 0.6 * 0.7 * 1e3
    )


def test_trap_17_padding_adds_nothing() -> None:
    """Two real steps, three of padding: the same as two steps alone, and 0 where padded."""
    r, d, v = column(1, 2, 0, 0, 0), column(0.9, 0.9, 0, 0, 0), column(10, 20, 0, 0, 0)
    returns = n_step_returns(r, d, v, 5, column(1, 1, 0, 0, 0))
    assert returns[:, 0].tolist() == pytest.approx(
        [1 + 0.9 * 2 + 0.9**2 * 20, 2 + 0.9 * 20, 0, 0, 0]
    )
    torch.testing.assert_close(returns[:2], n_step_returns(r[:2], d[:2], v[:2], 5))


def test_trap_18_truncation_bootstraps_from_the_closing_observation() -> None:
    """Cut off after step 2, whose discount is gamma: the closing observation is worth 100.

    777 and 7 are the next episode's first value and reward, which are no business of this one.
    """
    r, v = column(1, 2, 4, 7), column(10, 20, 100, 777)
    mask = column(1, 1, 1, 0)
    truncated = n_step_returns(r, column(0.9, 0.9, 0.9, 0.9), v, 2, mask)
    assert truncated[:, 0].tolist() == pytest.approx(
        [1 + 0.9 * 2 + 0.9**2 * 20, 2 + 0.9 * 4 + 0.9**2 * 100, 4 + 0.9 * 100, 0]
    )
    terminated = n_step_returns(r, column(0.9, 0.9, 0, 0.9), v, 2, mask)
    assert terminated[:, 0].tolist() == pytest.approx(
        [1 + 0.9 * 2 + 0.9**2 * 20, 2 + 0.9 * 4, 4, 0]
    )


def test_trap_20_the_tail_gives_every_learned_step_its_n_steps() -> None:
    """Learned steps 0 to 3 and n = 3 steps after them: the last learned target is a full one."""
    learned, n, gamma = 4, 3, 0.9
    r, d = column(1, 2, 3, 4, 5, 6, 7), torch.full((7, 1), gamma, dtype=DOUBLE)
    v = column(10, 20, 30, 40, 50, 60, 70)
    full = n_step_returns(r, d, v, n)[:learned]
    assert full[3].item() == pytest.approx(4 + gamma * 5 + gamma**2 * 6 + gamma**3 * 60)
    # n_step_tail="shorten" leaves the tail out: the last target is a one-step one.
    shortened = n_step_returns(r[:learned], d[:learned], v[:learned], n)
    assert shortened[3].item() == pytest.approx(4 + gamma * 40)
    torch.testing.assert_close(shortened[: learned - n + 1], full[: learned - n + 1])


@given(seed=st.integers(0, 10**6), n=st.integers(1, 5), start=st.integers(0, 6))
@settings(deadline=None, max_examples=50)
def test_a_target_does_not_depend_on_the_window(seed: int, n: int, start: int) -> None:
    """With n steps of tail, a window of 5 learned steps has the targets of the whole episode."""
    r, d, v, _ = random_case(seed, 16, 3)
    window = slice(start, start + 5 + n)
    in_window = n_step_returns(r[window], d[window], v[window], n)[:5]
    torch.testing.assert_close(in_window, n_step_returns(r, d, v, n)[start : start + 5])


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_one_step_and_full_return_are_special_cases(seed: int) -> None:
    r, d, v, _ = random_case(seed, 7, 3)
    torch.testing.assert_close(n_step_returns(r, d, v, 1), r + d * v)
    full = torch.empty_like(r)
    after = v[-1]
    for t in reversed(range(7)):
        full[t] = after = r[t] + d[t] * after
    for n in (7, 8, 100):
        torch.testing.assert_close(n_step_returns(r, d, v, n), full)


def test_a_life_lost_inside_stops_the_sum() -> None:
    """A discount of 0 in the middle: nothing after it counts, and the steps after it go on."""
    returns = n_step_returns(column(1, 2, 4, 8), column(0.9, 0, 0.9, 0.9), column(3, 5, 7, 9), n=3)
    assert returns[:, 0].tolist() == pytest.approx(
        [1 + 0.9 * 2, 2, 4 + 0.9 * 8 + 0.9**2 * 9, 8 + 0.9 * 9]
    )


def test_masked_garbage_sends_no_gradient() -> None:
    """NaN in masked cells reaches neither the returns nor the gradient of any input."""
    mask = torch.tensor([[0, 0], [1, 0], [1, 0], [0, 0]], dtype=torch.bool)
    inputs = [torch.where(mask, 0.5, math.nan).requires_grad_() for _ in range(3)]
    returns = n_step_returns(*inputs, 3, mask)
    returns.sum().backward()
    assert bool(returns.isfinite().all())
    for x in inputs:
        assert x.grad is not None
        assert bool(x.grad.isfinite().all())
        assert not bool(x.grad[~mask].any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_is_kept_and_inputs_are_untouched(dtype: torch.dtype) -> None:
    inputs = [torch.full((5, 3), x, dtype=dtype) for x in (1.0, 0.5, 2.0)]
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[4] = False
    copies = [x.clone() for x in inputs]
    assert n_step_returns(*inputs, 3, mask).dtype == dtype
    assert n_step_returns(*inputs, 3).dtype == dtype
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, copies, strict=True))


def test_wrong_arguments_are_named() -> None:
    x = torch.zeros(5, 3)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        n_step_returns(x, x, x, 0)
    with pytest.raises(ValueError, match=r"r_t must be \[T, B\].*got \[5\]"):
        n_step_returns(x[:, 0], x[:, 0], x[:, 0], 1)
    with pytest.raises(ValueError, match=r"got \[0, 3\]"):
        n_step_returns(x[:0], x[:0], x[:0], 1)
    with pytest.raises(ValueError, match=r"v_t must have the shape \[5, 3\] of r_t, got \[6, 3\]"):
        n_step_returns(x, x, torch.zeros(6, 3), 1)
    with pytest.raises(ValueError, match="discount_t must have the shape"):
        n_step_returns(x, x.T, x, 1)
    with pytest.raises(ValueError, match="mask_tm1 must have the shape"):
        n_step_returns(x, x, x, 1, x[:, :1])
