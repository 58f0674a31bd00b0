"""C6: a disk that is full ends no training, and what could not be saved does not look saved."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recollect
from recollect.cli import main
from recollect.cli.words import program
from recollect.run import checkpoint, curves, folder
from recollect.run.metrics import read_metrics
from recollect.training.loop import Training
from recollect.training.saves import Saves
from recollect.types import NotSavedError
from tests import commanded
from tests.test_resume import SMALL, everything

pytestmark = pytest.mark.filterwarnings("default::RuntimeWarning")
STEPS = 800


class Disk:
    """Takes nothing while a training has taken `full_from` to `full_until` steps.

    A save is begun every 40 steps.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full_from, self.full_until = STEPS + 1, STEPS + 1
        self.full = False
        self.stop_at = STEPS + 1
        self.held: list[int] = []  # steps of the checkpoint there was, while it was full
        self._looked = self._saved = -1000
        self._training: Any = None
        self._write, self._open = os.write, os.open
        write_atomic, must_stop = folder.write_atomic, Training._must_stop

        def look(training: Training) -> bool:
            self._training, steps = training, training._env_steps()
            self.full = self.full_from <= steps < self.full_until
            if self.full and steps >= self._looked + 100:
                self._looked = steps
                self.held.append(held(training))
            if steps >= self.stop_at:
                self.stop_at = STEPS + 1
                os.kill(os.getpid(), signal.SIGTERM)
            return must_stop(training)

        def held(training: Training) -> int:
            at = training._folder.checkpoints
            try:
                return checkpoint.load_newest(at, "last", full=True).env_steps
            except checkpoint.NoCheckpointError:
                return -1

        def atomic(path: Path, data: bytes) -> None:
            self.take()
            write_atomic(path, data)

        def due(saves: Saves, _: float) -> bool:
            steps = self._training._env_steps()
            return steps >= self._saved + 40 and not saves._checkpoints.busy

        def snapshot(training: Training, take: Any) -> dict[str, Any] | None:
            self._saved = training._env_steps()
            return inner(training, take)

        inner = Training._snapshot

        monkeypatch.setattr(Training, "_must_stop", look)
        monkeypatch.setattr(Saves, "due", due)
        monkeypatch.setattr(Training, "_snapshot", snapshot)
        monkeypatch.setattr(folder, "write_atomic", atomic)
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", lambda _: None)  # no test here cuts the power

    @property
    def kept(self) -> int:
        """Steps of the checkpoint that stayed; one that was nearly there may still have come."""
        first, *others = self.held
        assert len(set(others)) == 1
        assert self.full_from - 80 <= first <= others[0] <= self.full_from
        return others[0]

    def take(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, descriptor: int, data: bytes) -> int:
        if descriptor > 2:
            self.take()
        return self._write(descriptor, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def train(run: Path, **settings: Any) -> recollect.Run:
    given: dict[str, Any] = {**SMALL, "env_steps": STEPS, **settings}
    return recollect.train("r2d2", env="recollect/PositionCartPole-v0", run_dir=run, **given)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("undisturbed") / "run").folder


def assert_equal(run: Path, undisturbed: Path) -> None:
    found, wanted = everything(run), everything(undisturbed)
    assert found[2] == wanted[2]
    assert found[0] == wanted[0]
    best = [checkpoint.load(checkpoint.find(x / "checkpoints", "best")) for x in (run, undisturbed)]
    assert best[0].meta["updates"] == best[1].meta["updates"]
    for key, array in best[1].parameters.items():
        np.testing.assert_array_equal(best[0].parameters[key], array)


def texts(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(each.message) for each in caught]


def test_a_disk_that_is_full_for_a_while_changes_nothing(
    tmp_path: Path, disk: Disk, undisturbed: Path
) -> None:
    """The best evaluation falls in this while, too."""
    disk.full_from, disk.full_until = 200, 600
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = train(tmp_path / "run")
    said = texts(caught)
    assert len([line for line in said if line.startswith("a checkpoint could not be saved")]) == 1
    assert len([line for line in said if "metrics.jsonl cannot be written" in line]) == 1
    assert len(said) == 2
    assert run.fault == ""
    rows = read_metrics(run.folder)
    failed = {row["env_steps"]: row["checkpoint/failed"] for row in rows}
    assert failed[200] == 0
    assert failed[600] - failed[400] >= 3
    assert failed[STEPS] == failed[620]  # it is as it was, once there is room
    saved = {row["env_steps"]: row["checkpoint/saved"] for row in rows}
    assert saved[600] == saved[220] < saved[STEPS]
    assert disk.kept
    assert recollect.load(run).env_steps == STEPS
    assert commanded.status(run.folder)["state"] == "finished"
    assert not list((run.folder / "checkpoints").glob(".new-*"))
    assert_equal(run.folder, undisturbed)


def test_a_run_whose_end_could_not_be_saved_fails_and_goes_on_later(
    tmp_path: Path, disk: Disk, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.full_from, disk.full_until = 600, 10**9
    run = tmp_path / "run"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(NotSavedError) as raised:
            train(run)
    kept = disk.kept
    assert (
        f"the run could not be saved ({os.strerror(errno.ENOSPC)}), its last checkpoint is "
        in str(raised.value)
    )
    assert str(raised.value).endswith(f", after {kept} steps")
    assert any("rows were never written" in line for line in texts(caught))
    assert commanded.status(run)["state"] == "running"  # there was no room to say more
    disk.full_from = 10**9
    assert main(["resume", str(run)]) == 0
    assert "greedy return" in capsys.readouterr().out
    assert_equal(run, undisturbed)


@pytest.mark.parametrize("stopped", [False, True])
def test_the_best_parameters_that_found_no_room_are_saved_later(
    tmp_path: Path, disk: Disk, undisturbed: Path, stopped: bool
) -> None:
    """Though nothing that comes later is as good."""
    run = tmp_path / "run"
    found = checkpoint.load(checkpoint.find(undisturbed / "checkpoints", "best"))
    assert 100 < found.env_steps < STEPS - 100
    disk.full_from, disk.full_until = found.env_steps - 30, STEPS - 50
    if stopped:
        disk.stop_at = found.env_steps + 30
        with pytest.raises(KeyboardInterrupt):
            train(run)
        disk.full_from = STEPS
        recollect.resume(run)
    else:
        train(run)
    assert_equal(run, undisturbed)


def words(run: Path) -> list[str]:
    given = commanded.train(run, "--env-steps", str(STEPS), "--seed", "3")
    given[given.index("--replay-steps") + 1] = str(SMALL["replay_steps"])
    return given


@pytest.mark.parametrize("full_from", [0, 300])
def test_the_command_says_what_to_do(
    tmp_path: Path,
    disk: Disk,
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
    full_from: int,
) -> None:
    run = tmp_path / "run"
    disk.full_from, disk.full_until = full_from, 10**9
    assert main(words(run)) == 1
    out, error = capsys.readouterr()
    assert out.count("warning: a checkpoint could not be saved") == 1
    assert "greedy return" not in out
    there = "there is no checkpoint of it" if not full_from else "its last checkpoint is last-"
    assert there in error
    assert error.startswith(
        f"recollect: the run could not be saved ({os.strerror(errno.ENOSPC)}), "
    )
    assert error.count("\n") == 1
    assert ": make room, then do what is missing again: " in error
    assert error.endswith(f" resume {run}\n")
    disk.full_from = 10**9
    assert main(["resume", str(run)]) == 0
    assert_equal(run, undisturbed)


def test_a_signal_on_a_full_disk_says_which_checkpoint_is_the_last(
    tmp_path: Path, disk: Disk, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    disk.full_from, disk.full_until, disk.stop_at = 300, 10**9, 500
    assert main(words(run)) == 128 + signal.SIGTERM
    error = capsys.readouterr().err
    kept = disk.kept
    (path,) = run.glob(f"checkpoints/last-{kept}-*")
    assert error == (
        "recollect: stopped by SIGTERM; the run could not be saved "
        f"({os.strerror(errno.ENOSPC)}), its last checkpoint is {path.name}, after {kept} steps: "
        f"make room first; go on with: {program()} resume {run}\n"
    )
    disk.full_from = 10**9
    assert main(["resume", str(run)]) == 0
    assert_equal(run, undisturbed)


def test_a_start_on_a_full_disk_leaves_nothing(
    tmp_path: Path, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.full = True
    assert main(words(tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert os.strerror(errno.ENOSPC) in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_curve_and_tensorboard_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(curves, "draw", fail)
    monkeypatch.setattr(RecordWriter, "write", fail)
    with pytest.warns(RuntimeWarning, match=r"TensorBoard events stop here, metrics.jsonl goes on"):
        run = train(tmp_path / "run")
    assert commanded.status(run.folder)["state"] == "finished"
    assert not (run.folder / "curve.png").exists()
    assert_equal(run.folder, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, where one may be mounted."""
    at = tmp_path / "disk"
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(at)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system may be mounted here")
    yield at
    subprocess.run(["umount", "-l", str(at)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room there; the file that takes it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast


def failures(run: Path) -> float:
    return max((row["checkpoint/failed"] for row in read_metrics(run)), default=0)


def fill_and_make_room(small_disk: Path, run: Path, process: Any) -> None:
    """Full, roomy, full again."""
    commanded.wait_for_checkpoint(run, process)
    for room in (True, False):
        ballast = fill(small_disk)
        time.sleep(2)
        for _ in range(5):  # what a save gave back when it failed is taken, too
            fill(small_disk)
            time.sleep(1)
        assert process.poll() is None
        kept = commanded.saved_steps(run)
        if room:
            ballast.unlink()
            deadline = time.monotonic() + 60
            while commanded.saved_steps(run) == kept or not failures(run) > 3:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            rows = read_metrics(run)
            assert [row["env_steps"] for row in rows] == sorted(row["env_steps"] for row in rows)


@pytest.mark.slow
def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    """The command on a small tmpfs, which is full when a signal comes."""
    run = small_disk / "run"
    process = commanded.start(commanded.train(run, "--env-steps", "100000"))
    try:
        fill_and_make_room(small_disk, run, process)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    kept = commanded.saved_steps(run)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=commanded.SECONDS_TO_LEAVE)
    print(out, error)
    assert process.returncode == 128 + signal.SIGTERM
    assert error.count("\n") == 1
    assert f", after {kept:,} steps: make room first; go on with: " in error
    assert 1 <= out.count("warning: a checkpoint could not be saved") <= 2
    (small_disk / "ballast").unlink()
    commanded.resume(run, "--env-steps", str(kept + 200))
