"""The folder of a cluster of one's own: private, gone at the end, also after a kill."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from recollect.runtime import session
from recollect.runtime.session import environment, private_folder, replaced, sweep

OWNER = """
import sys, tempfile
from recollect.runtime.session import private_folder
tempfile.tempdir = sys.argv[1]
with private_folder() as folder:
    (folder / "inside").mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def above(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(session, "LONGEST", 4096)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_for_us_alone_and_goes_with_its_contents(above: Path) -> None:
    with private_folder() as folder:
        assert folder.parent == above
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "session").mkdir()
        (folder / "session" / "log").write_text("x")
    assert list(above.iterdir()) == []


def test_a_folder_goes_with_an_error_too(above: Path) -> None:
    with pytest.raises(KeyError), private_folder():
        raise KeyError
    assert list(above.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_stays(above: Path) -> None:
    """R5."""
    script = OWNER.replace("with private", "from recollect.runtime import session\nwith private")
    script = script.replace("\nwith private", "\nsession.LONGEST = 4096\nwith private")
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(above)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    left = Path(owner.stdout.readline().strip())
    sweep(above)
    assert (left / "inside").is_dir()
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert left.is_dir()
    with private_folder() as folder:
        assert list(above.iterdir()) == [folder]


def test_a_sweep_leaves_what_is_not_plainly_ours(above: Path) -> None:
    (above / "recollect-ray-without-lock").mkdir()
    other = above / "other"
    other.mkdir()
    (other / session.LOCK).touch()
    (above / "recollect-ray-link").symlink_to(other)
    sweep(above)
    assert len(list(above.iterdir())) == 3
    assert (other / session.LOCK).exists()


def test_a_folder_without_a_lock_is_removed_when_it_is_old(above: Path) -> None:
    (above / "recollect-ray-old").mkdir()
    (above / "recollect-ray-new").mkdir()
    long_ago = time.time() - session.SECONDS_WITHOUT_LOCK - 1
    os.utime(above / "recollect-ray-old", (long_ago, long_ago))
    sweep(above)
    assert [path.name for path in above.iterdir()] == ["recollect-ray-new"]


def test_a_long_folder_of_the_system_is_passed_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    with private_folder() as folder:
        assert folder.parent == Path("/tmp")


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOLLECT_A", "1")
    monkeypatch.delenv("RECOLLECT_B", raising=False)
    with environment({"RECOLLECT_A": None, "RECOLLECT_B": "2"}):
        assert ("RECOLLECT_A" in os.environ, os.environ["RECOLLECT_B"]) == (False, "2")
    assert (os.environ["RECOLLECT_A"], "RECOLLECT_B" in os.environ) == ("1", False)


def test_what_was_replaced_is_put_back() -> None:
    thing = SimpleNamespace(word="a")
    with replaced(thing, "word", "b"):
        assert thing.word == "b"
    assert thing.word == "a"
