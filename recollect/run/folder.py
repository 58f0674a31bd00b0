"""A run's folder: where its config, metrics, checkpoints and figures lie.

    config.json       what was asked for, complete: the run can be repeated from it
    system.json       where it ran: Python, platform, package versions, processors, memory
    status.json       how it stands, replaced as it goes
    metrics.jsonl     one row a line; the truth
    tensorboard/      the same rows as TensorBoard events
    checkpoints/      see `recollect.run.checkpoint`
    faults.jsonl      a line for each part of the run that died and was replaced, on Ray
    journal/          while it runs on Ray: what replay was told since the last checkpoint
    videos/           recorded episodes
    curve.png         return against environment steps
    .lock             held by the one process that works here; see `recollect.run.lock`
    .owner.json       which process that is

`RunFolder` is path-like: wherever a run's path is wanted, it can be given.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib.metadata
import json
import os
import platform
import re
import stat
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recollect.run import strict_json
from recollect.types import ConfigError

LOCK, OWNER, OWNER_BESIDE = ".lock", ".owner.json", ".owner.json.new"
LOCK_FILES = frozenset((LOCK, OWNER, OWNER_BESIDE))
"""What a lock may have left in a folder that is otherwise empty."""

FAULTS = "faults.jsonl"
CONFIG_BYTES_LIMIT = 4 << 20
RUNS_SHOWN = 5
PACKAGES = (
    "recollect",
    "numpy",
    "torch",
    "gymnasium",
    "numba",
    "safetensors",
    "scipy",
    "zstandard",
    "ray",
    "ale-py",
    "mujoco",
)


class RunFolder:
    """The folder of one run; made by `create` or found by `open`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> RunFolder:
        """Make the folder of a new run, with config.json and system.json in it.

        Nothing is ever overwritten. config.json comes last, so that a folder that has it is whole;
        if anything fails, what was written is taken away again. Where several processes may want
        the same folder, each holds its `RunLock` around this: one makes the run, the others are
        refused.

        Args:
            path: a folder that is not there yet, or holds nothing but `LOCK_FILES`.
            config: what JSON can hold.
        Raises:
            ConfigError: if the folder holds anything, or the config is not JSON.
        """
        run = cls(path)
        try:
            text = json.dumps(dict(config), indent=2, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"the config cannot be written as JSON: {error}") from error
        run.refuse_if_taken()
        created = not run.path.exists()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_be_made(run.path, error.strerror or str(error)) from error
        try:
            write_atomic(run.system_path, json.dumps(describe_system(), indent=2).encode())
            write_atomic(run.config_path, text.encode())
        except BaseException:
            run.config_path.unlink(missing_ok=True)
            run.system_path.unlink(missing_ok=True)
            if created:
                with contextlib.suppress(OSError):
                    run.path.rmdir()
            raise
        return run

    def take_back(self) -> None:
        """Undo `create` where the run could not begin: the folder may be named once more."""
        if not self.status_path.exists():
            self.config_path.unlink(missing_ok=True)
            self.system_path.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The run in a folder.

        Raises:
            ConfigError: if no run is there; it names the run beside it with the nearest name.
        """
        if not os.fspath(path):
            raise ConfigError("a run is a folder, got an empty name: give the run's folder")
        run = cls(path)
        if run.config_path.is_file():
            return run
        what = "has no config.json" if run.path.is_dir() else "is not a folder"
        raise ConfigError(f"{run.path} is not a run: it {what}. {_nearest(run.path)}")

    @property
    def config_path(self) -> Path:
        """Where config.json lies."""
        return self.path / "config.json"

    @property
    def system_path(self) -> Path:
        """Where system.json lies."""
        return self.path / "system.json"

    @property
    def status_path(self) -> Path:
        """Where status.json lies."""
        return self.path / "status.json"

    @property
    def metrics(self) -> Path:
        """Where metrics.jsonl lies."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Where the TensorBoard events lie."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def videos(self) -> Path:
        """Where recorded episodes lie."""
        return self.path / "videos"

    @property
    def curve(self) -> Path:
        """Where the learning curve lies."""
        return self.path / "curve.png"

    def config(self) -> dict[str, Any]:
        """What config.json holds.

        Raises:
            ConfigError: if it is missing, over 4 MiB, or not a JSON object.
        """
        try:
            return read_json(self.config_path, CONFIG_BYTES_LIMIT)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{reason(error)}. A run cannot go on without its config: restore the file from a "
                "copy, or start a new run"
            ) from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace config.json, where a resumed run was given what may change."""
        write_atomic(self.config_path, json.dumps(dict(config), indent=2).encode())

    def status(self) -> dict[str, Any]:
        """What `write_status` wrote last, or nothing.

        Raises:
            OSError: if status.json cannot be read.
            ValueError: if it is damaged.
        """
        if not self.status_path.exists():
            return {}
        return read_json(self.status_path, CONFIG_BYTES_LIMIT)

    def write_status(self, status: Mapping[str, Any]) -> bool:
        """Replace status.json; who reads it meanwhile sees the old one or the new one, whole.

        Returns:
            Whether the disk took it. If not the old one stays: no run ends for its status.
        """
        try:
            write_atomic(self.status_path, json.dumps(dict(status), indent=2).encode())
        except OSError:
            return False
        return True

    def add_line(self, name: str, line: str) -> None:
        """Add a line of text to a file; a full disk does not matter."""
        with contextlib.suppress(OSError), (self.path / name).open("a") as file:
            file.write(line + "\n")

    def refuse_if_taken(self) -> None:
        """Raise ConfigError if no new run can be made there: the folder must be new, or empty."""
        try:
            above = next(path for path in (self.path, *self.path.parents) if path.exists())
            inside = os.listdir(above) if above == self.path and above.is_dir() else []
        except OSError as error:
            raise cannot_be_made(self.path, error.strerror or str(error)) from error
        others = sorted(set(inside) - LOCK_FILES)
        if "config.json" in others:
            raise ConfigError(
                f"{self.path} already holds a run: name another folder, or delete this one"
            )
        if not above.is_dir():
            raise ConfigError(f"{above} is a file, and a run needs a folder: name another folder")
        if others:
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            raise ConfigError(
                f"{self.path} is not empty (it holds {shown}), and a run needs a folder of its "
                "own: name another folder, or delete this one"
            )
        if not os.access(above, os.W_OK | os.X_OK):
            raise cannot_be_made(self.path, f"one may not write in {above}")


def default_run_dir(
    agent: str, env_id: str, seed: int, root: str | os.PathLike[str] = "runs"
) -> Path:
    """A folder name no other run has: `runs/r2d2-PositionCartPole-v0-s1-20260102-120000`.

    Of the environment's id the last part counts, without module and namespace. A second run in the
    same second gets `-2` at its end, and so on.
    """
    env = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[:/]", env_id)[-1])
    stem = f"{agent}-{env}-s{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path(root) / stem, 1
    while path.exists():
        number += 1
        path = Path(root) / f"{stem}-{number}"
    return path


def describe_system() -> dict[str, Any]:
    """Where this process runs: versions, processors, memory."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "packages": versions,
    }


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also if the power fails: beside, fsync, then rename."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    beside.unlink(missing_ok=True)
    try:
        with open(beside, "xb") as file:  # x: what somebody put there is never written through
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # not the one beside it
        raise
    fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, bytes_limit: int) -> dict[str, Any]:
    """The JSON object a file holds; it may be a stranger's.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no regular file, larger than `bytes_limit`, or not a JSON object that
            `strict_json.parse` accepts; the file is named.
    """
    with open(path, "rb", opener=open_regular) as file:
        data = file.read(bytes_limit + 1)
    if len(data) > bytes_limit:
        raise ValueError(f"{path}: expected at most {bytes_limit:,} bytes, found more")
    return strict_json.parse(data, path)


def open_regular(path: str, flags: int) -> int:
    """An opener for `open` that refuses what is no file, where reading could wait for ever.

    Raises:
        ValueError: if it is a pipe, a socket, a device or a folder, or a link and `flags` have
            O_NOFOLLOW; it is named.
    """
    try:
        # A pipe without a writer would block.
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if not (error.errno == errno.ELOOP and flags & os.O_NOFOLLOW):
            raise
        raise ValueError(f"{path}: expected a regular file, found a link") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ValueError(f"{path}: expected a regular file, found a pipe, a device or a folder")


def reason(error: Exception) -> str:
    """What an error says; of the system's, the file and what is wrong with it, without a number."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    return str(error)


def cannot_be_made(path: Path, why: str) -> ConfigError:
    """What is raised where the folder of a run cannot be, and why not."""
    return ConfigError(f"the run's folder {path} cannot be made: {why}. Name another folder")


def _nearest(path: Path) -> str:
    """Which run a mistyped path may have meant."""
    with contextlib.suppress(OSError):
        inside = sorted(str(entry.parent) for entry in path.glob("*/config.json"))
        if inside:
            more = f" and {len(inside) - RUNS_SHOWN} more" if len(inside) > RUNS_SHOWN else ""
            return f"It holds runs: {', '.join(inside[:RUNS_SHOWN])}{more}"
        runs = [entry.parent.name for entry in path.parent.glob("*/config.json")]
        if not runs and not path.exists():
            below = [entry.parent for entry in path.parent.glob("*/*/config.json")]
            if below:
                return f"Did you mean {min(below, key=lambda run: (run.name != path.name, run))}?"
        near = difflib.get_close_matches(path.name, runs, n=1, cutoff=0.6)
        if near:
            return f"Did you mean {path.parent / near[0]}?"
        for above in list(path.parents)[:2]:
            if path.exists() and (above / "config.json").is_file():
                return f"Did you mean {above}?"
        if runs:
            there = "is 1 run" if len(runs) == 1 else f"are {len(runs)} runs"
            return f"There {there} in {path.parent}, none with a name near it"
    return f"There are no runs in {path.parent}"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every platform tells
        return None
