"""Checkpoints that are never half there, never silently damaged, and never unpickled.

    <name>-<env_steps>-<first 16 digits of the manifest's SHA-256>/
        arrays.safetensors    every array
        meta.json             everything else
        manifest.json         format, name, number, env_steps; bytes and SHA-256 of each file

A save writes into a folder beside, fsyncs each file, writes the manifest last, renames to a name
that was not there, and only when the new one was read again and verified are older ones removed.
Which is the newest is found by looking at what is there; no pointer can point wrong. A folder's
name vouches for its manifest, the manifest for its files.

Checkpoints may come from strangers: nothing in them is executed, only files the manifest lists
under plain names are read, no links are followed, and sizes are looked at before contents.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recollect.run.folder import fsync_folder, read_json
from recollect.types import Array

FORMAT = 1
ARRAYS, META, MANIFEST = "arrays.safetensors", "meta.json", "manifest.json"
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = frozenset(("bool", *INTEGERS, "float16", "float32", "float64"))
MANIFEST_BYTES_LIMIT = 1 << 20
META_BYTES_LIMIT = 64 << 20
HEADER_BYTES_LIMIT = 16 << 20
"""Of the arrays' names and shapes, which are parsed before anything else is known of them."""

_FOLDER = re.compile(r"([a-z][a-z0-9_]*)-([0-9]{1,18})-([0-9a-f]{16})")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class CheckpointError(ValueError):
    """A checkpoint that is damaged or missing. The message names file, expected and found."""


class NoCheckpointError(CheckpointError):
    """There is none of that name."""


class CheckpointWarning(RuntimeWarning):
    """A damaged checkpoint was passed over, or an old one could not be removed."""


@dataclass(frozen=True)
class _Found:
    """A folder that has a checkpoint's name; `number` is -1 where its manifest cannot be read."""

    path: Path
    env_steps: int
    number: int

    @property
    def age(self) -> tuple[int, int]:
        return (self.env_steps, self.number)


def save(
    folder: str | os.PathLike[str],
    name: str,
    arrays: Mapping[str, Array],
    meta: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write a checkpoint, verify it, and remove the older ones of its name.

    Args:
        folder: where a run's checkpoints lie; made if it is not there. It has one writer.
        name: what kind it is, `last` or `best`.
        arrays: of bools, integers or floats, by name.
        meta: what JSON can hold, with text as keys; NaN and infinities may stand in it, tuples come
            back as lists. `env_steps`, an integer, must be among it.
        keep: how many checkpoints of this name stay, the new one included.
    Returns:
        The new checkpoint's folder.
    Raises:
        ValueError: wrong arguments; nothing was written.
        OSError: the disk did not take it; the older checkpoints are as they were.
        CheckpointError: what was read again is not what was written; none was removed.
    """
    env_steps = _check_arguments(name, meta, keep)
    packed = {key: _packed(key, array) for key, array in arrays.items()}
    text = json.dumps(dict(meta), indent=1).encode()
    if len(text) > META_BYTES_LIMIT:
        raise ValueError(
            f"meta is {len(text):,} bytes of JSON, and {META_BYTES_LIMIT:,} are allowed: "
            "put what is large among the arrays"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".new-{name}-*"):  # by a process that was killed in a save
        shutil.rmtree(left, ignore_errors=True)
    beside = folder / f".new-{name}-{secrets.token_hex(8)}"
    try:
        beside.mkdir()
        files = {ARRAYS: _write_arrays(beside / ARRAYS, packed), META: _write(beside / META, text)}
        number = 1 + max((found.number for found in _scan(folder, name)), default=-1)
        manifest = json.dumps(
            {
                "format": FORMAT,
                "name": name,
                "number": number,
                "env_steps": env_steps,
                "files": files,
            },
            indent=1,
        ).encode()
        digest = str(_write(beside / MANIFEST, manifest)["sha256"])
        fsync_folder(beside)
        path = folder / f"{name}-{env_steps}-{digest[:16]}"
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    fsync_folder(folder)
    verify(path)
    _prune(folder, name, path, keep)
    return path


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and meta of the checkpoint in a folder, every byte of it verified.

    Raises:
        CheckpointError: if anything is missing, damaged, too large, or of another format.
    """
    path = Path(path)
    verify(path)
    try:
        meta = read_json(path / META, META_BYTES_LIMIT)
    except (OSError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    return _read_arrays(path / ARRAYS), meta


def find(
    folder: str | os.PathLike[str],
    name: str = "last",
    *,
    report: Callable[[str], None] | None = None,
) -> Path:
    """The newest checkpoint that verifies, by environment steps and then by order of saving.

    Args:
        folder: where a run's checkpoints lie.
        name: `last` or `best`.
        report: told of each damaged one passed over; by default a CheckpointWarning is given.
    Raises:
        NoCheckpointError: if there is none.
        CheckpointError: if none verifies; each is named with its damage.
    """
    folder = Path(folder)
    damages = []
    for found in sorted(_scan(folder, name), key=lambda found: found.age, reverse=True):
        try:
            verify(found.path)
        except CheckpointError as error:
            damages.append(str(error))
            continue
        for damage in damages:
            _tell(f"damaged checkpoint passed over: {damage}; going back to {found.path}", report)
        return found.path
    if damages:
        listed = "\n  ".join(damages)
        raise CheckpointError(f"no {name!r} checkpoint in {folder} can be used:\n  {listed}")
    raise NoCheckpointError(f"there is no {name!r} checkpoint in {folder}")


def verify(path: str | os.PathLike[str]) -> None:
    """Read a checkpoint through and compare sizes and hashes.

    Raises:
        CheckpointError: naming the file, what was expected and what was found.
    """
    path = Path(path)
    for file, wanted in _manifest(path)["files"].items():
        _expect(path / file, "bytes", f"{wanted['bytes']:,}", f"{_size(path / file):,}")
        _expect(path / file, "SHA-256", wanted["sha256"], _sha256(path / file))


def _check_arguments(name: str, meta: Mapping[str, Any], keep: int) -> int:
    """`env_steps`, if all is well."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"a checkpoint's name is of a-z, 0-9 and _, got {name!r}")
    if keep < 1:
        raise ValueError(f"keep must be 1 or more, got {keep}: the new checkpoint is one of them")
    env_steps = meta.get("env_steps")
    if isinstance(env_steps, bool) or not isinstance(env_steps, int) or env_steps < 0:
        raise ValueError(f"meta needs 'env_steps', an integer of 0 or more, got {env_steps!r}")
    _check_json("meta", meta)
    return env_steps


def _check_json(where: str, value: object) -> None:
    """Refuse what JSON would change or cannot hold, saying where it stands."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}: JSON keeps only text as keys")
            _check_json(f"{where}[{key!r}]", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_json(f"{where}[{index}]", inner)
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(
            f"{where} is a {type(value).__name__}: put arrays among the arrays, and make numbers "
            "plain with .item()"
        )


def _packed(name: str, array: Array) -> Array:
    """`array` as it goes to the file: C order, little endian."""
    array = np.asarray(array)
    if array.dtype.name not in DTYPES:
        raise ValueError(
            f"array {name!r} is of dtype {array.dtype}, and a checkpoint holds only "
            f"{', '.join(sorted(DTYPES))}"
        )
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _write_arrays(path: Path, arrays: dict[str, Array]) -> dict[str, int | str]:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(arrays, path)
    except SafetensorError as error:  # the arrays are of its types: what fails is the disk
        raise OSError(f"{path}: {error}") from error
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    # Hashed from the file: the bytes are never held a second time in memory.
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _write(path: Path, data: bytes) -> dict[str, int | str]:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _read_arrays(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > HEADER_BYTES_LIMIT:
        raise CheckpointError(
            f"{path}: expected a header of at most {HEADER_BYTES_LIMIT:,} bytes, found {header:,}"
        )
    try:
        arrays = load_file(path)
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        # The last four: dtypes of the format that numpy does not know, shapes it cannot make.
        raise CheckpointError(f"{path}: expected safetensors, found {error}") from error
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise CheckpointError(f"{path}: array {name!r} is of dtype {array.dtype}")
    return arrays


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint in `path`, itself verified and of the right form."""
    named = _FOLDER.fullmatch(path.name)
    if named is None:
        raise CheckpointError(
            f"{path}: expected a folder named <name>-<env_steps>-<16 hex digits>; the name vouches "
            "for what is inside, so give it back its own if it was renamed"
        )
    file = path / MANIFEST
    _size(file)
    try:
        manifest = read_json(file, MANIFEST_BYTES_LIMIT)
    except (OSError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    # The format first: of another version it is refused by version, whatever else it may hold.
    _expect(file, "format", FORMAT, manifest.get("format"))
    _expect(file, "SHA-256 begins with", named[3], _sha256(file)[:16])
    _expect(file, "name", named[1], manifest.get("name"))
    _expect(file, "env_steps", int(named[2]), manifest.get("env_steps"))
    files = manifest.get("files")
    if not isinstance(files, dict) or not {ARRAYS, META} <= set(files):
        raise CheckpointError(
            f"{file}: expected {ARRAYS} and {META} among the files, found {files}"
        )
    for name, entry in files.items():
        if not _PLAIN.fullmatch(name):
            raise CheckpointError(f"{file}: expected plain file names, found {name!r}")
        if not (
            isinstance(entry, dict)
            and isinstance(entry.get("bytes"), int)
            and isinstance(entry.get("sha256"), str)
        ):
            raise CheckpointError(f"{file}: expected bytes and sha256 of {name}, found {entry}")
    if not isinstance(manifest.get("number"), int):
        raise CheckpointError(f"{file}: expected a number, found {manifest.get('number')!r}")
    return manifest


def _expect(file: Path, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise CheckpointError(f"{file}: expected {what} {expected}, found {found}")


def _size(path: Path) -> int:
    """Bytes of a regular file."""
    try:
        status = path.lstat()
    except OSError as error:
        raise CheckpointError(f"{path}: expected a file, found {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: expected a regular file, found a link or something else")
    return status.st_size


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected a readable file, found {error.strerror}"
        ) from error


def _scan(folder: Path, name: str) -> list[_Found]:
    """Every folder that has the name of such a checkpoint."""
    if not folder.is_dir():
        return []
    found = []
    for entry in sorted(folder.iterdir()):
        named = _FOLDER.fullmatch(entry.name)
        if named is None or named[1] != name:
            continue
        try:
            number = int(_manifest(entry)["number"])
        except CheckpointError:
            number = -1
        found.append(_Found(entry, int(named[2]), number))
    return found


def _prune(folder: Path, name: str, new: Path, keep: int) -> None:
    """Remove the oldest beyond `keep`; the damaged are left for who wants to look at them."""
    older = [found for found in _scan(folder, name) if found.path != new and found.number >= 0]
    older.sort(key=lambda found: found.age, reverse=True)
    for found in older[keep - 1 :]:
        # Renamed first: what is half removed must not look like a damaged checkpoint.
        gone = folder / f".new-{name}-old-{secrets.token_hex(8)}"
        try:
            os.rename(found.path, gone)
            shutil.rmtree(gone)
        except OSError as error:
            _tell(f"old checkpoint {found.path} could not be removed: {error}", None)


def _tell(message: str, report: Callable[[str], None] | None) -> None:
    if report is None:
        warnings.warn(message, CheckpointWarning, stacklevel=3)
    else:
        report(message)
