"""How a run stands, told by its folder: whoever works on it, whatever is damaged."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.run import checkpoint, standing
from recollect.run.folder import LOCK, OWNER, RunFolder
from recollect.run.lock import RunLock, owner
from recollect.run.parts import PartNow
from recollect.run.standing import look, newest_rows
from recollect.types import ConfigError

NOW = 1_767_355_200.0
CONFIG = {"agent": "r2d2", "env": {"id": "recollect/Recall-v0", "kwargs": {}}, "seed": 3}
PARTS = [PartNow("learner", doing="working", pid=4, rate=5.0, unit="updates/s")]


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def status(**more: Any) -> dict[str, Any]:
    return {
        "state": "running",
        "env_steps": 40_000,
        "total_env_steps": 100_000,
        "updates": 160,
        "seconds": 80.0,
        "host": platform.node(),
        "written": iso(NOW),
        **more,
    }


def row(steps: int, **more: Any) -> dict[str, Any]:
    return {"env_steps": steps, "updates": steps // 250, "seconds": steps / 500, **more}


def run_in(path: Path, *rows: dict[str, Any], **more: Any) -> RunFolder:
    """A run of 100,000 steps, 500 of them a second."""
    folder = RunFolder.create(path, CONFIG)
    folder.write_status(status(**more))
    folder.metrics.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def at(seconds: float) -> Any:
    return lambda: NOW + seconds


def test_a_run_at_work_is_running(tmp_run: Path) -> None:
    with RunLock(tmp_run):
        rows = [
            row(10_000, **{"evaluator/return_mean": 9.0}),
            row(30_000, **{"evaluator/return_mean": 7.0, "replay/fill": 0.3, "replay/bytes": 5e6}),
        ]
        run_in(tmp_run, *rows, written=iso(time.time() + 1), parts=[PARTS[0].as_dict()])
        now = look(tmp_run)
        assert owner(tmp_run), "nobody lost the lock"
    assert (now.state, now.works, now.goes_well) == ("running", True, True)
    assert (now.pid, now.host) == (os.getpid(), platform.node())
    assert now.title == "r2d2 on recollect/Recall-v0, seed 3"
    assert now.parts == tuple(PARTS)
    assert (now.updates, now.checkpoint, now.checkpoint_seconds_ago) == (160, "", None)
    seen = now.figures
    assert (seen.env_steps, seen.total_env_steps, seen.done) == (40_000, 100_000, 0.4)
    assert (seen.greedy_return, seen.best_return) == (7.0, 9.0)
    assert (seen.env_steps_per_second, seen.updates_per_second) == (500.0, 2.0)
    assert seen.left_seconds == 60_000 / 500
    assert (seen.fill, seen.replay_bytes) == (0.3, 5e6)
    assert now.problems == ()


@pytest.mark.parametrize(
    ("said", "state", "message"),
    [
        ("running", "killed", ""),
        ("preempted", "preempted", ""),
        ("interrupted", "interrupted", ""),
        ("failed: the loss is NaN: lower it", "failed", "the loss is NaN: lower it"),
        ("finished", "finished", ""),
    ],
)
def test_a_run_that_nobody_works_on_is_what_it_said_last(
    tmp_run: Path, said: str, state: str, message: str
) -> None:
    """C8: the lock says whether its owner lives, not the status."""
    run_in(tmp_run, row(30_000), state=said)
    now = look(tmp_run, at(12))
    assert (now.state, now.message, now.works) == (state, message, False)
    assert now.goes_well == (state == "finished")
    assert now.figures.left_seconds is None
    assert now.figures.elapsed_seconds == 80
    assert (now.pid, now.written_seconds_ago) == (None, 12)


def test_a_lock_that_its_dead_owner_left_is_nobodys(tmp_run: Path) -> None:
    run_in(tmp_run)
    (tmp_run / LOCK).touch()
    (tmp_run / OWNER).write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
    before = sorted(path.name for path in tmp_run.iterdir())
    assert look(tmp_run).state == "killed"
    assert sorted(path.name for path in tmp_run.iterdir()) == before
    with RunLock(tmp_run):
        pass


def test_a_run_whose_lock_cannot_be_seen_from_here_runs_while_it_speaks(tmp_run: Path) -> None:
    run_in(tmp_run, host="another-node", pid=12)
    soon, late = look(tmp_run, at(10)), look(tmp_run, at(standing.STALE_SECONDS + 1))
    assert (soon.state, soon.host, soon.pid) == ("running", "another-node", 12)
    assert late.state == "killed"


def test_a_run_that_is_not_at_its_first_status_yet_is_starting(tmp_run: Path) -> None:
    folder = RunFolder.create(tmp_run, CONFIG)
    assert look(tmp_run).state == "not begun"
    with RunLock(tmp_run):
        assert look(tmp_run).state == "starting"
        folder.write_status(status(state="preempted", written=iso(time.time() - 3600)))
        assert look(tmp_run).state == "starting"  # it was resumed
        folder.write_status(status(state="preempted", written=iso(time.time() + 1)))
        assert look(tmp_run).state == "preempted"  # and is about to leave


def test_before_its_first_status_a_run_is_as_long_as_its_config_says(tmp_run: Path) -> None:
    folder = RunFolder.create(tmp_run, {**CONFIG, "env_steps": 100_000})
    with RunLock(tmp_run):
        now = look(tmp_run).figures
        assert (now.env_steps, now.total_env_steps, now.done) == (0, 100_000, 0.0)
        folder.status_path.write_text("damaged")
        assert look(tmp_run).figures.total_env_steps == 100_000
        config = folder.config_path.read_text()
        folder.config_path.write_text("damaged")
        assert look(tmp_run).figures.total_env_steps == 0
        folder.config_path.write_text(config)
        folder.write_status(status(total_env_steps=80_000))
        assert look(tmp_run).figures.done == 0.5


def test_a_run_that_says_nothing_any_more_is_stale(tmp_run: Path) -> None:
    with RunLock(tmp_run):
        run_in(tmp_run, written=iso(NOW := time.time() + 1))
        assert not look(tmp_run, lambda: NOW + 5).is_stale
        late = look(tmp_run, lambda: NOW + 300)
    assert late.is_stale
    assert late.written_seconds_ago == pytest.approx(300, abs=1)
    assert late.figures.elapsed_seconds == pytest.approx(80 + 300, abs=1)


def test_status_and_lock_are_looked_at_as_of_one_moment(
    tmp_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends between the two looks is finished, not killed."""
    folder = run_in(tmp_run)
    seen = iter([{"pid": 1}, None, None, None])
    monkeypatch.setattr(standing, "owner", lambda _: next(seen))
    reads: list[int] = []

    def read_status(self: RunFolder) -> dict[str, Any]:
        reads.append(1)
        return status(state="running" if len(reads) == 1 else "finished")

    monkeypatch.setattr(RunFolder, "status", read_status)
    assert standing.status_and_owner(folder) == (status(state="finished"), None)


def test_the_newest_checkpoint_and_its_age_are_told(tmp_run: Path) -> None:
    folder = run_in(tmp_run)
    saved = [
        checkpoint.save(
            folder.checkpoints, name, {"w": np.zeros(3)}, {"env_steps": steps, "score": None}
        )
        for name, steps in (("last", 10_000), ("last", 30_000), ("best", 35_000))
    ]
    os.utime(saved[1], (NOW - 90, NOW - 90))
    now = look(tmp_run, at(0))
    assert (now.checkpoint, now.checkpoint_env_steps) == (saved[1].name, 30_000)
    assert now.checkpoint_seconds_ago == 90
    (saved[1] / "manifest.json").write_text("{")
    now = look(tmp_run, at(0))
    assert now.checkpoint_env_steps == 10_000
    (problem,) = now.problems
    assert saved[1].name in problem


def test_a_run_after_its_final_evaluation_tells_it(tmp_run: Path) -> None:
    rows = [row(30_000), row(40_000, **{"final/return_mean": 480.5})]
    run_in(tmp_run, *rows, state="finished")
    assert look(tmp_run).final_return == 480.5


def test_only_the_end_of_long_metrics_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row(step)) for step in range(100)]
    path.write_text("\n".join(lines) + "\n" + '{"env_steps": 7')
    limit = len(lines[-1]) * 5
    assert newest_rows(path, limit) == [row(step) for step in range(96, 100)]
    assert len(newest_rows(path)) == 100


def test_damage_in_metrics_leaves_gaps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    junk = ["{", "[1]", '{"env_steps": "x"}', '{"a": 1}', "[" * 5000, "NaN", "\x00", "1" * 5000]
    good = '{"env_steps": 5, "seconds": NaN, "a": true, "b": 1e400, "c": "x", "e": null, "d": -2}'
    path.write_text("\n".join([*junk, good, '{"env_steps": 6}']) + "\n")
    assert newest_rows(path) == [{"env_steps": 5, "d": -2}, {"env_steps": 6}]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.sampled_from([*status(), "parts", "updates"]), JUNK, max_size=6)


@given(OBJECTS, OBJECTS)
def test_whatever_lies_in_the_folder_is_told_as_json(said: Any, last: Any) -> None:
    """S3: a stranger's run, or a damaged one."""
    import tempfile

    with tempfile.TemporaryDirectory() as inside:
        folder = run_in(Path(inside) / "run", row(5), {**row(6), **last})
        folder.config_path.write_text(json.dumps({**CONFIG, **said}))
        folder.status_path.write_text(json.dumps(said))
        json.dumps(look(folder.path).as_dict(), allow_nan=False)


@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl", "config.json", "checkpoints"])
def test_what_cannot_be_read_is_named_and_the_rest_is_told(tmp_run: Path, name: str) -> None:
    folder = run_in(tmp_run, row(30_000))
    path = tmp_run / name
    path.unlink(missing_ok=True)
    if name == "config.json":
        path.write_text("{")
    elif name == "checkpoints":
        bad = path / f"last-5-{'0' * 16}"
        bad.mkdir(parents=True)
    else:
        os.mkfifo(path)
    now = look(folder)
    (problem,) = now.problems
    assert name in problem
    assert now.state == ("unknown" if name == "status.json" else "killed")
    with RunLock(tmp_run):
        assert look(folder).works or name != "status.json"


def test_where_there_is_no_run_the_nearest_is_named(tmp_path: Path) -> None:
    run_in(tmp_path / "first")
    with pytest.raises(ConfigError, match=r"Did you mean .*first"):
        look(tmp_path / "frist")


def test_as_json_the_figures_stand_beside_the_rest(tmp_run: Path) -> None:
    run_in(tmp_run, row(30_000), parts=[PARTS[0].as_dict()])
    now = look(tmp_run, at(0))
    found = json.loads(json.dumps(now.as_dict(), allow_nan=False))
    assert found["parts"] == [PARTS[0].as_dict()]
    assert (found["state"], found["goes_well"], found["is_stale"]) == ("killed", False, False)
    assert asdict(now.figures).items() <= found.items()
    assert "figures" not in found


def test_its_clock_does_not_go_back(tmp_run: Path) -> None:
    """Rows are newer than the status; both come while time goes on, a second of it each second."""
    with RunLock(tmp_run):
        begun, seen = time.time() + 1, []
        folder = run_in(tmp_run)
        for tick in range(1, 80):
            now = 0.25 * tick
            written = datetime.datetime.fromtimestamp(begun + now, datetime.UTC)
            if tick % 23 == 1:
                folder.write_status(
                    status(env_steps=tick, seconds=now, written=written.isoformat())
                )
            if tick % 9 == 0:
                with open(folder.metrics, "a") as file:
                    file.write(json.dumps({"env_steps": tick, "seconds": now}) + "\n")
            seen.append(look(tmp_run, lambda: begun + now).figures.elapsed_seconds - now)  # noqa: B023
    assert max(map(abs, seen)) < 0.01


def test_a_row_whose_steps_are_beyond_all_measure_is_left_out(tmp_run: Path) -> None:
    folder = run_in(tmp_run, {"env_steps": 10**15, "seconds": 1.0})
    assert newest_rows(folder.metrics) == []
    assert look(tmp_run).figures.env_steps == 40_000
