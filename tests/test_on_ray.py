"""Runs on Ray: stopped, killed and gone on with, on either runtime; what they leave and let in."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recollect
from recollect.run import checkpoint
from recollect.runtime import sockets
from tests import commanded
from tests.commanded import start, status, train, wait_for_checkpoint
from tests.test_killed import SHARED_MEMORY, kill, processes_in
from tests.test_learns import score

pytest.importorskip("ray")

SPREAD = ("--runtime", "ray", "--actor-processes", "2", "--replay-shards", "2")
ROOM = ("--replay-steps", "200000")  # nothing is evicted


def saved(run: Path) -> dict[str, Any]:
    state = checkpoint.load_newest(run / "checkpoints", "last", full=True).state
    assert state is not None
    return state["parts"]


def assert_same_experience(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Blocks and items of every shard, bit for bit; priorities may have changed since."""
    for shard in ("replay/0", "replay/1"):
        one, other = before[shard], after[shard]
        for table in ("blocks", "items", "episodes"):
            for column in one[table]:
                np.testing.assert_array_equal(one[table][column], other[table][column])
        for mine, theirs in zip(one["buffers"].arrays, other["buffers"].arrays, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert one["limiter"]["inserted"] == other["limiter"]["inserted"]


def test_a_run_on_ray_is_stopped_and_gone_on_with_on_either_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Must show 4 and 6 (S1, C7): loopback only, home untouched, counters and replay intact."""
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    process = start(train(run, *SPREAD, *ROOM, "--env-steps", str(commanded.LONG)))
    wait_for_checkpoint(run, process)
    found = sockets.listeners(sockets.tree(process.pid))
    assert found
    sockets.refuse_open(sockets.tree(process.pid))  # raises if others can come in
    parts = {part["name"]: part for part in status(run)["parts"]}
    assert set(parts) >= {"learner", "actor/0", "actor/1", "replay/0", "replay/1", "parameters"}
    assert all(part["alive"] and part["pid"] != process.pid for part in parts.values())
    commanded.leaves(process, "SIGTERM", run)
    before, steps = saved(run), status(run)["env_steps"]
    assert sum(before[f"actor/{k}"]["env_steps"] for k in (0, 1)) == steps
    assert min(len(before[f"replay/{k}"]["items"]["row"]) for k in (0, 1)) > 0
    assert not (home / ".ray").exists()

    # As many steps as there are: it only loads, and saves again.
    commanded.resume(run, "--runtime", "inline", "--env-steps", str(steps))
    after = saved(run)
    assert_same_experience(before, after)
    assert status(run)["env_steps"] == steps
    assert after["learner"]["updates"] == before["learner"]["updates"]

    commanded.resume(run, "--env-steps", str(steps + 500))
    inline = saved(run)
    assert status(run)["env_steps"] >= steps + 500
    assert inline["learner"]["updates"] > after["learner"]["updates"]

    commanded.resume(run, "--runtime", "ray", "--env-steps", str(steps + 1000))
    last = saved(run)
    assert steps + 1000 <= status(run)["env_steps"] < steps + 1000 + 5
    for shard in ("replay/0", "replay/1"):  # what was there before is there still
        old, new = (set(x[shard]["items"]["uid"].tolist()) for x in (inline, last))
        assert old < new


def test_a_driver_killed_leaves_no_process_and_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Must show 7 (R5): after 10 s nothing of the run is left, and it can be gone on with."""
    monkeypatch.setenv("RECOLLECT_TEST_RUN", str(tmp_path))
    shared = set(SHARED_MEMORY.iterdir())
    run = tmp_path / "run"
    process = start(train(run, *SPREAD, "--env-steps", str(commanded.LONG)))
    wait_for_checkpoint(run, process)
    kill(process)
    deadline = time.monotonic() + 10
    while (left := processes_in(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert set(SHARED_MEMORY.iterdir()) <= shared
    steps = commanded.saved_steps(run)
    commanded.resume(run, "--runtime", "inline", "--env-steps", str(steps + 200))
    assert status(run)["env_steps"] >= steps + 200


@pytest.mark.parametrize("victim", ["gcs_server", pytest.param("raylet", marks=pytest.mark.slow)])
def test_ray_itself_that_dies_ends_the_run_by_name(tmp_path: Path, victim: str) -> None:
    """Without it no part can be replaced; what there is can be gone on with."""
    run = tmp_path / "run"
    process = start(train(run, "--runtime", "ray", "--env-steps", str(commanded.LONG)))
    wait_for_checkpoint(run, process)
    (pid,) = [
        pid
        for pid in sockets.tree(process.pid)
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(victim.encode())
    ]
    os.kill(pid, signal.SIGKILL)
    error = commanded.ended(process)
    assert process.returncode == 1
    assert error.startswith(f"recollect: Ray's own process {victim} has died"), error
    assert f"resume {run}" in error
    assert error.count("\n") == 1
    assert status(run)["state"].startswith(f"failed: Ray's own process {victim}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "kwargs", "episodes", "least", "seed"),
    [
        # Seed 1 is that of the run whose parts are killed, in `test_faults_on_ray`.
        *(("recollect/PositionCartPole-v0", {}, 20, 450, seed) for seed in (2, 3)),
        *(("recollect/Recall-v0", {"delay": 30}, 400, 0.95, seed) for seed in (1, 2, 3)),
    ],
)
def test_what_is_learned_inline_is_learned_on_ray(
    tmp_path: Path, env: str, kwargs: dict[str, Any], episodes: int, least: float, seed: int
) -> None:
    """Must show 1; `test_learns` has the same configs inline."""
    mean, _ = score(tmp_path, env, kwargs, seed, episodes, runtime="ray")
    assert mean >= least


def test_python_trains_on_ray_as_it_does_inline(tmp_path: Path) -> None:
    settings = {"env_steps": 600, "min_replay_steps": 60, "evaluation_period": 20}
    run = recollect.train(
        "r2d2",
        env="recollect/Recall-v0",
        env_kwargs={"delay": 4},
        runtime="ray",
        run_dir=tmp_path / "run",
        **settings,
    )
    assert 600 <= run.env_steps < 600 + 16
    assert run.updates > 0
