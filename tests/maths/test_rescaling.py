"""h and its inverse: values, inverse of each other, and digits kept in float32."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.maths.rescaling import asymmetric_clip, inverse_rescale, rescale


def textbook(x: float, epsilon: float) -> float:
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + epsilon * x


def textbook_inverse(x: float, epsilon: float) -> float:
    root = math.sqrt(1 + 4 * epsilon * (abs(x) + 1 + epsilon))
    return math.copysign(((root - 1) / (2 * epsilon)) ** 2 - 1, x)


def both_signs(low: float, high: float) -> torch.Tensor:
    x = torch.logspace(math.log10(low), math.log10(high), 2001, dtype=torch.float64)
    return torch.cat((-x, x))


@given(
    x=st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-3),
    epsilon=st.floats(1e-3, 1),
)
@settings(deadline=None, max_examples=100)
def test_both_agree_with_the_textbook_in_float64(x: float, epsilon: float) -> None:
    """S0-6, S2-10: the closed forms as the papers print them, where float64 can afford them."""
    tensor = torch.tensor(x, dtype=torch.float64)
    assert rescale(tensor, epsilon).item() == pytest.approx(textbook(x, epsilon), rel=1e-9)
    inverse = inverse_rescale(tensor, epsilon).item()
    assert inverse == pytest.approx(textbook_inverse(x, epsilon), rel=1e-8)


def test_the_inverse_undoes_it_in_float64() -> None:
    """S0-6: h^-1(h(x)) = x and h(h^-1(x)) = x."""
    x = both_signs(1e-6, 1e6)
    torch.testing.assert_close(inverse_rescale(rescale(x)), x, rtol=1e-12, atol=0)
    torch.testing.assert_close(rescale(inverse_rescale(x)), x, rtol=1e-12, atol=0)
    assert rescale(torch.zeros(1)).item() == inverse_rescale(torch.zeros(1)).item() == 0


def test_both_are_odd_and_rising() -> None:
    """S0-6: monotone; odd."""
    x = both_signs(1e-6, 1e6).sort().values
    for function in (rescale, inverse_rescale):
        y = function(x)
        assert torch.equal(-y, function(-x))
        assert bool((y.diff() > 0).all())


def test_trap_15_epsilon_is_a_thousandth_by_default() -> None:
    """S0-6, S2-10: the values that follow from epsilon = 1e-3."""
    x = torch.tensor([1, 10, 100, 1e4, 1e6], dtype=torch.float64)
    expected = [0.415214, 2.326625, 9.149876, 109.005, 1999.0005]
    assert rescale(x).tolist() == pytest.approx(expected, rel=2e-6)
    assert inverse_rescale(torch.tensor(expected, dtype=torch.float64)).tolist() == pytest.approx(
        x.tolist(), rel=4e-6
    )
    assert rescale(x[0]).item() == pytest.approx(math.sqrt(2) - 1 + 0.001, rel=1e-12)


def test_trap_16_nothing_cancels_in_float32() -> None:
    """S0-6: relative error under 1e-6 from 1e-3 to 1e5, both ways, judged in float64."""
    x = both_signs(1e-3, 1e5).float()
    exact = torch.tensor([textbook(v, 1e-3) for v in x.tolist()], dtype=torch.float64)
    assert bool(((rescale(x) - exact).abs() < 1e-6 * exact.abs()).all())
    exact = torch.tensor([textbook_inverse(v, 1e-3) for v in x.tolist()], dtype=torch.float64)
    assert bool(((inverse_rescale(x) - exact).abs() < 1e-6 * exact.abs()).all())


def test_without_the_linear_part_it_is_a_square_root() -> None:
    x = torch.tensor([-8, -3, 0, 3, 8], dtype=torch.float64)
    assert rescale(x, 0.0).tolist() == pytest.approx([-2, -1, 0, 1, 2])
    assert inverse_rescale(rescale(x, 0.0), 0.0).tolist() == pytest.approx(x.tolist())


@pytest.mark.parametrize("function", [rescale, inverse_rescale])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_and_shape_are_kept(function, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    y = function(torch.ones(5, 7, 3, dtype=dtype))
    assert (y.dtype, y.shape) == (dtype, (5, 7, 3))


def test_the_slope_at_0_is_a_half_and_epsilon() -> None:
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    rescale(x).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(0.5 + 1e-3)


def test_rewards_are_clipped_softly_and_punishment_less() -> None:
    """R2D2+: 5 tanh(r / 5), and 0.3 of it below 0."""
    e2 = math.exp(2)  # tanh 1 = (e^2 - 1) / (e^2 + 1)
    x = torch.tensor([0, 5, -5, 10, -10], dtype=torch.float64)
    e4 = math.exp(4)
    one, two = 5 * (e2 - 1) / (e2 + 1), 5 * (e4 - 1) / (e4 + 1)
    expected = [0, one, -0.3 * one, two, -0.3 * two]
    assert asymmetric_clip(x).tolist() == pytest.approx(expected, rel=1e-12)
    assert one == pytest.approx(3.808, abs=1e-3)


def test_what_is_clipped_keeps_its_order_sign_shape_and_dtype() -> None:
    x = torch.linspace(-30, 30, 301).view(7, 43)
    y = asymmetric_clip(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert torch.equal(y.sign(), x.sign())
    assert bool((y.flatten().diff() >= 0).all())
    small = torch.tensor([1e-4, -1e-4], dtype=torch.float64)
    assert asymmetric_clip(small).tolist() == pytest.approx([1e-4, -0.3e-4], rel=1e-8)


def test_rewards_of_any_size_stay_within_the_bounds() -> None:
    x = torch.tensor([1e4, -1e4, 1e30, -1e30, torch.inf, -torch.inf])
    assert asymmetric_clip(x).tolist() == pytest.approx([5, -1.5] * 3)
    assert asymmetric_clip(torch.tensor([-0.0, 0.0])).tolist() == [0, 0]
    assert bool(asymmetric_clip(torch.tensor([torch.nan])).isnan().all())
    assert asymmetric_clip(torch.zeros(0)).shape == (0,)
