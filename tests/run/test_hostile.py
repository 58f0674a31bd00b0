"""C3: what a stranger may have written is refused, quickly, in little memory, and never run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recollect.run import files, segments, strict_json, tensors
from recollect.run.damage import CheckpointError

SECONDS = 2.0
MEMORY = 64 << 20
ROOT = Path(__file__).parents[2]


def test_every_hostile_checkpoint_is_refused_and_nothing_of_it_is_run(tmp_path: Path) -> None:
    """By CheckpointError from `load` and from `find`, within 2 s and 64 MB beyond its size.

    An audit hook sees no unpickling, no process started, nothing imported, and no file opened
    outside the checkpoint's folder.
    """
    command = [sys.executable, "-m", "tests.run.hostile_reader", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    proof, *cases = [json.loads(line) for line in done.stdout.splitlines()]
    check_the_hook(proof)
    faults = [(case["name"], fault) for case in cases if (fault := fault_of(case))]
    assert not faults, faults[:5]
    assert len(cases) > 390
    slowest = max(cases, key=lambda case: case["seconds"])
    hungriest = max(cases, key=lambda case: case["memory"] - case["size"])
    print(f"{len(cases)} hostile checkpoints; slowest {slowest['name']} {slowest['seconds']:.2f} s")
    beyond = (hungriest["memory"] - hungriest["size"]) / 2**20
    print(f"most memory beyond its size: {hungriest['name']} {beyond:.1f} MiB")


def check_the_hook(proof: dict[str, Any]) -> None:
    """That it sees what it is there to see; else that it saw nothing would prove nothing."""
    assert any(event.startswith("pickle.find_class") for event in proof["unpickled"])
    assert any(event.startswith("os.mkdir") for event in proof["unpickled"])
    assert any(event.startswith("subprocess.Popen") for event in proof["started"])
    assert any(event.startswith("import") for event in proof["imported"])
    assert proof["opened"] == ["open '/etc/passwd'"]
    assert proof["good"]["outcome"] == ["loaded", "loaded"]
    assert proof["good"]["events"] == []


def fault_of(case: dict[str, Any]) -> str:
    """What is wrong with how one was refused, if anything."""
    refused = [each for each in case["outcome"] if each.startswith("CheckpointError: ")]
    if len(refused) != 2 or refused != case["outcome"]:
        return f"not refused: {case['outcome']}"
    if not refused[0].isascii() or len(refused[0]) == 600:
        return f"a message of {refused[0]}"
    if case["seconds"] > SECONDS:
        return f"{case['seconds']:.1f} s"
    if case["memory"] > case["size"] + MEMORY:
        return f"{case['memory']:,} bytes of memory"
    if case["events"] or case["marker"]:
        return f"run: {case['events']}"
    return ""


@pytest.mark.parametrize("text", ["[1]", '{"a": 1, "a": 1}', '{"a": "\\ud800"}', "{", "\ufeff{}"])
def test_json_of_two_meanings_or_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="here: expected"):
        strict_json.parse(text.encode(), "here")


def test_what_json_may_hold_has_limits_and_up_to_them_it_is_read() -> None:
    digits, depth = strict_json.DIGITS_LIMIT, strict_json.DEPTH_LIMIT
    assert strict_json.parse(b'{"a": %s}' % (b"9" * digits), "") == {"a": 10**digits - 1}
    with pytest.raises(ValueError, match="a whole number of 1,001 digits"):
        strict_json.parse(b'{"a": %s}' % (b"9" * (digits + 1)), "")
    nested = b'{"a": %s}' % (b"[" * (depth - 1) + b"]" * (depth - 1))
    assert strict_json.parse(nested, "")
    with pytest.raises(ValueError, match="nesting deeper than 100"):
        strict_json.parse(nested.replace(b"[]", b"[[]]"), "")


def test_names_of_segments_have_one_spelling() -> None:
    assert segments.number_of("segment-0.safetensors") == 0
    assert segments.number_of(segments.file_name(2**31 - 1)) == 2**31 - 1
    for name in ("segment-00.safetensors", "segment-.safetensors", segments.file_name(2**31)):
        assert segments.number_of(name) is None


def test_a_file_that_changes_into_a_pipe_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and its opening."""
    import os

    path = tmp_path / "file"
    path.write_bytes(b"x")
    status = os.lstat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(files.os, "lstat", lambda _: status)
    with (
        pytest.raises(CheckpointError, match="expected a regular file, found a pipe"),
        files.open_regular(path),
    ):
        pass


def test_arrays_that_are_written_are_within_what_is_read() -> None:
    import numpy as np

    for name in ("", "__metadata__", "\ud800", "a" * 5000):
        with pytest.raises(ValueError, match="parameters"):
            tensors.encode({name: np.zeros(1)}, "parameters")
