from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from recollect.run.figures import Tracker
from recollect.run.parts import PartNow
from recollect.run.progress import Progress, panel, plain_line


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def row(step: int, **more: Any) -> dict[str, Any]:
    """A run of 200,000 steps: 500 steps and 2 updates a second."""
    return {
        "env_steps": step,
        "updates": step // 250,
        "seconds": step / 500,
        "actor/return_mean": 20.5,
        "actor/lag_updates": 3.25,
        "replay/fill": step / 200_000,
        "replay/bytes": 1000.0 * step,
        **more,
    }


def run_plain(every: float, *rows: dict[str, Any]) -> list[str]:
    stream, clock = io.StringIO(), Clock()
    with Progress(200_000, "a title", stream, every_seconds=every, clock=clock) as progress:
        for one in rows:
            clock.now = one["seconds"]
            progress.update(one)
    return stream.getvalue().splitlines()


def rendered(width: int, *rows: dict[str, Any], parts: Sequence[PartNow] = ()) -> list[str]:
    clock = Clock()
    tracker = Tracker(200_000, clock)
    for one in rows:
        clock.now = one["seconds"]
        tracker.add(one)
    stream = io.StringIO()
    console = Console(width=width, file=stream, color_system=None, force_terminal=True)
    title = "r2d2 on recollect/PositionCartPole-v0, seed 1"
    console.print(panel(title, tracker.figures(), width, 24, parts))
    return stream.getvalue().splitlines()


ROWS = [row(20_000), row(40_000, **{"evaluator/return_mean": 180.0}), row(82_000)]


def test_plain_lines_are_these() -> None:
    assert run_plain(0.0, *ROWS, row(200_000, **{"evaluator/return_mean": 1234.5})) == [
        "a title",
        " 10%   20,000 steps   greedy        -   training     20.5"
        + " " * 40
        + "replay  10%  20.0 MB   lag   3.25",
        " 20%   40,000 steps   greedy    180.0   training     20.5     500.0 steps/s"
        "     2.00 updates/s   replay  20%  40.0 MB   lag   3.25   5:20 left",
        " 41%   82,000 steps   greedy    180.0   training     20.5     500.0 steps/s"
        "     2.00 updates/s   replay  41%  82.0 MB   lag   3.25   3:56 left",
        "100%  200,000 steps   greedy    1,234   training     20.5     500.0 steps/s"
        "     2.00 updates/s   replay 100%   200 MB   lag   3.25",
    ]


def test_plain_lines_come_no_more_often_than_asked_but_first_and_last_always() -> None:
    rows = [row(step) for step in range(500, 20_500, 500)]  # one a second, for 40 seconds
    steps = [line.split()[1] for line in run_plain(10.0, *rows)[1:]]
    assert steps == ["500", "5,500", "10,500", "15,500", "20,000"]


def test_the_last_line_is_not_said_twice() -> None:
    assert len(run_plain(10.0, row(500))) == 2


def test_the_last_line_is_said_also_when_the_run_fails() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(200_000, "a title", stream, clock=clock)

    def fail() -> None:
        with progress:
            progress.update(row(500))
            progress.update(row(1000))
            raise RuntimeError("the run cannot move")

    with pytest.raises(RuntimeError, match="cannot move"):
        fail()
    assert [line.split()[1] for line in stream.getvalue().splitlines()[1:]] == ["500", "1,000"]


def test_every_line_is_flushed() -> None:
    class Counting(io.StringIO):
        unflushed = 0

        def write(self, text: str) -> int:
            self.unflushed += 1
            return super().write(text)

        def flush(self) -> None:
            self.unflushed = 0

    stream = Counting()
    with Progress(200_000, "a title", stream) as progress:
        progress.line("a line")
        assert stream.unflushed == 0
        progress.update(row(500))
        assert stream.unflushed == 0
    assert stream.getvalue().splitlines()[1] == "a line"


def test_a_stream_that_breaks_does_not_end_the_run() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with Progress(200_000, "a title", Broken()) as progress:
        progress.update(row(500))
        progress.line("a line")
    closed = io.StringIO()
    with Progress(200_000, "a title", closed) as progress:
        closed.close()
        progress.update(row(500))


def test_quiet_says_nothing() -> None:
    for stream in (io.StringIO(), Terminal()):
        with Progress(200_000, "a title", stream, quiet=True) as progress:
            progress.note("a note")
            progress.line("a line")
            progress.update(row(500))
        assert stream.getvalue() == ""


def test_a_row_without_env_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 'env_steps'"):
        Progress(10, "a title", io.StringIO()).update({"updates": 1})


def test_the_panel_at_80_columns_is_this() -> None:
    lines = [line.rstrip() for line in rendered(80, *ROWS)]
    assert lines == [
        "r2d2 on recollect/PositionCartPole-v0, seed 1",
        "━" * 30 + "╸" + " " * 46 + "41%",
        "82,000 of 200,000 steps                                     2:44 gone, 3:56 left",
        "",
        "greedy return        180.0    env steps/s       500.0    replay full        41%",
        "best so far          180.0    updates/s          2.00    replay size    82.0 MB",
        "training return       20.5    lag, updates       3.25",
        "",  # the cursor waits here
    ]


@pytest.mark.parametrize("width", [20, 24, 30, 40, 53, 54, 60, 78, 79, 80, 100, 120, 200])
def test_the_panel_fits_any_terminal_and_cuts_no_figure(width: int) -> None:
    lines = rendered(width, *ROWS)
    assert all(len(line.rstrip()) <= min(width, 100) for line in lines)
    assert len(lines) <= 13
    words = " ".join(lines).split()
    for figure in ("180.0", "20.5", "500.0", "2.00", "3.25", "41%", "82.0", "MB"):
        assert figure in words


def test_the_panel_before_the_first_row_shows_what_is_not_known() -> None:
    lines = rendered(80)
    assert "0 of 200,000 steps" in lines[2]
    assert " ".join(lines[4].split()) == "greedy return - env steps/s - replay full -"


def test_a_terminal_gets_a_panel_and_lines_above_it() -> None:
    stream, clock = Terminal(), Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "80")
        with Progress(200_000, "a title", stream, clock=clock) as progress:
            progress.note("a [bold]note[/bold]")
            progress.update(row(20_000))
    shown = stream.getvalue()
    assert "a [bold]note[/bold]" in shown
    assert "\x1b[?25l" in shown  # the cursor is hidden,
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # and comes back
    assert "20,000 of 200,000 steps" in shown[shown.rindex("a title") :]


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(200_000, "a title", stream) as progress:
        progress.update(row(20_000))
    assert "\x1b" not in stream.getvalue()
    assert "20,000 steps" in stream.getvalue()


def test_speeds_are_those_of_the_last_half_minute() -> None:
    tracker = Tracker(1000, Clock())
    for second in range(60):  # 1 step a second, then 3
        steps = second if second <= 20 else 20 + 3 * (second - 20)
        tracker.add({"env_steps": steps, "updates": 1, "seconds": second})
    figures = tracker.figures()
    assert figures.env_steps_per_second == 3.0
    assert figures.left_seconds == pytest.approx((1000 - (20 + 3 * 39)) / ((20 + 3 * 39) / 59))


def test_what_went_with_a_part_that_died_is_done_again_at_a_speed() -> None:
    """No speed is below 0: 2 updates a second, of which 15 are undone, and 10 steps of 100."""
    tracker = Tracker(1000, Clock())
    for second in range(1, 20):
        undone = second > 10
        steps, updates = 10 * second - 10 * undone, 2 * second - 15 * undone
        tracker.add({"env_steps": steps, "updates": updates, "seconds": second})
        figures = tracker.figures()
        if second not in (1, 11):
            assert figures.env_steps_per_second == pytest.approx(10, rel=0.1)
            assert figures.updates_per_second == pytest.approx(2, rel=0.1)
            assert figures.left_seconds == pytest.approx((1000 - steps) / 10, rel=0.1)


def test_what_is_left_is_told_once_learning_has_begun() -> None:
    """Actors alone are many times as fast, and say nothing of the rest."""
    tracker = Tracker(100_000, Clock())
    assert tracker.figures().learning  # before a row nobody knows, as after a restart
    for second in range(10):
        tracker.add({"env_steps": 1000 * second, "updates": 0, "seconds": second})
        assert plain_line(tracker.figures()).endswith("filling replay")
        assert tracker.figures().left_seconds is None
    assert tracker.figures().env_steps_per_second == 1000
    for second in range(3):
        tracker.add(
            {"env_steps": 9000 + 100 * second, "updates": second + 1, "seconds": 9 + second}
        )
    assert tracker.figures().env_steps_per_second == 100
    assert tracker.figures().left_seconds == (100_000 - 9200) / 100


def test_episodes_played_are_counted_ever_more_seldom() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(1, "a title", stream, every_seconds=10, clock=clock) as progress:
        told = progress.counting("final evaluation")
        for second in range(69):
            clock.now = second
            told(second // 4, 20, 1000 * second)
    assert stream.getvalue().splitlines()[1:] == [
        "final evaluation: 2 of 20 episodes, 10,000 steps",
        "final evaluation: 7 of 20 episodes, 30,000 steps",
    ]


def test_figures_that_a_row_lacks_or_has_as_null_stay_as_they_were() -> None:
    tracker = Tracker(1000, Clock())
    tracker.add({"env_steps": 1, "evaluator/return_mean": 5.0, "actor/return_mean": 2.0})
    tracker.add({"env_steps": 2, "actor/return_mean": None})
    tracker.add({"env_steps": 3, "evaluator/return_mean": 4.0})
    figures = tracker.figures()
    assert (figures.greedy_return, figures.best_return, figures.training_return) == (4.0, 5.0, 2.0)


def test_a_run_that_overshoots_or_has_no_steps_is_done() -> None:
    tracker = Tracker(100, Clock())
    tracker.add(row(105))
    assert tracker.figures().done == 1.0
    assert tracker.figures().left_seconds is None
    assert "100%" in plain_line(Tracker(0, Clock()).figures())


PARTS = (
    PartNow("replay", doing="waiting", rate=812.0, unit="items/s", queue=3, seen_seconds=0.1),
    PartNow("learner", doing="working", busy=0.98, rate=5.12, unit="updates/s"),
    PartNow("actor/0", doing="working", busy=0.75, rate=98.4, unit="steps/s", lag_updates=2.94),
    PartNow("actor/1", doing="working", busy=0.5, rate=97.6, unit="steps/s", lag_updates=4.0),
)


def test_the_panel_shows_the_parts_below_the_figures() -> None:
    lines = [line.rstrip() for line in rendered(80, *ROWS, parts=PARTS)]
    assert lines[:7] == [line.rstrip() for line in rendered(80, *ROWS)][:7]
    assert lines[7:] == [
        "",
        "part                  busy    rate            queue     lag",
        "replay   waiting             812.0 items/s        3",
        "learner  working       98%    5.12 updates/s",
        "actor/0  working       75%    98.4 steps/s             2.94",
        "actor/1  working       50%    97.6 steps/s             4.00",
        "",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_panel_with_hundreds_of_parts_fits_a_terminal_of_24_lines(width: int) -> None:
    many = [PartNow(f"actor/{n}", n % 2 == 0, "working", rate=1.0) for n in range(300)]
    lines = rendered(width, *ROWS, parts=[*PARTS[:2], *many])
    assert len(lines) <= 24
    assert all(len(line.rstrip()) <= width for line in lines)


def lines_on_parts(*looks: tuple[float, Sequence[PartNow] | None]) -> list[str]:
    """What is written on parts into a pipe; of each look its second and what it is given."""
    stream, clock = io.StringIO(), Clock()
    with Progress(200_000, "a title", stream, every_seconds=10, clock=clock) as progress:
        for second, parts in looks:
            clock.now = second
            progress.update(row(int(500 * second)), parts)
            clock.now += 0.5
            progress.update(row(int(500 * second) + 250))  # as rows of metrics come: without parts
    return [line for line in stream.getvalue().splitlines() if line.startswith("parts")]


def test_a_pipe_gets_a_line_on_the_parts_once_a_minute() -> None:
    told = lines_on_parts(*((5.0 * look, PARTS) for look in range(25)))
    assert told == [
        "parts  4 alive   replay 812.0 items/s, queue 3   learner 5.12 updates/s"
        "   actor/0..1 196.0 steps/s, lag 4.00"
    ] * len(told)
    assert len(told) == 3  # after 0, 60 and 120 seconds
    assert lines_on_parts((0.0, None), (70.0, None), (140.0, ())) == []


def test_a_pipe_hears_at_once_of_a_death_and_of_a_part_that_is_back() -> None:
    dead = (*PARTS[:3], PartNow("actor/1", False, "dead: killed by signal 9"))
    told = lines_on_parts((0, PARTS), (5, dead), (10, dead), (15, PARTS), (20, PARTS[:3]))
    assert [" ".join(line.split()[1:4]) for line in told] == [
        "4 alive replay",
        "3 of 4",
        "4 alive replay",
    ]
    assert told[1].endswith("   dead: actor/1 (killed by signal 9)")


def test_a_terminal_gets_the_parts_in_its_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with Progress(200_000, "a title", stream, clock=Clock()) as progress:
        progress.update(row(20_000), PARTS)
        progress.update(row(20_500))
    last = stream.getvalue().rpartition("a title")[2]
    assert "20,500 of 200,000 steps" in last
    assert "actor/1" in last
    assert "parts  " not in last


STANDS = {"env_steps": 46_704, "updates": 180, "seconds": 93.0}


def test_a_resumed_run_shows_where_it_stands_from_the_first_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be stopped while it starts, and that frame stays on the terminal."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with Progress(200_000, "a title", stream, stands=STANDS, clock=Clock()) as progress:
        first = stream.getvalue()
        progress.starting("starting Ray and 6 parts")
        starting = stream.getvalue()[len(first) :]
        progress.started()
        begin = len(stream.getvalue())
        progress._live.refresh()
        assert "starting Ray" not in stream.getvalue()[begin:]
    for frame in (first, starting, stream.getvalue()[begin:]):
        assert "46,704 of 200,000 steps" in frame
        assert "23%" in frame
    assert ["starting Ray" in frame for frame in (first, starting)] == [False, True]
    assert ["gone" in frame for frame in (first, starting)] == [True, False]
    assert "1:33 gone" in stream.getvalue()[begin:]


def test_a_pipe_is_told_in_one_line_what_starts_and_where_it_goes_on() -> None:
    def said(what: str, **more: Any) -> list[str]:
        stream = io.StringIO()
        with Progress(200_000, "a title", stream, **more) as progress:
            progress.starting(what)
            progress.started()
        return stream.getvalue().splitlines()[1:]

    assert said("starting Ray and 6 parts") == ["starting Ray and 6 parts"]
    assert said("", stands=STANDS) == ["going on after 46,704 of 200,000 steps"]
    assert said("starting Ray and 6 parts", stands=STANDS) == [
        "starting Ray and 6 parts, going on after 46,704 of 200,000 steps"
    ]
    assert said("") == said("starting", quiet=True, stands=STANDS) == []


def test_the_time_gone_is_the_runs_own_and_stands_while_it_starts() -> None:
    clock = Clock()
    tracker = Tracker(200_000, clock, STANDS)
    seen = []
    for now, act in (
        (20.0, tracker.start),
        (22.0, lambda: tracker.add({"env_steps": 47_000, "seconds": 95.0})),
        (25.0, lambda: None),
    ):
        clock.now = now
        seen.append(tracker.figures().elapsed_seconds)
        act()
        seen.append(tracker.figures().elapsed_seconds)
    assert seen == [93, 93, 95, 95, 98, 98]


def test_where_it_stopped_is_shown_once_if_it_was_not() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(200_000, "a title", stream, clock=clock) as progress:
        progress.update(row(28_128))
        progress.stopped_at({"env_steps": 30_128, "updates": 120, "seconds": 60.3})
        assert progress._tracker.figures().elapsed_seconds == 60.3
        clock.now = 9.0
        progress.stopped_at({"env_steps": 30_128, "updates": 120, "seconds": 61.0})
        assert not progress._tracker.changes({"env_steps": 30_128, "updates": 120})
        assert progress._tracker.changes({"env_steps": 30_128, "updates": 121})
        clock.now = 99.0  # parts are ended, and it has not worked since
        assert progress._tracker.figures().elapsed_seconds == 61.0
    assert [line.split()[1] for line in stream.getvalue().splitlines()[1:]] == ["28,128", "30,128"]


def test_a_long_text_is_wrapped_once_to_the_terminals_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with Progress(200_000, "a title", stream, clock=Clock()) as progress:
        begin = len(stream.getvalue())
        progress.note("28 settings " + ", ".join(f"name_{n} 1 (0.9)" for n in range(28)))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()[begin:])
    lines = [line.rstrip() for line in plain.splitlines() if "name_" in line]
    assert all(60 < len(line) <= 80 for line in lines[:-1])


def test_speeds_of_a_resumed_run_are_taken_from_where_it_stood() -> None:
    """Its first rows may come one upon the other, as what actors did in their first second."""
    tracker = Tracker(200_000, Clock(), STANDS)
    tracker.start()
    for seconds, steps in ((94.0, 47_704), (94.05, 48_724)):
        tracker.add({"env_steps": steps, "updates": 190, "seconds": seconds})
        assert tracker.figures().env_steps_per_second == pytest.approx(1000, rel=1)
        assert tracker.figures().updates_per_second == pytest.approx(10, rel=0.1)
    left = (200_000 - 48_724) * 1.05 / (48_724 - 46_704)
    assert tracker.figures().left_seconds == pytest.approx(left)
