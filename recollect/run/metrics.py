"""Metrics: one JSON object a line, mirrored to TensorBoard.

metrics.jsonl is the truth, the events a view of it. Every row has `env_steps`, beside it as far as
known `updates`, `frames` and `seconds`, then `actor/...`, `learner/...`, `replay/...`,
`parameters/...`, `evaluator/...`; names carry their unit.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WALL_CLOCK = ("seconds", "_per_second", "_bytes_resident")
"""A field whose name ends so tells of the machine and the hour: it differs between equal runs."""

Value = float | int | str | None | Sequence[float]


class MetricsLog:
    """Appends rows to a run's metrics.jsonl.

    A row reaches the file whole: if a write fails, what it left is cut off again, and a line that
    an earlier process left unfinished is cut off when the log is opened.

    Args:
        folder: the run's folder.
        tensorboard: whether numbers are mirrored to `tensorboard/`, against environment steps.
    """

    def __init__(self, folder: str | os.PathLike[str], tensorboard: bool = True) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self._events_path = Path(folder) / "tensorboard"
        self._tensorboard = tensorboard
        self._events: Any = None
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = _whole_bytes(self._file)
        os.ftruncate(self._file, self._size)

    def write(self, row: Mapping[str, Value]) -> None:
        """Append one row; NaN and infinities become null.

        Raises:
            ValueError: if `env_steps` is missing, or a value is no number, text or list of numbers.
            OSError: if the disk does not take it; the file is as before.
        """
        if "env_steps" not in row:
            raise ValueError(f"a row of metrics needs 'env_steps', this one has {sorted(row)}")
        plain = {name: _plain(name, value) for name, value in row.items()}
        data = json.dumps(plain, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        if self._tensorboard:
            self._mirror(plain)

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mirror(self, row: Mapping[str, Any]) -> None:
        # TensorBoard's own writer: torch.utils.tensorboard takes seconds to import.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        values = [
            summary_pb2.Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if isinstance(value, int | float) and name != "env_steps"
        ]
        try:
            if self._events is None:
                self._events = EventFileWriter(str(self._events_path), 100, flush_secs=10)
            self._events.add_event(
                event_pb2.Event(
                    step=int(row["env_steps"]), summary=summary_pb2.Summary(value=values)
                )
            )
        except OSError as error:  # the mirror may break, the run goes on
            self._tensorboard = False
            warnings.warn(
                f"TensorBoard events stop here, metrics.jsonl goes on: {error}",
                RuntimeWarning,
                stacklevel=3,
            )


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line without its end was cut off, and is left out.

    Args:
        path: the file, or the folder of its run.
    Raises:
        ValueError: if a line before the last is damaged; file and line are named.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "metrics.jsonl"
    rows = []
    with open(path, "rb") as file:
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
    """Whether a field tells of the machine and the hour; see `WALL_CLOCK`."""
    return name.endswith(WALL_CLOCK)


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
