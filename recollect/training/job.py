"""What is to be trained: checked, written down, and read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from recollect import presets
from recollect.agents import wiring
from recollect.envs import registry
from recollect.machine import processors
from recollect.runtime import placing
from recollect.types import ConfigError, EnvSpec

RUNTIMES = ("inline", "ray")
MAY_CHANGE = (
    "env_steps",
    "checkpoint_seconds",
    "keep_checkpoints",
    "env_processes",
    "env_deadline",
    "threads",
    "device",
    "actor_device",
    "runtime",
    "address",
    "place",
)
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
    address: str = ""
    place: str = ""
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
            "address": self.address,
            "place": self.place,
            "network": self.network,
            "start_from": self.start_from,
            "checkpoint_seconds": self.checkpoint_seconds,
            "keep_checkpoints": self.keep_checkpoints,
            "config": asdict(self.config),
        }

    def odd(self) -> list[str]:
        """What is odd about it, though it may be meant; a line each."""
        found = [
            f"{key} {list(spec.shape)} {spec.dtype} looks like an image and is not of bytes: it is "
            "taken as a row of numbers, without convolutions; give it as uint8"
            for key, spec in self.env.observation.items()
            if spec.like_an_image and not self.network
        ]
        if not self.env.has_images:
            first = type(self.config)()
            found += [
                f"{name} {getattr(self.config, name)} changes nothing: {self.env.id} has no images"
                for name in ("frame_stack", "torso")
                if getattr(self.config, name, None) != getattr(first, name, None)
            ]
        if self.config.threads > processors():
            found.append(
                f"threads {self.config.threads} on {processors()} processors: more threads than "
                "processors only wait for each other"
            )
        return found

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Job:
        """The job of which `as_dict` was written down.

        Raises:
            ConfigError: it is damaged, or what it names is not there.
        """
        return prepare(**presets.stored_arguments(stored))

    def changed(self, **settings: Any) -> Job:
        """This job with some of what `MAY_CHANGE`.

        A learning rate that falls over the run's length falls over the new length.

        Raises:
            ConfigError: a value that cannot be.
        """
        own = {name: value for name, value in settings.items() if hasattr(self, name)}
        presets.check_arguments(**own)
        left = self.address and own.get("address") == ""
        if left or own.get("runtime") == "inline":  # what was said of a cluster is for it alone
            own = {"address": "", "place": ""} | own
        job = replace(self, **own)
        _check_runtime(job.runtime, job.address, job.place)
        fields = {name: value for name, value in settings.items() if name not in own}
        if getattr(self.config, "decay_steps", None) == self.env_steps:
            fields["decay_steps"] = job.env_steps
        return replace(job, config=presets.with_settings(self.config, fields))


def prepare(
    agent: str,
    *,
    env: str,
    env_kwargs: dict[str, Any] | None = None,
    preset: str = "auto",
    seed: int = 0,
    env_steps: int | None = None,
    runtime: str = "inline",
    address: str = "",
    place: str = "",
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
        preset: auto, paper, plus, fitted or small. seed: 0 or more, below 2^64.
        env_steps: steps of all slots together; None: the preset's.
        runtime: inline, everything in this process; or ray, each part in its own.
        address: of a Ray cluster to join, HOST:PORT; empty: one of this run's own, on this machine.
        place: what parts take of machines, see `placing.parse`.
        network: "module:name" of a network of your own; empty: the agent's.
        start_from: a run whose last parameters this one begins with; empty: drawn from the seed.
        checkpoint_seconds: between two checkpoints; 0: as often as costs little.
        keep_checkpoints: how many whole ones are kept.
        config: a whole config instead of the preset's. settings: fields to replace in it.
    Raises:
        ConfigError: anything unknown or contradictory, in one line.
    """
    presets.check_arguments(
        agent=agent,
        env=env,
        env_kwargs=env_kwargs,
        preset=preset,
        seed=seed,
        env_steps=env_steps,
        runtime=runtime,
        address=address,
        place=place,
        network=network,
        start_from=start_from,
        checkpoint_seconds=checkpoint_seconds,
        keep_checkpoints=keep_checkpoints,
        settings=settings,
    )
    presets.check_settings(presets.agent(agent).config, settings or {})
    env_spec = registry.env_spec(env, env_kwargs)
    wiring.check_actions(env_spec)
    base, steps = presets.resolve(agent, preset, env_spec, env_steps)
    chosen = presets.with_settings(base if config is None else config, settings or {})
    _check_runtime(runtime, address, place)
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
        address,
        place,
        network,
        start_from,
        float(checkpoint_seconds),
        keep_checkpoints,
    )


def _check_runtime(runtime: str, address: str, place: str) -> None:
    """Raise ConfigError for a runtime that is not known, or one that these do not go with."""
    if runtime not in RUNTIMES:
        raise presets.nearest("runtime", runtime, RUNTIMES)
    if runtime == "inline" and (address or place):
        name, value = ("address", address) if address else ("place", place)
        raise ConfigError(f"{name} {value!r} is for runtime ray: add runtime ray, or leave it out")
    placing.parse(place)
