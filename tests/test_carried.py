"""What a run carries from one process to the next, beside the parts' own states."""

from __future__ import annotations

import contextlib
import os
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recollect
from recollect.agents.learning import named_arrays
from recollect.agents.r2d2 import Learner
from recollect.run import checkpoint
from recollect.run.checkpoint import Checkpoint, Checkpoints
from recollect.run.folder import RunFolder
from recollect.run.metrics import read_metrics, without_wall_clock
from recollect.run.signals import Interrupted
from recollect.runtime.inline import Inline
from recollect.training import loop
from recollect.training.execution import _refuse_changes
from recollect.training.job import Job
from recollect.training.loop import Training
from recollect.types import DivergedError, NotSavedError
from tests.agents import clockwork

assert clockwork.Clock, "importing it registers tests/Clock-v0"


def train(folder: Path, **settings: Any) -> recollect.Run:
    """One slot and 600 steps: a row every 3 steps."""
    words: dict[str, Any] = {
        "network": "tests.agents.clockwork:Counter",
        "run_dir": folder,
        "env_steps": 600,
        "seed": 7,
        "actors": 1,
        "min_replay_steps": 100,
        "burn_in": 4,
        "trace_length": 8,
        "period": 4,
        "n_step": 2,
        "batch_size": 4,
        "target_period": 1000,
        "publish_period": 100,
        "evaluation_period": 40,
        "evaluation_episodes": 2,
    }
    return recollect.train("r2d2", env="tests/Clock-v0", **words | settings)


def newest(folder: Path, name: str = "last") -> Checkpoint:
    found = checkpoint.find(RunFolder.open(folder).checkpoints, name)
    return checkpoint.load(found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("whole") / "run").folder


def stopped_at(look: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """What a training saved that was stopped when it looked for the so-manieth time."""
    looks = count(1)
    with monkeypatch.context() as patched:
        patched.setattr(Training, "_must_stop", lambda _: next(looks) >= look)
        with pytest.raises(Interrupted):
            train(folder)
    assert RunFolder.open(folder).status()["state"] == "preempted"
    return newest(folder)


def test_rows_and_seconds_go_on_from_between_two_rows(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    before = stopped_at(200, run, monkeypatch)
    assert before.env_steps % 3, "there is a row every three steps"
    resumed = recollect.resume(run, verbose=True)
    assert "bit for bit" not in capsys.readouterr().out
    found, wanted = read_metrics(run), read_metrics(whole)
    assert [without_wall_clock(row) for row in found] == [without_wall_clock(r) for r in wanted]
    seconds = [row["seconds"] for row in found]
    assert seconds == sorted(seconds)
    assert resumed.seconds == seconds[-1]
    assert newest(run).meta["rows"] == newest(whole).meta["rows"]


def test_other_arithmetic_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    stopped_at(20, run, monkeypatch)
    monkeypatch.setattr(loop, "_arithmetic", lambda job: "beads")
    recollect.resume(run, verbose=True)
    assert "and goes on with beads: from here on it is not bit for bit" in capsys.readouterr().out


def test_a_resumed_run_knows_its_checkpoint_before_it_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And links what lies there."""
    run, given = tmp_path / "run", []
    before = stopped_at(20, run, monkeypatch)
    statuses: list[dict[str, Any]] = []
    write, make = RunFolder.write_status, Checkpoints.__init__

    def written(self: RunFolder, status: dict[str, Any]) -> None:
        statuses.append(status)
        write(self, status)

    def made(self: Checkpoints, *args: Any, **how: Any) -> None:
        given.append(how["resume_from"])
        make(self, *args, **how)

    monkeypatch.setattr(RunFolder, "write_status", written)
    monkeypatch.setattr(Checkpoints, "__init__", made)
    recollect.resume(run)
    assert given == [before.path]
    assert statuses[0]["checkpoint"] == {"name": before.path.name, "env_steps": before.env_steps}


@pytest.mark.parametrize("name", ["learning_rate", "agent", "actors", "network", "preset"])
def test_no_setting_of_the_checkpoint_may_be_another(whole: Path, name: str) -> None:
    folder = RunFolder.open(whole)
    saved = dict(newest(whole).meta["job"])
    job = Job.from_dict(folder.config())
    _refuse_changes(saved, job, whole)
    inner = saved["config"]
    changed = {**saved, name: "x"} if name in saved else {**saved, "config": {**inner, name: 9}}
    with pytest.raises(recollect.ConfigError, match=f"^{name} is .* in config.json and was"):
        _refuse_changes(changed, job, whole)
    fixed = {**saved, "config": {**inner, "decay_steps": 5}}
    with pytest.raises(recollect.ConfigError, match=r"decay_steps is .* and was 5"):
        _refuse_changes(fixed, job, whole)


def test_anothers_parameters_are_in_every_role_from_the_first_step(
    whole: Path, tmp_path: Path
) -> None:
    """Nothing is learned and nothing published later."""
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        run = train(tmp_path / "new", start_from=whole, env_steps=50)
    wanted, found = newest(whole).state, newest(run.folder).state
    assert wanted is not None
    assert found is not None
    vector = wanted["parts"]["learner"]["online"]
    assert (vector != 0).any()
    assert not np.array_equal(vector, wanted["parts"]["learner"]["target"])
    parts = found["parts"]
    for own in (
        parts["learner"]["online"],
        parts["learner"]["target"],
        parts["parameters"]["latest"]["vector"],
        parts["actor/0"]["policy"],
    ):
        np.testing.assert_array_equal(own, vector)


def test_a_run_without_a_checkpoint_begins_anew_with_anothers_parameters(
    whole: Path, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        run = train(tmp_path / "new", start_from=whole, env_steps=50).folder
    wanted = newest(run).parameters
    shutil.rmtree(run / "checkpoints")
    (run / "status.json").unlink()
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.resume(run)
    found = newest(run).parameters
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_the_best_are_those_evaluated_and_the_last_play_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters are published every 30 updates, and evaluated at the 60th of 70 or so."""
    vectors: list[np.ndarray] = []
    play = loop.evaluate_on

    def played(env: Any, policy: Any, *args: Any, **how: Any) -> Any:
        vectors.append(policy.vector())
        return play(env, policy, *args, **how)

    monkeypatch.setattr(loop, "evaluate_on", played)
    run = train(tmp_path / "run", publish_period=30, evaluation_period=60).folder
    state = newest(run).state
    assert state is not None
    learner, evaluator = state["parts"]["learner"], state["parts"]["evaluator"]
    assert learner["updates"] % 30
    np.testing.assert_array_equal(vectors[0], learner["online"])
    best = newest(run, "best")
    flat = recollect.load(run, "best").policy.vector()
    np.testing.assert_array_equal(flat, evaluator["best"]["vector"])
    assert best.meta["updates"] == evaluator["best"]["version"][1]


def test_what_is_kept_of_a_failure_are_the_online_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, kept = Learner.step, {}

    def failing(self: Learner) -> None:
        step(self)
        if self.updates == 5:
            kept.update(named_arrays(self.network))
            assert any((kept[n] != x).any() for n, x in named_arrays(self.target).items())
            raise DivergedError("nothing is finite")

    monkeypatch.setattr(Learner, "step", failing)
    with pytest.raises(DivergedError):
        train(tmp_path / "run")
    found = newest(tmp_path / "run", "failed").parameters
    assert {name: x.tolist() for name, x in found.items()} == {
        name: x.tolist() for name, x in kept.items()
    }
    assert RunFolder.open(tmp_path / "run").status()["state"] == "failed: nothing is finite"


@pytest.mark.parametrize("failures", [1, 100])
def test_a_save_that_fails_is_counted_tried_again_and_in_the_end_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    save, tries = Checkpoints.save, count(1)

    def full(self: Checkpoints, name: str, **what: Any) -> Any:
        if name == "last" and next(tries) <= failures:
            raise OSError(28, "No space left on device")
        return save(self, name, **what)

    monkeypatch.setattr(Checkpoints, "save", full)
    run = tmp_path / "run"
    ends: Any = contextlib.nullcontext()
    if failures > 1:
        ends = pytest.raises(NotSavedError, match="there is no checkpoint of it")
    with pytest.warns(RuntimeWarning, match="a checkpoint could not be saved") as told, ends:
        train(run, evaluation_period=0)
    assert len(told) == 1, "once, until it succeeds"
    assert read_metrics(run)[-1]["checkpoint/failed"] == 1
    state = RunFolder.open(run).status()["state"]
    if failures == 1:
        assert state == "finished"
        assert newest(run).env_steps == 600
    else:
        assert state.startswith("failed: the run could not be saved (")
        assert (newest(run, "failed").parameters).keys() == {"weight"}


def test_a_run_whose_best_was_never_saved_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, run = Checkpoints.save, tmp_path / "run"

    def full(self: Checkpoints, name: str, **what: Any) -> Any:
        if name == "best":
            raise OSError(28, "No space left on device")
        return save(self, name, **what)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", full)
        with (
            pytest.warns(RuntimeWarning, match="a checkpoint could not be saved"),
            pytest.raises(NotSavedError, match="could not be saved"),
        ):
            train(run, env_steps=300)
    assert newest(run).env_steps == 300
    assert RunFolder.open(run).status()["state"].startswith("failed: the run could not be saved (")
    recollect.resume(run)
    assert newest(run, "best").parameters.keys() == {"weight"}
    assert RunFolder.open(run).status()["state"] == "finished"


def test_the_rows_that_a_checkpoint_counts_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, synced, counted = tmp_path / "run", [0], []
    metrics = run / "metrics.jsonl"
    fsync, take = os.fsync, Inline.state_dict
    snapshot = Training._snapshot

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        if metrics.exists() and os.path.samestat(os.fstat(descriptor), metrics.stat()):
            synced.append(len(read_metrics(run)))

    def taken(self: Inline, *given: Any) -> dict[str, Any]:
        counted.append([synced[-1]])
        return take(self, *given)

    def made(self: Training, take: Any) -> dict[str, Any] | None:
        what = snapshot(self, take)
        assert what is not None
        counted[-1].append(what["meta"]["rows"])
        return what

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Inline, "state_dict", taken)
    monkeypatch.setattr(Training, "_snapshot", made)
    stopped_at(20, run, monkeypatch)
    assert counted
    for on_disk, rows in counted:
        assert on_disk == rows > 0
