"""The runtime under a seeded scheduler: D2, and with it R1 to R4 and R7."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import recollect
from recollect.messages import Posts
from recollect.parameters import Parameters, Published, Version
from recollect.program import Program
from recollect.replay.shard import Shard
from recollect.runtime.hosting import Host
from recollect.training.runtimes import program_of
from tests.runtime.simulated import Life, Simulated
from tests.runtime.simulated_facts import Facts
from tests.runtime.simulated_run import Run, done, simulate

CHUNK = 500


@pytest.fixture(autouse=True, scope="module")
def _one_core() -> Iterator[None]:
    """Threads of which one alone runs hand over to one another faster where they share a core."""
    before = os.sched_getaffinity(0)
    worker = int("0" + os.environ.get("PYTEST_XDIST_WORKER", "")[2:])
    os.sched_setaffinity(0, {sorted(before)[worker % len(before)]})
    yield
    os.sched_setaffinity(0, before)


def test_what_must_hold_does_whatever_happens() -> None:
    """D2, R1 to R4, R7: runs end, and faults came to all parts, in turns, saves, recoveries."""
    seen: set[tuple[str, str]] = set()
    moments: set[str] = set()
    for seed in range(40):
        run = simulate(seed)
        for life in run.world.all_lives:
            seen |= {(life.part.kind, fault) for fault in life.faults}
        moments |= run.moments
    assert {kind for kind, _ in seen} == {"actor", "learner", "parameters", "replay"}
    assert {fault for _, fault in seen} == {"kill", "stop", "cut", "node"}
    assert moments == {"turn", "save", "recovery"}


def test_what_must_hold_does_while_faults_never_end() -> None:
    """D2: safety alone."""
    for seed in range(10):
        simulate(seed, endless=True)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(20))
def test_what_must_hold_does_in_many_runs(chunk: int) -> None:
    """D2: 8,000 runs that end, 2,000 in which faults do not."""
    for seed in range(10_000 + chunk * CHUNK, 10_000 + (chunk + 1) * CHUNK):
        simulate(seed, endless=chunk >= 16)


@pytest.mark.parametrize("endless", [False, True])
def test_a_seed_gives_the_same_run_to_the_last_step(endless: bool) -> None:
    """D2."""
    runs = [simulate(7, endless) for _ in range(2)]
    assert len(runs[0].world.log) > 100
    assert runs[0].digest() == runs[1].digest()
    assert simulate(8, endless).digest() != runs[0].digest()


def test_a_seed_that_fails_says_its_number_and_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out(Shard, "steps_from", 0)(monkeypatch)
    seed = first_found(range(100))
    with pytest.raises(AssertionError) as found:
        simulate(seed)
    assert found.value.__notes__[0].startswith(f"(seed {seed}, event ")


# --- A shard that is back before its state was fetched --------------------------------------------


class Fetched(Run):
    """Once a state was taken a shard dies, and is back before the driver comes to fetch it."""

    def _look(self) -> None:
        last = self.world.log[-1] if self.world.log else ()
        if self.saving and self.left and "release" in last:
            self.left = 0
            self.world.stop(self.world.lives["parameters"], 4.0)
            self._hurt("replay/0", "kill")
            self.world.lives["parameters"].faults.append("stop")


def test_a_state_is_never_of_two_lives(tmp_path: Path) -> None:
    """R2: found in seeded runs, where it ended them."""
    replaced = 0
    for seed in range(6):
        run = Fetched(seed, tmp_path / str(seed))
        run.left = 1
        done(run)
        replaced += run.world.lives["replay/0"].epoch
    assert replaced >= 3


# --- R2D2 -----------------------------------------------------------------------------------------


class FactsOfR2D2(Facts):
    """What can be said of real parts."""

    def dies(self, life: Life) -> None:
        if life.part.kind == "replay":
            super().dies(life)

    def check_end(self, env_steps: int) -> None:
        hosts: Any = {name: life.host for name, life in self.run.world.lives.items()}
        stores = [host.part for name, host in hosts.items() if name.startswith("replay")]
        unsent = sum(h.part.unsent_steps() for n, h in hosts.items() if n.startswith("actor"))
        for store in stores:
            store.check_valid()
        assert self.forgetful or env_steps == sum(s.totals.inserted for s in stores) + unsent
        assert hosts["learner"].part.updates > 0


class RunOfR2D2(Run):
    """R2D2 itself on Recall."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self.facts = self.world.watch = FactsOfR2D2(self)
        self.slots, self.left = 2, 4

    def program(self) -> Program:
        sizes = {"hidden": 8, "torso_sizes": (8,), "trace_length": 4, "burn_in": 2, "period": 2}
        spread = {"actors": 4, "actor_processes": 2, "replay_shards": 2, "replay_steps": 1000}
        rest = {"n_step": 1, "min_replay_steps": 16, "batch_size": 4, "evaluation_period": 0}
        settings = {**sizes, **spread, **rest}
        job = recollect.prepare(
            "r2d2",
            env="recollect/Recall-v0",
            env_kwargs={"delay": 2},
            env_steps=100,
            settings=settings,
        )
        return program_of(job)


def test_r2d2_itself_runs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: the whole agent, with two actors and two shards."""
    turn = Host._turn

    def in_time(self: Any) -> float:
        run.world.sleep(0.02)
        return turn(self)

    monkeypatch.setattr(Host, "_turn", in_time)
    run = RunOfR2D2(5, tmp_path)
    done(run)
    assert len(run.facts.died) >= 2


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
    """And never tried again, which would bring order in the end."""
    monkeypatch.setattr(Posts, "RETRY_SECONDS", math.inf)
    resend = Posts.resend

    def backwards(self: Any) -> None:
        self._waiting.reverse()
        resend(self)
        self._waiting.reverse()

    monkeypatch.setattr(Posts, "resend", backwards)


def not_rewired(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner alone is told."""
    rewire = Simulated.rewire

    def learner_alone(self: Any, holder: str, name: str) -> None:
        if holder == "learner":
            rewire(self, holder, name)

    monkeypatch.setattr(Simulated, "rewire", learner_alone)


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
    "holders are not told": not_rewired,
}


def first_found(seeds: range) -> int:
    """The first seed in which something does not hold; -1 if there is none."""
    for seed in seeds:
        try:
            simulate(seed)
        except Exception:
            return seed
    return -1


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_ours_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault](monkeypatch)
    assert first_found(range(200)) >= 0
