"""VizDoom's scenarios: what is seen, what may be done, and how an episode ends."""

import os
import signal
import subprocess
from contextlib import closing

import numpy as np
import pytest

from recollect.envs import doom, registry
from recollect.types import ArraySpec, ConfigError

HOME, HEALTH = "VizdoomMyWayHome-v1", "VizdoomHealthGathering-v1"


def lived(env, slot, actions):
    given = [env.observation["observation"][slot].tobytes()]
    for action in actions:
        step = env.step(np.full(env.num_envs, action))
        given.append((step.observation["observation"][slot].tobytes(), float(step.reward[slot])))
    return given


def test_every_option_is_recorded_and_a_timeout_is_in_steps():
    spec = registry.env_spec(HOME)
    assert spec.kwargs == {
        "frame_skip": 4,
        "grayscale": True,
        "screen": "160x120",
        "halved": True,
        "buttons": 1,
        "variables": False,
    }
    assert spec.observation == {"observation": ArraySpec((60, 80), "uint8")}
    assert spec.action.num_actions == 1 + 5  # nothing, and each of five buttons
    assert spec.max_episode_steps == 2100 // 4
    assert registry.env_spec(spec.id, spec.kwargs) == spec


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"frameskip": 4}, "did you mean 'frame_skip'?"),
        ({"frame_skip": 0}, "frame_skip must be above 0"),
        ({"frame_skip": 1_001}, "frame_skip must be at most 1,000, got 1,001"),
        ({"buttons": 0}, "buttons must be above 0"),
        ({"screen": "12x34"}, "screen must be '160x120' or '320x240' or '640x480'"),
        ({"scenario": "basic.cfg"}, "takes no argument 'scenario'"),
    ],
)
def test_a_wrong_option_is_refused(kwargs, says):
    with pytest.raises(ConfigError, match=HOME) as refused:
        registry.env_spec(HOME, kwargs)
    assert says in str(refused.value)


def test_more_actions_than_can_be_meant_are_refused_and_end_the_game(monkeypatch):
    before = children()
    monkeypatch.setattr(doom, "MOST_ACTIONS", 6)
    assert registry.env_spec(HOME).action.num_actions == 6
    with pytest.raises(ConfigError, match="buttons 2 of 5 make more than 6 actions: lower it"):
        registry.env_spec(HOME, {"buttons": 2})
    assert children() == before
    monkeypatch.undo()
    assert doom.MOST_ACTIONS == 1_000


def test_seeds_are_drawn_from_all_that_the_game_takes():
    given = []

    class Seeded:
        def __init__(self, game):
            self._game = game

        def __getattr__(self, name):
            return given.append if name == "set_seed" else getattr(self._game, name)

    env = registry.maker(HOME)[1]().unwrapped
    with closing(env):
        env._game = Seeded(env._game)
        for seed in range(20):
            env.reset(seed=seed)
    assert len(set(given)) == 20
    assert 2**31 < max(given) < 2**32


def test_a_game_that_must_be_bought_is_refused():
    with pytest.raises(ConfigError, match=r"doom\.wad.*does not exist.*put it there"):
        registry.env_spec("VizdoomDoomE1M1-S1-v0")


def test_the_same_seed_gives_the_same_frames_in_any_slot_and_process():
    actions = np.random.default_rng(0).integers(0, 6, 60)
    with closing(registry.make(HOME, 1)) as env:
        env.reset(np.array([7]))
        wanted = lived(env, 0, actions)
        env.restart(np.array([True]), np.array([8]))
        assert lived(env, 0, actions) != wanted
        env.restart(np.array([True]), np.array([7]))
        assert lived(env, 0, actions) == wanted
    with closing(registry.make(HOME, 2, processes=2)) as env:
        env.reset(np.array([1, 7]))
        assert lived(env, 1, actions) == wanted


def test_a_timeout_truncates_with_the_closing_frame():
    """Trap 18: VizDoom itself shows nothing after a timeout."""
    with closing(registry.make(HOME, 1, {"frame_skip": 100})) as env:
        assert env.spec.max_episode_steps == 21
        seen = env.reset(np.array([1]))["observation"]
        for number in range(1, 22):
            step = env.step(np.array([1]))  # turn left
            assert not step.terminated[0]
            assert step.truncated[0] == (number == 21)
            assert (step.observation["observation"] != seen).any()
            seen = step.observation["observation"]
        env.restart(np.array([True]), np.array([2]))
        cut = [bool(env.step(np.array([1])).truncated[0]) for _ in range(21)]
        assert cut == [False] * 20 + [True], "the next episode has all its time again"


def test_an_end_on_the_last_step_is_no_timeout():
    """Trap 18: what terminates has no value after it, whatever the clock says."""

    class Ended:
        def __init__(self, game):
            self._game = game

        def __getattr__(self, name):
            return (lambda: True) if name == "is_episode_finished" else getattr(self._game, name)

    env = registry.maker(HOME, {"frame_skip": 1000})[1]().unwrapped
    with closing(env):
        env.reset(seed=1)
        assert env.max_episode_steps == 3
        assert env.step(1)[2:4] == env.step(1)[2:4] == (False, False)
        env._game = Ended(env._game)
        assert env.step(1)[2:4] == (True, False)


def test_a_death_terminates():
    with closing(registry.make(HEALTH, 1, {"frame_skip": 20, "variables": True})) as env:
        health = [env.reset(np.array([1]))["variables"][0, 0]]
        for _ in range(env.spec.max_episode_steps):
            step = env.step(np.array([0]))
            health.append(step.observation["variables"][0, 0])
            if step.terminated[0]:
                break
        assert step.terminated[0]
        assert not step.truncated[0]
    assert 80 < health[0] <= 100  # the floor burns from the first tic
    assert 0 < health[-1] <= 20  # of the last frame there was


def test_halving_is_the_mean_of_four():
    screen = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    slow = np.zeros((3, 5, 3), np.uint8)
    for y in range(3):
        for x in range(5):
            four = screen[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(4, 3)
            slow[y, x] = np.floor(four.astype(float).mean(0) + 0.5)
    np.testing.assert_array_equal(doom._halved(screen), slow)
    np.testing.assert_array_equal(doom._halved(screen[..., 0]), slow[..., 0])


def test_colour_whole_screens_and_combined_buttons():
    kwargs = {"grayscale": False, "halved": False, "buttons": 2}
    spec = registry.env_spec(HOME, kwargs)
    assert spec.observation["observation"] == ArraySpec((120, 160, 3), "uint8")
    assert spec.action.num_actions == 1 + 5 + 5 * 4 // 2
    env = registry.maker(HOME, kwargs)[1]()
    names = env.unwrapped.get_action_meanings()
    env.close()
    assert names[:3] == ["NONE", "TURN_LEFT", "TURN_RIGHT"]
    assert names[6] == "TURN_LEFT+TURN_RIGHT"


def test_buttons_that_turn_by_degrees_are_no_actions():
    """Pressed for a step they would turn by one degree: a scenario's others are taken."""
    env = registry.maker("VizdoomDeathmatch-v1")[1]()
    with closing(env):
        every = env.unwrapped._game.get_available_buttons()
        names = env.unwrapped.get_action_meanings()
        assert any("DELTA" in button.name for button in every)
        assert names == ["NONE", *(b.name for b in every if "DELTA" not in b.name)]
        pressed = np.array(env.unwrapped._actions)
        assert (pressed.sum(1) == [0] + [1] * (len(names) - 1)).all()


def test_ctrl_c_does_not_end_the_game_and_nothing_is_left_behind(tmp_path, monkeypatch):
    """A terminal sends it to every process it started; ours decide when to end."""
    monkeypatch.chdir(tmp_path)
    before = set(children())
    with closing(registry.make(HOME, 1)) as env:
        env.reset(np.array([1]))
        (child,) = set(children()) - before
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
        for _ in range(20):
            assert not env.step(np.array([1])).faults
    assert child not in children()
    assert list(tmp_path.iterdir()) == []


def children():
    found = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    pairs = [line.split(None, 1) for line in found.stdout.splitlines()]
    return [int(pid) for pid, name in pairs if "vizdoom" in name]
