"""The actor: what it records is what happened, whatever the vector, the mode and the split."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recollect.agents import r2d2, wiring
from recollect.agents.acting import Actor, Policy, episode_uid
from recollect.agents.learning import FlatParameters
from recollect.agents.r2d2 import R2D2Config
from recollect.envs import registry
from recollect.envs.vector import VectorEnv
from recollect.maths import exploration
from recollect.parameters import Parameters, Version
from recollect.replay.blocks import Block
from recollect.replay.episodes import Item
from tests.agents.clockwork import Clock, Counter

CONFIG = R2D2Config(
    actors=4,
    burn_in=3,
    trace_length=8,
    period=4,
    n_step=3,
    gamma=0.9,
    replay_steps=5000,
    min_replay_steps=1,
    batch_size=7,
    rewards="raw",
)


class Tape:
    """Stands in for replay and keeps what it is given."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.items: list[Item] = []
        self.dropped: list[int] = []

    def wants_insert(self) -> bool:
        return True

    def insert(self, blocks: list[Block], items: list[Item]) -> None:
        self.blocks += blocks
        self.items += items

    def drop_episode(self, episode: int) -> None:
        self.dropped.append(episode)


def clock_spec(longest: int = 30) -> Any:
    return registry.env_spec("tests/Clock-v0", {"longest": longest})


def make_vector(slots: int, mode: AutoresetMode, longest: int = 30) -> VectorEnv:
    made = SyncVectorEnv([partial(Clock, longest)] * slots, autoreset_mode=mode)
    return registry.wrap(made, "tests/Clock-v0", {"longest": longest})


def make_actor(
    replay: Any,
    *,
    config: R2D2Config = CONFIG,
    mode: AutoresetMode = AutoresetMode.DISABLED,
    slots: slice = slice(0, 4),
    longest: int = 30,
    env: VectorEnv | None = None,
    network: Any = None,
    seed: int = 5,
) -> Actor:
    spec = clock_spec(longest)
    network = network or Counter(spec)
    parameters = Parameters()
    parameters.publish(Version(0, 0), FlatParameters(network).numpy())
    count = slots.stop - slots.start
    return Actor(
        policy=Policy(network, spec, slots.start),
        env=env or make_vector(count, mode, longest),
        first_slot=slots.start,
        epsilons=exploration.epsilon_ladder(config.actors)[slots],
        replay=replay,
        parameters=parameters,
        windows=config.windows(),
        block_spec=wiring.block_spec(config, spec, network.state_size),
        n_step=config.n_step,
        gamma=config.gamma,
        eta=config.eta,
        refresh_period=config.refresh_period,
        absolute_errors=partial(r2d2.absolute_errors, config=config),
        seed=seed,
    )


def act(turns: int, **settings: Any) -> Tape:
    tape = Tape()
    actor = make_actor(tape, **settings)
    for _ in range(turns):
        actor.step()
    return tape


def contents(tape: Tape) -> dict[tuple[int, int], bytes]:
    return {(b.episode, b.index): bytes(b.buffer) for b in tape.blocks}


def windows_and_priorities(tape: Tape) -> dict[tuple[int, int], Item]:
    return {(i.episode, i.start): i for i in tape.items}


def episodes(tape: Tape) -> dict[int, list[Block]]:
    found: dict[int, list[Block]] = {}
    for block in tape.blocks:
        found.setdefault(block.episode, []).append(block)
    return found


def test_blocks_hold_what_the_environment_did() -> None:
    for blocks in episodes(act(200)).values():
        assert [b.index for b in blocks] == list(range(len(blocks)))
        clock = np.concatenate([b.observation["observation"][:, 0] for b in blocks])
        np.testing.assert_array_equal(clock, np.arange(len(clock)))
        rewards = np.concatenate([b.reward for b in blocks])
        np.testing.assert_array_equal(rewards, np.arange(1, len(rewards) + 1))
        assert not any(b.last for b in blocks[:-1])
        if blocks[-1].last:
            assert len(clock) == len(rewards) + 1, "the closing observation is there"
            assert len(rewards) == clock.max() == blocks[0].observation["observation"][0, 1]


def test_discount_is_zero_only_where_an_episode_terminates() -> None:
    """Traps 18 and 19: truncation keeps its discount, and no step is there twice."""
    kinds = set()
    for blocks in episodes(act(300)).values():
        discounts = np.concatenate([b.discount for b in blocks])
        assert (discounts[:-1] == np.float32(0.9)).all()
        if blocks[-1].last:
            kinds.add(float(discounts[-1]))
    assert kinds == {0.0, float(np.float32(0.9))}


def test_trap_03_a_state_is_the_one_before_its_observation() -> None:
    """Traps 1, 2, 3 (S0-11): the counting memory equals the step number at every place kept."""
    tape = act(300)
    offsets = wiring.block_spec(CONFIG, clock_spec(), 3).state_offsets
    assert offsets == (0, 1), "a prefix of 3 steps begins one step into a block of 4"
    for blocks in episodes(tape).values():
        for block in blocks:
            kept = [o for o in offsets if o < block.steps]
            expected = [block.index * CONFIG.period + o for o in kept]
            np.testing.assert_array_equal(block.states[:, 0], expected)


def test_trap_33_the_previous_action_and_reward_travel_with_the_block() -> None:
    for blocks in episodes(act(200)).values():
        assert blocks[0].previous_action == -1
        assert blocks[0].previous_reward == 0
        for before, block in pairwise(blocks):
            assert block.previous_action == before.action[-1]
            assert block.previous_reward == before.reward[-1]


def test_an_item_is_sent_once_for_every_window_of_a_finished_episode() -> None:
    tape = act(300)
    sent = windows_and_priorities(tape)
    assert len(sent) == len(tape.items)
    for uid, blocks in episodes(tape).items():
        if blocks[-1].last:
            steps = sum(b.steps for b in blocks)
            expected = CONFIG.windows().windows_of(steps)
            found = [sent[uid, w.start] for w in expected]
            assert [(i.start, i.prefix, i.learned, i.tail) for i in found] == [
                (w.start, w.prefix, w.learned, w.tail) for w in expected
            ]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_trap_18_the_auto_reset_mode_changes_no_bit(mode: AutoresetMode) -> None:
    reference, other = act(250), act(250, mode=mode)
    assert len(reference.blocks) > 100
    assert contents(other) == contents(reference)
    assert windows_and_priorities(other) == windows_and_priorities(reference)


@pytest.mark.parametrize("cut", [1, 2])
def test_the_number_of_slots_per_process_changes_no_bit(cut: int) -> None:
    """Real network, whose matrix kernels round by the number of rows: see `Policy.ROWS`."""
    spec = clock_spec()
    config = R2D2Config(
        **{**CONFIG.__dict__, "torso_sizes": (16,), "pre_core": 0, "hidden": 64, "head_hidden": 32}
    )

    def network() -> Any:
        return wiring.q_network(config, spec, 3)

    whole = act(150, network=network(), config=config)
    first = act(150, network=network(), config=config, slots=slice(0, cut))
    second = act(150, network=network(), config=config, slots=slice(cut, 4))
    assert contents(whole) == contents(first) | contents(second)
    assert windows_and_priorities(whole) == windows_and_priorities(first) | windows_and_priorities(
        second
    )


def test_the_same_seed_gives_the_same_experience_and_another_seed_another() -> None:
    assert contents(act(60)) == contents(act(60))
    assert contents(act(60)) != contents(act(60, seed=6))


class Broken(Clock):
    """Gives a reward that is not a number at the given step of its episodes of odd key."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.t == 9 and self.key % 2:
            reward = float("nan")
        return observation, reward, terminated, truncated, info


def test_an_episode_with_a_reward_that_is_not_finite_is_dropped_whole() -> None:
    vector = SyncVectorEnv([Broken] * 4, autoreset_mode=AutoresetMode.DISABLED)
    tape = Tape()
    actor = make_actor(tape, env=registry.wrap(vector, "tests/Clock-v0", {}))

    def act() -> None:
        for _ in range(300):
            actor.step()

    with pytest.warns(RuntimeWarning, match=r"slot \d.*episode \d+, step 9: the episode is drop"):
        act()
    dropped = actor.counts()["dropped_episodes"]
    assert dropped > 0
    assert len(tape.dropped) == dropped, "two blocks of 4 had been sent of each"
    for uid, blocks in episodes(tape).items():
        key, length = blocks[0].observation["observation"][0, [2, 1]]
        if uid in tape.dropped:
            assert key % 2
            assert sum(b.steps for b in blocks) <= 8
        elif blocks[-1].last:
            assert key % 2 == 0 or length < 9
        assert all(np.isfinite(b.reward).all() for b in blocks)


def test_a_refresh_takes_the_latest_parameters_and_items_carry_the_oldest_version() -> None:
    tape = Tape()
    config = R2D2Config(**{**CONFIG.__dict__, "refresh_period": 6})
    actor = make_actor(tape, config=config, longest=40)
    for turn in range(200):
        actor.step()
        vector = np.zeros(16, np.float32)
        vector[:3] = [0.5, -0.25, 0.125]
        actor._parameters.publish(Version(0, turn + 1), vector)
    # A refresh happens at turns 0, 6, 12, ...: version v acts in turns v .. v + 5.
    assert {i.version % 6 for i in tape.items} == {0}
    assert actor.metrics()["lag_updates"] == 200 - 198
    for uid, blocks in episodes(tape).items():
        versions = [i.version for i in tape.items if i.episode == uid]
        assert versions == sorted(versions)
        assert len(blocks) > 0


def test_returns_by_rung_are_reported_raw() -> None:
    tape = Tape()
    actor = make_actor(tape)
    for _ in range(100):
        actor.step()
    figures = actor.metrics()
    ends = [b for b in tape.blocks if b.last]
    lengths = [b.observation["observation"][-1, 0] for b in ends]
    assert figures["return_mean"] == pytest.approx(np.mean([n * (n + 1) / 2 for n in lengths]))
    assert {"return_mean_exploiting", "return_mean_exploring"} <= figures.keys()
    assert actor.counts()["env_steps"] == 400
    assert "return_mean" not in actor.metrics(), "each episode is reported once"


def test_episode_uids_differ_by_epoch_slot_and_number() -> None:
    uids = {episode_uid(e, s, n) for e in (0, 1, 200) for s in (0, 1, 2**23 - 1) for n in (0, 7)}
    assert len(uids) == 3 * 3 * 2
    assert max(uids) < 2**63


def test_policy_rows_do_not_depend_on_each_other() -> None:
    spec = clock_spec()
    config = R2D2Config(torso_sizes=(16,), pre_core=0, hidden=32, head_hidden=16)
    policy = Policy(wiring.q_network(config, spec, 1), spec)
    rng = np.random.default_rng(0)
    observation = {"observation": rng.normal(size=(21, 3)).astype(np.float32)}
    carry = policy.start(21)
    values, state = policy(observation, carry)
    assert values.shape == (21, 3)
    assert state.shape == (21, 64)
    changed = {"observation": observation["observation"].copy()}
    changed["observation"][3] += 1
    again, _ = policy(changed, carry)
    others = np.arange(21) != 3
    np.testing.assert_array_equal(again[others], values[others])
    assert (again[3] != values[3]).any()


def test_gymnasium_clock_is_a_proper_environment() -> None:
    env = gymnasium.make("tests/Clock-v0")
    first, _ = env.reset(seed=3)
    assert first[0] == 0
