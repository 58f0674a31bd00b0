"""Evaluation: fixed starts, whole episodes, a memory that begins where an episode begins."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from recollect.agents.acting import Policy
from recollect.agents.evaluating import Evaluator, evaluate
from recollect.agents.learning import FlatParameters
from recollect.envs import registry
from recollect.parameters import Parameters, Version
from tests.agents import clockwork
from tests.agents.clockwork import Counter


def spec() -> Any:
    assert clockwork.Clock
    return registry.env_spec("tests/Clock-v0", {"longest": 12})


def env(slots: int) -> Any:
    return registry.make("tests/Clock-v0", slots, {"longest": 12})


def test_every_episode_is_played_once_whatever_the_number_of_slots() -> None:
    """Trap 24: the score is of exactly N greedy episodes; long ones are not cut or dropped."""
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


def test_the_evaluator_takes_one_version_and_keeps_the_best() -> None:
    parameters = Parameters()
    network = Counter(spec())
    vector = FlatParameters(network).numpy()
    evaluator = Evaluator(
        parameters,
        make_policy=lambda: Policy(Counter(spec()), spec()),
        make_env=env,
        episodes=5,
        period=10,
        seed=1,
    )
    assert not evaluator.ready()
    parameters.publish(Version(0, 9), vector)
    assert not evaluator.ready()
    parameters.publish(Version(0, 13), vector)
    assert evaluator.ready()
    evaluator.step()
    assert not evaluator.ready(), "once per version"
    figures = evaluator.metrics()
    assert figures["version_updates"] == 13
    assert evaluator.metrics() == {}
    best = evaluator.best()
    assert best is not None
    assert best[0] == figures["return_mean"]
    assert evaluator.counts() == {"evaluations": 1, "failed_evaluations": 0}
    parameters.publish(Version(0, 20), vector)
    assert evaluator.ready(), "due at multiples of the period, however late the last one was"


def test_a_fault_in_evaluation_names_the_episode() -> None:
    class Faulty(clockwork.Clock):
        def step(self, action: int) -> Any:
            observation, reward, *rest = super().step(action)
            return (observation * np.nan, reward, *rest)

    import gymnasium

    if "tests/Faulty-v0" not in gymnasium.registry:
        gymnasium.register("tests/Faulty-v0", entry_point=Faulty)
    policy = Policy(Counter(spec()), spec())
    with pytest.raises(RuntimeError, match=r"evaluation episode 0.*tests/Faulty-v0"):
        evaluate(policy, registry.make("tests/Faulty-v0", 2), 2, seed=0)
