"""Small environments that cannot be solved without memory.

In each of them a table that sees only the current observation stays at chance (tested over every
such table). What else a controller without memory must not be given is said by each class: the
previous action, the previous reward and the step number are memories of a kind.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from recollect.types import Array


class PositionCartPole(CartPoleEnv):
    """Gymnasium's CartPole-v1 without the velocities: they must be inferred from what went before.

    Dynamics, reward (1 a step) and termination are CartPole's. Observation, float32 [2]: cart
    position as it is (an episode ends outside [-2.4, 2.4]), pole angle in units of the 12 degrees
    at which an episode ends; the closing observation lies a little outside. Registered as
    `recollect/PositionCartPole-v0` with CartPole-v1's 500 steps.

    A table of the current observation and previous action can infer some of the velocity from what
    it did itself; chance is not defined here, and a feed-forward agent falls early.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = spaces.Box(
            -2 * self.x_threshold, 2 * self.x_threshold, (2,), np.float32
        )
        self._scale = np.array([1.0, self.theta_threshold_radians])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; see `gymnasium.Env.reset`."""
        _, info = super().reset(seed=seed, options=options)
        return self._seen(), info

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one step; see `gymnasium.Env.step`."""
        _, reward, terminated, truncated, info = super().step(action)
        return self._seen(), reward, terminated, truncated, info

    def _seen(self) -> Array:
        assert self.state is not None
        seen: Array = self.state[[0, 2]] / self._scale
        return seen.astype(np.float32)


class _CueTask(gym.Env[Array, Any]):
    """What the two share: one-hot observations, checked actions, no step outside an episode."""

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, channels: int, actions: int) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (channels,), np.float32)
        self.action_space = spaces.Discrete(actions)
        self._channels = channels
        self._actions = actions
        self._running = False

    def _shown(self, channel: int | None) -> Array:
        shown = np.zeros(self._channels, np.float32)
        if channel is not None:
            shown[channel] = 1.0
        return shown

    def _checked(self, action: int) -> int:
        if not self._running:
            raise RuntimeError("step came outside an episode: call reset first")
        if not 0 <= action < self._actions:
            raise ValueError(f"action is {action}, 0 to {self._actions - 1} was wanted")
        return int(action)


class Recall(_CueTask):
    """See a cue, wait, say which it was.

    A round has `delay + 2` steps: the first observation shows the cue, the next `delay` show that
    there is nothing to see, the last asks; the action taken on it earns 1 if it is the cue's
    number and -1 if not. All other actions earn 0 and change nothing. After `trials` rounds, each
    with a cue of its own drawn uniformly, the episode terminates; the best return is `trials`.
    Observation, float32 [cues + 2], one-hot: the cue, "nothing to see", "answer"; all zeros once
    it is over.

    Without memory: a table of the observation, or of observation and previous reward, or one that
    knows the step number, earns (2 / cues - 1) a round, whatever it says. A table of observation
    and *previous action* solves the task, by naming the cue at once and repeating itself through
    the delay. So a control without memory must not be given the previous action here.

    Args:
        delay: steps between cue and question, from 0.
        cues: how many different cues, from 2.
        trials: rounds in an episode, from 1.
    Raises:
        ValueError: an argument is no integer or too small.
    """

    def __init__(self, delay: int = 30, cues: int = 2, trials: int = 1) -> None:
        self.delay = _at_least("delay", delay, 0)
        self.cues = _at_least("cues", cues, 2)
        self.trials = _at_least("trials", trials, 1)
        self.max_episode_steps = trials * (delay + 2)
        super().__init__(cues + 2, cues)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; see `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self._running = True
        self._trial = 0
        return self._begin_round(), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one step; see `gymnasium.Env.step`."""
        action = self._checked(action)
        self._step += 1
        if self._step <= self.delay:
            return self._shown(self.cues), 0.0, False, False, {}
        if self._step == self.delay + 1:
            return self._shown(self.cues + 1), 0.0, False, False, {}
        reward = 1.0 if action == self._cue else -1.0
        self._trial += 1
        if self._trial < self.trials:
            return self._begin_round(), reward, False, False, {}
        self._running = False
        return self._shown(None), reward, True, False, {}

    def _begin_round(self) -> Array:
        self._step = 0
        self._cue = int(self.np_random.integers(self.cues))
        return self._shown(self._cue)


class TMaze(_CueTask):
    """Read a sign, walk down a corridor, turn the way the sign said.

    Cells 0 (the sign) to `length` (the junction); actions 0 forward, 1 turn left, 2 turn right.
    Forward moves one cell on and earns 0. At the junction a turn terminates and earns 1 if it is
    the sign's, -1 if not. What leaves one where one is (a turn before the junction, forward at it)
    earns -1. The best return is 1, after `length + 1` steps; after 2 length + 10 steps the
    episode is truncated. Observation, float32 [4], one-hot: sign left, sign right, corridor,
    junction; all zeros once a turn was taken at the junction.

    Without memory: a table of the observation earns at most 0 in the mean. The price of standing
    still matters: were it 0, refusing to walk on one of the signs and always turning the other way
    would earn 0.5. Nothing at the junction tells the signs apart: the previous action there is
    always forward and the previous reward 0, or -1 after standing there; so a table of all three
    does no better. One that knows the *step number* could, by waiting a step on one of the signs:
    a control without memory must not be given it.

    Args:
        length: steps from the sign to the junction, from 1.
    Raises:
        ValueError: it is no integer or less than 1.
    Source: after the T-maze of Bakker 2001, "Reinforcement learning with long short-term memory",
        where the rewards are 4 and -0.1 and the actions four. With -0.1 here, agents learn to
        stand at the sign for a second look and stay with it.
    """

    FORWARD, LEFT, RIGHT = range(3)
    _STANDING = -1.0

    def __init__(self, length: int = 30) -> None:
        self.length = _at_least("length", length, 1)
        self.max_episode_steps = 2 * length + 10
        super().__init__(4, 3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; see `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self._running = True
        self._step = self._cell = 0
        self._sign = int(self.np_random.integers(2))
        return self._shown(self._sign), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one step; see `gymnasium.Env.step`."""
        action = self._checked(action)
        self._step += 1
        if self._cell == self.length and action != self.FORWARD:
            self._running = False
            reward = 1.0 if action == self.LEFT + self._sign else -1.0
            return self._shown(None), reward, True, False, {}
        walks = action == self.FORWARD and self._cell < self.length
        self._cell += walks
        truncated = self._step == self.max_episode_steps
        self._running = not truncated
        return self._shown(self._view()), 0.0 if walks else self._STANDING, False, truncated, {}

    def _view(self) -> int:
        if self._cell == 0:
            return self._sign
        return 3 if self._cell == self.length else 2


def _at_least(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}, an integer from {least} was wanted: change it")
    return value
