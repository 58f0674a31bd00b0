"""States of a whole program: what comes back from disk, snapshots, and what a stranger wrote."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recollect import presets
from recollect.agents.evaluating import InterruptedEvaluation
from recollect.run.checkpoint import digest
from recollect.runtime import randomness
from recollect.runtime.inline import Inline
from recollect.training.job import prepare
from tests.hostile_states import at, instead_of, on_disk, places, replaced
from tests.test_resume import JOBS

SMALL: dict[str, Any] = {
    "actors": 3,
    "refresh_period": 4,
    "burn_in": 4,
    "trace_length": 8,
    "period": 4,
    "n_step": 3,
    "replay_steps": 200,
    "min_replay_steps": 40,
    "replay_ratio": 2.0,
    "batch_size": 4,
    "target_period": 7,
    "publish_period": 2,
    "torso_sizes": (4,),
    "hidden": 4,
    "head_hidden": 4,
    "evaluation_period": 3,
    "evaluation_episodes": 2,
}
PROGRAMS: dict[str, dict[str, Any]] = {
    "PositionCartPole": {"agent": "r2d2", "env": "recollect/PositionCartPole-v0"},
    "Recall": {**JOBS["Recall"], "prioritized": False},
    "TMaze, whole episodes": JOBS["TMaze, whole episodes"],
}
HOSTILE = [
    pytest.param("PositionCartPole", 5, id="every fifth"),
    *(pytest.param(name, 1, id=name, marks=pytest.mark.slow) for name in PROGRAMS),
]


def runtime(name: str = "PositionCartPole") -> Inline:
    asked = dict(PROGRAMS[name])
    agent, env = asked.pop("agent"), asked.pop("env")
    job = prepare(
        agent,
        env=env,
        env_kwargs=asked.pop("env_kwargs", None),
        preset="auto",
        seed=3,
        env_steps=1000,
        settings={**SMALL, **asked},
    )
    return Inline(presets.agent(agent).program(job.config, job.env, job.seed, job.network))


def rounds(program: Inline, number: int) -> None:
    left = iter(range(number + 1))
    program.run(lambda _: next(left) == number)


def cases(state: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    for path in places(state):
        for name, value in instead_of(at(state, path)).items():
            yield f"{'.'.join(map(str, path))}: {name}", path, value


@pytest.mark.filterwarnings("ignore")  # environments that cannot be put back
@pytest.mark.parametrize(("name", "stride"), HOSTILE)
def test_whatever_stands_in_a_state_it_is_refused_or_does_no_harm(
    tmp_path: Path, name: str, stride: int
) -> None:
    """C3: ValueError where it is loaded, or at worst a typed error where it is used."""
    program = runtime(name)
    rounds(program, 55)
    good = on_disk(program.state_dict(), tmp_path)
    before, accepted, harm = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, []
    program.load_state_dict(good)
    for told, path, value in [*cases(good)][::stride]:
        state = replaced(good, path, value)
        try:
            if len(path) > 2 and path[0] == "parts":  # quicker than all of them
                program.parts[path[1]].load_state_dict(state["parts"][path[1]])
            program.load_state_dict(state)
        except ValueError:
            continue
        except Exception as error:
            harm.append(f"{told}: to load it: {error!r}")
            continue
        accepted += 1
        try:
            rounds(program, 6)
            program.metrics()
        except (ValueError, RuntimeError):
            pass
        except Exception as error:
            harm.append(f"{told}: to go on: {error!r}")
    assert not harm, "\n".join(harm)
    assert accepted > 50, "figures may be any"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000, f"{grown} KiB"


def on(state: Any, folder: Path, name: str) -> tuple[Inline, dict[str, Any]]:
    """A program in a process that has drawn other random numbers, gone on from a saved state."""
    torch.manual_seed(9)
    np.random.seed(9)
    random.seed(9)
    found, other = on_disk(state, folder), runtime(name)
    other.load_state_dict(found)
    return other, found


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize("after", [0, 1, 2, 13, 27, 40, 56])
def test_from_disk_everything_goes_on_as_it_would_have(
    tmp_path: Path, after: int, reported: bool
) -> None:
    """Nothing has happened, a first step, errors are open, before the first update, after."""
    whole = runtime()
    rounds(whole, after)
    if reported:
        whole.metrics()
    state = whole.state_dict()
    other, found = on(state, tmp_path, "PositionCartPole")
    assert digest(other.state_dict()) == digest(found) == digest(state)
    assert other.counts() == whole.counts()
    with randomness.seeded(1):
        rounds(other, 30)
        others = other.metrics(), other.counts(), digest(other.state_dict())
    with randomness.seeded(1):
        rounds(whole, 30)
        assert others == (whole.metrics(), whole.counts(), digest(whole.state_dict()))
    assert digest(state) == digest(found), "a state is a snapshot"


def test_what_was_loaded_belongs_to_nobody_else(tmp_path: Path) -> None:
    whole = runtime()
    rounds(whole, 50)
    state = whole.state_dict()
    before = digest(state)
    other = runtime()
    other.load_state_dict(state)
    rounds(other, 30)
    assert digest(state) == before
    assert digest(whole.state_dict()) == before


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_evaluation_that_was_left_is_made_after_the_resume(tmp_path: Path, name: str) -> None:
    """In the middle of a round: the learner and the actor have had their turns."""
    whole = runtime(name)
    evaluator = whole.parts["evaluator"]
    evaluator.interrupted = lambda: evaluator.counts()["evaluations"] == 1
    with pytest.raises(InterruptedEvaluation):
        rounds(whole, 500)
    other, found = on(whole.state_dict(), tmp_path, name)
    assert found["turn"] == 2
    assert other.parts["evaluator"].ready()
    evaluator.interrupted = lambda: False
    for program in (whole, other):
        rounds(program, 0)
    assert other.counts() == whole.counts()
    assert other.counts()["evaluations"] == 2
    for program in (whole, other):
        rounds(program, 20)
    assert digest(other.state_dict()) == digest(whole.state_dict())


def test_the_random_generators_go_on_too(tmp_path: Path) -> None:
    whole = runtime()
    random.gauss(0, 1)
    np.random.standard_normal()
    state = whole.state_dict()

    def drawn() -> list[float]:
        numbers = [random.gauss(0, 1), np.random.standard_normal(), torch.rand(()).item()]
        return [*numbers, random.random(), np.random.random()]

    wanted = drawn()
    on(state, tmp_path, "PositionCartPole")
    assert drawn() == wanted


def test_a_turn_is_one_of_the_workers_or_behind_the_last(tmp_path: Path) -> None:
    program = runtime()
    state = program.state_dict()
    program.load_state_dict({**state, "turn": 3})
    with pytest.raises(ValueError, match="turn is 4, there are 3 workers"):
        program.load_state_dict({**state, "turn": 4})
    fewer = {name: part for name, part in state["parts"].items() if name != "evaluator"}
    for others in (fewer, {**state["parts"], "learner/1": {}}):
        with pytest.raises(ValueError, match=r"the state has parts .*, those of the run are"):
            program.load_state_dict({**state, "parts": others})


def test_figures_and_failures_of_evaluations_are_kept_as_they_were() -> None:
    program = runtime()
    rounds(program, 60)
    evaluator = program.parts["evaluator"]
    state = {**evaluator.state_dict(), "failed": 4}
    fresh = dict(state["fresh"])
    assert fresh, "there was one"
    evaluator.load_state_dict(state)
    assert evaluator.counts()["failed_evaluations"] == 4
    assert evaluator.state_dict()["fresh"] is not evaluator.state_dict()["fresh"]
    assert evaluator.metrics() == fresh
    assert state["fresh"] == fresh


def test_updates_skipped_come_back_with_the_learner() -> None:
    learner = runtime().parts["learner"]
    state = {**learner.state_dict(), "skipped": {"total": 7, "on_end": 6}}
    learner.load_state_dict(state)
    assert learner.counts()["skipped_updates"] == 7
    assert learner.state_dict()["skipped"] == {"total": 7, "on_end": 6}


def test_what_an_actor_has_counted_and_not_sent_is_that_of_its_state() -> None:
    program = runtime()
    rounds(program, 30)
    actor = program.parts["actor/0"]
    state = {**actor.state_dict(), "dropped": 2, "cut_short": 3}
    state["env"] = {**state["env"], "failures": 4}
    actor._outbox = (["of a turn that failed"], [])
    actor.load_state_dict(state)
    assert actor._outbox == ([], [])
    counts = actor.counts()
    assert counts["dropped_episodes"] == 2
    assert counts["cut_short_episodes"] == 3
    assert counts["env_failures"] == 4, "failures are counted once, however often it is resumed"
    assert digest(actor.state_dict()) == digest(state)


def test_a_state_taken_before_lost_episodes_are_closed_stays_as_it_was() -> None:
    program = runtime()
    rounds(program, 30)
    actor = program.parts["actor/0"]
    actor._lost[:] = True
    state = program.state_dict()
    before = digest(state)
    assert actor._elapsed.any()
    rounds(program, 1)
    assert digest(state) == before
