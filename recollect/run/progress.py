"""What a person sees while a run goes on: a quiet panel on a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from recollect.run.amounts import duration as duration
from recollect.run.amounts import number as number
from recollect.run.amounts import percent as percent
from recollect.run.amounts import size as size
from recollect.run.figures import Figures, Tracker
from recollect.run.parts import LINES, PartNow, table
from recollect.run.parts import line as parts_line

PARTS_SECONDS = 60.0
"""Among plain lines one on the parts comes no more often, if none of them dies."""

WIDEST = 100
THREE_COLUMNS, TWO_COLUMNS = 79, 54
"""A terminal of so many characters has room for three, or two, columns of figures."""


class Progress:
    """Shows how far a run is. Rows are those of metrics.jsonl; what one lacks stays as it was.

    Nothing that goes wrong with the stream ends the run: a stream that breaks is left alone.

    Args:
        total_env_steps: where the run ends.
        title: what is running.
        stream: where to show it; stdout if None. A terminal gets a panel redrawn in place, all
            else gets lines.
        quiet: show nothing at all.
        every_seconds: plain lines come no more often; the first and the last always come.
        stands: where the run stands before its first row, as a row has it: of a resumed one
            `env_steps`, `updates`, `seconds`.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        total_env_steps: int,
        title: str,
        stream: TextIO | None = None,
        *,
        stands: Mapping[str, Any] | None = None,
        quiet: bool = False,
        every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream: Any = _Steady(sys.stdout if stream is None else stream)
        self._title, self._quiet, self._every, self._clock = title, quiet, every_seconds, clock
        self._tracker = Tracker(total_env_steps, clock, stands)
        self._starting = ""
        self._parts: Sequence[PartNow] = ()
        self._live: Any = None
        self._written_at: float | None = None
        self._unwritten = False
        self._parts_at: float | None = None
        self._alive: dict[str, bool] = {}

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        from rich.console import Console

        console = Console(file=self._stream)
        if console.is_terminal and not console.is_dumb_terminal:
            from rich.live import Live

            self._live = Live(
                get_renderable=lambda: panel(
                    self._title,
                    self._tracker.figures(),
                    *console.size,
                    self._parts,
                    self._starting,
                ),
                console=console,
                refresh_per_second=2,  # more often is only unrest
            )
            self._live.start(refresh=True)  # how it stands, from the first frame
        else:
            self.line(self._title)
        return self

    def __exit__(self, *_: object) -> None:
        self._starting = ""
        if self._live is not None:
            self._live.stop()  # draws once more, and leaves the panel standing
            self._live = None
        elif self._unwritten:
            self._write_figures()

    def starting(self, what: str) -> None:
        """Say what is being started, and in a pipe where a resumed run stands.

        In the panel, which shows that anyway, it stands until `started`.
        """
        self._starting = what
        if self._live is not None:
            self._live.refresh()
            return
        now = self._tracker.figures()
        stands = f"going on after {now.env_steps:,} of {now.total_env_steps:,} steps"
        said = ", ".join(filter(None, (what, stands if now.env_steps else "")))
        if said:
            self.line(said)

    def started(self) -> None:
        """All is there: the run goes on, and its clock."""
        self._starting = ""
        self._tracker.start()

    def stopped_at(self, row: Mapping[str, Any]) -> None:
        """Show where the run stands at last, and let its clock stand."""
        if self._tracker.changes(row):
            self.update(row)
        self._tracker.stop(row["seconds"])

    def update(self, row: Mapping[str, Any], parts: Sequence[PartNow] | None = None) -> None:
        """Show the figures of a row; `env_steps` must be among them.

        Args:
            row: of metrics.
            parts: how the run's parts stand, where it is spread over processes; None: as before.
        Raises:
            ValueError: if it is not.
        """
        if "env_steps" not in row:
            raise ValueError(f"a row of metrics needs 'env_steps', this one has {sorted(row)}")
        self._tracker.add(row)
        if parts is not None:
            self._parts = tuple(parts)  # in one go: the panel is drawn from another thread
        if self._quiet or self._live is not None:
            return
        now = self._clock()
        if self._written_at is None or now - self._written_at >= self._every:
            self._written_at = now
            self._write_figures()
        else:
            self._unwritten = True
        if parts:
            self._write_parts(now)

    def line(self, text: str) -> None:
        """Say something once, above the panel or among the lines."""
        self._say(text, None)

    def counting(self, what: str) -> Callable[[int, int, int], None]:
        """What says how many of some episodes are played, the more seldom the longer it takes.

        Returns:
            A function of how many are done, how many there are, and the steps so far.
        """
        said_at, pause = self._clock(), self._every

        def tell(done: int, total: int, steps: int) -> None:
            nonlocal said_at, pause
            if self._clock() - said_at >= pause:
                said_at, pause = self._clock(), 2 * pause
                self.note(f"{what}: {done:,} of {total:,} episodes, {steps:,} steps")

        return tell

    def note(self, text: str) -> None:
        """Say something that is good to know and need not be read; dimmed on a terminal."""
        self._say(text, "dim")

    @contextlib.contextmanager
    def warnings(self) -> Iterator[None]:
        """Warnings given inside are lines of the display; where that is quiet, all is as ever."""
        with warnings.catch_warnings():
            if not self._quiet:
                warnings.showwarning = lambda message, *_, **__: self.line(f"warning: {message}")
            yield

    def _say(self, text: str, style: str | None) -> None:
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(text, style=style, markup=False, highlight=False)
            return
        self._stream.write(text + "\n")
        self._stream.flush()

    def _write_figures(self) -> None:
        self._unwritten = False
        self.line(plain_line(self._tracker.figures()))

    def _write_parts(self, now: float) -> None:
        """A line on the parts once a minute, and at once when one dies or is there again."""
        alive = {part.name: part.alive for part in self._parts}
        changed = any(self._alive.get(name, lives) != lives for name, lives in alive.items())
        if changed or self._parts_at is None or now - self._parts_at >= PARTS_SECONDS:
            self._parts_at = now
            self.line(parts_line(self._parts))
        self._alive = alive


class _Steady:
    """A stream that takes everything: what it cannot write, as its reader has left, is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._broken = False

    def write(self, text: str) -> int:
        if not self._broken:
            try:
                self._stream.write(text)
            except (OSError, ValueError):  # a terminal that is gone, a closed pipe, a full disk
                self._broken = True
        return len(text)

    def flush(self) -> None:
        if not self._broken:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._broken = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def panel(
    title: str,
    now: Figures,
    width: int,
    height: int = 24,
    parts: Sequence[PartNow] = (),
    starting: str = "",
) -> Any:
    """Figures, and parts if there are any, as a rich renderable for a terminal of that size.

    Args:
        starting: what is being started; it is said in place of the times.
    """
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    full_width, width = width, min(width, WIDEST)
    steps = f"{now.env_steps:,} of {now.total_env_steps:,} steps"
    left = _left(now)
    gone = f"{duration(now.elapsed_seconds)} gone" + (f", {left}" if left else "")
    times = starting or gone

    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(justify="right", width=4)
    bar.add_row(
        ProgressBar(total=1.0, completed=now.done, complete_style="cyan", finished_style="green"),
        Text(percent(now.done), "bold"),
    )

    under = Table.grid(expand=True)
    under.add_column(no_wrap=True)
    under.add_column(justify="right", no_wrap=True)
    if len(steps) + len(times) < width:
        under.add_row(Text(steps), Text(times, "dim"))
    elif len(steps) + len(left) < width:
        under.add_row(Text(steps), Text(left, "dim"))
    else:
        under.add_row(Text(left or steps, "dim"))

    cells = [
        ("greedy return", number(now.greedy_return), "bold green"),
        ("best so far", number(now.best_return), ""),
        ("training return", number(now.training_return), ""),
        ("env steps/s", number(now.env_steps_per_second), ""),
        ("updates/s", number(now.updates_per_second), ""),
        ("lag, updates", number(now.lag_updates), ""),
        ("replay full", percent(now.fill), ""),
        ("replay size", size(now.replay_bytes), ""),
    ]
    columns = 3 if width >= THREE_COLUMNS else 2 if width >= TWO_COLUMNS else 1
    rows = -(-len(cells) // columns)
    figures = Table.grid()
    # On the narrowest the labels give way, never the digits.
    widest_label = 18 if columns > 1 else max(3, width - 9)
    for column in range(columns):
        figures.add_column(style="dim", no_wrap=True, max_width=widest_label, overflow="ellipsis")
        figures.add_column(justify="right", no_wrap=True, min_width=9)
        if column < columns - 1:
            figures.add_column(width=4)
    for row in range(rows):
        line: list[Text] = []
        for label, value, style in cells[row::rows]:
            line += [Text(label + "  "), Text(value, style), Text()]
        figures.add_row(*line[: 3 * columns - 1])

    whole = Table.grid(expand=True)
    whole.width = width
    whole.add_row(Group(Text(title, "bold", no_wrap=True, overflow="ellipsis"), bar, under))
    whole.add_row(Text())
    whole.add_row(figures)
    below = [Text(), table(parts, full_width, min(LINES, height - rows - 7))] if parts else []
    # The cursor waits in a line of its own, where the ^C that a terminal shows moves nothing.
    return Group(whole, *below, Text())


def plain_line(now: Figures) -> str:
    """The figures as one line; the columns of successive lines stand under each other."""
    steps = f"{now.env_steps:,}".rjust(len(f"{now.total_env_steps:,}"))
    return "   ".join(
        (
            f"{percent(now.done):>4}  {steps} steps",
            f"greedy {number(now.greedy_return):>8}",
            f"training {number(now.training_return):>8}",
            _speed(now.env_steps_per_second, 7, "steps/s"),
            _speed(now.updates_per_second, 6, "updates/s"),
            f"replay {percent(now.fill):>4} {size(now.replay_bytes):>8}",
            f"lag {number(now.lag_updates):>6}",
            _left(now),
        )
    ).rstrip()


def _speed(value: float | None, width: int, unit: str) -> str:
    """As wide where it is not known, and empty."""
    return " " * (width + 1 + len(unit)) if value is None else f"{number(value):>{width}} {unit}"


def _left(now: Figures) -> str:
    """How long it will take, once that can be told."""
    if not now.learning:
        return "filling replay"
    return "" if now.left_seconds is None else f"{duration(now.left_seconds)} left"
