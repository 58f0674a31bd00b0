"""R3, R5: kill -9 on the real command, and the next start goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.run.metrics import read_metrics
from tests import commanded
from tests.commanded import saved_steps, start, train, wait_for_checkpoint
from tests.test_resume import everything

SHARED_MEMORY = Path("/dev/shm")


def kill(process: Any) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def processes_in(run: Path) -> list[str]:
    """The living whose command line, or whose environment, names the run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            known = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            if str(run).encode() in known and int(folder.name) != os.getpid():
                found.append(f"{folder.name}: {known[:200]!r}")
        except OSError:
            continue
    return found


def assert_kills_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, env_steps: int, *more: str
) -> None:
    more = ("--env-steps", str(env_steps), *more)
    # Inherited by all that the command starts: so they are found, whatever their names.
    monkeypatch.setenv("RECOLLECT_TEST_RUN", str(tmp_path))
    shared = set(SHARED_MEMORY.iterdir()) if SHARED_MEMORY.exists() else set()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    undisturbed = start(train(whole, *more))
    _, error = undisturbed.communicate(timeout=250)
    assert undisturbed.returncode == 0, error
    seconds = float(read_metrics(whole)[-1]["seconds"])
    rng = np.random.default_rng(kills)
    at = []
    for number in range(kills):
        process = start(train(cut, *more) if number == 0 else ["resume", str(cut)])
        if number == 0:
            wait_for_checkpoint(cut, process)
        else:
            status = cut / "status.json"
            status.unlink(missing_ok=True)
            commanded.wait_for(status, process)
        time.sleep(rng.uniform(0, seconds / (kills + 1)))
        kill(process)
        at.append(saved_steps(cut))
        deadline = time.monotonic() + 10
        while processes_in(tmp_path) and time.monotonic() < deadline:  # R5
            time.sleep(0.1)
        assert processes_in(tmp_path) == []
    commanded.resume(cut)
    print(f"killed {kills} times, gone on from {at} of {saved_steps(cut):,} steps")
    found, wanted = everything(cut), everything(whole)
    assert found[2] == wanted[2]
    assert found[0] == wanted[0]
    for key, array in wanted[1].items():
        np.testing.assert_array_equal(found[1][key], array)
    hidden = {path.name for path in cut.rglob(".*")}
    assert hidden <= {".lock"}
    known = {path.name for path in whole.iterdir()}
    extra = {path.name for path in cut.iterdir()} - known
    assert all(name.startswith("metrics-aside-") for name in extra)
    if SHARED_MEMORY.exists():
        mine = set(SHARED_MEMORY.iterdir()) - shared
        assert not [path for path in mine if "recollect" in path.name]


def test_a_kill_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_kills_change_nothing(tmp_path, monkeypatch, 1, 2000, "--env-processes", "2")


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["0", "2"])
def test_five_kills_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    more = ("--env-processes", processes)
    assert_kills_change_nothing(tmp_path, monkeypatch, 5, 10_000, *more)


@pytest.mark.slow
def test_the_first_run_of_the_readme_survives_a_kill(tmp_path: Path) -> None:
    run = tmp_path / "first"
    words = ["train", "r2d2", "--env", "recollect/PositionCartPole-v0", "--run-dir"]
    process = start([*words, str(run)])
    commanded.wait_for(run / "status.json", process)
    time.sleep(15)
    kill(process)
    steps = saved_steps(run) if (run / "checkpoints").exists() else 0
    said = commanded.resume(run)
    print(f"killed after 15 s, gone on from {steps:,} steps:\n{said}")
    line = next(line for line in said.splitlines() if line.startswith("greedy return"))
    assert float(line.split()[2].rstrip(",")) >= 450


def test_what_a_kill_leaves_is_cleaned_by_the_next_save(tmp_path: Path) -> None:
    run, marker = tmp_path / "run", tmp_path / "marker"
    process = start(train(run, "--env-steps", str(commanded.LONG)), "a save", marker)
    wait_for_checkpoint(run, process)
    marker.unlink()
    commanded.wait_for(marker, process)
    kill(process)
    left = list(run.glob("checkpoints/.new-*"))
    assert left
    # Rows that no checkpoint knows, as a kill long after a save leaves them.
    row = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)[-1:] or [
        b'{"env_steps":1}\n'
    ]
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(row[0] * 2)
    said = commanded.resume(run, "--env-steps", str(saved_steps(run) + 200))
    assert not list(run.glob("checkpoints/.new-*"))
    assert " are now in metrics-aside-1.jsonl\n" in said
    assert (run / "metrics-aside-1.jsonl").read_bytes().endswith(row[0] * 2)
