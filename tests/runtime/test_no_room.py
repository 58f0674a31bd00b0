"""Parts that died and for which no machine has room: who goes on without them, and who cannot."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest

from recollect.messages import PartLostError
from recollect.runtime import lives, remote
from recollect.runtime.inline import Inline
from recollect.runtime.remote import Remote
from tests.runtime.faked import Threads, until
from tests.runtime.test_remote_states import _quick, program, run_to

__all__ = ["_quick"]


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Remote, Threads]]:
    monkeypatch.setattr(lives, "ROOM_SECONDS", 0.1)
    transport = Threads()
    runtime = Remote(program(), transport, 60.0)
    yield runtime, transport
    runtime.close()


def doing(runtime: Remote, name: str) -> str:
    return next(part.doing for part in runtime.parts_now() if part.name == name)


def lose(spread: tuple[Remote, Threads], name: str) -> Event:
    """A part dies, and there is no room for another life of it, until the event is set."""
    runtime, transport = spread
    run_to(runtime, runtime.counts()["env_steps"] + 100)
    transport.full[name] = Event()
    transport.lose(name)
    return transport.full[name]


def test_the_others_go_on_without_an_actor_and_are_saved_until_there_is_room(
    spread: tuple[Remote, Threads],
) -> None:
    """R1: steps are counted on; the state goes on in one process, and over several."""
    runtime, transport = spread
    room = lose(spread, "actor/1")
    with pytest.warns(RuntimeWarning, match=r"actor/1 died .*there is no room for actor/1.* go on"):
        run_to(runtime, 500)
    assert doing(runtime, "actor/1").startswith("dead: there is no room for actor/1; it had died")
    assert runtime.settle(lambda: False)
    state = runtime.state_dict()
    counts = {name: state["parts"][name]["env_steps"] for name in ("actor/0", "actor/1")}
    assert sum(counts.values()) == runtime.counts()["env_steps"]
    assert state["epochs"]["actor/1"] == 1

    inline = Inline(program())
    inline.load_state_dict(state)
    assert inline.counts()["env_steps"] == sum(counts.values())
    inline.run(lambda c: c["env_steps"] >= 700, {"env_steps": 700})
    assert inline.state_dict()["parts"]["actor/1"]["env_steps"] > counts["actor/1"]
    inline.close()

    several = Remote(program(), Threads(), 60.0, epochs=state["epochs"])
    several.load_state_dict(state)
    run_to(several, 700)
    assert several.state_dict()["parts"]["actor/1"]["env_steps"] > counts["actor/1"]
    several.close()

    room.set()
    until(lambda: bool(run_to(runtime, runtime.counts()["env_steps"] + 20) or runtime.deaths()))
    run_to(runtime, runtime.counts()["env_steps"] + 200)
    after = runtime.state_dict()["parts"]
    assert after["actor/1"]["env_steps"] > counts["actor/1"]
    for k in range(2):
        transport.hosts[f"replay/{k}"].part.check_valid()


def test_a_save_that_waits_for_an_actor_stops_waiting(spread: tuple[Remote, Threads]) -> None:
    runtime, _ = spread
    lose(spread, "actor/0")
    with pytest.warns(RuntimeWarning, match="no room for actor/0"):
        state = runtime.state_dict()
    assert state["parts"]["actor/0"].keys() == runtime._workers["actor/0"].counts.keys()
    with pytest.raises(PartLostError, match=r"^actor/0: there is no room for actor/0; it had died"):
        runtime.ask("actor/0", "metrics")


@pytest.mark.filterwarnings("ignore:actor")
def test_without_any_actor_the_run_ends_in_the_end(
    spread: tuple[Remote, Threads], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it stands still, it says which part is missing and why."""
    runtime, _ = spread
    monkeypatch.setattr(remote, "DEADLINE", 1.0)
    said = r"^actor/0: there is no room for actor/0; it had died: it died; the others wait for it$"
    lose(spread, "actor/0")
    lose(spread, "actor/1")
    with pytest.raises(PartLostError, match=said):
        run_to(runtime, 100_000)


@pytest.mark.parametrize("name", ["replay/1", "learner"])
def test_without_another_part_the_run_ends_after_some_minutes(
    spread: tuple[Remote, Threads], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, _ = spread
    lose(spread, name)
    monkeypatch.setattr(lives, "START_SECONDS", 0.5)
    said = rf"^{name}: it died; and for .* s it could not be replaced: there is no room for {name}$"
    with pytest.raises(PartLostError, match=said):
        run_to(runtime, 100_000)
    with pytest.raises(PartLostError):
        runtime.state_dict()  # what a run asks that gives up: it does not wait
