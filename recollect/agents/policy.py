"""The policy: a network that acts, in training, evaluation and export alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from recollect.agents.computing import PROCESSOR, Compute
from recollect.agents.learning import FlatParameters
from recollect.maths import exploration
from recollect.networks.recurrent_q import QNetwork
from recollect.types import ActionSpec, Array, EnvSpec, Observation, VectorStep

Tensors = dict[str, torch.Tensor]


def epsilon_greedy_actions(values: Array, epsilon: Array, draws: Array) -> Array:
    """Epsilon-greedy actions [E] from values [E, A] and uniforms `draws` [E, 2]."""
    return exploration.epsilon_greedy(values, epsilon, draws[:, 0], draws[:, 1])


@dataclass
class Carry:
    """What a policy keeps between steps of E slots."""

    previous_action: Array  # [E] or [E, A]: NO_ACTION or zeros at an episode's start
    previous_reward: Array  # [E] float32: 0 at an episode's start
    recurrent_state: Array  # [E, H] float32: before the observation that comes next
    frames: Observation = field(default_factory=dict)
    """[E, stack - 1, ...] by key, the observations before the next one, the oldest first."""


class Policy:
    """A network that acts, in training, evaluation and export alike (trap 31).

    On a processor slots are computed in chunks of exactly `rows` rows, the slot with global number
    g always in row g modulo `rows`: matrix kernels round differently for other sizes, so this is
    what makes an actor's experience independent, bit for bit, of how many slots share its process.
    A GPU, of which nothing of the kind is promised, takes them all at once.

    Args:
        network: see `QNetwork`; the policy takes it over and loads parameters into it.
        env_spec: observation and action of the environment.
        first_slot: global number of the first slot.
        frame_stack: observations that the network sees at once; before an episode's first there
            are zeros.
        compute: on what it computes.
        rows: of a chunk; a large network is read from memory once for each, so that twice as many
            take 1.5 times as long.
    """

    ROWS = 16

    def __init__(
        self,
        network: QNetwork,
        env_spec: EnvSpec,
        first_slot: int = 0,
        frame_stack: int = 1,
        compute: Compute = PROCESSOR,
        rows: int = ROWS,
    ) -> None:
        self.network = network
        self.action: ActionSpec = env_spec.action
        self.frame_stack = frame_stack
        self._compute = compute
        self._observation_spec = env_spec.observation
        self._flat = FlatParameters(network, self._compute.device)
        self._rows, self._offset = rows, first_slot % rows
        self._buffers: list[Array] = []
        self._chunks: list[tuple[Tensors, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._slots = 0

    def load(self, vector: Array) -> None:
        """Take over parameters [P] as published."""
        self._flat.load(vector)

    def vector(self) -> Array:
        """The parameters it acts with [P], an array of its own."""
        return self._flat.numpy()

    def start(self, slots: int) -> Carry:
        """The carry of `slots` episodes that begin."""
        return Carry(
            self.action.none(slots),
            np.zeros(slots, np.float32),
            np.zeros((slots, self.network.state_size), np.float32),
            {
                key: spec.zeros(slots, self.frame_stack - 1)
                for key, spec in self._observation_spec.items()
                if self.frame_stack > 1
            },
        )

    def begin(self, carry: Carry, mask: Array) -> None:
        """Put the slots in `mask` [E] back to an episode's start, in place."""
        carry.previous_action[mask] = self.action.none()
        carry.previous_reward[mask] = 0
        carry.recurrent_state[mask] = 0
        for frames in carry.frames.values():
            frames[mask] = 0

    def advance(
        self, carry: Carry, observation: Observation, state: Array, actions: Array, step: VectorStep
    ) -> Carry:
        """The carry after `step`, which followed `observation` and the carry before it.

        Slots that only reset themselves are at an episode's start. Frames are passed on in place.
        """
        frames = self.pushed(carry.frames, observation)
        carry = Carry(actions.copy(), step.reward.copy(), state, frames)
        if not step.valid.all():
            self.begin(carry, ~step.valid)
        return carry

    def pushed(self, frames: Observation, observation: Observation) -> Observation:
        """`frames`, changed in place: the oldest gone, `observation` the newest."""
        for key, kept in frames.items():
            kept[:, :-1] = kept[:, 1:]
            kept[:, -1] = observation[key]
        return frames

    def __call__(self, observation: Observation, carry: Carry) -> tuple[Array, Array]:
        """Values [E, A] of the observations [E, ...], and the recurrent state [E, H] after them."""
        slots = len(carry.previous_reward)
        if slots != self._slots:
            self._allocate(slots)
        rows = slice(self._offset, self._offset + slots)
        *keys, action, reward, state = self._buffers
        for buffer, key in zip(keys, self._observation_spec, strict=True):
            for row, frame in enumerate(buffer[:-1]):
                frame[rows] = carry.frames[key][:, row]
            buffer[-1, rows] = observation[key]
        action[rows] = carry.previous_action
        reward[rows] = carry.previous_reward
        state[rows] = carry.recurrent_state
        pieces = self.forward()
        if len(pieces) == 1:
            values, states = pieces[0]
            return values[rows].copy(), states[rows].copy()
        values, states = (np.concatenate(each) for each in zip(*pieces, strict=True))
        return values[rows], states[rows]

    def forward(self) -> list[tuple[Array, Array]]:
        """Values and states of every chunk of rows, from what lies in the buffers."""
        device = self._compute.device
        with torch.inference_mode(), self._compute.autocast():
            results = [self.network(*_to(device, chunk)) for chunk in self._chunks]
        return [(values[0].float().cpu().numpy(), s.cpu().numpy()) for values, s in results]

    def _allocate(self, slots: int) -> None:
        rows = -(-(self._offset + slots) // self._rows) * self._rows
        size = self._rows if self._compute.device == "cpu" else rows
        observation = {
            key: spec.zeros(self.frame_stack, rows) for key, spec in self._observation_spec.items()
        }
        action = self.action.none(rows)
        reward = np.zeros(rows, np.float32)
        state = np.zeros((rows, self.network.state_size), np.float32)
        self._slots, self._buffers, self._chunks = slots, [*observation.values()], []
        self._buffers += [action, reward, state]
        for first in range(0, rows, size):
            part = slice(first, first + size)
            self._chunks.append(
                (
                    {k: torch.from_numpy(v[:, part]) for k, v in observation.items()},
                    torch.from_numpy(action[part])[None],
                    torch.from_numpy(reward[part])[None],
                    torch.from_numpy(state[part]),
                )
            )


def _to(device: str, inputs: tuple[Tensors, *tuple[torch.Tensor, ...]]) -> Any:
    """A network's inputs on the device; on a processor these very ones."""
    if device == "cpu":
        return inputs
    observation, *others = inputs
    return {k: x.to(device) for k, x in observation.items()}, *(x.to(device) for x in others)
