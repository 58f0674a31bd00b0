"""`recollect status`: how a run stands, at once and from any terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recollect.cli import words
from recollect.cli.words import Option
from recollect.run import parts
from recollect.run.amounts import duration, number, percent, size
from recollect.run.figures import GONE
from recollect.run.progress import panel
from recollect.run.signals import Interrupted
from recollect.run.standing import KILLED, RUNNING, Standing, look, told_of_deaths

OPTIONS = [
    Option("--json", "", "print one JSON object, with all that is known"),
    Option("--watch", "", "show it anew every 2 seconds until the run ends, or Ctrl-C"),
    words.HELP,
]
MARGIN = 13
"""Columns of what a line is about."""

WATCH_SECONDS = 2.0
ENDED = {"failed": "failed", "not begun": "has not begun", "unknown": "is in an unknown state"}
"""What is said of a run that does not work, where it is not `was <state>`."""

Facts = list[tuple[str, str]]
"""What a line is about, and what it says."""


def command(given: Sequence[str]) -> int:
    """Show how the run stands that the words after `status` name; the exit code.

    0: it starts, runs or is finished. 1: it has stopped before its end, or has not begun.

    Raises:
        ConfigError: something is wrong with them, or there is no such run.
    """
    if words.wants_help(given):
        words.show_page(
            "status RUN [OPTION ...]",
            "Says how a run stands: steps, speeds, returns, its last checkpoint, and of a run on "
            "Ray every part. Nothing is loaded and nobody is disturbed. Exit code 0: it runs, or "
            "is finished; 1: it was stopped or killed, or failed; 2: there is no such run. " + GONE,
            {"what": [Option("RUN", "", "a run's folder"), *OPTIONS]},
        )
        return 0
    found = words.parse(
        "status",
        given,
        OPTIONS,
        positional="RUN",
        required="status needs a run: give its folder",
    )
    now = _show(found["RUN"], found.get("json", False), found.get("watch", False))
    if now.goes_well:
        return 0
    what = ENDED.get(now.state, f"was {now.state}")
    advice = words.again("resume", now.run)
    print(f"recollect: {now.run} {what}; go on with: {advice}", file=sys.stderr)
    return 1


def text(now: Standing) -> list[str]:
    """The lines a person reads, or a pipe."""
    facts = [("run", now.run), ("agent", now.title), *_state(now), *_figures(now), *_saved(now)]
    lines = [f"{name:{MARGIN}}{rest}".rstrip() for name, rest in facts]
    if now.state != RUNNING or not now.parts:  # how they stood tells nothing any more
        return lines
    return [*lines, "", *parts.lines(now.parts)]


def view(now: Standing, width: int, height: int) -> Any:
    """The same as a rich renderable: the run's own panel, and under it what that does not tell."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid()
    facts.add_column(style="dim", no_wrap=True, width=MARGIN)
    facts.add_column(overflow="fold")
    colours = {"WARNING": "yellow", "PROBLEM": "red", "state": "" if now.goes_well else "bold red"}
    updates = [] if now.updates is None else [("updates", f"{now.updates:,}")]
    for name, rest in (*_state(now), *updates, *_saved(now)):
        facts.add_row(name, Text(rest, colours.get(name, "")))
    limit = min(parts.LINES, height - 18)  # all shall be seen at once
    below = (
        [Text(), parts.table(now.parts, width, limit)] if now.parts and now.state == RUNNING else []
    )
    return Group(panel(now.title, now.figures, width), facts, *below)


def _show(run: str, as_json: bool, watch: bool) -> Standing:
    """Show it once, or again and again; how it stood last."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if as_json or not console.is_terminal or console.is_dumb_terminal:

        def say(now: Standing) -> None:
            lines = [json.dumps(now.as_dict(), allow_nan=False)] if as_json else text(now)
            print("\n".join([*lines, *([""] if watch and not as_json else [])]), flush=True)

        return _again(run, say, watch)
    if not watch:
        return _again(run, lambda now: console.print(view(now, *console.size)), watch)
    with Live(console=console, auto_refresh=False) as live:
        return _again(run, lambda now: live.update(view(now, *console.size), refresh=True), watch)


def _again(run: str, say: Callable[[Standing], object], watch: bool) -> Standing:
    now = look(run)
    say(now)
    try:
        while watch and now.works:
            time.sleep(WATCH_SECONDS)
            now = look(run)
            say(now)
    except Interrupted:  # by SIGTERM or SIGHUP
        raise
    except KeyboardInterrupt:  # seen enough
        pass
    return now


def _state(now: Standing) -> Facts:
    """What it does, or did at last, and who works on it."""
    state = now.state + (f": {now.message}" if now.message else "")
    if now.state == KILLED:
        state += ": its status says running, and nobody holds its lock"
    if now.pid is not None and now.works:
        state += f", process {now.pid}" + (f" on {now.host}" if now.host else "")
    return [("state", state)]


def _figures(now: Standing) -> Facts:
    """What the panel shows, as lines."""
    seen = now.figures
    steps = f"{seen.env_steps:,} of {seen.total_env_steps:,} ({percent(seen.done)})"
    updates = "" if now.updates is None else f", {now.updates:,} updates"
    left = "" if seen.left_seconds is None else f", {duration(seen.left_seconds)} left"
    listed = (
        ("return", "greedy {}", number(seen.greedy_return)),
        ("return", "best {}", number(seen.best_return)),
        ("return", "training {}", number(seen.training_return)),
        ("speed", "{} steps/s", number(seen.env_steps_per_second)),
        ("speed", "{} updates/s", number(seen.updates_per_second)),
        ("replay", "{} full", percent(seen.fill)),
        ("replay", "{}", size(seen.replay_bytes)),
        ("lag", "{} updates", number(seen.lag_updates)),
    )
    known: dict[str, list[str]] = {}
    for name, form, value in listed:
        if value != "-":
            known.setdefault(name, []).append(form.format(value))
    return [
        ("steps", steps + updates),
        ("time", f"{duration(seen.elapsed_seconds)} gone{left}"),
        *((name, ", ".join(said)) for name, said in known.items()),
    ]


def _saved(now: Standing) -> Facts:
    """What lies on disk and how old it is, and what is odd."""
    facts = []
    if now.final_return is not None:
        facts.append(("final return", number(now.final_return)))
    saved = "none yet: a run that is killed now begins anew" if now.works else "none"
    if now.checkpoint_env_steps is not None and now.checkpoint_seconds_ago is not None:
        saved = f"after {now.checkpoint_env_steps:,} steps, {_ago(now.checkpoint_seconds_ago)}"
    facts.append(("checkpoint", saved))
    if now.deaths:
        facts.append(("deaths", told_of_deaths(now.deaths, Path(now.run))))
    if now.written_seconds_ago is not None:
        facts.append(("written", _ago(now.written_seconds_ago)))
    if now.is_stale:
        facts.append(
            (
                "WARNING",
                "the status is old: a long evaluation goes on, the run hangs, or the disk is full",
            )
        )
    return [*facts, *(("PROBLEM", problem) for problem in now.problems)]


def _ago(seconds: float) -> str:
    return f"{duration(seconds)} ago"
