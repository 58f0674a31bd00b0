"""Recurrent cores: what a network remembers from one step to the next.

Every core keeps one contract, so that actor, replay and learner never know what is in the memory:
the state of a sequence is *one* float32 vector of `state_size` numbers, all zeros at an episode's
start, and `forward` maps (inputs, the state before the first of them) to (outputs, the state after
the last). Unrolling in pieces, handing the state on, is the same as unrolling at once.

To add a core: write a `Core`, and put a factory in `CORES` under its name, before the network is
built. Nothing else changes:

    class Average(Core):
        '''y_t = s_t = decay s_{t-1} + (1 - decay) x_t.'''

        def __init__(self, input_size: int, decay: float) -> None:
            super().__init__(input_size, output_size=input_size, state_size=input_size)
            self.decay = decay

        def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            outputs = []
            for x_t in x.unbind(0):  # indexing x[t] makes the backward pass many times slower
                state = self.decay * state + (1 - self.decay) * x_t
                outputs.append(state)
            return torch.stack(outputs), state

    CORES["average"] = lambda input_size, hidden, forget_bias: Average(input_size, decay=0.9)

Weights keep torch's own initialisation, U(-1/sqrt(H), 1/sqrt(H)), but for the LSTM's forget gate;
the papers say nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Core(nn.Module):
    """The contract of a recurrent core, an interface.

    Args:
        input_size: D, numbers per step in.
        output_size: H, numbers per step out.
        state_size: S, floats per sequence of the packed state; 0 remembers nothing.
    """

    def __init__(self, input_size: int, output_size: int, state_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = output_size
        self.state_size = state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Unroll over T steps.

        Args:
            x: [T, B, D], T >= 1.
            state: [B, S] float32, the state before the first step.
        Returns:
            [T, B, H] outputs, and the [B, S] state after the last step, float32 under autocast too.
        """
        raise NotImplementedError


class LSTM(Core):
    """Long short-term memory; the packed state is h, then c.

    i, f, o = sigmoid(..), g = tanh(..); c_t = f c_{t-1} + i g; y_t = h_t = o tanh(c_t).

    Args:
        input_size: D.
        hidden: H; the state has 2 H floats.
        forget_bias: what the forget gate's bias starts at. The gate has two bias vectors that only
            ever act as their sum: one gets it all, the other starts at 0. A positive one lets the
            memory last from the start (Jozefowicz et al. 2015); the R2D2 paper gives no value.
    """

    def __init__(self, input_size: int, hidden: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, output_size=hidden, state_size=2 * hidden)
        self.lstm = nn.LSTM(input_size, hidden)
        forget = slice(hidden, 2 * hidden)  # torch's order of the gates is i, f, g, o
        _, _, bias_ih, bias_hh = self.lstm.all_weights[0]
        with torch.no_grad():
            bias_ih[forget] = forget_bias
            bias_hh[forget] = 0.0

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Core.forward`."""
        h, c = state.chunk(2, dim=1)  # [B, H] each
        if x.shape[0] == 1:
            # Acting: for one step of a small layer the cell is more than twice as fast as the fused
            # unroll, and no slower for a large one. The two agree up to rounding.
            h, c = torch.lstm_cell(x[0], (h, c), *self.lstm.all_weights[0])
            return h.unsqueeze(0), torch.cat((h, c), dim=1).float()
        # cuDNN wants states that lie in one piece.
        y, (h_n, c_n) = self.lstm(x, (h.contiguous().unsqueeze(0), c.contiguous().unsqueeze(0)))
        return y, torch.cat((h_n[0], c_n[0]), dim=1).float()


class GRU(Core):
    """Gated recurrent unit; the packed state is h.

    r, z = sigmoid(..); n = tanh(W x + r (U h)); y_t = h_t = (1 - z) n + z h_{t-1}.

    Args:
        input_size: D.
        hidden: H; the state has H floats.
    """

    def __init__(self, input_size: int, hidden: int) -> None:
        super().__init__(input_size, output_size=hidden, state_size=hidden)
        self.gru = nn.GRU(input_size, hidden)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Core.forward`."""
        if x.shape[0] == 1:  # acting, as in the LSTM
            h = torch.gru_cell(x[0], state, *self.gru.all_weights[0])
            return h.unsqueeze(0), h.float()
        y, h_n = self.gru(x, state.contiguous().unsqueeze(0))
        return y, h_n[0].float()


class FeedForward(Core):
    """No memory: y_t = x_t, and a state of no floats.

    Args:
        input_size: D.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size, output_size=input_size, state_size=0)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Core.forward`."""
        return x, state


CoreFactory = Callable[[int, int, float], Core]
"""(input_size, hidden, forget_bias) -> core. A core ignores what it has no use for."""

CORES: dict[str, CoreFactory] = {
    "lstm": LSTM,
    "gru": lambda input_size, hidden, forget_bias: GRU(input_size, hidden),
    "feed-forward": lambda input_size, hidden, forget_bias: FeedForward(input_size),
}
