"""The memory environments: exact rules, and that nobody without memory can solve them."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.utils.env_checker import check_env

from recollect.envs.memory import PositionCartPole, Recall, TMaze

FORWARD, LEFT, RIGHT = TMaze.FORWARD, TMaze.LEFT, TMaze.RIGHT
NONE = -1


def seeds_by_cue(env, cues):
    """For each sequence of cues of an episode, a seed that gives it."""
    found = {}
    for seed in range(400):
        env.reset(seed=seed)
        drawn = []
        for _ in range(len(cues[0])):
            drawn.append(env._cue if isinstance(env, Recall) else env._sign)
            if isinstance(env, Recall):
                for _ in range(env.delay + 2):
                    env.step(0)
                    if not env._running:
                        break
        found.setdefault(tuple(drawn), seed)
    return {cue: found[cue] for cue in cues}


def play(env, seed, policy):
    """Return of one episode of `policy(observation, previous_action, previous_reward)`."""
    observation, _ = env.reset(seed=seed)
    action, reward, total, over = NONE, 0.0, 0.0, False
    while not over:
        action = policy(int(observation.argmax()), action, reward)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += reward
        over = terminated or truncated
    return total


def mean_return(env, seeds, policy):
    return float(np.mean([play(env, seed, policy) for seed in seeds.values()]))


def best_table(env, seeds, keys, key):
    """The best mean return of all tables from `key(observation, action, reward)` to an action."""
    best = -np.inf
    for actions in itertools.product(range(env.action_space.n), repeat=len(keys)):
        table = dict(zip(keys, actions, strict=True))
        best = max(best, mean_return(env, seeds, lambda o, a, r, t=table: t[key(o, a, r)]))
    return best


class TestPositionCartPole:
    def test_passes_gymnasiums_checker(self):
        check_env(PositionCartPole(), skip_render_check=True)

    def test_is_cart_pole_seen_through_position_and_angle(self):
        ours, theirs = PositionCartPole(), CartPoleEnv()
        scale = np.array([1.0, np.deg2rad(12)])
        rng = np.random.default_rng(0)
        for seed in range(5):
            seen, _ = ours.reset(seed=seed)
            whole, _ = theirs.reset(seed=seed)
            over = False
            while not over:
                assert seen.dtype == np.float32
                assert seen.shape == (2,)
                np.testing.assert_allclose(seen * scale, whole[[0, 2]], rtol=1e-6)
                assert ours.observation_space.contains(seen)
                action = int(rng.integers(2))
                seen, reward, over, *_ = ours.step(action)
                whole, their_reward, their_over, *_ = theirs.step(action)
                assert (reward, over) == (their_reward, their_over)
            assert np.abs(seen).max() > 1  # an episode ends where |observation| passes 1


class TestRecall:
    @pytest.mark.parametrize("kwargs", [{}, {"delay": 0}, {"delay": 3, "cues": 5, "trials": 2}])
    def test_passes_gymnasiums_checker(self, kwargs):
        check_env(Recall(**kwargs), skip_render_check=True)

    def test_a_round_is_cue_delay_question(self):
        env = Recall(delay=3, cues=2, trials=2)
        seeds = seeds_by_cue(env, [(0, 1)])
        rows = [env.reset(seed=seeds[0, 1])[0]]
        rewards, ends = [], []
        #          cue  delays   question: right (0)  cue  delays   question: wrong (0, not 1)
        for action in [1, 1, 0, 1, 0, 0, 0, 0, 1, 0]:
            observation, reward, terminated, truncated, _ = env.step(action)
            rows.append(observation)
            rewards.append(reward)
            ends.append((terminated, truncated))
        cue_0, cue_1, wait, ask, over = (
            [1, 0, 0, 0],
            [0, 1, 0, 0],
            [0, 0, 1, 0],
            [0, 0, 0, 1],
            [0] * 4,
        )
        np.testing.assert_array_equal(
            rows, [cue_0, wait, wait, wait, ask, cue_1, wait, wait, wait, ask, over]
        )
        assert rewards == [0, 0, 0, 0, 1, 0, 0, 0, 0, -1]
        assert ends == [(False, False)] * 9 + [(True, False)]
        assert env.max_episode_steps == 10 == len(rewards)

    def test_one_who_remembers_earns_one_a_trial(self):
        env = Recall(delay=4, cues=3, trials=5)
        for seed in range(5):
            cue = []

            def remember(observation, action, reward, cue=cue):
                if observation < env.cues:
                    cue[:] = [observation]
                return cue[0]

            assert play(env, seed, remember) == 5

    def test_cues_are_uniform_and_independent_between_trials(self):
        env = Recall(delay=0, cues=2, trials=2)
        pairs = np.zeros((2, 2), int)
        for seed in range(400):
            first = env.reset(seed=seed)[0][:2].argmax()
            env.step(0)
            pairs[first, env.step(0)[0][:2].argmax()] += 1
        # 400 episodes: each of the 4 pairs 100 times, give or take 4.6 standard deviations.
        assert np.abs(pairs - 100).max() < 4.6 * np.sqrt(400 * 0.25 * 0.75)

    @pytest.mark.parametrize(
        "kwargs",
        [{"delay": -1}, {"cues": 1}, {"trials": 0}, {"delay": 1.5}, {"cues": True}],
    )
    def test_bad_arguments_are_named_with_what_was_wanted(self, kwargs):
        name, value = next(iter(kwargs.items()))
        with pytest.raises(ValueError, match=f"{name} is {value}, an integer from"):
            Recall(**kwargs)

    def test_steps_outside_an_episode_and_unknown_actions_are_refused(self):
        env = Recall(delay=0)
        with pytest.raises(RuntimeError, match="call reset first"):
            env.step(0)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="action is -1, 0 to 1 was wanted"):
            env.step(-1)
        env.step(0)
        env.step(0)
        with pytest.raises(RuntimeError, match="call reset first"):
            env.step(0)


class TestTMaze:
    @pytest.mark.parametrize("length", [1, 7])
    def test_passes_gymnasiums_checker(self, length):
        check_env(TMaze(length), skip_render_check=True)

    @pytest.mark.parametrize(("turn", "reward"), [(LEFT, 1.0), (RIGHT, -1.0)])
    def test_the_walk_to_the_junction_and_the_turn(self, turn, reward):
        env = TMaze(length=3)
        seed = seeds_by_cue(env, [(0,)])[0,]
        rows, rewards = [env.reset(seed=seed)[0]], []
        for action in [RIGHT, FORWARD, LEFT, FORWARD, FORWARD, FORWARD, turn]:
            observation, earned, terminated, truncated, _ = env.step(action)
            rows.append(observation)
            rewards.append(earned)
            assert not truncated
            assert terminated == (len(rewards) == 7)
        sign, corridor, junction = [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]
        np.testing.assert_array_equal(
            rows, [sign, sign, corridor, corridor, corridor, junction, junction, [0] * 4]
        )
        assert rewards == [-1, 0, -1, 0, 0, -1, reward]

    def test_one_who_remembers_earns_one(self):
        env = TMaze(length=30)
        for sign, seed in ((0, 0), (1, 0)):
            seed = seeds_by_cue(env, [(sign,)])[sign,]
            assert play(env, seed, lambda o, a, r, s=sign: LEFT + s if o == 3 else FORWARD) == 1.0

    def test_truncates_after_twice_the_length_and_ten_steps(self):
        env = TMaze(length=2)
        env.reset(seed=0)
        ends = [env.step(LEFT)[2:4] for _ in range(14)]
        assert ends == [(False, False)] * 13 + [(False, True)]
        assert env.max_episode_steps == 14

    def test_a_turn_on_the_last_step_terminates_and_does_not_truncate(self):
        env = TMaze(length=1)
        env.reset(seed=0)
        for action in [FORWARD] + [FORWARD] * 10:
            env.step(action)
        assert env.step(LEFT)[2:4] == (True, False)

    @pytest.mark.parametrize("length", [0, 2.0, None])
    def test_bad_length_is_refused(self, length):
        with pytest.raises(ValueError, match=f"length is {length}, an integer from 1 was wanted"):
            TMaze(length)


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize(("cues", "chance"), [(2, 0.0), (3, 2 / 3 - 1)])
def test_trap_32_no_table_of_the_observation_beats_chance_on_recall(delay, cues, chance):
    """Trap 32: every table from observation to action, all played on every cue."""
    env = Recall(delay, cues)
    seeds = seeds_by_cue(env, [(cue,) for cue in range(cues)])
    seen = range(cues + 2)
    best = best_table(env, seeds, seen, lambda o, a, r: o)
    assert best == pytest.approx(chance)


def test_trap_32_previous_reward_and_step_number_say_nothing_on_recall():
    """Trap 32: trials follow each other, so the reward of one is seen with the cue of the next."""
    env = Recall(delay=1, cues=2, trials=2)
    seeds = seeds_by_cue(env, list(itertools.product(range(2), repeat=2)))
    # (observation, previous reward) as they can occur: rewards come with the second trial's cue.
    keys = [(0, 0), (1, 0), (0, 1), (1, 1), (0, -1), (1, -1), (2, 0), (3, 0)]
    assert best_table(env, seeds, keys, lambda o, a, r: (o, r)) == 0.0
    # With the same actions, episodes differ in the cues shown and in the answers' pay alone.
    for actions in itertools.product(range(2), repeat=6):
        trails = []
        for seed in seeds.values():
            env.reset(seed=seed)
            trails.append([(row[2:].tolist(), *rest[1:3]) for row, *rest in map(env.step, actions)])
        assert all(trail == trails[0] for trail in trails)


def test_trap_32_previous_action_solves_recall_so_a_control_must_not_see_it():
    """Trap 32: name the cue at once and repeat yourself; what the docstring warns of."""
    env = Recall(delay=30)
    seeds = seeds_by_cue(env, [(0,), (1,)])
    assert mean_return(env, seeds, lambda o, a, r: o if o < env.cues else a) == 1.0


@pytest.mark.parametrize("length", [1, 4])
def test_trap_32_no_table_of_the_observation_beats_chance_on_the_t_maze(length):
    """Trap 32: every table from observation to action; refusing one of the signs does not pay."""
    env = TMaze(length)
    seeds = seeds_by_cue(env, [(0,), (1,)])
    assert best_table(env, seeds, range(4), lambda o, a, r: o) == 0.0


def test_trap_32_nothing_at_the_junction_tells_the_signs_apart():
    """Trap 32: observation, previous action and previous reward there are the same for both."""
    env = TMaze(length=2)
    seeds = seeds_by_cue(env, [(0,), (1,)])
    for actions in itertools.product(range(3), repeat=5):
        seen = []
        for seed in seeds.values():
            observation, _ = env.reset(seed=seed)
            trail = []
            for action in actions:
                observation, reward, over, *_ = env.step(action)
                if over:
                    break
                # Before the first step into the corridor the sign itself is in view.
                shown = observation.tolist() if observation[:2].sum() == 0 else "sign"
                trail.append((shown, reward))
                if shown == [0, 0, 0, 1]:
                    assert action == FORWARD
                    assert reward in (0.0, -1.0)
            seen.append(trail)
        assert seen[0] == seen[1]


def test_trap_32_time_cannot_be_read_in_the_t_maze():
    """Trap 32: who waits on one sign sees in the corridor what who does not sees."""
    env = TMaze(length=3)
    views = {}
    for waits in range(4):
        env.reset(seed=0)
        for _ in range(waits):
            env.step(RIGHT)
        views[waits] = [env.step(FORWARD)[:2] for _ in range(3)]
    for waits in range(1, 4):
        for (now, reward), (then, other) in zip(views[0], views[waits], strict=True):
            np.testing.assert_array_equal(now, then)
            assert reward == other


def test_seeds_fix_the_episode_and_unseeded_resets_go_on():
    for env in (Recall(delay=0), TMaze(1)):
        first = [env.reset(seed=7)[0].argmax()] + [env.reset()[0].argmax() for _ in range(20)]
        again = [env.reset(seed=7)[0].argmax()] + [env.reset()[0].argmax() for _ in range(20)]
        assert first == again
        assert set(first) == {0, 1}


def test_render_modes_are_none_or_those_inherited():
    assert Recall().render_mode is None
    assert gym.Env.render_mode is None
    assert "rgb_array" in PositionCartPole.metadata["render_modes"]
