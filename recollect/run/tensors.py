"""Safetensors files, read with suspicion and written straight from memory.

    8 bytes     length of the header, little endian
    header      JSON: name -> dtype, shape, data_offsets [start, stop) in what follows
    the arrays  one after another, without gaps

Files written here load with any reader of the format. Only what is written here is read: no array
overlaps another, none is left out, none is of a type that numpy lacks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recollect.run import files, strict_json
from recollect.run.damage import CheckpointError, refuse_unless, shown
from recollect.types import Array

CODES = {
    "BOOL": "bool",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
NAMES = {name: code for code, name in CODES.items()}

HEADER_BYTES_LIMIT = strict_json.BYTES_LIMIT
"""Parsed before anything else is known of the arrays."""

TENSORS_LIMIT = 20_000
"""In one file."""

NAME_LIMIT = 4096
"""Characters of an array's name: of a state, the whole path to it."""

DIMS_LIMIT = 32
"""Of an array; numpy 1 stopped there."""


@dataclass(frozen=True)
class Entry:
    """Where an array lies: [start, stop) bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def packed(name: str, array: Array) -> Array:
    """`array` as it goes to a file: C order, little endian.

    Raises:
        ValueError: of a dtype that files do not hold.
    """
    array = np.asarray(array)
    if array.dtype.name not in NAMES:
        raise ValueError(
            f"array {name!r} is of dtype {array.dtype}, and a checkpoint holds only "
            f"{', '.join(sorted(NAMES))}"
        )
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def encode(arrays: Mapping[str, Array], where: str) -> list[bytes | Array]:
    """The pieces of a file: its header, then the arrays' own memory.

    Args:
        arrays: as `packed` gives them.
        where: named in errors.
    Raises:
        ValueError: a name or a number of arrays that `parse` would refuse.
    """
    # The widest first, so that each lies at a multiple of its width.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    entries, start = {}, 0
    for name in names:
        array = arrays[name]
        stop = start + array.nbytes
        entries[name] = Entry(array.dtype.name, array.shape, start, stop)
        start = stop
    return [header(entries, where), *(arrays[name] for name in names)]


def header(entries: Mapping[str, Entry], where: str) -> bytes:
    """The beginning of a file, up to its first array, which then lies at a multiple of 8."""
    described = {
        name: {"dtype": NAMES[e.dtype], "shape": e.shape, "data_offsets": (e.start, e.stop)}
        for name, e in entries.items()
    }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    _parse_header(text, max((entry.stop for entry in entries.values()), default=0), where)
    return len(text).to_bytes(8, "little") + text


def parse(data: Array, where: Path) -> dict[str, Array]:
    """The arrays of a file's bytes [n] uint8, as views of them.

    Raises:
        CheckpointError: what stands there is not such a file.
    """
    first, entries = read_header(data[: 8 + HEADER_BYTES_LIMIT], len(data), where)
    arrays = {}
    for name, entry in entries.items():
        dtype = np.dtype(entry.dtype).newbyteorder("<")
        body = data[first + entry.start : first + entry.stop]
        array = np.ndarray(entry.shape, dtype, body.data if entry.stop > entry.start else None)
        arrays[name] = array if array.flags.aligned else array.copy()
    return arrays


def read_header(start: Array, size: int, where: Path) -> tuple[int, dict[str, Entry]]:
    """From the first bytes of a file of `size`: where its arrays begin, and what they are.

    Raises:
        CheckpointError: it is not of the form, or not of this size.
    """
    refuse_unless(len(start) >= 8, where, "a header", f"{len(start)} bytes")
    length = int.from_bytes(start[:8].tobytes(), "little")
    if length > HEADER_BYTES_LIMIT:
        limit = f"{HEADER_BYTES_LIMIT:,}"
        raise CheckpointError(
            f"{where}: expected a header of at most {limit} bytes, found {length:,}"
        )
    refuse_unless(8 + length <= size, where, "a whole header", f"a file of {size:,} bytes")
    return 8 + length, _parse_header(start[8 : 8 + length].tobytes(), size - 8 - length, where)


def read_header_of(path: Path, descriptor: int) -> tuple[int, dict[str, Entry]]:
    """As `read_header`, of an open file."""
    start = files.read_at(descriptor, 0, 8)
    length = int.from_bytes(start.tobytes(), "little")
    if length <= HEADER_BYTES_LIMIT:
        start = files.read_at(descriptor, 0, 8 + length)
    return read_header(start, files.size_of(descriptor), path)


def _parse_header(text: bytes, bytes_after: int, where: object) -> dict[str, Entry]:
    try:
        described = strict_json.parse(text, where)
    except ValueError as error:
        raise CheckpointError(f"{error}, in the header") from error
    if len(described) > TENSORS_LIMIT:
        raise CheckpointError(
            f"{where}: expected at most {TENSORS_LIMIT:,} arrays, found {len(described):,}"
        )
    entries = {name: _entry(name, entry, where) for name, entry in described.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise CheckpointError(
                f"{where}: expected array {shown(name)} to begin at {end:,}, found {entry.start:,}"
            )
        end = entry.stop
    if end != bytes_after:
        raise CheckpointError(
            f"{where}: expected arrays of {bytes_after:,} bytes, found {end:,} in the header"
        )
    return entries


def _entry(name: str, entry: Any, where: object) -> Entry:
    what = f"{where}: array {shown(name)}"
    refuse_unless(0 < len(name) <= NAME_LIMIT, what, f"a name of 1 to {NAME_LIMIT}", len(name))
    refuse_unless(name != "__metadata__", what, "an array's name", name)
    refuse_unless(
        isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"},
        what,
        "dtype, shape and data_offsets",
        entry,
    )
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    refuse_unless(isinstance(code, str) and code in CODES, what, "a dtype numpy has", code)
    refuse_unless(_sizes(shape) and len(shape) <= DIMS_LIMIT, what, "a shape", shape)
    refuse_unless(_sizes(offsets) and len(offsets) == 2, what, "two offsets", offsets)
    # Python's numbers do not wrap around. A 0 among the sizes would hide a factor of 2^62.
    need = math.prod(shape) * np.dtype(CODES[code]).itemsize
    largest = math.prod(size for size in shape if size)
    refuse_unless(largest < 2**60, what, "a shape below 2^60", shape)
    refuse_unless(offsets[1] - offsets[0] == need, what, f"{need} bytes", offsets)
    return Entry(CODES[code], tuple(shape), offsets[0], offsets[1])


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**60 for value in values
    )
