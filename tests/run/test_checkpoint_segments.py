"""Segments: what a save writes, links, writes anew and lets go."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.run import checkpoint, files, segments
from recollect.run.checkpoint import CheckpointError, Checkpoints, Saved, digest
from recollect.run.segments import file_name
from recollect.types import Buffers
from tests.run.checkpoints import assert_whole, buffers, parameters_at, save_full, state_at

SIZE = 1000


def save(writer: Checkpoints, env_steps: int, first: int, stop: int) -> Saved:
    held = {"b": constant(first, stop)}
    return writer.save("last", parameters={}, meta={"env_steps": env_steps}, state=held)


def constant(first: int, stop: int) -> Buffers:
    arrays = [np.full(SIZE, number % 251, np.uint8) for number in range(first, stop)]
    return Buffers(np.arange(first, stop), arrays)


def numbers_of(path: Path) -> list[int]:
    found = (segments.number_of(name) for name in os.listdir(path))
    return sorted(number for number in found if number is not None)


def payload(path: Path) -> int:
    """Bytes of buffers on disk, in all segments."""
    return sum((path / file_name(n)).stat().st_size for n in numbers_of(path)) // SIZE * SIZE


def test_a_buffer_is_written_once_and_linked_later(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path)
    one, two = save(writer, 1, 0, 100), save(writer, 2, 20, 110)
    assert numbers_of(one.path) == [0]
    assert numbers_of(two.path) == [0, 1]
    assert (one.path / file_name(0)).samefile(two.path / file_name(0))
    assert 10 * SIZE < (two.path / file_name(1)).stat().st_size < 10 * SIZE + 200
    assert 10 * SIZE < two.bytes_written < 20 * SIZE
    assert two.bytes_total == sum(file.stat().st_size for file in two.path.iterdir())
    assert two.bytes_written == two.bytes_total - (two.path / file_name(0)).stat().st_size
    assert one.bytes_written == one.bytes_total


def test_where_nothing_is_new_no_segment_is_written(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path)
    save(writer, 1, 0, 100)
    assert numbers_of(save(writer, 2, 0, 100).path) == [0]
    assert numbers_of(save(writer, 3, 0, 0).path) == []


def test_segments_without_a_live_buffer_go_and_half_empty_ones_are_written_anew(
    tmp_path: Path,
) -> None:
    writer = Checkpoints(tmp_path)
    for step, (first, stop) in enumerate([(0, 10), (0, 20), (5, 30)]):
        path = save(writer, step, first, stop).path
    assert numbers_of(path) == [0, 1, 2]  # of the first just half lives
    path = save(writer, 4, 6, 31).path
    assert numbers_of(path) == [1, 2, 3]
    assert SIZE * 5 < (path / file_name(3)).stat().st_size < SIZE * 5 + 200  # 6 to 9, and 30
    path = save(writer, 5, 20, 31).path
    assert numbers_of(path) == [2, 4]  # 30 alone lived in segment 3
    state = checkpoint.load(path).state
    assert state is not None
    assert digest(state) == digest({"b": constant(20, 31)})


@pytest.mark.parametrize(("new", "live"), [(3, 40), (1, 400), (7, 300)])
def test_disk_and_work_stay_bounded(tmp_path: Path, new: int, live: int, monkeypatch: Any) -> None:
    """A first-in-first-out replay of `live` buffers of which each save sees `new` more."""
    monkeypatch.setattr(segments, "SEGMENTS_LIMIT", 16)
    monkeypatch.setattr(segments, "MERGED", 4)
    monkeypatch.setattr(files.os, "fsync", lambda _: None)
    writer = Checkpoints(tmp_path, keep=1)
    save(writer, 0, 0, live)
    written, rounds = 0, min(400, 3 * live // new)
    for step in range(1, rounds):
        saved = save(writer, step, step * new, step * new + live)
        assert len(numbers_of(saved.path)) <= 16
        assert payload(saved.path) <= 2 * live * SIZE
        fresh = max(numbers_of(saved.path))
        written += (saved.path / file_name(fresh)).stat().st_size
    # Merging costs at most a sixteenth of what lives a save, rewriting as much again.
    assert written <= SIZE * rounds * (2 * new + live / 8)
    state = checkpoint.load(saved.path).state
    assert state is not None
    assert digest(state) == digest({"b": constant(step * new, step * new + live)})


def test_more_than_the_limit_of_segments_are_merged(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(files.os, "fsync", lambda _: None)
    writer = Checkpoints(tmp_path, keep=1)
    for step in range(segments.SEGMENTS_LIMIT + 3):
        saved = save(writer, step, 0, 2 * step + 2)
    numbers = numbers_of(saved.path)
    assert len(numbers) == segments.SEGMENTS_LIMIT - segments.MERGED + 3
    assert min(numbers) == segments.MERGED  # all were of one size: the oldest were merged


def test_a_run_that_goes_on_links_what_it_came_from(tmp_path: Path) -> None:
    old = save_full(Checkpoints(tmp_path / "run"), 10)
    state = checkpoint.load(old.path).state
    assert state is not None
    for folder in (tmp_path / "run", tmp_path / "elsewhere"):
        writer = Checkpoints(folder, keep=9, resume_from=old.path)
        same = writer.save("last", parameters={}, meta={"env_steps": 11}, state=state)
        assert numbers_of(same.path) == [0]
        assert (same.path / file_name(0)).samefile(old.path / file_name(0))
        assert assert_whole(save_full(writer, 20).path) == 20


def test_a_copied_checkpoint_is_whole(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path / "run")
    save_full(writer, 10)
    path = save_full(writer, 20).path
    copy = shutil.copytree(path, tmp_path / "copies" / path.name)
    shutil.rmtree(tmp_path / "run")
    assert assert_whole(copy) == 20
    assert checkpoint.find(tmp_path / "copies", full=True) == copy
    assert assert_whole(save_full(Checkpoints(tmp_path / "new", resume_from=copy), 30).path) == 30


def test_where_there_are_no_links_segments_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(files.os, "link", link)
    writer = Checkpoints(tmp_path)
    one, two = save_full(writer, 10), save_full(writer, 20)
    assert not (one.path / file_name(0)).samefile(two.path / file_name(0))
    assert assert_whole(two.path) == 20
    assert two.bytes_written == two.bytes_total
    assert assert_whole(save_full(writer, 30).path) == 30


@pytest.mark.parametrize("spoil", ["gone", "replaced", "cut", "all gone"])
def test_what_is_no_longer_on_disk_is_written_again(tmp_path: Path, spoil: str) -> None:
    """Everything is in memory: whatever became of old segments, the next checkpoint is whole."""
    writer = Checkpoints(tmp_path)
    path = save_full(writer, 10).path
    segment = path / file_name(0)
    if spoil == "all gone":
        shutil.rmtree(path)
    elif spoil == "cut":
        os.truncate(segment, 100)
    else:
        data = segment.read_bytes()
        segment.unlink()
        if spoil == "replaced":
            segment.write_bytes(data[:-1] + b"?")
    saved = save_full(writer, 20)
    assert saved.bytes_written == saved.bytes_total
    assert assert_whole(saved.path) == 20


def test_a_copy_that_is_not_what_was_written_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    writer = Checkpoints(tmp_path)
    segment = save_full(writer, 10).path / file_name(0)
    status = segment.stat()
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    os.utime(segment, ns=(status.st_atime_ns, status.st_mtime_ns))
    monkeypatch.setattr(files.os, "link", link)
    with pytest.raises(CheckpointError, match=r"expected .*sha256"):
        save_full(writer, 20)


def test_loaded_buffers_are_the_files_own_bytes(tmp_path: Path) -> None:
    state = checkpoint.load(save_full(Checkpoints(tmp_path), 10).path).state
    assert state is not None
    arrays, expected = state["replay/1"].arrays, state_at(10)["replay/1"].arrays
    assert len(arrays) == len(expected)
    for found in (arrays, arrays[:], [arrays[i] for i in range(len(arrays))]):
        assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]
    assert arrays[-1].tobytes() == expected[-1].tobytes()
    assert not arrays[0].flags.owndata
    assert not arrays[0].flags.writeable
    with pytest.raises(IndexError):
        arrays[len(arrays)]


def test_a_save_with_few_new_buffers_touches_only_those(tmp_path: Path) -> None:
    class Watched(list[Any]):
        def __init__(self, arrays: Any) -> None:
            super().__init__(arrays)
            self.touched: list[int] = []

        def __getitem__(self, at: Any) -> Any:
            self.touched.append(at)
            return super().__getitem__(at)

        def __iter__(self) -> Any:
            raise AssertionError("one by one")

    writer = Checkpoints(tmp_path)
    save(writer, 1, 0, 100)
    arrays = Watched(constant(1, 103).arrays)
    state = {"b": Buffers(np.arange(1, 103), arrays)}
    writer.save("last", parameters={}, meta={"env_steps": 2}, state=state)
    assert arrays.touched == [99, 100, 101]


def test_a_started_save_ends_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    make = files.make_folder

    def waiting(path: Path) -> None:
        assert go.wait(60)
        make(path)

    monkeypatch.setattr(files, "make_folder", waiting)
    writer = Checkpoints(tmp_path)
    assert writer.finished() is None
    assert writer.wait() is None
    assert not writer.busy
    arguments: Any = {"parameters": parameters_at(10), "meta": {"env_steps": 10}}
    writer.start("last", **arguments, state=state_at(10))
    assert writer.busy
    assert writer.finished() is None
    assert writer.wait(0.01) is None
    for act in (writer.save, writer.start):
        with pytest.raises(RuntimeError, match=r"a save is under way: wait\(\) for it"):
            act("last", **arguments)
    go.set()
    saved = writer.wait()
    assert saved is not None
    assert (saved.name, saved.env_steps) == ("last", 10)
    assert writer.finished() is None
    assert not writer.busy
    assert assert_whole(saved.path) == 10


def test_places_keep_their_buffers_apart(tmp_path: Path) -> None:
    """One number in two places is two buffers; a place may go and come."""
    writer = Checkpoints(tmp_path)
    states: list[dict[str, Any]] = [
        {"a": buffers(0, 5), "b": buffers(0, 5, salt=1)},
        {"b": buffers(2, 7, salt=1)},
        {"a": buffers(3, 9, salt=2), "b": buffers(3, 8, salt=1), "c": [buffers(0, 0)]},
    ]
    for step, state in enumerate(states):
        saved = writer.save("last", parameters={}, meta={"env_steps": step}, state=state)
        found = checkpoint.load(saved.path).state
        assert found is not None
        assert digest(found) == digest(state)


# --- What is on disk need not be in memory --------------------------------------------------------


class Unread(list[Any]):
    """Arrays of which it is told which were looked at."""

    def __init__(self, arrays: Any) -> None:
        super().__init__(arrays)
        self.read: set[int] = set()

    def __getitem__(self, at: Any) -> Any:
        self.read.add(at)
        return super().__getitem__(at)


def test_buffers_on_disk_are_given_back_and_not_read_for_the_next_save(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path)
    assert writer.on_disk() == {}
    save(writer, 1, 0, 100)
    save(writer, 2, 20, 110)
    found = writer.on_disk()
    assert set(found) == {"/b"}
    assert digest({"b": found["/b"]}) == digest({"b": constant(20, 110)})
    assert not found["/b"].arrays[0].flags.writeable
    known, fresh = Unread(found["/b"].arrays), Unread(constant(110, 120).arrays)

    class Both(Unread):
        def __getitem__(self, at: Any) -> Any:
            return known[at] if at < len(known) else fresh[at - len(known)]

    state = {"b": Buffers(np.arange(20, 120), Both([*known, *fresh]))}
    path = writer.save("last", parameters={}, meta={"env_steps": 3}, state=state).path
    assert known.read == set(), "they were linked"
    assert fresh.read == set(range(10))
    saved = checkpoint.load(path).state
    assert saved is not None
    assert digest(saved) == digest({"b": constant(20, 120)})


def test_a_segment_that_vanished_is_not_on_disk_and_is_written_from_memory(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path)
    save(writer, 1, 0, 40)
    path = save(writer, 2, 0, 60).path
    before = writer.on_disk()
    (path / file_name(0)).unlink()
    found = writer.on_disk()["/b"]
    assert found.numbers.tolist() == list(range(40, 60))
    assert digest({"b": found}) == digest({"b": constant(40, 60)})
    # What was taken from disk before is still there for who has it.
    path = writer.save("last", parameters={}, meta={"env_steps": 3}, state={"b": before["/b"]}).path
    saved = checkpoint.load(path).state
    assert saved is not None
    assert digest(saved) == digest({"b": constant(0, 60)})
    assert len(writer.on_disk()["/b"].numbers) == 60


def test_what_vanishes_while_it_is_looked_at_is_not_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6: a run does not end for it."""
    writer = Checkpoints(tmp_path)
    save(writer, 1, 0, 40)

    def gone(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(segments, "open_all", gone)
    assert writer.on_disk() == {}


def test_a_checkpoint_of_parameters_alone_leaves_what_is_on_disk(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path)
    save(writer, 1, 0, 40)
    writer.save("best", parameters=parameters_at(1), meta={"env_steps": 2})
    assert len(writer.on_disk()["/b"].numbers) == 40
    old = save_full(Checkpoints(tmp_path / "run"), 10)
    resumed = Checkpoints(tmp_path / "elsewhere", resume_from=old.path).on_disk()
    state = state_at(10)
    assert set(resumed) == {"/replay~10/buffers", "/replay~11"}
    assert digest({"b": resumed["/replay~11"]}) == digest({"b": state["replay/1"]})
