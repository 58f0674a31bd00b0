"""The actor: what it records is what happened, whatever the vector, the mode and the split."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recollect.agents import r2d2, wiring
from recollect.agents.acting import EPISODE_BITS, EPOCH_BITS, SLOT_BITS, Actor, episode_uid
from recollect.agents.learning import FlatParameters
from recollect.agents.policy import Policy
from recollect.agents.r2d2 import R2D2Config
from recollect.envs import registry
from recollect.envs.vector import VectorEnv
from recollect.maths import exploration, philox
from recollect.parameters import Parameters, Version
from recollect.replay.blocks import Block
from recollect.replay.episodes import Item
from recollect.types import DivergedError, VectorStep
from tests.agents.clockwork import Clock, Constant, Counter

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
    parameters: Parameters | None = None,
    epsilons: Any = None,
    seed: int = 5,
    epoch: int = 0,
) -> Actor:
    spec = clock_spec(longest)
    network = network or Counter(spec)
    if parameters is None:
        parameters = Parameters()
        parameters.publish(Version(0, 0), FlatParameters(network).numpy())
    count = slots.stop - slots.start
    if epsilons is None:
        epsilons = exploration.epsilon_ladder(config.actors)
    return Actor(
        policy=Policy(network, spec, slots.start),
        env=env or make_vector(count, mode, longest),
        first_slot=slots.start,
        epsilons=np.asarray(epsilons),
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
        epoch=epoch,
    )


def take_turns(actor: Actor, turns: int) -> None:
    for _ in range(turns):
        actor.step()


def act(turns: int, **settings: Any) -> Tape:
    tape = Tape()
    take_turns(make_actor(tape, **settings), turns)
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


def test_a_step_in_which_a_slot_resets_itself_is_no_step() -> None:
    """Trap 18: an environment that resets itself in the step after an episode's end."""
    made = SyncVectorEnv([partial(Clock, 12)] * 4, autoreset_mode=AutoresetMode.NEXT_STEP)
    tape = Tape()
    actor = make_actor(tape, env=registry.wrap(made, "tests/Clock-v0", {}, masked_reset=False))
    take_turns(actor, 200)
    finished = [blocks for blocks in episodes(tape).values() if blocks[-1].last]
    assert len(finished) > 50
    for blocks in finished:
        clock = np.concatenate([b.observation["observation"][:, 0] for b in blocks])
        np.testing.assert_array_equal(clock, np.arange(len(clock)))
        rewards = np.concatenate([b.reward for b in blocks])
        np.testing.assert_array_equal(rewards, clock[1:])
        assert (blocks[0].previous_action, blocks[0].previous_reward) == (-1, 0)
        memory = np.concatenate([b.states[:1, 0] for b in blocks])
        np.testing.assert_array_equal(memory, np.arange(len(blocks)) * CONFIG.period)
    counts = actor.counts()
    assert counts["episodes"] == len(finished)
    # Each slot lost a turn per episode, but for a last one whose reset is still to come.
    assert 0 <= counts["env_steps"] - (4 * 200 - len(finished)) <= 4


def test_the_carry_of_a_slot_that_only_reset_itself_is_an_episodes_start() -> None:
    policy = Policy(Counter(clock_spec()), clock_spec())
    step = VectorStep(
        observation={"observation": np.zeros((3, 3), np.float32)},
        reward=np.array([10, 20, 30], np.float32),
        terminated=np.zeros(3, bool),
        truncated=np.zeros(3, bool),
        valid=np.array([True, False, True]),
        faults={},
    )
    state, actions = np.full((3, 3), 7, np.float32), np.array([2, 1, 0])
    carry = policy.advance(policy.start(3), step.observation, state, actions, step)
    assert carry.previous_action.tolist() == [2, -1, 0]
    assert carry.previous_reward.tolist() == [10, 0, 30]
    assert carry.recurrent_state[:, 0].tolist() == [7, 0, 7]


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


@pytest.mark.parametrize("epoch", [0, 2])
def test_draws_are_named_by_slot_episode_epoch_and_step(epoch: int) -> None:
    """Where every action is a random one, philox alone says which, and where episodes start."""
    tape = act(60, slots=slice(1, 4), epsilons=[1, 1, 1, 1], seed=9, epoch=epoch)
    found = episodes(tape)
    assert len(found) > 3 * 2
    for uid, blocks in found.items():
        slot, episode = (uid >> EPISODE_BITS) % 2**SLOT_BITS, uid % 2**EPISODE_BITS
        assert uid == episode_uid(epoch, slot, episode)
        assert slot in (1, 2, 3)
        actions = np.concatenate([b.action for b in blocks])
        draws = philox.uniforms(
            9, philox.Purpose.EXPLORATION, slot, episode, epoch, np.arange(len(actions))
        )
        np.testing.assert_array_equal(actions, np.floor(3 * draws[:, 1]))
        start = int(philox.seeds(9, philox.Purpose.RESET, slot, episode, epoch))
        first, _ = Clock(30).reset(seed=start)
        np.testing.assert_array_equal(blocks[0].observation["observation"][0], first)


def test_the_same_seed_gives_the_same_experience_and_another_seed_another() -> None:
    assert contents(act(60)) == contents(act(60))
    assert contents(act(60)) != contents(act(60, seed=6))


class Broken(Clock):
    """Gives a reward that is not a number at step 13 of its episodes of odd key."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.t == 13 and self.key % 2:
            reward = float("nan")
        return observation, reward, terminated, truncated, info


def test_an_episode_with_a_reward_that_is_not_finite_is_dropped_whole() -> None:
    vector = SyncVectorEnv([Broken] * 4, autoreset_mode=AutoresetMode.DISABLED)
    tape = Tape()
    actor = make_actor(tape, env=registry.wrap(vector, "tests/Clock-v0", {}))
    with pytest.warns(
        RuntimeWarning, match=r"slot \d.*episode \d+, step 13: .*the episode is drop"
    ):
        take_turns(actor, 130)
    dropped = actor.counts()["dropped_episodes"]
    assert dropped > 0
    assert len(tape.dropped) == dropped, "two blocks of 4 had been sent of each"
    assert not {i.episode for i in tape.items} & set(tape.dropped)
    for uid, blocks in episodes(tape).items():
        key, length = blocks[0].observation["observation"][0, [2, 1]]
        if uid in tape.dropped:
            assert key % 2
            # The third block and the first window were ready in the step that failed: not sent.
            assert sum(b.steps for b in blocks) == 8
        elif blocks[-1].last:
            assert key % 2 == 0 or length < 13
        assert all(np.isfinite(b.reward).all() for b in blocks)


def test_a_fault_in_an_episodes_first_block_leaves_nothing_to_drop_in_replay() -> None:
    class BrokenAtOnce(Clock):
        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            observation, reward, *rest = super().step(action)
            return (observation, reward if self.key % 8 else float("inf"), *rest)

    vector = SyncVectorEnv([BrokenAtOnce] * 4, autoreset_mode=AutoresetMode.DISABLED)
    tape = Tape()
    actor = make_actor(tape, env=registry.wrap(vector, "tests/Clock-v0", {}))
    with pytest.warns(RuntimeWarning, match="step 1: .*the episode is dropped"):
        take_turns(actor, 60)
    assert actor.counts()["dropped_episodes"] > 0
    assert tape.dropped == []


def test_an_actor_is_ready_when_replay_wants_steps_and_there_are_parameters() -> None:
    class Sated(Tape):
        def wants_insert(self) -> bool:
            return False

    assert make_actor(Tape()).ready()
    assert not make_actor(Sated()).ready()
    assert not make_actor(Tape(), parameters=Parameters()).ready()


def published(actor: Actor, parameters: Parameters, turns: int) -> None:
    """Let the actor act, with version t published before turn t."""
    vector = FlatParameters(Counter(clock_spec())).numpy()
    for turn in range(turns):
        parameters.publish(Version(0, turn), vector)
        actor.step()


def test_an_item_carries_the_version_that_acted_where_its_prefix_begins() -> None:
    """One slot and a new version at each of its steps, so that versions count the steps."""
    tape, parameters = Tape(), Parameters()
    config = replace(CONFIG, refresh_period=1)
    actor = make_actor(tape, config=config, slots=slice(0, 1), parameters=parameters, longest=40)
    published(actor, parameters, 200)
    first_turn = 0
    seen = 0
    for uid, blocks in episodes(tape).items():
        for item in (i for i in tape.items if i.episode == uid):
            begin = item.start - item.prefix
            assert item.version == first_turn + begin // 4 * 4, "of the block it begins in"
            seen += begin > 0
        first_turn += sum(b.steps for b in blocks)
    assert seen > 10


def test_parameters_are_fetched_every_refresh_period_steps() -> None:
    """At turns 0, 6, 12, ...: version v acts in turns v .. v + 5."""
    tape, parameters = Tape(), Parameters()
    actor = make_actor(tape, config=replace(CONFIG, refresh_period=6), parameters=parameters)
    published(actor, parameters, 200)
    assert {i.version % 6 for i in tape.items} == {0}
    assert len({i.version for i in tape.items}) > 20
    assert actor.metrics()["lag_updates"] == 199 - 198


def test_fetched_parameters_are_acted_with() -> None:
    """Slots that never explore take the action that the parameters name."""
    tape, parameters = Tape(), Parameters()
    actor = make_actor(
        tape,
        config=replace(CONFIG, refresh_period=1),
        network=Constant(clock_spec()),
        parameters=parameters,
        epsilons=[0, 0, 0, 0],
    )
    for turn in range(100):
        parameters.publish(Version(0, turn), np.full(16, turn % 3, np.float32))
        actor.step()
    whole = [blocks for blocks in episodes(tape).values() if blocks[0].episode % 2**32 == 0]
    assert len(whole) == 4
    for blocks in whole:  # the first episodes, which began at turn 0
        actions = np.concatenate([b.action for b in blocks])
        np.testing.assert_array_equal(actions, np.arange(len(actions)) % 3)


def test_acting_goes_on_where_nothing_newer_is_published() -> None:
    actor = make_actor(Tape(), config=replace(CONFIG, refresh_period=1))
    assert actor.metrics() == {}, "nothing has been done yet"
    take_turns(actor, 3)
    assert actor.counts()["env_steps"] == 3 * 4
    assert actor.metrics()["lag_updates"] == 0


class Timer(Clock):
    """A clock whose episodes all terminate after `steps` steps, having paid 1 + 2 + ... + steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.length, self.truncates = self.steps, False
        return self._observation(), {}


def test_returns_are_reported_raw_once_and_by_rung_of_the_ladder() -> None:
    """Trap 24: of 8 slots the 2 that explore least and the 2 that explore most."""
    steps = [1, 2, 3, 3, 3, 3, 4, 6]  # of an episode in each slot
    made = SyncVectorEnv([partial(Timer, n) for n in steps], autoreset_mode=AutoresetMode.DISABLED)
    actor = make_actor(
        Tape(),
        slots=slice(0, 8),
        env=registry.wrap(made, "tests/Clock-v0", {}),
        epsilons=[0.7, 0.8, 0.2, 0.3, 0.4, 0.5, 0.1, 0.0],
    )
    take_turns(actor, 12)
    figures = actor.metrics()
    episodes = 12 + 6 + 4 * 4 + 3 + 2
    assert figures["return_mean"] == pytest.approx(
        (12 * 1 + 6 * 3 + 4 * 4 * 6 + 3 * 10 + 2 * 21) / episodes
    )
    assert figures["return_mean_exploring"] == pytest.approx((12 * 1 + 6 * 3) / (12 + 6))
    assert figures["return_mean_exploiting"] == pytest.approx((3 * 10 + 2 * 21) / (3 + 2))
    assert figures["episode_steps_mean"] == pytest.approx(8 * 12 / episodes)
    assert actor.counts() == {
        "env_steps": 8 * 12,
        "episodes": episodes,
        "dropped_episodes": 0,
        "cut_short_episodes": 0,
        "env_failures": 0,
    }
    assert actor.metrics() == {"lag_updates": 0, "lag_seconds": 0}, "each episode is reported once"


def test_rungs_are_those_of_the_whole_run_over_processes() -> None:
    """Of 8 slots on two processes: the two that explore most are one's, the least the other's."""
    steps, figures = [1, 2, 3, 3, 3, 3, 4, 6], []
    for slots in (slice(0, 4), slice(4, 8)):
        makes = [partial(Timer, n) for n in steps[slots]]
        vector = SyncVectorEnv(makes, autoreset_mode=AutoresetMode.DISABLED)
        actor = make_actor(
            Tape(),
            slots=slots,
            env=registry.wrap(vector, "tests/Clock-v0", {}),
            epsilons=[0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
        )
        take_turns(actor, 12)
        figures.append(actor.metrics())
    assert figures[0]["return_mean_exploring"] == pytest.approx((12 * 1 + 6 * 3) / (12 + 6))
    assert figures[1]["return_mean_exploiting"] == pytest.approx((3 * 10 + 2 * 21) / (3 + 2))
    assert "return_mean_exploiting" not in figures[0]
    assert "return_mean_exploring" not in figures[1]


def test_a_window_is_sent_when_its_last_error_is_known_also_with_a_shortened_tail() -> None:
    """Trace 8 and n = 6: a window's last error needs 5 steps behind it that are in no window."""
    config = replace(CONFIG, n_step=6, n_step_tail="shorten", trace_length=8, period=4, burn_in=0)
    tape = act(200, config=config, longest=40)
    sent, seen = windows_and_priorities(tape), 0
    for uid, blocks in episodes(tape).items():
        if not blocks[-1].last:
            continue
        judged = act_again(blocks, config)
        for item in (i for i in tape.items if i.episode == uid):
            learned = judged[item.start : item.start + item.learned]
            expected = config.eta * learned.max() + (1 - config.eta) * learned.mean()
            assert item.priority == pytest.approx(float(expected), rel=1e-5)
            seen += item.learned == 8
    assert len(sent) == len(tape.items)
    assert seen > 20


def act_again(blocks: list[Block], config: R2D2Config) -> np.ndarray:
    """Absolute TD errors [T] of an episode that is whole, from one pass over all of it."""
    policy = Policy(Counter(clock_spec()), clock_spec())
    seen = [b.observation["observation"][: b.steps] for b in blocks[:-1]]
    observations = np.concatenate([*seen, blocks[-1].observation["observation"]])
    actions = np.concatenate([b.action for b in blocks])
    rewards = np.concatenate([b.reward for b in blocks])
    discounts = np.concatenate([b.discount for b in blocks])
    carry, values = policy.start(1), []
    for t, observation in enumerate(observations):
        value, carry.recurrent_state = policy({"observation": observation[None]}, carry)
        values.append(value[0])
        if t < len(actions):
            carry.previous_action[:], carry.previous_reward[:] = actions[t], rewards[t]
    return r2d2.absolute_errors(np.array(values), actions, rewards, discounts, config)


def test_what_an_actor_keeps_of_an_episode_does_not_grow_with_it() -> None:
    vector = SyncVectorEnv([partial(Timer, 10**6)], autoreset_mode=AutoresetMode.DISABLED)
    tape = Tape()
    actor = make_actor(tape, slots=slice(0, 1), env=registry.wrap(vector, "tests/Clock-v0", {}))
    kept = []
    for _ in range(3):
        take_turns(actor, 400)
        own = actor._slots[0]
        kept.append((sum(map(len, own.errors)), len(own.versions)))
    assert kept[0] == kept[1] == kept[2]
    assert max(kept[0]) < CONFIG.trace_length + CONFIG.burn_in + 2 * CONFIG.period
    assert len(tape.items) > 200


def test_values_that_are_not_finite_end_the_run_by_name() -> None:
    parameters = Parameters()
    parameters.publish(Version(0, 7), np.full(16, np.inf, np.float32))
    actor = make_actor(Tape(), parameters=parameters)
    with pytest.raises(DivergedError, match=r"values are not finite .* after 7 updates: lower le"):
        take_turns(actor, 3)


def test_rewards_too_large_for_an_error_end_the_run_by_name() -> None:
    class Rich(Clock):
        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            observation, _, *rest = super().step(action)
            return (observation, 3e38, *rest)

    vector = SyncVectorEnv([Rich] * 4, autoreset_mode=AutoresetMode.DISABLED)
    actor = make_actor(Tape(), env=registry.wrap(vector, "tests/Clock-v0", {}))
    with pytest.raises(DivergedError, match="scale rewards and observations down"):
        take_turns(actor, 40)


def test_a_single_slot_is_the_most_and_the_least_exploring_one() -> None:
    actor = make_actor(Tape(), slots=slice(0, 1), epsilons=[0.3])
    take_turns(actor, 60)
    figures = actor.metrics()
    assert figures["return_mean_exploiting"] == figures["return_mean"]
    assert figures["return_mean_exploring"] == figures["return_mean"]


def test_a_new_life_of_an_actor_counts_on_from_what_earlier_ones_had_added() -> None:
    """R1, R8: environment steps, episodes, what was dropped, and failures of environments."""
    actor = make_actor(Tape())
    before = {name: 100 + i for i, name in enumerate(actor.counts())}
    actor.go_on_from(before)
    assert actor.counts() == before
    take_turns(actor, 3)
    assert actor.counts() == before | {"env_steps": before["env_steps"] + 12}


def test_episode_uids_are_ordered_by_epoch_slot_and_number() -> None:
    last_slot, last_episode = 2**SLOT_BITS - 1, 2**EPISODE_BITS - 1
    uids = [
        episode_uid(epoch, slot, episode)
        for epoch in (0, 1, 2**EPOCH_BITS - 1)
        for slot in (0, 1, last_slot)
        for episode in (0, 7, last_episode)
    ]
    assert uids == sorted(set(uids))
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


def test_a_slot_is_computed_in_the_row_of_its_global_number() -> None:
    """Modulo `ROWS`, whichever slots are computed with it."""

    class Row(Constant):
        """Values say in which row of a batch of `ROWS` they were computed."""

        def forward(self, *inputs: Any) -> Any:
            values, state = super().forward(*inputs)
            assert values.shape[1] == Policy.ROWS
            return torch.arange(Policy.ROWS)[None, :, None].expand_as(values), state

    for first_slot, slots in ((0, 3), (5, 30), (Policy.ROWS + 3, 2)):
        policy = Policy(Row(clock_spec()), clock_spec(), first_slot)
        values, _ = policy({"observation": np.zeros((slots, 3), np.float32)}, policy.start(slots))
        expected = np.arange(first_slot, first_slot + slots) % Policy.ROWS
        np.testing.assert_array_equal(values[:, 0], expected)


def test_gymnasium_clock_is_a_proper_environment() -> None:
    env = gymnasium.make("tests/Clock-v0")
    first, _ = env.reset(seed=3)
    assert first[0] == 0
