"""Agents by name, and the settings they start from on a given environment and machine.

A preset is a function from an environment, and the environment steps that are asked for if any, to
a config and the environment steps to take.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from recollect.agents import r2d2
from recollect.agents.running import Running
from recollect.machine import free_memory, gpu, processors
from recollect.program import Program
from recollect.types import MOST_WHOLE, ConfigError, EnvSpec, check_kinds, shown

Preset = Callable[[EnvSpec, int | None], tuple[Any, int]]
OURS = {
    *(field.name for field in fields(Running)),
    *("publish_period", "torso_sizes", "forget_bias", "keep_states"),
    *("evaluation_period", "evaluation_episodes", "evaluation_epsilon"),
}
"""Settings of which the papers say nothing: where they lie, defaults are ours, not a paper's."""

SHARE_OF_MEMORY = 0.4
"""Of what is free, that replay may take where a preset decides."""


@dataclass(frozen=True)
class Agent:
    """What a name stands for: the function that returns the program, and presets by name.

    The first preset is the paper's; `auto` picks among the others by the environment.
    """

    program: Callable[..., Program]
    config: type
    presets: dict[str, Preset]


def paper(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """The paper's settings, whatever the machine; 10 billion frames as for DMLab (section 2.3).

    Grey images are seen four at once, as Atari's in the paper, coloured ones singly, as DMLab's.
    """
    images = [spec.shape for spec in env.observation.values() if spec.image]
    grey = any(len(shape) == 2 or 1 in (shape[0], shape[2]) for shape in images)
    return r2d2.R2D2Config(frame_stack=4 if grey else 1), steps or 10_000_000_000 // 4


def plus(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """R2D2+ of the paper's section 4.1, for DMLab: residual torso, asymmetric clipping."""
    config, steps = paper(env, steps)
    return replace(
        config, torso="impala", rewards="asymmetric", target_period=400, batch_size=32
    ), steps


def fitted(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """The paper's network and lengths, with slots, batch and replay that the machine can carry.

    16 slots for each processor, at most the paper's 256; without a GPU batches of 8 windows; replay
    of the paper's size, or as much of it as 40% of the memory that is free will hold.
    """
    config, steps = paper(env, steps or 50_000_000)
    return replace(
        config,
        actors=min(config.actors, 16 * processors()),
        batch_size=config.batch_size if gpu() else 8,
        replay_bytes=_share_of_memory(),
        codec="zstd" if _family(env) == "atari" else "none",
    ), steps


def _family(env: EnvSpec) -> str:
    """The name of the environment's family; empty if we know none."""
    from recollect.envs.families import family  # loads Gymnasium, which not every command needs

    known = family(env.id)
    return "" if known is None else known.name


def _share_of_memory() -> int:
    """Bytes that replay may take here, to two digits: runs begun side by side are alike then."""
    share = int(SHARE_OF_MEMORY * (free_memory() or 8e9))
    unit = 10 ** max(0, len(str(share)) - 2)
    return share // unit * unit


def small(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """What learns something in seconds to an hour on two cores.

    The learning rate falls to 0 over the run, however long it is. MiniGrid has settings of its own.
    """
    if env.has_images:
        return small_images(env, steps)
    if _family(env) == "minigrid":
        return small_grid(env, steps)
    return small_numbers(env, steps)


def small_numbers(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """`small` for a few numbers."""
    steps = steps or 160_000
    return r2d2.R2D2Config(
        actors=16,
        refresh_period=8,
        burn_in=8,
        trace_length=40,
        period=20,
        replay_steps=200_000,
        min_replay_steps=2_000,
        replay_ratio=27.0,
        priority_exponent=0.6,
        importance_exponent=0.4,
        batch_size=32,
        learning_rate=2e-3,
        decay_steps=steps,
        adam_epsilon=1e-5,
        gamma=0.99,
        target_period=100,
        publish_period=1,
        rewards="raw",
        reward_scale=0.1,
        huber=1.0,
        torso_sizes=(32,),
        pre_core=0,
        hidden=32,
        head_hidden=64,
        forget_bias=2.0,
        evaluation_period=250,
    ), steps


def small_grid(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """`small` for MiniGrid's symbols: more exploration, a shorter horizon, four times the network.

    Rewards come at the end and are below 1. What tells where to go has to be looked for first: only
    slots that turn about at random find out that it pays, and only a discount that makes wandering
    dear keeps them from doing nothing else.
    """
    config, steps = small_numbers(env, steps or 500_000)
    return replace(
        config,
        actors=32,
        epsilon_alpha=2.0,
        replay_steps=400_000,
        min_replay_steps=20_000,
        replay_ratio=8.0,
        learning_rate=1e-3,
        gamma=0.95,
        target_period=200,
        reward_scale=1.0,
        torso_sizes=(128,),
        hidden=128,
        head_hidden=128,
        evaluation_period=1000,
        evaluation_episodes=30,
    ), steps


def small_images(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """`small` for images: many updates of 8 short windows each, a smaller network, n of 10.

    With as many learned steps in fewer and larger updates, and n of 4, Pong stood still.
    """
    steps = steps or 250_000
    config, _ = fitted(env, steps)
    return replace(
        config,
        actors=16,
        epsilon_alpha=3.0,
        refresh_period=20,
        burn_in=4,
        trace_length=16,
        period=16,
        n_step=10,
        replay_steps=300_000,
        min_replay_steps=5_000,
        replay_ratio=16.0,
        priority_exponent=0.6,
        importance_exponent=0.4,
        batch_size=8,
        learning_rate=2e-4,
        decay_steps=steps,
        adam_epsilon=1e-5,
        gamma=0.99,
        target_period=500,
        publish_period=8,
        torso="small",
        pre_core=256,
        hidden=256,
        head_hidden=256,
        evaluation_period=3000,
    ), steps


def drqn_paper(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """DRQN (Hausknecht and Stone 2015): zero state, 10 steps, uniform replay, plain Q-learning."""
    return replace(
        paper(env, steps)[0],
        actors=1,
        burn_in=0,
        trace_length=10,
        period=10,
        n_step=1,
        start_state="zero",
        prioritized=False,
        double_q=False,
        duelling=False,
        rewards="clipped",
        previous_action=False,
        previous_reward=False,
        replay_steps=400_000,
        max_gradient_norm=10.0,
        gamma=0.99,
        target_period=10_000,
    ), steps or 10_000_000


def drqn_small(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """DRQN's strategy (zero state, uniform, no burn-in) in the sizes of `small`."""
    config, steps = small(env, steps)
    return replace(
        config,
        burn_in=0,
        n_step=1,
        start_state="zero",
        prioritized=False,
        double_q=False,
        duelling=False,
        previous_action=False,
        previous_reward=False,
    ), steps


AGENTS: dict[str, Agent] = {
    "r2d2": Agent(
        r2d2.program,
        r2d2.R2D2Config,
        {"paper": paper, "plus": plus, "fitted": fitted, "small": small},
    ),
    "drqn": Agent(r2d2.program, r2d2.R2D2Config, {"paper": drqn_paper, "small": drqn_small}),
}


MANY = 12
"""More names than these are not listed in an error."""


def nearest(kind: str, name: str, known: Iterable[str], shown: str = "{}") -> ConfigError:
    """The error for a name nobody knows: it names the nearest one, or what there is instead."""
    known = sorted(known)
    name = name if len(name) <= 80 else name[:60] + "..."
    name = name if name.isprintable() else repr(name)
    if close := closest(name, known):
        hint = f"did you mean {shown.format(close)}?"
    elif len(known) <= MANY:
        hint = f"known: {', '.join(known)}"
    elif kind == "setting":
        hint = "recollect train --help shows them all"
    else:
        hint = f"known: {', '.join(known[:MANY])} and {len(known) - MANY} more"
    return ConfigError(f"unknown {kind} {shown.format(name)}: {hint}")


def closest(name: str, known: Iterable[str]) -> str:
    """The one of these names that somebody may have meant, in small letters or large; or empty."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else ""


def agent(name: str) -> Agent:
    """The agent of that name; ConfigError with the nearest one otherwise."""
    if name not in AGENTS:
        raise nearest("agent", name, AGENTS)
    return AGENTS[name]


def resolve(name: str, preset: str, env: EnvSpec, env_steps: int | None = None) -> tuple[Any, int]:
    """Config and environment steps of an agent's preset on an environment.

    Args:
        env_steps: how long the run is to be; None: as long as the preset says.
    Raises:
        ConfigError: unknown agent or preset, with the nearest one.
    """
    presets = agent(name).presets
    if preset == "auto":
        preset = "fitted" if env.has_images and "fitted" in presets else "small"
    if preset not in presets:
        raise nearest("preset", preset, [*presets, "auto"])
    return presets[preset](env, env_steps)


def with_settings(config: Any, settings: dict[str, Any]) -> Any:
    """`config` with fields replaced; ConfigError names the nearest field of an unknown one.

    Whole trajectories take a preset's burn-in away with them, unless it is set as well.
    """
    if not is_dataclass(config) or isinstance(config, type):
        raise ConfigError(
            f"config must be an agent's config, such as R2D2Config(), got {shown(config)}"
        )
    check_settings(type(config), settings)
    if settings.get("sequences") == "trajectories":
        settings = {"burn_in": 0, **settings}
    return replace(config, **settings)


def check_settings(kind: type, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError unless settings are fields of a config of this kind, of type and size.

    Whether they contradict each other is seen when the config is made.
    """
    known = [f.name for f in fields(kind)]
    # It may be a slip for an argument of `train` as well, which takes settings as they are.
    arguments = {*_KINDS, "run_dir", "verbose"} - {"settings"}
    for name in settings:
        if name in arguments:
            raise ConfigError(f"{name} is an argument of its own: give it beside the settings")
        if name not in known:
            raise nearest("setting", name, [*known, *arguments])
    check_kinds(kind, settings)


def differences(name: str, config: Any, env: EnvSpec) -> list[tuple[str, Any, Any]]:
    """The settings that differ from the paper's: name, value, the paper's value.

    Those of which no paper says anything are left out: there is nothing that they differ from.
    """
    published, _ = agent(name).presets["paper"](env, None)
    return [
        (f.name, getattr(config, f.name), getattr(published, f.name))
        for f in fields(config)
        if f.name not in OURS and getattr(config, f.name) != getattr(published, f.name)
    ]


_KINDS: dict[str, tuple[Any, str]] = {
    "agent": (str, "a name"),
    "env": (str, "the id of a registered environment, such as 'CartPole-v1'"),
    "env_kwargs": (dict, "a dict of arguments by name"),
    "preset": (str, "a name"),
    "seed": (int, "a whole number"),
    "env_steps": (int, "a whole number"),
    "runtime": (str, "a name"),
    "address": (str, "text, as in host:port"),
    "place": (str, "text, as in 'learner:cpus=2 actor:cpus=1'"),
    "network": (str, "text, as in module:name"),
    "start_from": (str, "the folder of a run"),
    "checkpoint_seconds": ((int, float), "a number"),
    "keep_checkpoints": (int, "a whole number"),
    "settings": (dict, "a dict of fields by name"),
}
_RANGES: dict[str, tuple[int, int, str]] = {
    "seed": (0, 2**64 - 1, "0 or more and below 2^64"),
    "env_steps": (1, MOST_WHOLE, "1 or more and at most 2^53"),
    "checkpoint_seconds": (0, 10**9, "0 or more and at most 1e9"),
    "keep_checkpoints": (1, 10**6, "1 or more and at most 1e6"),
}


def check_arguments(**arguments: Any) -> None:
    """Raise ConfigError unless the arguments of a training are of their kinds and in their ranges.

    Nothing is looked up: no environment, preset or network need be there. What may be left out, as
    `env_kwargs`, `env_steps` and `settings`, may be None.
    """
    for name, value in arguments.items():
        kind, wanted = _KINDS[name]
        if value is None and name in ("env_kwargs", "env_steps", "settings"):
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            hint = ": register yours (docs/own_environment.md) and give its id"
            got = type(value).__name__
            got += hint if name == "env" else f" {shown(value)}"
            raise ConfigError(f"{name} must be {wanted}, got {got}")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise ConfigError(f"{name} must have names as keys, got {shown(key)}")
        if name in _RANGES:
            least, most, wanted = _RANGES[name]
            if not least <= value <= most:  # also where NaN
                raise ConfigError(f"{name} must be {wanted}, got {shown(value)}")


def with_later(stored: object) -> object:
    """A stored job with what has been added since it may have been written, as it was then."""
    if not isinstance(stored, Mapping):
        return stored
    job = {"address": "", "place": "", **stored}
    if isinstance(job.get("config"), Mapping):
        job["config"] = {"replay_shards": 1, **job["config"]}
    return job


def stored_arguments(stored: object) -> dict[str, Any]:
    """The arguments of a training that config.json holds, checked; `config` is the agent's own.

    Nothing is looked up but the agent: the environment may not be there any more.

    Raises:
        ConfigError: something is unknown, missing or wrong; it is named.
    """
    arguments = [name for name in _KINDS if name not in ("env_kwargs", "settings")]
    job = _exactly("config.json", with_later(stored), [*arguments, "config"])
    env = _exactly("env", job.pop("env"), ("id", "kwargs"))
    config = job.pop("config")
    job |= {"env": env["id"], "env_kwargs": env["kwargs"]}
    for name in ("env_kwargs", "env_steps"):
        if job[name] is None:  # which may be left out of a call, but not of a file
            raise ConfigError(f"{name} must be {_KINDS[name][1]}, got None")
    check_arguments(**job)
    kind = agent(job["agent"]).config
    return {**job, "config": from_dict(kind, config)}


def _exactly(what: str, found: object, names: Iterable[str]) -> dict[str, Any]:
    """`found` as a dict, if it has these keys and no other; ConfigError names what is wrong."""
    if not isinstance(found, Mapping):
        raise ConfigError(f"{what} must be an object, got {shown(found)}")
    known = list(names)
    for name in found:
        if name not in known:
            raise nearest("setting", str(name), known)
    missing = [name for name in known if name not in found]
    if missing:
        raise ConfigError(f"the stored {what} lacks {', '.join(missing)}")
    return dict(found)


def from_dict(kind: type, stored: Mapping[str, Any]) -> Any:
    """A config from what config.json holds of it.

    Raises:
        ConfigError: a field is unknown, missing or wrong; it is named.
    """
    values = _exactly("config", stored, [f.name for f in fields(kind)])
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
