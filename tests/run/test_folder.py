from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recollect.run import folder
from recollect.run.folder import RunFolder, default_run_dir, read_json, reason, write_atomic
from recollect.types import ConfigError

CONFIG = {"agent": "r2d2", "env": {"id": "X-v0", "kwargs": {}}, "seed": 3, "gamma": 0.997}


def test_a_created_run_opens_with_the_same_config(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a" / "run", CONFIG)
    assert RunFolder.open(tmp_path / "a" / "run").config() == CONFIG


def test_a_run_folder_is_path_like(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    assert Path(run) == tmp_path / "run"
    assert sorted(os.listdir(run)) == ["config.json", "system.json"]


def test_system_json_says_where_it_ran(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    system = json.loads(run.system_path.read_text())
    assert system["python"] == sys.version
    assert system["cpu_count"] == os.cpu_count()
    assert system["packages"]["numpy"]
    assert set(system) >= {"platform", "memory_bytes", "machine"}


def test_an_empty_folder_can_become_a_run(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, CONFIG).config() == CONFIG


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(
        ConfigError, match="run already holds a run: name another folder, or delete"
    ):
        RunFolder.create(tmp_path / "run", {"other": 1})
    assert RunFolder.open(tmp_path / "run").config() == CONFIG


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"not empty \(it holds thesis\.tex\).*another folder"):
        RunFolder.create(tmp_path, CONFIG)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file, and a run needs a folder"):
        RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(ConfigError, match="run is a file, and a run needs a folder"):
        RunFolder.create(tmp_path / "run" / "below" / "it", CONFIG)
    with pytest.raises(ConfigError, match=r"cannot be made: File name too long\. Name another"):
        RunFolder.create(tmp_path / ("long" * 100), CONFIG)


def test_a_folder_where_one_may_not_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConfigError, match=f"cannot be made: one may not write in {tmp_path}"):
        RunFolder.create(tmp_path / "a" / "run", CONFIG)


def test_a_config_that_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    for bad in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises(ConfigError, match="cannot be written as JSON"):
            RunFolder.create(tmp_path / "run", bad)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_creation_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    calls: list[object] = []
    replace = os.replace

    def fail(source: object, target: object) -> None:
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError(28, "No space left on device")
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        RunFolder.create(tmp_path / "run", CONFIG)
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    assert RunFolder.create(tmp_path / "run", CONFIG).config() == CONFIG


def test_opening_what_is_no_run_names_the_nearest_one_beside_it(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "r2d2-CartPole-s1", CONFIG)
    with pytest.raises(ConfigError, match=r"is not a folder\. Did you mean .*r2d2-CartPole-s1\?"):
        RunFolder.open(tmp_path / "r2d2-CartPole-s2")
    with pytest.raises(ConfigError, match=r"There is 1 run in .*, none with a name near"):
        RunFolder.open(tmp_path / "zzzz")


def test_opening_what_holds_runs_or_lies_in_one_names_them(tmp_path: Path) -> None:
    for n in range(7):
        (RunFolder.create(tmp_path / f"run{n}", CONFIG).checkpoints / "last").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"It holds runs: \S+run0, .*run4 and 2 more"):
        RunFolder.open(tmp_path)
    for inside in ("checkpoints", "checkpoints/last", "config.json"):
        with pytest.raises(ConfigError, match=r"Did you mean .*/run3\?"):
            RunFolder.open(tmp_path / "run3" / inside)
    with pytest.raises(ConfigError, match="a run is a folder, got an empty name"):
        RunFolder.open("")


def test_what_the_system_refused_is_said_without_its_number() -> None:
    assert reason(OSError(28, "No space left on device", "a.json")) == (
        "a.json: No space left on device"
    )
    assert reason(OSError(28, "No space left on device")) == "No space left on device"
    assert reason(ValueError("damaged")) == "damaged"


def test_opening_where_there_are_no_runs_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no config\.json\. There are no runs in"):
        RunFolder.open(tmp_path / "empty")
    with pytest.raises(ConfigError, match="There are no runs in"):
        RunFolder.open(tmp_path / "not" / "there")


@pytest.mark.parametrize(
    "damage",
    [b"", b'{"agent": "r2', b"[1]", b"\xff\xfe\x00", b"[" * 200_000, b"\0" * 100],
    ids=["empty", "cut", "list", "binary", "deep", "zeros"],
)
def test_a_damaged_config_is_refused_by_name(tmp_path: Path, damage: bytes) -> None:
    """F1: any file is either valid or a ConfigError."""
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.config_path.write_bytes(damage)
    with pytest.raises(ConfigError, match=r"config\.json: expected"):
        RunFolder.open(tmp_path / "run").config()


def test_an_oversized_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "big.json").write_bytes(b'{"a": "' + b"x" * 100 + b'"}')
    with pytest.raises(ValueError, match=r"big\.json: expected at most 50 bytes, found more"):
        read_json(tmp_path / "big.json", 50)


def test_status_is_replaced_whole(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    assert run.status() == {}
    run.write_status({"state": "running"})
    run.write_status({"state": "finished", "env_steps": 7})
    assert run.status() == {"state": "finished", "env_steps": 7}


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_atomic(tmp_path / "a.json", b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output"):
        write_atomic(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_default_folder_says_agent_environment_seed_and_time(tmp_path: Path) -> None:
    path = default_run_dir("r2d2", "my.module:recollect/PositionCartPole-v0", 1, tmp_path)
    assert path.parent == tmp_path
    assert path.name.startswith("r2d2-PositionCartPole-v0-s1-20")


def test_two_default_folders_of_one_second_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260102-120000")
    names = []
    for _ in range(3):
        path = default_run_dir("r2d2", "X v0!", 1, tmp_path)
        path.mkdir()
        names.append(path.name)
    first = "r2d2-X_v0_-s1-20260102-120000"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_nothing_heavy_is_imported_with_these_modules() -> None:
    code = (
        "import sys; from recollect.run import folder, metrics, progress, checkpoint, curves, "
        "statistics; print([m for m in ('torch', 'tensorboard', 'matplotlib', 'rich', 'scipy', "
        "'numba', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "hostile",
    [
        b'{"a": ' + b"9" * 100_000 + b"}",
        b'{"a": -' + b"9" * 1_001 + b"}",
        b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a": ' * 101 + b"1" + b"}" * 101,
        b"[" * 4_000_000,
        b'{"a":' * 800_000,
    ],
    ids=["digits", "minus", "lists", "objects", "unclosed", "unclosed objects"],
)
def test_hostile_json_is_refused_by_name(tmp_path: Path, hostile: bytes) -> None:
    (tmp_path / "a.json").write_bytes(hostile)
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # ours is the only limit
    try:
        with pytest.raises(ValueError, match=r"a\.json: expected"):
            read_json(tmp_path / "a.json", 4 << 20)
    finally:
        sys.set_int_max_str_digits(digits)


def test_json_of_the_allowed_depth_and_length_is_read(tmp_path: Path) -> None:
    text = '{"a": ' + "[" * 99 + "9" * 1_000 + "]" * 99 + ', "b": "' + "[{" * 200 + '"}'
    (tmp_path / "a.json").write_text(text)
    assert read_json(tmp_path / "a.json", 4 << 20) == json.loads(text)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """Reading a pipe that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zero", tmp_path):
        with pytest.raises(ValueError, match=f"{path.name}: expected a regular file, found a pipe"):
            read_json(path, 50)
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    assert read_json(tmp_path / "link", 50) == {}


def test_a_full_disk_costs_a_status_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6."""
    run = RunFolder.create(tmp_path / "run", CONFIG)
    assert run.write_status({"state": "running"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not run.write_status({"state": "finished"})
    assert run.status() == {"state": "running"}


def test_nothing_is_written_through_a_link_beside(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years of work")
    beside = tmp_path / f".a.json.{os.getpid()}-{threading.get_native_id()}.tmp"
    beside.symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "a.json", b"new")
    assert (tmp_path / "precious").read_text() == "years of work"
    assert (tmp_path / "a.json").read_bytes() == b"new"


def test_a_new_name_is_made_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(
        folder, "fsync_folder", lambda path: synced.append((path, (tmp_path / "a").exists()))
    )
    write_atomic(tmp_path / "a", b"text")
    assert synced == [(tmp_path, True)]
