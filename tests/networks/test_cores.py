from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recollect.networks.cores import CORES, GRU, LSTM, Core, FeedForward
from recollect.networks.recurrent_q import RecurrentQ
from recollect.types import ArraySpec

T, B, D, H = 7, 5, 4, 3


class Counter(Core):
    """The state counts the steps; the output is the count before each."""

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size, output_size=1, state_size=1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        steps = x.shape[0]
        y = state + torch.arange(steps, dtype=torch.float32).view(steps, 1, 1)
        return y, state + steps


class Average(Core):
    """y_t = s_t = decay s_{t-1} + (1 - decay) x_t."""

    def __init__(self, input_size: int, decay: float) -> None:
        super().__init__(input_size, output_size=input_size, state_size=input_size)
        self.decay = decay

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for x_t in x.unbind(0):
            state = self.decay * state + (1 - self.decay) * x_t
            outputs.append(state)
        return torch.stack(outputs), state


@pytest.fixture(autouse=True)
def _more_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(CORES, "counter", lambda d, hidden, forget_bias: Counter(d))
    monkeypatch.setitem(CORES, "average", lambda d, hidden, forget_bias: Average(d, decay=0.75))


ALL = ["lstm", "gru", "feed-forward", "counter", "average"]


def make(name: str) -> Core:
    return CORES[name](D, H, 1.0)


def inputs(core: Core, steps: int = T) -> tuple[Tensor, Tensor]:
    return torch.randn(steps, B, D), torch.randn(B, core.state_size)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [1, T])
def test_a_core_keeps_the_contract(name: str, steps: int) -> None:
    core = make(name)
    y, state = core(*inputs(core, steps))
    assert core.input_size == D
    assert y.shape == (steps, B, core.output_size)
    assert state.shape == (B, core.state_size)
    assert y.dtype == state.dtype == torch.float32


def test_sizes_of_states_and_outputs_are_the_stated_ones() -> None:
    sizes = {name: (make(name).output_size, make(name).state_size) for name in ALL}
    assert sizes == {
        "lstm": (H, 2 * H),
        "gru": (H, H),
        "feed-forward": (D, 0),
        "counter": (1, 1),
        "average": (D, D),
    }


@pytest.mark.parametrize("name", ALL)
def test_trap_03_unrolling_step_by_step_equals_unrolling_at_once(name: str) -> None:
    core = make(name)
    x, state = inputs(core)
    whole, after = core(x, state)
    for t in range(T):
        y, state = core(x[t : t + 1], state)
        torch.testing.assert_close(y[0], whole[t], atol=1e-6, rtol=0)
    torch.testing.assert_close(state, after, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=15)
@given(cuts=st.lists(st.integers(1, T - 1), max_size=3), seed=st.integers(0, 2**31))
def test_unrolling_in_pieces_equals_unrolling_at_once(
    name: str, cuts: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    core = make(name)
    x, state = inputs(core)
    whole, after = core(x, state)
    edges = [0, *sorted(set(cuts)), T]
    pieces = []
    for first, last in itertools.pairwise(edges):
        y, state = core(x[first:last], state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(state, after, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [1, T])
def test_sequences_of_a_batch_do_not_mix(name: str, steps: int) -> None:
    core = make(name)
    x, state = inputs(core, steps)
    order = torch.tensor([3, 0, 4, 2, 1])
    y, after = core(x, state)
    y_ordered, after_ordered = core(x[:, order], state[order])
    torch.testing.assert_close(y_ordered, y[:, order], atol=1e-6, rtol=0)
    torch.testing.assert_close(after_ordered, after[order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["lstm", "gru", "average"])
@pytest.mark.parametrize("steps", [1, T])
def test_gradient_reaches_every_step_and_the_state(name: str, steps: int) -> None:
    core = make(name)
    x, state = inputs(core, steps)
    x.requires_grad_()
    state.requires_grad_()
    y, _ = core(x, state)
    y[-1].square().sum().backward()
    assert x.grad is not None
    assert state.grad is not None
    assert (x.grad != 0).any(dim=2).all()  # [T, B]
    assert (state.grad != 0).any(dim=1).all()  # [B]


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_gradient_of_single_steps_equals_that_of_the_unroll(name: str) -> None:
    core = make(name)
    x, state = inputs(core)
    core(x, state)[0].square().sum().backward()
    whole = [p.grad.clone() for p in core.parameters() if p.grad is not None]
    core.zero_grad()
    loss = torch.zeros(())
    for x_t in x.split(1):
        y, state = core(x_t, state)
        loss = loss + y.square().sum()
    loss.backward()
    assert len(whole) == 4
    for p, expected in zip(core.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, T])
def test_the_lstm_is_its_equations_and_its_state_is_h_then_c(steps: int) -> None:
    core = LSTM(D, H)
    x, state = inputs(core, steps)
    w_x, w_h, b_x, b_h = core.lstm.all_weights[0]
    h, c = state[:, :H], state[:, H:]
    y, after = core(x, state)
    for t in range(steps):
        gates = x[t] @ w_x.T + b_x + h @ w_h.T + b_h  # [B, 4 H]
        i, f, g, o = (gates[:, k * H : (k + 1) * H] for k in range(4))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        torch.testing.assert_close(y[t], h, atol=1e-6, rtol=0)
    torch.testing.assert_close(after[:, :H], h, atol=1e-6, rtol=0)
    torch.testing.assert_close(after[:, H:], c, atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [1, T])
def test_the_gru_is_its_equations_and_its_state_is_h(steps: int) -> None:
    core = GRU(D, H)
    x, h = inputs(core, steps)
    w_x, w_h, b_x, b_h = core.gru.all_weights[0]
    y, after = core(x, h)
    for t in range(steps):
        r_x, z_x, n_x = (x[t] @ w_x.T + b_x).split(H, dim=1)
        r_h, z_h, n_h = (h @ w_h.T + b_h).split(H, dim=1)
        z = torch.sigmoid(z_x + z_h)
        h = (1 - z) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + z * h
        torch.testing.assert_close(y[t], h, atol=1e-6, rtol=0)
    torch.testing.assert_close(after, h, atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [1, T])
def test_the_packed_state_comes_out_as_it_went_in_where_all_is_forgotten_or_kept(
    steps: int,
) -> None:
    core = LSTM(D, H)
    with torch.no_grad():
        for p in core.parameters():
            p.zero_()
        core.lstm.bias_ih_l0[:H] = -100.0  # write nothing
        core.lstm.bias_ih_l0[H : 2 * H] = 100.0  # forget nothing
        core.lstm.bias_ih_l0[3 * H :] = 100.0  # show all
    x, state = inputs(core, steps)
    c = state[:, H:]
    _, after = core(x, state)
    torch.testing.assert_close(after, torch.cat((torch.tanh(c), c), dim=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 2.5])
def test_the_forget_gates_two_biases_add_up_to_the_one_asked_for(forget_bias: float) -> None:
    core = CORES["lstm"](D, H, forget_bias)
    assert isinstance(core, LSTM)
    total = core.lstm.bias_ih_l0 + core.lstm.bias_hh_l0
    assert total[H : 2 * H].tolist() == [forget_bias] * H
    rest = torch.cat((total[:H], total[2 * H :]))
    assert (rest.abs() <= 2 / H**0.5).all()
    assert rest.unique().numel() == 3 * H


def test_a_feed_forward_core_gives_back_what_it_gets() -> None:
    core = FeedForward(D)
    x, state = inputs(core)
    y, after = core(x, state)
    assert torch.equal(y, x)
    assert after.shape == (B, 0)
    assert list(core.parameters()) == []


def test_an_added_counter_counts_its_steps_through_a_network() -> None:
    net = RecurrentQ({"observation": ArraySpec((2,))}, 3, pre_core=0, core="counter", head_hidden=0)
    state = torch.zeros(B, net.state_size)
    for steps in (1, 4, 2):
        observation = {"observation": torch.randn(steps, B, 2)}
        none = torch.full((steps, B), -1)
        _, state = net(observation, none, torch.zeros(steps, B), state)
    assert state.tolist() == [[1 + 4 + 2]] * B


def test_an_added_average_averages() -> None:
    core = CORES["average"](1, 0, 0.0)
    x = torch.tensor([8.0, 0.0]).view(2, 1, 1)
    y, state = core(x, torch.full((1, 1), 4.0))
    assert y.flatten().tolist() == [0.75 * 4 + 0.25 * 8, 0.75 * (0.75 * 4 + 0.25 * 8)]
    assert state.item() == y[-1].item()


def test_the_interface_alone_is_no_core() -> None:
    with pytest.raises(NotImplementedError):
        Core(D, H, 0)(torch.zeros(T, B, D), torch.zeros(B, 0))
