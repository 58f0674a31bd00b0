"""Q-networks with memory: torso -> (linear) -> core -> duelling heads.

    x_t    = [features(o_t), onehot(a_{t-1}), r_{t-1}]
    y_t, s = core(x_t, s)
    Q_t    = V(y_t) + A(y_t) - mean_a A(y_t)

With a core of 512, a layer of 512 before it and heads of 512 this is R2D2's network
(Kapturowski et al. 2019, section 2.3 and appendix) as public re-implementations build it. The
paper does not mention the layer before the core; `pre_core=0` leaves it out. That the advantage's
output has no bias follows SEED RL: what is common to all actions cancels in A - mean A.

All layers keep torch's own initialisation, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the papers naming
none; for the LSTM's forget gate see `cores.LSTM`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from recollect.networks.cores import CORES
from recollect.networks.frames import flattened, stacked_specs
from recollect.networks.torsos import Kind
from recollect.networks.torsos import torso as default_torso
from recollect.types import ArraySpec, ConfigError


@runtime_checkable
class QNetwork(Protocol):
    """What an agent asks of its network; any `nn.Module` with these can stand for `RecurrentQ`.

    Steps and sequences must be independent: row b of the output depends on row b of the inputs
    alone, step t on steps 0 .. t and the state, and unrolling in pieces, handing the state on, is
    the same as unrolling at once. So a network has no batch normalisation, and no dropout. A state
    of zeros is the one at an episode's start.
    """

    @property
    def state_size(self) -> int:
        """S, floats per sequence of the recurrent state; 0 if the network has no memory."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is learned; of `nn.Module`."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same by name; of `nn.Module`."""

    def forward(
        self,
        observation: Mapping[str, Tensor],
        previous_action: Tensor,
        previous_reward: Tensor,
        recurrent_state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Unroll over T steps of B sequences.

        Args:
            observation: key -> [T, B, *shape]; where frames are stacked, [stack - 1 + T, B, ...]:
                at step t the network sees rows t .. t + stack - 1.
            previous_action: [T, B] int64, the action that led here; -1 at an episode's start.
            previous_reward: [T, B] float32, the reward that came with it, 0 at a start; raw.
            recurrent_state: [B, S] float32, the state before the first step.
        Returns:
            [T, B, A] action values, and the [B, S] float32 state after the last step.
        """

    def __call__(
        self,
        observation: Mapping[str, Tensor],
        previous_action: Tensor,
        previous_reward: Tensor,
        recurrent_state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run `forward`, as `nn.Module` does."""


class RecurrentQ(nn.Module):
    """The recurrent duelling Q-network of R2D2; keeps the contract of `QNetwork`.

    Args:
        observation: key -> shape and dtype of each array, without time and batch.
        num_actions: A.
        torso: observation -> features, a module or the kind of convolutions: see `torsos`.
        torso_sizes: layers of the torso's MLP; not looked at where a module is given.
        frame_stack: images seen at once.
        pre_core: units of the linear + ReLU layer between torso and core, 0 for none.
        core: name of the core in `cores.CORES`.
        hidden: H, units of the core, where it has a size of its own.
        head_hidden: units of the one hidden layer of each head, 0 for linear heads.
        duelling: Q = V + A - mean A; without it one head gives Q.
        previous_action: whether the core sees the previous action, one-hot; all zeros for none.
        previous_reward: whether the core sees the previous reward.
        forget_bias: where the LSTM's forget gate starts; other cores ignore it.
    Raises:
        ConfigError: an unknown core, or a size out of range.
    Source: Kapturowski et al. 2019, section 2.3; Wang et al. 2016, equation 9 (duelling).
    """

    _onehot: Tensor

    def __init__(
        self,
        observation: Mapping[str, ArraySpec],
        num_actions: int,
        *,
        torso: nn.Module | Kind = "auto",
        torso_sizes: tuple[int, ...] = (64,),
        frame_stack: int = 1,
        pre_core: int = 512,
        core: str = "lstm",
        hidden: int = 512,
        head_hidden: int = 512,
        duelling: bool = True,
        previous_action: bool = True,
        previous_reward: bool = True,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = {"num_actions": (num_actions, 1), "hidden": (hidden, 1)}
        sizes |= {"pre_core": (pre_core, 0), "head_hidden": (head_hidden, 0)}
        for name, (size, least) in sizes.items():
            if size < least:
                raise ConfigError(f"{name} wants at least {least}, it is {size}: raise it")
        if core not in CORES:
            raise ConfigError(
                f"core wants one of {sorted(CORES)}, it is {core!r}: name one of these, or add "
                "yours to recollect.networks.cores.CORES"
            )
        self._observation, self._frame_stack = dict(observation), frame_stack
        if isinstance(torso, str):
            torso = default_torso(stacked_specs(observation, frame_stack), torso, torso_sizes)
        self.torso = torso
        features = int(self.torso.output_size)  # type: ignore[arg-type]
        self.pre_core = nn.Linear(features, pre_core) if pre_core else None
        features = pre_core or features

        # Row a + 1 is the one-hot of action a, row 0, for no action, all zeros.
        onehot = torch.cat((torch.zeros(1, num_actions), torch.eye(num_actions)))
        self.register_buffer("_onehot", onehot, persistent=False)
        self._previous_action, self._previous_reward = previous_action, previous_reward
        features += num_actions * previous_action + previous_reward
        self.core = CORES[core](features, hidden, forget_bias)

        # The hidden layers of both heads are one matrix: half the calls, the same sums.
        width = self.core.output_size
        heads = 2 if duelling else 1
        self.head_hidden = nn.Linear(width, heads * head_hidden) if head_hidden else None
        width = head_hidden or width
        self.per_action = nn.Linear(width, num_actions, bias=not duelling)
        self.value = nn.Linear(width, 1) if duelling else None

    @property
    def state_size(self) -> int:
        """S, floats per sequence of the recurrent state."""
        return self.core.state_size

    def forward(
        self,
        observation: Mapping[str, Tensor],
        previous_action: Tensor,
        previous_reward: Tensor,
        recurrent_state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Unroll over T steps of B sequences: see `QNetwork.forward`."""
        steps, batch = previous_action.shape
        x = self.torso(flattened(observation, self._observation, self._frame_stack))  # [T*B, D]
        if self.pre_core is not None:
            x = torch.relu(self.pre_core(x))
        inputs = [x]
        if self._previous_action:
            inputs.append(torch.embedding(self._onehot, previous_action.flatten() + 1))
        if self._previous_reward:
            inputs.append(previous_reward.reshape(-1, 1))
        x = torch.cat([each.float() for each in inputs], dim=1)
        with _as_exact_as_fast(x.device.type):
            y, recurrent_state = self.core(x.reshape(steps, batch, -1), recurrent_state)
        return self._heads(y.flatten(0, 1)).view(steps, batch, -1), recurrent_state

    def _heads(self, y: Tensor) -> Tensor:
        """[N, H] -> [N, A]."""
        y_action = y_value = y
        if self.head_hidden is not None:
            y_action = torch.relu(self.head_hidden(y))
            if self.value is not None:
                y_action, y_value = y_action.chunk(2, dim=1)
        with torch.autocast(y.device.type, enabled=False):  # errors are differences of values
            advantage: Tensor = self.per_action(y_action.float())
            if self.value is None:
                return advantage
            value = self.value(y_value.float())  # [N, 1]
            q: Tensor = value + (advantage - advantage.mean(dim=1, keepdim=True))
            return q


def _as_exact_as_fast(device: str) -> Any:
    """On a processor a core is no slower in float32 than under autocast, and forgets less."""
    return torch.autocast(device, enabled=False) if device == "cpu" else nullcontext()
