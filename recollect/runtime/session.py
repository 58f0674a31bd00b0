"""What a cluster of one's own needs of this process: a private folder, settings put back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PREFIX = "recollect-ray-"
LONGEST = 18
"""Characters of the folder above: Unix sockets are named in it, and their names end at 107."""
LOCK = "lock"
SECONDS_WITHOUT_LOCK = 600.0


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder for this user's eyes alone, removed at the end with all that is in it.

    What processes that were killed left behind is removed first. The folder's owner holds a lock
    of the system on a file in it, which ends with the owner, however it ends.
    """
    above = tempfile.gettempdir()
    above = above if len(above) <= LONGEST else "/tmp"
    sweep(Path(above))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above))
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _locked(lock):
                yield folder
                return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def sweep(above: Path) -> None:
    """Remove the private folders in this one whose owners are dead."""
    for folder in above.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            about = folder.lstat()
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
                continue
            try:
                lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:  # being made, or made anew by one that outlived its owner
                if time.time() - about.st_mtime > SECONDS_WITHOUT_LOCK:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                if _locked(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Inside, this process and what it starts have these variables; None takes one away."""
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is another thing inside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
