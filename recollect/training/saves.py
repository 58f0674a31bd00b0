"""The saves of a training: when one is due, what became of it, and what is not on disk yet."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

from recollect.run.checkpoint import Checkpoint, CheckpointError, Checkpoints, Saved
from recollect.run.folder import RunFolder, reason
from recollect.run.progress import Progress, size
from recollect.training.job import Job
from recollect.types import Buffers

PERIOD = (5.0, 600.0)
"""Least and most seconds between two checkpoints, where the run does not say how many."""
SHARE = 0.02
"""Of the time, that writing checkpoints may take between these two."""


class Saves:
    """Saves a run's checkpoints and keeps account; a save that fails ends nothing.

    Args:
        job: says how often, and how many are kept.
        folder: of the run. progress: is told. found: the checkpoint that is gone on from.
    """

    def __init__(
        self, job: Job, folder: RunFolder, progress: Progress, found: Checkpoint | None
    ) -> None:
        self._seconds, self._progress = job.checkpoint_seconds, progress
        self._checkpoints = Checkpoints(
            folder.checkpoints,
            keep=job.keep_checkpoints,
            resume_from=None if found is None else found.path,
        )
        self.figures: dict[str, float] = {"saved": 0, "failed": 0}
        self.last: dict[str, Any] | None = None
        """The newest whole checkpoint, as status.json tells of it."""
        if found is not None:
            self.last = {"name": found.path.name, "env_steps": found.env_steps}
        self._unsaved: dict[str, str] = {}  # why a save failed, by name, until one succeeds
        self._begun = time.perf_counter()

    def due(self, now: float) -> bool:
        """Whether it is time for another whole one, and none is under way."""
        least, most = PERIOD
        seconds = self.figures.get("seconds", 0.0)
        period = self._seconds or min(max(least, seconds / SHARE), most)
        return now - self._begun >= period and not self._checkpoints.busy

    def on_disk(self) -> dict[str, Buffers]:
        """Buffers of a state that the last whole one has: see `Checkpoints.on_disk`."""
        return self._checkpoints.on_disk()

    def taken(self, begun: float) -> None:
        """A snapshot was taken, for which the training stood still since `begun`."""
        self._begun = begun
        self.figures["standstill_seconds"] = time.perf_counter() - begun

    def start(self, **what: Any) -> None:
        """Begin a whole one in the background."""
        self._heed(lambda: self._checkpoints.start("last", **what))

    def look(self) -> bool:
        """Hear of the one under way; whether a whole one has come to be on disk."""
        before = self.figures["saved"]
        self._heed(self._checkpoints.finished)
        return self.figures["saved"] > before

    def wait(self) -> None:
        """Wait for the one under way."""
        self._heed(self._checkpoints.wait)

    def save(self, name: str, **what: Any) -> bool:
        """Save and say when it is on disk, `what` as of `Checkpoints.save`; whether it could be."""
        self.wait()
        return self._heed(lambda: self._checkpoints.save(name, **what), name, tell=name == "last")

    def failed(self, name: str) -> bool:
        """Whether the last save of this name failed."""
        return name in self._unsaved

    @property
    def unsaved(self) -> str:
        """What is not on disk and why, and what is there instead; empty if all is."""
        if not self._unsaved:
            return ""
        there = "there is no checkpoint of it"
        if self.last is not None:
            there = f"its last checkpoint is {self.last['name']}, "
            there += f"after {self.last['env_steps']:,} steps"
        return f"the run could not be saved ({next(iter(self._unsaved.values()))}), {there}"

    def _heed(
        self, save: Callable[[], Saved | None], name: str = "last", *, tell: bool = False
    ) -> bool:
        """Count what comes of a save; one that fails is tried again at the next interval.

        Returns:
            Whether it did not fail.
        """
        try:
            saved = save()
        except (OSError, CheckpointError) as error:
            self.figures["failed"] += 1
            if not self._unsaved:
                warnings.warn(
                    f"a checkpoint could not be saved, the last one stays as it is: {error}; "
                    "it is tried again at every interval, and said when it succeeds",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._unsaved[name] = reason(error)
            if name == "last":  # a long attempt is not made often, though it fails
                self.figures["seconds"] = time.perf_counter() - self._begun
            return False
        if saved is None:
            return True
        failed = self._unsaved.pop(name, None)
        if name != "last":
            return True
        first = not self.figures["saved"] or failed is not None
        self.figures["saved"] += 1
        self.figures |= {"seconds": saved.seconds, "bytes": saved.bytes_total}
        self.last = {
            "name": saved.path.name,
            "env_steps": saved.env_steps,
            "seconds": round(saved.seconds, 3),
            "bytes_written": saved.bytes_written,
            "bytes": saved.bytes_total,
        }
        if first or tell:
            self._progress.note(
                f"checkpoint after {saved.env_steps:,} steps: {size(saved.bytes_written)} written "
                f"in {saved.seconds:.1f} s, {size(saved.bytes_total)} in all"
            )
        return True
