"""One experience, whatever the auto-reset mode, the number of slots and who resets."""

from __future__ import annotations

import functools
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from recollect.envs.registry import wrap
from recollect.envs.slots import Slots
from recollect.envs.vector import VectorEnv
from recollect.types import ConfigError, NotFiniteError

DISABLED, SAME_STEP, NEXT_STEP = (
    AutoresetMode.DISABLED,
    AutoresetMode.SAME_STEP,
    AutoresetMode.NEXT_STEP,
)
MODES = [DISABLED, SAME_STEP, NEXT_STEP]


class Drift(gym.Env):
    """A number that wanders by chance and by action; ends beyond 2, is cut after `limit` steps."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, limit=7, nested=False):
        self.limit = limit
        self.nested = nested
        box = spaces.Box(-99, 99, (2,), np.float32)
        self.observation_space = (
            spaces.Dict({"x": box, "in": spaces.Tuple([spaces.Discrete(99)])}) if nested else box
        )

    def _seen(self):
        seen = np.array([self.x, self.np_random.normal()], np.float32)
        return {"x": seen, "in": (self.t,)} if self.nested else seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal() / 4, 0
        return self._seen(), {}

    def step(self, action):
        self.x += action / 2 + self.np_random.normal() / 2
        self.t += 1
        return self._seen(), self.x / 3, bool(abs(self.x) > 2), self.t >= self.limit, {"t": self.t}


class Native(gym.vector.VectorEnv):
    """A vector environment that resets itself and knows no masks; it reuses its arrays."""

    def __init__(self, env_fns, mode, final="objects", seed="list", first=None):
        self.inner = SyncVectorEnv(env_fns, copy=False, autoreset_mode=mode)
        self.num_envs = self.inner.num_envs
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = self.inner.single_observation_space
        self.single_action_space = self.inner.single_action_space
        self.final, self.takes = final, seed

    def reset(self, *, seed=None, options=None):
        assert not options
        takes = {"list": list, "array": np.ndarray, "one": int}[self.takes]
        if not isinstance(seed, takes):
            raise TypeError(f"a seed is a {takes}")
        return self.inner.reset(seed=seed if takes is int else [int(s) for s in seed])

    def step(self, actions):
        *step, info = self.inner.step(actions)
        if "final_obs" in info and self.final == "batch":
            space, first = self.single_observation_space, step[0]
            rows = [
                last if last is not None else space.sample() for last in info["final_obs"]
            ]  # rows of slots that go on mean nothing
            info = {"final_obs": concatenate(space, rows, create_empty_array(space, len(rows)))}
            assert first is step[0]
        elif self.final == "none":
            info = {}
        return *step, info


def act(observation):
    """Actions from the observation alone."""
    seen = observation.get("x", observation.get("observation"))
    return (np.abs(seen[:, 0] * 1000).astype(np.int64) + (seen[:, 1] > 0)) % 3


def frozen(observation):
    return {key: array.tobytes() for key, array in observation.items()}


def record(env, steps, first_slot=0, restart_seeds=True):
    """By slot: every valid step as (observation, action, reward, flags, next observation).

    Seeds depend on slot and episode alone.
    """
    slots = np.arange(first_slot, first_slot + env.num_envs)
    episodes = np.zeros(env.num_envs, np.int64)
    observation = env.reset(1000 * slots + episodes)
    trails = [[] for _ in slots]
    handed_out = []
    for _ in range(steps):
        actions = act(observation)
        step = env.step(actions)
        for i, trail in enumerate(trails):
            row = [
                {k: v[i].tobytes() for k, v in o.items()} for o in (observation, step.observation)
            ]
            flags = (bool(step.terminated[i]), bool(step.truncated[i]))
            if step.valid[i]:
                trail.append((row[0], int(actions[i]), step.reward[i].tobytes(), flags, row[1]))
            else:
                assert flags == (False, False)
                assert step.reward[i] == 0
        assert not step.faults
        arrays = [step.reward, step.terminated, step.truncated, step.valid]
        handed_out.append(
            [(a, a.tobytes()) for a in [*arrays, *step.observation.values(), *observation.values()]]
        )
        observation = step.observation
        ended = step.terminated | step.truncated
        if ended.any():
            episodes += ended
            observation = env.restart(ended, 1000 * slots + episodes)
    for arrays in handed_out:
        assert all(array.tobytes() == then for array, then in arrays), "a handed out array changed"
    env.close()
    return trails


def by_hand(slot, steps, nested=False):
    """The same by one environment and a plain loop."""
    env, episode, trail = Drift(nested=nested), 0, []

    def rows(seen):
        if not nested:
            return {"observation": np.asarray(seen)[None]}
        return {"x": seen["x"][None], "in/0": np.eye(99, dtype=np.float32)[[seen["in"][0]]]}

    observation = rows(env.reset(seed=1000 * slot)[0])
    for _ in range(steps):
        action = act(observation)
        seen, reward, terminated, truncated, _ = env.step(int(action[0]) - 1)
        then = rows(seen)
        trail.append(
            (
                {k: v[0].tobytes() for k, v in observation.items()},
                int(action[0]),
                np.float32(reward).tobytes(),
                (terminated, truncated),
                {k: v[0].tobytes() for k, v in then.items()},
            )
        )
        observation = then
        if terminated or truncated:
            episode += 1
            observation = rows(env.reset(seed=1000 * slot + episode)[0])
    return trail


def drifts(count, nested=False):
    return [functools.partial(Drift, nested=nested)] * count


def sync(mode, count=4, nested=False, **kwargs):
    return wrap(SyncVectorEnv(drifts(count, nested), autoreset_mode=mode, **kwargs), "Drift-v0")


def native(mode, count=4, nested=False, **kwargs):
    return wrap(Native(drifts(count, nested), mode, **kwargs), "Drift-v0")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_trap_18_experience_is_the_same_in_every_autoreset_mode(mode, copy, nested):
    """Trap 18: bit for bit what single environments and a plain loop give, closings included."""
    trails = record(sync(mode, nested=nested, copy=copy), 60)
    assert trails == [by_hand(slot, 60, nested) for slot in range(4)]
    ends = [flags for trail in trails for *_, flags, _ in trail if any(flags)]
    assert {(True, False), (False, True)} <= set(ends)  # both kinds were seen


@pytest.mark.parametrize("mode", MODES)
def test_trap_18_worker_processes_give_the_same_too(mode):
    """Trap 18, with Gymnasium's AsyncVectorEnv."""
    env = wrap(AsyncVectorEnv(drifts(2), autoreset_mode=mode), "Drift-v0")
    assert record(env, 30) == [by_hand(slot, 30) for slot in range(2)]


@pytest.mark.parametrize("mode", [DISABLED, SAME_STEP])
def test_trap_18_worker_processes_without_shared_memory_too(mode):
    """Trap 18, where observations come through pipes."""
    env = wrap(AsyncVectorEnv(drifts(2), autoreset_mode=mode, shared_memory=False), "Drift-v0")
    assert record(env, 30) == [by_hand(slot, 30) for slot in range(2)]


def test_worker_processes_that_would_reset_twice_are_refused():
    env = AsyncVectorEnv(drifts(1), autoreset_mode=NEXT_STEP, shared_memory=False)
    with pytest.raises(ConfigError, match="resets twice in NEXT_STEP mode: share its memory"):
        wrap(env, "Drift-v0")
    env.close()


@pytest.mark.parametrize("nested", [False, True])
def test_trap_18_environments_that_reset_themselves_agree(nested):
    """Trap 18: SAME_STEP in both forms of final_obs, and NEXT_STEP without its reset steps."""
    objects = record(native(SAME_STEP, nested=nested), 60)
    batch = record(native(SAME_STEP, nested=nested, final="batch"), 60)
    late = record(native(NEXT_STEP, nested=nested), 60)
    assert objects == batch
    for slot, trail in enumerate(late):
        episodes = sum(any(flags) for *_, flags, _ in objects[slot][: len(trail)])
        assert len(trail) == 60 - episodes or len(trail) == 60 - episodes + 1
        assert trail == objects[slot][: len(trail)]
    # Their first episodes are seeded as ours are.
    for slot, trail in enumerate(objects):
        length = next(i for i, (*_, flags, _) in enumerate(trail) if any(flags)) + 1
        assert trail[:length] == by_hand(slot, length, nested)


@pytest.mark.parametrize("mode", MODES)
def test_slots_spread_over_two_vectors_give_the_same_experience(mode):
    together = record(sync(mode, 4), 40)
    assert record(sync(mode, 2), 40) + record(sync(mode, 2), 40, first_slot=2) == together


def test_next_step_resets_come_out_as_steps_that_are_not_valid():
    env = wrap(
        Native([functools.partial(Drift, 1), functools.partial(Drift, 3)], NEXT_STEP), "D-v0"
    )
    env.reset(np.arange(2))
    seen = []
    for _ in range(4):
        step = env.step(np.array([1, 1]))
        ended = step.terminated | step.truncated
        seen.append((step.valid.tolist(), ended.tolist()))
        if ended.any():
            assert frozen(env.restart(ended, np.arange(2))) == frozen(step.observation)
    assert seen == [
        ([True, True], [True, False]),
        ([False, True], [False, False]),
        ([True, True], [True, True]),
        ([False, False], [False, False]),
    ]


def test_restart_leaves_other_slots_as_they_are():
    for env in (sync(DISABLED, 3), sync(SAME_STEP, 3), sync(NEXT_STEP, 3), native(SAME_STEP, 3)):
        env.reset(np.arange(3))
        while True:
            step = env.step(np.array([1, 1, 1]))
            ended = step.terminated | step.truncated
            if ended.any():
                break
        now = env.restart(ended, np.arange(3) + 70)
        for before, after in zip(step.observation.values(), now.values(), strict=True):
            np.testing.assert_array_equal(before[~ended], after[~ended])
            assert (before[ended] != after[ended]).any(1).all()
        env.close()


def test_slots_that_ended_together_may_be_restarted_one_after_the_other():
    for mode in MODES:
        env = wrap(SyncVectorEnv([lambda: Drift(1)] * 3, autoreset_mode=mode), "Drift-v0")
        env.reset(np.arange(3))
        closing = env.step(np.array([1, 1, 1])).observation["observation"]
        first = env.restart(np.array([False, True, False]), np.arange(3))["observation"]
        np.testing.assert_array_equal(first[[0, 2]], closing[[0, 2]])
        with pytest.raises(RuntimeError, match=r"slots \[0, 2\] are over: call restart"):
            env.step(np.array([1, 1, 1]))
        both = env.restart(np.array([True, False, True]), np.arange(3))["observation"]
        np.testing.assert_array_equal(both[1], first[1])
        for slot in range(3):
            np.testing.assert_array_equal(both[slot], Drift().reset(seed=slot)[0])


def test_a_running_slot_may_be_restarted_where_masks_are_known():
    for mode in MODES:
        env = sync(mode, 3)
        env.reset(np.arange(3))
        step = env.step(np.array([1, 1, 1]))
        now = env.restart(np.array([False, False, True]), np.array([0, 0, 5]))["observation"]
        np.testing.assert_array_equal(now[2], Drift().reset(seed=5)[0])
        np.testing.assert_array_equal(now[:2], step.observation["observation"][:2])
    env = native(SAME_STEP, 3)
    env.reset(np.arange(3))
    env.step(np.array([1, 1, 1]))
    with pytest.raises(RuntimeError, match=r"slots \[2\] go on"):
        env.restart(np.array([False, False, True]), np.arange(3))


def test_a_second_reset_forgets_what_was_under_way():
    for env in (sync(DISABLED), sync(SAME_STEP), sync(NEXT_STEP), native(SAME_STEP)):
        once = record_open(env, 9)
        assert record_open(env, 9) == once
    env = native(NEXT_STEP)
    env.reset(np.arange(4))
    while not (step := env.step(np.full(4, 2))).terminated.any():
        assert step.valid.all()
        if step.truncated.any():
            break
    env.restart(step.terminated | step.truncated, np.arange(4))
    env.reset(np.arange(4))
    assert env.step(np.full(4, 2)).valid.all()


def record_open(env, steps):
    """Observations of some steps from a reset, the last of which may end slots."""
    trail = [frozen(env.reset(np.arange(env.num_envs)))]
    for t in range(steps):
        step = env.step(np.full(env.num_envs, 2))
        trail.append(frozen(step.observation))
        ended = step.terminated | step.truncated
        if ended.any() and t < steps - 1:
            env.restart(ended, np.arange(env.num_envs))
    return trail


@pytest.mark.parametrize("seed", ["list", "array", "one"])
def test_native_vectors_get_their_seeds_in_the_form_they_take(seed):
    env = native(SAME_STEP, 3, seed=seed)
    first = env.reset(np.array([5, 8, 2]))["observation"]
    given = [5, 6, 7] if seed == "one" else [5, 8, 2]
    for slot, number in enumerate(given):
        np.testing.assert_array_equal(first[slot], Drift().reset(seed=number)[0])


def test_gymnasiums_own_cart_pole_vector_resets_in_the_next_step():
    env = wrap(CartPoleVectorEnv(3, max_episode_steps=6), "CartPole-v1")
    assert env.spec.max_episode_steps == 6
    first = env.reset(np.array([3, 1, 2]))
    assert frozen(first) == frozen(env.reset(np.array([3, 7, 7])))  # it knows one seed
    for _ in range(6):
        step = env.step(np.array([0, 1, 0]))
    assert step.truncated.all()
    assert step.valid.all()
    env.restart(step.truncated, np.arange(3))
    step = env.step(np.array([0, 1, 0]))
    assert not step.valid.any()
    assert (np.abs(step.observation["observation"]) <= 0.05).all()
    assert not step.reward.any()


class Scripted(gym.Env):
    """Counts its steps; at step `at` gives `value` where `field` says, then ends at step 3."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(-9, 9, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, field="", at=0, value=np.nan, episode=0):
        self.script = (field, episode, at)
        self.value = value
        self.episode = -1

    def _seen(self):
        seen = np.array([self.t, self.episode], np.float64)
        if self.script == ("observation", self.episode, self.t):
            seen[1] = self.value
        return seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.episode = self.episode + 1 if seed is None else seed
        return self._seen(), {}

    def step(self, action):
        self.t += 1
        reward = self.value if self.script == ("reward", self.episode, self.t) else 1.0
        return self._seen(), reward, self.t == 3, False, {}


def scripted(mode, kind=SyncVectorEnv, slot=1, **script):
    fns = [functools.partial(Scripted, **(script if i == slot else {})) for i in range(3)]
    env = Native(fns, mode) if kind is Native else SyncVectorEnv(fns, autoreset_mode=mode)
    return wrap(env, "Scripted-v0")


A = np.zeros(3, np.int64)
ALL = np.ones(3, np.bool_)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(SyncVectorEnv, mode) for mode in MODES] + [(Native, SAME_STEP), (Native, NEXT_STEP)],
)
@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize(
    ("field", "name"), [("observation", r"'observation'\[1\]"), ("reward", "reward")]
)
def test_what_is_not_finite_is_named(mode, kind, field, name, at, value):
    """R8: environment, slot, field and value; closing observations (at 3) too."""
    env = scripted(mode, kind, field=field, at=at, value=value)
    env.reset(np.zeros(3, np.int64))
    for t in (1, 2, 3):
        step = env.step(A)
        if t == at:
            assert list(step.faults) == [1]
            shown = "inf" if value == 1e300 else str(value)
            assert step.faults[1].startswith("environment Scripted-v0, slot 1: ")
            assert f"is {shown}, a finite number was wanted" in step.faults[1]
            assert name.replace("\\", "") in step.faults[1]
        else:
            assert step.faults == {}


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_that_is_not_finite_names_environment_and_slot(mode):
    env = scripted(mode, field="observation", at=0, episode=0, slot=2)
    with pytest.warns(
        RuntimeWarning, match=r"environment Scripted-v0, slot 2: .*\[1\] is nan.*tried again"
    ):
        first = env.reset(np.zeros(3, np.int64))["observation"]
    assert first[:2].tolist() == [[0, 0], [0, 0]]
    assert first[2, 1] > 0, "another seed"
    assert not env.step(A).faults
    assert env.failures == 1


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP])
def test_a_reset_that_is_not_finite_is_refused_where_single_slots_cannot_be_reset(mode):
    env = scripted(mode, Native, field="observation", at=0, episode=0, slot=2)
    with pytest.raises(
        NotFiniteError, match=r"environment Scripted-v0, slot 2: .*\[1\] is nan.*reset"
    ):
        env.reset(np.zeros(3, np.int64))
    with pytest.raises(RuntimeError, match="step came before reset"):
        env.step(A)
    env.reset(np.full(3, 4))
    assert not env.step(A).faults


@pytest.mark.parametrize("mode", MODES)
def test_a_restart_that_is_not_finite_names_environment_and_slot(mode):
    env = scripted(mode, field="observation", at=0, episode=5)
    env.reset(np.zeros(3, np.int64))
    for _ in range(3):
        step = env.step(A)
        assert not step.faults
    with pytest.warns(RuntimeWarning, match=r"Scripted-v0, slot 1: .*\[1\] is nan.*tried again"):
        first = env.restart(ALL, np.full(3, 5))["observation"]
    assert first[[0, 2]].tolist() == [[0, 5]] * 2
    assert first[1, 1] not in (0, 5)


def test_first_observations_of_native_resets_are_checked_where_they_are_handed_out():
    env = scripted(SAME_STEP, Native, field="observation", at=0, episode=1)
    env.reset(np.zeros(3, np.int64))
    for _ in range(3):
        step = env.step(A)
        assert not step.faults  # the closing observation is sound, though the reset's is not
    with pytest.raises(RuntimeError, match=r"slot 1: .*from restart"):
        env.restart(ALL, np.zeros(3, np.int64))

    env = scripted(NEXT_STEP, Native, field="observation", at=0, episode=1)
    env.reset(np.zeros(3, np.int64))
    for _ in range(3):
        step = env.step(A)
    env.restart(ALL, np.zeros(3, np.int64))
    step = env.step(A)
    assert not step.valid.any()
    assert list(step.faults) == [1]


def test_a_slot_at_fault_can_be_restarted_and_others_go_on():
    env = scripted(DISABLED, field="observation", at=2)
    env.reset(np.zeros(3, np.int64))
    env.step(A)
    assert list(env.step(A).faults) == [1]
    now = env.restart(np.array([False, True, False]), np.full(3, 8))["observation"]
    assert now.tolist() == [[2, 0], [0, 8], [2, 0]]
    step = env.step(A)
    assert not step.faults
    assert step.terminated.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (np.zeros(3), r"shape \(3,\), its space says \(2,\)"),
        (np.zeros(2, np.complex64), "dtype complex64, its space says float64"),
        (None, "shape"),
    ],
)
def test_an_observation_that_does_not_fit_its_space_is_named_with_its_slot(
    observation, said, monkeypatch
):
    env = VectorEnv(Slots(Scripted, "Scripted-v0", 3), "Scripted-v0")
    env.reset(np.zeros(3, np.int64))
    bad = env._env.envs[2].unwrapped
    monkeypatch.setattr(bad, "_seen", lambda: observation)
    faults = env.step(A).faults
    assert [*faults] == [2]
    assert re.search(f"Scripted-v0, slot 2: observation .*{said}.*from step", faults[2])


def test_a_vector_that_gives_other_shapes_than_its_space_says_is_named():
    inner = Native([Scripted] * 3, NEXT_STEP)
    inner.single_observation_space = spaces.Box(-9, 9, (4,), np.float64)
    env = wrap(inner, "Scripted-v0")
    with pytest.raises(RuntimeError, match=r"environment Scripted-v0: .* shape \(3, 2\)"):
        env.reset(np.zeros(3, np.int64))


def test_same_step_without_closing_observations_is_refused():
    env = native(SAME_STEP, final="none")
    with pytest.raises(RuntimeError, match=r"Drift-v0.*without info\['final_obs'\]"):
        record(env, 9)


class Masks(Native):
    """Claims to follow reset masks; `honest` says whether it does."""

    honest = True

    def reset(self, *, seed=None, options=None):
        return self.inner.reset(seed=seed, options=options if self.honest else None)


@pytest.mark.parametrize("honest", [True, False])
def test_a_vector_that_ignores_masks_is_found_out(honest):
    inner = Masks(drifts(4), DISABLED)
    inner.honest = honest
    env = wrap(inner, "Drift-v0")
    if honest:
        assert record(env, 40) == [by_hand(slot, 40) for slot in range(4)]
    else:
        with pytest.raises(RuntimeError, match=r"does not follow options\['reset_mask'\]"):
            record(env, 40)


def test_modes_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="auto-reset is disabled and single slots cannot"):
        wrap(Native(drifts(2), DISABLED), "Drift-v0", masked_reset=False)
    unstated = Native(drifts(2), NEXT_STEP)
    for stated in ({}, {"autoreset_mode": "sometimes"}):
        unstated.metadata = stated
        with pytest.raises(ConfigError, match=r"metadata\['autoreset_mode'\] is .*DISABLED"):
            wrap(unstated, "Drift-v0")
    unstated.metadata = {"autoreset_mode": "NextStep"}  # by value, as some give it
    assert wrap(unstated, "Drift-v0").num_envs == 2


def test_masks_can_be_declined_for_gymnasiums_vectors():
    env = SyncVectorEnv(drifts(4), autoreset_mode=NEXT_STEP)
    assert record(wrap(env, "Drift-v0", masked_reset=False), 40) == record(native(NEXT_STEP), 40)


def test_termination_and_truncation_at_once_are_both_given():
    class Both(Scripted):
        def step(self, action):
            *step, _ = super().step(action)
            return *step[:3], step[2], {}

    env = wrap(SyncVectorEnv([Both] * 2, autoreset_mode=DISABLED), "Both-v0")
    env.reset(np.zeros(2, np.int64))
    for _ in range(3):
        step = env.step(A[:2])
    assert step.terminated.all()
    assert step.truncated.all()


class Pushed(Scripted):
    """A Box of actions, given back as the observation."""

    action_space = spaces.Box(-1, 1, (2,), np.float64)

    def step(self, action):
        assert action.dtype == np.float64
        return action, float(action.sum()), False, False, {}


def test_box_actions_arrive_as_they_were_given():
    env = wrap(SyncVectorEnv([Pushed] * 3, autoreset_mode=DISABLED), "Pushed-v0")
    env.reset(np.zeros(3, np.int64))
    actions = np.float32([[0.5, -1], [0.25, 1], [0, 0.125]])
    step = env.step(actions)
    np.testing.assert_array_equal(step.observation["observation"], actions)
    np.testing.assert_array_equal(step.reward, [-0.5, 1.25, 0.125])
    assert step.reward.dtype == np.float32


def test_calls_out_of_order_and_wrong_shapes_are_refused():
    env = sync(DISABLED, 3)
    with pytest.raises(RuntimeError, match="step came before reset"):
        env.step(A)
    with pytest.raises(RuntimeError, match="restart came before reset"):
        env.restart(ALL, A)
    for seeds in (A[:2], A - 1, A + 0.5):
        with pytest.raises(ValueError, match=r"integers from 0 of shape \(3,\) were wanted"):
            env.reset(seeds)
    env.reset(A)
    with pytest.raises(ValueError, match=r"actions have shape \(3, 1\), \(3,\) was wanted"):
        env.step(A[:, None])
    with pytest.raises(ValueError, match="mask is int64"):
        env.restart(A, A)
    now = env.step(A).observation
    assert env.restart(~ALL, A) is now
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(A)


def test_an_error_inside_a_step_says_which_vector_and_asks_for_a_reset():
    class Breaks(Scripted):
        def step(self, action):
            raise OSError("engine stopped")

    env = wrap(SyncVectorEnv([Breaks] * 2, autoreset_mode=DISABLED), "Breaks-v0")
    env.reset(A[:2])
    with pytest.raises(OSError, match="engine stopped") as caught:
        env.step(A[:2])
    assert caught.value.__notes__ == ["while stepping Breaks-v0 x 2"]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(A[:2])
