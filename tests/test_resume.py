"""C4: a run that is stopped and goes on equals, bit for bit, one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.run import checkpoint
from recollect.run.checkpoint import digest
from recollect.run.metrics import read_metrics, without_wall_clock
from tests.agents import clockwork

assert clockwork.Clock, "importing it registers the environments used here"

ROOT = Path(__file__).parents[1]
SMALL = {
    "actors": 5,
    "refresh_period": 4,
    "burn_in": 4,
    "trace_length": 8,
    "period": 4,
    "n_step": 3,
    "replay_steps": 400,
    "min_replay_steps": 60,
    "replay_ratio": 2.0,
    "batch_size": 4,
    "target_period": 7,
    "publish_period": 2,
    "torso_sizes": (8,),
    "hidden": 8,
    "head_hidden": 8,
    "evaluation_period": 20,
    "evaluation_episodes": 3,
    "seed": 3,
}
JOBS: dict[str, dict[str, Any]] = {
    "PositionCartPole": {
        "agent": "r2d2",
        "env": "recollect/PositionCartPole-v0",
        "actor_processes": 2,
    },
    "PositionCartPole, replay in shards": {
        "agent": "r2d2",
        "env": "recollect/PositionCartPole-v0",
        "actor_processes": 2,
        "replay_shards": 2,
    },
    "Recall": {
        "agent": "r2d2",
        "env": "recollect/Recall-v0",
        "env_kwargs": {"delay": 3, "trials": 4},
        "keep_states": True,
    },
    "TMaze, whole episodes": {
        "agent": "drqn",
        "env": "recollect/TMaze-v0",
        "env_kwargs": {"length": 5},
        "sequences": "trajectories",
        "burn_in": 0,
        "n_step": 1,
    },
    "Pictures": {
        "agent": "r2d2",
        "env": "tests.agents.pictures:tests/Pictures-v0",
        "frame_stack": 4,
        "pre_core": 8,
        "codec": "none",
        "dtype": "float32",
    },
    "CartPole, supervised": {"agent": "r2d2", "env": "CartPole-v1", "env_processes": 2},
    "ALE": {
        "agent": "r2d2",
        "env": "ale_py:ALE/Pong-v5",
        "env_kwargs": {"obs_type": "ram"},
        "actors": 1,
    },
}


def job(name: str, env_steps: int) -> dict[str, Any]:
    if name == "ALE":
        pytest.importorskip("ale_py")
    return {**SMALL, **JOBS[name], "env_steps": env_steps}


class Trainings:
    """Trainings in processes of their own: forks of one that trains nothing, or all new ones."""

    def __init__(self, errors: Path, afresh: bool) -> None:
        self._errors, self._afresh = errors, afresh
        self._process: subprocess.Popen[str] | None = None

    def __call__(
        self, folder: Path, train: dict[str, Any] | None, stop: int | None, seconds: float
    ) -> dict[str, Any]:
        """Train in `folder`, or go on there; what the process says of itself.

        `seconds` lie between two checkpoints.
        """
        if self._process is None or self._afresh:
            self.close()
            with self._errors.open("w") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.stopping"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
                )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        keeping = {"checkpoint_seconds": seconds}
        asked = {"train": train and {**train, **keeping}, "resume": keeping, "stop": stop}
        self._process.stdin.write(json.dumps({"folder": str(folder), **asked}) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline() or '{"failed": true}')
        assert "failed" not in said, self._errors.read_text()
        return said

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=60)


def everything(run: Path) -> tuple[str, dict[str, np.ndarray], list[dict[str, Any]]]:
    """What of a finished run must be equal: the digest of its state, its parameters, its rows."""
    found = checkpoint.load(checkpoint.find(run / "checkpoints", "last", full=True))
    rows = [without_wall_clock(row) for row in read_metrics(run)]
    return digest(found.state), found.parameters, rows


def assert_resumes_exactly(
    tmp_path: Path, name: str, env_steps: int, stops: int, *, afresh: bool = False
) -> None:
    asked = job(name, env_steps)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = Trainings(tmp_path / "errors", afresh)
    looks = process(whole, asked, None, 1e6)["looks"]
    rng = np.random.default_rng(stops)
    at = np.sort(rng.choice(np.arange(1, looks), stops, replace=False))
    # Each process begins to count anew.
    for number, stop in enumerate(np.diff(at, prepend=0).tolist()):
        # Checkpoints meanwhile must change nothing.
        said = process(cut, None if number else asked, max(1, stop), 0.3)
        assert said["stopped"]
        assert json.loads((cut / "status.json").read_text())["state"] == "preempted"
    assert not process(cut, None, None, 0.3)["stopped"]
    process.close()
    found, wanted = everything(cut), everything(whole)
    assert found[2] == wanted[2]
    assert found[1].keys() == wanted[1].keys()
    for key, array in wanted[1].items():
        np.testing.assert_array_equal(found[1][key], array)
    assert found[0] == wanted[0]
    print(f"{name}: stopped {stops} times in {looks} looks, SHA-256 {found[0][:16]}")


@pytest.mark.parametrize("name", JOBS)
def test_three_stops_change_nothing(tmp_path: Path, name: str) -> None:
    """C4, traps 1 and 27."""
    assert_resumes_exactly(tmp_path, name, 400, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_twenty_stops_change_nothing(tmp_path: Path, name: str) -> None:
    """C4."""
    assert_resumes_exactly(tmp_path, name, 1500, 20, afresh=True)
