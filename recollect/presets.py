"""Agents by name, and the settings they start from on a given environment and machine.

A preset is a function from an environment, and the environment steps that are asked for if any, to
a config and the environment steps to take.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from recollect.agents import r2d2
from recollect.program import Program
from recollect.types import ConfigError, EnvSpec

Preset = Callable[[EnvSpec, int | None], tuple[Any, int]]


@dataclass(frozen=True)
class Agent:
    """What a name stands for: the function that returns the program, and presets by name.

    The first preset is the paper's; `auto` picks among the others by the environment.
    """

    program: Callable[..., Program]
    config: type
    presets: dict[str, Preset]


def paper(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """The paper's settings, whatever the machine; 10 billion frames as for DMLab (section 2.3)."""
    return r2d2.R2D2Config(), steps or 10_000_000_000 // 4


def small(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """For vector observations on a processor: learns in seconds to minutes on one core.

    The learning rate falls to 0 over the run, however long it is.
    """
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


def drqn_paper(env: EnvSpec, steps: int | None) -> tuple[r2d2.R2D2Config, int]:
    """DRQN (Hausknecht and Stone 2015): zero state, 10 steps, uniform replay, plain Q-learning."""
    return replace(
        r2d2.R2D2Config(),
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
    "r2d2": Agent(r2d2.program, r2d2.R2D2Config, {"paper": paper, "small": small}),
    "drqn": Agent(r2d2.program, r2d2.R2D2Config, {"paper": drqn_paper, "small": drqn_small}),
}


MANY = 12
"""More names than these are not listed in an error."""


def nearest(kind: str, name: str, known: Iterable[str], shown: str = "{}") -> ConfigError:
    """The error for a name nobody knows: it names the nearest one, or what there is instead."""
    known = sorted(known)
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if close:
        hint = f"did you mean {shown.format(by_lower[close[0]])}?"
    elif len(known) <= MANY:
        hint = f"known: {', '.join(known)}"
    elif kind == "setting":
        hint = f"recollect train --help shows all {len(known)}"
    else:
        hint = f"known: {', '.join(known[:MANY])} and {len(known) - MANY} more"
    return ConfigError(f"unknown {kind} {shown.format(name)}: {hint}")


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
        return presets["small"](env, env_steps)
    if preset not in presets:
        raise nearest("preset", preset, [*presets, "auto"])
    return presets[preset](env, env_steps)


def with_settings(config: Any, settings: dict[str, Any]) -> Any:
    """`config` with fields replaced; ConfigError names the nearest field of an unknown one.

    Whole trajectories take a preset's burn-in away with them, unless it is set as well.
    """
    known = [f.name for f in fields(config)]
    for name in settings:
        if name not in known:
            raise nearest("setting", name, known)
    if settings.get("sequences") == "trajectories":
        settings = {"burn_in": 0, **settings}
    return replace(config, **settings)


def differences(name: str, config: Any, env: EnvSpec) -> list[str]:
    """One line for each setting that differs from the paper's."""
    published, _ = agent(name).presets["paper"](env, None)
    return [
        f"{f.name} = {getattr(config, f.name)} (paper: {getattr(published, f.name)})"
        for f in fields(config)
        if getattr(config, f.name) != getattr(published, f.name)
    ]


def from_dict(kind: type, stored: dict[str, Any]) -> Any:
    """A config from what config.json holds of it.

    Raises:
        ConfigError: a field is unknown or missing; it is named.
    """
    known = {f.name: f for f in fields(kind)}
    for name in stored:
        if name not in known:
            raise nearest("setting", name, known)
    missing = sorted(known.keys() - stored.keys())
    if missing:
        raise ConfigError(f"the stored config lacks {', '.join(missing)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()})
