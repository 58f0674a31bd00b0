"""An environment that is a clock and a network that counts: what the two disagree on is a fault.

And an environment that pays the action, with a network that always takes the same one.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import register

from recollect.types import EnvSpec


class Clock(gymnasium.Env):
    """Observation (step number, episode's length, episode's key); reward: the step number plus one.

    Length and kind of ending are drawn from the reset's seed: one episode in three is truncated.
    """

    def __init__(self, longest: int = 30, step_limit_at: float = 0.33) -> None:
        self.observation_space = gymnasium.spaces.Box(-1e9, 1e9, (3,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.longest, self.step_limit_at = longest, step_limit_at

    def _observation(self) -> np.ndarray:
        return np.array([self.t, self.length, self.key], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.length = int(self.np_random.integers(1, self.longest + 1))
        self.truncates = bool(self.np_random.random() < self.step_limit_at)
        self.key = int(self.np_random.integers(1, 1000))
        self.t = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        over = self.t == self.length
        ends = over and not self.truncates
        return self._observation(), float(self.t), ends, over and self.truncates, {}


register("tests/Clock-v0", entry_point=Clock)


class Payday(gymnasium.Env):
    """An episode of `steps` steps that pays each action's number."""

    def __init__(self, steps: int = 1) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.steps = steps

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.array([self.t], np.float32), float(action), self.t == self.steps, False, {}


register("tests/Payday-v0", entry_point=Payday)


class Counter(torch.nn.Module):
    """A network whose memory counts the steps it has seen and sums what it was shown.

    State: (steps seen, previous rewards seen, previous actions seen). Values depend on all inputs.
    """

    state_size = 3

    def __init__(self, env_spec: EnvSpec, config: Any = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -0.25, 0.125]))
        self.actions = env_spec.action.num_actions

    def forward(
        self,
        observation: dict[str, torch.Tensor],
        previous_action: torch.Tensor,
        previous_reward: torch.Tensor,
        recurrent_state: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        state, values = recurrent_state, []
        seen = observation["observation"]
        for t in range(len(previous_reward)):
            step = torch.stack(
                [
                    torch.ones_like(previous_reward[t]),
                    previous_reward[t],
                    previous_action[t].to(torch.float32),
                ],
                1,
            )
            state = state + step
            base = (state * self.weight).sum(1) + 0.01 * seen[t, :, 0]
            values.append(torch.stack([base * (1 + 0.1 * a) for a in range(self.actions)], 1))
        return torch.stack(values), state


class Constant(torch.nn.Module):
    """A network without memory that takes the action its parameter names; at first 2."""

    state_size = 1

    def __init__(self, env_spec: EnvSpec, config: Any = None) -> None:
        super().__init__()
        self.taken = torch.nn.Parameter(torch.tensor([2.0]))
        self.actions = env_spec.action.num_actions

    def forward(
        self,
        observation: dict[str, torch.Tensor],
        previous_action: torch.Tensor,
        previous_reward: torch.Tensor,
        recurrent_state: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        distance = (torch.arange(self.actions) - self.taken).abs()  # [A]
        return -distance.expand(*previous_reward.shape, self.actions), recurrent_state
