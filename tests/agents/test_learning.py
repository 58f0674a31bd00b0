"""One vector of parameters under a network, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect.agents.learning import (
    ALIGNMENT,
    FlatParameters,
    clip_by_norm,
    load_named_arrays,
    named_arrays,
    tensors,
)


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.LSTM(5, 7))


def test_the_network_works_on_views_of_the_vector() -> None:
    plain, flat_network = network(), network()
    flat = FlatParameters(flat_network)
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(flat_network(x)[0], plain(x)[0])
    flat.vector.zero_()
    assert (flat_network(x)[0] == 0).all()


def test_gradients_gather_in_the_vector_and_gaps_stay_zero() -> None:
    plain, flat_network = network(), network()
    flat = FlatParameters(flat_network)
    x = torch.randn(4, 2, 3)
    plain(x)[0].square().sum().backward()
    flat_network(x)[0].square().sum().backward()
    start = 0
    for p in plain.parameters():
        piece = flat.gradient[start : start + p.numel()].view_as(p)
        torch.testing.assert_close(piece, p.grad)
        gap = -(-p.numel() // ALIGNMENT) * ALIGNMENT
        assert (flat.gradient[start + p.numel() : start + gap] == 0).all()
        start += gap
    assert start == len(flat.vector)


def test_a_vector_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="have 5 numbers and the network wants"):
        FlatParameters(network()).load(np.zeros(5, np.float32))


def test_load_and_numpy_are_inverse() -> None:
    a, b = FlatParameters(network(0)), FlatParameters(network(1))
    b.load(a.numpy())
    assert torch.equal(a.vector, b.vector)


def test_clip_by_norm_scales_only_what_is_too_long() -> None:
    vector = torch.tensor([3.0, 4.0])
    assert clip_by_norm(vector, 10.0) == 5.0
    assert vector.tolist() == [3.0, 4.0]
    assert clip_by_norm(vector, 1.0) == 5.0
    torch.testing.assert_close(vector, torch.tensor([0.6, 0.8]))


def test_named_arrays_round_trip_and_misfits_are_named() -> None:
    source, target = network(0), network(1)
    arrays = named_arrays(source)
    load_named_arrays(target, arrays)
    x = torch.randn(4, 2, 3)
    assert torch.equal(source(x)[0], target(x)[0])
    with pytest.raises(ValueError, match=r"parameter '0.bias'.*wants \(5,\), there is nothing"):
        load_named_arrays(target, {k: v for k, v in arrays.items() if k != "0.bias"})
    with pytest.raises(ValueError, match=r"'0.bias'.*wants \(5,\), there is \(6,\)"):
        load_named_arrays(target, arrays | {"0.bias": np.zeros(6, np.float32)})


def test_tensors_share_memory_with_arrays() -> None:
    array = np.zeros(3, np.float32)
    tensor = tensors({"a": {"b": array}})["a"]["b"]
    tensor[0] = 5
    assert array[0] == 5
