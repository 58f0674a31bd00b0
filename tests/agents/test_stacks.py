"""Stacks of frames: seen while acting, rebuilt from replay, and the same wherever a policy acts."""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import recollect
from recollect import presets
from recollect.agents import r2d2, wiring
from recollect.agents.acting import Actor
from recollect.agents.evaluating import evaluate, evaluation_seeds
from recollect.agents.learning import FlatParameters
from recollect.agents.policy import Policy
from recollect.agents.r2d2 import Learner, R2D2Config
from recollect.envs import registry
from recollect.envs.vector import VectorEnv
from recollect.networks.recurrent_q import RecurrentQ
from recollect.parameters import Parameters, Version
from recollect.recording import record
from recollect.replay.batch import Batch, Draw
from recollect.replay.blocks import Block
from recollect.replay.store import Replay
from recollect.types import NO_ACTION, ActionSpec, ArraySpec, ConfigError, EnvSpec
from tests.agents import pictures
from tests.agents.pictures import STACK, Noting, Pictures, frame, named, noting, wanted
from tests.agents.test_acting import Tape, take_turns
from tests.untrained import loaded

ENV = "tests/Pictures-v0"
CONFIG = R2D2Config(
    actors=3,
    burn_in=3,
    trace_length=8,
    period=4,
    n_step=3,
    gamma=0.9,
    refresh_period=10_000,
    replay_steps=200,
    min_replay_steps=1,
    replay_ratio=1e6,
    batch_size=7,
    frame_stack=STACK,
    pre_core=8,
    hidden=6,
    head_hidden=5,
    dtype="float32",
    evaluation_period=0,
)
WINDOWS = [(3, 8, 4), (4, 8, 4), (0, 7, 7), (5, 9, 3), (3, 6, 5), (13, 4, 2), (1, 3, 1), (0, 1, 1)]
"""Burn-in, trace and period; few of these divide the episodes' lengths."""
MODES = [*AutoresetMode, "by itself"]
"""By itself: with a step that does nothing but reset, as no mask can be given."""


def spec() -> Any:
    return registry.env_spec(ENV)


def geometry(burn_in: int, trace_length: int, period: int, **settings: Any) -> R2D2Config:
    return dataclasses.replace(
        CONFIG,
        burn_in=burn_in,
        trace_length=trace_length,
        period=period,
        n_step=min(3, trace_length),
        **settings,
    )


class Life:
    """An actor, its network that notes everything, a learner, and the replay between them."""

    def __init__(self, config: R2D2Config = CONFIG, seed: int = 5) -> None:
        self.config = config
        self.network = noting(spec(), config)
        parameters = Parameters()
        self.replay: Replay = wiring.make_replay(
            config, wiring.block_spec(config, spec(), self.network.state_size)
        )
        self.learner = Learner(
            config, self.replay, parameters, partial(noting, spec(), config), seed=3
        )
        networks = iter([self.network])
        errors = partial(r2d2.absolute_errors, config=config)
        self.actor = wiring.make_actor(
            config,
            spec(),
            seed,
            0,
            lambda: next(networks),
            errors,
            replay=self.replay,
            parameters=parameters,
        )

    def everything(self) -> tuple[Draw, Batch]:
        """Every window once; draws must be uniform."""
        draw = self.replay.draw((np.arange(len(self.replay)) + 0.5) / len(self.replay))
        return draw, self.replay.gather(draw)


def columns(batch: Batch, b: int) -> range:
    """The columns of window b in which there is an observation, the closing one included."""
    real = np.flatnonzero(batch.mask[:, b])
    return range(real[0], real[-1] + 2)


# -- from the actor through replay -----------------------------------------------------------------


@pytest.mark.parametrize(("burn_in", "trace_length", "period"), WINDOWS)
def test_trap_34_a_stack_from_replay_is_the_one_that_was_seen(
    burn_in: int, trace_length: int, period: int
) -> None:
    """And trap 33: also after eviction of the block before, and at every kind of ending."""
    life = Life(geometry(burn_in, trace_length, period, prioritized=False))
    starts = orphans = closings = 0
    for turn in range(240):
        life.actor.step()
        if turn % 24 or not len(life.replay):
            continue
        draw, batch = life.everything()
        images = batch.observation["observation"]  # [C + T + 1, B, H, W]
        for b in range(len(batch.uids)):
            span = columns(batch, b)
            key, first = named(images[span[0] + STACK - 1, b])
            assert (first > 0) == batch.mid_episode[b]
            starts += first == 0
            episode = life.replay._contents.episodes[draw.blocks[b, 0].episode]
            begins = episode.first * period  # earlier blocks have gone
            orphans += begins > 0 and first - (STACK - 1) < begins
            for column in span:
                t, stack = first + column - span[0], images[column : column + STACK, b]
                np.testing.assert_array_equal(stack, wanted(key, t))
                if (key, t) not in life.network.seen:
                    # Nobody acts on the observation after the last step, or nobody has yet.
                    closings += 1
                    assert column == span[-1]
                    continue
                for seen in life.network.seen[key, t]:
                    np.testing.assert_array_equal(stack, seen)
                _, action, reward = life.network.lived[key, t]
                if column < span[-1]:
                    assert batch.previous_action[column, b] == action
                    assert batch.previous_reward[column, b] == np.float32(reward)
    life.network.judge()
    assert life.replay.metrics()["evicted_items"] > 0
    assert starts
    assert orphans, "no window was drawn whose stack reaches into a block that has gone"
    assert closings


@pytest.mark.parametrize(("burn_in", "trace_length", "period"), WINDOWS[:5])
def test_trap_01_a_window_begins_with_the_state_that_the_frames_before_it_make(
    burn_in: int, trace_length: int, period: int
) -> None:
    """As it was bit for bit, and made again from the episode's first frame to rounding."""
    life = Life(geometry(burn_in, trace_length, period))
    take_turns(life.actor, 150)
    batch = life.replay.sample(np.random.default_rng(1).random(40))
    images = batch.observation["observation"]
    middle = 0
    for b in range(40):
        key, first = named(images[columns(batch, b)[0] + STACK - 1, b])
        state, _, _ = life.network.lived[key, first]
        np.testing.assert_array_equal(batch.recurrent_state[b], state)
        if first == 0:
            assert not state.any()
            continue
        middle += 1
        none = [np.zeros_like(frame(key, 0))] * (STACK - 1)
        rows = np.stack(none + [frame(key, t) for t in range(first)])[:, None]
        lived = [life.network.lived[key, t] for t in range(first)]
        with torch.no_grad():
            _, made = RecurrentQ.forward(
                life.network,
                {"observation": torch.from_numpy(rows)},
                torch.tensor([[action] for _, action, _ in lived]),
                torch.tensor([[reward] for *_, reward in lived]),
                torch.zeros(1, life.network.state_size),
            )
        np.testing.assert_allclose(batch.recurrent_state[b], made[0].numpy(), atol=1e-6)
    assert middle > 10


@pytest.mark.parametrize(
    "settings",
    [{}, {"rewards": "asymmetric"}, {"burn_in": 0}, {"core": "gru"}, {"frame_stack": 2}],
)
@pytest.mark.parametrize("env", [ENV, "tests/MixedPictures-v0"])
def test_trap_12_actor_and_learner_give_the_same_priority_of_stacks(
    env: str, settings: dict[str, Any]
) -> None:
    """S3-8: what the learner rebuilds is what the actor saw: equal to 1e-4."""
    config, own = dataclasses.replace(CONFIG, **settings), registry.env_spec(env)
    parameters = Parameters()
    make = partial(wiring.q_network, config, own, 3)
    replay = wiring.make_replay(config, wiring.block_spec(config, own, make().state_size))
    learner = Learner(config, replay, parameters, make, seed=3)
    errors = partial(r2d2.absolute_errors, config=config)
    actor = wiring.make_actor(config, own, 3, 0, make, errors, replay=replay, parameters=parameters)
    take_turns(actor, 150)
    batch = replay.sample(np.random.default_rng(0).random(32))
    assert batch.mid_episode.any()
    stored = (batch.probabilities * replay._sampler.mass) ** (1 / config.priority_exponent)
    fresh = learner.gradients(batch).priorities
    np.testing.assert_allclose(fresh, stored, rtol=1e-4, atol=1e-5)


def test_a_first_step_sees_its_frames_in_the_order_of_time() -> None:
    """What trap 34's judge takes for granted: (zeros, zeros, zeros, first), then one moves in."""
    network = noting(spec(), CONFIG)
    policy = Policy(network, spec(), frame_stack=STACK)
    carry, observation = policy.start(1), frame(7, 0)[None]
    for t in range(6):
        policy({"observation": observation}, carry)
        (seen,) = network.seen[7, t]
        for back in range(STACK):
            there = frame(7, t - back) if t >= back else np.zeros_like(seen[0])
            np.testing.assert_array_equal(seen[STACK - 1 - back], there)
        policy.pushed(carry.frames, {"observation": observation})
        observation = frame(7, t + 1)[None]


# -- what may go wrong with an environment ---------------------------------------------------------


def vector(mode: Any, faulty: float = 0.0, slots: int = 3) -> VectorEnv:
    itself = mode == "by itself"
    made = SyncVectorEnv(
        [partial(Pictures, 20, faulty)] * slots,
        autoreset_mode=AutoresetMode.NEXT_STEP if itself else mode,
    )
    return registry.wrap(made, ENV, {}, masked_reset=False if itself else None)


def actor_of(tape: Any, env: VectorEnv, network: Noting, first: int = 0) -> Actor:
    config, parameters = CONFIG, Parameters()
    parameters.publish(Version(0, 0), FlatParameters(network).numpy())
    return Actor(
        policy=Policy(network, spec(), first, config.frame_stack),
        env=env,
        first_slot=first,
        epsilons=np.full(3, 0.3),
        replay=tape,
        parameters=parameters,
        windows=config.windows(),
        block_spec=wiring.block_spec(config, spec(), network.state_size),
        n_step=config.n_step,
        gamma=config.gamma,
        eta=config.eta,
        refresh_period=config.refresh_period,
        absolute_errors=partial(r2d2.absolute_errors, config=config),
        seed=5,
    )


def judge_blocks(blocks: list[Block]) -> None:
    """Every block's frames, those before its first step too, are its episode's."""
    assert blocks
    for block in blocks:
        rows = block.observation["observation"]
        key, t = named(rows[STACK - 1])
        assert t == block.index * CONFIG.period
        for row, image in enumerate(rows):
            there = t + row - (STACK - 1)
            image_wanted = frame(key, there) if there >= 0 else np.zeros_like(image)
            np.testing.assert_array_equal(image, image_wanted)


@pytest.mark.parametrize(
    ("mode", "faulty"), [*((mode, 0.0) for mode in MODES), *((mode, 0.1) for mode in AutoresetMode)]
)
def test_trap_34_zeros_before_an_episodes_first_frame_whatever_came_before_it(
    mode: Any, faulty: float
) -> None:
    """After a termination, a truncation, a fault, a dropped episode, a step spent on a reset."""
    tape, network = Tape(), noting(spec(), CONFIG)
    actor = actor_of(tape, vector(mode, faulty), network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        take_turns(actor, 200)
    judge_blocks(tape.blocks)
    assert bool(tape.dropped) == bool(faulty)
    assert sum(block.index == 0 for block in tape.blocks) > 10
    assert any(block.index > 0 for block in tape.blocks)
    # Between an episode's end and the next one's first frame a slot that resets itself has nothing
    # to show; what the network is given then is never acted on.
    if mode != "by itself":
        network.judge()


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_reset_mode_changes_no_frame(mode: Any) -> None:
    """Trap 18, with frames."""

    def contents(mode: Any) -> set[tuple[int, int, bytes]]:
        tape = Tape()
        take_turns(actor_of(tape, vector(mode), noting(spec(), CONFIG)), 160)
        return {(b.episode, b.index, bytes(b.buffer)) for b in tape.blocks if b.episode % 2**32 < 4}

    assert contents(mode) == contents(AutoresetMode.DISABLED)


def test_an_actor_goes_on_with_its_frames() -> None:
    """C4: saved and loaded after any turn, it sends what it would have sent, byte for byte."""
    config, turns = CONFIG, 60

    def make(tape: Tape) -> Actor:
        return actor_of(tape, registry.make(ENV, 3), noting(spec(), config))

    whole = Tape()
    take_turns(make(whole), turns)
    for stop in (0, 1, 2, 3, 13, 37):
        cut = Tape()
        first = make(cut)
        take_turns(first, stop)
        second = make(cut)
        second.load_state_dict(first.state_dict())
        take_turns(second, turns - stop)
        assert [bytes(b.buffer) for b in cut.blocks] == [bytes(b.buffer) for b in whole.blocks]
        assert cut.items == whole.items


@pytest.mark.parametrize("mode", MODES)
def test_slots_that_cannot_be_put_back_begin_with_zeros(mode: Any) -> None:
    """And the episodes cut short close with the frames they had."""
    tape, network = Tape(), noting(spec(), CONFIG)
    first = actor_of(tape, vector(mode), network)
    take_turns(first, 30)
    second = actor_of(tape, vector(mode), network)
    with pytest.warns(RuntimeWarning, match="cannot be put back"):
        second.load_state_dict(first.state_dict())
    take_turns(second, 60)
    assert second.counts()["cut_short_episodes"] > 0
    judge_blocks(tape.blocks)
    if mode != "by itself":
        network.judge()


def test_a_state_without_its_frames_is_refused() -> None:
    actor = actor_of(Tape(), registry.make(ENV, 3), noting(spec(), CONFIG))
    take_turns(actor, 5)
    for damage in (lambda f: f.pop("observation"), lambda f: f.update(observation=np.zeros(3))):
        state = actor.state_dict()
        damage(state["carry"]["frames"])
        fresh = actor_of(Tape(), registry.make(ENV, 3), noting(spec(), CONFIG))
        with pytest.raises(ValueError, match="observation"):
            fresh.load_state_dict(state)


# -- wherever a policy acts ------------------------------------------------------------------------


def agent(batch: int | None = None) -> Any:
    """An agent nobody trained, with the network that notes."""
    assert pictures.Pictures
    settings = {"frame_stack": STACK, "pre_core": 8, "hidden": 6, "head_hidden": 5}
    job = recollect.prepare(
        "r2d2", env=ENV, network="tests.agents.pictures:noting", settings=settings
    )
    program = presets.agent(job.agent).program(job.config, job.env, job.seed, job.network)
    return loaded(job, program.policy(), batch)


def stacks(made: Any) -> dict[tuple[int, int], bytes]:
    network = made.policy.network
    network.judge()
    return {name: seen[0].tobytes() for name, seen in network.seen.items()}


def test_trap_31_evaluation_recording_and_a_loaded_agent_see_the_same(tmp_path: Path) -> None:
    """The same episodes, the same stacks: one policy acts everywhere."""
    played = agent()
    lengths = evaluate(played.policy, registry.make(ENV, 5), 5, seed=7).lengths
    recorded = agent()
    found = record(recorded, tmp_path / "a.gif", episodes=5, seed=7)
    assert [episode.steps for episode in found] == lengths.tolist()
    alone, env = agent(), Pictures()
    for seed in evaluation_seeds(7, np.arange(5)):
        observation, reward, start, over = env.reset(seed=int(seed))[0], 0.0, True, False
        while not over:
            action = alone.act(observation, reward, start)
            observation, reward, terminated, truncated, _ = env.step(action)
            start, over = False, terminated or truncated
    seen = stacks(alone)
    assert len(seen) == lengths.sum()
    assert stacks(recorded) == seen
    evaluated = stacks(played)
    assert {name: evaluated[name] for name in seen} == seen


def test_rows_of_a_loaded_agent_start_for_themselves() -> None:
    """A row's start empties that row's frames alone."""
    batched = agent(batch=3)
    keys, times = [11, 22, 33], [0, 0, 0]
    rng = np.random.default_rng(0)
    for turn in range(25):
        starts = np.array([turn == 0] * 3) | (rng.random(3) < 0.2)
        for row in np.flatnonzero(starts):
            keys[row], times[row] = 100 * turn + row, 0
        observation = np.stack([frame(k, t) for k, t in zip(keys, times, strict=True)])
        batched.act(observation, np.zeros(3), starts)
        times = [t + 1 for t in times]
    batched.policy.network.judge()


def test_trap_33_no_action_before_an_episodes_first_frame() -> None:
    played = agent()
    evaluate(played.policy, registry.make(ENV, 3), 6, seed=7)
    for (_, t), (state, action, reward) in played.policy.network.lived.items():
        assert (action == NO_ACTION) == (t == 0)
        assert reward == pytest.approx(0.1 * t)
        assert state.any() == (t > 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_do_not_depend_on_each_other_through_convolutions(threads: int) -> None:
    """C1: to the last bit, whatever the other slots see, on one thread and on more."""
    grey = EnvSpec("tests/Own-v0", {}, {"observation": ArraySpec((84, 84), "uint8")}, ActionSpec(3))
    config = R2D2Config(frame_stack=STACK, pre_core=16, hidden=8, head_hidden=8)
    policy = Policy(wiring.q_network(config, grey, 1), grey, frame_stack=STACK)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (21, 84, 84), np.uint8)
    carry = policy.start(21)
    carry.frames["observation"][:] = rng.integers(0, 256, (21, STACK - 1, 84, 84))
    torch.set_num_threads(threads)
    values, state = policy({"observation": images}, carry)
    changed = images.copy()
    changed[3] = 255 - changed[3]
    again, after = policy({"observation": changed}, carry)
    others = np.arange(21) != 3
    np.testing.assert_array_equal(again[others], values[others])
    np.testing.assert_array_equal(after[others], state[others])
    assert (again[3] != values[3]).any()


@pytest.mark.parametrize("cut", [1, 2])
def test_the_slots_of_a_process_change_no_frame(cut: int) -> None:
    """C1: three slots together send what they send from two processes."""

    def contents(slots: slice, tape: Tape) -> set[tuple[int, int, bytes]]:
        network, count = noting(spec(), CONFIG), slots.stop - slots.start
        take_turns(actor_of(tape, registry.make(ENV, count), network, first=slots.start), 60)
        return {(b.episode, b.index, bytes(b.buffer)) for b in tape.blocks}

    together = contents(slice(0, 3), Tape())
    assert contents(slice(0, cut), Tape()) | contents(slice(cut, 3), Tape()) == together


def own_network(env_spec: Any, config: Any) -> Any:
    """As docs/own_network.md has it, which knows nothing of stacks."""
    return Blind(env_spec)


class Blind(torch.nn.Module):
    state_size = 1

    def __init__(self, env_spec: Any) -> None:
        super().__init__()
        self.head = torch.nn.Linear(pictures.HEIGHT * pictures.WIDTH, env_spec.action.num_actions)

    def forward(self, observation: Any, action: Any, reward: Any, state: Any) -> Any:
        return self.head(observation["observation"].flatten(2).float()), state


def test_a_network_that_knows_nothing_of_stacks_is_told_of_them() -> None:
    name = "tests.agents.test_stacks:own_network"
    message = r"also where frame_stack is 4; of 3 steps .* gave values \[6, 2, 3\]"
    with pytest.raises(ConfigError, match=message):
        wiring.q_network(CONFIG, spec(), 1, name)
    wiring.q_network(dataclasses.replace(CONFIG, frame_stack=1), spec(), 1, name)
