"""C7: signals to the real command, at any moment of its life."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import commanded
from tests.commanded import LONG, leaves, saved_steps, start, train, wait_for, wait_for_checkpoint

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


def stop_at_a_point(tmp_path: Path, point: str, name: str) -> None:
    run, marker = tmp_path / "run", tmp_path / "marker"
    steps = 300 if point == "the final evaluation" else LONG
    process = start(train(run, "--env-steps", str(steps)), point, marker)
    wait_for(marker, process)
    seconds = leaves(process, name, run)
    print(f"{name} in {point}: left after {seconds:.1f} s and {saved_steps(run):,} steps")
    more = () if steps == 300 else ("--env-steps", str(saved_steps(run) + 200))
    commanded.resume(run, *more)
    assert not list(run.glob("checkpoints/.new-*"))


@pytest.mark.parametrize(
    ("point", "name"),
    [("a save", "SIGINT"), ("the final evaluation", "SIGTERM"), ("torch is loaded", "SIGHUP")],
)
def test_a_signal_at_a_chosen_moment(tmp_path: Path, point: str, name: str) -> None:
    stop_at_a_point(tmp_path, point, name)


@pytest.mark.slow
@pytest.mark.parametrize("point", commanded.POINTS)
@pytest.mark.parametrize("name", NAMES)
def test_any_signal_at_every_chosen_moment(tmp_path: Path, point: str, name: str) -> None:
    stop_at_a_point(tmp_path, point, name)


@pytest.mark.slow
def test_twenty_signals_at_random_moments(tmp_path: Path) -> None:
    """One run, stopped twenty times, the first four in its first second; it gets to its end."""
    rng = np.random.default_rng(7)
    longest = 0.0
    for number in range(20):
        name = NAMES[number % 3]
        run = tmp_path / (f"early-{number}" if number < 4 else "run")
        words = train(run, "--env-steps", str(LONG))
        if (run / "config.json").exists():
            words = ["resume", str(run)]
        (run / "status.json").unlink(missing_ok=True)  # it is waited for
        process = start(words)
        if number < 4:
            time.sleep(rng.uniform(0.1, 1.0))
            leaves_early(process, name, run)
        else:
            wait_for(run / "status.json", process)
            time.sleep(rng.uniform(0.0, 4.0))
            longest = max(longest, leaves(process, name, run))
    print(f"16 signals, at most {longest:.1f} s to leave, {saved_steps(run):,} steps")
    commanded.resume(run, "--env-steps", str(saved_steps(run) + 200))


def leaves_early(process: Any, name: str, run: Path) -> None:
    """Before anything was made there is nothing to resume, and nothing is left either."""
    process.send_signal(signal.Signals[name])
    error = commanded.ended(process)
    code = process.returncode
    if run.exists():
        assert code == 128 + signal.Signals[name]
        assert error.endswith(f" resume {run}\n")
        assert saved_steps(run) >= 0
    elif code != -signal.Signals[name]:  # Python itself was not there yet
        assert code == 128 + signal.Signals[name]
        assert error.startswith("recollect: ")
        assert error.count("\n") == 1


def test_a_second_signal_leaves_at_once_and_a_checkpoint_that_loads(tmp_path: Path) -> None:
    run, marker = tmp_path / "run", tmp_path / "marker"
    process = start(train(run, "--env-steps", str(LONG)), "a save", marker)
    wait_for_checkpoint(run, process)
    marker.unlink()
    wait_for(marker, process)  # it is in the middle of the next one
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    error = commanded.ended(process)
    seconds = time.monotonic() - begin
    if process.returncode == 130 and "again" not in error:
        pytest.skip("it had left before the second one came")
    assert (process.returncode, error.strip()) == (
        130,
        "SIGINT again: leaving at once, nothing more is saved",
    )
    assert seconds < 1.0
    commanded.resume(run, "--env-steps", str(saved_steps(run) + 200))
    assert not list(run.glob("checkpoints/.new-*"))
