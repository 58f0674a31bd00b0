"""The real command in a process of its own, told when it comes to a point in its work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from recollect.run import checkpoint

ROOT = Path(__file__).parents[1]
SECONDS_TO_LEAVE = 30.0  # C7
LONG = 1_000_000  # more steps than any of these runs takes

WORDS = (
    "train r2d2 --env recollect/PositionCartPole-v0 --actors 5 --refresh-period 4 --burn-in 4 "
    "--trace-length 8 --period 4 --n-step 3 --replay-steps 3000 --min-replay-steps 60 "
    "--replay-ratio 2 --batch-size 4 --target-period 7 --publish-period 2 --torso-sizes 8 "
    "--hidden 8 --head-hidden 8 --evaluation-period 20 --evaluation-episodes 3 "
    "--checkpoint-seconds 0.2"
)
AT = """
import importlib, pathlib, sys, time
module, owner, name, marker, seconds = sys.argv[1:6]
del sys.argv[1:6]
owner = importlib.import_module(module) if not owner else getattr(
    importlib.import_module(module), owner)
inner = getattr(owner, name)
def marked(*args, **kwargs):
    pathlib.Path(marker).touch()
    time.sleep(float(seconds))
    return inner(*args, **kwargs)
setattr(owner, name, marked)
from recollect.cli import main
sys.exit(main())
"""
POINTS = {
    "a save": ("recollect.run.files", "", "write_new", "0.1"),
    "the end of a save": ("recollect.run.files", "", "rename", "0.1"),
    "an evaluation": ("recollect.agents.evaluating", "Evaluator", "step", "0"),
    "the final evaluation": ("recollect.training.loop", "", "evaluate_on", "0"),
    "torch is loaded": ("recollect.training.execution", "", "_computing", "0"),
}
"""Where it touches a file, and how many seconds it then waits."""


def train(run: Path, *more: str) -> list[str]:
    """Words of a training that is small and saves often."""
    return [*WORDS.split(), "--run-dir", str(run), *more]


def start(words: list[str], point: str | None = None, marker: Path | None = None) -> Any:
    """The command; if a point is named, it touches `marker` when it comes there."""
    how = ["-m", "recollect"]
    if point is not None:
        *where, seconds = POINTS[point]
        how = ["-c", AT, *where, str(marker), seconds]
    return python([*how, *words])


def environment() -> dict[str, str]:
    """Of this process now, and where the project is found."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def python(words: list[str], **more: Any) -> Any:
    """Python as a process that finds this project; its streams are ours unless `more` says."""
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    how |= {"cwd": ROOT, "env": environment(), "preexec_fn": _hear_hangups, **more}
    return subprocess.Popen([sys.executable, *words], **how)


def done(words: list[str], seconds: float = 250) -> subprocess.CompletedProcess[str]:
    """Python again, when it has ended."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment(),
        timeout=seconds,
    )


def _hear_hangups() -> None:
    """Also where these tests were begun by nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ended(process: Any) -> str:
    """What it says on stderr, once it has left within C7's seconds; it never outlives this."""
    try:
        return process.communicate(timeout=SECONDS_TO_LEAVE)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def wait_for(path: Path, process: Any) -> None:
    """Until a file is there."""
    deadline = time.monotonic() + 100
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.005)


def wait_for_checkpoint(run: Path, process: Any) -> None:
    """Until the first whole one is there."""
    deadline = time.monotonic() + 100
    while not list(run.glob("checkpoints/last-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint ever came"
        time.sleep(0.005)


def status(run: Path) -> dict[str, Any]:
    """What status.json says."""
    return json.loads((run / "status.json").read_text())


def saved_steps(run: Path) -> int:
    """Environment steps in the newest checkpoint, which loads."""
    return checkpoint.load_newest(run / "checkpoints", "last", full=True).env_steps


def leaves(process: Any, name: str, run: Path) -> float:
    """Send a signal; assert that the run leaves in good order; seconds that took."""
    begin = time.monotonic()
    process.send_signal(signal.Signals[name])
    error = ended(process)
    assert process.returncode == 128 + signal.Signals[name], error
    assert error.count("\n") == 1, error
    assert error.startswith(f"recollect: stopped by {name}; go on with: ")
    assert error.endswith(f" resume {run}\n")
    assert status(run)["state"] == "preempted"
    assert status(run)["env_steps"] == saved_steps(run)
    return time.monotonic() - begin


def resume(run: Path, *more: str) -> str:
    """Go on to the end; what it says."""
    ended = done(["-m", "recollect", "resume", str(run), *more])
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    assert status(run)["state"] == "finished"
    return ended.stdout


def leaves_quietly(process: Any, run: Path) -> None:
    """End a run that was started somewhere else."""
    process.send_signal(signal.SIGTERM)
    ended(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert status(run)["env_steps"] == saved_steps(run)
