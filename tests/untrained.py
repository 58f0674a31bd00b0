"""Agents nobody trained, and environments and networks made for their tests."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

import recollect
from recollect import presets
from recollect.agents.acting import Policy
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
