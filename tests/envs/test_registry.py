"""Environments by id: found, made, and refused in one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs import registration

from recollect.envs import registry
from recollect.envs.registry import env_spec, make, register
from recollect.types import ActionSpec, ArraySpec, ConfigError

OURS = ["recollect/PositionCartPole-v0", "recollect/Recall-v0", "recollect/TMaze-v0"]


class Demanding(gym.Env):
    """An environment with a required argument that can fail in several ways."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float64)
    action_space = gym.spaces.Discrete(3, start=-1)

    def __init__(self, failure):
        if failure is not None:
            raise failure

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3), {}

    def step(self, action):
        return self.np_random.uniform(-1, 1, 3), float(action), False, False, {}


@pytest.fixture
def demanding():
    registration.register("RecollectTest/Demanding-v3", entry_point=Demanding)
    yield "RecollectTest/Demanding-v3"
    del registration.registry["RecollectTest/Demanding-v3"]


@pytest.fixture
def vector_only():
    registration.register(
        "RecollectTest/VectorOnly-v0",
        vector_entry_point="gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv",
        max_episode_steps=37,
    )
    yield "RecollectTest/VectorOnly-v0"
    del registration.registry["RecollectTest/VectorOnly-v0"]


def refusal(call, *arguments):
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_spec_says_spaces_and_time_limit():
    spec = env_spec("recollect/PositionCartPole-v0")
    assert spec.id == "recollect/PositionCartPole-v0"
    assert dict(spec.observation) == {"observation": ArraySpec((2,), "float32")}
    assert spec.action == ActionSpec(2)
    assert spec.max_episode_steps == 500
    assert env_spec("recollect/Recall-v0", {"delay": 3, "cues": 4, "trials": 2}).kwargs == {
        "delay": 3,
        "cues": 4,
        "trials": 2,
    }


@pytest.mark.parametrize(
    ("env_id", "kwargs", "limit"),
    [
        ("recollect/Recall-v0", {"delay": 3, "trials": 2}, 2 * (3 + 2)),
        ("recollect/TMaze-v0", {"length": 5}, 2 * 5 + 10),
        ("CartPole-v1", {}, 500),
        ("CartPole-v1", {"max_episode_steps": 9}, 9),
        ("recollect/TMaze-v0", {"max_episode_steps": 9}, 9),
    ],
)
def test_time_limit_is_the_wrappers_or_what_the_environment_states(env_id, kwargs, limit):
    assert env_spec(env_id, kwargs).max_episode_steps == limit
    assert make(env_id, 2, kwargs).spec.max_episode_steps == limit


def test_spec_of_made_environments_is_the_spec_read_beforehand():
    for env_id in OURS:
        assert make(env_id, 3).spec == env_spec(env_id)


def test_spec_is_read_in_a_moment():
    env_spec("CartPole-v1")
    start = time.perf_counter()
    env_spec("CartPole-v1")
    assert time.perf_counter() - start < 1


def test_a_time_limit_given_as_argument_truncates():
    env = make("CartPole-v1", 2, {"max_episode_steps": 1})
    env.reset(np.array([0, 1]))
    step = env.step(np.array([0, 1]))
    assert step.truncated.all()
    assert not step.terminated.any()


def test_registering_again_changes_nothing_and_what_is_missing_comes_back():
    before = [registration.registry[env_id] for env_id in OURS]
    register()
    assert all(registration.registry[i] is spec for i, spec in zip(OURS, before, strict=True))
    del registration.registry[OURS[1]]
    assert env_spec(OURS[1]).action == ActionSpec(2)


def test_gymnasium_alone_makes_ours_by_module_and_id():
    code = (
        "import gymnasium, sys; "
        "env = gymnasium.make('recollect.envs.registry:recollect/Recall-v0', delay=2); "
        "print(env.reset(seed=0)[0].shape, 'torch' in sys.modules, 'numba' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "(4,) False False"


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("recollect/Recal-v0", "recollect/Recall-v0"),
        ("recall-v0", "recollect/Recall-v0"),
        ("TMaze-v0", "recollect/TMaze-v0"),
        ("CartPole-v7", "CartPole-v1"),
        ("cartpol-v1", "CartPole-v1"),
    ],
)
def test_unknown_id_names_itself_and_the_nearest(asked, near):
    said = refusal(env_spec, asked)
    assert repr(asked) in said
    assert repr(near) in said


@pytest.mark.parametrize("asked", ["", "zzzzqqqqxxxx", "a b c", "//", "Nope-v0", "Pong-v5"])
def test_an_id_like_nothing_registered_is_refused_all_the_same(asked, monkeypatch):
    known = {
        i: spec
        for i, spec in registration.registry.items()
        if not str(spec.entry_point).startswith("ale_py")
    }
    monkeypatch.setattr(registration, "registry", known)  # other tests may have imported ale_py
    assert "module:Name-v0" in refusal(env_spec, asked)


def test_an_id_without_version_is_the_newest_and_named_so():
    assert env_spec("recollect/Recall").id == "recollect/Recall-v0"
    assert make("CartPole", 1).spec.id == "CartPole-v1"


def test_a_module_in_the_id_is_imported_and_stays_in_the_id(tmp_path, monkeypatch):
    (tmp_path / "their_games.py").write_text(
        "import gymnasium\n"
        "from recollect.envs.memory import Recall\n"
        "gymnasium.register('Theirs-v0', entry_point=Recall)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert env_spec("their_games:Theirs-v0").id == "their_games:Theirs-v0"
    assert make("their_games:Theirs-v0", 2).num_envs == 2
    said = refusal(env_spec, "their_games:Their-v0")
    assert "'Their-v0'" in said
    assert "'their_games'" in said
    assert "did you mean 'Theirs-v0'" in said
    del registration.registry["Theirs-v0"]


def test_a_missing_module_is_told_from_a_module_that_misses_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_games.py").write_text("import no_such_engine\n")
    (tmp_path / "broken_games.py").write_text("raise OSError('no display')\n")
    assert "'no_such_games', which cannot be found" in refusal(env_spec, "no_such_games:Env-v0")
    assert "'no_such.games', which cannot be found" in refusal(env_spec, "no_such.games:Env-v0")
    assert "'half_games' needs 'no_such_engine'" in refusal(env_spec, "half_games:Env-v0")
    assert "OSError: no display" in refusal(env_spec, "broken_games:Env-v0")


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"delai": 3}, "takes no argument 'delai': did you mean 'delay'?"),
        (
            {"size": 3},
            "takes no argument 'size': it takes delay, cues, trials, max_episode_steps",
        ),
        ({"delay": -3}, "{'delay': -3}: ValueError: delay is -3, an integer from 0 was wanted"),
    ],
)
def test_wrong_arguments_are_named_with_the_environment(kwargs, said):
    for call in (env_spec, lambda env_id, arguments: make(env_id, 2, arguments)):
        message = refusal(call, "recollect/Recall-v0", kwargs)
        assert "'recollect/Recall-v0'" in message
        assert said in message


def test_what_an_environment_raises_when_made_is_told_apart(demanding):
    assert "missing 1 required positional argument" in refusal(env_spec, demanding)
    need = gym.error.DependencyNotInstalled("run `pip install engine`")
    assert "needs what is not installed" in refusal(env_spec, demanding, {"failure": need})
    assert "pip install engine" in refusal(env_spec, demanding, {"failure": need})
    assert "engine.so" in refusal(env_spec, demanding, {"failure": ImportError("engine.so")})
    with pytest.raises(OSError, match="no display") as caught:
        env_spec(demanding, {"failure": OSError("no display")})
    assert demanding in caught.value.__notes__[0]


def test_float64_observations_become_float32_and_actions_count_from_zero(demanding):
    env = make(demanding, 3, {"failure": None})
    assert env.spec.action == ActionSpec(3)
    first = env.reset(np.arange(3))
    assert first["observation"].dtype == np.float32
    np.testing.assert_array_equal(env.step(np.array([0, 1, 2])).reward, [-1, 0, 1])


def test_vector_entry_points_are_wrapped(vector_only):
    assert env_spec(vector_only).max_episode_steps == 37
    env = make(vector_only, 5)
    assert env.num_envs == 5
    assert env.spec == env_spec(vector_only)
    assert env.reset(np.arange(5))["observation"].shape == (5, 4)


def test_what_a_vector_entry_point_takes_is_told(vector_only):
    """Its constructor's own arguments: a number of environments is not the user's to give."""
    message = refusal(env_spec, vector_only, {"size": 1})
    assert "takes no argument 'size': it takes " in message
    assert "max_episode_steps" in message
    assert "num_envs" not in message


def test_slots_are_seeded_each_by_its_own(demanding):
    env = make(demanding, 3, {"failure": None})
    first = env.reset(np.array([4, 5, 4]))["observation"]
    np.testing.assert_array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[1])


def test_no_environments_at_all_are_refused():
    with pytest.raises(ValueError, match="num_envs is 0, at least 1 was wanted"):
        make("CartPole-v1", 0)


def test_an_environment_that_raises_is_named_with_its_slot():
    """R8: the error of one of several environments says whose it is."""
    env = make("recollect/Recall-v0", 3, {"delay": 2})
    env.reset(np.arange(3))
    (said,) = env.step(np.array([0, 9, 0])).faults.values()
    assert said.startswith("environment recollect/Recall-v0, slot 1: step raised ValueError: ")
    with pytest.raises(RuntimeError, match="call restart"):
        env.step(np.array([0, 0, 0]))
    env.reset(np.arange(3))
    env.step(np.array([0, 0, 0]))
    env.close()


def test_the_nearest_id_is_searched_for_among_all_registered():
    assert registry._nearest("MountainCarContinuous-v1") == "MountainCarContinuous-v0"
