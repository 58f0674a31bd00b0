"""What a finished run can do: be evaluated, be loaded and act, be saved elsewhere or exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from recollect import __version__, presets
from recollect.envs import registry
from recollect.envs.spaces import Encoder, first_action
from recollect.machine import threads
from recollect.protocols import FRAME_CAP, PROTOCOLS, Protocol
from recollect.run.folder import RunFolder, write_atomic
from recollect.types import Array, ConfigError, EnvSpec, Observation

WHICH = ("last", "best")
EXPORT_FORMAT = 1
NETWORK_SETTINGS = (
    "frame_stack",
    "torso",
    "torso_sizes",
    "pre_core",
    "core",
    "hidden",
    "head_hidden",
    "duelling",
    "previous_action",
    "previous_reward",
)
"""What of a config says how `RecurrentQ` is built."""


class LoadedAgent:
    """A trained agent that acts and keeps its own recurrent state: in one environment, or in B.

    Greedy. `which` of the run's parameters it has, and after how many `env_steps`, are attributes;
    so is `values`, the action values [A] or [B, A] of the last `act`, None before the first.

    Args:
        policy: with the parameters. env_spec, spaces: of the environment.
        config: the run's, as config.json has it. meta: the checkpoint's, and `which`.
        batch: B; None: one environment, without a batch axis anywhere.
    """

    def __init__(
        self,
        policy: Any,
        env_spec: EnvSpec,
        spaces: registry.Spaces,
        config: dict[str, Any],
        meta: dict[str, Any],
        batch: int | None = None,
    ) -> None:
        self.policy, self.env_spec, self.config, self.meta = policy, env_spec, config, meta
        self.which, self.env_steps = str(meta["which"]), int(meta["env_steps"])
        self.batch = batch
        self.values: Array | None = None
        self._rows = batch or 1
        self._carry = policy.start(self._rows)
        self._space, action_space = spaces
        self._encoder = Encoder(self._space, env_spec.id)
        self._first_action = first_action(action_space)

    def act(self, observation: Any, reward: Any = 0.0, start: Any = False) -> Any:
        """The greedy action after an observation, both as the environment has them.

        Args:
            observation: of the environment's observation space; with a batch, of B of them as
                Gymnasium's vector environments give them.
            reward: that came with it (the network may see the previous reward); with a batch [B],
                or one number for all.
            start: True at an episode's first observation: forgets everything before; with a batch
                [B] bool, or one for all.
        Returns:
            The action, an int; with a batch [B] int64.
        Raises:
            ValueError: the observation does not fit the environment's space, or a reward is not
                finite. The agent remembers nothing of it.
        """
        rewards, starts = self._vector("reward", reward), self._vector("start", start).astype(bool)
        encoded = self._encoded(observation)
        carry = self._carry
        carry.previous_reward[:] = rewards
        if starts.any():
            self.policy.begin(carry, starts)
        values, state = self.policy(encoded, carry)
        action = values.argmax(1)
        carry.previous_action[:], carry.recurrent_state = action, state
        self.policy.pushed(carry.frames, encoded)
        self.values = values if self.batch else values[0]
        return action + self._first_action if self.batch else int(action[0]) + self._first_action

    def _vector(self, name: str, value: Any) -> Array:
        """`value`, of one environment or of all, as float32 that broadcasts to [B]."""
        wanted = f", one number or shape ({self.batch},) was wanted" if self.batch else ""
        try:
            with np.errstate(over="ignore"):  # what does not fit float32 is inf
                array = np.asarray(value, np.float64).astype(np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is {value!r}{wanted or ', one number was wanted'}") from error
        if array.shape not in {(), (self.batch,)}:
            raise ValueError(f"{name} has shape {array.shape}{wanted or ', one number was wanted'}")
        if not np.isfinite(array).all():
            at = "" if array.ndim == 0 else f" in row {int(np.argmin(np.isfinite(array)))}"
            raise ValueError(f"{name} is {value}{at}, a finite number was wanted")
        return np.broadcast_to(array, self._rows)

    def _encoded(self, observation: Any) -> Observation:
        if self.batch is None:
            wrong = self._encoder.mismatch(observation)
            if wrong:
                raise ValueError(wrong)
            empty: Any = create_empty_array(self._space, 1)
            observation = concatenate(self._space, [observation], empty)
        faults: dict[int, str] = {}
        try:
            encoded = self._encoder.encode(observation, range(self._rows), faults)
        except RuntimeError as error:
            raise ValueError(f"{error}, of a batch of {self._rows}") from error
        for row, wrong in faults.items():
            raise ValueError(wrong if self.batch is None else f"row {row}: {wrong}")
        return encoded

    def save(self, path: str | Path) -> Path:
        """Write the agent into a new folder that `load` and `recollect evaluate` accept."""
        from recollect.agents.learning import named_arrays
        from recollect.run import checkpoint

        folder = RunFolder.create(Path(path), self.config)
        checkpoint.save(folder.checkpoints, "last", named_arrays(self.policy.network), self.meta)
        return folder.path

    def export(self, path: str | Path) -> Path:
        """Write the weights into one new safetensors file, to act without recollect.

        Its metadata hold the agent's description as JSON under "recollect"; docs/export.md says
        what that is, and how plain torch rebuilds the network.

        Raises:
            ConfigError: the file is there already, its folder is not, or it is named otherwise.
            OSError: the disk does not take it.
        """
        from safetensors.numpy import save

        from recollect.agents.learning import named_arrays

        path = Path(path)
        if path.suffix != ".safetensors":
            raise ConfigError(f"wanted a file that ends in .safetensors, got {str(path)!r}")
        if path.exists():
            raise ConfigError(f"{path} is already there: name another file, or delete this one")
        if not path.parent.is_dir():
            raise ConfigError(f"there is no folder {path.parent}: make it first")
        about = json.dumps(self._description(), allow_nan=False)
        write_atomic(path, save(named_arrays(self.policy.network), {"recollect": about}))
        return path

    def _description(self) -> dict[str, Any]:
        """What an exported file says of itself."""
        settings, own = self.config["config"], self.config["network"]
        network: dict[str, Any] = {"class": own or "RecurrentQ"}
        if not own:
            network |= {name: settings[name] for name in NETWORK_SETTINGS}
        return {
            "format": EXPORT_FORMAT,
            "recollect": __version__,
            "agent": self.config["agent"],
            "env": {"id": self.env_spec.id, "kwargs": dict(self.env_spec.kwargs)},
            "which": self.which,
            "env_steps": self.env_steps,
            "observation": {
                key: {"shape": spec.shape, "dtype": spec.dtype}
                for key, spec in self.env_spec.observation.items()
            },
            "observation_space": str(self._space),
            "num_actions": self.env_spec.action.num_actions,
            "first_action": self._first_action,
            "state_size": self.policy.network.state_size,
            "network": network,
            "values": {name: settings[name] for name in ("rewards", "reward_scale", "gamma")},
        }


def load(run: Any, which: str = "last", batch: int | None = None) -> LoadedAgent:
    """The agent of a run.

    Args:
        run: a run, its folder, or a folder written by `save`.
        which: "last" parameters or the "best" evaluated ones. Of a run that failed, the last are
            those it had then.
        batch: B, to act in B environments at once, with one recurrent state each: observations and
            actions are [B, ...] then. Rows know nothing of each other; row by row it is the agent
            without a batch.
    Raises:
        ConfigError: no such run, or it was made for another environment or network.
        CheckpointError: the parameters are damaged or missing.
    """
    from recollect.agents.learning import load_named_arrays
    from recollect.run import checkpoint

    if which not in WHICH:
        raise presets.nearest("parameters", which, WHICH)
    if batch is not None and batch < 1:
        raise ConfigError(f"batch must be 1 or more, or None for a single one, got {batch}")
    folder = RunFolder.open(Path(getattr(run, "folder", run)))
    stored = folder.config()
    try:
        asked = presets.stored_arguments(stored)
        env_spec, spaces = registry.describe(asked["env"], asked["env_kwargs"])
    except ConfigError as error:
        raise ConfigError(f"{folder.config_path}: {error}") from error
    names = ("last", "failed") if which == "last" else (which,)
    try:
        found = checkpoint.find(folder.checkpoints, *names, parameters_only=True)
    except checkpoint.NoCheckpointError as error:
        if which == "best":
            raise checkpoint.NoCheckpointError(
                f"{folder.path} has no best parameters, as it was never evaluated while it ran: "
                "take the last ones; evaluation_period says how often to evaluate"
            ) from error
        raise
    arrays, meta = checkpoint.load_parameters(found)
    program = presets.agent(asked["agent"]).program
    policy = program(asked["config"], env_spec, asked["seed"], asked["network"]).policy()
    try:
        load_named_arrays(policy.network, arrays)
    except ValueError as error:
        raise ConfigError(f"{folder.path}: parameters do not fit the network: {error}") from error
    return LoadedAgent(policy, env_spec, spaces, stored, {**meta, "which": which}, batch)


def evaluate(
    run: Any,
    episodes: int | None = None,
    seed: int = 1,
    which: str = "last",
    epsilon: float | None = None,
    protocol: str | Protocol = "greedy",
    told: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluation of a run: raw undiscounted returns.

    Args:
        run: as for `load`. seed: of the episodes' starts.
        protocol: a name in `PROTOCOLS`, or one of your own; "greedy" is 20 episodes without
            exploration in the run's own environment.
        episodes, epsilon: others than the protocol's; 1 or more, and in [0, 1].
        told: called after every step: episodes done, episodes in all, environment steps so far.
    Returns:
        return_mean, return_median, return_iqm, return_ci95, and what they are of: episodes,
        env_steps, seed, which, protocol, epsilon, env (id and kwargs), and the most that one
        episode may take: frame_cap, which the environment keeps (None: it has none of that name),
        and step_cap, which we do.
    Raises:
        ConfigError: as `load`; or the environment cannot follow the protocol.
        CheckpointError: as `load`.
        EnvError: an environment failed. In processes of its own, where the run had it so.
    """
    if not isinstance(protocol, Protocol):
        if protocol not in PROTOCOLS:
            raise presets.nearest("protocol", protocol, PROTOCOLS)
        protocol = PROTOCOLS[protocol]
    episodes = protocol.episodes if episodes is None else episodes
    epsilon = protocol.epsilon if epsilon is None else epsilon
    if episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}")
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be 0 or more and below 2^64, got {seed}")
    if not 0 <= epsilon <= 1:
        raise ConfigError(f"epsilon must lie in [0, 1], got {epsilon}")
    agent = load(run, which)
    # These load torch, which a run that is not there must not.
    from recollect.agents import computing, evaluating
    from recollect.run.statistics import summary

    env_spec = _following(protocol, agent.env_spec)
    cap = env_spec.kwargs.get(FRAME_CAP)
    frame_cap = cap if isinstance(cap, int) else None
    longest = evaluating.LONGEST
    if frame_cap and FRAME_CAP in protocol.env_kwargs:
        longest = frame_cap  # no step is less than a frame: the environment ends it
    settings = agent.config["config"]
    with threads(computing.threads(settings["threads"], agent.env_spec)):
        played = evaluating.evaluate_on(
            env_spec,
            agent.policy,
            episodes,
            seed,
            epsilon,
            longest=longest,
            told=told or evaluating.nobody,
            processes=settings["env_processes"],
            deadline=settings["env_deadline"],
        )
    return {
        **summary(played.returns),
        "env_steps": agent.env_steps,
        "seed": seed,
        "which": which,
        "protocol": protocol.name,
        "epsilon": epsilon,
        "frame_cap": frame_cap,
        "step_cap": longest,
        "env": {"id": env_spec.id, "kwargs": dict(env_spec.kwargs)},
    }


def _following(protocol: Protocol, env_spec: EnvSpec) -> EnvSpec:
    """The environment with what the protocol sets of it; ConfigError if it cannot be had."""
    if not protocol.env_kwargs:
        return env_spec
    try:
        found = registry.env_spec(env_spec.id, {**env_spec.kwargs, **protocol.env_kwargs})
    except ConfigError as error:
        raise ConfigError(
            f"protocol {protocol.name} cannot be followed: {error}; protocol greedy takes the "
            "run's environment as it is"
        ) from error
    if (found.observation, found.action) != (env_spec.observation, env_spec.action):
        raise ConfigError(
            f"protocol {protocol.name} changes the observations or actions of {env_spec.id}: an "
            "agent needs those it was trained with"
        )
    return found
