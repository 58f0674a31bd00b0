"""R5: what is in a killed cluster's sessions ends, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recollect.runtime import guard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# Its child stays in its session, but in a process group of its own, as Ray's workers do.
LEADER = """
import subprocess, sys
words = [sys.executable, "-c", "import sys; sys.stdin.read()"]
child = subprocess.Popen(words, process_group=0, stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def led() -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def guarded(folder: Path, told: str) -> None:
    words = [sys.executable, "-I", "-S", guard.__file__, str(folder)]
    subprocess.run(words, input=told, text=True, check=True, timeout=30)


def test_without_a_good_end_the_sessions_are_killed_and_the_folder_removed(tmp_path: Path) -> None:
    ours, others = led(), led()
    assert len(guard.members({ours.pid})) == 2
    (tmp_path / "folder" / "session").mkdir(parents=True)
    guarded(tmp_path / "folder", f"{ours.pid}\n")
    assert ours.wait(10) == -9
    assert guard.members({ours.pid}) == []
    assert len(guard.members({others.pid})) == 2
    assert list(tmp_path.iterdir()) == []
    guarded(tmp_path / "folder", f"{others.pid}\n")
    assert others.wait(10) == -9
    for process in (ours, others):
        process.stdout.close()


def test_after_a_good_end_nothing_is_touched(tmp_path: Path) -> None:
    ours = led()
    (tmp_path / "folder").mkdir()
    guarded(tmp_path / "folder", f"{ours.pid}\n{guard.DONE}\n")
    assert ours.poll() is None
    assert (tmp_path / "folder").exists()
    guarded(tmp_path / "folder", f"{ours.pid}\n")
    ours.wait(10)
    ours.stdout.close()


def test_our_own_session_is_known() -> None:
    assert os.getpid() in guard.members({os.getsid(0)})
    assert guard.members(set()) == []
