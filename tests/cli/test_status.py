"""`recollect status`: what it says, in a terminal and in a pipe, and its exit code."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recollect import cli
from recollect.cli import status
from recollect.run.figures import Figures
from recollect.run.lock import RunLock
from recollect.run.parts import PartNow
from recollect.run.signals import Interrupted
from recollect.run.standing import Standing
from tests.cli.test_main import in_one_process
from tests.run.test_standing import iso, row, run_in

NOW = Standing(
    run="runs/a",
    title="r2d2 on recollect/Recall-v0, seed 3",
    state="running",
    message="",
    pid=77,
    host="node-0",
    since="2026-01-02T12:00:00+0000",
    figures=Figures(
        82_000, 200_000, 0.41, 164.0, 236.0, 180.0, 190.0, None, 500.0, 2.0, 0.4, 8.2e7, 3.25
    ),
    final_return=None,
    updates=328,
    checkpoint="last-80000-0123456789abcdef",
    checkpoint_env_steps=80_000,
    checkpoint_seconds_ago=12.0,
    written_seconds_ago=3.0,
    deaths=3,
    parts=(
        PartNow("learner", doing="working", busy=0.98, rate=5.12, unit="updates/s"),
        PartNow("actor/0", doing="waiting", rate=98.4, unit="steps/s", queue=2, lag_updates=3.25),
        PartNow("actor/1", False, "dead: killed by signal 9"),
    ),
    problems=(),
)
TEXT = """\
run          runs/a
agent        r2d2 on recollect/Recall-v0, seed 3
state        running, process 77 on node-0
steps        82,000 of 200,000 (41%), 328 updates
time         2:44 gone, 3:56 left
return       greedy 180.0, best 190.0
speed        500.0 steps/s, 2.00 updates/s
replay       40% full, 82.0 MB
lag          3.25 updates
checkpoint   after 80,000 steps, 0:12 ago
deaths       3 of parts; runs/a/faults.jsonl tells of those replaced
written      0:03 ago

part                  busy    rate            queue     lag
learner  working       98%    5.12 updates/s
actor/0  waiting              98.4 steps/s        2    3.25
actor/1  dead: killed by signal 9
"""
PANEL = """\
r2d2 on recollect/Recall-v0, seed 3
━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╸                                              41%
82,000 of 200,000 steps                                     2:44 gone, 3:56 left

greedy return        180.0    env steps/s       500.0    replay full        40%
best so far          190.0    updates/s          2.00    replay size    82.0 MB
training return          -    lag, updates       3.25

state        running, process 77 on node-0
updates      328
checkpoint   after 80,000 steps, 0:12 ago
deaths       3 of parts; runs/a/faults.jsonl tells of those replaced
written      0:03 ago

part                  busy    rate            queue     lag
learner  working       98%    5.12 updates/s
actor/0  waiting              98.4 steps/s        2    3.25
actor/1  dead: killed by signal 9
"""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Standing]:
    """What `look` finds, one look after the other, the last for ever."""
    found = [NOW]
    monkeypatch.setattr(status, "look", lambda run: found.pop(0) if len(found) > 1 else found[0])
    monkeypatch.setattr(status, "WATCH_SECONDS", 0.0)
    return found


def viewed(now: Standing, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=True)
    with console.capture() as caught:
        console.print(status.view(now, width, 40))
    return [line.rstrip() for line in caught.get().splitlines()]


def test_a_pipe_gets_these_lines(told: list[Standing], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "runs/a"]) == 0
    assert capsys.readouterr() == (TEXT, "")


def test_a_terminal_gets_the_runs_own_panel() -> None:
    assert viewed(NOW, 80) == PANEL.splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_it_fits_any_terminal(width: int) -> None:
    some = replace(NOW, parts=NOW.parts * 100, state="running", problems=("a problem " * 20,))
    assert max(map(len, viewed(some, width))) <= width


def test_a_run_in_one_process_has_no_parts_and_one_that_ended_none_that_count() -> None:
    for now in (replace(NOW, parts=()), replace(NOW, state="killed")):
        assert "actor" not in "\n".join([*status.text(now), *viewed(now, 80)])


def test_what_is_odd_is_said() -> None:
    old = replace(
        NOW, deaths=0, written_seconds_ago=192.0, checkpoint_env_steps=None, problems=("x: gone",)
    )
    lines = status.text(replace(old, parts=()))
    assert lines[-4:] == [
        "checkpoint   none yet: a run that is killed now begins anew",
        "written      3:12 ago",
        "WARNING      the status is old: a long evaluation goes on, the run hangs, or the disk is "
        "full",
        "PROBLEM      x: gone",
    ]
    assert "PROBLEM      x: gone" in viewed(old, 80)
    done = replace(NOW, state="finished", final_return=480.5, parts=(), pid=None)
    assert status.text(done)[2] == "state        finished"
    assert "final return 480.5" in status.text(done)


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ("running", 0, ""),
        ("starting", 0, ""),
        ("finished", 0, ""),
        ("preempted", 1, "runs/a was preempted"),
        ("interrupted", 1, "runs/a was interrupted"),
        ("killed", 1, "runs/a was killed"),
        ("failed", 1, "runs/a failed"),
        ("not begun", 1, "runs/a has not begun"),
        ("unknown", 1, "runs/a is in an unknown state"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_the_exit_code_says_whether_something_is_to_be_done(
    told: list[Standing],
    capsys: pytest.CaptureFixture[str],
    state: str,
    code: int,
    said: str,
    more: list[str],
) -> None:
    told[0] = replace(NOW, state=state)
    assert cli.main(["status", "runs/a", *more]) == code
    advice = "; go on with: python -m recollect resume runs/a\n"
    assert capsys.readouterr().err == (f"recollect: {said}{advice}" if said else "")


def test_why_a_run_failed_or_was_killed_is_said() -> None:
    failed = replace(NOW, state="failed", message="the loss is NaN")
    assert "state        failed: the loss is NaN" in status.text(failed)
    killed = "killed: its status says running, and nobody holds its lock"
    assert f"state        {killed}" in status.text(replace(NOW, state="killed"))


def test_json_is_one_object(told: list[Standing], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "runs/a", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == NOW.as_dict()


def test_watching_goes_on_until_the_run_ends(
    told: list[Standing], capsys: pytest.CaptureFixture[str]
) -> None:
    told.extend([NOW, replace(NOW, state="preempted")])
    assert cli.main(["status", "runs/a", "--watch", "--json"]) == 1
    states = [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()]
    assert states == ["running", "running", "preempted"]
    told[:] = [NOW, replace(NOW, state="finished")]
    assert cli.main(["status", "runs/a", "--watch"]) == 0
    assert capsys.readouterr().out.endswith("written      0:03 ago\n\n")


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 0), (Interrupted("SIGTERM"), 143)]
)
def test_who_watches_leaves_by_ctrl_c(
    told: list[Standing],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    def sleep(_: float) -> None:
        raise error

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert cli.main(["status", "runs/a", "--watch"]) == code


def test_watching_in_a_terminal_draws_in_place(
    told: list[Standing], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout", stream := Terminal())
    told.extend([NOW, replace(NOW, state="finished")])
    assert cli.main(["status", "runs/a", "--watch"]) == 0
    shown = stream.getvalue()
    assert shown.count("82,000 of 200,000 steps") >= 3
    assert "\x1b[1A" in shown  # back up, over what was drawn
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_a_run_at_work_answers_without_anything_heavy(tmp_path: Path) -> None:
    """From another process, while this one holds the lock; torch is not loaded, nor ray."""
    run = tmp_path / "run"
    with RunLock(run):
        run_in(run, row(20_000), row(30_000), written=iso(time.time() + 1))
        answers: list[Any] = in_one_process(
            [["status", "run"], ["status", "run", "--json"]], tmp_path
        )
        with pytest.raises(Exception, match="in use by"), RunLock(run):
            pass
    killed, missing = in_one_process([["status", "run"], ["status", "rum"]], tmp_path)
    assert [(code, err, loaded) for code, _, err, loaded in answers] == [(0, "", [])] * 2
    assert f"state        running, process {os.getpid()} on " in answers[0][1]
    assert json.loads(answers[1][1])["env_steps"] == 40_000
    assert (killed[0], killed[3]) == (1, [])
    assert "nobody holds its lock" in killed[1]
    assert killed[2] == "recollect: run was killed; go on with: python -m recollect resume run\n"
    assert missing[0] == 2
    assert "Did you mean run?" in missing[2]
