"""What a finished run can do: be evaluated, be loaded and act, be saved elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from recollect import presets
from recollect.envs import registry
from recollect.envs.spaces import Encoder, first_action
from recollect.run.folder import RunFolder
from recollect.run.machine import one_thread
from recollect.types import ConfigError, EnvSpec, Observation

WHICH = ("last", "best")


class LoadedAgent:
    """A trained agent that acts in one environment and keeps its own recurrent state.

    Greedy. `which` of the run's parameters it has, and after how many `env_steps`, are attributes.
    """

    def __init__(
        self,
        policy: Any,
        env_spec: EnvSpec,
        spaces: registry.Spaces,
        config: dict[str, Any],
        meta: dict[str, Any],
    ) -> None:
        self.policy, self.env_spec, self.config, self.meta = policy, env_spec, config, meta
        self.which, self.env_steps = str(meta["which"]), int(meta["env_steps"])
        self._carry = policy.start(1)
        self._space, action_space = spaces
        self._encoder = Encoder(self._space, env_spec.id)
        self._first_action = first_action(action_space)

    def act(self, observation: Any, reward: float = 0.0, start: bool = False) -> int:
        """The greedy action after an observation, both as the environment has them.

        Args:
            observation: of the environment's observation space.
            reward: that came with it (the network may see the previous reward).
            start: True at an episode's first observation: forgets everything before.

        Raises:
            ValueError: the observation does not fit the environment's space, or the reward is not
                finite.
        """
        if not math.isfinite(reward):
            raise ValueError(f"reward is {reward}, a finite number was wanted")
        carry = self._carry
        if start:
            self.policy.begin(carry, np.ones(1, bool))
        else:
            carry.previous_reward[:] = reward
        values, state = self.policy(self._encoded(observation), carry)
        action = values.argmax(1)
        carry.previous_action[:], carry.recurrent_state = action, state
        return int(action[0]) + self._first_action

    def _encoded(self, observation: Any) -> Observation:
        wrong = self._encoder.mismatch(observation)
        if wrong:
            raise ValueError(wrong)
        empty: Any = create_empty_array(self._space, 1)
        batch = concatenate(self._space, [observation], empty)
        faults: dict[int, str] = {}
        encoded = self._encoder.encode(batch, [0], faults)
        if faults:
            raise ValueError(faults[0])
        return encoded

    def save(self, path: str | Path) -> Path:
        """Write the agent into a new folder that `load` and `recollect evaluate` accept."""
        from recollect.agents.learning import named_arrays
        from recollect.run import checkpoint

        folder = RunFolder.create(Path(path), self.config)
        checkpoint.save(folder.checkpoints, "last", named_arrays(self.policy.network), self.meta)
        return folder.path


def load(run: Any, which: str = "last") -> LoadedAgent:
    """The agent of a run.

    Args:
        run: a run, its folder, or a folder written by `save`.
        which: "last" parameters or the "best" evaluated ones.
    Raises:
        ConfigError: no such run, or it was made for another environment or network.
        CheckpointError: the parameters are damaged or missing.
    """
    from recollect.agents.learning import load_named_arrays
    from recollect.run import checkpoint

    if which not in WHICH:
        raise presets.nearest("parameters", which, WHICH)
    folder = RunFolder.open(Path(getattr(run, "folder", run)))
    stored = folder.config()
    try:
        agent = presets.agent(stored["agent"])
        env_spec, spaces = registry.describe(stored["env"]["id"], stored["env"]["kwargs"])
        config = presets.from_dict(agent.config, stored["config"])
        seed, network = int(stored["seed"]), str(stored["network"])
    except ConfigError as error:
        raise ConfigError(f"{folder.config_path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder.config_path} is damaged: {error!r}") from error
    try:
        found = checkpoint.find(folder.checkpoints, which, parameters_only=True)
    except checkpoint.NoCheckpointError as error:
        if which == "best":
            raise checkpoint.NoCheckpointError(
                f"{folder.path} has no best parameters, as it was never evaluated while it ran: "
                "take the last ones; evaluation_period says how often to evaluate"
            ) from error
        raise
    arrays, meta = checkpoint.load_parameters(found)
    policy = agent.program(config, env_spec, seed, network).policy()
    try:
        load_named_arrays(policy.network, arrays)
    except ValueError as error:
        raise ConfigError(f"{folder.path}: parameters do not fit the network: {error}") from error
    return LoadedAgent(policy, env_spec, spaces, stored, {**meta, "which": which})


def evaluate(
    run: Any, episodes: int = 20, seed: int = 1, which: str = "last", epsilon: float = 0.0
) -> dict[str, Any]:
    """Greedy evaluation of a run: raw undiscounted returns.

    Args:
        run: as for `load`. episodes: 1 or more. seed: of the episodes' starts.
    Returns:
        return_mean, return_median, return_iqm, return_ci95, episodes, env_steps, seed, which.
    Raises:
        ConfigError, CheckpointError: as `load`.
        NotFiniteError: the environment gave what is not finite.
    """
    if episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}")
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be 0 or more and below 2^64, got {seed}")
    if not 0 <= epsilon <= 1:
        raise ConfigError(f"epsilon must lie in [0, 1], got {epsilon}")
    agent = load(run, which)
    from recollect.agents import evaluating  # loads torch, which a run that is not there must not
    from recollect.run.statistics import summary

    with one_thread():
        played = evaluating.evaluate_on(agent.env_spec, agent.policy, episodes, seed, epsilon)
    return {
        **summary(played.returns),
        "env_steps": agent.env_steps,
        "seed": seed,
        "which": which,
    }
