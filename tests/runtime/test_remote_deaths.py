"""Parts that die while a program runs over several processes: the driver's view, and real parts."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recollect.messages import PartLostError
from recollect.run.checkpoint import digest
from recollect.runtime import asking, hosting, lives, pieces, remote
from recollect.runtime.inline import Inline
from recollect.runtime.remote import Remote
from tests.runtime import test_remote_states as real
from tests.runtime.faked import Threads
from tests.runtime.test_remote import never, program


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "SLICE_SECONDS", 0.02)
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(lives, "PULSE_SECONDS", 0.05)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1500)
    monkeypatch.setattr(hosting, "_hear_warnings", lambda kept: None)
    with warnings.catch_warnings():
        yield


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.close()


def at_work(runtime: Remote, more: int) -> None:
    """Run until so many more steps are counted, and all live."""
    env_steps = runtime.counts()["env_steps"] + more
    runtime.run(lambda c: c["env_steps"] >= env_steps and runtime._lives.whole)


# --- The driver's view ----------------------------------------------------------------------------


def test_a_part_that_dies_is_shown_dead_and_then_alive(threads: Threads) -> None:
    """R1: the others go on meanwhile, and figures of the dead are its last."""
    runtime = Remote(program(), threads, 60.0)
    at_work(runtime, 4)
    before = runtime.metrics()
    go_on = threading.Event()
    start = threads.start

    def late(part: Any, held: Any, epoch: int) -> None:
        start(part, held, epoch)
        threads.submit(part.name, lambda: go_on.wait(30))

    threads.start = late  # type: ignore[method-assign]
    threads.lose("actor/1")
    turns = threads.hosts["actor/0"].part.turns
    runtime.run(lambda c: runtime._lives.died > 0)
    runtime.run(lambda c: threads.hosts["actor/0"].part.turns > turns + 20)
    shown = {part.name: part for part in runtime.parts_now()}
    assert [part.alive for part in shown.values()] == [True, True, True, False]
    assert shown["actor/1"].doing == "dead: it died"
    assert shown["actor/1"].pid == 0
    metrics = runtime.metrics()
    assert metrics["actor/1/lag_updates"] == before["actor/1/lag_updates"]
    assert metrics["faults/deaths"] == 1
    assert metrics["faults/recoveries"] == 0
    go_on.set()
    at_work(runtime, 4)
    assert all(part.alive for part in runtime.parts_now())
    assert runtime.parts_now()[-1].pid > 0
    (death,) = runtime.deaths()
    assert (death.part, death.epoch, death.down_seconds > 0) == ("actor/1", 0, True)
    assert runtime.deaths() == []
    part = threads.hosts["actor/1"].part
    assert part.epoch == 1
    assert part.began_with["env_steps"] == threads.hosts["replay/0"].part.steps["actor/1", 0]
    runtime.settle(lambda: False)
    acknowledged = sum(threads.hosts["replay/0"].part.steps.values())
    assert runtime.counts()["env_steps"] == acknowledged
    assert runtime.metrics()["faults/recoveries"] == 1
    runtime.close()


def test_one_that_died_and_comes_back_is_asked_when_it_lives(threads: Threads) -> None:
    """A question, a hold, a state: whoever asks waits, and gets the next life's answer."""
    runtime = Remote(program(), threads, 60.0)
    at_work(runtime, 4)
    threads.lose("actor/1")
    assert runtime.ask("actor/1", "metrics")["turns"] == 1.0
    assert runtime._lives.epochs["actor/1"] == 1
    for method in ("hold", "state"):  # it dies of it, once
        host, lost = threads.hosts["actor/0"], [method]

        def dies(host: Any = host, method: str = method, lost: list[str] = lost) -> Any:
            if lost:
                lost.pop()
                raise PartLostError("it died")
            return getattr(type(host), method)(host)

        setattr(host, method, dies)
        state = runtime.state_dict()
        assert not lost
        assert state["epochs"]["actor/0"] == runtime._lives.epochs["actor/0"]
        assert set(state["parts"]) == set(state["epochs"])
    assert state["epochs"] == {"replay/0": 0, "replay/1": 0, "actor/0": 2, "actor/1": 1}
    at_work(runtime, 10)  # nobody is held any more
    assert [death.part for death in runtime.deaths()] == ["actor/1", "actor/0", "actor/0"]
    runtime.close()


def test_who_was_left_in_the_middle_of_something_is_replaced_too(threads: Threads) -> None:
    """What a part raises of another one's death ends its own life, not the run."""
    runtime = Remote(program(PartLostError("it died", "replay/0")), threads, 60.0)
    runtime.run(lambda c: runtime._lives.came_back > 0)
    death = runtime.deaths()[0]
    assert (death.part, death.why) == (
        "actor/1",
        "it was left in the middle: replay/0: it died",
    )
    runtime.close()


def test_a_part_that_dies_too_often_ends_the_run_and_is_named(threads: Threads) -> None:
    runtime = Remote(program(), threads, 60.0)
    start = threads.start

    def stillborn(part: Any, held: Any, epoch: int) -> None:
        start(part, held, epoch)
        threads.lose(part.name)

    threads.start = stillborn  # type: ignore[method-assign]
    at_work(runtime, 4)
    threads.lose("actor/1")
    with pytest.raises(PartLostError, match=r"^actor/1: it died; that is its death number 11 with"):
        runtime.run(never)
    for ask in (lambda: runtime.ask("actor/1", "metrics"), runtime.state_dict):
        with pytest.raises(PartLostError, match="actor/1: it died"):
            ask()
    assert runtime.metrics()["faults/deaths"] == 11
    assert threads.killed == ["actor/1"] * 10
    runtime.close()
    assert threads.closed


def test_a_death_before_the_run_began_ends_it(threads: Threads) -> None:
    """There is no state yet from which it could come back."""
    runtime = Remote(program(), threads, 60.0)
    threads.lose("actor/1")
    with pytest.raises(PartLostError, match=r"^actor/1 \(process \d+\): it died$"):
        runtime.run(never)
    runtime.close()


def test_epochs_are_given_to_those_who_had_lives_before(threads: Threads) -> None:
    runtime = Remote(program(), threads, 60.0, epochs={"actor/1": 3})
    assert [threads.hosts[f"actor/{i}"].part.epoch for i in range(2)] == [0, 3]
    at_work(runtime, 4)
    runtime.settle(lambda: False)
    assert ("actor/1", 3) in threads.hosts["replay/0"].part.steps
    assert runtime.state_dict()["epochs"]["actor/1"] == 3
    runtime.close()


# --- A real program -------------------------------------------------------------------------------


def test_all_kinds_of_parts_die_and_the_run_goes_on_as_counted(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1 to R4: steps are counted once, what was learned is owed once, nothing is there twice."""
    saved: list[Any] = []
    runtime = Remote(
        real.program(),
        threads,
        60.0,
        saved=lambda: saved[-1] if saved else None,
        journal=str(tmp_path / "journals"),
    )
    dead: dict[str, Any] = {}
    equal: list[bool] = []
    recover = hosting.Host.recover

    def recovered(host: hosting.Host, folder: str, page: int, anew: int) -> tuple[bool, int]:
        found = recover(host, folder, page, anew)
        states = dead[host.name].state_dict(), host.part.state_dict()
        equal.append(digest(states[0]) == digest(states[1]))
        return found

    monkeypatch.setattr(hosting.Host, "recover", recovered)
    victims = ["actor/0", "replay/1", "learner", "parameters", "evaluator", "replay/0", "actor/1"]
    for n, name in enumerate(victims):
        at_work(runtime, 120)
        if n == 2:
            saved.append(runtime.state_dict())
            runtime.saved()
        dead[name] = threads.hosts[name].part
        threads.lose(name)
        at_work(runtime, 10)
    deaths = runtime.deaths()
    assert [death.part for death in deaths] == victims
    assert equal == [True, True], "what a shard had acknowledged is there again, bit for bit"
    assert all(death.replayed > 0 for death in deaths if death.kind == "replay")
    assert runtime.settle(lambda: False)
    counts, metrics = runtime.counts(), runtime.metrics()
    inserted = metrics["replay/inserted_steps"]
    unsent = sum(threads.hosts[f"actor/{i}"].part.unsent_steps() for i in range(2))
    assert counts["env_steps"] == inserted + unsent
    assert metrics["faults/deaths"] == metrics["faults/recoveries"] == len(victims)
    bound = 2 * (4 + 3) + 8 * 8 * 4  # E (T + n) + U T, see the table of reliability
    for death in deaths:
        assert 0 <= death.lost_steps <= (bound if death.kind == "actor" else 0)
    owed = 2.0 * (inserted - 60) - metrics["replay/learned_steps"]
    assert owed < 4 * 8
    assert metrics["replay/learned_steps"] - counts["learned_steps"] <= 4 * 8
    for k in range(2):
        threads.hosts[f"replay/{k}"].part.check_valid()
    state = runtime.state_dict()
    assert state["epochs"] == {name: victims.count(name) for name in state["parts"]}
    runtime.close()
    state.pop("journal")
    other = Inline(real.program())
    other.load_state_dict(state)
    assert other.counts() == counts
    real.run_to(other, counts["env_steps"] + 60)
    other.close()


def test_a_shard_without_its_journal_loses_what_came_since_the_checkpoint(
    threads: Threads, tmp_path: Path
) -> None:
    """R2: and it is lost from the counts when those who sent it die too."""
    saved: list[Any] = []
    runtime = Remote(
        real.program(),
        threads,
        60.0,
        saved=lambda: saved[-1] if saved else None,
        journal=str(tmp_path / "journals"),
    )
    at_work(runtime, 200)
    saved.append(runtime.state_dict())
    runtime.saved()
    at_work(runtime, 100)
    threads.kill("replay/1", 0)
    shutil.rmtree(tmp_path / "journals" / "replay-1")  # as where its machine has died too
    at_work(runtime, 100)
    assert runtime.deaths()[0].replayed == -1
    for i in range(2):
        threads.lose(f"actor/{i}")
        at_work(runtime, 20)
    assert runtime.settle(lambda: False)
    inserted = runtime.metrics()["replay/inserted_steps"]
    unsent = sum(threads.hosts[f"actor/{i}"].part.unsent_steps() for i in range(2))
    assert runtime.counts()["env_steps"] == inserted + unsent
    for k in range(2):
        threads.hosts[f"replay/{k}"].part.check_valid()
    runtime.close()


def test_one_that_dies_while_its_state_is_fetched_is_saved_when_it_is_back(
    threads: Threads, tmp_path: Path
) -> None:
    """R2, in a save: the state is of one moment, and of all parts."""
    runtime = Remote(real.program(), threads, 60.0, journal=str(tmp_path / "journals"))
    at_work(runtime, 200)
    host = threads.hosts["replay/1"]

    def dies(*_: Any) -> Any:
        raise PartLostError("it died")

    host.pieces = dies  # type: ignore[method-assign]
    state = runtime.state_dict()
    (death,) = runtime.deaths()
    assert (death.part, death.replayed > 0) == ("replay/1", True)
    assert state["epochs"]["replay/1"] == 1
    assert state["journal"]["pages"].keys() == {"replay/0", "replay/1"}
    runtime.close()
    del state["journal"]
    other = Inline(real.program())
    other.load_state_dict(state)
    counts = other.counts()
    unsent = sum(other.parts[f"actor/{i}"].unsent_steps() for i in range(2))
    assert counts["env_steps"] == other.metrics()["replay/inserted_steps"] + unsent
    other.close()


def test_those_who_die_after_a_resume_count_on_from_what_was_there(
    threads: Threads, tmp_path: Path
) -> None:
    """What was in no block yet when the state was taken is counted when it arrives, once."""
    inline = Inline(real.program())
    real.run_to(inline, 301)
    assert sum(inline.parts[f"actor/{i}"].unsent_steps() for i in range(2)) > 0
    runtime = Remote(real.program(), threads, 60.0, journal=str(tmp_path / "journals"))
    runtime.load_state_dict(inline.state_dict())
    inline.close()
    for i in range(2):
        at_work(runtime, 60)
        threads.lose(f"actor/{i}")
        at_work(runtime, 10)
    threads.lose("learner")
    at_work(runtime, 10)
    assert runtime.counts()["updates"] > 0
    assert runtime.settle(lambda: False)
    inserted = runtime.metrics()["replay/inserted_steps"]
    unsent = sum(threads.hosts[f"actor/{i}"].part.unsent_steps() for i in range(2))
    assert runtime.counts()["env_steps"] == inserted + unsent
    runtime.close()
