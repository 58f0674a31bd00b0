"""The parts of a run that is spread over processes: how each stands, and how that is shown.

Up to about `LINES` parts have a line each. Where there are more, those of the largest kinds are
shown as one line, their sum, and under it the dead, the silent and those far behind.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from recollect.program import kind_of
from recollect.run.amounts import duration, number, percent, size

LINES = 12
LEAST_TROUBLED = 3
"""Lines that the troubled of a kind get, however few there are; the last may sum up the rest."""

SILENT_SECONDS = 15.0
"""A part that was not heard of for longer is called silent: slices take a second at most."""

FAR_UPDATES, FAR_SECONDS, FAR_TIMES = 10.0, 30.0, 4.0
"""A part is far behind if its lag is above either, and above so many times its kind's median."""

TEXT_LIMIT, NAME_LIMIT, PLAIN_WIDTH = 200, 24, 200
STATE_WIDTH, NUMBER_WIDTH, GAP = 11, 7, 2
COUNT_LIMIT = 1 << 53

RATE_SECONDS, LEAST_RATE_SECONDS = 5.0, 0.5
"""Over which the speed of a part is taken; over less nothing is told: what comes, comes at once."""

Segments = list[tuple[str, str]]
"""Of one line: text and its style."""


class Rate:
    """How fast something is counted."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, total: float, now: float) -> None:
        """What it has come to `now`, in seconds."""
        self._seen.append((now, total))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_SECONDS:
            self._seen.popleft()

    @property
    def now(self) -> float | None:
        """A second; None before two totals are known that are some time apart."""
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last - first >= LEAST_RATE_SECONDS else None


@dataclass(frozen=True)
class PartNow:
    """How one part of a run stands. None: there is no such figure, or it is not known.

    Args:
        name: as in the program: `learner`, `actor/3`.
        doing: `working`, `waiting`, `evaluating`, or `dead: ` and why.
        pid: of its process. host: its node's name or address; empty: this machine.
        busy: share of its time in [0, 1] that it spent in steps since the last look.
        rate: of `unit` (`steps/s`, `updates/s`, `items/s`).
        queue: messages posted to it and not answered. queue_bytes: what they hold.
        lag_updates: how many updates old the parameters are it acts with. lag_seconds: likewise.
        seen_seconds: since it was last heard of.
    """

    name: str
    alive: bool = True
    doing: str = ""
    pid: int = 0
    host: str = ""
    busy: float | None = None
    rate: float | None = None
    unit: str = ""
    queue: int | None = None
    queue_bytes: int | None = None
    lag_updates: float | None = None
    lag_seconds: float | None = None
    seen_seconds: float = 0.0

    @property
    def kind(self) -> str:
        """`actor` of `actor/3`."""
        return kind_of(self.name)

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: object) -> PartNow | None:
        """What `as_dict` gave, or as much of it as is sound; None if it has no name."""
        if not isinstance(found, Mapping):
            return None
        name = harmless(found.get("name"), NAME_LIMIT)
        if not name:
            return None
        queue, queue_bytes = real(found.get("queue")), real(found.get("queue_bytes"))
        return cls(
            name=name,
            alive=found.get("alive") is True,
            doing=harmless(found.get("doing")),
            pid=int(real(found.get("pid")) or 0),
            host=harmless(found.get("host"), NAME_LIMIT),
            busy=real(found.get("busy")),
            rate=real(found.get("rate")),
            unit=harmless(found.get("unit"), len("updates/s")),
            queue=None if queue is None else int(queue),
            queue_bytes=None if queue_bytes is None else int(queue_bytes),
            lag_updates=real(found.get("lag_updates")),
            lag_seconds=real(found.get("lag_seconds")),
            seen_seconds=real(found.get("seen_seconds")) or 0.0,
        )


def read(found: object) -> tuple[PartNow, ...]:
    """The parts in a status file, which may be damaged, of another version, or a stranger's."""
    parts = map(PartNow.from_dict, found if isinstance(found, list) else [])
    return tuple(part for part in parts if part is not None)


def real(value: object) -> float | None:
    """A number from 0 to 2^53, None if it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= COUNT_LIMIT else None


def harmless(value: object, limit: int = TEXT_LIMIT) -> str:
    """A text on one line without what a terminal would obey; empty if it is none."""
    text = value[: 4 * limit] if isinstance(value, str) else ""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def table(parts: Sequence[PartNow], width: int, limit: int = LINES) -> Any:
    """The parts as a rich renderable, for a terminal `width` characters wide.

    Columns give way where it is narrow, and stand at the same places from one call to the next.

    Args:
        limit: how many lines it should have.
    """
    from rich.console import Group
    from rich.text import Text

    texts = [Text.assemble(*segments, no_wrap=True) for segments in _rows(parts, width, limit)]
    for text in texts:
        text.rstrip()
        text.truncate(width, overflow="ellipsis")
    return Group(*texts)


def lines(parts: Sequence[PartNow]) -> list[str]:
    """The parts as lines of plain text, with a heading; none if there are no parts."""
    rows = _rows(parts, PLAIN_WIDTH, LINES)
    return ["".join(text for text, _ in segments).rstrip()[:PLAIN_WIDTH] for segments in rows]


def line(parts: Sequence[PartNow]) -> str:
    """The parts as one line: how many live, what each kind does, and who is dead."""
    dead = [part for part in parts if not part.alive]
    alive = f"{len(parts) - len(dead):,}" + (f" of {len(parts):,}" if dead else "")
    said = [f"parts  {alive} alive"]
    for kind, own in _kinds(parts).items():
        total = summed(own)
        figures = [f"{_short(total.rate)} {total.unit}"] if total.rate is not None else []
        figures += [f"queue {total.queue:,}"] if total.queue else []
        figures += [f"lag {number(total.lag_updates)}"] if total.lag_updates is not None else []
        if figures:
            said.append(f"{kind if len(own) == 1 else total.name} {', '.join(figures)}")
    if dead:
        some = [f"{part.name} ({_why(part)})".replace(" ()", "") for part in dead[:LEAST_TROUBLED]]
        more = len(dead) - len(some)
        said.append(f"dead: {', '.join(some)}" + (f" and {more:,} more" if more else ""))
    return "   ".join(said)


def summed(parts: Sequence[PartNow]) -> PartNow:
    """Parts of one kind as one: rates and queues added up, the mean of busy, the largest lags."""
    living = [part for part in parts if part.alive]
    if len(parts) == 1:
        return parts[0]

    def known(name: str) -> list[Any]:
        return [value for part in living if (value := getattr(part, name)) is not None]

    def added(name: str) -> Any:
        return sum(known(name)) if known(name) else None

    ends = [part.name.partition("/")[2] for part in parts]
    numbers = sorted(map(int, ends)) if all(map(str.isdecimal, ends)) else []
    hosts = {part.host for part in living if part.host}
    busy = known("busy")
    return PartNow(
        name=f"{parts[0].kind}/{numbers[0]}..{numbers[-1]}"
        if numbers
        else f"{parts[0].kind} x {len(parts)}",
        alive=bool(living),
        doing=f"{len(living):,} alive",
        host=f"{len(hosts)} hosts" if len(hosts) > 1 else "".join(hosts),
        busy=sum(busy) / len(busy) if busy else None,
        rate=added("rate"),
        unit=next(filter(None, known("unit")), ""),
        queue=added("queue"),
        queue_bytes=added("queue_bytes"),
        lag_updates=max(known("lag_updates"), default=None),
        lag_seconds=max(known("lag_seconds"), default=None),
    )


def troubles(parts: Sequence[PartNow]) -> list[str]:
    """What is not as it should be with each of some parts of one kind; empty: nothing is."""
    living = [part for part in parts if part.alive]
    far = {}
    for name, least in (("lag_updates", FAR_UPDATES), ("lag_seconds", FAR_SECONDS)):
        lags = [lag for part in living if (lag := getattr(part, name)) is not None]
        far[name] = max(least, FAR_TIMES * statistics.median(lags)) if lags else 0.0

    def trouble(part: PartNow) -> str:
        if not part.alive:
            return "dead"
        if part.seen_seconds > SILENT_SECONDS:
            return "silent"
        behind = any((getattr(part, name) or 0.0) > lag for name, lag in far.items())
        return "far behind" if behind else ""

    return [trouble(part) for part in parts]


def _kinds(parts: Sequence[PartNow]) -> dict[str, list[PartNow]]:
    kinds: dict[str, list[PartNow]] = {}
    for part in parts:
        kinds.setdefault(part.kind, []).append(part)
    return kinds


class _Line(NamedTuple):
    """A part, what its state is called, its style; and what stands instead of its figures."""

    part: PartNow
    state: str
    style: str
    instead: bool = False


def _shown(parts: Sequence[PartNow], limit: int) -> list[_Line]:
    """What has a line, the largest kinds folded until there are about `limit`."""
    kinds, folded, count = _kinds(parts), set(), len(parts)
    for kind in sorted(kinds, key=lambda kind: -len(kinds[kind])):
        if count <= limit or len(kinds[kind]) == 1:
            break
        folded.add(kind)
        count -= len(kinds[kind]) - 1
    found = []
    for kind, own in kinds.items():
        each = [_line(part, what) for part, what in zip(own, troubles(own), strict=True)]
        if kind not in folded:
            found += each
            continue
        total = summed(own)
        all_alive = all(part.alive for part in own)
        style = "" if all_alive else "yellow" if total.alive else "bold red"
        found.append(_Line(total, total.doing, style))
        troubled = [one for what in _TROUBLES for one in each if one.state.startswith(what)]
        kept = max(LEAST_TROUBLED, (limit - count) // len(folded))
        rest = troubled[kept - 1 :] if len(troubled) > kept else []
        found += troubled[: len(troubled) - len(rest)]
        if rest:
            what = Counter(next(w for w in _TROUBLES if one.state.startswith(w)) for one in rest)
            more = ", ".join(f"{n:,} {w}" for w, n in what.items())
            found.append(_Line(PartNow(f"{kind}/..."), f"{more} more", rest[0].style, True))
    return found


_TROUBLES = {"dead": "bold red", "silent": "yellow", "far behind": "yellow"}


def _line(part: PartNow, trouble: str) -> _Line:
    style = _TROUBLES.get(trouble, "dim" if part.doing == "waiting" else "")
    if trouble == "dead":
        why = _why(part)
        return _Line(part, f"dead: {why}" if why else "dead", style, True)
    if trouble == "silent":
        seconds = part.seen_seconds
        minutes = f"{seconds / 60:.0f} m" if seconds < 3570 else ">1 h"
        return _Line(part, f"silent {duration(seconds) if seconds < 599 else minutes}", style)
    return _Line(part, trouble or harmless(part.doing, STATE_WIDTH), style)


def _why(part: PartNow) -> str:
    return harmless(part.doing).removeprefix("dead").lstrip(": ")


def _where(part: PartNow) -> str:
    return f"{part.host} {part.pid or ''}".strip()


def _unit(part: PartNow) -> str:
    """Of the rate, where there is one."""
    return "" if part.rate is None else part.unit


def _short(value: float | None) -> str:
    """At most seven characters."""
    if value is None:
        return ""
    if value >= 999_999.5:
        return f"{value / 1e6:,.2f}M"
    return f"{value:,}" if isinstance(value, int) else number(value)


class _Column(NamedTuple):
    """A column of figures; where it is narrow, the last in `rank` give way first."""

    head: str
    width: int
    rank: int
    cell: Callable[[PartNow], str]
    left: bool = False
    gap: int = GAP
    style: str = ""


_COLUMNS = (
    _Column("busy", 4, 4, lambda part: "" if part.busy is None else percent(part.busy)),
    _Column("rate", NUMBER_WIDTH, 0, lambda part: _short(part.rate), gap=1),
    _Column("", len("updates/s"), 3, _unit, left=True, gap=1, style="dim"),
    _Column("queue", 5, 1, lambda part: _short(part.queue)),
    _Column("bytes", 7, 6, lambda part: "" if part.queue_bytes is None else size(part.queue_bytes)),
    _Column("lag", 6, 2, lambda part: _short(part.lag_updates)),
    _Column("lag, s", 6, 5, lambda part: _short(part.lag_seconds)),
    _Column("where", NAME_LIMIT, 7, _where, left=True, style="dim"),
)


def _rows(parts: Sequence[PartNow], width: int, limit: int) -> list[Segments]:
    shown = _shown(parts, limit)
    if not shown:
        return []
    names = max(len(one.part.name) for one in shown)
    # Wide enough for whatever state comes, or all that is right of it would move.
    room = width - names - GAP - STATE_WIDTH
    kept = set()
    for column in sorted(_COLUMNS, key=lambda column: column.rank):
        if not any(map(column.cell, parts)):
            continue
        room -= column.gap + column.width
        if room < 0:
            break
        kept.add(column.rank)
    columns = [column for column in _COLUMNS if column.rank in kept]
    header = "".join(
        " " * column.gap + _padded(column.head, column.width, column.left) for column in columns
    )
    begin = " " * GAP
    rows: list[Segments] = [[(f"{'part':{names}}{begin}{'':{STATE_WIDTH}}{header}", "dim")]]
    for one in shown:
        row = [(f"{one.part.name:{names}}{begin}", "")]
        if one.instead:
            rows.append([*row, (one.state, one.style), (f"  {_where(one.part)}", "dim")])
            continue
        row.append((f"{one.state:{STATE_WIDTH}}", one.style))
        for column in columns:
            cell = _padded(column.cell(one.part), column.width, column.left)
            row.append((" " * column.gap + cell, column.style))
        rows.append(row)
    return rows


def _padded(text: str, width: int, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)
