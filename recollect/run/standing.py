"""How a run stands, told by its folder alone: at once, from any terminal, whoever works on it.

Nothing that is read is trusted, and whatever is missing or damaged leaves a gap, not an error.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from recollect.run import manifest
from recollect.run.figures import Figures, Tracker
from recollect.run.folder import FAULTS, RunFolder, open_regular, reason
from recollect.run.lock import owner
from recollect.run.parts import PartNow, harmless, read, real
from recollect.types import ConfigError

STARTING, RUNNING, FINISHED, KILLED = "starting", "running", "finished", "killed"
GOING_WELL = (STARTING, RUNNING, FINISHED)

STALE_SECONDS = 60.0
"""The status file is written every 5 seconds or so, less often while an evaluation is played."""

TAIL_BYTES = 1 << 20
"""So much of metrics.jsonl is read, at its end: the newest rows."""

NUMBER_LIMIT = 1e15
FINAL = "final/return_mean"


@dataclass(frozen=True)
class Standing:
    """How a run stands. None, or empty: it is not known.

    `state` is `not begun`, `starting`, `running`, `finished`, `preempted`, `interrupted`, `failed`,
    `unknown`, or `killed`: status.json says running, and nobody holds the lock. `message` says why
    it failed; `final_return` is that of the evaluation after the end.
    `pid`, `host` and `since` are of who works on it, `parts` as of the last status file; so many
    `deaths` of parts there were.
    """

    run: str
    title: str
    state: str
    message: str
    pid: int | None
    host: str
    since: str
    figures: Figures
    final_return: float | None
    updates: int | None
    checkpoint: str
    checkpoint_env_steps: int | None
    checkpoint_seconds_ago: float | None
    written_seconds_ago: float | None
    deaths: int | None
    parts: tuple[PartNow, ...]
    problems: tuple[str, ...]

    @property
    def goes_well(self) -> bool:
        """Whether nothing need be done: it is at work, or has come to its end."""
        return self.state in GOING_WELL

    @property
    def works(self) -> bool:
        """Whether a process is at work on it."""
        return self.state in (STARTING, RUNNING)

    @property
    def is_stale(self) -> bool:
        """Whether it runs and says nothing."""
        ago = self.written_seconds_ago
        return self.state == RUNNING and ago is not None and ago > STALE_SECONDS

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it, the figures beside the rest."""
        found = {name: value for name, value in vars(self).items() if name != "figures"}
        found |= asdict(self.figures)
        return found | {
            "goes_well": self.goes_well,
            "is_stale": self.is_stale,
            "parts": [part.as_dict() for part in self.parts],
            "problems": list(self.problems),
        }


def status_and_owner(folder: RunFolder) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What status.json says and who works on the run, of one moment.

    Raises:
        OSError, ValueError: status.json cannot be read, or is damaged.
    """
    for _ in range(3):  # it may begin or end in between
        before, status, after = owner(folder), folder.status(), owner(folder)
        if (before is None) == (after is None):
            break
    return status, after


def look(run: str | os.PathLike[str], clock: Callable[[], float] = time.time) -> Standing:
    """How a run stands now.

    Args:
        run: its folder.
        clock: seconds since 1970, for tests.
    Raises:
        ConfigError: no such run.
    """
    folder, now = RunFolder.open(run), clock()
    problems: list[str] = []
    status: dict[str, Any] | None = None
    try:
        status, working = status_and_owner(folder)
    except (OSError, ValueError) as error:
        problems.append(harmless(reason(error)))
        working = owner(folder)
    told = status or {}
    written = _seconds(told.get("written"))
    ago = None if written is None else max(0.0, now - written)
    state = _state(status, working, ago)
    who = working or (told if state == RUNNING else {})
    saved, saved_at = _checkpoint(folder, problems)
    figures, last = _figures(folder, told, (ago or 0.0) if state == RUNNING else None, problems)
    return Standing(
        run=str(folder.path),
        title=_title(folder, problems),
        state=state,
        message=harmless(told.get("state"), 1000).partition(": ")[2],
        pid=_count(who.get("pid")),
        host=harmless(who.get("host")),
        since=harmless(who.get("started")),
        figures=figures,
        final_return=last.get(FINAL),
        updates=_count(last.get("updates")),
        checkpoint="" if saved is None else saved.path.name,
        checkpoint_env_steps=None if saved is None else saved.env_steps,
        checkpoint_seconds_ago=None if saved_at is None else max(0.0, now - saved_at),
        written_seconds_ago=ago,
        deaths=_count(told.get("deaths")),
        parts=read(told.get("parts")),
        problems=tuple(problems),
    )


def told_of_deaths(number: int, run: Path) -> str:
    """How often parts of a run died, and what tells of it."""
    return f"{number:,} of parts; {run / FAULTS} tells of those replaced"


def _state(status: dict[str, Any] | None, working: dict[str, Any] | None, ago: float | None) -> str:
    """One word, or two.

    Args:
        status: None if it cannot be read. working: who holds the lock.
        ago: seconds since the status was written.
    """
    if status is None:
        return "unknown" if working is None else RUNNING
    word = harmless(status.get("state"), 1000).partition(": ")[0]
    if working is not None:
        began, written = _seconds(working.get("started")), _seconds(status.get("written"))
        earlier = began is not None and written is not None and written < began
        return STARTING if earlier or not word else word
    if word != RUNNING:
        return word or "not begun"
    # Where a folder is shared, the lock of a process on another machine may not be seen here.
    elsewhere = status.get("host") != platform.node() and ago is not None and ago < STALE_SECONDS
    return RUNNING if elsewhere else KILLED


def newest_rows(path: Path, bytes_limit: int = TAIL_BYTES) -> list[dict[str, float]]:
    """The numbers of the newest rows of a metrics.jsonl, as many as lie in its last bytes.

    Lines that are no rows, or not whole, are left out.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file.
    """
    with open(path, "rb", opener=open_regular) as file:
        begin = max(0, os.fstat(file.fileno()).st_size - bytes_limit)
        file.seek(begin)
        lines = file.read(bytes_limit).split(b"\n")
    rows = []
    for line in lines[:-1]:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            numbers = {key: row[key] for key in row if _fits(row[key])} if _is_row(row) else {}
            if "env_steps" in numbers:
                rows.append(numbers)
    return rows


def _is_row(row: object) -> bool:
    return isinstance(row, Mapping) and type(row.get("env_steps")) is int


def _fits(value: object) -> bool:
    """Whether it is a number that can be reckoned with: no NaN, nothing that overflows."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -NUMBER_LIMIT < value < NUMBER_LIMIT


def _figures(
    folder: RunFolder, status: Mapping[str, Any], ago: float | None, problems: list[str]
) -> tuple[Figures, dict[str, float]]:
    """What the panel of the run shows, from its newest rows and its status; and the newest figures.

    Args:
        ago: seconds since the status was written; None where nobody works on it.
    """
    rows: list[dict[str, float]] = []
    try:
        rows = newest_rows(folder.metrics) if folder.metrics.exists() else []
    except (OSError, ValueError) as error:
        problems.append(harmless(reason(error)))
    last = rows[-1] if rows else {}
    known = {name: real(status.get(name)) for name in ("env_steps", "updates", "seconds")}
    told = {name: value for name, value in known.items() if value is not None}
    # Until a run that is resumed writes its first status, its rows may be the newer ones.
    if "env_steps" in told and told.get("seconds", 0.0) >= last.get("seconds", 0.0):
        rows.append(told)
        last = last | told
    seconds = 0.0
    total = _count(status.get("total_env_steps"))
    if total is None:  # before its first status
        with contextlib.suppress(ConfigError):
            total = _count(folder.config().get("env_steps"))
    tracker = Tracker(total or 0, lambda: seconds)
    for row in rows:
        seconds = row.get("seconds", seconds)
        tracker.add(row)
    # Rows may be newer than the status whose age is known.
    seconds = max(seconds, told.get("seconds", 0.0) + (ago or 0.0))
    figures = tracker.figures()
    return (figures if ago is not None else replace(figures, left_seconds=None)), last


def _checkpoint(
    folder: RunFolder, problems: list[str]
) -> tuple[manifest.Found | None, float | None]:
    """The newest checkpoint whose manifest is sound, and when it was written; no more is read."""
    try:
        for found in manifest.scan(folder.checkpoints, ("last",)):
            if found.manifest is not None:
                return found, found.path.lstat().st_mtime
            problems.append(harmless(found.damage))
    except OSError as error:
        problems.append(harmless(reason(error)))
    return None, None


def _title(folder: RunFolder, problems: list[str]) -> str:
    """As the run shows itself: agent, environment, seed."""
    try:
        config = folder.config()
    except ConfigError as error:
        problems.append(harmless(str(error)))
        return str(folder.path)
    env = config.get("env")
    name = harmless(env.get("id"), 80) if isinstance(env, Mapping) else ""
    seed = real(config.get("seed"))
    agent = harmless(config.get("agent"), 40)
    return f"{agent or '?'} on {name or '?'}, seed {'?' if seed is None else int(seed)}"


def _seconds(written: object) -> float | None:
    """Seconds since 1970 of a time in ISO 8601."""
    with contextlib.suppress(ValueError, TypeError, OverflowError, OSError):
        return datetime.datetime.fromisoformat(harmless(written, 40)).timestamp()
    return None


def _count(value: object) -> int | None:
    number = real(value)
    return None if number is None else int(number)
