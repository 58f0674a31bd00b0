"""What a shard was told since it was last saved, in files, so that a killed process loses nothing.

The journal lies in pages, `page-0`, `page-1` and on: a state of the shard and all pages begun since
give the shard again, bit for bit. A page is records,

    magic, length of the payload, its CRC-32, the CRC-32 of these   little-endian, 20 bytes
    payload: length of a JSON header, the header, arrays

with each array's bytes as they lie in memory, its dtype and shape in the header. The first record
of a page says what page it is. Records reach the kernel before the shard answers, which is enough
for a process that dies; nothing here waits for a disk, so a machine that dies may lose them.

A record cut short at the end of the last page was never answered for, and does not count.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recollect.messages import PartLostError
from recollect.types import Array

JOURNAL_BYTES = 2 << 30
"""More is given up: reading it again would take longer than to collect the experience anew."""

_MAGIC = b"rJ01"
_HEAD = struct.Struct("<4sQI")
_CRC = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
_DTYPES = ("int64", "float64", "uint8")
_TAKEN_OVER = stat.S_IXUSR
"""Set on a page that another process reads, and goes on from."""
_AT_ONCE = 512
"""Buffers that one call of the system writes; 1024 are the most it takes."""


class DamagedError(Exception):
    """A page that is not as it was written."""


class Record(NamedTuple):
    """What was done, `header["does"]` and its small arguments, and the arrays given to it."""

    header: dict[str, Any]
    arrays: list[Array]


class Journal:
    """Pages of one shard in one folder.

    An OSError while writing gives up all pages, with a warning, and nothing is written until the
    next is begun.

    Args:
        folder: made if it is not there.
        most_bytes: of all pages together.
    """

    def __init__(self, folder: Path, most_bytes: int = JOURNAL_BYTES) -> None:
        self._file = -1  # that is written; -1: none
        self._folder, self._most_bytes = Path(folder), most_bytes
        self._sizes: dict[int, int] = {}
        self.number = -1

    def __del__(self) -> None:
        self._close()

    # --- Writing ---------------------------------------------------------------------------------

    def begin(self, number: int, header: dict[str, Any]) -> None:
        """Begin page `number`, with a record of what the shard knows."""
        self._close()
        self.number = number
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path(number).unlink(missing_ok=True)  # it may be marked, for who began it
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self._path(number), flags, 0o600)
        except OSError as error:
            self._give_up(f"page {number} cannot be begun: {error}")
            return
        self._sizes[number] = 0
        self.append({**header, "page": number})

    def append(self, header: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Write one record.

        Raises:
            PartLostError: another process goes on with the journal.
        """
        if self._file < 0:
            return
        buffers = _encoded(header, arrays)
        nbytes = sum(map(len, buffers))
        if sum(self._sizes.values()) + nbytes > self._most_bytes:
            self._give_up(f"it would be longer than {self._most_bytes:,} bytes")
            return
        try:
            # Before it, for who goes on must not find more when it reads once more; and after it:
            # what was written before the mark is read by who set it.
            self._refuse_if_taken_over()
            _write(self._file, buffers)
            self._refuse_if_taken_over()
        except OSError as error:
            self._give_up(f"page {self.number} cannot be written: {error}")
            return
        self._sizes[self.number] += nbytes

    def _refuse_if_taken_over(self) -> None:
        if os.fstat(self._file).st_mode & _TAKEN_OVER:
            raise PartLostError("another process goes on with this journal: we were replaced")

    def forget(self, needed: int) -> None:
        """Remove pages below `needed`."""
        for number in self._numbers():
            if number < needed:
                self._remove(number)

    def clear(self) -> None:
        """Remove all pages."""
        self._close()
        for number in self._numbers():
            self._remove(number)

    def _give_up(self, why: str) -> None:
        """Without its end the rest is of no use: a page that is missing says so."""
        self.clear()
        warnings.warn(
            f"the journal in {self._folder} is given up, {why}. Should this replay shard die before"
            " the next checkpoint, experience since the last one is lost",
            RuntimeWarning,
            stacklevel=3,
        )

    def _remove(self, number: int) -> None:
        self._sizes.pop(number, None)
        path = self._path(number)
        try:
            path.unlink(missing_ok=True)
        except OSError:
            try:
                os.truncate(path, 0)  # an empty page is no page either
            except OSError as error:
                warnings.warn(f"{path} cannot be removed: {error}", RuntimeWarning, stacklevel=2)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    # --- Reading ---------------------------------------------------------------------------------

    def sound(self, page: int) -> list[int]:
        """The pages from `page` on, once all of them were read and found whole; else none.

        What was cut short at the end of the last is removed. Who wrote them, and was only stopped,
        can write no more.
        """
        try:
            for number in self._numbers():
                os.chmod(self._path(number), 0o600 | _TAKEN_OVER)
            found = [number for number in self._numbers() if number >= page]
            if not found or found != list(range(page, found[-1] + 1)):
                return []
            for number in found:
                whole, size = self._whole(number)
                if whole < max(size, 1) and number != found[-1]:
                    return []
                os.truncate(self._path(number), whole)
                self._sizes[number] = whole
            # Who was killed while it began the last page had told nobody of it.
            return [number for number in found if self._sizes[number]]
        except (OSError, DamagedError):
            return []

    def records(self, pages: Sequence[int]) -> Iterator[Record]:
        """All records of these pages, which are sound."""
        for number in pages:
            with open(self._path(number), "rb") as file:
                while payload := _payload(file):
                    yield _decoded(payload)

    def _whole(self, number: int) -> tuple[int, int]:
        """Bytes in whole records of a page, and bytes; DamagedError if it is not what it was."""
        path = self._path(number)
        size, whole = path.stat().st_size, 0
        with open(path, "rb") as file:
            while payload := _payload(file):
                record = _decoded(payload)
                if (record.header.get("page") == number) != (whole == 0):
                    raise DamagedError(f"{path} is another page")
                whole = file.tell()
        return whole, size

    def _numbers(self) -> list[int]:
        """Pages there are, rising."""
        names = [path.name for path in self._folder.glob("page-*")]
        return sorted(int(name[5:]) for name in names if name[5:].isdecimal())

    def _path(self, number: int) -> Path:
        return self._folder / f"page-{number}"


def _encoded(header: dict[str, Any], arrays: Sequence[Array]) -> list[memoryview | bytes]:
    """A record, in the buffers it is written from."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    kinds = [[_DTYPES[_DTYPES.index(a.dtype.name)], list(a.shape)] for a in arrays]
    text = json.dumps({**header, "arrays": kinds}, separators=(",", ":")).encode()
    payload: list[memoryview | bytes] = [_LENGTH.pack(len(text)) + text]
    payload += [array.reshape(-1).view(np.uint8).data for array in arrays if array.size]
    crc = 0
    for buffer in payload:
        crc = zlib.crc32(buffer, crc)
    head = _HEAD.pack(_MAGIC, sum(map(len, payload)), crc)
    return [head + _CRC.pack(zlib.crc32(head)) + payload[0], *payload[1:]]


def _write(file: int, buffers: Sequence[memoryview | bytes]) -> None:
    left = list(buffers)
    while left:
        written = os.writev(file, left[:_AT_ONCE])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:  # the system took a part of it
            left[0] = memoryview(left[0])[written:]


def _payload(file: Any) -> bytes:
    """The next record's payload; nothing at the end, or where the last record is cut short."""
    begun = file.tell()
    head = file.read(_HEAD.size + _CRC.size)
    if len(head) < _HEAD.size + _CRC.size:
        file.seek(begun)
        return b""
    magic, length, crc = _HEAD.unpack_from(head)
    if magic != _MAGIC or _CRC.unpack_from(head, _HEAD.size)[0] != zlib.crc32(head[: _HEAD.size]):
        raise DamagedError("a record does not begin as one")
    if os.fstat(file.fileno()).st_size - file.tell() < length:
        file.seek(begun)
        return b""
    payload: bytes = file.read(length)
    if zlib.crc32(payload) != crc:
        raise DamagedError("a record is not what was written")
    return payload


def _decoded(payload: bytes) -> Record:
    """A record again; what is large in it is not copied."""
    try:
        begin = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
        header = json.loads(payload[_LENGTH.size : begin])
        arrays = []
        for name, shape in header.pop("arrays"):
            dtype = np.dtype(_DTYPES[_DTYPES.index(name)])
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(payload, dtype, count, begin).reshape(shape)
            arrays.append(array if name == "uint8" else array.copy())  # that is aligned
            begin += array.nbytes
        if begin != len(payload):
            raise ValueError("bytes are left over")
    except (ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise DamagedError(f"a record cannot be read: {error}") from error
    return Record(header, arrays)
