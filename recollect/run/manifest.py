"""A checkpoint's manifest: its files and their hashes; the folder's name vouches for it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recollect.run import files, segments, strict_json
from recollect.run.damage import CheckpointError, expect, refuse_unless
from recollect.run.files import FileRecord

FORMAT = 2
MANIFEST, META, PARAMETERS = "manifest.json", "meta.json", "parameters.safetensors"
TREE, STATE = "state.json", "state.safetensors"

MANIFEST_BYTES_LIMIT = 1 << 20
NUMBER_LIMIT = 1 << 53
BYTES_LIMITS = {
    META: strict_json.BYTES_LIMIT,
    TREE: strict_json.BYTES_LIMIT,
    PARAMETERS: 16 << 30,  # read into memory
    STATE: 256 << 30,  # read into memory
}
"""Of each file; of a segment it is `segments.SEGMENT_BYTES_LIMIT`."""

_FOLDER = re.compile(r"([a-z][a-z0-9_]{0,63})-(0|[1-9][0-9]{0,17})-([0-9a-f]{16})")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """`number` rises with every save in a folder; `files` are all but the manifest."""

    name: str
    number: int
    env_steps: int
    files: Mapping[str, FileRecord]

    @property
    def full(self) -> bool:
        """Whether a run can go on from it: it has a state."""
        return TREE in self.files

    @property
    def segments(self) -> dict[int, FileRecord]:
        """The segments among the files, by number."""
        numbers = ((segments.number_of(name), record) for name, record in self.files.items())
        return {number: record for number, record in numbers if number is not None}

    def encode(self) -> bytes:
        """What stands in the file."""
        described = {
            "format": FORMAT,
            "name": self.name,
            "number": self.number,
            "env_steps": self.env_steps,
            "files": {name: vars(record) for name, record in self.files.items()},
        }
        return json.dumps(described, indent=1).encode()

    def folder_name(self) -> str:
        """Of the checkpoint: `<name>-<env_steps>-<first 16 digits of the manifest's SHA-256>`."""
        digest = hashlib.sha256(self.encode()).hexdigest()
        return f"{self.name}-{self.env_steps}-{digest[:16]}"


@dataclass(frozen=True)
class Found:
    """A folder that has a checkpoint's name; `damage` is set where its manifest cannot be used."""

    path: Path
    name: str
    env_steps: int
    manifest: Manifest | None
    damage: str = ""

    @property
    def age(self) -> tuple[int, int]:
        """What is newer is greater: environment steps, then the order of saving."""
        return (self.env_steps, self.manifest.number if self.manifest else -1)


def scan(folder: Path, names: Iterable[str] = ()) -> list[Found]:
    """All that has the name of a checkpoint, the newest first; of any name if none is given."""
    try:
        entries = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    wanted, found = set(names), []
    for entry in entries:
        named = _FOLDER.fullmatch(entry)
        if named is None or (wanted and named[1] not in wanted):
            continue
        path, env_steps = folder / entry, int(named[2])
        try:
            found.append(Found(path, named[1], env_steps, read(path)))
        except CheckpointError as error:
            found.append(Found(path, named[1], env_steps, None, str(error)))
    return sorted(found, key=lambda each: each.age, reverse=True)


def read(path: Path, folder_name: str = "") -> Manifest:
    """The manifest in a checkpoint's folder, itself verified and of the right form.

    Args:
        path: the folder.
        folder_name: which name vouches for it, if not its own.
    Raises:
        CheckpointError: naming what was expected and what was found.
    """
    named = _FOLDER.fullmatch(folder_name or path.name)
    if named is None:
        raise CheckpointError(
            f"{path}: expected a folder named <name>-<env_steps>-<16 hex digits>; the name vouches "
            "for what is inside, so give it back its own if it was renamed"
        )
    files.check_folder(path)
    file = path / MANIFEST
    data = files.read_up_to(file, MANIFEST_BYTES_LIMIT)
    try:
        content = strict_json.parse(data, file)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    # The format first: of another version it is refused by version, whatever else it may hold.
    expect(file, "format", FORMAT, content.get("format"))
    expect(file, "SHA-256 begins with", named[3], hashlib.sha256(data).hexdigest()[:16])
    expect(file, "name", named[1], content.get("name"))
    expect(file, "env_steps", int(named[2]), content.get("env_steps"))
    number: Any = content.get("number")
    refuse_unless(_count(number, NUMBER_LIMIT), file, "a number", number)
    return Manifest(named[1], number, int(named[2]), _records(file, content.get("files")))


def _records(file: Path, listed: Any) -> dict[str, FileRecord]:
    refuse_unless(isinstance(listed, dict), file, "files", listed)
    records = {}
    for name, entry in listed.items():
        segment = segments.number_of(name) is not None
        refuse_unless(segment or name in BYTES_LIMITS, file, "names of a checkpoint's files", name)
        limit = segments.SEGMENT_BYTES_LIMIT if segment else BYTES_LIMITS[name]
        refuse_unless(
            isinstance(entry, dict)
            and entry.keys() == {"bytes", "sha256"}
            and _count(entry["bytes"], limit)
            and isinstance(entry["sha256"], str)
            and _HASH.fullmatch(entry["sha256"]),
            file,
            f"bytes up to {limit:,} and sha256 of {name}",
            entry,
        )
        records[name] = FileRecord(entry["bytes"], entry["sha256"])
    inside = sorted(name for name in records if name in BYTES_LIMITS)
    weights, full = sorted((PARAMETERS, META)), sorted(BYTES_LIMITS)
    linked = len(records) - len(inside)
    refuse_unless(inside in (weights, full), file, f"{full}, or {weights}, among the files", inside)
    refuse_unless(
        linked <= (segments.SEGMENTS_LIMIT if inside == full else 0),
        file,
        f"at most {segments.SEGMENTS_LIMIT} segments, and only beside a state",
        linked,
    )
    return records


def _count(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit
