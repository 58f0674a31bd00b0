"""`recollect resume`: go on with a run that was stopped or killed, or go on longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from recollect import presets, training
from recollect.agents.r2d2 import R2D2Config
from recollect.cli import settings, words
from recollect.cli.train import ENVIRONMENT, KEEPING, RUN, RUNTIME, summary, telling_what_is_left
from recollect.cli.words import Option
from recollect.types import ConfigError, EnvError

OPTIONS = [
    Option("--env-steps", "N", "where it ends, counted from its beginning", words.whole),
    *(replace(option, shown="") for option in KEEPING),
    Option("--env-processes", "N", "supervised processes for environments", words.whole),
    Option("--env-deadline", "X", "seconds that one call of one may take", words.number),
    *(replace(option, shown="") for option in RUNTIME),
    Option("--threads", "N", "that torch computes on", words.whole),
    Option("--device", "NAME", "of the learner: auto, cpu or cuda"),
    Option("--actor-device", "NAME", "of the actors: likewise"),
    words.HELP,
]


def command(given: Sequence[str]) -> None:
    """Resume as the words after `resume` say.

    Raises:
        ConfigError: something is wrong with them, or with the run.
    """
    if words.wants_help(given):
        words.show_page(
            "resume RUN [OPTION ...]",
            "Goes on with a run from its newest checkpoint, as if it had never stopped. Its "
            "settings are its own: only what is listed here may change, and what is not given "
            "stays.",
            {"what": [Option("RUN", "", "a run's folder"), *OPTIONS]},
        )
        return
    _refuse_settings(given)
    found = words.parse(
        "resume",
        given,
        OPTIONS,
        positional="RUN",
        required="resume needs a run: give its folder",
    )
    folder = Path(found.pop("RUN"))
    try:
        with telling_what_is_left(folder):
            run = training.resume(folder, **found, verbose=True)
    except ConfigError as error:
        if "config.json" in str(error):  # there the fields have other names
            raise
        raise ConfigError(settings.as_options(str(error), R2D2Config)) from error
    print(summary(run, folder))
    if run.fault:
        raise EnvError(run.fault)


def _refuse_settings(given: Sequence[str]) -> None:
    """Raise ConfigError for an option of `train` that a resumed run cannot be given."""
    allowed = {option.flag for option in OPTIONS}
    others = {option.flag for option in (*ENVIRONMENT, *RUN)}
    for agent in presets.AGENTS.values():
        for field in fields(agent.config):
            name = field.name.replace("_", "-")
            others |= {f"--{name}", f"--no-{name}"}
    for word in given:
        flag = word.partition("=")[0].replace("_", "-")
        if flag in others - allowed:
            may = ", ".join(sorted(allowed - {words.HELP.flag}))
            raise ConfigError(
                f"{flag} cannot change on resume, only {may} can: `{words.program()} train ... "
                "--from RUN` begins a new run from this one's parameters"
            )
