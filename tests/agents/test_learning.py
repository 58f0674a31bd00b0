"""One vector of parameters under a network, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect.agents.learning import (
    ALIGNMENT,
    FlatAdam,
    FlatParameters,
    Gradients,
    Skipped,
    clip_by_norm,
    load_named_arrays,
    named_arrays,
    tensors,
)
from recollect.types import DivergedError


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


def test_each_parameter_starts_on_a_line_of_64_bytes_and_none_is_lost() -> None:
    """15 and 5 weights and biases take a line each, 7 by 20 weights of the LSTM take 9."""
    module = network()
    flat = FlatParameters(module)
    base = flat.vector.data_ptr()
    places = [(p.data_ptr() - base) // 64 for p in module.parameters()]
    sizes = [p.numel() for p in module.parameters()]
    assert sizes == [15, 5, 28 * 5, 28 * 7, 28, 28]
    assert places == [0, 1, 2, 2 + 9, 11 + 13, 24 + 2]
    assert flat.vector.shape == flat.gradient.shape == (16 * (26 + 2),)


def test_what_is_not_learned_has_a_place_and_no_gradient() -> None:
    module = torch.nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    flat = FlatParameters(module)
    module(torch.ones(1, 3)).sum().backward()
    assert module.bias.grad is None
    assert flat.gradient.tolist() == [1] * 6 + [0] * 26
    np.testing.assert_array_equal(flat.numpy()[16:18], module.bias.numpy())


def test_a_vector_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="have 5 numbers and the network wants"):
        FlatParameters(network()).load(np.zeros(5, np.float32))


def test_load_and_numpy_are_inverse() -> None:
    a, b = FlatParameters(network(0)), FlatParameters(network(1))
    b.load(a.numpy())
    assert torch.equal(a.vector, b.vector)


def test_vectors_given_and_taken_are_copies() -> None:
    flat = FlatParameters(network())
    taken = flat.numpy()
    given = np.full_like(taken, 3)
    flat.load(given)
    assert taken[0] != 3
    given[:] = 4
    assert flat.vector[0] == 3
    arrays = named_arrays(network())
    named = network()
    load_named_arrays(named, arrays)
    before = arrays["0.bias"].copy()
    with torch.no_grad():
        named[0].bias.add_(1)
    np.testing.assert_array_equal(arrays["0.bias"], before)
    kept = named_arrays(named)
    with torch.no_grad():
        named[0].bias.add_(1)
    np.testing.assert_allclose(kept["0.bias"], before + 1)


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
    with pytest.raises(ValueError, match=r"'3.bias'.*wants nothing of that name, there is \(5,\)"):
        load_named_arrays(target, arrays | {"3.bias": np.zeros(5, np.float32)})


def test_nothing_is_loaded_where_one_array_does_not_fit() -> None:
    target = network(1)
    before = named_arrays(target)
    with pytest.raises(ValueError, match=r"'2.bias_hh_l0'"):
        load_named_arrays(target, named_arrays(network(0)) | {"2.bias_hh_l0": np.zeros(1)})
    for name, array in named_arrays(target).items():
        np.testing.assert_array_equal(array, before[name])


def test_tensors_share_memory_with_arrays() -> None:
    array = np.zeros(3, np.float32)
    tensor = tensors({"a": {"b": array}})["a"]["b"]
    tensor[0] = 5
    assert array[0] == 5


def test_adam_goes_on_with_its_steps_and_moments_or_begins_anew() -> None:
    flats = [FlatParameters(network()) for _ in range(2)]
    one, other = (FlatAdam(flat, 0.1, 1e-3) for flat in flats)
    fresh, gradient = one.state_dict(), torch.linspace(-1, 1, len(flats[0].vector))
    assert fresh == {}
    start = flats[0].numpy()
    one.step(gradient)
    first, state = flats[0].numpy(), one.state_dict()
    one.step(-gradient)
    second = flats[0].numpy()
    assert state["step"] == 1, "a state is a snapshot"
    other.load_state_dict(state)
    flats[1].load(first)
    other.step(-gradient)
    np.testing.assert_array_equal(flats[1].numpy(), second)
    other.load_state_dict(fresh)
    flats[1].load(start)
    other.step(gradient)
    np.testing.assert_array_equal(flats[1].numpy(), first)


def test_updates_skipped_on_end_are_counted_over_a_resume() -> None:
    bad = Gradients(torch.zeros(1), np.ones(1), {"loss": float("nan"), "gradient_norm": 1.0})
    skipped, items = Skipped(), np.arange(1)
    good = Gradients(torch.zeros(1), np.ones(1), {"loss": 1.0, "gradient_norm": 1.0})
    assert skipped.takes(bad, items)
    assert not skipped.takes(good, items)
    for _ in range(Skipped.LARGEST_RUN - 1):
        assert skipped.takes(bad, items)
    resumed = Skipped()
    resumed.load_state_dict(skipped.state_dict())
    assert resumed.total == Skipped.LARGEST_RUN
    with pytest.raises(DivergedError, match="10 updates on end"):
        resumed.takes(bad, items)
