"""Buffers on disk: each written once, into a segment that later checkpoints link.

A segment is a safetensors file with one array of bytes. It is written by one save and never
changed. A checkpoint has, by hard links, all segments that hold a live buffer of its state. What
the next save writes is one new segment with

- the buffers that are not on disk yet,
- those of segments of which less than half lives: the disk holds at most twice what lives,
- those of the smallest, MERGED at once, when there would be more than SEGMENTS_LIMIT.

Where in the tree buffers stand is their *place*. An index says, for each number of a place, in
which segment its bytes lie.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from recollect.run import files, state_tree, tensors
from recollect.run.damage import CheckpointError, refuse_unless, shown
from recollect.run.files import FileRecord
from recollect.types import Array, Buffers

SEGMENTS_LIMIT = 64
"""Files in a checkpoint."""

MERGED = 8
"""So many at once, so that a save in eight does it; it writes an eighth of what lives, or less."""

SEGMENT_BYTES_LIMIT = 1 << 44
NUMBER_LIMIT = 1 << 31
"""Of segments; one is used up by a save."""

BUFFERS_LIMIT = 1 << 28
"""In one place."""

COLUMNS = ("numbers", "segment", "offset", "bytes")
ARRAY = "bytes"

Hashed = bool | Collection[int]
"""Which segments to read through: all, none, or those of these numbers."""

_NAME = re.compile(r"segment-(0|[1-9][0-9]{0,9})\.safetensors")


@dataclass(frozen=True)
class Segment:
    """One file: what it holds, and which file it is (device, inode, time of change)."""

    record: FileRecord
    capacity: int  # bytes of buffers, dead ones too
    identity: tuple[int, int, int]


@dataclass(frozen=True)
class Index:
    """Where the buffers of one place lie: four columns [n] int64, by rising number."""

    numbers: Array
    segment: Array
    offset: Array
    bytes: Array

    def arrays(self, place: str) -> dict[str, Array]:
        """As arrays of a state, by path."""
        return {f"{place}/{name}": getattr(self, name) for name in COLUMNS}


@dataclass(frozen=True)
class Held:
    """What a checkpoint's folder holds of buffers."""

    folder: Path
    segments: Mapping[int, Segment] = field(default_factory=dict)
    indices: Mapping[str, Index] = field(default_factory=dict)


def file_name(number: int) -> str:
    """Of a segment."""
    return f"segment-{number}.safetensors"


def number_of(name: str) -> int | None:
    """Of the segment in a file of this name; None if it is no segment's."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match and int(match[1]) < NUMBER_LIMIT else None


def store(folder: Path, before: Held | None, buffers: Mapping[str, Buffers]) -> tuple[Held, int]:
    """Put buffers into a new folder: link what is on disk, write what is not.

    Args:
        folder: a checkpoint's, being made.
        before: of the last checkpoint with a state.
        buffers: by place.
    Returns:
        What the folder then holds, and bytes written.
    Raises:
        OSError: the disk did not take it.
        ValueError: a buffer is no array of bytes.
    """
    before = _usable(before) if before else Held(folder)
    new = 1 + max(before.segments, default=-1)
    indices = {place: _index(before, place, buffers[place], new) for place in buffers}
    dropped = _dropped(before.segments, indices.values())
    fresh: list[Iterator[bytes | Array]] = []
    start = 0
    for place, index in indices.items():
        index.segment[np.isin(index.segment, dropped)] = new
        positions = np.flatnonzero(index.segment == new)
        chosen = buffers[place].arrays
        news = [chosen[position] for position in positions.tolist()]
        sizes = state_tree.lengths(news)
        index.bytes[positions] = sizes
        index.offset[positions] = start + np.cumsum(sizes) - sizes
        start += int(sizes.sum())
        fresh.append(state_tree.joined(news, sizes))
    segments, written = {}, 0
    for number in sorted(before.segments.keys() - set(dropped)):
        segments[number], copied = _take(before, number, folder)
        written += copied
    if any((index.segment == new).any() for index in indices.values()):
        segments[new] = _write(folder / file_name(new), start, chain.from_iterable(fresh))
        written += segments[new].record.bytes
    return Held(folder, segments, indices), written


def find(
    folder: Path,
    records: Mapping[int, FileRecord],
    places: Sequence[str],
    arrays: dict[str, Array],
    where: Path,
) -> Held:
    """What a checkpoint's folder says it holds; its segments are looked at, not read through.

    Args:
        records: of the segments in its manifest.
        places: of buffers in its state.
        arrays: of its state, by path; the indices are taken out.
        where: the file they come from.
    Raises:
        CheckpointError: the indices contradict themselves or the files.
    """
    segments = {}
    for number, record in records.items():
        path = folder / file_name(number)
        with files.open_regular(path) as descriptor:
            first, entries = tensors.read_header_of(path, descriptor)
            refuse_unless(
                entries.keys() == {ARRAY} and entries[ARRAY].dtype == "uint8",
                path,
                "one array of bytes",
                list(entries)[:9],
            )
            found = record.bytes - first
            refuse_unless(entries[ARRAY].stop == found, path, f"{found} bytes", entries[ARRAY])
            segments[number] = Segment(record, found, _identity(os.fstat(descriptor)))
    indices = {}
    for place in places:
        columns = [arrays.pop(f"{place}/{name}", None) for name in COLUMNS]
        indices[place] = _checked(columns, f"{where}: buffers at {shown(place)}")
    _check_places(segments, list(indices.values()), where)
    return Held(folder, segments, indices)


def open_all(held: Held, hashed: Hashed) -> dict[str, Buffers]:
    """The buffers of a checkpoint, read-only, as parts of its files.

    Args:
        held: as `find` gives it.
        hashed: which to read through and compare first.
    Raises:
        CheckpointError: a segment is not what the manifest says.
    """
    numbers = sorted(held.segments)
    maps = []
    for number in numbers:
        path, segment = held.folder / file_name(number), held.segments[number]
        with files.open_regular(path) as descriptor:
            if hashed is True or (hashed and number in hashed):
                files.verify(path, descriptor, segment.record)
            try:
                mapped = mmap.mmap(descriptor, segment.record.bytes, prot=mmap.PROT_READ)
            except ValueError as error:  # it shrank since it was looked at
                raise CheckpointError(f"{path}: {error}") from error
        maps.append(np.frombuffer(mapped, np.uint8)[segment.record.bytes - segment.capacity :])
    buffers = {}
    for place, index in held.indices.items():
        slots = np.searchsorted(np.array(numbers, np.int64), index.segment)
        buffers[place] = Buffers(index.numbers, _Slices(maps, slots, index.offset, index.bytes))
    return buffers


def usable_buffers(held: Held) -> dict[str, Buffers]:
    """The buffers of a checkpoint that were verified or written by us, as far as still there."""
    usable = _usable(held)
    indices = {}
    for place, index in held.indices.items():
        there = np.isin(index.segment, list(usable.segments))
        columns = (getattr(index, name)[there] for name in COLUMNS)
        indices[place] = Index(*columns)
    return open_all(Held(held.folder, usable.segments, indices), False)


class _Slices(Sequence[Array]):
    """Parts of mapped files, cut when they are asked for: three million views are not kept."""

    def __init__(self, maps: list[Array], slot: Array, start: Array, size: Array) -> None:
        self._maps = maps
        self._slot, self._start, self._stop = slot, start, start + size

    def __len__(self) -> int:
        return len(self._slot)

    def __getitem__(self, at: int | slice) -> Array | list[Array]:  # type: ignore[override]
        if isinstance(at, slice):
            return [self._maps[slot][start:stop] for slot, start, stop in self._bounds(at)]
        return self._maps[self._slot[at]][self._start[at] : self._stop[at]]

    def __iter__(self) -> Iterator[Array]:
        for first in range(0, len(self), 4096):
            for slot, start, stop in self._bounds(slice(first, first + 4096)):
                yield self._maps[slot][start:stop]

    def _bounds(self, at: slice) -> Iterator[tuple[int, int, int]]:
        columns = (self._slot, self._start, self._stop)
        return zip(*(column[at].tolist() for column in columns), strict=True)


def _usable(before: Held) -> Held:
    """What of it is still as it was; the rest will be written again, from memory."""
    there = {}
    for number, segment in before.segments.items():
        with contextlib.suppress(OSError):
            status = os.lstat(before.folder / file_name(number))
            same = _identity(status) == segment.identity
            if same and status.st_size == segment.record.bytes:
                there[number] = segment
    return Held(before.folder, there, before.indices)


def _index(before: Held, place: str, buffers: Buffers, new: int) -> Index:
    """Where each buffer lies, with segment `new` for those that lie nowhere yet."""
    numbers = np.array(buffers.numbers, np.int64)
    index = Index(numbers, np.full(len(numbers), new, np.int64), *np.zeros((2, len(numbers)), int))
    known = before.indices.get(place)
    if known is None or not len(known.numbers):
        return index
    at = np.minimum(np.searchsorted(known.numbers, numbers), len(known.numbers) - 1)
    here = known.numbers[at] == numbers
    if len(before.segments):
        here &= np.isin(known.segment[at], list(before.segments))
    else:
        here[:] = False
    at = at[here]
    index.segment[here] = known.segment[at]
    index.offset[here] = known.offset[at]
    index.bytes[here] = known.bytes[at]
    return index


def _dropped(segments: Mapping[int, Segment], indices: Iterable[Index]) -> list[int]:
    """Segments that are not linked any more; what lives in them is written anew."""
    numbers = np.array(sorted(segments), np.int64)
    count, live = np.zeros((2, len(numbers) + 1))
    for index in indices:
        slot = np.searchsorted(numbers, index.segment)  # what is new comes after all
        count += np.bincount(slot, minlength=len(numbers) + 1)
        live += np.bincount(slot, index.bytes, len(numbers) + 1)
    capacity = np.array([segments[number].capacity for number in numbers.tolist()])
    kept = (count[:-1] > 0) & (2 * live[:-1] >= capacity)
    if kept.sum() >= SEGMENTS_LIMIT:
        smallest = np.flatnonzero(kept)[np.argsort(live[:-1][kept], kind="stable")]
        kept[smallest[: kept.sum() - SEGMENTS_LIMIT + MERGED]] = False
    return numbers[~kept].tolist()


def _take(before: Held, number: int, folder: Path) -> tuple[Segment, int]:
    """Bring a segment into the new folder: the same file, or a copy."""
    segment, name = before.segments[number], file_name(number)
    copied = files.link_or_copy(before.folder / name, folder / name, segment.record)
    identity = _identity(os.lstat(folder / name))
    if not copied and identity != segment.identity:
        raise CheckpointError(f"{before.folder / name}: another file than was written there")
    return Segment(segment.record, segment.capacity, identity), copied


def _write(path: Path, size: int, pieces: Iterable[bytes | Array]) -> Segment:
    start = tensors.header({ARRAY: tensors.Entry("uint8", (size,), 0, size)}, str(path))
    with files.NewFile(path) as file:
        for piece in chain([start], pieces):
            file.write(piece)
        record = file.finish()
    return Segment(record, size, _identity(os.lstat(path)))


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_dev, status.st_ino, status.st_mtime_ns)


def _checked(columns: Sequence[Array | None], where: str) -> Index:
    lengths = set()
    for name, column in zip(COLUMNS, columns, strict=True):
        if column is None or column.dtype != np.int64 or column.ndim != 1:
            found = None if column is None else (column.dtype.name, column.shape)
            raise CheckpointError(f"{where}: expected {name} [n] int64, found {found}")
        lengths.add(len(column))
    refuse_unless(len(lengths) == 1, where, "columns of one length", lengths)
    refuse_unless(max(lengths) <= BUFFERS_LIMIT, where, f"{BUFFERS_LIMIT} at most", lengths)
    index = Index(*columns)  # type: ignore[arg-type]  # none is None
    rising = bool((index.numbers[1:] > index.numbers[:-1]).all())
    refuse_unless(rising, where, "rising numbers", index.numbers[:9].tolist())
    for column in columns:
        if column is not None:
            column.flags.writeable = False
    return index


def _check_places(segments: Mapping[int, Segment], indices: list[Index], where: Path) -> None:
    """Every buffer inside a segment, and no byte in two buffers."""
    empty = np.empty(0, np.int64)
    segment = np.concatenate([empty, *(index.segment for index in indices)])
    offset = np.concatenate([empty, *(index.offset for index in indices)])
    size = np.concatenate([empty, *(index.bytes for index in indices)])
    if not len(segment):
        return
    numbers = np.array([*sorted(segments), NUMBER_LIMIT], np.int64)
    slot = np.minimum(np.searchsorted(numbers, segment), len(numbers) - 1)
    known = (numbers[slot] == segment) & (slot < len(segments))
    if not known.all():
        raise CheckpointError(
            f"{where}: expected segments {shown(sorted(segments))}, found {segment[~known][0]}"
        )
    capacity = np.array([segments[number].capacity for number in sorted(segments)])[slot]
    # In this order nothing can overflow.
    inside = (offset >= 0) & (offset <= capacity) & (size >= 0) & (size <= capacity - offset)
    if not inside.all():
        at = int(np.argmin(inside))
        raise CheckpointError(
            f"{where}: expected a buffer within {capacity[at]:,} bytes of segment {segment[at]}, "
            f"found {size[at]:,} bytes at {offset[at]:,}"
        )
    order = np.lexsort((size, offset, segment))
    segment, offset, size = segment[order], offset[order], size[order]
    apart = (segment[1:] != segment[:-1]) | (offset[:-1] + size[:-1] <= offset[1:])
    if not apart.all():
        at = int(np.argmin(apart))
        raise CheckpointError(
            f"{where}: expected buffers that do not overlap, found two of segment {segment[at]} "
            f"at {offset[at]:,}"
        )
