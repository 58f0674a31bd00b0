"""R9: what is not finite, wherever it comes from, reaches neither replay nor weights."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import register
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.agents import r2d2, wiring
from recollect.agents.learning import Gradients, Skipped
from recollect.agents.r2d2 import Learner, R2D2Config
from recollect.envs import registry
from recollect.parameters import Parameters, Version
from recollect.replay.batch import Batch
from recollect.types import DivergedError, EnvError
from tests.agents.clockwork import Clock

BAD = [float("nan"), float("inf"), -float("inf"), 1e39, -1e39]
"""1e39 is finite until it is a float32."""

CONFIG = R2D2Config(
    actors=3,
    burn_in=3,
    trace_length=8,
    period=4,
    n_step=3,
    gamma=0.9,
    refresh_period=10_000,
    replay_steps=4000,
    min_replay_steps=1,
    replay_ratio=2.0,
    batch_size=5,
    torso_sizes=(7,),
    pre_core=0,
    hidden=6,
    head_hidden=5,
    learning_rate=1e-2,
    evaluation_period=0,
)


class Poisoned(Clock):
    """A clock that gives `bad` in `place` at its step `at` of every episode whose key is even."""

    def __init__(self, place: str, bad: float, at: int) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.place, self.bad, self.at = place, bad, at

    def _observation(self) -> np.ndarray:
        seen = super()._observation().astype(np.float64)
        if self.place.startswith("observation") and self.t == self.at and self.key % 2 == 0:
            seen[int(self.place[-1])] = self.bad
        return seen

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        seen, reward, *rest = super().step(action)
        if self.place == "reward" and self.t == self.at and self.key % 2 == 0:
            reward = self.bad
        return (seen, reward, *rest)


register("tests/Poisoned-v0", entry_point=Poisoned)


def all_finite(*arrays: Any) -> bool:
    return all(np.isfinite(array).all() for array in arrays)


class Guarded:
    """A replay that looks at all that comes in."""

    def __init__(self, replay: Any) -> None:
        self.replay, self.blocks = replay, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.replay, name)

    def insert(self, blocks: Any, items: Any) -> None:
        for block in blocks:
            assert all_finite(*block.observation.values(), block.reward, block.discount)
            assert all_finite(block.states, block.action, block.previous_reward)
        assert all_finite([item.priority for item in items])
        self.blocks += len(blocks)
        self.replay.insert(blocks, items)


def parts(config: R2D2Config, kwargs: dict[str, Any] | None = None) -> Any:
    """Learner, guarded replay, actor and parameters on the clock, poisoned or not."""
    name = "tests/Clock-v0" if kwargs is None else "tests/Poisoned-v0"
    env_spec = registry.env_spec(name, kwargs)
    make = partial(wiring.q_network, config, env_spec, 3)
    parameters = Parameters()
    blocks = wiring.block_spec(config, env_spec, make().state_size)
    replay: Any = Guarded(wiring.make_replay(config, blocks))
    learner = Learner(config, replay, parameters, make, seed=3)
    errors = partial(r2d2.absolute_errors, config=config)
    actor = wiring.make_actor(
        config, env_spec, 3, 0, make, errors, replay=replay, parameters=parameters
    )
    return learner, replay, actor, parameters


def take_steps(actor: Any, count: int) -> None:
    for _ in range(count):
        actor.step()


# -- The environment -------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    place=st.sampled_from(["observation0", "observation2", "reward"]),
    bad=st.sampled_from(BAD),
    at=st.integers(1, 12),
)
def test_a_step_of_an_environment_that_is_not_finite_reaches_nothing(
    place: str, bad: float, at: int
) -> None:
    """The episode is dropped and counted, also in its midst; learning goes on."""
    learner, replay, actor, _ = parts(CONFIG, {"place": place, "bad": bad, "at": at})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that an episode was dropped
        take_steps(actor, 80)
    assert replay.blocks > 0
    assert actor.counts()["dropped_episodes"] > 0
    replay.check_valid()
    for _ in range(3):
        learner.step()
    assert learner.counts()["skipped_updates"] == 0
    assert all_finite(learner.online_parameters.numpy())


@pytest.mark.parametrize("bad", BAD)
def test_a_first_observation_that_is_not_finite_ends_the_run_by_name(bad: float) -> None:
    """There is no episode to be dropped for it; a few are tried again."""
    _, replay, actor, _ = parts(CONFIG, {"place": "observation1", "bad": bad, "at": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(EnvError, match=r"tests/Poisoned-v0.* observation.*\[1\] is"):
            take_steps(actor, 400)
    replay.check_valid()


# -- The batch -------------------------------------------------------------------------------------

FIELDS = ["observation", "previous_reward", "reward", "discount", "recurrent_state"]


@cache
def lived(rewards: str = "rescaled") -> Any:
    learner, replay, actor, parameters = parts(replace(CONFIG, rewards=rewards))
    take_steps(actor, 80)
    return learner, replay, actor, parameters


def poisoned(batch: Batch, field: str, at: int, bad: float) -> Batch:
    """The batch with one number of one field changed."""
    array = getattr(batch, field)
    array = array["observation"].copy() if field == "observation" else array.copy()
    with np.errstate(over="ignore"):
        array.reshape(-1)[at % array.size] = bad
    return replace(batch, **{field: {"observation": array} if field == "observation" else array})


def numbers(held: Any) -> list[np.ndarray]:
    """Every array of nested dicts, copied."""
    if isinstance(held, dict):
        return [array for value in held.values() for array in numbers(value)]
    return [np.asarray(held).copy()] if isinstance(held, torch.Tensor | np.ndarray) else []


def state(learner: Learner) -> list[np.ndarray]:
    """All that an update changes."""
    vectors = {
        "online": learner.online_parameters.vector,
        "target": learner.target_parameters.vector,
    }
    return numbers(vectors) + numbers(learner.adam.state_dict())


@settings(max_examples=150)
@given(
    field=st.sampled_from(FIELDS),
    at=st.integers(0, 10**6),
    bad=st.sampled_from([*BAD, 3e38, -3e38, 1e30, 1e20]),
    rewards=st.sampled_from(["rescaled", "raw"]),
)
def test_a_number_of_a_batch_changes_no_weight_to_what_is_not_finite(
    field: str, at: int, bad: float, rewards: str
) -> None:
    """The update is skipped and counted, and changes nothing; or the number did not matter."""
    learner, replay, _, _ = lived(rewards)
    learner.skipped.on_end = 0
    batch = replay.replay.sample(np.random.default_rng(at).random(CONFIG.batch_size))
    batch = poisoned(batch, field, at, bad)
    before, counts, written = state(learner), learner.counts(), []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        patch.setattr(replay, "sample", lambda uniforms: batch, raising=False)
        patch.setattr(replay, "update_priorities", lambda *w: written.append(w), raising=False)
        learner.step()
    after, now = state(learner), learner.counts()
    assert all_finite(*after)
    if now["skipped_updates"] > counts["skipped_updates"]:
        assert now["updates"] == counts["updates"]
        assert not written
        for old, new in zip(before, after[: len(before)], strict=True):
            np.testing.assert_array_equal(old, new)
    else:
        assert now["updates"] == counts["updates"] + 1
        assert all_finite(written[0][2])


def test_every_learned_reward_that_is_not_finite_is_noticed() -> None:
    """The test above is not passed by numbers that nobody reads."""
    learner, replay, _, _ = lived()
    batch = replay.replay.sample(np.random.default_rng(0).random(CONFIG.batch_size))
    for bad in BAD:
        for place in np.flatnonzero(batch.learned.reshape(-1)):
            found = learner.gradients(poisoned(batch, "reward", int(place), bad))
            learner.skipped.on_end = 0
            assert learner.skipped.takes(found, batch.uids)


# -- Priorities ------------------------------------------------------------------------------------


@given(at=st.integers(0, 4), bad=st.sampled_from([*BAD[:3], -1.0, 1e101]))
def test_a_priority_that_is_not_finite_is_refused_and_changes_nothing(at: int, bad: float) -> None:
    _, replay, _, _ = lived()
    batch = replay.replay.sample(np.linspace(0, 0.99, 5))
    priorities = np.ones(5)
    priorities[at] = bad
    before = replay.replay.sample(np.linspace(0, 0.99, 50))
    with pytest.raises(ValueError, match=f"priority of item {batch.uids[at]} is"):
        replay.update_priorities(batch.slots, batch.uids, priorities)
    after = replay.replay.sample(np.linspace(0, 0.99, 50))
    for field in fields(Batch):
        np.testing.assert_equal(getattr(after, field.name), getattr(before, field.name))


# -- The network -----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(at=st.integers(0, 10**6), bad=st.sampled_from(BAD[:3]), parameter=st.integers(0, 100))
def test_weights_that_are_not_finite_feed_nothing_that_is_not(
    at: int, bad: float, parameter: int
) -> None:
    """Actor and learner either end by name, or the weight (of a dead unit) does not matter."""
    learner, replay, actor, parameters = parts(CONFIG)
    take_steps(actor, 20)
    weights = list(learner.network.parameters())
    chosen = weights[parameter % len(weights)].detach().view(-1)
    chosen[at % len(chosen)] = bad
    before = learner.target_parameters.numpy()
    try:
        for _ in range(10):
            learner.step()
    except DivergedError:
        assert learner.counts()["skipped_updates"] == 10
        assert learner.updates == 0
    np.testing.assert_array_equal(learner.target_parameters.numpy(), before)
    replay.check_valid()
    parameters.publish(Version(0, 1000), learner.online_parameters.numpy())
    actor._refresh_period = 1
    with contextlib.suppress(DivergedError):  # else the replay, which guards itself, is content
        take_steps(actor, 40)
    replay.check_valid()


def test_ten_skipped_updates_on_end_are_one_error_and_nine_are_none() -> None:
    learner, replay, _, _ = lived()
    batch = replay.replay.sample(np.random.default_rng(0).random(CONFIG.batch_size))
    place = int(np.flatnonzero(batch.learned.reshape(-1))[0])
    bad = poisoned(batch, "reward", place, float("nan"))
    at_fault = batch.uids[place % CONFIG.batch_size]
    learner.skipped.on_end, before = 0, learner.counts()["skipped_updates"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "sample", lambda uniforms: bad, raising=False)
        for _ in range(9):
            learner.step()
        patch.setattr(replay, "sample", lambda uniforms: batch, raising=False)
        learner.step()  # a good one begins the count anew
        patch.setattr(replay, "sample", lambda uniforms: bad, raising=False)
        for _ in range(9):
            learner.step()
        with pytest.raises(DivergedError, match=f"of 5 items are at fault: .*{at_fault}"):
            learner.step()
    assert learner.counts()["skipped_updates"] == before + 19


@pytest.mark.parametrize("where", ["loss", "gradient_norm", "priority"])
@pytest.mark.parametrize("bad", BAD[:3])
def test_each_figure_alone_is_reason_enough_to_skip(where: str, bad: float) -> None:
    figures = {"loss": 1.0, "gradient_norm": 1.0}
    priorities = np.ones(3, np.float32)
    if where == "priority":
        priorities[1] = bad
    else:
        figures[where] = bad
    skipped = Skipped()
    assert skipped.takes(Gradients(torch.zeros(2), priorities, figures), np.arange(3))
    assert skipped.total == 1


def test_recurrent_states_that_are_not_finite_are_told_from_the_parameters() -> None:
    """Values may be finite where the state is not: a saturated memory."""
    _, _, actor, _ = parts(CONFIG)
    policy = actor._policy

    class Saturated:
        def __getattr__(self, name: str) -> Any:
            return getattr(policy, name)

        def __call__(self, *given: Any) -> Any:
            values, state = policy(*given)
            return values, state + np.inf

    actor._policy = Saturated()
    with pytest.raises(DivergedError, match="recurrent states are not finite"):
        actor.step()
