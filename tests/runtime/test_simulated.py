"""The runtime under a seeded scheduler: D2, and with it R1 to R4 and R7."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from recollect.messages import Posts
from recollect.parameters import Parameters, Published, Version
from recollect.replay.shard import Shard
from recollect.runtime.hosting import Host
from recollect.runtime.remote import Remote
from tests.runtime.simulated import Simulated
from tests.runtime.simulated_run import simulate

CHUNK = 500


def all_hold(seeds: range, endless: bool = False) -> None:
    """Each seed says its number, and the event, where something does not hold."""
    for seed in seeds:
        simulate(seed, endless)


def test_what_must_hold_does_whatever_happens() -> None:
    """D2, R1 to R4, R7: and every run ends."""
    all_hold(range(40))


def test_what_must_hold_does_while_faults_never_end() -> None:
    """D2: safety alone."""
    all_hold(range(10), endless=True)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(16))
def test_what_must_hold_does_in_many_runs(chunk: int) -> None:
    """D2: 8,000 that end."""
    all_hold(range(10_000 + chunk * CHUNK, 10_000 + (chunk + 1) * CHUNK))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(4))
def test_what_must_hold_does_in_many_runs_without_rest(chunk: int) -> None:
    """D2: 2,000 in which faults never end."""
    all_hold(range(10_000 + chunk * CHUNK, 10_000 + (chunk + 1) * CHUNK), endless=True)


@pytest.mark.parametrize("endless", [False, True])
def test_a_seed_gives_the_same_run_to_the_last_step(endless: bool) -> None:
    """D2."""
    runs = [simulate(7, endless) for _ in range(2)]
    assert len(runs[0].world.log) > 100
    assert runs[0].digest() == runs[1].digest()
    assert simulate(8, endless).digest() != runs[0].digest()


def test_all_kinds_of_faults_happen_to_all_kinds_of_parts() -> None:
    """Else what holds would prove little: also in turns, in saves and in recoveries."""
    seen, moments = set(), set()
    for seed in range(40):
        run = simulate(seed)
        for life in run.world.all_lives:
            seen |= {(life.part.kind, fault) for fault in life.faults}
        moments |= run.moments
    kinds, faults = {k for k, _ in seen}, {f for _, f in seen}
    assert kinds == {"actor", "learner", "parameters", "replay"}
    assert faults == {"kill", "stop", "cut", "node"}
    assert moments == {"turn", "save", "recovery"}


# --- Faults put in, and found ---------------------------------------------------------------------


def journal_after_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is written when the next one comes."""
    write = Shard._write

    def late(self: Any, *record: Any) -> None:
        before = getattr(self, "late", None)
        if before is not None:
            write(self, *before)
        self.late = record

    monkeypatch.setattr(Shard, "_write", late)


def no_order_of_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(self: Any, version: Version, vector: Any) -> None:
        self._latest = Published(Version(*version), vector)

    monkeypatch.setattr(Parameters, "publish", publish)


def resent_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    resend = Posts.resend

    def backwards(self: Any) -> None:
        self._waiting.reverse()
        resend(self)
        self._waiting.reverse()

    monkeypatch.setattr(Posts, "resend", backwards)


def no_release_after_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def held(self: Any, names: Any) -> Iterator[None]:
        self._ask_all(names, "hold")
        yield
        self._ask_all(names, "release", whole=False)

    monkeypatch.setattr(Remote, "_held", held)


def not_rewired(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner alone is told."""
    rewire = Simulated.rewire

    def learner_alone(self: Any, holder: str, name: str) -> None:
        if holder == "learner":
            rewire(self, holder, name)

    monkeypatch.setattr(Simulated, "rewire", learner_alone)


def fetched_of_another_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it once was: this was found here."""
    monkeypatch.setattr(Remote, "_ask_life", lambda self, epoch, *asked: self._wait_for(*asked))


def left_out(kind: type, method: str, value: Any = None) -> Callable[[pytest.MonkeyPatch], None]:
    """A method does nothing."""

    def leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kind, method, lambda self, *_: value)

    return leave_out


FAULTS = {
    "messages are taken twice": left_out(Shard, "_wanted", True),
    "the journal is written after the answer": journal_after_the_answer,
    "versions have no order": no_order_of_versions,
    "nobody is fenced": left_out(Host, "fence"),
    "a new life has the old epoch": left_out(Host, "begin_epoch"),
    "messages are sent again backwards": resent_backwards,
    "shards are not asked for steps": left_out(Shard, "steps_from", 0),
    "what is not learned is not owed": left_out(Shard, "unlearned", 0),
    "held parts are not released": no_release_after_a_death,
    "holders are not told": not_rewired,
    "a state is fetched of two lives": fetched_of_another_life,
}


def found_at(make: Callable[[pytest.MonkeyPatch], None], most: int, endless: bool = False) -> int:
    """The first seed in which a fault shows; -1 if there is none."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        make(monkeypatch)
        for seed in range(most):
            try:
                simulate(seed, endless)
            except Exception:
                return seed
    return -1


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_ours_are_found(fault: str) -> None:
    assert found_at(FAULTS[fault], 200) >= 0
