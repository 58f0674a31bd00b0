"""Checkpoints that are never half there, never silently damaged, and never unpickled.

    <name>-<env_steps>-<first 16 digits of the manifest's SHA-256>/
        parameters.safetensors    a network's weights; any reader of the format loads them
        meta.json                 what is to be known of them
        state.safetensors         of a full one: every array of the state, and of the buffers' index
        state.json                of a full one: the tree they stand in, and all that is no array
        segment-<n>.safetensors   of a full one: buffers, shared with other checkpoints by links
        manifest.json             format, name, number, env_steps; bytes and SHA-256 of each file

A save writes into a folder beside, fsyncs each file, writes the manifest last, reads it all again,
renames to a name that was not there, and only then removes older ones. Which is the newest is found
by looking at what is there; no pointer can point wrong. A folder's name vouches for its manifest,
the manifest for its files. A folder is whole by itself, and may be copied away.

Checkpoints that share a segment share its one copy on disk: damage to it is damage to all of them.

Checkpoints may come from strangers: nothing in them is executed, only regular files of known names
are read, no links are followed, and sizes are looked at before contents. They must not be changed
while they are read: their segments are mapped, not copied.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recollect.run import files, manifest, segments, state_tree, strict_json, tensors
from recollect.run.damage import CheckpointError as CheckpointError
from recollect.run.damage import CheckpointWarning as CheckpointWarning
from recollect.run.damage import NoCheckpointError as NoCheckpointError
from recollect.run.damage import Report
from recollect.run.manifest import META, PARAMETERS, STATE, TREE, Manifest
from recollect.run.reading import Checkpoint as Checkpoint
from recollect.run.reading import find as find
from recollect.run.reading import load as load
from recollect.run.reading import load_newest as load_newest
from recollect.run.reading import load_parameters as load_parameters
from recollect.run.reading import read_listed, read_state, tell
from recollect.run.state_tree import digest as digest
from recollect.types import Array, Buffers

BESIDE = ".new-"
"""How the names of folders begin that are being written or removed."""

Parameters = Mapping[str, Array]


@dataclass(frozen=True)
class Saved:
    """What a save did. `bytes_written` are new on disk, `bytes_total` those of all its files."""

    path: Path
    name: str
    env_steps: int
    seconds: float
    bytes_written: int
    bytes_total: int


@dataclass(frozen=True)
class _Job:
    """What is to be written, checked."""

    name: str
    env_steps: int
    parameters: list[bytes | Array]
    meta: bytes
    state: state_tree.Flat | None
    tree: bytes


def save(
    folder: str | os.PathLike[str],
    name: str,
    parameters: Parameters,
    meta: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write a checkpoint without a state; see `Checkpoints.save`."""
    return Checkpoints(folder, keep=keep).save(name, parameters=parameters, meta=meta).path


class Checkpoints:
    """The one writer of a run's checkpoints.

    Args:
        folder: where they lie; made when the first is saved.
        keep: how many of a name stay, the new one included.
        resume_from: the checkpoint that the run goes on from, if any: buffers in it are linked and
            not written again. It has been loaded, and so verified.
        report: told of an old one that could not be removed; by default a CheckpointWarning is
            given.
    Raises:
        CheckpointError: `resume_from` is damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 2,
        resume_from: str | os.PathLike[str] | None = None,
        report: Report | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(
                f"keep must be 1 or more, got {keep}: the new checkpoint is one of them"
            )
        self._folder, self._keep, self._report = Path(folder), keep, report
        self._held: segments.Held | None = None
        if resume_from is not None:
            path = Path(resume_from)
            listed = manifest.read(path)
            self._held = read_state(path, listed)[0] if listed.full else None
        self._thread: threading.Thread | None = None
        self._outcome: Saved | BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a started save is under way."""
        return self._thread is not None and self._thread.is_alive()

    def on_disk(self) -> dict[str, Buffers]:
        """The buffers of the last checkpoint with a state, by place, as parts of its files.

        A state that is saved next may hold these in place of those in memory.
        """
        try:
            return {} if self._held is None else segments.usable_buffers(self._held)
        except (OSError, CheckpointError):  # gone while they were looked at
            return {}

    def save(
        self,
        name: str,
        *,
        parameters: Parameters,
        meta: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
    ) -> Saved:
        """Write a checkpoint, verify it, and remove the older ones of its name.

        Args:
            name: what kind it is, `last` or `best`.
            parameters: arrays of bools, integers or floats, by name.
            meta: what JSON can hold, with text as keys; NaN and infinities may stand in it, tuples
                come back as lists. `env_steps`, an integer, must be among it.
            state: a tree as `state_tree.flatten` describes it; without one no run can go on.
        Raises:
            ValueError: wrong arguments; nothing was written.
            RuntimeError: a started save is under way.
            OSError: the disk did not take it; the older checkpoints are as they were.
            CheckpointError: what was read again is not what was written; none was removed.
        """
        job = self._prepared(name, parameters, meta, state)
        return self._write(job)

    def start(
        self,
        name: str,
        *,
        parameters: Parameters,
        meta: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """As `save`, in a thread of its own; `finished` or `wait` tell how it went.

        What is given must not change until then. What `save` raises is raised there, but for wrong
        arguments; an error that was not asked for is raised by the next `save` or `start`.
        """
        job = self._prepared(name, parameters, meta, state)
        self._thread = threading.Thread(target=self._run, args=(job,), name="save", daemon=True)
        self._thread.start()

    def finished(self) -> Saved | None:
        """Of the started save, once; None while it is under way, or if there was none.

        Raises:
            Exception: what the save raised.
        """
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread, outcome, self._outcome = None, self._outcome, None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def wait(self, seconds: float | None = None) -> Saved | None:
        """As `finished`, when it has ended or after so many seconds."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.finished()

    def _prepared(
        self,
        name: str,
        parameters: Parameters,
        meta: Mapping[str, Any],
        state: Mapping[str, Any] | None,
    ) -> _Job:
        if self.busy:
            raise RuntimeError("a save is under way: wait() for it")
        self.finished()
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
            raise ValueError(f"a checkpoint's name is of a-z, 0-9 and _, got {name!r}")
        env_steps = meta.get("env_steps")
        if type(env_steps) is not int or not 0 <= env_steps < 10**18:
            raise ValueError(f"meta needs 'env_steps', an integer of 0 or more, got {env_steps!r}")
        packed = {key: tensors.packed(key, array) for key, array in parameters.items()}
        flat = None if state is None else state_tree.flatten(state)
        if flat is not None:
            tensors.encode(flat.arrays, "state")  # for its limits
        return _Job(
            name,
            env_steps,
            tensors.encode(packed, "parameters"),
            strict_json.dumps(meta, "meta"),
            flat,
            b"" if flat is None else strict_json.dumps(flat.tree, "state"),
        )

    def _run(self, job: _Job) -> None:
        try:
            self._outcome = self._write(job)
        except BaseException as error:
            self._outcome = error

    def _write(self, job: _Job) -> Saved:
        started = time.perf_counter()
        self._folder.mkdir(parents=True, exist_ok=True)
        _clean(self._folder)
        beside = self._folder / f"{BESIDE}{job.name}-{secrets.token_hex(8)}"
        path = None
        try:
            files.make_folder(beside)
            records = {
                PARAMETERS: files.write_new(beside / PARAMETERS, *job.parameters),
                META: files.write_new(beside / META, job.meta),
            }
            written = sum(record.bytes for record in records.values())
            held = None
            if job.state is not None:
                held, segment_bytes = segments.store(beside, self._held, job.state.buffers)
                written += segment_bytes
                small = _write_state(beside, job, held)
                written += sum(record.bytes for record in small.values())
                records |= small
                for number, segment in held.segments.items():
                    records[segments.file_name(number)] = segment.record
            number = 1 + max((found.age[1] for found in manifest.scan(self._folder)), default=-1)
            listed = Manifest(job.name, number, job.env_steps, records)
            files.write_new(beside / manifest.MANIFEST, listed.encode())
            files.sync_folder(beside)
            self._read_again(beside, listed, held)
            path = self._folder / listed.folder_name()
            files.rename(beside, path)
            files.sync_folder(self._folder)
        except BaseException:
            with contextlib.suppress(OSError):
                if path is not None:  # it may have its name, and not durably
                    files.rename(path, beside)
            with contextlib.suppress(OSError):
                files.remove_tree(beside)
            raise
        if held is not None:
            self._held = replace(held, folder=path)
        self._prune(job.name, path)
        manifest_bytes = len(listed.encode())
        total = manifest_bytes + sum(record.bytes for record in records.values())
        seconds = time.perf_counter() - started
        return Saved(path, job.name, job.env_steps, seconds, written + manifest_bytes, total)

    def _read_again(self, beside: Path, listed: Manifest, held: segments.Held | None) -> None:
        """Verify what was written; segments that were only linked are not read."""
        if manifest.read(beside, listed.folder_name()) != listed:
            raise CheckpointError(f"{beside}: expected the manifest that was written")
        before = self._held.segments if self._held else {}
        now = held.segments if held else {}
        fresh = [number for number, segment in now.items() if before.get(number) != segment]
        read_listed(beside, listed, fresh)

    def _prune(self, name: str, new: Path) -> None:
        """Remove the oldest beyond `keep`; the damaged are left for who wants to look at them."""
        try:
            older = [each for each in manifest.scan(self._folder, [name]) if each.path != new]
        except OSError as error:
            tell(f"old checkpoints could not be looked for: {error}", self._report)
            return
        for found in [each for each in older if each.manifest][self._keep - 1 :]:
            # Renamed first: what is half removed must not look like a damaged checkpoint.
            gone = self._folder / f"{BESIDE}{name}-old-{secrets.token_hex(8)}"
            try:
                files.rename(found.path, gone)
                files.remove_tree(gone)
            except OSError as error:
                tell(f"old checkpoint {found.path} could not be removed: {error}", self._report)


def _write_state(beside: Path, job: _Job, held: segments.Held) -> dict[str, files.FileRecord]:
    assert job.state is not None
    arrays = dict(job.state.arrays)
    for place, index in held.indices.items():
        arrays |= index.arrays(place)
    return {
        STATE: files.write_new(beside / STATE, *tensors.encode(arrays, "state")),
        TREE: files.write_new(beside / TREE, job.tree),
    }


def _clean(folder: Path) -> None:
    """Remove what a save left that failed or was killed; if it cannot be, it harms nobody."""
    for entry in os.listdir(folder):
        if entry.startswith(BESIDE):
            with contextlib.suppress(OSError):
                files.remove_tree(folder / entry)
