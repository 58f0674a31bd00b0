from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.run import metrics
from recollect.run.metrics import MetricsLog, is_wall_clock, read_metrics, without_wall_clock
from recollect.types import ConfigError


def write(folder: Path, *rows: dict[str, Any]) -> None:
    with MetricsLog(folder, tensorboard=False) as log:
        for row in rows:
            log.write(row)


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"env_steps": 5, "seconds": 0.5, "actor/return_mean": 1.5},
        {"env_steps": 10, "note": "a \n line, ü", "evaluator/return_ci95": [1.0, 2.0]},
    ]
    write(tmp_path, *rows)
    assert read_metrics(tmp_path / "metrics.jsonl") == rows
    assert read_metrics(tmp_path) == rows


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    write(tmp_path, {"env_steps": 1, "a": float("nan"), "b": -np.inf, "c": [1.0, np.inf]})
    assert read_metrics(tmp_path) == [{"env_steps": 1, "a": None, "b": None, "c": [1.0, None]}]


def test_numpy_numbers_become_plain_ones(tmp_path: Path) -> None:
    row = {
        "env_steps": np.int64(7),
        "a": np.float32(0.5),
        "b": np.array([1, 2]),
        "c": np.array(3.0),
        "d": np.bool_(True),
    }
    write(tmp_path, row)
    expected = {"env_steps": 7, "a": 0.5, "b": [1, 2], "c": 3.0, "d": True}
    assert read_metrics(tmp_path) == [expected]


def test_a_row_without_env_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs 'env_steps', this one has \['updates'\]"):
        write(tmp_path, {"updates": 1})


def test_a_value_that_is_no_figure_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="metric 'learner/loss' is a dict"):
        write(tmp_path, {"env_steps": 1, "learner/loss": {}})
    assert read_metrics(tmp_path) == []


def test_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"env_steps": 1}, {"env_steps": 2})
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert read_metrics(path) == ([{"env_steps": 1}] if cut >= first else [])


def test_appending_after_a_cut_line_damages_nothing(tmp_path: Path) -> None:
    write(tmp_path, {"env_steps": 1})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"env_steps": 2, "x": "' + b"y" * 200_000)
    write(tmp_path, {"env_steps": 3})
    assert read_metrics(tmp_path) == [{"env_steps": 1}, {"env_steps": 3}]


@pytest.mark.parametrize("damage", [b"{oops}\n", b"\xff\xff\n", b"[1]\n", b"\n", b"[" * 99_999])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    end = b"" if damage.endswith(b"\n") else b"\n"
    path.write_bytes(b'{"env_steps": 1}\n' + damage + end + b'{"env_steps": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected"):
        read_metrics(path)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.floats()))))
def test_any_row_is_one_line_that_reads_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    rows = [{**row, "env_steps": index} for index, row in enumerate(rows)]
    write(folder, *rows)
    expected = [
        {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
        for row in rows
    ]
    assert read_metrics(folder) == expected


class Disk:
    """A disk that is full while `full` is set, and then takes the first bytes of a write only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self._write = os.write
        self._took = False
        monkeypatch.setattr(os, "write", self.write)

    def write(self, file: int, data: bytes) -> int:
        if not self.full:
            return self._write(file, data)
        self._took = not self._took
        if self._took:
            return self._write(file, data[:4])
        raise OSError(28, "No space left on device")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_rows_that_a_full_disk_refuses_wait_for_the_next_it_takes(
    tmp_path: Path, disk: Disk
) -> None:
    """C6: they lie in the file in order; it never holds a part of one."""
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write({"env_steps": 1})
    disk.full = True
    with pytest.warns(RuntimeWarning, match=r"metrics\.jsonl cannot be written \(No space left on"):
        log.write({"env_steps": 2})
    log.write({"env_steps": 3})
    assert not log.sync()
    assert (log.failed, log.rows) == (3, 3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"env_steps":1}\n'
    disk.full = False
    log.write({"env_steps": 4})
    assert [row["env_steps"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert log.sync()
    assert (log.failed, log.rows, log.dropped) == (3, 4, 0)
    log.close()
    log.close()
    with pytest.raises(ValueError, match="was closed: open a new log"):
        log.write({"env_steps": 5})


def test_what_a_failed_write_left_is_cut_off_later_if_it_cannot_be_now(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write({"env_steps": 1})
        disk.full = True
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", fail)
            with pytest.warns(RuntimeWarning, match="cannot be written"):
                log.write({"env_steps": 2})
        assert not (tmp_path / "metrics.jsonl").read_bytes().endswith(b"\n")
        disk.full = False
    assert [row["env_steps"] for row in read_metrics(tmp_path)] == [1, 2]


def test_the_oldest_waiting_row_goes_when_too_many_wait(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "ROWS_WAITING_LIMIT", 3)
    log = MetricsLog(tmp_path, tensorboard=False)
    disk.full = True
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        log.write({"env_steps": 0})
    for step in range(1, 5):
        log.write({"env_steps": step})
    assert (log.rows, log.dropped, log.failed) == (3, 2, 5)
    with pytest.warns(RuntimeWarning, match=r"3 rows were never written to .*metrics\.jsonl"):
        log.close()
    assert read_metrics(tmp_path) == []


def test_a_resumed_log_moves_later_rows_aside(tmp_path: Path) -> None:
    write(tmp_path, *({"env_steps": step} for step in range(5)))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with MetricsLog(tmp_path, tensorboard=False, keep_rows=2) as log:
        assert log.rows == 2
        log.write({"env_steps": 7})
        assert log.rows == 3
    with MetricsLog(tmp_path, tensorboard=False, keep_rows=2):
        pass
    assert [row["env_steps"] for row in read_metrics(tmp_path)] == [0, 1]
    aside = [[r["env_steps"] for r in read_metrics(p)] for p in sorted(tmp_path.glob("*-aside-*"))]
    assert aside == [[2, 3, 4], [7]]
    assert whole == b"".join(
        (tmp_path / name).read_bytes() for name in ("metrics.jsonl", "metrics-aside-1.jsonl")
    )


@pytest.mark.parametrize("keep", [0, 3])
def test_nothing_is_moved_aside_where_nothing_follows(tmp_path: Path, keep: int) -> None:
    write(tmp_path, *({"env_steps": step} for step in range(keep)))
    with MetricsLog(tmp_path, tensorboard=False, keep_rows=keep) as log:
        assert log.rows == keep
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
    with pytest.raises(ValueError, match="keep_rows must be 0 or more, got -1"):
        MetricsLog(tmp_path, keep_rows=-1)


def test_rows_that_are_missing_when_a_run_is_resumed_are_said(tmp_path: Path) -> None:
    write(tmp_path, {"env_steps": 1})
    with pytest.warns(RuntimeWarning, match=r"has 1 rows, and had 4 when .* saved: 3 are missing"):
        log = MetricsLog(tmp_path, tensorboard=False, keep_rows=4)
    log.close()
    assert read_metrics(tmp_path) == [{"env_steps": 1}]


@pytest.mark.parametrize("call", ["fsync", "pread"])
def test_later_rows_that_find_no_room_aside_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write(tmp_path, *({"env_steps": step} for step in range(5)))
    real, calls = getattr(os, call), []

    def fail(*arguments: Any) -> Any:
        calls.append(arguments)
        if call == "pread" and len(calls) == 1:  # the one that looks for the last whole line
            return real(*arguments)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            MetricsLog(tmp_path, tensorboard=False, keep_rows=2)
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
    assert [row["env_steps"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs the names of open files")
def test_later_rows_are_durable_aside_before_they_are_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *({"env_steps": step} for step in range(5)))
    tape: list[str] = []

    def record(call: str) -> None:
        real = getattr(os, call)

        def recorded(file: int, *arguments: Any) -> Any:
            tape.append(f"{call} {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
            return real(file, *arguments)

        monkeypatch.setattr(os, call, recorded)

    record("fsync")
    record("ftruncate")
    MetricsLog(tmp_path, tensorboard=False, keep_rows=2).close()
    aside = [f"fsync {name}" for name in ("metrics-aside-1.jsonl", tmp_path.name)]
    cut = [f"{call} metrics.jsonl" for call in ("ftruncate", "fsync")]
    assert tape == ["ftruncate metrics.jsonl", *aside, *cut]  # the first: a line cut short


def test_what_is_no_file_is_neither_read_nor_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years of work")
    path = tmp_path / "metrics.jsonl"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="expected a regular file, found a pipe"):
        MetricsLog(tmp_path)
    with pytest.raises(ValueError, match="expected a regular file, found a pipe"):
        read_metrics(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: expected a regular file, found a link"):
        MetricsLog(tmp_path)
    assert (tmp_path / "precious").read_text() == "years of work"


def test_tensorboard_forgets_what_lies_behind_the_point_of_resuming(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in (10, 20, 30, 40):
            log.write({"env_steps": step, "a": 1.0})
    with MetricsLog(tmp_path, keep_rows=2) as log:
        log.write({"env_steps": 25, "a": 2.0})

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("a")
    assert [(event.step, event.value) for event in seen] == [
        (10, 1.0),
        (20, 1.0),
        (25, 2.0),
    ]


def test_numbers_are_mirrored_to_tensorboard_against_env_steps(tmp_path: Path) -> None:
    before = "torch" in sys.modules
    with MetricsLog(tmp_path) as log:
        log.write({"env_steps": 50, "actor/return_mean": 1.5, "note": "text", "x": np.nan})
        log.write({"env_steps": 100, "actor/return_mean": 2.5, "updates": 3})
    assert ("torch" in sys.modules) == before

    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (events,) = (tmp_path / "tensorboard").iterdir()
    seen = {
        (event.step, value.tag): value.tensor.float_val[0]
        for event in EventFileLoader(str(events)).Load()
        for value in event.summary.value
    }
    assert seen == {
        (50, "actor/return_mean"): 1.5,
        (100, "actor/return_mean"): 2.5,
        (100, "updates"): 3,
    }


def test_no_events_are_written_when_none_are_wanted(tmp_path: Path) -> None:
    write(tmp_path, {"env_steps": 1, "a": 2.0})
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_broken_mirror_warns_once_and_the_rows_go_on(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with MetricsLog(tmp_path) as log:
        with pytest.warns(RuntimeWarning, match=r"TensorBoard events stop here"):
            log.write({"env_steps": 1, "a": 2.0})
        log.write({"env_steps": 2, "a": 2.0})
    assert [row["env_steps"] for row in read_metrics(tmp_path)] == [1, 2]


def test_wall_clock_fields_are_known_by_their_names() -> None:
    row = {
        "env_steps": 1,
        "seconds": 1.0,
        "run/actor_seconds": 2.0,
        "learner/updates_per_second": 3.0,
        "run/memory_bytes_resident": 4.0,
        "checkpoint/failed": 1.0,
        "replay/bytes": 5.0,
        "actor/return_mean": 6.0,
    }
    kept = ["env_steps", "replay/bytes", "actor/return_mean"]
    assert list(without_wall_clock(row)) == kept
    assert not any(is_wall_clock(name) for name in kept)


def test_the_file_is_plain_json_lines(tmp_path: Path) -> None:
    write(tmp_path, {"env_steps": 1, "a": 0.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"env_steps": 1, "a": 0.5}]


def test_a_file_deleted_under_a_running_log_is_written_anew(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write({"env_steps": 1})
        log.sync()
        log.path.unlink()
        log.write({"env_steps": 2})
        with pytest.warns(RuntimeWarning, match="was deleted while the run writes it: its rows"):
            log.sync()
        log.write({"env_steps": 3})
        assert log.sync()
    assert [row["env_steps"] for row in read_metrics(tmp_path)] == [1, 2, 3]
