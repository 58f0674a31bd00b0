"""R8 seen from outside: whatever an environment does, in this process or another, is survived."""

from __future__ import annotations

import io
import json
import re
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from recollect import cli
from recollect.run.metrics import read_metrics, without_wall_clock
from tests import commanded
from tests.cli import moody

DEADLINE = 1.0
WORDS = (
    f"train r2d2 --env {moody.ID} --env-steps 300 --actors 4 --min-replay-steps 60 --hidden 8 "
    "--head-hidden 8 --torso-sizes 8 --burn-in 2 --trace-length 4 --period 2 --n-step 1 "
    f"--batch-size 4 --replay-ratio 2 --evaluation-period 0 --env-deadline {DEADLINE:g}"
)
WHERE = rf"\({re.escape(moody.__file__)}, line \d+\)"
SAID = {
    "raises": rf"VERB raised OSError: the engine stopped {WHERE}",
    "sys.exit": rf"VERB raised SystemExit: 3 {WHERE}",
    "os._exit": "its process exited with code 3 in VERB",
    "segfaults": "its process was killed by SIGSEGV in VERB",
    "hangs": "hung in VERB for more than 1 s",
    "nan": r"observation 'observation'\[0\] is nan, a finite number was wanted",
    "inf": r"observation 'observation'\[1\] is -inf, a finite number was wanted",
    "shape": r"observation 'observation' has shape \(7,\), its space says \(2,\) \(from VERB\): "
    "mend its space or its VERB",
    "dtype": "observation 'observation' has dtype complex64, its space says float32 "
    r"\(from VERB\): mend its space or its VERB",
}
LEFT = {
    "reset": "; it is tried again with another seed",
    "step": "; the episode is dropped and the slot starts another",
}


def answer(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")  # in tests they are errors
        return cli.main(words), out.getvalue(), err.getvalue()


def training(folder: Path, run: Path, *more: str, **moods: object) -> list[str]:
    moods = {"marks": str(folder / "marks"), **moods}
    return [*WORDS.split(), "--run-dir", str(run), "--env-kwargs", json.dumps(moods), *more]


def cases() -> list[object]:
    """Every kind in every place; not slow are those of this process, and two of others."""
    found: list[object] = []
    for how in moody.KINDS:
        for verb in ("reset", "step"):
            for processes in (0, 2):
                if how in moody.DEADLY and not processes:
                    continue  # kills us: below
                quick = not processes or (how, verb) in {("hangs", "reset"), ("os._exit", "step")}
                marks = [] if quick else [pytest.mark.slow]
                found.append(pytest.param(how, verb, processes, marks=marks))
    return found


@pytest.mark.parametrize(("how", "verb", "processes"), cases())
def test_r8_a_fault_costs_its_episode_and_is_told_of(
    how: str, verb: str, processes: int, tmp_path: Path
) -> None:
    """R8."""
    run = tmp_path / "run"
    given = ("--env-processes", str(processes))
    code, out, err = answer(training(tmp_path, run, *given, how=how, verb=verb))
    assert (code, err) == (0, "")
    assert (tmp_path / "marks").read_text() == "xx", "it did fail, twice"
    told = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert told
    assert not [line for line in told if "lost with slot " in line], "told of with that slot"
    call = r"reset for episode \d+" if verb == "reset" else r"episode \d+, step 3"
    said = SAID[how].replace("VERB", verb)
    line = f"warning: environment {moody.ID}, slot [0-3], {call}: {said}{LEFT[verb]}"
    for each in told:
        more = r"(, with 1 more of the same process)?(\. More of these are only counted)?"
        assert re.fullmatch(line + more, each), each
    last = read_metrics(run)[-1]
    assert last["run/env_failures"] == 2
    dropped = last["run/dropped_episodes"]
    most = 4 if processes and how in moody.DEADLY else 2
    assert dropped == 0 if verb == "reset" and how not in moody.DEADLY else dropped <= most
    assert dropped >= 2 or verb == "reset"
    assert f"failures         2 of environments, {dropped:.0f} episodes dropped\n" in out
    assert last["updates"] > 10
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("how", "verb"),
    [
        pytest.param(
            how, verb, marks=[] if (how, verb) == ("hangs", "step") else [pytest.mark.slow]
        )
        for how in moody.DEADLY
        for verb in ("reset", "step")
    ],
)
def test_r8_what_ends_our_own_process_leaves_a_checkpoint_to_resume(
    how: str, verb: str, tmp_path: Path
) -> None:
    """R8: a hang is told of in one line; there is nobody to tell of the others."""
    run = tmp_path / "run"
    moods = {"how": how, "verb": verb, "times": 1, "wait": str(run / "checkpoints")}
    words = training(tmp_path, run, "--checkpoint-seconds", "0.2", **moods)
    words[words.index("--env-steps") + 1] = "1000000"
    done = commanded.done(["-m", "recollect", *words], seconds=120)
    ended = time.time()
    status = json.loads((run / "status.json").read_text())
    if how == "hangs":
        assert ended - (tmp_path / "marks").stat().st_mtime < DEADLINE + 10
        assert done.returncode == 1
        call = r"reset for episode \d+" if verb == "reset" else r"episode \d+, step 3"
        hang = rf"environment {moody.ID}, slot [0-3], {call} has not come back for 1 s"
        line = rf"recollect: {hang} {WHERE}: the run ends here: mend the environment, .*\n"
        assert re.fullmatch(line, done.stderr), done.stderr
        assert str(run) in done.stderr
        assert re.fullmatch(f"failed: {hang}", status["state"])
    else:
        assert done.returncode == {"os._exit": 3, "segfaults": -11}[how]
        assert status["state"] == "running"
    code, out, err = answer(["resume", str(run), "--env-steps", str(status["env_steps"] + 2000)])
    assert (code, err) == (0, ""), out
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_evaluating_such_a_run_has_its_environments_in_processes_too(tmp_path: Path) -> None:
    """R8: what would end our process is one line."""
    run = tmp_path / "run"
    words = training(tmp_path, run, "--env-processes", "1", how="os._exit", times=30)
    (tmp_path / "marks").write_text("x" * 30)
    assert answer(words)[0] == 0
    (tmp_path / "marks").unlink()
    code, out, err = answer(["evaluate", str(run), "--episodes", "6"])
    assert (code, out) == (1, "")
    named = rf"recollect: environment {moody.ID}, slot \d, evaluation episode \d, step 3: "
    assert re.fullmatch(named + r"its process exited with code 3 in step\n", err), err


def test_r8_more_than_ten_failures_in_ten_minutes_end_the_run_whoever_has_them(
    tmp_path: Path,
) -> None:
    """R8: also where a process dies each time."""
    run = tmp_path / "run"
    words = training(tmp_path, run, "--env-processes", "2", how="os._exit", times=99)
    words[words.index("--env-steps") + 1] = "100000"
    code, _, err = answer([*words, "--checkpoint-seconds", "3600"])  # it may take a minute
    assert code == 1
    line = (
        rf"recollect: environment {moody.ID}, slot [0-3], episode \d+, step 3: its process exited "
        "with code 3 in step; that is failure 11 within 10 minutes and 10 are borne: mend the "
        rf"environment; what was learned lies in {run}: python -m recollect evaluate {run}\n"
    )
    assert re.fullmatch(line, err), err
    assert json.loads((run / "status.json").read_text())["state"].startswith("failed: environment ")
    assert [path.name.split("-")[0] for path in (run / "checkpoints").iterdir()] == ["failed"]


@pytest.mark.parametrize(
    ("parts", "numbers"),
    [(1, (0, 1, 2, 3)), (3, (0, 2)), pytest.param(2, (0, 1, 2), marks=pytest.mark.slow)],
)
def test_the_number_of_environment_processes_changes_no_bit(
    parts: int, numbers: tuple[int, ...], tmp_path: Path
) -> None:
    """However many parts the slots are spread over."""
    seen = []
    for number in numbers:
        run = tmp_path / f"run-{number}"
        words = training(tmp_path, run, "--actor-processes", str(parts))
        words[words.index("--env") + 1] = "recollect/PositionCartPole-v0"
        words[words.index("--env-kwargs") + 1] = "{}"
        words[words.index("--evaluation-period") + 1] = "9"
        code, out, _ = answer([*words, "--env-processes", str(number)])
        assert code == 0
        rows = [without_wall_clock(row) for row in read_metrics(run)]
        (greedy,) = re.findall("greedy return .*", out)
        seen.append((greedy, rows))
        assert len(rows) > 50
        assert rows[-1]["run/evaluations"] > 1
        assert rows[-1]["run/episodes"] > 5
    assert all(each == seen[0] for each in seen)
