"""C8: two runs in one folder."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recollect.run import lock as lock_module
from recollect.run.folder import LOCK_FILES, RunFolder
from recollect.run.lock import RunLock, owner
from recollect.types import ConfigError

HOLD = """
import os, sys
from recollect.run.lock import RunLock
from recollect.types import ConfigError
print("ready", flush=True)
sys.stdin.readline()
try:
    with RunLock(sys.argv[1]) as lock:
        print("won", lock.taken_over_from, flush=True)
        sys.stdin.readline()
except ConfigError as error:
    print("refused", error, flush=True)
"""

CREATE = """
import sys
from recollect.run.folder import RunFolder
from recollect.run.lock import RunLock
from recollect.types import ConfigError
print("ready", flush=True)
sys.stdin.readline()
try:
    with RunLock(sys.argv[1]):
        RunFolder.create(sys.argv[1], {"by": sys.argv[2]})
    print("made", flush=True)
except ConfigError as error:
    print("refused", error, flush=True)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert says(process) == "ready"
    return process


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


def test_one_of_twenty_processes_wins_and_the_others_name_it(tmp_path: Path) -> None:
    """C8. The winner is killed, and the next start takes its folder over."""
    processes = [start(HOLD, tmp_path) for _ in range(20)]
    for process in processes:
        tell(process)
    said = {process.pid: says(process) for process in processes}
    [winner] = [process for process in processes if said[process.pid].startswith("won None")]
    named = f"{tmp_path} is in use by process {winner.pid} on {platform.node()} since 20"
    refusals = [said[process.pid] for process in processes if process is not winner]
    assert [named in text for text in refusals] == [True] * 19, refusals
    found = owner(tmp_path)
    assert found is not None
    assert (found["pid"], found["host"]) == (winner.pid, platform.node())

    os.kill(winner.pid, signal.SIGKILL)
    for process in processes:
        end(process)
    assert owner(tmp_path) is None
    with RunLock(tmp_path) as lock:
        assert lock.taken_over_from is not None
        assert lock.taken_over_from["pid"] == winner.pid
    with RunLock(tmp_path) as lock:  # released in peace: nobody's
        assert lock.taken_over_from is None


def test_one_of_twenty_processes_creates_the_run(tmp_run: Path) -> None:
    """C8: under the lock; which one it was, its config says."""
    processes = [start(CREATE, tmp_run, number) for number in range(20)]
    for process in processes:
        tell(process)
    said = [says(process) for process in processes]
    for process in processes:
        end(process)
    [made] = [number for number, text in enumerate(said) if text == "made"]
    assert all("is in use by" in t or "already holds a run" in t for t in said if t != "made"), said
    assert RunFolder.open(tmp_run).config() == {"by": str(made)}


def test_a_second_lock_of_the_same_process_is_refused_and_named(tmp_path: Path) -> None:
    with RunLock(tmp_path) as held:
        with pytest.raises(ConfigError, match=f"is in use by process {os.getpid()} on "):
            held.__enter__()
        with pytest.raises(ConfigError, match="wait until it has ended, stop it, or name another"):
            RunLock(tmp_path).__enter__()
    with RunLock(tmp_path):
        pass


def test_what_a_lock_leaves_is_no_obstacle_to_a_new_run(tmp_run: Path) -> None:
    with RunLock(tmp_run):
        assert set(os.listdir(tmp_run)) <= LOCK_FILES
        assert owner(tmp_run) is not None
        RunFolder.create(tmp_run, {})
    assert set(os.listdir(tmp_run)) - LOCK_FILES == {"config.json", "system.json"}
    assert not (tmp_run / lock_module.OWNER).exists()
    assert owner(tmp_run) is None


def test_an_error_that_passes_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    assert owner(tmp_path) is None


FORK = """
import os, sys, time
from recollect.run.lock import RunLock
with RunLock(sys.argv[1]):
    if os.fork() == 0:
        os.setsid()
        print("child", os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    sys.stdin.readline()
"""

SPAWN = """
import os, subprocess, sys
from recollect.run.lock import RunLock
with RunLock(sys.argv[1]):
    child = subprocess.Popen(["sleep", "60"], close_fds=False, stdin=subprocess.DEVNULL)
    print("child", child.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("script", [FORK, SPAWN], ids=["fork", "spawn"])
def test_a_child_does_not_keep_a_dead_owners_lock(tmp_path: Path, script: str) -> None:
    """C8: nor does it free the lock of a living one."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(says(process).split()[1])
    try:
        with pytest.raises(ConfigError, match=f"is in use by process {process.pid} "):
            RunLock(tmp_path).__enter__()
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        with RunLock(tmp_path) as lock:
            assert lock.taken_over_from is not None
            assert lock.taken_over_from["pid"] == process.pid
    finally:
        os.kill(child, signal.SIGKILL)
        end(process)


def test_a_child_that_leaves_the_block_does_not_free_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom recollect.run.lock import RunLock\n"
        "with RunLock(sys.argv[1]):\n  if os.fork(): print(os.waitstatus_to_exitcode("
        "os.wait()[1]), flush=True); sys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert says(process) == "0"
        with pytest.raises(ConfigError, match=f"is in use by process {process.pid} "):
            RunLock(tmp_path).__enter__()
    finally:
        end(process)
    assert process.returncode == 0


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"pid": ' + b"9" * 3000 + b"}",
        b'{"pid": true, "host": "\\u001b[31m", "started": {}}',
        b'{"pid": -1, "host": "", "started": 7}',
    ],
)
def test_a_damaged_owner_file_neither_hinders_nor_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    monkeypatch.setattr(lock_module, "SECONDS_FOR_A_NAME", 0.02)
    (tmp_path / lock_module.OWNER).write_bytes(damage)
    with RunLock(tmp_path) as lock:
        assert lock.taken_over_from == {}
        (tmp_path / lock_module.OWNER).write_bytes(damage)
        assert owner(tmp_path) == {}
        with pytest.raises(ConfigError, match="is in use by another process: wait"):
            RunLock(tmp_path).__enter__()


@pytest.mark.parametrize("name", [lock_module.OWNER, lock_module.OWNER_BESIDE])
def test_links_and_pipes_under_our_names_are_not_written_through(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("years of work")
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(tmp_path / "precious")
    with RunLock(run):
        pass
    os.mkfifo(run / name)
    with RunLock(run):
        found = owner(run)
        assert found is not None
        assert found["pid"] == os.getpid()
    assert (tmp_path / "precious").read_text() == "years of work"


def test_a_folder_in_which_nothing_can_be_locked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / ".lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"a cannot be locked \(.*: Is a directory\), and a run"):
        RunLock(tmp_path / "a").__enter__()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="b cannot be locked"):
        RunLock(tmp_path / "b").__enter__()
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        RunLock(tmp_path / "file" / "c").__enter__()
    for number in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):

        def refuse(*_: Any, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("fcntl.flock", refuse)
        with pytest.raises(ConfigError, match=r"d cannot be locked \(.*name one on a local disk"):
            RunLock(tmp_path / "d").__enter__()


def test_one_who_is_dead_is_not_named_while_the_new_owner_is_writing_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = json.dumps({"pid": dead.pid, "host": platform.node(), "started": "2026-01-02"})
    with RunLock(tmp_path):
        mine = (tmp_path / lock_module.OWNER).read_text()
        (tmp_path / lock_module.OWNER).write_text(gone)
        slept = []

        def sleep(_: float) -> None:
            slept.append(1)
            (tmp_path / lock_module.OWNER).write_text(mine)

        monkeypatch.setattr(lock_module.time, "sleep", sleep)
        with pytest.raises(ConfigError, match=f"is in use by process {os.getpid()} "):
            RunLock(tmp_path).__enter__()
        assert slept == [1]


def test_a_full_disk_leaves_a_lock_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6."""
    (tmp_path / lock_module.OWNER).write_text(json.dumps({"pid": 1, "host": "gone"}))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock_module, "_write_owner", full)
    with RunLock(tmp_path) as lock:
        assert lock.taken_over_from == {"pid": 1, "host": "gone"}
        assert owner(tmp_path) == {}


def test_nobody_owns_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert owner(tmp_path / "no") is None
    assert owner(tmp_path) is None
    assert os.listdir(tmp_path) == []


def test_a_folder_it_made_is_removed_by_its_owner_alone(tmp_path: Path) -> None:
    """Who is refused must leave the lock where it is, or a third one could take another."""
    folder = tmp_path / "run"
    with RunLock(folder):
        with pytest.raises(ConfigError, match="is in use by process"), RunLock(folder):
            pass
        assert (folder / ".lock").exists()
        with pytest.raises(ConfigError, match="is in use by process"), RunLock(folder):
            pass
    assert not folder.exists()
    with RunLock(folder):
        (folder / "config.json").touch()
    assert folder.exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        pass
    assert tmp_path.exists()
