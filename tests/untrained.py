"""Agents nobody trained, and environments and networks made for their tests."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

import recollect
from recollect import presets
from recollect.agents.policy import Policy
from recollect.envs import registry
from recollect.evaluation import LoadedAgent
from tests.agents import clockwork

assert clockwork.Clock, "importing it registers its environments"
META = {"which": "last", "env_steps": 123, "updates": 45, "score": None}


class Shifted(gymnasium.Env):
    """Its actions are 3 and 4."""

    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2, start=3)


class Mixed(gymnasium.Env):
    """An observation of several kinds."""

    observation_space = gymnasium.spaces.Dict(
        {
            "box": gymnasium.spaces.Box(-1, 1, (2, 3), np.float64),
            "kind": gymnasium.spaces.Discrete(4),
            "pair": gymnasium.spaces.Tuple(
                (gymnasium.spaces.MultiBinary(2), gymnasium.spaces.Box(0, 255, (3,), np.uint8))
            ),
        }
    )
    action_space = gymnasium.spaces.Discrete(5)


class Painted(gymnasium.Env):
    """Renders frames whose red says the step, and pays what its seed drew."""

    observation_space = gymnasium.spaces.Box(0, 255, (12, 16, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, steps: int = 30, render_mode: str | None = None, breaks: str = "") -> None:
        self.steps, self.render_mode, self.breaks = steps, render_mode, breaks

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.pay = 0, float(self.np_random.integers(1, 100))
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        if self.breaks == "step":
            raise ZeroDivisionError("by zero")
        return self._seen(), self.pay + float(action), self.t == self.steps, False, {}

    def _seen(self) -> np.ndarray:
        return np.full((12, 16, 3), self.t % 256, np.uint8)

    def render(self) -> Any:
        if self.render_mode != "rgb_array":
            return None
        if self.breaks == "render":
            raise gymnasium.error.DependencyNotInstalled("no paint:\n  buy some")
        if self.breaks == "shape":
            return np.zeros((40, 60), np.uint8)
        frame = np.zeros((40, 60, 3), np.uint8)
        frame[:, :20, 0] = 5 * self.t
        return frame


gymnasium.register("tests/Painted-v0", entry_point=Painted)
gymnasium.register("tests/Shifted-v0", entry_point=Shifted, max_episode_steps=5)
gymnasium.register("tests/Mixed-v0", entry_point=Mixed)


def loaded(job: Any, policy: Policy, batch: int | None = None) -> LoadedAgent:
    env, spaces = registry.describe(job.env.id, job.env.kwargs)
    return LoadedAgent(policy, env, spaces, job.as_dict(), META, batch)


def made(
    env: str, network: str = "", batch: int | None = None, env_kwargs: Any = None, **settings: Any
) -> LoadedAgent:
    """The agent of a run that has not begun.

    Args:
        network: a name in `clockwork`; empty: recollect's own.
        settings: of the config.
    """
    name = f"tests.agents.clockwork:{network}" if network else ""
    job = recollect.prepare(
        "r2d2", env=env, network=name, env_kwargs=env_kwargs or {}, settings=settings
    )
    program = presets.agent(job.agent).program(job.config, job.env, job.seed, job.network)
    return loaded(job, program.policy(), batch)
