"""C1: a save fails or is killed at every one of its file calls, on top of full checkpoints."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.run import checkpoint, files, segments
from recollect.run.checkpoint import CheckpointError, Checkpoints, CheckpointWarning
from tests.run.checkpoints import (
    FaultyOs,
    assert_whole,
    flip,
    install,
    save_full,
    uninstall,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::recollect.run.checkpoint.CheckpointWarning"  # of an old one that could not be removed
)
OLD, NEW, LATER = 30, 40, 50


@pytest.fixture(autouse=True)
def _no_faults_before_and_after() -> Iterator[None]:
    quiet()
    yield
    uninstall()


def quiet() -> None:
    """No call fails, and none waits for the disk."""
    install(FaultyOs(0, die))


def raising(number: int) -> Callable[..., None]:
    def fail(call: Callable[..., Any], *args: Any, **_: Any) -> None:
        if call is os.close:  # it has closed all the same, as Linux does
            call(*args)
        raise OSError(number, os.strerror(number))

    return fail


def short(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Half of what a write is given; all else fails."""
    if call is os.write:
        return call(args[0], bytes(args[1])[: len(args[1]) // 2])
    return raising(errno.EIO)(call, *args, **kwargs)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {
    "EIO": raising(errno.EIO),
    "ENOSPC": raising(errno.ENOSPC),
    "short": short,
}


@pytest.fixture(params=["linked", "rewritten"])
def before(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder with two full checkpoints; the next save prunes one, and may rewrite segments."""
    folder = tmp_path / "before"
    if request.param == "rewritten":
        monkeypatch.setattr(segments, "SEGMENTS_LIMIT", 2)
        monkeypatch.setattr(segments, "MERGED", 2)
    writer = Checkpoints(folder)
    for env_steps in (10, 20, OLD):
        save_full(writer, env_steps)
    return folder


def copied(before: Path, folder: Path) -> tuple[Path, Checkpoints]:
    """The folder once more, with links as they are, and a writer that goes on from its newest."""
    seen: dict[int, Path] = {}
    for path in sorted(before.rglob("*")):
        target = folder / path.relative_to(before)
        inode = path.stat().st_ino
        if path.is_dir():
            target.mkdir(parents=True)
        elif inode in seen:
            os.link(seen[inode], target)
        else:
            seen[inode] = target
            shutil.copy2(path, target)
    return folder, Checkpoints(folder, resume_from=checkpoint.find(folder))


def check(folder: Path, writer: Checkpoints) -> int:
    """That old or new is there, whole, and that the next save succeeds and cleans up."""
    lines: list[str] = []
    found = assert_whole(checkpoint.find(folder, report=lines.append))
    assert lines == []
    for path in folder.glob("last-*"):
        assert_whole(path)
    saved = save_full(writer, LATER)
    assert checkpoint.find(folder, full=True) == saved.path
    assert assert_whole(saved.path) == LATER
    assert len(os.listdir(folder)) == 2
    return found


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_save_that_fails_anywhere_leaves_the_old_or_the_new(
    before: Path, tmp_path: Path, fault: str, for_good: bool
) -> None:
    """C1: the k-th call fails, for every k, until a save gets through."""
    outcomes = set()
    for at in range(1, 500):
        folder, writer = copied(before, tmp_path / str(at))
        faulty = FaultyOs(at, FAULTS[fault], for_good)
        error: Exception | None = None
        install(faulty)
        try:
            save_full(writer, NEW)
        except (OSError, CheckpointError) as raised:
            error = raised
        quiet()
        if len(faulty.seen) < at:
            assert error is None
            break
        found = check(folder, writer)
        assert found == NEW or error is not None
        assert for_good or found == (OLD if error else NEW)  # a failed save takes itself away
        outcomes.add((found, error is None))
        shutil.rmtree(folder)
    else:
        pytest.fail("no save got through")
    print(f"{at - 1} points, {fault}: {sorted(set(faulty.seen))}")
    if fault in ("EIO", "ENOSPC"):
        assert {(OLD, False), (NEW, True)} <= outcomes


def test_a_copy_that_fails_anywhere_leaves_the_old_or_the_new(
    before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1, where there are no links."""

    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    real_link = os.link
    for at in range(1, 500):
        folder, writer = copied(before, tmp_path / str(at))
        faulty = FaultyOs(at, raising(errno.EIO))
        install(faulty)
        monkeypatch.setattr(os, "link", no_link)
        with contextlib.suppress(OSError):
            save_full(writer, NEW)
        monkeypatch.setattr(os, "link", real_link)
        quiet()
        if len(faulty.seen) < at:
            break
        check(folder, writer)
        shutil.rmtree(folder)
    else:
        pytest.fail("no save got through")
    print(f"{at - 1} points, EIO, copying")


def test_everything_is_made_durable_before_it_gets_its_name(before: Path) -> None:
    writer = Checkpoints(before, resume_from=checkpoint.find(before))
    faulty = FaultyOs(0, die)
    install(faulty)
    saved = save_full(writer, NEW)
    named = faulty.seen.index("rename")
    made = faulty.seen[:named]
    assert made.count("fsync") == made.count("open") + 1  # each file, and the folder at last
    assert "".join(name[0] for name in made).rpartition("o")[2].startswith("wfcf")  # the manifest's
    assert faulty.seen[named + 1] == "fsync"  # of the folder above
    assert faulty.seen.index("unlink") > named
    assert made.count("open") + made.count("link") == len(os.listdir(saved.path))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_save_that_is_killed_anywhere_leaves_the_old_or_the_new(
    before: Path, tmp_path: Path
) -> None:
    """C1: SIGKILL at the k-th call, for every k, until a save gets through."""
    outcomes = set()
    for at in range(1, 500):
        folder, writer = copied(before, tmp_path / str(at))
        child = os.fork()
        if child == 0:
            try:
                install(FaultyOs(at, die))
                save_full(writer, NEW)
            finally:
                os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        outcomes.add(check(folder, Checkpoints(folder, resume_from=checkpoint.find(folder))))
        shutil.rmtree(folder)
        if code == 0:
            break
    else:
        pytest.fail("no save got through")
    print(f"{at - 1} points, SIGKILL")
    assert outcomes == {OLD, NEW}


def test_a_started_save_that_fails_leaves_nothing_and_says_so(before: Path) -> None:
    writer = Checkpoints(before, resume_from=checkpoint.find(before))
    names = sorted(os.listdir(before))
    install(FaultyOs(5, raising(errno.ENOSPC), for_good=False))
    writer.start("last", parameters={}, meta={"env_steps": NEW}, state={})
    with pytest.raises(OSError, match="No space left"):
        writer.wait(60)
    uninstall()
    assert sorted(os.listdir(before)) == names
    assert writer.finished() is None
    assert check(before, writer) == OLD


def test_a_failure_nobody_asked_for_is_told_at_the_next_save(before: Path) -> None:
    writer = Checkpoints(before)
    install(FaultyOs(1, raising(errno.ENOSPC), for_good=True))
    writer.start("last", parameters={}, meta={"env_steps": NEW})
    while writer.busy:
        os.sched_yield()
    uninstall()
    with pytest.raises(OSError, match="No space left"):
        save_full(writer, NEW)
    save_full(writer, NEW)


def test_a_new_checkpoint_that_does_not_read_back_removes_no_old_one(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is read again before it gets its name."""
    writer = Checkpoints(before, resume_from=checkpoint.find(before))
    names = sorted(os.listdir(before))
    sync = files.sync_folder

    def rotten(path: Path) -> None:
        flip(max(path.glob("segment-*")), 999)
        sync(path)

    monkeypatch.setattr(files, "sync_folder", rotten)
    with pytest.raises(CheckpointError, match="expected SHA-256"):
        save_full(writer, NEW)
    monkeypatch.undo()
    assert sorted(os.listdir(before)) == names
    assert check(before, writer) == OLD


def test_an_old_one_that_cannot_be_removed_is_a_warning_not_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    writer = Checkpoints(tmp_path, keep=1)
    save_full(writer, 10)
    rename = files.rename

    def keeps_the_old(source: Path, target: Path) -> None:
        if source.name.startswith("last-10-"):
            raise OSError(errno.EPERM, "Operation not permitted")
        rename(source, target)

    monkeypatch.setattr(files, "rename", keeps_the_old)
    with pytest.warns(CheckpointWarning, match=r"last-10-.* could not be removed"):
        path = save_full(writer, 20).path
    assert checkpoint.find(tmp_path) == path
    told = Checkpoints(tmp_path, keep=1, report=lines.append)
    told.save("last", parameters={"w": np.zeros(1)}, meta={"env_steps": 30})
    assert len(lines) == 1
    assert "last-10" in lines[0]
