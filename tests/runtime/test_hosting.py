"""What runs in a part's process: slices, who may ask in between, states in pieces."""

from __future__ import annotations

import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recollect.agents.evaluating import InterruptedEvaluation
from recollect.envs import calls
from recollect.messages import FencedError, Posts
from recollect.program import Far, Part
from recollect.roles import ACTOR, EVALUATOR, PARAMETERS, REPLAY
from recollect.runtime import hosting
from recollect.runtime.hosting import Host, Setting
from recollect.runtime.pieces import Elsewhere
from recollect.types import Buffers
from tests.runtime.faked import until

HERE = Setting(os.getcwd(), (), 1, 0)


@pytest.fixture(autouse=True)
def _own_warnings() -> Iterator[None]:
    """A host hears what its process warns of; this process is pytest's."""
    with warnings.catch_warnings():
        yield


class Client:
    """What a part holds of others: remembers in which thread something was done to it."""

    def __init__(self) -> None:
        self.posts = Posts()
        self.done: list[str] = []
        self.busy = threading.Lock()

    def _do(self, what: str) -> None:
        assert self.busy.acquire(blocking=False), "two threads at once"
        time.sleep(0.001)
        self.done.append(what)
        self.busy.release()

    def send(self) -> None:
        self._do("send")

    def flush(self) -> None:
        self._do("flush")


class Worker:
    """Turns of some seconds, of which it takes `most`."""

    def __init__(self, seconds: float = 0.0, most: int = 10**9, steps: int = 1) -> None:
        self.seconds, self.most, self.steps, self.turns = seconds, most, steps, 0
        self.inside = False
        self.error: Exception | None = None
        self.interrupted: Callable[[], bool] = lambda: False
        self.state: dict[str, Any] = {}

    def ready(self) -> bool:
        return self.turns < self.most

    def step(self) -> None:
        self.inside = True
        time.sleep(self.seconds)
        self.turns += 1
        self.inside = False
        if self.error is not None:
            raise self.error

    def counts(self) -> dict[str, int]:
        return {"env_steps": self.turns * self.steps}

    def metrics(self) -> dict[str, float]:
        assert not self.inside, "in the middle of a turn"
        return {"turns": float(self.turns)}

    def state_dict(self) -> dict[str, Any]:
        assert not self.inside, "in the middle of a turn"
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def host_of(
    worker: Any, role: Any = ACTOR, client: Client | None = None, setting: Setting = HERE
) -> Host:
    held = {} if client is None else {"other": []}
    part = Part("part/0", role, lambda **_: worker)
    return Host(part, held, {"other": lambda _: client}, setting)


class Slices:
    """A thread that gives slice after slice, as a driver does."""

    def __init__(self, host: Host, seconds: float = 0.05) -> None:
        self.host, self.seconds = host, seconds
        self.ended = threading.Event()
        self.taken: list[hosting.Slice] = []
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            while not self.ended.is_set():
                self.taken.append(self.host.slice(self.seconds))
        except Exception as error:
            self.error = error

    def __enter__(self) -> Slices:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


# --- Slices ---------------------------------------------------------------------------------------


def test_a_slice_ends_in_time_and_says_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that a turn moves by 0.3 s, and a pause by what it takes."""
    now = [50.0]
    monkeypatch.setattr(hosting.time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(hosting.time, "sleep", sleep)
    worker = Worker(seconds=0.3, steps=5)
    found = host_of(worker).slice(1.0)
    assert (found.turns, found.counts) == (4, {"env_steps": 20})
    assert found.seconds == found.busy_seconds == pytest.approx(1.2), "the last began in time"
    idle = host_of(Worker(most=0)).slice(1.0)
    assert (idle.turns, idle.busy_seconds) == (0, 0.0)
    assert idle.seconds == pytest.approx(1.0)
    some = host_of(Worker(seconds=0.1, most=3)).slice(1.0)
    assert (some.turns, some.busy_seconds, some.seconds) == (
        3,
        pytest.approx(0.3),
        pytest.approx(1.0),
    )


@pytest.mark.parametrize(
    ("steps", "limit", "turns"), [(1, 7, 7), (5, 12, 3), (5, 10, 2), (3, 0, 0)]
)
def test_a_slice_stops_at_the_count_and_passes_it_by_less_than_a_turn(
    steps: int, limit: int, turns: int
) -> None:
    host = host_of(Worker(steps=steps))
    assert host.slice(60.0, {"env_steps": limit}).turns == turns
    assert host.slice(60.0, {"env_steps": limit}).turns == 0
    assert host.slice(60.0, {"env_steps": limit + 1}).turns == (turns * steps <= limit)


def test_what_waits_to_be_sent_is_sent_while_idle_and_at_the_end() -> None:
    client = Client()
    host_of(Worker(most=0), client=client).slice(0.0)
    assert client.done == ["send", "send"], "in the pause and at the end"
    client = Client()
    client.posts.nbytes, client.posts.lost = 70, 2
    found = host_of(Worker(), client=client).slice(60.0, {"env_steps": 3})
    assert client.done == ["send"]
    assert (found.queue, found.queue_bytes, found.lost) == (0, 70, 2)


def test_what_a_turn_raises_leaves_the_slice_and_the_part_free() -> None:
    worker = Worker()
    host = host_of(worker)
    worker.error = KeyError("broken")
    with pytest.raises(KeyError, match="broken"):
        host.slice(60.0)
    assert host.own("metrics") == {"turns": 1.0}


def test_warnings_of_a_slice_are_carried_once_and_bounded() -> None:
    class Warns(Worker):
        def step(self) -> None:
            super().step()
            warnings.warn(f"odd {self.turns}", RuntimeWarning, stacklevel=1)

    host = host_of(Warns())
    assert host.slice(60.0, {"env_steps": 2}).warnings == ["odd 1", "odd 2"]
    assert host.slice(60.0, {"env_steps": 3}).warnings == ["odd 3"]
    many = host.slice(60.0, {"env_steps": 3 + 10 * hosting.WARNINGS_KEPT}).warnings
    assert many == [f"odd {4 + i}" for i in range(hosting.WARNINGS_KEPT)]
    assert host.slice(0.0, {"env_steps": 0}).warnings == []


# --- Between two turns ----------------------------------------------------------------------------


def test_between_hold_and_release_no_turn_is_taken() -> None:
    """C4: and all that was posted has arrived. Slices end in time meanwhile."""
    client, worker = Client(), Worker(seconds=0.002)
    host = host_of(worker, client=client)
    with Slices(host, 0.02) as slices:
        for _ in range(5):
            host.hold()
            host.hold()  # twice is once
            before, slices_before = worker.turns, len(slices.taken)
            done = list(client.done)
            assert done[-1] == "flush"
            until(lambda n=slices_before: len(slices.taken) >= n + 3)  # type: ignore[misc]
            assert not worker.inside
            assert worker.turns == before
            assert client.done == done, "nothing is sent by a part that is held"
            assert host.own("metrics") == {"turns": float(before)}
            host.release()
            host.release()
            until(lambda n=before: worker.turns > n)  # type: ignore[misc]
    assert slices.error is None


def test_a_hold_and_a_slice_never_use_what_the_part_holds_at_once() -> None:
    """An idle part sends in its pauses, a held one is flushed: `Client` sees to it."""
    client = Client()
    host = host_of(Worker(most=0), client=client)
    with Slices(host, 0.01) as slices:
        for _ in range(30):
            host.hold()
            host.release()
            time.sleep(0.002)
    assert slices.error is None
    assert client.done.count("flush") == 30
    assert client.done.count("send") > 5


def test_who_asks_comes_next_however_busy_the_worker_is() -> None:
    """Asked in the middle of a turn, and turn follows turn: it is answered after that one."""
    gate = threading.Event()

    class Gated(Worker):
        def step(self) -> None:
            gate.wait(20)
            super().step()

    worker = Gated(seconds=0.0005)
    host = host_of(worker)
    with Slices(host, 60.0):
        for _ in range(30):
            gate.clear()
            until(lambda: not worker.inside and host._lock.locked())
            before, seen = worker.turns, list[float]()
            asker = threading.Thread(target=lambda: seen.append(host.own("metrics")["turns"]))  # noqa: B023
            asker.start()
            until(host._entrance.locked)
            gate.set()
            asker.join(20)
            assert seen == [before + 1]
        host.stop()


def test_a_turn_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "BUSY_SECONDS", 0.02)
    go_on = threading.Event()

    class Hangs(Worker):
        def step(self) -> None:
            go_on.wait(20)
            super().step()

    worker = Hangs(most=1)
    host = host_of(worker)
    with Slices(host, 0.01):
        until(lambda: host._lock.locked() and not worker.turns)
        time.sleep(0.01)
        for ask in (host.hold, lambda: host.own("metrics")):
            with pytest.raises(hosting.BusyError, match=r"part/0 is in a turn"):
                ask()
        go_on.set()
        until(lambda: worker.turns == 1)


def test_a_long_turn_keeps_nobody_waiting_and_is_left_by_a_stop() -> None:
    """C7: an evaluation takes minutes; it tells, is saved as it was before, and can be stopped."""
    begun = threading.Event()

    class Evaluates(Worker):
        def step(self) -> None:
            begun.set()
            while not self.interrupted():
                time.sleep(0.001)
            raise InterruptedEvaluation

    host = host_of(Worker(), EVALUATOR, Client())
    host.hold()
    assert host.slice(1.0, {"env_steps": 5}).turns == 5, "what it has to save is of its last turn"
    host.release()
    host = host_of(Evaluates(), EVALUATOR, Client())
    with Slices(host, 0.01) as slices:
        begun.wait(20)
        host.hold()
        assert host.own("metrics") == {"turns": 0.0}
        assert host.state() == {}
        host.release()
        assert not slices.taken, "it goes on all the while"
        host.stop()
        until(lambda: len(slices.taken) > 1)
    assert slices.error is None
    assert (slices.taken[0].turns, slices.taken[1].turns) == (1, 0)


def test_a_service_is_asked_directly_and_through_what_it_is_served_by() -> None:
    class Service:
        def twice(self, x: int) -> int:
            return 2 * x

    class Server:
        def __init__(self, part: Service) -> None:
            self.part = part

        def thrice(self, x: int) -> int:
            return self.part.twice(x) + x

    far = Far(client=list, server=Server)
    host = Host(Part("service", PARAMETERS, Service, far=far), {}, {}, HERE)
    assert host.own("twice", 4) == 8
    assert host.ask(("", 0), "thrice", 4) == 12
    host = Host(Part("service", PARAMETERS, Service, far=Far(client=list)), {}, {}, HERE)
    assert host.ask(("", 0), "twice", 4) == 8
    host.hold()
    host.release()
    assert host.who() == {"pid": os.getpid(), "host": ""}
    far = Host(Part("service", PARAMETERS, Service), {}, {}, HERE, "10.0.0.2")
    assert far.who()["host"] == "10.0.0.2"


def test_what_a_life_that_was_replaced_asks_is_refused() -> None:
    """R7: also what comes late; a fence is never lowered, and is of one name."""

    class Service:
        def twice(self, x: int) -> int:
            return 2 * x

    host = Host(Part("service", PARAMETERS, Service, far=Far(client=list)), {}, {}, HERE)
    host.fence("actor/0", 2)
    host.fence("actor/0", 1)
    for epoch in (0, 1):
        with pytest.raises(FencedError, match=f"actor/0 was replaced, and what its life {epoch}"):
            host.ask(("actor/0", epoch), "twice", 4)
    for asker in (("actor/0", 2), ("actor/0", 3), ("actor/1", 0), ("", 0)):
        assert host.ask(asker, "twice", 4) == 8
    assert host.serve("twice", 4) == 8, "the driver is refused nothing"


def test_a_life_is_begun_only_where_that_makes_a_difference() -> None:
    worker = Worker()
    host_of(worker).begin_epoch(3)
    begun: list[int] = []
    worker.begin_epoch = begun.append  # type: ignore[attr-defined]
    host_of(worker).begin_epoch(3)
    assert begun == [3]


class Journaled:
    """A service that keeps a journal of nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def state_dict(self) -> dict[str, Any]:
        self.calls.append(("state",))
        return {"b": buffers([4])}

    def keep_journal(self, folder: Path) -> None:
        (folder / "page").write_text("x")
        self.calls.append(("keep", folder))

    def recover(self, folder: Path, page: int, anew: int) -> tuple[bool, int]:
        self.calls.append(("recover", folder, page, anew))
        return True, 7

    def turn_page(self, needed: int) -> int:
        self.calls.append(("turn", needed))
        return 3

    def senders(self) -> dict[str, tuple[int, int]]:
        return {"actor/0": (1, 50)}


def test_a_state_comes_with_a_new_page_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order; what is kept is ours alone, and gone when the part is closed (R5)."""
    host = Host(Part("replay", REPLAY, Journaled), {}, {}, HERE)
    folder = tmp_path / "journals" / "replay-0"
    host.keep_journal(str(folder))
    state, page, senders = host.journaled_state(2)
    assert isinstance(state["b"], Elsewhere)
    assert (page, senders) == (3, {"actor/0": (1, 50)})
    assert host.part.calls == [("keep", folder), ("state",), ("turn", 2)]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    other = Host(Part("replay", REPLAY, Journaled), {}, {}, HERE)
    assert other.recover(str(folder), 3, 9) == (True, 7)
    assert other.part.calls == [("recover", folder, 3, 9)]
    assert (folder / "page").exists()
    other.close()
    assert not folder.exists()
    monkeypatch.setattr(hosting.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    other.keep_journal("run/replay-0")
    assert (tmp_path / "temporary/run/replay-0/page").exists()


def test_a_journal_in_a_folder_of_somebody_elses_making_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1: in /tmp anybody may have put a link there, or a folder of his own."""
    host = Host(Part("replay", REPLAY, Journaled), {}, {}, HERE)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for folder in ("link/replay-0", "link"):
        with pytest.raises(PermissionError, match="link is another's: a journal cannot be kept"):
            host.keep_journal(str(tmp_path / folder))
    monkeypatch.setattr(hosting.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="is another's"):
        host.recover(str(tmp_path / "elsewhere" / "replay-0"), 0, 9)
    assert host.part.calls == []


def test_what_an_environment_is_doing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of(Worker())
    assert host.pulse() is None

    class Vector:
        def doing(self, slot: int, verb: str) -> str:
            return f"environment {slot}: {verb}"

    monkeypatch.setattr(calls, "now", (time.monotonic() - 5, Vector(), 3, "step"))
    found = host.pulse()
    assert found is not None
    assert found[0] >= 5
    assert found[1] == "environment 3: step"


def test_a_host_puts_its_process_in_order(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setattr("sys.path", list(os.sys.path))  # type: ignore[attr-defined]
    seen: list[Any] = []

    def make() -> Worker:
        seen.extend((os.getcwd(), random.random(), np.random.random(), torch.rand(1).item()))
        seen.append("/of/the/driver" in os.sys.path)  # type: ignore[attr-defined]
        return Worker()

    setting = Setting(str(tmp_path), ("/of/the/driver",), 1, 2**40 + 5)
    for _ in range(2):
        Host(Part("part", ACTOR, make), {}, {}, setting)
    assert seen[:5] == seen[5:]
    assert seen[0] == str(tmp_path)
    assert seen[4] is True
    Host(Part("part", ACTOR, make), {}, {}, Setting("/nowhere/at/all", (), 1, 6))
    assert seen[11] != seen[6]


# --- States ---------------------------------------------------------------------------------------


def buffers(numbers: list[int]) -> Buffers:
    return Buffers(np.array(numbers, np.int64), [np.full(n, n, np.uint8) for n in numbers])


def test_a_state_travels_in_pieces_and_is_what_it_was() -> None:
    """A key with a slash in it, and two places with buffers."""
    worker = Worker()
    worker.state = {"a": {"x/0": buffers([2, 5, 9]), "n": 3}, "b": buffers([]), "c": np.arange(3)}
    host, other = host_of(worker), host_of(Worker())
    state = host.state()
    assert isinstance(state["a"]["x/0"], Elsewhere)
    assert (state["a"]["n"], state["c"].tolist()) == (3, [0, 1, 2])
    assert state["a"]["x/0"].numbers.tolist() == [2, 5, 9]
    place = "/a/x~10"
    assert [a.tolist() for a in host.pieces(place, np.array([5, 9]))] == [[5] * 5, [9] * 9]
    assert host.pieces(place, np.array([], np.int64)) == []
    for some in ([2, 5], [9]):
        numbers = np.array(some)
        other.give(place, numbers, host.pieces(place, numbers))
    other.load(state)
    found = other.part.state
    assert found["a"]["x/0"].numbers.tolist() == [2, 5, 9]
    assert [a.tolist() for a in found["a"]["x/0"].arrays] == [[2] * 2, [5] * 5, [9] * 9]
    assert not any(a.flags.writeable for a in found["a"]["x/0"].arrays)
    assert (len(found["b"].numbers), len(found["b"].arrays)) == (0, 0)
    assert found["c"].tolist() == [0, 1, 2]
    host.forget()
    with pytest.raises(KeyError):
        host.pieces(place, np.array([2]))
    other.load({"n": 1})
    assert other.part.state == {"n": 1}, "what was given before belonged to the other state"


def test_closing_ends_the_turns_and_closes_the_part() -> None:
    class Closes(Worker):
        closed = False

        def close(self) -> None:
            self.closed = True

    worker = Closes()
    host = host_of(worker)
    host.close()
    assert worker.closed
    assert host.slice(60.0).turns == 0
    host_of(Worker()).close()


def test_a_slice_ends_when_an_environment_fails_and_tells_of_it_once() -> None:
    """R8: what fails may soon fail worse."""

    class Failing(Worker):
        fault = ""

        def step(self) -> None:
            super().step()
            self.fault = "slot 3: NaN" if self.turns >= 5 else ""

    host = host_of(Failing())
    found = host.slice(60.0)
    assert (found.turns, found.fault) == (5, "slot 3: NaN")
    assert host.slice(60.0, {"env_steps": 9}).turns == 4


def test_what_a_service_warns_of_is_kept_until_it_is_asked_for() -> None:
    class Shard(Worker):
        def take(self) -> None:
            warnings.warn("the journal is given up", RuntimeWarning, stacklevel=1)

    host = host_of(Shard(), REPLAY)
    host.ask(("actor/0", 0), "take")
    assert host.warned() == ["the journal is given up"]
    assert host.warned() == []
