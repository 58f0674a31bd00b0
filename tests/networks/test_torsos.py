from __future__ import annotations

import pytest
import torch

from recollect.networks.torsos import MLP
from recollect.types import ArraySpec, ConfigError

N = 7


def test_arrays_stand_in_the_order_of_their_keys_whatever_order_they_come_in() -> None:
    spec = {"b": ArraySpec((3,)), "a": ArraySpec((2, 2)), "c": ArraySpec((), "int64")}
    torso = MLP(spec, sizes=())
    a, b, c = torch.randn(N, 2, 2), torch.randn(N, 3), torch.arange(N)
    features = torso({"c": c, "b": b, "a": a})
    assert torso.output_size == 4 + 3 + 1
    assert torch.equal(features, torch.cat((a.flatten(1), b, c.float()[:, None]), dim=1))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool", "float32", "float64"])
def test_every_dtype_becomes_float32_unscaled(dtype: str) -> None:
    torso = MLP({"observation": ArraySpec((2,), dtype)}, sizes=())
    x = torch.tensor([[0, 1], [1, 1]], dtype=getattr(torch, dtype))
    features = torso({"observation": x})
    assert features.dtype == torch.float32
    assert features.tolist() == [[0, 1], [1, 1]]


def test_layers_are_linear_then_relu() -> None:
    torso = MLP({"observation": ArraySpec((3,))}, sizes=(5, 4))
    x = torch.randn(N, 3)
    (w0, b0), (w1, b1) = ((layer.weight, layer.bias) for layer in torso.layers)
    expected = (((x @ w0.T + b0).clamp(min=0)) @ w1.T + b1).clamp(min=0)
    assert torso.output_size == 4
    torch.testing.assert_close(torso({"observation": x}), expected)
    assert sum(p.numel() for p in torso.parameters()) == (3 * 5 + 5) + (5 * 4 + 4)


def test_no_rows_give_no_rows() -> None:
    torso = MLP({"observation": ArraySpec((3,))}, sizes=(5,))
    assert torso({"observation": torch.zeros(0, 3)}).shape == (0, 5)


@pytest.mark.parametrize("spec", [{}, {"observation": ArraySpec((0,))}])
def test_an_observation_without_numbers_is_refused(spec: dict[str, ArraySpec]) -> None:
    with pytest.raises(ConfigError, match="at least one number"):
        MLP(spec)


def test_a_layer_without_units_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one unit"):
        MLP({"observation": ArraySpec((3,))}, sizes=(4, 0))
