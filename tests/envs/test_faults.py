"""R8: an environment that fails is named, dropped, counted and replaced, and the others go on."""

from __future__ import annotations

import os
import re
import sys
import warnings
from contextlib import closing

import numpy as np
import pytest

from recollect.envs import calls
from recollect.envs.failures import LIMIT
from recollect.envs.registry import make
from recollect.envs.slots import Slots
from recollect.envs.vector import VectorEnv
from recollect.types import EnvError
from tests.envs import faulty

SLOTS = 3
ACTIONS = np.array([0, 2, 1])  # earns -1, 1, 0
SEEDS = np.array([4, 7, 9])  # slot 1 misbehaves
ONE = np.array([False, True, False])

IN_STEP = {
    "raises": r"step raised OSError: the engine stopped \(.*faulty.py, line \d+\)",
    "sys.exit": r"step raised SystemExit: 3 \(.*faulty.py, line \d+\)",
    "nan": r"observation 'observation'\[0\] is nan, a finite number was wanted",
    "inf": r"observation 'observation'\[0\] is -inf, a finite number was wanted",
    "shape": r"observation 'observation' has shape \(3,\), its space says \(2,\) "
    r"\(from step\): mend its space or its step",
    "dtype": r"observation 'observation' has dtype complex64, its space says float32 "
    r"\(from step\): mend its space or its step",
    "os._exit": "its process exited with code 3 in step",
    "segfaults": "its process was killed by SIGSEGV in step",
    "hangs": "hung in step for more than 0.3 s",
}
OUTSIDE = {"os._exit", "segfaults", "hangs"}
PLACES = [
    (how, processes)
    for how in IN_STEP
    for processes in (0, 1, 2)
    if processes or how not in OUTSIDE
    if processes != 1 or how in OUTSIDE
]


def made(how, verb, processes):
    return make(faulty.ID, SLOTS, {"how": how, "verb": verb}, processes=processes, deadline=0.3)


def seen(observation):
    return observation["observation"].tolist()


@pytest.mark.parametrize(("how", "processes"), PLACES)
def test_r8_what_fails_in_a_step_is_a_fault_of_its_slot(how, processes):
    """R8: named exactly; that episode is lost, those of other processes go on."""
    with closing(made(how, "step", processes)) as env:
        env.reset(SEEDS)
        for _ in range(2):
            assert not env.step(ACTIONS).faults
        step = env.step(ACTIONS)
        name = f"environment {faulty.ID}, slot "
        assert re.fullmatch(re.escape(name) + "1: " + IN_STEP[how], step.faults[1])
        # With 2 processes slot 0 has one of its own.
        along = [slot for slot in (0, 2) if how in OUTSIDE and (slot == 2 or processes == 1)]
        assert sorted(step.faults) == sorted([1, *along])
        for slot in along:
            assert step.faults[slot] == (
                f"{name}{slot}: lost with slot 1 of the same process: {IN_STEP[how]}"
            )
        assert env.failures == 1
        sound = [slot for slot in range(SLOTS) if slot not in step.faults]
        assert [seen(step.observation)[slot] for slot in sound] == [[SEEDS[s], 3] for s in sound]
        assert step.reward[sound].tolist() == [[-1, 1, 0][slot] for slot in sound]
        lost = np.isin(range(SLOTS), [*step.faults])
        now = env.restart(lost, np.array([20, 21, 22]))
        for slot in range(SLOTS):
            assert seen(now)[slot] == ([20 + slot, 0] if lost[slot] else [SEEDS[slot], 3])
        for t in (4, 5):
            step = env.step(ACTIONS)
            assert not step.faults
            assert [step.observation["observation"][slot, 1] for slot in sound] == [t] * len(sound)
        assert step.terminated.tolist() == (~lost).tolist()
        assert env.failures == 1


def test_r8_an_interrupt_is_a_fault_where_no_person_interrupts(monkeypatch):
    """R8: as in a part of a run on Ray; here it is ours."""
    with closing(made("interrupts", "step", 0)) as env:
        env.reset(SEEDS)
        for _ in range(2):
            env.step(ACTIONS)
        with pytest.raises(KeyboardInterrupt):
            env.step(ACTIONS)
    monkeypatch.setattr(calls, "blamed", (*calls.blamed, KeyboardInterrupt))
    with closing(made("interrupts", "step", 0)) as env:
        env.reset(SEEDS)
        for _ in range(2):
            assert not env.step(ACTIONS).faults
        (said,) = env.step(ACTIONS).faults.values()
        assert re.search(r"slot 1: step raised KeyboardInterrupt \(.*faulty.py, line \d+\)$", said)
        assert env.fault == said


@pytest.mark.parametrize(("how", "processes"), PLACES)
def test_r8_what_fails_in_a_reset_is_tried_again_with_another_seed(how, processes):
    """R8: counted and warned of; the seed that follows is always the same."""
    said = IN_STEP[how].replace("step", "reset")
    firsts = []
    for _ in range(2):
        with closing(made(how, "reset", processes)) as env:
            message = r"slot 1: " + said + "; it is tried again with another seed$"
            with pytest.warns(RuntimeWarning, match=message) as caught:
                firsts.append(seen(env.reset(SEEDS)))
            assert len(caught) == env.failures == 1
            assert not env.step(ACTIONS).faults
    (first, then) = firsts
    assert first == then
    assert first[0] == [4, 0]
    assert first[2] == [9, 0]
    assert first[1][0] not in (4, 7, 9)


@pytest.mark.parametrize(("how", "processes"), [("nan", 0), ("raises", 0), ("hangs", 2)])
def test_r8_a_restart_that_fails_is_tried_again_and_others_stay(how, processes):
    with closing(made(how, "reset", processes)) as env:
        env.reset(SEEDS + 20)
        env.step(ACTIONS)
        with pytest.warns(RuntimeWarning, match="slot 1: .*it is tried again"):
            now = seen(env.restart(ONE, SEEDS))
        assert now[0] == [24, 1]
        assert now[2] == [29, 1]
        assert now[1][1] == 0
        step = env.step(ACTIONS)
        # Slot 2 shared the process that hung: it says so in the next step.
        assert [*step.faults] == ([2] if processes else [])
        if processes:
            assert "slot 2: lost with slot 1 of the same process: hung in reset" in step.faults[2]
        assert env.failures == 1


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def ticking(how, verb):
    clock = Clock()
    slots = Slots(lambda: faulty.Faulty(how, verb), "Faulty-v0", SLOTS)
    return VectorEnv(slots, "Faulty-v0", clock=clock), clock


@pytest.mark.parametrize(("every", "ends"), [(60.0, True), (60.1, False)])
@pytest.mark.parametrize("how", ["raises", "nan", "inf", "shape"])
def test_r8_more_than_ten_failures_in_ten_minutes_end_the_run(how, every, ends):
    env, clock = ticking(how, "step")
    env.reset(SEEDS)
    for failure in range(1, 30):
        env.step(ACTIONS)
        env.step(ACTIONS)
        if ends and failure == LIMIT + 1:
            with pytest.raises(EnvError) as caught:
                env.step(ACTIONS)
            assert re.fullmatch(
                "environment Faulty-v0, slot 1: "
                + IN_STEP[how]
                + "; that is failure 11 within 10 minutes and 10 are borne: mend the environment",
                str(caught.value),
            )
            return
        assert [*env.step(ACTIONS).faults] == [1]
        assert env.failures == failure
        env.restart(np.ones(3, bool), SEEDS)
        clock.now += every
    assert not ends


def test_r8_an_environment_that_never_begins_ends_the_run():
    class Never(faulty.Faulty):
        def _seen(self, verb):
            self.seed = 7
            return super()._seen(verb)

    for every in (0.0, 100.0):  # also where failures are so slow that they are never many
        clock = Clock()

        def late(clock=clock, every=every):
            clock.now += every
            return Never("raises", "reset")

        env = VectorEnv(Slots(late, "Never-v0", 1), "Never-v0", clock=clock)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with pytest.raises(EnvError, match=r"slot 0: reset raised OSError: .*mend the env"):
                env.reset(np.array([1]))
        assert env.failures == LIMIT + 1
        assert len(told) == 3
        assert str(told[-1].message).endswith("another seed. More of these are only counted")


class UnsaidError(Exception):
    def __str__(self):
        raise ValueError("not even that")


def misbehaving(act):
    """One environment whose second step is `act`; its fault in that step."""

    class Acting(faulty.Faulty):
        def _misbehave(self):
            act()

    env = VectorEnv(Slots(lambda: Acting("", "step"), "S-v0", 1), "S-v0")
    env.reset(np.array([7]))
    for _ in range(3):
        faults = env.step(np.array([1])).faults
        if faults:
            return faults[0]
    raise AssertionError("it did not misbehave")


def test_an_error_that_cannot_say_what_it_is_is_a_fault_like_others():
    def act():
        raise UnsaidError

    assert "step raised UnsaidError: and saying what, ValueError (" in misbehaving(act)


def test_a_process_that_an_environment_forks_does_not_train_on():
    """Its child ends where it leaves the environment's call, whatever it raises."""
    children = []

    def act():
        child = os.fork()
        if child == 0:
            sys.exit(0)  # which we take for a fault of the environment, and only that
        children.append(child)
        raise OSError("the parent's")

    assert "OSError: the parent's" in misbehaving(act)
    assert os.waitpid(children[0], 0)[1] == 1 << 8


def test_r8_each_trial_of_a_reset_has_a_seed_of_its_own():
    tried = []

    class Seldom(faulty.Faulty):
        def reset(self, *, seed=None, options=None):
            tried.append(seed)
            if len(tried) < 5:
                raise OSError
            return super().reset(seed=seed, options=options)

    env = VectorEnv(Slots(Seldom, "Seldom-v0", 1), "Seldom-v0")
    with pytest.warns(RuntimeWarning, match="tried again with another seed"):
        env.reset(np.array([3]))
    assert len(set(tried)) == len(tried) == 5


def test_an_interrupt_and_want_of_memory_are_nobodys_fault():
    for error in (KeyboardInterrupt, MemoryError):
        for verb in ("step", "reset"):

            class Stop(faulty.Faulty):
                def _misbehave(self, error=error):
                    raise error

            env = VectorEnv(Slots(lambda kind=Stop, v=verb: kind("", v), "S-v0", 1), "S-v0")
            with pytest.raises(error):  # noqa: PT012
                env.reset(np.array([7]))
                for _ in range(3):
                    env.step(np.array([1]))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"reward": None}, "reward is None, a number was wanted (from step): mend its step"),
        ({"reward": "much"}, "reward is 'much', a number was wanted"),
        ({"reward": np.zeros(2)}, "reward is array([0., 0.]), a number was wanted"),
        ({"reward": float("nan")}, "reward is nan, a finite number was wanted"),
        ({"reward": 1e300}, "reward is inf, a finite number was wanted"),
        ({"terminated": None}, "terminated is None, True or False was wanted"),
        ({"truncated": "no"}, "truncated is 'no', True or False was wanted"),
        ({"truncated": [1, 2]}, "truncated is a list of 2, True or False was wanted"),
        ({"cut": True}, "step gave a tuple of 3, (observation, reward, terminated, truncated, "),
        ({"observation": {"a": 1}}, "observation 'observation' has shape (), its space says (2,)"),
        ({"observation": None}, "observation 'observation' has shape (), its space says (2,)"),
        ({"observation": [[1], [1, 2]]}, "step raised ValueError: setting an array element"),
    ],
)
def test_what_an_environment_gives_wrong_is_named(what, said):
    env = VectorEnv(Slots(lambda: faulty.Odd(what), "Odd-v0", 2), "Odd-v0")
    env.reset(np.arange(2))
    assert not env.step(np.zeros(2, int)).faults
    faults = env.step(np.zeros(2, int)).faults
    assert [*faults] == [0, 1]
    assert faults[0].startswith(f"environment Odd-v0, slot 0: {said}"), faults[0]


@pytest.mark.parametrize(
    "what",
    [
        {"reward": 1},
        {"reward": np.float32(1)},
        {"terminated": np.False_, "truncated": 0},
        {"terminated": np.array(False)},
        {"observation": [1, 2]},
        {"observation": np.ones(2, np.float64)},
    ],
)
def test_what_means_the_same_is_taken(what):
    env = VectorEnv(Slots(lambda: faulty.Odd(what), "Odd-v0", 1), "Odd-v0")
    env.reset(np.arange(1))
    for _ in range(2):
        step = env.step(np.zeros(1, int))
    assert not step.faults
    assert step.reward[0] == what.get("reward", 0)
    assert not step.terminated[0]


@pytest.mark.parametrize("given", [np.zeros(2), (1, 2, 3), None])
def test_a_reset_of_another_form_is_named(given):
    env = VectorEnv(Slots(lambda: faulty.Odd({"reset": given}), "Odd-v0", 1), "Odd-v0")
    with (
        pytest.warns(RuntimeWarning, match=r"slot 0: reset gave .*\(observation, info\) was want"),
        pytest.raises(EnvError, match="reset gave"),
    ):
        env.reset(np.arange(1))


def test_a_slot_whose_environment_is_gone_must_be_restarted():
    env = made("raises", "step", 0)
    env.reset(SEEDS)
    for _ in range(3):
        env.step(ACTIONS)
    with pytest.raises(RuntimeError, match=r"slots \[1\] are over: call restart"):
        env.step(ACTIONS)


def test_an_environment_that_failed_is_closed_and_made_anew():
    made_and_closed = []

    class Told(faulty.Faulty):
        def __init__(self):
            made_and_closed.append("made")
            super().__init__("raises")

        def close(self):
            made_and_closed.append("closed")
            raise OSError("cannot even be closed")

    env = VectorEnv(Slots(Told, "Told-v0", 2), "Told-v0")
    env.reset(np.array([7, 1]))
    for _ in range(3):
        env.step(np.zeros(2, int))
    assert made_and_closed == ["made", "made", "closed"]
    env.restart(np.array([True, False]), np.array([3, 3]))
    assert made_and_closed == ["made", "made", "closed", "made"]
    env.close()
    assert made_and_closed[4:] == ["closed", "closed"]


def test_an_environment_that_cannot_be_made_anew_is_a_failure_of_its_reset():
    count = [0]

    def once():
        count[0] += 1
        if count[0] > 1:
            raise OSError("no display")
        return faulty.Faulty("raises")

    env = VectorEnv(Slots(once, "F-v0", 1), "F-v0")
    env.reset(np.array([7]))
    for _ in range(3):
        env.step(np.zeros(1, int))
    with (
        pytest.warns(RuntimeWarning, match="slot 0: construction raised OSError: no display"),
        pytest.raises(EnvError, match="slot 0: construction raised OSError: no display"),
    ):
        env.restart(np.array([True]), np.array([1]))


def test_environments_of_different_spaces_are_refused():
    class Grows(faulty.Faulty):
        made = 0

        def __init__(self):
            super().__init__()
            Grows.made += 1
            self.action_space = faulty.spaces.Discrete(Grows.made)

    with pytest.raises(EnvError, match=r"slot 1: its action space is Discrete\(2\), slot 0 has"):
        Slots(Grows, "Grows-v0", 2)
