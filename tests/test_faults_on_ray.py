"""Trainings on Ray whose parts are killed, stopped and slowed down: R1 to R4, R6, R7.

They end, learn, and lose no more than is told of. `runtime/harness.py` runs and judges them.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

import recollect
from recollect.program import kind_of
from recollect.runtime import sockets
from tests.runtime import counted
from tests.runtime.aftermath import assert_sound, most_lost
from tests.runtime.faults import Fault, Plan
from tests.runtime.harness import Harness

pytest.importorskip("ray")

SPREAD = ["--runtime", "ray", "--actor-processes", "2", "--replay-shards", "2"]
PARTS = ("parameters", "replay/0", "replay/1", "learner", "actor/0", "actor/1", "evaluator")
SMALL = (
    f"train r2d2 --env {counted.ID} --actors 8 --refresh-period 4 --burn-in 4 --trace-length 8 "
    "--period 4 --n-step 3 --replay-steps 3000 --min-replay-steps 200 --replay-ratio 2 "
    "--batch-size 4 --target-period 7 --publish-period 2 --torso-sizes 8 --hidden 8 "
    "--head-hidden 8 --evaluation-period 100 --evaluation-episodes 3 --checkpoint-seconds 1"
).split()
CART_POLE = ["train", "r2d2", "--env", counted.ID, "--checkpoint-seconds", "10"]
KEPT = ("--replay-steps", "20000")  # soon full: memory does not rise from then on
R6_SECONDS = float(os.environ.get("RECOLLECT_R6_SECONDS", "60"))
CALM_SECONDS = 300.0
"""After which replay is full, and memory does not rise any more."""
R7_SECONDS = float(os.environ.get("RECOLLECT_R7_SECONDS", "30"))
CALM_R7_SECONDS = 10.0
"""Over which the speed is taken that there is without a fault."""
LONGEST_STALL = 60.0
RECOVER_SECONDS = 60.0


def assert_steps_exact(harness: Harness) -> None:
    """What was taken is what is counted, but for what killed actors had not handed over.

    Of a run that came to its end: one that a signal stops has saved before its actors stop.
    """
    killed = [part for part, _ in harness.kills if kind_of(part) == "actor"]
    bound = sum(most_lost(harness.run, int(part.partition("/")[2])) for part in killed)
    lost = harness.steps_lost()
    told = sum(row["lost_steps"] for row in harness.deaths if kind_of(row["part"]) == "actor")
    print(f"{len(killed)} actors died: {lost:,} steps lost, at most {bound:,}; told of {told:,}")
    assert 0 <= lost <= bound


def goes_on(harness: Harness, env_steps: int, deaths: int) -> bool:
    """Whether all are back, and more was experienced."""
    return harness.all_back(deaths) and harness.status["env_steps"] > env_steps


def assert_ends_well(harness: Harness, seconds: float) -> None:
    """The training comes to its end, and all that must hold after it does."""
    with harness:
        assert harness.watch(seconds), harness.table()
    print(harness.table())
    assert harness.process.returncode == 0, harness.said
    harness.check()
    assert_steps_exact(harness)
    assert_sound(harness.run, harness.deaths, distinct=True)


def test_three_kinds_of_parts_die_and_the_run_goes_on(tmp_path: Path) -> None:
    """R1, R2, R3, S1: an actor in a step, a shard in an insert, the learner between its passes."""
    plan = Plan(
        (
            Fault("actor/1", "step", "kill", 60, late=True),
            Fault("replay/0", "insert", "kill", 12, late=True),
            Fault("learner", "backward", "kill", 40),
        )
    )
    # While the learner is away the actors soon wait, so all are back before the end.
    words = [*SMALL, *SPREAD, "--env-steps", "4000"]
    assert_ends_well(Harness(tmp_path, words, plan), 150)


@pytest.mark.slow
def test_twenty_kills_and_it_learns(tmp_path: Path) -> None:
    """Must show 1 (R1 to R4): over all kinds and states, and the last parameters solve the task."""
    plan = Plan.drawn(6, 20, PARTS, hows=("kill", "kill", "exit"))
    words = [*CART_POLE, *SPREAD, "--seed", "1"]
    harness = Harness(tmp_path, words, plan)
    assert_ends_well(harness, 1200)
    figures = recollect.evaluate(harness.run, episodes=20, seed=1001)
    print(figures)
    assert figures["return_mean"] >= 450


@pytest.mark.slow
def test_parts_that_are_killed_all_the_time(tmp_path: Path) -> None:
    """R6: also while others come back. Ten minutes: RECOLLECT_R6_SECONDS=600."""
    words = [*CART_POLE, *KEPT, *SPREAD, "--env-steps", "10000000"]
    mean = min(20.0, R6_SECONDS / 6)
    with Harness(tmp_path / "killed", words, mean=mean, seed=1) as harness:
        assert harness.watch(100, until=lambda: harness.status.get("state") == "running")
        harness.watch(R6_SECONDS, until=lambda: False)
        assert harness.killer is not None
        harness.killer.calm = True
        deaths = len(harness.kills)
        done = harness.watch(2 * RECOVER_SECONDS, until=lambda: harness.all_back(deaths))
        assert done, harness.table()
        harness.stop()
    for killed in harness.killer.killed:
        print(killed)
    print(harness.table())
    with Harness(tmp_path / "calm", words) as calm:
        assert calm.watch(100, until=lambda: calm.status.get("state") == "running")
        calm.watch(min(R6_SECONDS, CALM_SECONDS), until=lambda: False)
        calm.stop()
    harness.check()
    calm.check()
    assert harness.killer.killed
    assert harness.stalls.longest <= LONGEST_STALL
    assert harness.steps_lost() >= 0
    assert_sound(harness.run, harness.deaths, distinct=True)
    print(f"memory {harness.memory.late:,.0f}, calm {calm.memory.late:,.0f} bytes")
    assert harness.memory.late <= 1.05 * calm.memory.late


@pytest.mark.slow
def test_parts_that_are_stopped_for_long(tmp_path: Path) -> None:
    """R7: others go on, and who comes back late changes nothing."""
    words = [*CART_POLE, *SPREAD, "--env-steps", "10000000"]
    with Harness(tmp_path, words) as harness:
        assert harness.watch(100, until=lambda: harness.status.get("updates", 0) > 0)
        for part in ("actor/0", "replay/1", "learner", "parameters", "evaluator"):
            begin = harness.status["env_steps"]
            harness.watch(CALM_R7_SECONDS, until=lambda: False)
            before = harness.status["env_steps"]
            harness.pause(part, R7_SECONDS)
            meanwhile = harness.status["env_steps"]
            share = (meanwhile - before) / R7_SECONDS / ((before - begin) / CALM_R7_SECONDS)
            deaths = harness.deaths  # from the one that was stopped, if it was taken for dead
            on = partial(goes_on, harness, meanwhile, len(deaths))
            done = harness.watch(RECOVER_SECONDS, until=on)
            assert done, f"{part}\n{harness.table()}"
            print(f"{part} stopped: {share:.0%} of the speed meanwhile, {deaths[-1:]}")
            # Without one of two shards actors soon wait, until it is back.
            if kind_of(part) != "learner":
                assert share > (0 if kind_of(part) == "replay" else 0.25)
        harness.stop()
    print(harness.table())
    harness.check()
    replaced = {row["pid"] for row in harness.deaths}
    assert not [pid for pid in replaced if sockets.born(pid)]
    assert harness.stalls.longest <= LONGEST_STALL
    assert harness.steps_lost() >= 0
    assert_sound(harness.run, harness.deaths, distinct=True)
