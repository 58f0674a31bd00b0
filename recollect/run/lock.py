"""At most one process works in a run's folder.

The lock is the system's own (flock) on a hidden file, so the death of its owner frees it, however
it died, and a process number that is used again means nothing. Beside it `.owner.json` says who
the owner is, for people; nothing is decided by it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

from recollect.run.folder import (
    LOCK,
    OWNER,
    OWNER_BESIDE,
    cannot_be_made,
    open_regular,
    read_json,
    reason,
)
from recollect.types import ConfigError

OWNER_BYTES_LIMIT = 1 << 12
SECONDS_FOR_A_NAME = 0.5
"""A new owner needs a moment to write who it is; so long the others wait to name it."""


class RunLock:
    """Holds the lock of a run's folder: `with RunLock(folder) as lock: ...`.

    Processes started meanwhile do not hold it, and cannot keep it from being taken over.

    Args:
        folder: the run's folder; made if it is not there, and removed if nothing came into it.
    Raises:
        ConfigError: on entering: another process holds it, and is named; or in that folder nothing
            can be locked.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.taken_over_from: dict[str, Any] | None = None
        """Whose lock it was, as `owner` says it, if its owner died holding it."""
        self._lock: Any = None
        self._made = False

    def __enter__(self) -> RunLock:
        self._made = not self.folder.exists()
        deadline = time.monotonic() + SECONDS_FOR_A_NAME
        while (lock := _try_lock(self.folder)) is None:
            found = _read_owner(self.folder)
            if time.monotonic() > deadline or (found is not None and _may_live(found)):
                raise ConfigError(_in_use(self.folder, found or {}))
            time.sleep(0.01)
        self._lock = lock
        _held.add(self)
        self.taken_over_from = _read_owner(self.folder)
        # On a full disk the lock holds all the same, only without a name.
        with contextlib.suppress(OSError):
            (self.folder / OWNER).unlink(missing_ok=True)
            _write_owner(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is None:  # in a forked child: it is the parent's
            return
        _held.discard(self)
        # The owner first: who finds the lock taken must not read the name of one who has left.
        with contextlib.suppress(OSError):
            (self.folder / OWNER).unlink(missing_ok=True)
        if self._made:
            self._remove_if_empty()
        with contextlib.suppress(OSError):
            self._lock.release()
        self._lock = None

    def _remove_if_empty(self) -> None:
        """Only its owner may do this: without the lock's file a second one could lock the folder.

        Who has opened that file meanwhile does not get the lock, as filelock looks whether it is
        still there.
        """
        with contextlib.suppress(OSError):
            if {entry.name for entry in self.folder.iterdir()} <= {LOCK, OWNER_BESIDE}:
                (self.folder / OWNER_BESIDE).unlink(missing_ok=True)
                (self.folder / LOCK).unlink(missing_ok=True)
                self.folder.rmdir()

    def _forget(self) -> None:
        """In a forked child: close what it shares with the owner, which goes on holding it."""
        descriptor = self._lock._context.lock_file_fd  # None where filelock has done so itself
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            self._lock._context.lock_file_fd = None
        self._lock = None


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock._forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def owner(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Who works in a run's folder now, None if nobody does.

    Of `pid`, `host` and `started` (ISO 8601) it has what could be read, perhaps nothing.
    """
    import fcntl

    folder = Path(folder)
    try:
        descriptor = open_regular(str(folder / LOCK), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        return _read_owner(folder) or {}
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _try_lock(folder: Path) -> Any:
    """The lock, held; None if another process holds it."""
    from filelock import FileLock, SoftFileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_be_made(folder, error.strerror or str(error)) from error
    if (folder / LOCK).is_symlink():  # older releases of filelock empty what it leads to
        raise _cannot_lock(folder, f"{LOCK} in it is a link")
    lock: Any = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it falls back to a soft lock
            lock.acquire()
    except (Timeout, FileNotFoundError):  # the folder may have been removed under our hands
        return None
    except (OSError, NotImplementedError) as error:
        raise _cannot_lock(folder, reason(error)) from error
    if isinstance(lock, SoftFileLock):  # a file that is there or not: it would outlive its owner
        lock.release()
        raise _cannot_lock(folder, "its filesystem has no flock")
    return lock


def _cannot_lock(folder: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{folder} cannot be locked ({why}), and a run needs a folder that no other process works "
        "in: name one on a local disk where you may write"
    )


def _in_use(folder: Path, found: dict[str, Any]) -> str:
    who = f"process {found['pid']}" if "pid" in found else "another process"
    who += f" on {found['host']}" if "host" in found else ""
    who += f" since {found['started']}" if "started" in found else ""
    return f"{folder} is in use by {who}: wait until it has ended, stop it, or name another folder"


def _write_owner(folder: Path) -> None:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": platform.node(), "started": now})
    beside = folder / OWNER_BESIDE  # always the same name: only who holds the lock writes it
    beside.unlink(missing_ok=True)
    with open(beside, "x", encoding="utf-8") as file:
        file.write(text)
    os.replace(beside, folder / OWNER)


def _read_owner(folder: Path) -> dict[str, Any] | None:
    """What is fit to be shown of the owner's file, None if there is none."""
    try:
        found = read_json(folder / OWNER, OWNER_BYTES_LIMIT)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    pid = found.get("pid")
    fit: dict[str, Any] = {"pid": pid} if type(pid) is int and 0 < pid < 1 << 31 else {}
    for name in ("host", "started"):
        text = found.get(name)
        if isinstance(text, str) and text.isprintable() and 0 < len(text) <= 255:
            fit[name] = text
    return fit


def _may_live(found: dict[str, Any]) -> bool:
    """Whether such a process may be there; of another machine's one cannot know."""
    if "pid" not in found:
        return False
    if found.get("host") != platform.node():
        return True
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # there, but somebody else's
        return True
    return True
