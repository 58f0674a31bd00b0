"""R2: a shard that was killed is as it was, bit for bit, from its last state and its journal."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recollect.messages import EarlyError, PartLostError
from recollect.replay import journal as module
from recollect.replay import wire
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.shard import Shard, Stamp
from recollect.replay.store import Replay
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Windows
from tests.replay.lived import (
    UNEVEN,
    assert_same_state,
    cut,
    make_episode,
    make_spec,
    messages,
    on_disk,
)


class Killed:
    """A shard that keeps a journal, and what is needed to make it again."""

    def __init__(self, folder: Path, windows: Windows = UNEVEN, prioritised: bool = True) -> None:
        self.folder, self.windows, self.spec = folder, windows, make_spec(windows)
        self.prioritised = prioritised
        self.shard, self.store = self.make()
        self.base, self.page = on_disk(self.store.state_dict()), 0
        self.shard.keep_journal(folder)
        self.left: dict[int, Any] = {}
        self.stamps: dict[str, int] = {"a": 0, "b": 0}

    def make(self) -> tuple[Shard, Replay]:
        sampler: Any = Prioritized(0.7) if self.prioritised else Uniform()
        room = (self.windows.blocks + 6) * self.windows.period
        store = Replay(self.spec, self.windows, sampler, Limiter(1.5, 3, 9.0), capacity_steps=room)
        return Shard(store), store

    def save(self) -> None:
        """The driver's: a page and the state that goes with it."""
        self.page = self.shard.turn_page(self.page)
        self.base = on_disk(self.store.state_dict())

    def revive(self) -> tuple[bool, int]:
        self.shard, self.store = self.make()
        self.store.load_state_dict(on_disk(self.base))
        return self.shard.recover(self.folder, self.page)

    @property
    def last(self) -> Path:
        """The page that is written."""
        return max(self.folder.iterdir(), key=lambda path: int(path.name[5:]))

    def known(self) -> Any:
        return (
            {who: (life.number, life.steps) for who, life in self.shard._lives.items()},
            dict(self.shard._epochs),
            self.store.gaps,
        )

    def take(self, name: str, uid: int, steps: int = 9) -> None:
        """The next message of this episode."""
        if uid not in self.left:
            blocks = cut(self.spec, make_episode(self.spec, uid, steps))
            self.left[uid] = messages(self.windows, blocks, lambda k: 0.5 + k)
        found = next(self.left[uid], None)
        if found is None:
            return
        self.stamps[name] += 1
        parcel = wire.pack_blocks(found[0])
        stamp = Stamp(name, 0, self.stamps[name])
        for _ in range(1 + uid % 2):  # some come twice
            self.shard.take(stamp, parcel, wire.pack_items(found[1]))

    def do(self, what: int, which: int) -> None:
        """One call that may change the shard."""
        rng = np.random.default_rng([what, which])
        name = "ab"[which % 2]
        if what <= 4:
            self.take(name, which, 3 + 5 * which)
        elif what == 5:
            self.stamps[name] += 1
            self.left[which] = iter(())
            self.shard.drop_episode(Stamp(name, 0, self.stamps[name]), which)
        elif what == 6:
            self.shard.draw(rng.random(3))
        elif what == 7:
            state = self.store.state_dict()["items"]
            slots, uids = state["row"][which:], state["uid"][which:] + which % 2
            self.shard.update_priorities(slots, uids, rng.random(len(slots)))
        elif what == 8:
            self.shard.unlearned(which, which % 3)
        elif what == 9:
            self.shard.restart_surplus()
        elif what == 10:
            self.shard.abandon()
        else:
            self.save()


@given(
    windows=st.sampled_from([UNEVEN, Windows(0, 2, 2, 0), Windows.trajectories(4)]),
    prioritised=st.booleans(),
    does=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 7)), max_size=40),
    deaths=st.sets(st.integers(0, 40), max_size=3),
    byte=st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_killed_shard_comes_back_as_it_was_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    windows: Windows,
    prioritised: bool,
    does: list[tuple[int, int]],
    deaths: set[int],
    byte: int,
) -> None:
    """D1, R2: whatever was done, and killed at whatever byte of what it wrote last."""
    killed = Killed(tmp_path_factory.mktemp("journal"), windows, prioritised)
    for i, (what, which) in enumerate([*does, (0, 1)]):
        before = on_disk(killed.store.state_dict()), killed.known()
        page, size = killed.last, killed.last.stat().st_size
        killed.do(what, which)
        wanted = on_disk(killed.store.state_dict()), killed.known()
        if i == len(does) and killed.last == page:
            # The last record is written in part, and then nobody was answered.
            most = page.stat().st_size
            size += byte % (most - size + 1)
            os.truncate(page, size)
            wanted = wanted if size == most else before
        elif i not in deaths:
            continue
        assert killed.revive()[0]
        assert_same_state(on_disk(killed.store.state_dict()), wanted[0])
        assert killed.known() == wanted[1]
        killed.store.check_valid()
    # And it is no worse for what was cut short, should it die once more.
    killed.do(9, 0)
    wanted = on_disk(killed.store.state_dict()), killed.known()
    assert killed.revive()[0]
    assert_same_state(on_disk(killed.store.state_dict()), wanted[0])


def test_a_journal_that_nobody_has_any_more_is_closed(tmp_path: Path) -> None:
    def opened() -> int:
        return sum(
            "page-" in os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
        )

    before = opened()
    journal = module.Journal(tmp_path)
    journal.begin(0, {"does": "page"})
    assert opened() == before + 1
    del journal
    assert opened() == before


def test_pages_that_are_not_needed_go_and_the_others_are_enough(tmp_path: Path) -> None:
    killed = Killed(tmp_path / "journal")
    pages = []
    for uid in range(6):
        for _ in range(3):
            killed.take("a", uid)
        killed.save()
        pages.append(sorted(path.name for path in killed.folder.iterdir()))
    assert pages[0] == ["page-0", "page-1"], "the state before is still needed until that is saved"
    assert pages[-1] == ["page-5", "page-6"]
    assert killed.revive() == (True, 0)
    killed.take("a", 7)
    assert killed.revive() == (True, 1), "on top of the page in which it went on"
    assert killed.shard.steps_from("a", 0) == killed.stamps["a"] * 3


def spoil(killed: Killed, how: str) -> None:
    first, last = killed.folder / f"page-{killed.page}", killed.last
    data = bytearray(first.read_bytes())
    if how == "gone":
        for path in killed.folder.iterdir():
            path.unlink()
    elif how == "first gone":
        first.unlink()
    elif how == "a byte":
        data[len(data) // 2] ^= 4
        first.write_bytes(data)
    elif how == "a length":
        data[5] ^= 1
        first.write_bytes(data)
    elif how == "cut, and not the last":
        first.write_bytes(data[:-1])
    elif how == "another page":
        first.write_bytes(last.read_bytes())
    elif how == "emptied, and not the last":
        first.write_bytes(b"")
    elif how == "no page at all":
        first.write_bytes(b"")
        for path in set(killed.folder.iterdir()) - {first}:
            path.unlink()


@pytest.mark.parametrize(
    "how",
    [
        *("gone", "first gone", "a byte", "a length", "cut, and not the last", "another page"),
        *("emptied, and not the last", "no page at all"),
    ],
)
def test_without_its_journal_a_shard_goes_on_from_the_state_alone(tmp_path: Path, how: str) -> None:
    """And does so again, should it die before it is saved: what came since is in the journal."""
    killed = Killed(tmp_path)
    for uid in range(4):
        for _ in range(2):
            killed.take("a", uid, 20)
    killed.save()
    killed.take("a", 9)
    killed.shard.turn_page(killed.page)
    killed.take("a", 9)
    spoil(killed, how)
    assert killed.revive() == (False, 0)
    alone, _ = Killed(tmp_path / "other").make()
    alone._replay.load_state_dict(on_disk(killed.base))
    alone.abandon()
    assert_same_state(killed.store.state_dict(), alone._replay.state_dict())
    assert killed.known() == ({}, {}, True)
    for uid in (0, 9, 11):
        killed.take("b" if uid else "a", uid)
    state, known = on_disk(killed.store.state_dict()), killed.known()
    for _ in range(2):
        assert killed.revive()[0]
        assert_same_state(killed.store.state_dict(), state)
        assert killed.known() == known


def test_who_is_killed_while_it_turns_a_page_has_told_nobody_of_it(tmp_path: Path) -> None:
    killed = Killed(tmp_path)
    killed.take("a", 0)
    state = on_disk(killed.store.state_dict())
    for size in (0, 9, 60):
        page = killed.shard.turn_page(0)
        os.truncate(tmp_path / f"page-{page}", size)
        assert killed.revive() == (True, 1)
        assert_same_state(killed.store.state_dict(), state)


def test_who_was_only_stopped_answers_no_more_once_its_journal_was_taken_over(
    tmp_path: Path,
) -> None:
    """R7: what it took after it was read would be acknowledged, and nowhere."""
    killed = Killed(tmp_path)
    killed.take("a", 0)
    stopped, state = killed.shard, on_disk(killed.store.state_dict())
    for number in (2, 3):  # who reads once more finds no more
        assert killed.revive()[0]
        with pytest.raises(PartLostError, match="another process goes on with this journal"):
            stopped.drop_episode(Stamp("a", 0, number), 0)
        assert_same_state(killed.store.state_dict(), state)


def test_what_is_written_as_a_journal_is_taken_over_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7: who goes on may have read the journal before it came."""
    killed = Killed(tmp_path)
    killed.take("a", 0)
    stopped, inner, known = killed.shard, module._write, killed.shard.senders()

    def late(file: int, buffers: Any) -> None:
        monkeypatch.setattr(module, "_write", inner)
        assert killed.revive()[0]
        inner(file, buffers)

    monkeypatch.setattr(module, "_write", late)
    with pytest.raises(PartLostError, match="another process goes on with this journal"):
        stopped.drop_episode(Stamp("a", 0, 2), 0)
    assert killed.shard.senders() == known


def test_a_disk_that_is_full_gives_up_the_journal_and_not_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = Killed(tmp_path)
    killed.take("a", 0)

    def full(file: int, buffers: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "writev", full)
    with pytest.warns(RuntimeWarning, match=r"is given up, page 0 cannot be written: .*No space"):
        killed.take("a", 0)
    assert list(tmp_path.iterdir()) == [], "what is of no use takes no room"
    killed.take("a", 0)  # told once
    assert killed.shard.steps_from("a", 0) == 9
    with pytest.warns(RuntimeWarning, match="page 1 cannot be written"):
        killed.save()
    monkeypatch.undo()
    page = killed.page
    killed.take("a", 1)
    assert killed.revive()[0] is False
    assert killed.page == page
    killed.save()
    killed.take("b", 5)
    assert killed.revive() == (True, 1), "with the next page it is kept again"


def test_a_journal_too_long_is_given_up_until_the_next_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = Killed(tmp_path)
    killed.take("a", 0)
    monkeypatch.setattr(killed.shard._journal, "_most_bytes", 900)
    with pytest.warns(RuntimeWarning, match="it would be longer than 900 bytes"):
        killed.take("a", 0)
    assert killed.revive()[0] is False
    killed.save()
    assert killed.revive()[0]


def test_a_system_that_writes_little_at_once_writes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.writev
    monkeypatch.setattr(
        module.os, "writev", lambda file, buffers: write(file, [bytes(buffers[0])[:37]])
    )
    killed = Killed(tmp_path)
    killed.take("a", 0)
    state = on_disk(killed.store.state_dict())
    assert killed.revive() == (True, 1)
    assert_same_state(killed.store.state_dict(), state)


def test_a_journal_of_another_state_is_told(tmp_path: Path) -> None:
    killed = Killed(tmp_path)
    killed.take("a", 0)
    killed.take("a", 0)
    killed.save()
    killed.take("a", 0)
    killed.page = 0  # of which the state is another one
    (tmp_path / "page-1").rename(tmp_path / "page-0")
    assert killed.revive() == (False, 0), "a page says which it is"
    killed = Killed(tmp_path)
    killed.take("a", 0)
    killed.base = on_disk(killed.store.state_dict())
    with pytest.raises(RuntimeError, match="does not fit the state of page 0, record 1: block 0"):
        killed.revive()
    assert killed.revive() == (False, 0), "it is removed"


def test_without_a_journal_no_page_is_turned(tmp_path: Path) -> None:
    shard, _ = Killed(tmp_path).make()
    with pytest.raises(RuntimeError, match="no journal is kept"):
        shard.turn_page(0)


def test_what_is_refused_is_not_written(tmp_path: Path) -> None:
    killed = Killed(tmp_path)
    killed.take("a", 0)
    size = killed.last.stat().st_size
    parcel = wire.pack_blocks(cut(killed.spec, make_episode(killed.spec, 3, 9))[1:2])
    items = wire.pack_items([])
    for stamp in (Stamp("a", 0, 1), Stamp("a", 0, 3, 2)):
        try:
            killed.shard.take(stamp, parcel, items)
        except EarlyError:
            continue
    assert killed.last.stat().st_size == size
