"""The harness itself: whatever it is to find must make it fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.program import kind_of
from tests import commanded
from tests.runtime import counted, faults
from tests.runtime.aftermath import assert_sound, most_lost
from tests.runtime.faults import INSIDE, REACH, STATES, Fault, Plan, Striker, Struck
from tests.runtime.harness import (
    Harness,
    Killer,
    Memory,
    Stalls,
    check_deaths,
    check_gone,
    check_struck,
    ours,
    private_bytes,
)

PARTS = ("parameters", "replay/0", "replay/1", "learner", "actor/0", "actor/1", "evaluator")


class Service:
    """Stands for the parameter service."""

    def __init__(self) -> None:
        self.published = 0

    def publish(self) -> int:
        self.published += 1
        return self.published

    def fetch(self) -> int:
        return self.published


SERVICE = """
import sys
from tests.runtime.faults import Struck
class Service:
    def __init__(self): self.published = 0
    def publish(self):
        self.published += 1
        return self.published
    def fetch(self): return self.published
part = Struck('parameters', sys.argv[1], Service)()
"""


def made(folder: Path, *planned: Fault, part: str = "parameters", count: bool = False) -> Any:
    """A part with faults; may be called again for another life."""
    Plan(planned, count).write(folder)
    return Struck(part, str(folder), Service)()


def told(folder: Path) -> list[dict[str, Any]]:
    path = folder / "struck.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- The plan -------------------------------------------------------------------------------------


def test_a_plan_is_the_same_from_the_same_seed_and_is_read_as_it_was_written(
    tmp_path: Path,
) -> None:
    plan = Plan.drawn(3, 20, PARTS, hows=("kill", "exit"))
    assert plan == Plan.drawn(3, 20, PARTS, hows=("kill", "exit"))
    assert plan != Plan.drawn(4, 20, PARTS, hows=("kill", "exit"))
    plan.write(tmp_path)
    assert Plan.read(tmp_path) == plan


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_is_spread_over_kinds_states_parts_and_time(seed: int) -> None:
    plan = Plan.drawn(seed, 30, PARTS)
    kinds = Counter(kind_of(fault.part) for fault in plan.faults)
    assert set(kinds.values()) == {6}
    for kind, states in STATES.items():
        own = [fault for fault in plan.faults if kind_of(fault.part) == kind]
        assert {fault.state for fault in own} == set(states)
        assert {fault.part for fault in own} == {p for p in PARTS if kind_of(p) == kind}
    when = [fault.at / REACH[fault.where] for fault in plan.faults if fault.at > 20]
    assert min(when) < 0.3
    assert 0.5 < max(when) < 0.85


def test_every_state_says_where_it_is_and_a_fault_without_one_is_refused() -> None:
    everywhere = {f"{kind}.{state}" for kind, states in STATES.items() for state in states}
    assert everywhere == set(INSIDE) == set(REACH)
    for wrong in (("learner", "idle", "kill", 1), ("learner", "save", "shot", 1)):
        with pytest.raises(ValueError, match=r"wanted one of|has no state"):
            Fault(*wrong)
    with pytest.raises(ValueError, match="at 0"):
        Fault("learner", "save", "kill", 0)


# --- Striking -------------------------------------------------------------------------------------


def test_a_fault_strikes_at_its_count_and_once_over_all_lives(tmp_path: Path) -> None:
    planned = Fault("parameters", "publish", "delay", 3), Fault("parameters", "pull", "delay", 2)
    for _ in range(2):
        part = made(tmp_path, *planned)
        part.publish()
        part.publish()
        part.fetch()
    assert [(row["number"], row["state"], row["pid"]) for row in told(tmp_path)] == [
        (0, "publish", os.getpid()),  # the third, in the second life
        (1, "pull", os.getpid()),
    ]
    born = [json.loads(line) for line in (tmp_path / "born.jsonl").read_text().splitlines()]
    assert [row["part"] for row in born] == ["parameters"] * 2


def test_a_late_fault_strikes_when_the_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int]] = []
    late = [Fault("parameters", "publish", "delay", 1, late=late) for late in (False, True)]
    part = made(tmp_path, *late)
    monkeypatch.setattr(faults, "do", lambda fault: seen.append((fault.late, part.published)))
    part.publish()
    assert seen == [(False, 0), (True, 1)]


def test_states_without_a_fault_are_left_alone_unless_they_are_counted(tmp_path: Path) -> None:
    part = made(tmp_path, Fault("parameters", "publish", "delay", 9))
    assert "publish" in vars(part)
    assert "fetch" not in vars(part)
    part = made(tmp_path, count=True)
    for _ in range(3):
        part.fetch()
    assert (tmp_path / "parameters.pull.count").stat().st_size == 3


@pytest.mark.parametrize(("how", "code"), [("kill", -signal.SIGKILL), ("exit", 3)])
def test_who_is_struck_says_so_first_and_is_dead(tmp_path: Path, how: str, code: int) -> None:
    Plan((Fault("parameters", "publish", how, 2),)).write(tmp_path)
    script = SERVICE + "for _ in range(5): print(part.publish(), flush=True)"
    ended = commanded.done(["-c", script, str(tmp_path)])
    assert (ended.returncode, ended.stdout) == (code, "1\n"), ended.stderr
    (row,) = told(tmp_path)
    assert (row["state"], row["how"]) == ("publish", how)
    assert row["within"][0] == "<string>.<module>"


def test_several_lives_at_once_count_and_strike_once(tmp_path: Path) -> None:
    script = SERVICE + "for _ in range(500): part.publish()"
    Plan((Fault("parameters", "publish", "delay", 700),), count=True).write(tmp_path)
    started = [commanded.python(["-c", script, str(tmp_path)]) for _ in range(2)]
    for process in started:
        assert process.communicate(timeout=60)[1] == ""
    assert (tmp_path / "parameters.publish.count").stat().st_size == 1000
    assert len(told(tmp_path)) == 1


def test_an_actor_is_idle_where_it_is_not_ready(tmp_path: Path) -> None:
    class Waiting:
        _env = Service()
        _replay: Any = None
        answers: Any = iter([True, False, False])

        def ready(self) -> bool:
            return next(self.answers)

    for name in ("reset", "restart", "step"):
        setattr(Waiting._env, name, Service().publish)
    part = Waiting()
    fault = Fault("actor/0", "idle", "delay", 2)
    faults.hook("actor", part, Striker(tmp_path, "actor/0", {0: fault}))
    assert [part.ready() for _ in range(3)] == [True, False, False]
    assert (tmp_path / "actor-0.idle.count").stat().st_size == 2
    assert len(told(tmp_path)) == 1


# --- What must make it fail -----------------------------------------------------------------------

FAULT = Fault("replay/1", "insert", "kill", 5)
ROW = {
    "number": 0,
    "part": "replay/1",
    "state": "insert",
    "how": "kill",
    "pid": 77,
    "within": ["shard.take", "hosting.ask"],
}


def test_what_was_planned_is_all_right() -> None:
    check_struck(Plan((FAULT,)), [ROW])


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "never came to it: .'kill replay/1 at the beginning of insert number 5"),
        ([ROW, ROW], "more than once"),
        ([ROW | {"state": "sample"}], "instead of kill replay/1"),
        ([ROW | {"part": "replay/0"}], "instead of kill replay/1"),
        ([ROW | {"within": ["shard.draw", "hosting.ask"]}], "it was in none of"),
    ],
)
def test_a_fault_that_was_missed_or_struck_elsewhere_is_found(rows: list[Any], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check_struck(Plan((FAULT,)), rows)


def row(part: str, pid: int) -> dict[str, Any]:
    return {"part": part, "pid": pid}


KILLS = [("learner", 5), ("actor/0", 6), ("actor/0", 8)]


def test_recoveries_that_equal_kills_are_all_right() -> None:
    told = [row("learner", 5), row("actor/0", 6), row("actor/0", 8)]
    check_deaths(KILLS, [], told)
    check_deaths(KILLS, [("replay", 9)], [*told, row("replay", 9)])
    check_deaths(KILLS, [("replay", 9)], told)
    check_deaths(KILLS, [], [*told[:2], row("actor/0", 0)])  # it died before it was known


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([row("learner", 5), row("actor/0", 6)], "recoveries .'learner': 1, 'actor/0': 1"),
        ([row("learner", 5), row("actor/0", 6), row("actor/0", 6)], "told of twice"),
        ([row(*kill) for kill in KILLS] + [row("replay", 4)], "nobody had killed them"),
        ([row(*kill) for kill in KILLS] + [row("replay", 0)], "recoveries"),
        ([row("learner", 5), row("actor/0", 6), row("actor/1", 8)], "nobody had killed them"),
    ],
)
def test_recoveries_that_do_not_equal_kills_are_found(told: list[Any], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check_deaths(KILLS, [], told)


def test_a_victim_that_lives_is_found() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        with pytest.raises(AssertionError, match="still there"):
            check_gone([("learner", process.pid)])
        process.kill()
    check_gone([("learner", process.pid)])


# --- Measures -------------------------------------------------------------------------------------


def test_the_longest_stall_is_measured() -> None:
    stalls = Stalls()
    for now, seen in [(0, None), (50, None), (60, 1), (61, 2), (65, 2), (71, 2), (72, 3), (74, 3)]:
        stalls.look(now, seen)
    assert stalls.longest == 71 - 61
    stalls.look(90, None)  # it says nothing any more
    assert stalls.longest == 90 - 72


def test_memory_that_is_taken_is_seen() -> None:
    before = private_bytes(os.getpid())
    taken = np.ones(64 << 20, np.uint8)
    assert 60 << 20 < private_bytes(os.getpid()) - before < 80 << 20
    assert taken.any()
    assert private_bytes(2**22 + 1) == 0
    memory = Memory([(float(i), nbytes) for i, nbytes in enumerate([1, 1, 1, 1, 5, 9, 7])])
    assert memory.late == 7


def test_kills_at_random_come_at_the_mean_and_strike_the_newest_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(pid))
    killer = Killer(mean=20.0, seed=1)
    for now in range(20_000):
        killer.look(float(now), {"a": 11, "b": 12}, {"a": "working"})
    assert 850 < len(sent) < 1100
    assert 0.4 < sent.count(11) / len(sent) < 0.6
    assert {(k.part, k.pid, k.doing) for k in killer.killed} == {
        ("a", 11, "working"),
        ("b", 12, "?"),
    }
    killer.look(1e9, {}, {})  # nobody is there


def test_an_environment_counts_its_steps_in_a_file_that_outlives_it(tmp_path: Path) -> None:
    script = (
        "import os, signal, gymnasium\n"
        "envs = [gymnasium.make('tests.runtime.counted:tests/CountedCartPole-v0')"
        " for _ in range(2)]\n"
        "for env in envs: env.reset(seed=1)\n"
        "for _ in range(7): [env.step(0) for env in envs]\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = commanded.environment() | {counted.FOLDER: str(tmp_path)}
    process = commanded.python(["-c", script], env=environment)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert counted.steps_taken(tmp_path) == {process.pid: 2 * 7}


# --- The whole, in one process --------------------------------------------------------------------


WORDS = commanded.train(Path("unused"))[:-2]
WORDS[WORDS.index("--env") + 1] = counted.ID
WORDS += ["--env-steps", str(commanded.LONG)]


def test_a_training_is_watched_and_judged(tmp_path: Path) -> None:
    """Inline: what is stopped is continued, nothing dies, nothing is left, every step counts.

    E = 5 slots, T = 4, n = 3; 8 messages and what waits, of 3000 / (16 * 4) blocks and a turn's.
    """
    plan = Plan(
        (
            Fault("actor/0", "reset", "delay", 4, 0.2),
            Fault("learner", "backward", "stop", 5, 0.5),
            Fault("learner", "forward", "delay", 6, 0.2, late=True),
        )
    )
    with Harness(tmp_path, WORDS, plan) as harness:
        assert harness.watch(100, until=lambda: len(harness.struck) == 3)
        updates = harness.status.get("updates", 0)
        assert harness.watch(100, until=lambda: harness.status.get("updates", 0) > updates)
        harness.stop()
    harness.check()
    assert {row["part"] for row in harness.born} >= {"actor/0", "learner", "replay"}
    taken = counted.steps_taken(harness.steps)[harness.process.pid]
    assert taken >= harness.status["env_steps"] > 0  # evaluations are of this process, too
    assert len(harness.memory.seen) > 1
    assert harness.memory.late > 100 << 20
    assert_sound(harness.run, [], distinct=True)
    assert most_lost(harness.run, 0) == 5 * (4 + 3) + (8 + 1) * (3000 // 64 + 2 * 5) * 4


def test_what_the_harness_started_ends_with_it(tmp_path: Path) -> None:
    with Harness(tmp_path, WORDS) as harness:
        assert harness.process.poll() is None
        assert list(ours(tmp_path)) == [harness.process.pid]
    assert harness.process.returncode == -signal.SIGKILL
    assert harness.left == []
    harness.check()
