"""What is to be trained: checked, written down, and read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from recollect import presets
from recollect.agents import wiring
from recollect.envs import registry
from recollect.types import ConfigError, EnvSpec

RUNTIMES = ("inline",)
MAY_CHANGE = ("env_steps", "checkpoint_seconds", "keep_checkpoints")
"""What a resumed run may be given anew; all else is as it began."""


@dataclass(frozen=True)
class Job:
    """A training that has been checked and not begun; `prepare` says what is what.

    `config` is the agent's own dataclass.
    """

    agent: str
    env: EnvSpec
    preset: str
    config: Any
    seed: int
    env_steps: int
    runtime: str = "inline"
    network: str = ""
    start_from: str = ""
    checkpoint_seconds: float = 0.0
    keep_checkpoints: int = 2

    def as_dict(self) -> dict[str, Any]:
        """What config.json holds: enough to build the same job again."""
        return {
            "agent": self.agent,
            "env": {"id": self.env.id, "kwargs": dict(self.env.kwargs)},
            "preset": self.preset,
            "seed": self.seed,
            "env_steps": self.env_steps,
            "runtime": self.runtime,
            "network": self.network,
            "start_from": self.start_from,
            "checkpoint_seconds": self.checkpoint_seconds,
            "keep_checkpoints": self.keep_checkpoints,
            "config": asdict(self.config),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Job:
        """The job of which `as_dict` was written down.

        Raises:
            ConfigError: it is damaged, or what it names is not there.
        """
        try:
            env, config = (
                stored["env"],
                presets.from_dict(presets.agent(stored["agent"]).config, stored["config"]),
            )
            names = ("preset", "seed", "env_steps", "runtime", "network", "start_from")
            return prepare(
                stored["agent"],
                env=env["id"],
                env_kwargs=env["kwargs"],
                config=config,
                **{name: stored[name] for name in (*names, *MAY_CHANGE[1:])},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"it is damaged: {error!r}") from error

    def changed(self, **settings: Any) -> Job:
        """This job with some of what `MAY_CHANGE`.

        Raises:
            ConfigError: a value that cannot be.
        """
        job = replace(self, **settings)
        check_numbers(job.seed, job.env_steps, job.checkpoint_seconds, job.keep_checkpoints)
        return job


def prepare(
    agent: str,
    *,
    env: str,
    env_kwargs: dict[str, Any] | None = None,
    preset: str = "auto",
    seed: int = 0,
    env_steps: int | None = None,
    runtime: str = "inline",
    network: str = "",
    start_from: str = "",
    checkpoint_seconds: float = 0.0,
    keep_checkpoints: int = 2,
    config: Any = None,
    settings: dict[str, Any] | None = None,
) -> Job:
    """Check everything that can be checked without building anything, and without torch.

    Args:
        agent: r2d2 or drqn. env: a Gymnasium id, `module:Env-v0` included.
        preset: auto, paper or small. seed: 0 or more, below 2^64.
        env_steps: steps of all slots together; None: the preset's.
        network: "module:name" of a network of your own; empty: the agent's.
        start_from: a run whose last parameters this one begins with; empty: drawn from the seed.
        checkpoint_seconds: between two checkpoints; 0: as often as costs little.
        keep_checkpoints: how many whole ones are kept.
        config: a whole config instead of the preset's. settings: fields to replace in it.
    Raises:
        ConfigError: anything unknown or contradictory, in one line.
    """
    presets.agent(agent)
    if not isinstance(env, str):
        raise ConfigError(
            f"env must be the id of a registered environment, such as 'CartPole-v1', got "
            f"{type(env).__name__}: register yours (docs/own_environment.md) and give its id"
        )
    check_numbers(seed, env_steps, checkpoint_seconds, keep_checkpoints)
    env_spec = registry.env_spec(env, env_kwargs)
    wiring.check_actions(env_spec)
    base, steps = presets.resolve(agent, preset, env_spec, env_steps)
    chosen = presets.with_settings(base if config is None else config, settings or {})
    if runtime == "ray":
        raise ConfigError("runtime ray is not available in this version: use inline")
    if runtime not in RUNTIMES:
        raise presets.nearest("runtime", runtime, RUNTIMES)
    if network:
        wiring.check_network(network)
    return Job(
        agent,
        env_spec,
        preset,
        chosen,
        seed,
        steps,
        runtime,
        network,
        start_from,
        float(checkpoint_seconds),
        keep_checkpoints,
    )


def check_numbers(
    seed: object, env_steps: object, checkpoint_seconds: object, keep_checkpoints: object
) -> None:
    """Raise ConfigError unless each is a number, and one that can be."""
    for name, value, least, below in (
        ("seed", seed, 0, 2**64),
        ("env_steps", 1 if env_steps is None else env_steps, 1, 2**62),
        ("keep_checkpoints", keep_checkpoints, 1, 2**31),
    ):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{name} must be a whole number, got {value!r}")
        if not least <= value < below:
            power = below.bit_length() - 1
            raise ConfigError(f"{name} must be {least} or more and below 2^{power}, got {value}")
    seconds = checkpoint_seconds
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < 1e9:
        raise ConfigError(f"checkpoint_seconds must be a number of 0 or more, got {seconds!r}")
