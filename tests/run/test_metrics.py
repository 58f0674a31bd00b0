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

from recollect.run.metrics import MetricsLog, is_wall_clock, read_metrics, without_wall_clock


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


def test_a_write_that_fails_half_way_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6: a full disk costs a row, never the file."""
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write({"env_steps": 1})
    whole, calls = os.write, []

    def short_then_full(file: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return whole(file, data[:4])

    monkeypatch.setattr(os, "write", short_then_full)
    with pytest.raises(OSError, match="No space left"):
        log.write({"env_steps": 2})
    monkeypatch.undo()
    log.write({"env_steps": 3})
    log.close()
    log.close()
    assert read_metrics(tmp_path) == [{"env_steps": 1}, {"env_steps": 3}]


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
