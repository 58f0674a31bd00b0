"""Episodes are put back by living them again, or it is said why not."""

from __future__ import annotations

import copy
import re
from contextlib import closing

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recollect.envs import journal
from recollect.envs.journal import Journal
from recollect.envs.registry import make, wrap
from recollect.envs.slots import Slots
from recollect.envs.vector import VectorEnv
from tests.envs import faulty

REACH = "tests.envs.faulty:tests/Reach-v0"
PONG = "ale_py:ALE/Pong-v5"
KINDS = {
    "recollect/PositionCartPole-v0": {},
    "recollect/Recall-v0": {"delay": 4, "trials": 9},
    "recollect/TMaze-v0": {"length": 6},
    "CartPole-v1": {},
    REACH: {},
    PONG: {"obs_type": "ram", "repeat_action_probability": 0.25},
}


class Player:
    """Plays by its own random numbers, and begins episodes that ended."""

    def __init__(self, slots, seed=0):
        self.rng, self.slots, self.episodes = np.random.default_rng(seed), slots, 0

    def begin(self, env):
        env.reset(np.arange(self.slots))

    def play(self, env, steps):
        said = []
        spec = env.spec.action
        for _ in range(steps):
            if spec.discrete:
                actions = self.rng.integers(0, spec.num_actions, self.slots)
            else:
                actions = self.rng.uniform(-1, 1, (self.slots, *spec.shape)).astype(np.float32)
            step = env.step(actions)
            assert not step.faults
            said.append([a.tobytes() for a in (step.reward, step.terminated, step.truncated)])
            said.append({key: array.tobytes() for key, array in step.observation.items()})
            ended = step.terminated | step.truncated
            if ended.any():
                self.episodes += 1
                env.restart(ended, np.arange(self.slots) + 1000 * self.episodes)
        return said


def frozen(state):
    """The same without anything shared, and whether it is made of what may be saved."""
    if isinstance(state, dict):
        return {key: frozen(value) for key, value in state.items()}
    assert isinstance(state, (np.ndarray, str, int, bool))
    return copy.deepcopy(state)


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


@pytest.mark.parametrize(
    ("env_id", "stop"),
    [
        *((env_id, stop) for env_id in KINDS if env_id != PONG for stop in (0, 1, 23, 150)),
        (PONG, 61),
    ],
)
def test_c4_put_back_anywhere_it_goes_on_bit_for_bit(env_id, stop):
    """C4: the 300 steps after it are what they would have been."""
    if env_id == PONG:
        pytest.importorskip("ale_py")
    put_back(env_id, stop, 0, 0)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 3)])
def test_c4_put_back_in_processes_too(before, after):
    put_back(REACH, 37, before, after)


def put_back(env_id, stop, before, after):
    slots, player = 3, Player(3)
    with closing(make(env_id, slots, KINDS[env_id], processes=before)) as env:
        player.begin(env)
        player.play(env, stop)
        state = env.state_dict()
        saved, other = frozen(state), copy.deepcopy(player)
        seen = {key: array.tobytes() for key, array in env.observation.items()}
        wanted = player.play(env, 300)
    assert same(state, saved), "the state is a snapshot"
    with closing(make(env_id, slots, KINDS[env_id], processes=after)) as env:
        assert env.load_state_dict(saved) == {}
        assert {key: array.tobytes() for key, array in env.observation.items()} == seen
        assert same(env.state_dict(), saved)
        assert other.play(env, 300) == wanted


def test_what_was_never_reset_comes_back_as_such():
    env, fresh = make("CartPole-v1", 2), make("CartPole-v1", 2)
    assert env.observation == {}
    assert fresh.load_state_dict(frozen(env.state_dict())) == {}
    assert fresh.observation == {}
    with pytest.raises(RuntimeError, match="step came before reset"):
        fresh.step(np.zeros(2, int))
    fresh.reset(np.arange(2))


def test_a_vector_in_use_can_be_put_back_and_counts_failures_on():
    env = make("recollect/Recall-v0", 2, {"delay": 9})
    env.reset(np.arange(2))
    env.step(np.array([0, 1]))
    env.step(np.array([0, 9]))  # slot 1 fails
    state = env.state_dict()
    assert state["ended"].tolist() == [False, True]
    env.restart(np.array([False, True]), np.arange(2))
    env.step(np.array([0, 9]))
    assert env.failures == 2
    assert env.load_state_dict(state) == {}
    assert env.failures == 1
    with pytest.raises(RuntimeError, match=r"slots \[1\] are over: call restart"):
        env.step(np.zeros(2, int))
    env.restart(np.array([False, True]), np.arange(2))
    assert not env.step(np.zeros(2, int)).faults


def test_a_seed_that_was_tried_instead_is_the_one_remembered():
    env = VectorEnv(Slots(lambda: faulty.Faulty("nan", "reset"), "F-v0", 2), "F-v0")
    with pytest.warns(RuntimeWarning, match="tried again"):
        env.reset(np.array([1, 7]))
    state = env.state_dict()
    fresh = VectorEnv(Slots(lambda: faulty.Faulty("nan", "reset"), "F-v0", 2), "F-v0")
    assert fresh.load_state_dict(state) == {}
    np.testing.assert_array_equal(fresh.observation["observation"], env.observation["observation"])


def wild(what):
    return VectorEnv(Slots(lambda: faulty.Wild(what), "Wild-v0", 3), "Wild-v0")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "observation",
            "repeating the 6 steps since its reset led to another observation 'observation': it "
            "does not do the same from the same seed",
        ),
        ("reward", r"repeating the 6 steps since its reset earned [\d.]+ and not [\d.]+: it does"),
        (
            "end",
            "repeating the 6 steps since its reset: its episode ended at step 4, 6 had been taken",
        ),
        (
            "cut",
            "repeating the 6 steps since its reset: its episode ended at step 4, 6 had been taken",
        ),
    ],
)
def test_what_does_not_come_out_the_same_is_said(what, said, monkeypatch):
    env = wild(what)
    env.reset(np.arange(3))
    for _ in range(2):
        env.step(np.zeros(3, int))
    env.restart(np.array([True, False, True]), np.arange(3))
    for _ in range(6):
        env.step(np.zeros(3, int))
    env.restart(np.array([False, True, False]), np.arange(3))
    state = env.state_dict()
    assert state["journal"]["steps"].tolist() == [6, 0, 6]
    monkeypatch.setattr(faulty, "ENDS_EARLY", [True])
    fresh = wild(what)
    reasons = fresh.load_state_dict(state)
    assert [*reasons] == [0, 2]
    assert re.match("environment Wild-v0, slot 0: " + said, reasons[0]), reasons[0]
    np.testing.assert_array_equal(
        fresh.observation["observation"], state["observation"]["observation"]
    )
    with pytest.raises(RuntimeError, match=r"slots \[0, 2\] are over: call restart"):
        fresh.step(np.zeros(3, int))
    now = fresh.restart(np.array([True, False, True]), np.arange(3))["observation"]
    assert now[[0, 2]].tolist() == [[0], [0]]
    assert not fresh.step(np.zeros(3, int)).faults


def test_what_fails_in_being_put_back_is_said():
    state = {}
    for how in ("", "raises"):
        env = VectorEnv(Slots(lambda how=how: faulty.Faulty(how), "F-v0", 2), "F-v0")
        if how:
            reasons = env.load_state_dict(state)
            assert [*reasons] == [1]
            said = "slot 1: repeating the 4 steps since its reset: step raised OSError: the engine"
            assert said in reasons[1]
            assert env.failures == 0
            env.restart(np.array([False, True]), np.arange(2))
            assert not env.step(np.zeros(2, int)).faults
        else:
            env.reset(np.array([1, 7]))
            for _ in range(4):
                env.step(np.zeros(2, int))
            state = env.state_dict()


def test_a_process_that_hangs_in_it_is_killed_but_not_one_that_is_merely_long():
    """R8: the deadline is for a call, however long the whole takes."""
    with closing(make(faulty.ID, 3)) as env:
        env.reset(np.array([1, 7, 2]))
        for _ in range(4):
            env.step(np.zeros(3, int))
        state = env.state_dict()
    kwargs = {"how": "hangs"}
    with closing(make(faulty.ID, 3, kwargs, processes=2, deadline=0.4)) as env:
        reasons = env.load_state_dict(state)
        assert sorted(reasons) == [1, 2]
        assert "slot 1: repeating the 4 steps since its reset: hung in replay for" in reasons[1]
        assert "lost with slot 1 of the same process: hung in replay" in reasons[2]
        env.restart(np.array([False, True, True]), np.arange(3))
        assert not env.step(np.zeros(3, int)).faults
    with closing(make("tests.envs.faulty:tests/Slow-v0", 1, processes=1, deadline=0.4)) as env:
        env.reset(np.arange(1))
        for _ in range(8):
            assert not env.step(np.zeros(1, int)).faults
        assert env.load_state_dict(env.state_dict()) == {}


def test_episodes_past_the_journal_are_reported_and_others_put_back(monkeypatch):
    monkeypatch.setattr(journal, "JOURNAL_STEPS", 100)
    env, fresh = wild("none"), wild("none")
    env.reset(np.arange(3))
    for t in range(1000):
        env.step(np.full(3, t % 2))
        if t == 899:
            env.restart(np.array([False, True, False]), np.arange(3))
        if t == 898:
            env.restart(np.array([False, False, True]), np.arange(3))
    state = env.state_dict()
    assert state["journal"]["steps"].tolist() == [-1, 100, -1]
    assert len(env._journal._rows) <= 256
    said = "its episode has more than 100 steps, the most that are remembered"
    assert fresh.load_state_dict(state) == {
        slot: f"environment Wild-v0, slot {slot}: {said}" for slot in (0, 2)
    }
    assert fresh.state_dict()["journal"]["steps"].tolist() == [-1, 100, -1]


def test_the_journal_keeps_every_slots_actions_as_a_list_does():
    rng = np.random.default_rng(0)
    kept = Journal(3, faulty.Faulty.action_space)
    assert kept._rows.dtype == np.int8
    lists = [[], [], []]
    kept.begin(np.ones(3, bool), np.arange(3))
    for _ in range(2000):
        actions = rng.integers(-1, 2, 3)
        kept.add(actions)
        for own, action in zip(lists, actions.tolist(), strict=True):
            own.append(action)
        mask = rng.random(3) < (0.05, 0.01, 0.002)
        kept.begin(mask, np.arange(3))
        for slot in np.flatnonzero(mask):
            lists[slot] = []
        assert [kept.actions(slot).tolist() for slot in range(3)] == lists
    other = Journal(3, faulty.Faulty.action_space)
    other.load_state_dict(kept.state_dict())
    for _ in range(300):
        other.add(np.array([1, 0, -1]))
    assert [other.actions(s).tolist() for s in range(3)] == [
        own + [action] * 300 for own, action in zip(lists, (1, 0, -1), strict=True)
    ]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("masked", [True, False])
def test_vectors_made_elsewhere_say_that_they_cannot(mode, masked):
    def one():
        vector = SyncVectorEnv([lambda: faulty.Faulty()] * 2, autoreset_mode=mode)
        return wrap(vector, "F-v0", masked_reset=masked)

    env, fresh = one(), one()
    env.reset(np.array([3, 4]))
    env.step(np.zeros(2, int))
    reasons = fresh.load_state_dict(env.state_dict())
    why = "a vector environment made elsewhere can neither save nor repeat an episode"
    assert reasons == {slot: f"environment F-v0, slot {slot}: {why}" for slot in range(2)}
    assert fresh.observation["observation"].tolist() == [[3, 1], [4, 1]]
    with pytest.raises(RuntimeError, match=r"slots \[0, 1\] are over"):
        fresh.step(np.zeros(2, int))
    with pytest.raises(RuntimeError, match="could be put back: restart all slots at once"):
        fresh.restart(np.array([True, False]), np.arange(2))
    now = fresh.restart(np.ones(2, bool), np.array([5, 6]))
    assert now["observation"].tolist() == [[5, 0], [6, 0]]
    assert fresh.step(np.zeros(2, int)).valid.all()


BAD = [
    (("num_envs",), 3, "have 3 slots, 2 were wanted"),
    (("num_envs",), True, "have True slots"),
    (("failures",), -1, "failures -1"),
    (("started",), 1, "started 1"),
    (("observation",), None, "saved 'observation' of environments is NoneType, a dict was wanted"),
    (("observation", "observation"), "drop", "'observation' of environments is missing"),
    (("observation", "observation"), np.zeros((2, 3), np.float32), r"\(2, 3\), an array float32"),
    (("observation", "observation"), np.zeros((2, 2)), "is float64 of shape"),
    (("ended",), np.zeros(2), "'ended' .* is float64"),
    (("journal",), "drop", "saved 'journal' of environments is missing"),
    (("journal", "seeds"), np.array([1, -1]), "saved seeds go down to -1"),
    (("journal", "rewards"), np.zeros(1), "'rewards'"),
    (("journal", "steps"), np.array([3, 4]), r"'actions' .* int8 of shape \(6,\), .* \(7,\) was"),
    (("journal", "steps"), np.array([3, -2]), "saved steps go from -2 to 3, -1 to 200000"),
    (("journal", "steps"), np.array([1 << 62, 1 << 62]), "saved steps go from"),
    (("journal", "actions"), np.zeros(6), "'actions' .* float64"),
    (("journal", "actions"), [0] * 6, "'actions' of environments is list"),
]


@pytest.mark.parametrize(("path", "value", "said"), BAD)
def test_c3_states_of_another_form_are_refused(path, value, said):
    """C3: nothing of them is used."""
    env = VectorEnv(Slots(faulty.Faulty, "F-v0", 2), "F-v0")
    env.reset(np.arange(2))
    for _ in range(3):
        env.step(np.zeros(2, int))
    state = env.state_dict()
    place = state
    for step in path[:-1]:
        place = place[step]
    if isinstance(value, str):
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(ValueError, match=said):
        env.load_state_dict(state)
    assert not env.step(np.zeros(2, int)).faults
