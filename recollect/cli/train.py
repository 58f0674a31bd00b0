"""`recollect train`: from an agent and an environment to a run folder."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from recollect import presets, training
from recollect.cli import settings, words
from recollect.cli.words import Option
from recollect.envs import registry
from recollect.messages import PartLostError
from recollect.run.folder import default_run_dir
from recollect.run.signals import Interrupted
from recollect.run.standing import told_of_deaths
from recollect.runtime import placing
from recollect.types import (
    ActionSpec,
    ArraySpec,
    ConfigError,
    DivergedError,
    EnvError,
    EnvSpec,
    NotSavedError,
)

EXAMPLE = "recollect/PositionCartPole-v0"


def json_object(word: str) -> dict[str, Any]:
    """A JSON object, for `--env-kwargs`."""
    try:
        value = json.loads(word)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f"wanted a JSON object, such as '{{\"delay\": 20}}', got {word!r}: {error}"
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"wanted a JSON object in braces, got {word!r}")
    return value


ENVIRONMENT = [
    Option(
        "--env",
        "ID",
        "a Gymnasium environment, module:Name-v0 included; ours: "
        + ", ".join(name for name in gymnasium.registry if name.startswith("recollect/")),
    ),
    Option("--env-kwargs", "JSON", "arguments of the environment, a JSON object", json_object),
]
KEEPING = [
    Option(
        "--checkpoint-seconds",
        "X",
        "between two checkpoints",
        words.number,
        shown="auto",
    ),
    Option("--keep-checkpoints", "N", "how many are kept", words.whole, shown="2"),
]
RUNTIME = [
    Option(
        "--runtime",
        "NAME",
        "inline: everything in this process; ray: each part in its own",
        shown="inline",
    ),
    Option("--address", "HOST:PORT", "of a Ray cluster, docs/distributed.md", shown="this machine"),
    Option("--place", "TEXT", f"what parts take of machines: '{placing.EXAMPLE}'", shown="auto"),
]
RUN = [
    Option(
        "--preset",
        "NAME",
        "auto, paper, plus, fitted or small: where the settings start from",
        shown="auto",
    ),
    Option("--env-steps", "N", "environment steps of all slots together", words.whole),
    Option("--seed", "N", "of everything that is drawn", words.whole, shown="0"),
    Option("--network", "MODULE:NAME", "a network of your own", shown="agent's"),
    Option("--from", "RUN", "begin with the last parameters of that run"),
    *RUNTIME,
    Option("--run-dir", "DIR", "the folder to make", shown="runs/..."),
    *KEEPING,
    words.HELP,
]


def command(given: Sequence[str]) -> None:
    """Train as the words after `train` say.

    Raises:
        ConfigError: something is wrong with them.
    """
    if given and not given[0].startswith("-"):
        presets.agent(given[0])
    agent = next((word for word in given if word in presets.AGENTS), "r2d2")
    config_type = presets.agent(agent).config
    groups = settings.options(config_type(), config_type())
    fixed = [*ENVIRONMENT, *RUN]
    known = [*fixed, *(option for group in groups.values() for option in group)]
    spelled = settings.spell_out(given, config_type, presets.AGENTS)
    if words.wants_help(given):
        _show_help(agent, spelled, known)
        return
    found = words.parse(
        "train",
        spelled,
        known,
        positional="AGENT",
        required=f"train needs an agent: {', '.join(presets.AGENTS)}, as in "
        f"{words.program()} train r2d2 --env {EXAMPLE}",
    )
    agent = found.pop("AGENT")
    presets.agent(agent)
    if "env" not in found:
        raise ConfigError(f"train needs an environment: add --env ID, such as --env {EXAMPLE}")
    run_dir = found.pop("run_dir", "")
    names = {option.name for option in fixed} - {"from"} | {"start_from"}
    if "from" in found:
        found["start_from"] = found.pop("from")
    folder: Path | None = None
    try:
        job = training.prepare(
            agent,
            **{name: value for name, value in found.items() if name in names},
            settings={
                name: settings.read(name, value, config_type)
                for name, value in found.items()
                if name not in names
            },
        )
        folder = Path(run_dir or default_run_dir(job.agent, job.env.id, job.seed))
        with telling_what_is_left(folder):
            run = training.execute(job, folder, verbose=True)
    except ConfigError as error:
        raise ConfigError(settings.as_options(str(error), config_type)) from error
    print(summary(run, folder))
    if run.fault:
        raise EnvError(run.fault)


@contextlib.contextmanager
def telling_what_is_left(folder: Path) -> Iterator[None]:
    """Errors that stop a run inside say what can be done with what it has learned."""
    here = Path.cwd()  # where an environment may not stay
    try:
        yield
    except Interrupted as stopped:
        unsaved = f"; {stopped.unsaved}: {_mend(stopped.unsaved)} first" if stopped.unsaved else ""
        resume = words.again("resume", folder)
        stopped.args = (f"stopped by {stopped.signal_name}{unsaved}; go on with: {resume}",)
        raise
    except NotSavedError as error:
        resume = words.again("resume", folder)
        raise NotSavedError(
            f"{error}: {_mend(str(error))}, then do what is missing again: {resume}"
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted{_left(folder, here)}") from None
    except PartLostError as error:
        saved = any((here / folder / "checkpoints").glob("last-*"))
        go_on = "go on from its last checkpoint with" if saved else "begin again with"
        resume = words.again("resume", folder)
        raise PartLostError(f"{error}; {go_on}: {resume}") from error
    except (EnvError, DivergedError) as error:
        raise type(error)(f"{error}{_left(folder, here)}") from error


def _mend(unsaved: str) -> str:
    return "make room" if os.strerror(errno.ENOSPC) in unsaved else "mend that"


def _left(folder: Path, here: Path) -> str:
    """Where to find what a run that failed has learned."""
    if not (here / folder / "checkpoints").exists():
        return ""
    return f"; what was learned lies in {folder}: {words.again('evaluate', folder)}"


def summary(run: training.Run, path: Path) -> str:
    """What is printed at a run's end; `path` is its folder as it was named."""
    greedy = f"{run.return_mean:,.2f}, mean of {training.FINAL_EPISODES} episodes with the last "
    windows = f"{run.mid_episode_share:.0%} start in mid-episode"
    best = f"{run.best_mean or 0:,.2f}, best evaluation meanwhile: --which best"
    failed = f"failures         {run.env_failures:,} of environments, "
    failed += f"{run.dropped_episodes:,} episodes dropped"
    return "\n".join(
        [
            "",
            f"greedy return    {'not known' if run.fault else greedy + 'parameters'}",
            *([f"best             {best}"] if run.best_mean is not None else []),
            f"trained          {run.env_steps:,} environment steps and {run.updates:,} updates "
            f"in {run.seconds:,.1f} s",
            f"learned windows  {windows if run.updates else 'none: nothing was learned'}",
            *([failed] if run.env_failures or run.dropped_episodes else []),
            *([f"deaths           {told_of_deaths(run.deaths, path)}"] if run.deaths else []),
            f"run              {path}",
            f"curve            {path / 'curve.png'}",
            "",
            "next:",
            f"  {words.again('evaluate', path)} --episodes 100",
            f"  {words.again('plot', path)}",
            f"  {words.again('resume', path)} --env-steps {2 * run.env_steps}",
        ]
    )


def _show_help(agent: str, spelled: Sequence[str], known: Sequence[Option]) -> None:
    """The page with the defaults of a preset: of the environment that is named, if it exists."""
    found: dict[str, Any] = {}
    try:
        asked = [word for word in spelled if word not in ("--help", "-h")]
        found = words.parse("train", asked, known, positional="AGENT")
        env = registry.env_spec(found["env"], found.get("env_kwargs"))
        of = f"on {env.id}"
    except (ConfigError, KeyError):  # one asks for help with words that are not right yet
        env = EnvSpec("", {}, {"observation": ArraySpec((2,))}, ActionSpec(2))
        of = "on an environment of numbers; with --env ID, on that one"
    preset = found.get("preset", "auto")
    config, steps = presets.resolve(agent, preset, env, max(0, found.get("env_steps", 0)) or None)
    run = [
        Option(o.flag, o.value, o.help, shown=f"{steps}") if o.flag == "--env-steps" else o
        for o in RUN
    ]
    words.show_page(
        "train AGENT --env ID [OPTION ...]",
        "Trains an agent on a Gymnasium environment, and leaves a folder with its config, "
        "metrics, checkpoints and learning curve. Every setting of the agent is an option. "
        f"Defaults are those of {agent}, preset {preset}, {of}.",
        {
            "what": [Option("AGENT", "", ", ".join(presets.AGENTS)), *ENVIRONMENT],
            "run": run,
            **settings.options(config, presets.resolve(agent, "paper", env)[0]),
        },
    )
