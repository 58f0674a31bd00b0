"""How parts that die come back: in which order, with what, and what is counted; on a clock."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recollect.envs.failures import LIMIT, WINDOW
from recollect.messages import PartLostError, PartSilentError
from recollect.replay.limiter import Totals
from recollect.replay.shard import Standing
from recollect.runtime import lives
from recollect.runtime.hosting import BusyError
from recollect.runtime.journals import PAGES
from recollect.types import Buffers, EnvError
from tests.runtime.staged import SHARDS, Stage


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """With nobody dead, and copies that were just taken."""
    made = Stage(monkeypatch)
    for name in ("learner", "evaluator"):
        made.lives.copied(name, {"weights": np.zeros(3)})
    return made


# --- Each role comes back in its own way ----------------------------------------------------------


def test_an_actor_comes_back_anew_with_what_shards_have_of_it(stage: Stage) -> None:
    """R1, rule 3: fenced before its steps are counted, counted before it begins."""
    stage.lives.recoveries.began("actor/1", 30)
    stage.counted["actor/1"] = {"env_steps": 100, "episodes": 4, "env_failures": 2}
    stage.steps = {("replay/0", "actor/1", 0): 25, ("replay/1", "actor/1", 0): 20}
    stage.die("actor/1")
    assert not stage.lives.whole
    stage.tend()
    counts = {"env_steps": 30 + 25 + 20, "episodes": 4, "env_failures": 2}
    held = ("replay/0", "replay/1", "parameters")
    assert stage.done() == [
        ("actor/1", "KILL", 700),
        *((name, "fence", "actor/1", 1) for name in held),
        ("replay/0", "serve", "steps_from", "actor/1", 0),
        ("replay/1", "serve", "steps_from", "actor/1", 0),
        ("actor/1", "START", 1),
        ("actor/1", "who"),
        ("actor/1", "begin_epoch", 1),
        ("actor/1", "own", "go_on_from", counts),
        ("actor/1", "BACK"),
    ]
    assert stage.back == [("actor/1", counts)]
    assert stage.lives.whole
    (death,) = stage.lives.deaths
    assert death.as_dict() == {
        "part": "actor/1",
        "kind": "actor",
        "epoch": 0,
        "pid": 700,
        "why": "it was killed",
        "down_seconds": 0.1,
        "lost_steps": 100 - 75,
        "undone_updates": 0,
        "undone_steps": 0,
        "replayed": 0,
        "env_failures": 0,
    }
    assert (stage.lives.died, stage.lives.came_back, stage.lives.recoveries.lost_steps) == (
        1,
        1,
        25,
    )
    assert stage.lives.who("actor/1") == {"pid": 701, "host": ""}


def test_no_steps_are_counted_before_all_refuse_what_is_late(stage: Stage) -> None:
    """R7: a message that comes between would be in replay and in no count."""
    stage.withheld = {("replay/1", "fence"), ("parameters", "fence")}
    stage.die("actor/0")
    stage.tend(times=3)
    assert not [x for x in stage.done() if "steps_from" in x or "START" in x]
    stage.let("replay/1", "fence")
    stage.tend()
    assert not [x for x in stage.done() if "steps_from" in x or "START" in x]
    stage.steps["replay/1", "actor/0", 0] = 8  # it came before the fence
    stage.let("parameters", "fence")
    stage.tend()
    assert stage.back == [("actor/0", {"env_steps": 8, "episodes": 0})]


def test_a_learner_comes_back_from_its_copy_and_owes_what_is_undone(stage: Stage) -> None:
    """R3: nobody acts on what it published before; several shards owe, none more than it can."""
    state = {"weights": np.arange(3)}
    stage.lives.copied("learner", state)
    state["weights"][:] = 9  # a snapshot's arrays are others'
    stage.counted["learner"] = {"updates": 7, "learned_steps": 60}
    stage.undone = {"replay/0": 50, "replay/1": 45}
    stage.die("learner")
    stage.tend()
    everything = stage.done()
    done = [each for each in everything if each[0] == "learner"]
    loaded = done.pop(3)
    assert loaded[1] == "load"
    np.testing.assert_array_equal(loaded[2]["weights"], np.arange(3))
    assert done == [
        ("learner", "KILL", 700),
        ("learner", "START", 1),
        ("learner", "who"),
        ("learner", "begin_epoch", 1),
        ("learner", "own", "counts"),
        ("learner", "own", "publish"),
        ("learner", "BACK"),
    ]
    assert stage.undone == {"replay/0": 50 - 35, "replay/1": 45}
    assert [each for each in everything if "unlearned" in each] == [
        ("replay/0", "serve", "unlearned", 35, 1),  # of life 1: asked again, it is done once
        ("replay/1", "serve", "unlearned", 0, 1),
    ]
    assert stage.lives.deaths[0].undone_steps == 50 + 45 - 60
    assert stage.back == [("learner", {"updates": 7, "learned_steps": 60})]
    # More than the first of them can owe; and more than both can.
    for learned, left in ((40, {"replay/0": 0, "replay/1": 40}), (-99, dict.fromkeys(SHARDS, 0))):
        stage.counted["learner"] = {"learned_steps": learned}
        before = sum(stage.undone.values())
        stage.answers["replay/0", "look"] = Standing(Totals(learned=stage.undone["replay/0"]))
        stage.die("learner")
        stage.tend()
        assert stage.undone == left
        assert stage.lives.deaths[-1].undone_steps == before - sum(left.values())


def test_a_learner_of_which_more_is_known_than_shards_have_owes_nothing(stage: Stage) -> None:
    """As shards that forgot what was learned from them."""
    stage.counted["learner"] = {"learned_steps": 60}
    stage.undone = {"replay/0": 20, "replay/1": 20}
    stage.die("learner")
    stage.tend()
    assert stage.lives.deaths[0].undone_steps == 0
    assert stage.undone == {"replay/0": 20, "replay/1": 20}


def test_an_evaluator_comes_back_from_its_copy_and_publishes_nothing(stage: Stage) -> None:
    stage.die("evaluator")
    stage.tend()
    methods = [each[1:3] for each in stage.done("evaluator")]
    assert [m[0] for m in methods] == [
        *("KILL", "START", "who", "load", "begin_epoch", "own", "BACK")
    ]
    assert methods[-2] == ("own", "counts")


def test_a_shard_comes_back_from_the_last_checkpoint_and_its_journal(stage: Stage) -> None:
    """R2: others may ask it only when all is there, and it refuses whom it refused."""
    stage.lives.recoveries.journals.turned("replay/1", 4)
    stage.lives.recoveries.journals.saved()
    blocks = Buffers(np.array([3, 5]), [np.zeros(2, np.uint8)] * 2)
    stage.saved = {
        "parts": {"replay/0": {}, "replay/1": {"buffers": blocks, "n": 2}},
        "journal": stage.lives.recoveries.journals.state_dict(),
    }
    stage.die("actor/0")
    stage.tend()
    stage.done()
    stage.die("replay/1")
    stage.tend()
    done = stage.done()
    assert [each[1] for each in done[:5]] == ["KILL", "START", "who", "give", "load"]
    assert done[3][2] == "/buffers"
    assert done[3][3].tolist() == [3, 5]
    assert done[4][2]["n"] == 2
    assert done[5:] == [
        ("replay/1", "recover", "/journals/replay-1", 4, PAGES),
        ("replay/1", "fence", "actor/0", 1),
        *((name, "REWIRE", "replay/1") for name in ("learner", "actor/0", "actor/1")),
        ("replay/1", "BACK"),
    ]
    assert stage.lives.deaths[-1].replayed == 5


def test_before_the_first_checkpoint_a_journal_goes_on_from_nothing(stage: Stage) -> None:
    stage.die("replay/0")
    stage.tend()
    assert ("replay/0", "recover", "/journals/replay-0", 0, PAGES) in stage.log
    assert not [each for each in stage.log if each[1] in ("give", "load")]


def test_a_shard_without_its_journal_goes_on_from_the_checkpoint(stage: Stage) -> None:
    """All shards begin to count again; what it had of others is remembered here."""
    stage.answers["replay/1", "recover"] = (False, 3)
    stage.die("replay/1")
    stage.tend()
    assert stage.lives.deaths[0].replayed == -1
    restarted = [each[0] for each in stage.done() if "restart_surplus" in each]
    assert restarted == ["replay/1", "replay/0"]


def test_no_journal_is_asked_for_where_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, journal="")
    stage.die("replay/1")
    stage.tend()
    done = stage.done("replay/1")
    assert ("replay/1", "serve", "abandon") in done
    assert not [each for each in done if each[1] == "recover"]
    assert stage.lives.deaths[0].replayed == -1


def test_a_journal_of_another_state_is_left_and_the_state_loaded_again(stage: Stage) -> None:
    stage.saved = {"parts": {"replay/1": {"n": 2}}}
    answers: list[Any] = [RuntimeError("it does not fit"), (False, 0)]
    stage.withheld = {("replay/1", "recover")}
    stage.die("replay/1")
    for answer in answers:
        stage.tend()
        assert stage.open, "it is asked once more"
        stage.let("replay/1", "recover", answer)
        stage.withheld = {("replay/1", "recover")}
    stage.tend()
    methods = [each[1] for each in stage.done("replay/1")]
    assert methods[3:7] == ["load", "recover", "load", "recover"]
    assert stage.lives.whole
    assert len(stage.lives.deaths) == 1


def test_parameters_come_back_empty_and_the_learner_publishes_again(stage: Stage) -> None:
    """R4: they live before that, and a learner in a turn is asked again."""
    stage.withheld = {("learner", "publish")}
    stage.die("parameters")
    stage.tend()
    holders = ("learner", "actor/0", "actor/1", "evaluator")
    assert stage.done() == [
        ("parameters", "KILL", 1000),
        ("parameters", "START", 1),
        ("parameters", "who"),
        *((name, "REWIRE", "parameters") for name in holders),
        ("parameters", "BACK"),
        ("learner", "own", "publish"),
    ]
    assert stage.lives.whole
    stage.let("learner", "publish", BusyError("in a turn"))
    stage.tend(times=2)
    assert stage.done() == [("learner", "own", "publish")]
    # The learner dies while it publishes, and publishes anyway.
    stage.withheld = {("learner", "publish")}
    stage.die("learner")
    stage.tend(times=2)
    assert stage.lives.why_dead("learner")
    stage.let("learner", "publish")
    stage.tend(times=3)
    assert stage.lives.whole
    assert len(stage.lives.deaths) == 2


# --- Deaths while others, or itself, come back ----------------------------------------------------


def test_what_is_asked_of_a_part_that_died_too_is_answered_by_its_next_life(stage: Stage) -> None:
    """Also if the question was on its way, and also if nobody says that it was lost."""
    stage.steps = {("replay/0", "actor/0", 0): 6, ("replay/1", "actor/0", 0): 9}
    stage.withheld = {("replay/1", "steps_from")}
    stage.die("actor/0")
    stage.tend()
    assert len(stage.open) == 1
    stage.withheld = {("replay/1", "who")}
    stage.die("replay/1")  # its answer never comes, as where a machine is cut off
    stage.tend(times=50)
    assert ("actor/0", "START", 1) not in stage.log
    stage.let("replay/1", "who")
    stage.tend(times=3)
    assert stage.lives.whole
    assert stage.counted["actor/0"]["env_steps"] == 6 + 9
    asked = [each for each in stage.log if each[:3] == ("replay/1", "serve", "steps_from")]
    assert len(asked) == 2


def test_nobody_is_begun_anew_with_a_hold_on_the_dead(stage: Stage) -> None:
    """What it holds would be of a life that has nothing yet, and takes what it forgets again."""
    stage.withheld = {("parameters", "fence"), ("replay/0", "who")}
    stage.die("learner")
    stage.tend()
    stage.die("replay/0")
    stage.let("parameters", "fence")
    stage.tend(times=3)
    assert ("learner", "START", 1) not in stage.log
    stage.let("replay/0", "who")
    stage.tend(times=3)
    assert stage.lives.whole
    order = [each[:2] for each in stage.log]
    assert order.index(("replay/0", "BACK")) < order.index(("learner", "START"))
    assert ("replay/0", "fence", "learner", 1) in stage.log


@pytest.mark.parametrize("method", ["who", "begin_epoch", "go_on_from"])
def test_one_that_dies_while_it_comes_back_is_begun_once_more(stage: Stage, method: str) -> None:
    """R6: its steps are counted once, and lost once."""
    stage.lives.recoveries.began("actor/0", 10)
    stage.counted["actor/0"] = {"env_steps": 50, "episodes": 1}
    stage.steps = {("replay/0", "actor/0", 0): 25}
    stage.withheld = {("actor/0", method)}
    stage.die("actor/0")
    stage.tend(5.0)
    stage.withheld = set()
    stage.let("actor/0", method, PartLostError("it was killed again"))
    stage.tend(2.0, times=2)
    assert stage.lives.whole
    assert stage.counted["actor/0"]["env_steps"] == 10 + 25
    first, second = stage.lives.deaths
    assert (first.epoch, second.epoch) == (0, 1)
    assert (first.lost_steps, second.lost_steps, stage.lives.recoveries.lost_steps) == (15, 0, 15)
    assert (first.down_seconds, second.down_seconds) == (9.0, 2.0)
    assert (stage.lives.died, stage.lives.came_back) == (2, 2)
    assert stage.lives.epoch("actor/0") == 2
    # Its next life begins with these, and what it did counts on top.
    stage.steps["replay/0", "actor/0", 2] = 7
    stage.die("actor/0")
    stage.tend()
    assert stage.counted["actor/0"]["env_steps"] == 35 + 7


def test_who_is_asked_and_does_not_answer_is_given_up_not_who_asks(stage: Stage) -> None:
    """R5: its pulse goes on, so nothing else finds it."""
    stage.counted["actor/0"] = {"env_steps": 50, "episodes": 1}
    stage.steps = {("replay/0", "actor/0", 0): 25, ("replay/1", "actor/0", 0): 13}
    stage.withheld = {("replay/1", "steps_from")}
    stage.die("actor/0")
    stage.tend(1.0, times=int(lives.START_SECONDS))
    assert stage.lives.epochs["replay/1"] == 0
    stage.withheld = set()
    stage.tend(1.0, times=4)
    assert stage.lives.whole
    assert [(death.part, death.why) for death in stage.lives.deaths] == [
        ("replay/1", "it did not answer in 180 s"),
        ("actor/0", "it was killed"),
    ]
    assert stage.counted["actor/0"]["env_steps"] == 25 + 13


def test_two_of_which_one_asks_the_other_come_back_together(stage: Stage) -> None:
    for name in ("learner", "replay/0", "parameters", "actor/0", "replay/1"):
        stage.die(name)
    stage.tend(times=6)
    assert stage.lives.whole
    assert {death.part for death in stage.lives.deaths} == {
        *("learner", "replay/0", "parameters", "actor/0", "replay/1")
    }


def test_an_answer_of_an_earlier_life_is_passed_over(stage: Stage) -> None:
    stage.die("actor/0")
    stage.lives.lost("actor/0", PartLostError("late"), 0)
    stage.tend()
    stage.lives.lost("actor/0", PartLostError("later"), 0)
    assert stage.lives.whole
    assert (stage.lives.died, stage.lives.epoch("actor/0")) == (1, 1)


@pytest.mark.parametrize("method", ["pulse", "state"])
def test_what_an_earlier_life_was_asked_says_nothing_of_this_one(stage: Stage, method: str) -> None:
    """Its pulse and its copy were on their way when it died."""
    stage.withheld = {("learner", method)}
    stage.tend(lives.COPY_SECONDS)
    assert stage.open
    stage.die("learner")
    stage.tend()
    assert stage.lives.whole
    assert stage.lives.silence("learner") == 0
    stage.let("learner", method, PartLostError("it was killed"))
    stage.tend(times=3)
    assert stage.lives.died == 1


def test_one_that_cannot_be_made_again_ends_the_run_as_what_it_is(stage: Stage) -> None:
    stage.withheld = {("actor/0", "who")}
    stage.die("actor/0")
    stage.tend()
    stage.let("actor/0", "who", KeyError("a fault of ours"))
    with pytest.raises(KeyError, match="a fault of ours") as found:
        stage.tend()
    assert found.value.__notes__ == ["(raised in actor/0, which was begun once more)"]


def test_an_environment_that_cannot_be_made_again_is_tried_again(stage: Stage) -> None:
    """R8: and counts as a failure of an environment."""
    stage.withheld = {("actor/0", "who")}
    stage.die("actor/0")
    stage.tend()
    for _ in range(LIMIT - 1):
        stage.let("actor/0", "who", EnvError("there is no such environment"))
        stage.withheld = {("actor/0", "who")}
        stage.tend(times=2)
        assert not stage.lives.whole
    stage.let("actor/0", "who", EnvError("there is no such environment"))
    with pytest.raises(PartLostError, match="there is no such environment"):
        stage.tend()


# --- Silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "patience"), [("", "here"), ("10.0.0.2", "elsewhere")])
def test_one_that_does_not_answer_is_taken_for_dead(stage: Stage, host: str, patience: str) -> None:
    """R7, and a cut link: found within PATIENCE, and no sooner; a pulse in between resets it."""
    stage.lives.hear("actor/0", {"pid": 5, "host": host})
    stage.withheld = {("actor/0", "pulse")}
    bound = lives.PATIENCE[patience]
    stage.tend(0.5, times=3)
    assert stage.open
    stage.tend(0.5, times=int(2 * bound) - 2)
    assert stage.lives.whole
    stage.let("actor/0", "pulse")
    stage.tend(0.5, times=3)
    stage.withheld = {("actor/0", "pulse")}
    stage.tend(0.5, times=int(2 * bound) + 1)
    assert stage.lives.whole, "it was heard in between"
    stage.tend(0.5, times=6)
    (death,) = stage.lives.deaths
    assert death.part == "actor/0"
    assert "has not answered for" in death.why
    assert ("actor/0", "KILL", 5) in stage.log
    assert stage.pulses > 5 * bound, "the others are asked each second meanwhile"


def test_the_time_in_which_the_driver_stood_still_is_not_silence(stage: Stage) -> None:
    stage.withheld = {(name, "pulse") for name in stage.lives.epochs}
    stage.tend(2.0)
    for _ in range(15):
        stage.tend(100.0)
    assert stage.lives.whole


def test_one_that_is_not_there_in_time_is_begun_once_more(stage: Stage) -> None:
    stage.withheld = {("actor/0", "who")}
    stage.die("actor/0")
    stage.tend(1.0, times=int(lives.START_SECONDS))
    assert stage.lives.epoch("actor/0") == 1
    stage.tend(1.0, times=3)
    assert stage.lives.epoch("actor/0") == 2
    stage.let("actor/0", "who")
    stage.tend(times=2)
    assert stage.lives.whole
    assert [death.why for death in stage.lives.deaths] == [
        "it was killed",
        "it was not there after 180 s",
    ]


def test_a_checkpoint_may_take_long_to_read(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is not the silence of the part that waits for it."""
    read: Future[None] = Future()
    pool = SimpleNamespace(submit=lambda _: read)
    monkeypatch.setattr(stage.lives.recoveries, "_readers", pool)
    stage.die("replay/0")
    stage.tend(1.0, times=2 * int(lives.START_SECONDS))
    assert stage.lives.epoch("replay/0") == 1
    read.set_result(None)
    stage.tend()
    assert stage.lives.whole


def test_a_pulse_says_that_it_is_dead(stage: Stage) -> None:
    stage.dead.add("replay/0")
    stage.tend(1.0, times=3)
    assert [death.part for death in stage.lives.deaths] == ["replay/0"]


def test_an_environment_that_hangs_ends_its_actor_and_is_named(stage: Stage) -> None:
    """R8."""
    stage.answers["actor/0", "pulse"] = (59.0, "environment Slow-v0, slot 3: step 7")
    stage.tend(1.0, times=3)
    assert stage.lives.died == 0
    stage.answers["actor/0", "pulse"] = (61.0, "environment Slow-v0, slot 3: step 7")
    stage.tend(1.0, times=2)
    stage.answers.clear()
    stage.tend(times=2)
    (death,) = stage.lives.deaths
    assert death.why.startswith(
        "environment Slow-v0, slot 3: step 7 has not returned for 61 s, env_deadline is 60: mend"
    )


# --- Too much -------------------------------------------------------------------------------------


def test_more_than_ten_deaths_in_ten_minutes_end_the_run(stage: Stage) -> None:
    """Of one part; ten are borne, and more of them over a longer time."""
    for _ in range(2 * LIMIT):
        stage.die("actor/0")
        stage.tend()
        stage.now += WINDOW / (LIMIT - 1)
        stage.die("actor/1")
        stage.tend()
    stage.now += WINDOW
    for _ in range(LIMIT):
        stage.die("actor/0")
        stage.tend()
    with pytest.raises(
        PartLostError,
        match=r"^actor/0 \(process 730\): it was killed; that is its death number 11 within 10 "
        "minutes, and 10 are borne: an environment may be what ends it",
    ) as found:
        stage.die("actor/0")
    assert found.value.part == "actor/0"
    assert stage.lives.gone_for_good("actor/0")
    assert not stage.lives.gone_for_good("actor/1")


def test_one_death_too_many_ends_the_run_also_where_another_one_finds_it(stage: Stage) -> None:
    """A recovery that asks it; the one that comes back has done nothing wrong."""
    for _ in range(LIMIT):
        stage.die("replay/1")
        stage.tend()
    stage.dead.add("replay/1")
    stage.die("actor/0")
    with pytest.raises(PartLostError, match=r"^replay/1 \(process \d+\): it died; that is its de"):
        stage.tend(times=3)


def test_more_than_ten_failures_of_environments_end_the_run_over_all_parts(stage: Stage) -> None:
    """R8: an actor counts its own, so twelve actors could have ten each."""
    for _ in range(3):
        for k in range(5):
            stage.lives.env_failed(2, f"actor/{k}: NaN")
        stage.now += WINDOW + 1
    stage.lives.env_failed(6, "actor/0: NaN")
    stage.lives.env_failed(4, "actor/1: NaN")
    with pytest.raises(EnvError, match=r"^actor/2: NaN; with it environments failed 11 times with"):
        stage.lives.env_failed(1, "actor/2: NaN")


def test_hangs_are_failures_of_environments(stage: Stage) -> None:
    stage.lives.env_failed(LIMIT, "actor/1: NaN")
    stage.answers["actor/0", "pulse"] = (61.0, "environment Slow-v0, slot 3: step 7")
    with pytest.raises(EnvError, match=r"^actor/0: environment Slow-v0, slot 3: step 7 has not"):
        stage.tend(1.0, times=3)


def test_where_no_part_can_be_reached_any_more_the_run_ends(stage: Stage) -> None:
    stage.why = "Ray's own process has died"
    with pytest.raises(PartLostError, match=r"^Ray's own process has died$"):
        stage.tend(1.0, times=2)


# --- Copies ---------------------------------------------------------------------------------------


def test_copies_are_taken_each_minute_and_are_our_own(stage: Stage) -> None:
    """What came lies in memory that others share, and may go with them."""
    shared = {"weights": np.ones(3), "adam": {"m": np.ones(2)}, "n": 5}
    stage.answers["learner", "state"] = shared
    stage.tend(1.0, times=int(lives.COPY_SECONDS) - 1)
    assert not [each for each in stage.done() if each[1] == "state"]
    stage.tend(1.0, times=int(lives.COPY_SECONDS) + 2)
    taken = [each[0] for each in stage.done() if each[1] == "state"]
    assert sorted(taken) == ["evaluator", "evaluator", "learner", "learner"]
    shared["weights"][:] = 9
    shared["adam"]["m"][:] = 9  # type: ignore[index]
    stage.die("learner")
    stage.tend()
    (load,) = [each for each in stage.done("learner") if each[1] == "load"]
    np.testing.assert_array_equal(load[2]["weights"], np.ones(3))
    np.testing.assert_array_equal(load[2]["adam"]["m"], np.ones(2))
    assert load[2]["n"] == 5


def test_a_learner_in_a_turn_is_asked_for_its_copy_again_at_once(stage: Stage) -> None:
    stage.withheld = {("learner", "state")}
    stage.tend(lives.COPY_SECONDS)
    stage.let("learner", "state", BusyError("in a turn"))
    stage.tend(times=3)
    asked = [each for each in stage.done("learner") if each[1] == "state"]
    assert len(asked) == 2


def test_one_that_dies_while_its_copy_is_taken_comes_back_from_the_last(stage: Stage) -> None:
    stage.withheld = {("learner", "state")}
    stage.tend(lives.COPY_SECONDS)
    stage.let("learner", "state", PartLostError("it was killed"))
    stage.tend(times=3)
    (load,) = [each for each in stage.done("learner") if each[1] == "load"]
    np.testing.assert_array_equal(load[2]["weights"], np.zeros(3))
    assert stage.lives.died == 1


def test_each_answer_that_a_recovery_waits_for_has_its_own_time(stage: Stage) -> None:
    answers = {"who": {"pid": 7, "host": ""}, "begin_epoch": None, "go_on_from": None}
    stage.withheld = {("actor/0", step) for step in answers}
    stage.die("actor/0")
    for step, value in answers.items():
        stage.tend(1.0, times=int(0.9 * lives.START_SECONDS))
        stage.let("actor/0", step, value)
    stage.tend()
    assert stage.lives.whole
    assert stage.lives.died == 1


def test_environments_that_fail_as_an_actor_is_made_anew_are_counted(stage: Stage) -> None:
    """R8: each time, by the run and by the life that is there at last."""
    failures = iter([EnvError("it cannot be made"), EnvError("it cannot be made")])
    stage.answers["actor/0", "who"] = lambda: next(failures, {"pid": 7, "host": ""})
    stage.counted["actor/0"]["env_failures"] = 1
    stage.die("actor/0")
    stage.tend(times=4)
    assert stage.lives.whole
    assert stage.counted["actor/0"]["env_failures"] == 1 + 2
    stage.lives.env_failed(LIMIT - 2, "actor/1: NaN")
    with pytest.raises(EnvError, match="environments failed 11 times"):
        stage.lives.env_failed(1, "actor/1: NaN")


# --- Counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("read", "first", "second"), [(0, 40, 11), (1, 70, 60), (2, 45, 11)])
def test_what_a_shard_forgot_with_its_journal_is_counted_as_of_the_checkpoint(
    stage: Stage, read: int, first: int, second: int
) -> None:
    """Steps that had arrived when the checkpoint was taken are in it, the others are lost.

    Twice without its journal: back to the first snapshot, then to that again, or to the one that
    was on its way to the disk, or to one since, when nothing was known of what came before.
    """
    recoveries = stage.lives.recoveries

    def snapshot(senders: dict[str, tuple[int, int]]) -> dict[str, Any]:
        recoveries.arrived("replay/1", senders)
        return {"parts": dict.fromkeys(SHARDS), "journal": recoveries.snapshot()}

    recoveries.began("actor/0", 100)
    stage.answers["replay/1", "recover"] = (False, 0)
    states = [snapshot({"actor/0": (0, 40), "actor/1": (0, 11)})]
    states.append(snapshot({"actor/0": (0, 70), "actor/1": (0, 60)}))
    stage.saved = states[0]
    stage.die("replay/1")
    stage.tend()
    states.append(snapshot({"actor/0": (0, 5)}))
    stage.saved = states[read]
    stage.die("replay/1")
    stage.tend()
    stage.counted["actor/0"]["env_steps"] = 300
    stage.steps = {("replay/0", "actor/0", 0): 20, ("replay/1", "actor/0", 0): 3}
    stage.die("actor/0")
    stage.tend()
    assert stage.counted["actor/0"]["env_steps"] == 100 + 20 + first + 3
    assert stage.lives.deaths[-1].lost_steps == 300 - 123 - first
    stage.die("actor/0")
    stage.tend()
    assert stage.counted["actor/0"]["env_steps"] == 123 + first, "once"
    stage.die("replay/1")  # which has nothing of that life any more for which to ask
    stage.tend()
    stage.die("actor/0")
    stage.tend()
    assert stage.counted["actor/0"]["env_steps"] == 123 + first
    stage.die("actor/1")
    stage.tend()
    assert stage.counted["actor/1"]["env_steps"] == second


def test_an_actors_steps_are_counted_when_all_shards_have_said_what_they_have(stage: Stage) -> None:
    stage.withheld = {("replay/1", "steps_from")}
    assert stage.lives.counted("actor/0")
    stage.die("actor/0")
    stage.tend()
    assert not stage.lives.counted("actor/0")
    stage.let("replay/1", "steps_from", 7)
    stage.dead.add("actor/0")
    stage.withheld = {("actor/0", "who")}
    stage.tend()
    assert stage.lives.counted("actor/0"), "though it is not back"
    assert not stage.lives.whole


def test_epochs_go_on_from_those_that_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, epochs={"actor/1": 4})
    stage.die("actor/1")
    stage.die("actor/0")
    stage.tend()
    assert stage.lives.epochs["actor/1"] == 5
    assert stage.lives.epochs["actor/0"] == 1
    assert ("replay/0", "serve", "steps_from", "actor/1", 4) in stage.log


def test_what_is_known_of_a_part(stage: Stage) -> None:
    assert stage.lives.called("learner") == "learner (process 700)"
    stage.lives.hear("learner", {"pid": 5, "host": "10.0.0.2"})
    assert stage.lives.called("learner") == "learner (process 5 on 10.0.0.2)"
    stage.tend(0.5)
    stage.withheld = {("learner", "who")}
    assert stage.lives.silence("learner") == 0.5
    stage.die("learner")
    stage.tend()
    assert stage.lives.why_dead("learner") == "it was killed"
    assert stage.lives.called("learner") == "learner"
    assert not stage.lives.gone_for_good("learner")
    assert len(stage.lives.waited_for()) == 1
    stage.let("learner", "who")
    stage.tend()
    assert stage.lives.waited_for() == []
    assert issubclass(PartSilentError, PartLostError)
