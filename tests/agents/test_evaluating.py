"""Evaluation: fixed starts, whole episodes, a memory that begins where an episode begins."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recollect.agents import evaluating
from recollect.agents.evaluating import Evaluator, evaluate, evaluation_seeds
from recollect.agents.learning import FlatParameters
from recollect.agents.policy import Policy
from recollect.envs import registry
from recollect.envs.vector import VectorEnv
from recollect.maths import philox
from recollect.parameters import Parameters, Version
from tests.agents import clockwork
from tests.agents.clockwork import Constant, Counter


def spec() -> Any:
    assert clockwork.Clock
    return registry.env_spec("tests/Clock-v0", {"longest": 12})


def env(slots: int) -> Any:
    return registry.make("tests/Clock-v0", slots, {"longest": 12})


def resetting_itself(make: Any, slots: int) -> VectorEnv:
    """A vector that spends the step after an episode's end on its own reset."""
    vector = SyncVectorEnv([make] * slots, autoreset_mode=AutoresetMode.NEXT_STEP)
    return registry.wrap(vector, "tests/Own-v0", {}, masked_reset=False)


def test_trap_24_every_episode_is_played_once_whatever_the_number_of_slots() -> None:
    """The score is of exactly N greedy episodes; long ones are not cut or dropped."""
    policy = Policy(Counter(spec()), spec())
    reference = evaluate(policy, env(1), 10, seed=4)
    assert len(set(reference.lengths)) > 3
    np.testing.assert_array_equal(
        reference.returns, reference.lengths * (reference.lengths + 1) / 2
    )
    for slots in (3, 10, 16):
        played = evaluate(policy, env(slots), 10, seed=4)
        np.testing.assert_array_equal(played.lengths, reference.lengths)
        np.testing.assert_array_equal(played.returns, reference.returns)
    assert (evaluate(policy, env(3), 10, seed=5).lengths != reference.lengths).any()


def test_trap_31_memory_previous_action_and_reward_begin_anew_with_each_episode() -> None:
    class Watching(Counter):
        """Remembers what it was shown beside its state."""

        seen: ClassVar[list[tuple[Any, ...]]] = []

        def forward(self, observation, previous_action, previous_reward, recurrent_state):  # type: ignore[no-untyped-def]
            clock = observation["observation"][0, :3, 0].tolist()
            self.seen.append(
                (
                    clock,
                    recurrent_state[:3, 0].tolist(),
                    previous_action[0, :3].tolist(),
                    previous_reward[0, :3].tolist(),
                )
            )
            return super().forward(observation, previous_action, previous_reward, recurrent_state)

    policy = Policy(Watching(spec()), spec())
    evaluate(policy, env(3), 9, seed=4)
    starts = 0
    for clock, state, action, reward in Watching.seen:
        assert state == clock, "the counter says how many steps of this episode were seen"
        for t, a, r in zip(clock, action, reward, strict=True):
            assert (a == -1) == (t == 0)
            assert r == t, "the reward of step t - 1 is t"
            starts += t == 0
    assert starts >= 9


def test_random_actions_depend_on_the_seed_the_episode_and_its_step_alone() -> None:
    """With an epsilon of 1 the return of Payday is the sum of the actions that philox draws."""
    payday = registry.env_spec("tests/Payday-v0", {"steps": 5})
    policy = Policy(Constant(payday), payday)
    draws = philox.uniforms(
        4, philox.Purpose.EVALUATION, 0, np.arange(7)[:, None], 0, np.arange(5)[None]
    )
    expected = np.floor(3 * draws[..., 1]).sum(1)
    made = [registry.make("tests/Payday-v0", slots, {"steps": 5}) for slots in (1, 3, 7)]
    made.append(resetting_itself(partial(clockwork.Payday, 5), 3))
    for vector in made:
        np.testing.assert_array_equal(evaluate(policy, vector, 7, 4, epsilon=1.0).returns, expected)


def test_evaluation_is_greedy_unless_told_otherwise() -> None:
    payday = registry.env_spec("tests/Payday-v0")
    policy, made = Policy(Constant(payday), payday), registry.make("tests/Payday-v0", 5)
    assert evaluate(policy, made, 40, seed=4).returns.tolist() == [2] * 40
    draws = philox.uniforms(4, philox.Purpose.EVALUATION, 0, np.arange(40), 0, 0)
    now_and_then = np.where(draws[:, 0] < 0.5, np.floor(3 * draws[:, 1]), 2)
    assert 0 < (now_and_then < 2).mean() < 0.5
    played = evaluate(policy, made, 40, seed=4, epsilon=0.5)
    np.testing.assert_array_equal(played.returns, now_and_then)


def test_starts_of_evaluation_are_drawn_by_episode_and_are_none_of_trainings() -> None:
    numbers = np.arange(50)
    starts = evaluation_seeds(5, numbers)
    assert len(set(starts)) == 50
    assert not set(starts) & set(evaluation_seeds(6, numbers))
    assert not set(starts) & set(philox.seeds(5, philox.Purpose.RESET, 0, numbers, 0))


def test_a_step_in_which_a_slot_resets_itself_is_not_counted() -> None:
    """Trap 18."""
    vector = resetting_itself(partial(clockwork.Clock, 12), 3)
    played = evaluate(Policy(Counter(spec()), spec()), vector, 20, seed=4)
    assert played.lengths.max() <= 12
    np.testing.assert_array_equal(played.returns, played.lengths * (played.lengths + 1) / 2)


def make_evaluator(parameters: Parameters, **settings: Any) -> Evaluator:
    words = {"episodes": 5, "period": 10, "seed": 1} | settings
    make = {"make_policy": lambda: Policy(Counter(spec()), spec()), "make_env": env}
    return Evaluator(parameters, **(make | words))


def test_an_evaluation_is_due_at_multiples_of_the_period_however_late_the_last_one_was() -> None:
    parameters = Parameters()
    evaluator = make_evaluator(parameters, period=10)
    vector = FlatParameters(Counter(spec())).numpy()
    assert not evaluator.ready()
    due = []
    for update in range(1, 41):
        if update % 4 == 0 and update != 20:  # published at 4, 8, 12, 16, 24, ...
            parameters.publish(Version(0, update), vector)
        if evaluator.ready():
            evaluator.step()
            due.append(update)
            assert not evaluator.ready(), "once per version"
    assert due == [12, 24, 32, 40]
    assert evaluator.counts() == {"evaluations": 4, "failed_evaluations": 0}
    parameters.publish(Version(1, 3), vector)
    assert evaluator.ready(), "a restarted learner's parameters are newer than any before"
    evaluator.step()
    parameters.publish(Version(1, 9), vector)
    assert not evaluator.ready()
    parameters.publish(Version(1, 10), vector)
    assert evaluator.ready()


def test_an_evaluations_figures_are_given_once() -> None:
    parameters = Parameters()
    evaluator = make_evaluator(parameters, episodes=5, seed=1)
    evaluator.step()
    assert evaluator.metrics() == {}, "nothing has been published"
    parameters.publish(Version(0, 13), FlatParameters(Counter(spec())).numpy())
    evaluator.step()
    lengths = evaluate(Policy(Counter(spec()), spec()), env(5), 5, seed=1).lengths
    returns = lengths * (lengths + 1) / 2
    assert np.mean(returns) != np.median(returns)
    assert evaluator.metrics() == {
        "return_mean": np.mean(returns),
        "return_median": np.median(returns),
        "episode_steps_mean": np.mean(lengths),
        "version_updates": 13,
    }
    assert evaluator.metrics() == {}


def test_the_evaluator_keeps_the_best_parameters_and_of_equal_ones_the_latest() -> None:
    """On Payday the return is the parameter."""
    payday = registry.env_spec("tests/Payday-v0")
    parameters = Parameters()
    evaluator = make_evaluator(
        parameters,
        make_policy=lambda: Policy(Constant(payday), payday),
        make_env=lambda slots: registry.make("tests/Payday-v0", slots),
        episodes=40,
        period=1,
    )
    assert evaluator.best() is None
    best = []
    for version, action in enumerate([1, 0, 2, 1, 2, 0], start=1):
        parameters.publish(Version(0, version), np.full(16, action))
        evaluator.step()
        score, kept = evaluator.best() or pytest.fail("there is no best")
        assert kept.vector[0] == score
        best.append((score, kept.version.updates))
    assert best == [(1, 1), (1, 1), (2, 3), (2, 3), (2, 5), (2, 5)]


def test_an_evaluator_explores_if_it_is_told_to_and_uses_no_more_slots_than_it_needs() -> None:
    payday = registry.env_spec("tests/Payday-v0")
    parameters = Parameters()
    parameters.publish(Version(0, 1), np.full(16, 2))
    slots = []

    def make_env(count: int) -> Any:
        slots.append(count)
        return registry.make("tests/Payday-v0", count)

    for episodes in (3, 40):
        evaluator = make_evaluator(
            parameters,
            make_policy=lambda: Policy(Constant(payday), payday),
            make_env=make_env,
            episodes=episodes,
            epsilon=1.0,
        )
        evaluator.step()
        assert evaluator.metrics()["return_mean"] < 2
    assert slots == [3, Policy.ROWS]


def test_an_episode_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "LONGEST", 7)
    policy = Policy(Counter(spec()), spec())
    played = evaluate(policy, env(3), 20, seed=4)
    assert played.lengths.max() == 7
    assert (played.lengths < 7).any()
    np.testing.assert_array_equal(played.returns, played.lengths * (played.lengths + 1) / 2)


def test_a_fault_in_evaluation_names_the_episode() -> None:
    class Faulty(clockwork.Clock):
        def step(self, action: int) -> Any:
            observation, reward, *rest = super().step(action)
            return (observation * np.nan, reward, *rest)

    if "tests/FaultyClock-v0" not in gymnasium.registry:
        gymnasium.register("tests/FaultyClock-v0", entry_point=Faulty)
    policy = Policy(Counter(spec()), spec())
    with pytest.raises(
        RuntimeError, match=r"tests/FaultyClock-v0, slot 0, evaluation episode 0, step 1: "
    ):
        evaluate(policy, registry.make("tests/FaultyClock-v0", 2), 2, seed=0)


def test_a_fault_in_a_slot_that_has_played_its_share_is_no_fault() -> None:
    class Once(clockwork.Payday):
        """Whole in its first episode and broken ever after."""

        episodes = 0

        def reset(self, **words: Any) -> Any:
            self.episodes += 1
            return super().reset(**words)

        def step(self, action: int) -> Any:
            observation, reward, *rest = super().step(action)
            return (observation, reward if self.episodes == 1 else float("nan"), *rest)

    made = [partial(Once, steps=1), partial(Once, steps=6)]
    vector = registry.wrap(
        SyncVectorEnv(made, autoreset_mode=AutoresetMode.DISABLED), "tests/Once-v0", {}
    )
    payday = registry.env_spec("tests/Payday-v0")
    assert evaluate(Policy(Constant(payday), payday), vector, 2, seed=0).lengths.tolist() == [1, 6]


def test_who_waits_is_told_how_many_episodes_are_played() -> None:
    policy, told = Policy(Counter(spec()), spec()), []
    for slots in (1, 3, 16):
        told.clear()
        played = evaluate(policy, env(slots), 10, seed=4, told=lambda *said: told.append(said))
        done, totals, steps = map(np.array, zip(*told, strict=True))
        assert (np.diff(done) >= 0).all()
        assert (totals == 10).all()
        assert (done[-1], steps[-1]) == (10, played.lengths.sum())
        assert done[0] == 0
