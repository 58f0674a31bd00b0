"""`recollect doctor`: is everything right with the machine, an environment and a network?"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from recollect import presets
from recollect.agents import wiring
from recollect.cli import words
from recollect.cli.train import ENVIRONMENT
from recollect.cli.words import Option
from recollect.doctor import machine, supervise
from recollect.doctor.request import Request
from recollect.doctor.sheet import Check, Sheet
from recollect.types import ConfigError, EnvError

OPTIONS = [
    *ENVIRONMENT,
    Option("--agent", "NAME", f"one of {', '.join(presets.AGENTS)}", default="r2d2"),
    Option(
        "--preset",
        "NAME",
        "auto, paper, fitted, small: settings to examine it with",
        default="auto",
    ),
    Option("--network", "MODULE:NAME", "a network of your own", default="", shown="agent's"),
    Option("--steps", "N", "environment steps to play at most", words.whole, 1000),
    Option("--seconds", "X", "to play, about", words.number, 5.0),
    Option("--json", "", "print one JSON object instead"),
    words.HELP,
]
STATUSES = {"ok": "green", "info": "cyan", "warn": "yellow", "FAIL": "bold red"}
WIDEST, MARGIN, NAMES = 100, 8, 17


def command(given: Sequence[str]) -> None:
    """Examine as the words after `doctor` say.

    Raises:
        ConfigError: something is wrong with the words.
        EnvError: something FAILs; the lines printed say what.
    """
    if words.wants_help(given):
        words.show_page(
            "doctor [--env ID] [OPTION ...]",
            "Says whether all is right for training: the machine and the installation, and with "
            "--env an environment and the network that is to act in it, how fast they are and "
            "whether they fit in memory. The exit code is 1 if something FAILs.",
            {"what": OPTIONS},
        )
        return
    found = words.parse("doctor", given, OPTIONS, positional="ENV")
    request = _request(found)
    show = None if found.get("json") else Printer()
    checks: list[Check] = []

    def tell(check: Check) -> None:
        checks.append(check)
        if show is not None:
            show(check)

    machine.examine(Sheet("machine", tell))
    if request is not None:
        supervise.examine(request, tell)
    failed = [check for check in checks if check.status == "FAIL"]
    if show is None:
        result = {"ok": not failed, "checks": [_jsonable(asdict(check)) for check in checks]}
        print(json.dumps(result, allow_nan=False))
    else:
        print()
    sys.stdout.flush()
    warnings = sum(check.status == "warn" for check in checks)
    told = f"{warnings} warning{'' if warnings == 1 else 's'}"
    if failed:
        place = f"{failed[0].group}, {failed[0].name}"
        raise EnvError(f"not ready: {len(failed)} FAIL, {told}; begin with {place}")
    if show is not None:
        print(_next(f" ({told} above)" if warnings else "", request))


def _request(found: dict[str, Any]) -> Request | None:
    """What is to be examined beside the machine.

    Raises:
        ConfigError: words that contradict each other or name nothing.
    """
    plain = found["ENV"]
    env = found.get("env", plain)
    if plain is not None and "env" in found:
        raise ConfigError(f"unexpected word {plain!r}: the environment is {found['env']!r}")
    presets.agent(found["agent"])
    known = presets.agent(found["agent"]).presets
    if found["preset"] not in (*known, "auto"):
        raise presets.nearest("preset", found["preset"], [*known, "auto"])
    if found["network"]:
        wiring.check_network(found["network"])
    for name in ("steps", "seconds"):
        if not found[name] > 0:
            raise ConfigError(f"--{name} must be above 0, got {found[name]}")
    if env is None:
        needs = [name for name in ("network", "env_kwargs") if found.get(name)]
        if needs:
            flag = "--" + needs[0].replace("_", "-")
            raise ConfigError(f"{flag} is examined on an environment: add --env ID")
        return None
    return Request(
        env,
        found.get("env_kwargs", {}),
        *(found[name] for name in ("agent", "preset", "network", "steps", "seconds")),
    )


class Printer:
    """Prints checks as they come: a heading for each group, then a line or more for each."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        width = shutil.get_terminal_size((WIDEST, 24)).columns if sys.stdout.isatty() else WIDEST
        self._width = max(60, min(width, WIDEST))
        self._group = ""

    def __call__(self, check: Check) -> None:
        """Print one."""
        from rich.text import Text

        if check.group != self._group:
            self._console.print(Text(("\n" if self._group else "") + check.group, style="bold"))
            self._group = check.group
        margin = " " * (MARGIN + NAMES)
        room: dict[str, Any] = {"width": self._width - len(margin), "break_on_hyphens": False}
        lines = textwrap.wrap(check.message, **room) or [""]
        text = Text(f"  {check.status:<{MARGIN - 2}}", style=STATUSES[check.status])
        text.append(f"{check.name:<{NAMES - 1}} {lines[0]}", style="default")
        self._console.print(text)
        for line in lines[1:]:
            self._console.print(Text(margin + line))
        if check.advice and check.status != "ok":
            for line in textwrap.wrap(f"-> {check.advice}", subsequent_indent="   ", **room):
                self._console.print(Text(margin + line, style="dim"))


def _next(told: str, request: Request | None) -> str:
    """What all of it comes to, where nothing FAILs."""
    if request is None:
        return f"all is right here{told}; now yours: {words.program()} doctor --env ID"
    return f"ready to train{told}:\n  {_train(request)}"


def _train(request: Request) -> str:
    line = [words.program(), "train", request.agent, "--env", shlex.quote(request.env)]
    if request.env_kwargs:
        line += ["--env-kwargs", shlex.quote(json.dumps(request.env_kwargs))]
    if request.preset != "auto":
        line += ["--preset", request.preset]
    if request.network:
        line += ["--network", shlex.quote(request.network)]
    return " ".join(line)


def _jsonable(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
