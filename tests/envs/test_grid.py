"""MiniGrid's symbols, pixels and missions; POPGym's environments by their ids alone."""

from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest

from recollect.envs import registry
from recollect.envs.spaces import words
from recollect.types import ArraySpec, ConfigError

MEMORY = "MiniGrid-MemoryS7-v0"


def test_symbols_are_one_hots_of_what_minigrid_gives():
    spec = registry.env_spec(MEMORY)
    assert spec.kwargs == {"view": "symbols", "mission": False, "tile_size": 8}
    assert spec.observation == {"observation": ArraySpec((7 * 7 * (11 + 6 + 3) + 4,), "uint8")}
    assert spec.max_episode_steps == 5 * 7 * 7
    theirs = gym.make(MEMORY)
    with closing(registry.make(MEMORY, 2)) as env:
        ours = env.reset(np.array([3, 4]))["observation"][1]
        wanted, _ = theirs.reset(seed=4)
        for action in np.random.default_rng(0).integers(0, 7, 30):
            np.testing.assert_array_equal(ours, one_hot(wanted))
            ours = env.step(np.array([0, action])).observation["observation"][1]
            wanted, _, terminated, truncated, _ = theirs.step(action)
            if terminated or truncated:
                break


def one_hot(given):
    """The slow way."""
    row = []
    for tile in given["image"].reshape(-1, 3):
        for value, size in zip(tile, (11, 6, 3), strict=True):
            row += [int(value == i) for i in range(size)]
    return np.array(row + [int(given["direction"] == i) for i in range(4)])


def test_pixels_and_the_mission_as_words():
    kwargs = {"view": "pixels", "mission": True, "tile_size": 4}
    spec = registry.env_spec(MEMORY, kwargs)
    assert spec.observation == {
        "mission": ArraySpec((16,), "int16", "text"),
        "view": ArraySpec((28, 28, 3), "uint8"),
    }
    with closing(registry.make(MEMORY, 2, kwargs)) as env:
        seen = env.reset(np.array([3, 4]))
    told = words("go to the matching object at the end of the hallway")
    np.testing.assert_array_equal(seen["mission"], [told, told])
    assert seen["view"].std() > 0


def test_pixels_are_those_of_minigrids_own_wrapper():
    from minigrid.wrappers import RGBImgPartialObsWrapper

    theirs = RGBImgPartialObsWrapper(gym.make(MEMORY), tile_size=5)
    with closing(registry.make(MEMORY, 1, {"view": "pixels", "tile_size": 5})) as env:
        ours = env.reset(np.array([4]))["observation"][0]
        wanted, _ = theirs.reset(seed=4)
        for action in (0, 1, 2, 2, 1):
            np.testing.assert_array_equal(ours, wanted["image"])
            ours = env.step(np.array([action])).observation["observation"][0]
            wanted = theirs.step(action)[0]


def test_a_tile_that_no_table_knows_is_told():
    """Its one-hot would be that of the next tile."""
    env = registry.maker(MEMORY)[1]().unwrapped
    with closing(env):
        given, _ = env._env.reset(seed=1)
        given["image"][2, 3] = (11, 0, 0)
        with pytest.raises(ValueError, match=r"a tile is \[11 .*below \[11  6  3\] was wanted"):
            env._seen(given)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"views": "pixels"}, "did you mean 'view'?"),
        ({"view": "pixel"}, "view must be 'symbols' or 'pixels', got 'pixel'"),
        ({"tile_size": 1000}, "tile_size must be at most 64"),
    ],
)
def test_a_wrong_option_is_refused(kwargs, says):
    with pytest.raises(ConfigError, match=MEMORY) as refused:
        registry.env_spec(MEMORY, kwargs)
    assert says in str(refused.value)


def test_all_minigrids_ids_have_a_form_of_ours():
    """Every tenth of them is made."""
    registry.env_spec(MEMORY)
    ids = sorted(key for key in gym.registry if key.startswith(("MiniGrid-", "BabyAI-")))
    assert len(ids) > 150
    for env_id in ids[::10]:
        assert registry.env_spec(env_id).observation["observation"].dtype == "uint8"


def test_popgyms_ids_need_no_module():
    """42 of them: 6 ask for actions of MultiDiscrete, and are refused."""
    registry.env_spec("popgym-RepeatPreviousEasy-v0")
    made, refused, kinds = [], [], set()
    for env_id in sorted(key for key in gym.registry if key.startswith("popgym-")):
        try:
            spec, (observation, _) = registry.describe(env_id)
        except ConfigError as error:
            refused.append(str(error))
            continue
        made.append(spec.id == env_id)
        kinds.add(type(observation).__name__)
        with closing(registry.make(env_id, 2)) as env:
            env.reset(np.array([1, 2]))
            actions = np.zeros((2, *spec.action.shape), spec.action.array.dtype)
            assert not env.step(actions).faults
    assert all("its actions are MultiDiscrete" in said and "wrap" in said for said in refused)
    assert (len(refused), len(made), all(made)) == (6, 36, True)
    assert kinds == {"Tuple", "MultiDiscrete", "Box", "Discrete"}
