"""The file calls that checkpoints are made of.

All that writes goes through the functions here and, in them, through `os`: a test puts another
object in its place and makes each call fail in turn. All that reads opens only regular files, never
follows a link at the end of a path, and never waits for a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recollect.run.damage import CheckpointError
from recollect.types import Array

CHUNK_BYTES = 4 << 20
"""Read, hashed or written in one go."""

_CANNOT_LINK = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EACCES, errno.ENOSYS)


@dataclass(frozen=True)
class FileRecord:
    """What a manifest says of a file."""

    bytes: int
    sha256: str


class NewFile:
    """A file that was not there, hashed as it is written."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes | Array) -> None:
        """Append bytes, or those of an array in C order."""
        view = memoryview(data) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
        for start in range(0, len(view), CHUNK_BYTES):
            piece = view[start : start + CHUNK_BYTES]
            self._hash.update(piece)
            self._bytes += len(piece)
            while len(piece):
                written = os.write(self._descriptor, piece)
                if not written:
                    raise OSError(errno.EIO, "nothing was written")
                piece = piece[written:]

    def finish(self) -> FileRecord:
        """Make it durable and close it."""
        os.fsync(self._descriptor)
        self.close()
        return FileRecord(self._bytes, self._hash.hexdigest())

    def close(self) -> None:
        """Close it, whole or not."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_new(path: Path, *pieces: bytes | Array) -> FileRecord:
    """Write a new file, durably."""
    with NewFile(path) as file:
        for piece in pieces:
            file.write(piece)
        return file.finish()


def link_or_copy(source: Path, target: Path, record: FileRecord) -> int:
    """Give a file a second name, or copy it where the file system has no links.

    Returns:
        Bytes written: 0 for a link.
    Raises:
        CheckpointError: the copy is not what `record` says.
    """
    try:
        os.link(source, target, follow_symlinks=False)
        return 0
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
    descriptor = _descriptor(source)  # an OSError from here on may be of either file
    try:
        with NewFile(target) as file:
            while piece := os.read(descriptor, CHUNK_BYTES):
                file.write(piece)
            copied = file.finish()
    finally:
        os.close(descriptor)
    if copied != record:
        raise CheckpointError(f"{source}: expected {record}, found {copied}")
    return copied.bytes


def make_folder(path: Path) -> None:
    """A new folder."""
    os.mkdir(path)


def rename(source: Path, target: Path) -> None:
    """To a name that is not there."""
    os.rename(source, target)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it; a link is removed, not what it leads to."""
    with os.scandir(path) as entries:
        inside = [(Path(entry), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for entry, is_folder in inside:
        if is_folder:
            remove_tree(entry)
        else:
            os.unlink(entry)
    os.rmdir(path)


def check_folder(path: Path) -> None:
    """Raise CheckpointError unless this is a folder, and no link to one."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a folder, found {_reason(error)}") from error
    if not stat.S_ISDIR(mode):
        raise CheckpointError(f"{path}: expected a folder, found {_kind(mode)}")


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """A descriptor of a regular file, to read from.

    Raises:
        CheckpointError: it is not there, or is a link, a folder, a pipe, a device or a socket; or
            reading it fails.
    """
    descriptor = _descriptor(path)
    try:
        yield descriptor
    except OSError as error:
        found = _reason(error)
        raise CheckpointError(f"{path}: expected a readable file, found {found}") from error
    finally:
        with contextlib.suppress(OSError):  # what was read was read
            os.close(descriptor)


def _descriptor(path: Path) -> int:
    try:
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{path}: expected a regular file, found {_kind(mode)}")
        # What it is may have changed since: hence the flags, and a second look.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        descriptor = os.open(path, flags)
    except OSError as error:
        raise CheckpointError(f"{path}: expected a file, found {_reason(error)}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise CheckpointError(f"{path}: expected a regular file, found {_kind(mode)}")
    return descriptor


def size_of(descriptor: int) -> int:
    """Bytes of an open file."""
    return os.fstat(descriptor).st_size


def read_up_to(path: Path, bytes_limit: int) -> bytes:
    """A small file.

    Raises:
        CheckpointError: it cannot be read, or is larger.
    """
    with open_regular(path) as descriptor:
        size = size_of(descriptor)
        if size > bytes_limit:
            raise CheckpointError(f"{path}: expected at most {bytes_limit:,} bytes, found {size:,}")
        return read_at(descriptor, 0, size).tobytes()


def read_verified(path: Path, record: FileRecord) -> Array:
    """A file's bytes [n] uint8, which are what was recorded.

    Raises:
        CheckpointError: naming what was expected and what was found.
    """
    with open_regular(path) as descriptor:
        _check_size(path, record, size_of(descriptor))
        data = read_at(descriptor, 0, record.bytes)
    _check_size(path, record, len(data))
    _check_hash(path, record, hashlib.sha256(data.data).hexdigest())
    return data


def read_at(descriptor: int, start: int, size: int) -> Array:
    """[size] uint8, or fewer where the file ends."""
    data = np.empty(size, np.uint8)
    done = 0
    while done < size:
        piece = data.data[done : done + CHUNK_BYTES]
        read = os.preadv(descriptor, [piece], start + done)
        if not read:
            break
        done += read
    return data[:done]


def verify(path: Path, descriptor: int, record: FileRecord) -> None:
    """Raise CheckpointError unless an open file is what was recorded, every byte of it."""
    _check_size(path, record, size_of(descriptor))
    digest, start, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK_BYTES))
    while read := os.preadv(descriptor, [buffer], start):
        digest.update(buffer[:read])
        start += read
    _check_size(path, record, start)
    _check_hash(path, record, digest.hexdigest())


def _check_size(path: Path, record: FileRecord, found: int) -> None:
    if found != record.bytes:
        raise CheckpointError(f"{path}: expected bytes {record.bytes:,}, found {found:,}")


def _check_hash(path: Path, record: FileRecord, found: str) -> None:
    if found != record.sha256:
        raise CheckpointError(f"{path}: expected SHA-256 {record.sha256}, found {found}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISREG, "a file"))
    others = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds + others if test(mode)), "a device")
