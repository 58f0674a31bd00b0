"""Metrics: one JSON object a line, mirrored to TensorBoard.

metrics.jsonl is the truth, the events a view of it. Every row has `env_steps`, beside it as far as
known `updates`, `frames` and `seconds`, then `actor/...`, `learner/...`, `replay/...`,
`parameters/...`, `evaluator/...`; names carry their unit.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recollect.run.folder import fsync_folder, open_regular
from recollect.types import ConfigError

WALL_CLOCK = ("seconds", "_per_second", "_bytes_resident")
"""A field whose name ends so tells of the machine and the hour: it differs between equal runs."""

WALL_CLOCK_PREFIXES = ("checkpoint/",)
"""So does one whose name begins so: when is saved, what it costs and what goes wrong with it."""

_OPEN = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
ROWS_WAITING_LIMIT = 10_000
COPY_BYTES = 1 << 20

Value = float | int | str | None | Sequence[float]


class MetricsLog:
    """Appends rows to a run's metrics.jsonl.

    A row reaches the file whole: if a write fails, what it left is cut off again, and a line that
    an earlier process left unfinished is cut off when the log is opened. A row that the disk does
    not take waits in memory and goes to the file, in order, with the next one that it takes.

    Args:
        folder: the run's folder.
        tensorboard: whether numbers are mirrored to `tensorboard/`, against environment steps.
        keep_rows: where a run is resumed, how many rows it had then. Later ones are moved to
            `metrics-aside-<k>.jsonl`, k being new. None keeps all.
    Raises:
        OSError: if the file cannot be opened, or the later rows find no room: then they stay.
        ValueError: if it is no regular file.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        tensorboard: bool = True,
        *,
        keep_rows: int | None = None,
    ) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self.failed = 0
        """How often the disk did not take what was to be written."""
        self.moved_to: Path | None = None
        """Where rows are that came after those to be kept; None if there were none."""
        self.dropped = 0
        """Rows lost because more than `ROWS_WAITING_LIMIT` would have waited."""
        self._events_path = Path(folder) / "tensorboard"
        self._tensorboard = tensorboard
        self._events: Any = None
        self._events_from: int | None = None
        self._waiting: deque[bytes] = deque()
        self._torn = False  # whether a write that failed left something in the file
        self._file = self._open()
        try:
            self._size = _whole_bytes(self._file)
            os.ftruncate(self._file, self._size)
            if keep_rows is None:
                self._written, _ = _rows_and_bytes(self._file)
            else:
                self._resume(keep_rows)
        except BaseException:
            os.close(self._file)
            raise

    def _open(self) -> int:
        try:
            return open_regular(str(self.path), _OPEN)
        except ValueError as error:
            raise ConfigError(f"{error}: move it away") from None

    @property
    def rows(self) -> int:
        """Rows in the file and waiting for it; what `keep_rows` wants if this point is resumed."""
        return self._written + len(self._waiting)

    def write(self, row: Mapping[str, Value]) -> None:
        """Append one row; NaN and infinities become null.

        What the disk does not take waits for the next row; a RuntimeWarning says so the first time.

        Raises:
            ValueError: if `env_steps` is missing, a value is no number, text or list of numbers, or
                the log is closed.
        """
        if "env_steps" not in row:
            raise ValueError(f"a row of metrics needs 'env_steps', this one has {sorted(row)}")
        if self._file < 0:
            raise ValueError(f"{self.path} was closed: open a new log to go on")
        plain = {name: _plain(name, value) for name, value in row.items()}
        data = json.dumps(plain, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        self._waiting.append(data)
        self._write_waiting()
        if len(self._waiting) > ROWS_WAITING_LIMIT:
            self._waiting.popleft()
            self.dropped += 1
        if self._tensorboard:
            self._mirror(plain)

    def sync(self) -> bool:
        """Make all rows durable.

        Returns:
            Whether they are; if not, what waits goes on waiting.
        """
        self._put_back()
        self._write_waiting()
        try:
            os.fsync(self._file)
        except OSError as error:
            self._tell_failed(error)
            return False
        return not self._waiting

    def _put_back(self) -> None:
        """Where somebody has deleted the file, write its rows into a new one."""
        if os.path.lexists(self.path) or not self.path.parent.is_dir():
            return
        try:
            new = open_regular(str(self.path), _OPEN | os.O_EXCL)
            try:
                _copy(self._file, 0, self._size, lambda data: os.write(new, data))
            except BaseException:
                os.close(new)
                self.path.unlink(missing_ok=True)
                raise
        except OSError as error:
            self._tell_failed(error)
            return
        os.close(self._file)
        self._file = new
        warnings.warn(
            f"{self.path} was deleted while the run writes it: its rows are written anew",
            RuntimeWarning,
            stacklevel=3,
        )

    def close(self) -> None:
        """Flush and close; a second call does nothing. Rows that still wait are lost, and said."""
        if self._file >= 0:
            self._write_waiting()
            os.close(self._file)
            self._file = -1
            if self._waiting:
                warnings.warn(
                    f"{len(self._waiting):,} rows were never written to {self.path}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        if self._events is not None:
            try:
                self._events.close()
            except OSError as error:
                self._tell_mirror_broke(error)
            self._events = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resume(self, keep_rows: int) -> None:
        """Move what follows the first rows aside, and cut it off when it is safe there."""
        if keep_rows < 0:
            raise ValueError(f"keep_rows must be 0 or more, got {keep_rows}")
        self._written, kept = _rows_and_bytes(self._file, keep_rows)
        if self._written < keep_rows:
            warnings.warn(
                f"{self.path} has {self._written:,} rows, and had {keep_rows:,} when the run was "
                f"saved: {keep_rows - self._written:,} are missing",
                RuntimeWarning,
                stacklevel=3,
            )
        if kept < self._size:
            self.moved_to = _copy_aside(self.path.parent, self._file, kept, self._size)
            os.ftruncate(self._file, kept)
            os.fsync(self._file)
            self._size = kept
        last = _last_env_steps(self._file, kept)
        self._events_from = None if last is None else last + 1

    def _write_waiting(self) -> None:
        """Write what waits, row by row, until one fails."""
        try:
            while self._waiting:
                if self._torn:
                    os.ftruncate(self._file, self._size)
                    self._torn = False
                data, written = self._waiting[0], 0
                while written < len(data):
                    written += os.write(self._file, data[written:])
                self._size += len(data)
                self._written += 1
                self._waiting.popleft()
        except OSError as error:
            self._torn = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
                self._torn = False
            self._tell_failed(error)

    def _tell_failed(self, error: OSError) -> None:
        self.failed += 1
        if self.failed == 1:
            warnings.warn(
                f"{self.path} cannot be written ({error.strerror or error}): the run goes on, and "
                "its rows wait in memory until they can be",
                RuntimeWarning,
                stacklevel=4,
            )

    def _tell_mirror_broke(self, error: OSError) -> None:
        if self._tensorboard:
            self._tensorboard = False
            if self._events is not None:
                with contextlib.suppress(OSError):  # what it could not write, it tries again
                    self._events.close()
                self._events = None
            warnings.warn(
                f"TensorBoard events stop here, metrics.jsonl goes on: {error}",
                RuntimeWarning,
                stacklevel=4,
            )

    def _mirror(self, row: Mapping[str, Any]) -> None:
        values = {
            name: value
            for name, value in row.items()
            if isinstance(value, int | float) and name != "env_steps"
        }
        try:
            if self._events is None:
                self._events = _Events(self._events_path)
                if self._events_from is not None:
                    self._events.forget_from(self._events_from)
            self._events.add(int(row["env_steps"]), values)
        except OSError as error:  # the mirror may break, the run goes on
            self._tell_mirror_broke(error)


class _Events:
    """A file of TensorBoard's, in a folder that is made if it is not there.

    `torch.utils.tensorboard` takes seconds to import, and TensorBoard's own writer has a thread
    that ends in a traceback where the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2, summary_pb2
        folder.mkdir(exist_ok=True)
        # They are read in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}"
        path = folder / f"{name}.{len(os.listdir(folder))}"
        self._file = open(path, "xb")  # noqa: SIM115  # closed by `close`
        self._records = RecordWriter(self._file)
        try:
            self._write(file_version="brain.Event:2")
        except OSError:
            with contextlib.suppress(OSError):
                self.close()
            raise

    def forget_from(self, env_steps: int) -> None:
        """What earlier files have from there on is not shown."""
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(step=env_steps, session_log=start)

    def add(self, env_steps: int, values: Mapping[str, float]) -> None:
        each = [self._summary.Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        self._write(step=env_steps, summary=self._summary.Summary(value=each))

    def close(self) -> None:
        self._file.close()

    def _write(self, **what: Any) -> None:
        self._records.write(self._event.Event(wall_time=time.time(), **what).SerializeToString())
        self._file.flush()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line without its end was cut off, and is left out.

    Args:
        path: the file, or the folder of its run.
    Raises:
        ValueError: if a line before the last is damaged, which is named, or it is no regular file.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "metrics.jsonl"
    rows = []
    with open(path, "rb", opener=open_regular) as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: expected JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}, line {number}: expected a JSON object, found a {type(row).__name__}"
                )
            rows.append(row)
    return rows


def is_wall_clock(name: str) -> bool:
    """Whether a field tells of the machine and the hour: `WALL_CLOCK`, `WALL_CLOCK_PREFIXES`."""
    return name.endswith(WALL_CLOCK) or name.startswith(WALL_CLOCK_PREFIXES)


def without_wall_clock(row: Mapping[str, Any]) -> dict[str, Any]:
    """What two equal runs must agree on."""
    return {name: value for name, value in row.items() if not is_wall_clock(name)}


def _plain(name: str, value: object) -> Any:
    """`value` as JSON has it."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim <= 1):
        value = value.tolist()
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(name, element) for element in value]
    raise ValueError(
        f"metric {name!r} is a {type(value).__name__}: wanted a number, text or a list of numbers"
    )


def _whole_bytes(file: int) -> int:
    """Where the last whole line of an open file ends."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - (1 << 16))
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _rows_and_bytes(file: int, limit: int | None = None) -> tuple[int, int]:
    """How many whole lines an open file has, at most `limit`, and where the last of them ends."""
    rows = end = 0
    with open(file, "rb", closefd=False) as lines:
        lines.seek(0)
        while rows != limit and (line := lines.readline()).endswith(b"\n"):
            rows, end = rows + 1, end + len(line)
    return rows, end


def _copy_aside(folder: Path, file: int, start: int, end: int) -> Path:
    """Make bytes of an open file durable in a new file beside it."""
    number = 1
    while (path := folder / f"metrics-aside-{number}.jsonl").exists() or path.is_symlink():
        number += 1
    try:
        with open(path, "xb", buffering=0) as aside:
            _copy(file, start, end, aside.write)
            os.fsync(aside.fileno())
        fsync_folder(folder)
        return path
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _copy(file: int, start: int, end: int, write: Callable[[bytes], int]) -> None:
    """Give bytes of an open file to `write`, which says how many it took."""
    while start < end:
        data = os.pread(file, min(COPY_BYTES, end - start), start)
        start += write(data)


def _last_env_steps(file: int, end: int) -> int | None:
    """Of the last row before `end`: -1 if there is no row, None if it cannot be read."""
    if end == 0:
        return -1
    data = os.pread(file, min(COPY_BYTES, end), max(0, end - COPY_BYTES))
    try:
        steps = json.loads(data[data[:-1].rfind(b"\n") + 1 :])["env_steps"]
    except (ValueError, RecursionError, TypeError, KeyError, IndexError):
        return None
    return steps if type(steps) is int and 0 <= steps < 1 << 62 else None
