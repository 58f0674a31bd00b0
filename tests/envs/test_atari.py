"""Atari through our VectorEnv: the game played, seeds, closing observations, what is recorded."""

from contextlib import closing
from dataclasses import asdict

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from recollect.envs import atari, registry
from recollect.types import ArraySpec, ConfigError

PONG, BREAKOUT = "ALE/Pong-v5", "ALE/Breakout-v5"
SHORT = {"max_num_frames_per_episode": 160}  # 40 steps


def seeds(*numbers):
    return np.array(numbers, np.int64)


def mask(slots, *chosen):
    return np.isin(np.arange(slots), chosen)


def play(env, slot, actions):
    """What one slot gives while all take the same actions: frames, rewards, flags."""
    given = [env.observation["observation"][slot].tobytes()]
    for action in actions:
        step = env.step(np.full(env.num_envs, action))
        given.append(step.observation["observation"][slot].tobytes())
        given.append((float(step.reward[slot]), bool(step.terminated[slot] | step.truncated[slot])))
        if given[-1][1]:
            break
        over = step.terminated | step.truncated
        env.restart(over, np.full(env.num_envs, 77))
    return given


def bare(game, slots, **options):
    """ale-py's own vector with options spelt out, in the mode that never hides an observation."""
    protocol = {**asdict(atari.Options()), **options}
    mode = AutoresetMode.NEXT_STEP
    return AtariVectorEnv(game, slots, stack_num=1, num_threads=1, autoreset_mode=mode, **protocol)


def test_an_atari_id_names_the_game_and_every_option_is_recorded():
    """R2D2's protocol, papers.md 2.7: 18 actions, no stickiness, 108,000 frames, raw rewards."""
    spec = registry.env_spec(PONG)
    assert spec.id == PONG
    assert spec.kwargs == {
        "repeat_action_probability": 0.0,
        "full_action_space": True,
        "frameskip": 4,
        "maxpool": True,
        "img_height": 84,
        "img_width": 84,
        "grayscale": True,
        "noop_max": 30,
        "max_num_frames_per_episode": 108_000,
        "episodic_life": False,
        "life_loss_info": False,
        "reward_clipping": False,
        "use_fire_reset": False,
    }
    assert spec.observation == {"observation": ArraySpec((84, 84), "uint8")}
    assert spec.action.num_actions == 18
    assert spec.max_episode_steps == 108_000 // 4


def test_what_is_recorded_makes_the_same_environment_again():
    once = registry.env_spec(PONG, {"grayscale": False, "max_num_frames_per_episode": 402})
    assert once.observation["observation"].shape == (84, 84, 3)
    assert once.max_episode_steps == 101
    assert registry.env_spec(once.id, once.kwargs) == once


def test_options_line_names_every_option():
    spec = registry.env_spec("ALE/MsPacman", {"noop_max": 7})
    line = registry.options_line(spec)
    assert line.startswith("ALE/MsPacman-v5: ")
    assert "\n" not in line
    assert all(f"{name} {value}" in line for name, value in spec.kwargs.items())
    assert "noop_max 7" in line
    assert registry.options_line(registry.env_spec("CartPole-v1")) == ""


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"graysscale": True}, "takes no argument 'graysscale': did you mean 'grayscale'?"),
        ({"stack_num": 4}, "takes no argument 'stack_num'"),
        ({"game": "pong"}, "takes no argument 'game'"),
        (
            {"max_episode_steps": 9},
            "takes no argument 'max_episode_steps': it takes repeat_action_",
        ),
        ({"render_mode": "human"}, "takes no argument 'render_mode': it takes repeat_action_"),
        ({"frameskip": 0}, "frameskip must be above 0, got 0"),
        ({"frameskip": (2, 5)}, "frameskip must be a whole number, got (2, 5)"),
        ({"noop_max": -1}, "noop_max must be 0 or more"),
        ({"img_height": 10**9}, "img_height must be at most 1,024"),
        ({"repeat_action_probability": 1.5}, "repeat_action_probability must be in [0, 1]"),
        ({"reward_clipping": "no"}, "reward_clipping must be True or False, got 'no'"),
        ({"episodic_life": True}, "they come with Ape-X"),
        ({"life_loss_info": True}, "they come with Ape-X"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(kwargs, says):
    with pytest.raises(ConfigError) as refused:
        registry.make(PONG, 2, kwargs)
    assert says in str(refused.value)
    assert PONG in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("frameskip", 1, 1_000),
        ("img_height", 1, 1_024),
        ("img_width", 1, 1_024),
        ("noop_max", 0, 100_000),
        ("max_num_frames_per_episode", 1, None),
    ],
)
def test_what_an_option_may_be_at_least_and_at_most(name, least, most):
    for allowed in (least, most or 10**9):
        assert getattr(atari.Options(**{name: allowed}), name) == allowed
    for refused in (least - 1, most + 1) if most else (least - 1,):
        with pytest.raises(ConfigError, match=name):
            atari.Options(**{name: refused})


def test_a_seed_counts_with_its_lowest_31_bits():
    """ale-py takes no more."""
    frames = []
    with closing(atari.AtariVector("pong", 8)) as env:
        for more in (0, 2**31, 2**62, 2**30):
            found = env.reset(seed=np.arange(8) + more)[1]["episode_frame_number"]
            frames.append(found.tolist())
    assert frames[0] == frames[1] == frames[2] != frames[3]


def test_a_wrong_game_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ALE/Breakout-v5'"):
        registry.env_spec("ALE/Breakot-v5")


@pytest.mark.parametrize(
    "asked", ["PongNoFrameskip-v4", "Pong-v5", "Pong", "ALE/Pong-v4", "Pong-ramDeterministic-v0"]
)
def test_a_games_other_names_lead_to_it(asked):
    for _ in range(2):  # once it is looked for, ale-py is there with ids of its own
        with pytest.raises(ConfigError, match="did you mean 'ALE/Pong-v5'"):
            registry.env_spec(asked)


@pytest.mark.parametrize("asked", ["pong", "Pongo-v0", "PonggNoFrameskip-v4"])
def test_what_is_advised_is_no_old_name(asked):
    for _ in range(2):
        with pytest.raises(ConfigError, match="did you mean 'ALE/Pong-v5'"):
            registry.env_spec(asked)


def test_obs_type_asks_for_gymnasiums_single_environment():
    for env_id in (PONG, "ale_py:ALE/Pong-v5"):
        spec = registry.env_spec(env_id, {"obs_type": "ram"})
        assert (spec.id, dict(spec.kwargs)) == (env_id, {"obs_type": "ram"})
        assert spec.observation["observation"].shape == (128,)
        assert not registry.only_vectors(env_id, spec.kwargs)
        assert registry.only_vectors(env_id)


def test_atari_cannot_be_spread_over_processes():
    with pytest.raises(ConfigError, match="only as a whole vector"):
        registry.make(PONG, 2, processes=2)


@pytest.mark.parametrize("grayscale", [True, False])
def test_frames_are_ale_pys_own_and_never_change_later(grayscale):
    """Nothing is copied, so nothing may be written either."""
    actions = np.random.default_rng(0).integers(0, 18, (40, 3))
    theirs = bare("breakout", 3, grayscale=grayscale)
    wanted = [theirs.reset(seed=seeds(4, 5, 6))[0][:, 0]]
    wanted += [theirs.step(action)[0][:, 0] for action in actions]
    with closing(registry.make(BREAKOUT, 3, {"grayscale": grayscale})) as env:
        given = [env.reset(seeds(4, 5, 6))["observation"]]
        given += [env.step(action).observation["observation"] for action in actions]
    assert all(frame.flags.c_contiguous and frame.dtype == np.uint8 for frame in given)
    for frame, same in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(frame, same)
    assert len({frame.tobytes() for frame in given}) > 30


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_an_episode_is_the_same_in_any_slot_of_any_vector_on_any_threads(sticky, monkeypatch):
    actions = np.random.default_rng(1).integers(0, 18, 120)
    kwargs = {"repeat_action_probability": sticky}
    with closing(registry.make(BREAKOUT, 1, kwargs)) as env:
        env.reset(seeds(9))
        wanted = play(env, 0, actions)
        env.restart(mask(1, 0), seeds(9))
        assert play(env, 0, actions) == wanted  # after another episode
        env.restart(mask(1, 0), seeds(10))
        assert play(env, 0, actions) != wanted
    monkeypatch.setattr(atari, "processors", lambda: 3)
    with closing(registry.make(BREAKOUT, 4, kwargs)) as env:
        env.reset(seeds(1, 2, 3, 4))
        for action in actions[:7]:
            env.step(np.full(4, action))
        env.restart(mask(4, 2), seeds(0, 0, 9, 0))
        assert play(env, 2, actions) == wanted


def test_a_masked_reset_changes_no_other_slot_and_is_followed_by_a_real_step():
    actions = np.random.default_rng(2).integers(0, 18, (60, 3))
    with (
        closing(registry.make(BREAKOUT, 3)) as env,
        closing(registry.make(BREAKOUT, 3)) as undisturbed,
    ):
        for vector in (env, undisturbed):
            vector.reset(seeds(5, 6, 7))
        for number, action in enumerate(actions):
            ours, theirs = env.step(action), undisturbed.step(action)
            assert ours.valid.all()
            for name in ("reward", "terminated", "truncated"):
                assert (getattr(ours, name) == getattr(theirs, name))[[0, 2]].all()
            frames = ours.observation["observation"], theirs.observation["observation"]
            np.testing.assert_array_equal(frames[0][[0, 2]], frames[1][[0, 2]])
            if number % 20 == 10:
                begun = env.restart(mask(3, 1), seeds(0, number, 0))["observation"]
                np.testing.assert_array_equal(begun[[0, 2]], frames[0][[0, 2]])


@pytest.mark.parametrize("seed_once", [False, True])
def test_the_frame_cap_truncates_with_the_closing_observation(seed_once):
    """Trap 18. Every episode is cut after 40 real steps; the last frame is where they led.

    ale-py takes no picture of the very last frame of an episode that it cuts: a few pixels of what
    moves fast are older than they would be.
    """
    theirs = bare("pong", 3)  # the same episode without a cap, which no-ops do not count to
    with closing(registry.make(PONG, 3, SHORT, seed_once=seed_once)) as env:
        assert env.spec.max_episode_steps == 40
        first = env.reset(seeds(3, 4, 5))["observation"]
        np.testing.assert_array_equal(first, theirs.reset(seed=seeds(3, 4, 5))[0][:, 0])
        for episode in range(2):
            for number in range(1, 41):
                action = np.array([2, 5, number % 6])
                step = env.step(action)
                assert step.valid.all()
                assert not step.terminated.any()
                assert step.truncated.all() == step.truncated.any() == (number == 40)
                if not episode:
                    differ = step.observation["observation"] != theirs.step(action)[0][:, 0]
                    assert differ.mean() < 0.01 * (number == 40) + 1e-9
            begun = env.restart(step.truncated, seeds(6, 7, 8))["observation"]
            assert (begun != step.observation["observation"]).any((1, 2)).all()
            if not seed_once and not episode:
                wanted = bare("pong", 3).reset(seed=seeds(6, 7, 8))[0][:, 0]
                np.testing.assert_array_equal(begun, wanted)


def test_seed_once_draws_on_the_same_whatever_the_number_of_slots(monkeypatch):
    """A slot's later episodes follow from its first seed."""
    frames = []
    for slots, threads in ((1, 1), (3, 2)):
        monkeypatch.setattr(atari, "processors", lambda threads=threads: threads)
        with closing(registry.make(PONG, slots, SHORT, seed_once=True)) as env:
            env.reset(np.arange(slots) + 3)
            for number in range(1, 121):
                step = env.step(np.full(slots, number % 18))
                frames.append(step.observation["observation"][0].tobytes())
                if number % 40 == 0:
                    begun = env.restart(step.truncated, np.full(slots, slots))
                    frames.append(begun["observation"][0].tobytes())
    assert frames[: 120 + 3] == frames[120 + 3 :]


def test_a_lost_life_ends_nothing_by_default():
    """Trap 22: Breakout's five lives are one episode."""
    theirs = bare("breakout", 1)
    theirs.reset(seed=seeds(1))
    lives = []
    with closing(registry.make(BREAKOUT, 1)) as env:
        env.reset(seeds(1))
        while not lives or lives[-1] > 0:
            action = np.array([1 if len(lives) % 2 else 3])
            step, (*_, info) = env.step(action), theirs.step(action)
            lives.append(int(info["lives"][0]))
            assert step.terminated[0] == (lives[-1] == 0)
            assert not step.truncated[0]
    assert set(lives) == {5, 4, 3, 2, 1, 0}


@pytest.mark.parametrize("clipped", [False, True])
def test_rewards_are_raw_unless_they_are_clipped(clipped):
    """Trap 21: ale-py clips by default, we do not. An alien is worth 5 and more."""
    rewards = set()
    with closing(registry.make("ALE/SpaceInvaders-v5", 2, {"reward_clipping": clipped})) as env:
        env.reset(seeds(1, 2))
        for number in range(150):
            step = env.step(np.array([1, 11 if number % 2 else 12]))
            rewards |= set(step.reward.tolist())
            env.restart(step.terminated | step.truncated, seeds(1, 2))
    assert 0 in rewards
    assert (max(rewards) == 1) if clipped else (max(rewards) >= 5)


def test_no_ops_are_none_to_thirty_frames_and_the_option_takes_them_away():
    with closing(registry.make(PONG, 8)) as env, closing(bare("pong", 8)) as theirs:
        env.reset(np.arange(8))
        frames = theirs.reset(seed=np.arange(8))[1]["episode_frame_number"]
    assert 0 <= frames.min() < frames.max() <= 30
    with closing(registry.make(PONG, 8, {"noop_max": 0})) as env:
        first = env.reset(np.arange(8))["observation"]
    assert (first == first[0]).all()


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    with pytest.raises(ConfigError) as refused:
        registry.env_spec(PONG)
    assert "pip install 'recollect[atari]'" in str(refused.value)
    assert "\n" not in str(refused.value)
