"""The parameter service keeps the newest version and its own bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recollect import parameters as module
from recollect.messages import Near, PartSilentError, Shared
from recollect.parameters import FarParameters, Lag, Parameters, Published, Version
from tests.replay.spread import Clock
from tests.runtime.faked import World


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_versions_are_compared_by_epoch_and_then_by_updates() -> None:
    parameters = Parameters()
    assert parameters.version() is None
    parameters.publish(Version(0, 90), np.full(3, 1.0))
    parameters.publish(Version(1, 10), np.full(3, 2.0))
    parameters.publish(Version(0, 91), np.full(3, 3.0))
    latest = parameters.latest()
    assert latest is not None
    assert latest.version == Version(1, 10), "a restarted learner's parameters are newer"
    np.testing.assert_array_equal(latest.vector, [2, 2, 2])
    assert parameters.metrics() == {"published": 2.0}


def test_latest_answers_only_with_something_newer() -> None:
    parameters = Parameters()
    parameters.publish(Version(0, 1), np.zeros(2))
    assert parameters.latest(Version(0, 0)) is not None
    assert parameters.latest(Version(0, 1)) is None


def test_what_was_published_does_not_change_behind_the_services_back() -> None:
    parameters, vector = Parameters(), np.zeros(2)
    parameters.publish(Version(0, 0), vector)
    vector[:] = 7
    latest = parameters.latest()
    assert latest is not None
    np.testing.assert_array_equal(latest.vector, [0, 0])
    with pytest.raises(ValueError, match="read-only"):
        latest.vector[0] = 1


def test_what_was_saved_comes_back_and_stays_its_owners() -> None:
    parameters, other = Parameters(), Parameters()
    parameters.publish(Version(2, 1), np.arange(3.0))
    parameters.publish(Version(2, 5), np.arange(3.0))
    state = parameters.state_dict()
    saved = {**state, "latest": {**state["latest"], "vector": np.arange(3, dtype=np.float32)}}
    other.load_state_dict(saved)
    saved["latest"]["vector"][0] = 7
    latest = other.latest(Version(2, 4))
    assert latest is not None
    assert latest.version == Version(2, 5)
    assert latest.vector.tolist() == [0, 1, 2]
    assert other.metrics() == {"published": 2.0}
    with pytest.raises(ValueError, match="read-only"):
        latest.vector[0] = 1
    other.load_state_dict(Parameters().state_dict())
    assert other.latest() is None


def test_lag_is_in_updates_and_in_seconds_since_something_newer_was_there(clock: Clock) -> None:
    """S0-1."""
    parameters = Parameters()
    assert parameters.lag(Version(0, 3)) == Lag(0, 0.0), "nothing was published"
    for updates in (0, 10, 20):
        parameters.publish(Version(0, updates), np.zeros(2))
        clock.now += 4.0
    assert parameters.lag(Version(0, 20)) == Lag(0, 0.0)
    assert parameters.lag(Version(0, 10)) == Lag(10, 4.0)
    assert parameters.lag(Version(0, 5)) == Lag(15, 8.0), "10 was the first that is newer"
    assert parameters.lag(Version(0, 0)) == Lag(20, 8.0)
    parameters.publish(Version(1, 5), np.zeros(2))
    clock.now += 1.0
    assert parameters.lag(Version(0, 20)) == Lag(0, 1.0), "the learner went back to 5 updates"


def test_the_times_of_publications_are_remembered_up_to_a_bound(clock: Clock) -> None:
    parameters = Parameters()
    for updates in range(Parameters.REMEMBERED + 10):
        parameters.publish(Version(0, updates), np.zeros(1))
        clock.now += 1.0
    found = parameters.lag(Version(0, 0))
    assert found == Lag(Parameters.REMEMBERED + 9, float(Parameters.REMEMBERED))
    parameters.load_state_dict(parameters.state_dict())
    assert parameters.lag(Version(0, 0)).seconds == 0.0, "when they were published is not saved"


def test_a_version_is_one_shared_answer_however_many_fetch_it() -> None:
    """It travels once: who sends it knows it by its identity."""
    parameters = Parameters()
    assert parameters.fetch() == (None, None)
    parameters.publish(Version(0, 1), np.arange(3.0))
    vectors = []
    for newer_than in (None, Version(0, 0), Version(0, 0)):
        version, found = parameters.fetch(newer_than)
        assert version == Version(0, 1)
        assert found is not None
        assert isinstance(found[1], Shared)
        vectors.append(found[1].value)
    assert all(vector is vectors[0] for vector in vectors)
    assert parameters.fetch(Version(0, 1)) == (Version(0, 1), None)
    parameters.publish(Version(0, 2), np.arange(3.0))
    _, found = parameters.fetch()
    assert found is not None
    assert found[1].value is not vectors[0]


# --- Held from another process --------------------------------------------------------------------


def far() -> tuple[World, Parameters, FarParameters]:
    world, service = World(), Parameters()
    return world, service, FarParameters([world.handle("parameters", service)])


def test_the_version_is_asked_for_now_and_then_and_never_waited_for(clock: Clock) -> None:
    world, service, held = far()
    for _ in range(5):
        assert held.version() is None
    assert world.asked["version"] == 1, "one question at a time"
    service.publish(Version(0, 0), np.zeros(2))
    world.run()
    assert held.version() == Version(0, 0)
    service.publish(Version(0, 10), np.zeros(2))
    for _ in range(100):
        clock.now += FarParameters.ASK_SECONDS / 100 - 1e-9
        assert held.version() == Version(0, 0)
        world.run()
    assert world.asked["version"] == 1
    clock.now += 0.01
    held.version()
    world.run()
    assert held.version() == Version(0, 10)
    assert world.asked["version"] == 2
    assert world.waited == 0


def test_before_the_first_version_it_is_asked_for_more_often(clock: Clock) -> None:
    world, _, held = far()
    for _ in range(100):
        assert held.version() is None
        clock.now += 0.01 + 1e-9
        world.run()
    assert 50 <= world.asked["version"] <= 101


def test_fetching_gives_what_is_newer_and_tells_the_version(clock: Clock) -> None:
    _, service, held = far()
    assert held.latest() is None
    service.publish(Version(0, 3), np.arange(2.0))
    found = held.latest(Version(0, 2))
    assert isinstance(found, Published)
    assert isinstance(found.version, Version)
    assert found.version == Version(0, 3)
    assert found.vector.tolist() == [0, 1]
    assert not found.vector.flags.writeable
    assert held.latest(Version(0, 3)) is None
    assert held.version() == Version(0, 3)
    assert held.lag(Version(0, 1)) == Lag(2, 0.0)
    near = FarParameters([Near("parameters", service)])
    again = near.latest()
    assert again is not None
    assert again.vector.tolist() == [0, 1]


def test_an_answer_that_comes_late_does_not_put_the_version_back(clock: Clock) -> None:
    """Asked before the first publication, and heard of after it."""
    world, service, held = far()
    held.version()
    world.move()  # it is answered: None
    service.publish(Version(0, 7), np.zeros(2))
    world.choose = lambda n: n - 1
    assert held.latest() is not None
    world.run()
    assert held.version() == Version(0, 7)


def test_publishing_waits_only_while_two_earlier_ones_are_on_their_way() -> None:
    """M2."""
    world, service, held = far()
    for updates in range(2):
        held.publish(Version(0, updates), np.full(3, updates, np.float32))
    assert (world.waited, len(held.posts), held.posts.nbytes) == (0, 2, 2 * 3 * 4)
    held.publish(Version(0, 2), np.zeros(3, np.float32))
    assert (world.waited, len(held.posts)) == (1, 2)
    assert service.version() is not None
    held.flush()
    assert service.version() == Version(0, 2)
    held.send()
    assert len(held.posts) == 0


def test_publications_of_two_learners_that_cross_leave_the_newer() -> None:
    world, service, held = far()
    other = FarParameters([world.handle("parameters", service, "the one before")])
    other.publish(Version(0, 90), np.full(1, 1, np.float32))
    held.publish(Version(1, 10), np.full(1, 2, np.float32))
    world.choose = lambda n: n - 1  # the last one's first
    world.run()
    latest = service.latest()
    assert latest is not None
    assert (latest.version, latest.vector.tolist()) == (Version(1, 10), [2])
    assert service.metrics() == {"published": 1.0}


def test_with_a_service_that_died_one_goes_on_with_what_is_known(clock: Clock) -> None:
    """R4."""
    world, service, held = far()
    assert held.lag(Version(0, 0)) == Lag(0, 0.0)
    for updates in (0, 8):
        held.publish(Version(0, updates), np.zeros(2, np.float32))
    held.flush()
    assert held.latest() is not None
    assert held.lag(Version(0, 5)) == Lag(3, 0.0)
    world.lose("parameters")
    for _ in range(3):
        clock.now += FarParameters.ASK_SECONDS
        assert held.version() == Version(0, 8)
        world.run()
        assert held.latest(Version(0, 3)) is None
        assert held.lag(Version(0, 1)) == Lag(3, 0.0), "the last one that was told"
    held.publish(Version(0, 9), np.zeros(2, np.float32))
    held.send()
    held.flush()
    assert held.posts.lost == 1
    world.revive("parameters", other := Parameters())
    clock.now += FarParameters.ASK_SECONDS
    assert held.version() == Version(0, 8)
    assert held.latest() is None, "it is empty"
    held.publish(Version(1, 4), np.ones(2, np.float32))
    held.flush()
    assert other.version() == Version(1, 4)
    found = held.latest(Version(0, 8))
    assert found is not None
    assert found.vector.tolist() == [1, 1]
    assert service.version() == Version(0, 8)


def test_a_service_that_was_never_there_knows_nothing() -> None:
    world, _, held = far()
    world.lose("parameters")
    assert held.version() is None
    assert held.latest() is None
    assert held.lag(Version(0, 3)) == Lag(0, 0.0)


def test_a_service_that_is_silent_is_told() -> None:
    """R5."""
    world, _, held = far()
    world.silence("parameters")
    held.publish(Version(0, 0), np.zeros(2, np.float32))
    for ask in (held.flush, held.latest, lambda: held.lag(Version(0, 0))):
        with pytest.raises(PartSilentError):
            ask()


def test_a_version_that_is_told_late_puts_nothing_back() -> None:
    """An actor would take parameters it has for new ones, or an evaluation be held back."""
    service = Parameters()
    service.publish(Version(0, 1), np.zeros(2, np.float32))

    class Late:
        here = False

        def ready(self) -> bool:
            return self.here

        def result(self, seconds: float = 0.0) -> Version:
            return Version(0, 1)

    class Handle(Near):
        def ask(self, method: str, *arguments: Any) -> Any:
            return late if method == "version" else super().ask(method, *arguments)

    late = Late()
    far = FarParameters([Handle("parameters", service)])
    far.version()
    service.publish(Version(0, 2), np.zeros(2, np.float32))
    far.latest()
    late.here = True
    assert far.version() == Version(0, 2)
