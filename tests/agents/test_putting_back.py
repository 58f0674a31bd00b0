"""Environments that cannot be put back: their episodes are cut short, and nothing else is lost."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import recollect
from recollect.agents import r2d2, wiring
from recollect.agents.acting import Actor
from recollect.agents.learning import FlatParameters
from recollect.agents.policy import Policy
from recollect.envs import journal, registry
from recollect.envs.slots import Slots
from recollect.envs.vector import VectorEnv
from recollect.maths import philox
from recollect.parameters import Parameters, Version
from recollect.replay.blocks import Block
from recollect.run.metrics import read_metrics
from tests.agents.clockwork import Clock, Constant
from tests.agents.test_acting import (
    CONFIG,
    Tape,
    act_again,
    clock_spec,
    contents,
    episodes,
    make_actor,
    take_turns,
)

SLOTS, TURNS, LONG = 4, 120, 6
FAITHLESS = 1
"""The slot that does not do the same from the same seed."""
ELSEWHERE = "a vector environment made elsewhere can neither save nor repeat an episode"


class Faithless(Clock):
    """A clock that adds to its rewards what it draws from the generator of everybody."""

    def step(self, action: int) -> Any:
        observation, reward, *rest = super().step(action)
        return (observation, reward + float(np.random.random()), *rest)


gymnasium.register("tests/Faithless-v0", entry_point=Faithless)


def elsewhere(mode: AutoresetMode, masked: bool | None = None) -> VectorEnv:
    made = SyncVectorEnv([Clock] * SLOTS, autoreset_mode=mode)
    return registry.wrap(made, "tests/Clock-v0", {}, masked_reset=masked)


def one_faithless() -> VectorEnv:
    number = count()

    def make() -> gymnasium.Env:
        return Faithless() if next(number) == FAITHLESS else Clock()

    return VectorEnv(Slots(make, "tests/Clock-v0", SLOTS), "tests/Clock-v0")


VECTORS: dict[str, Callable[[], VectorEnv]] = {
    "elsewhere, disabled": partial(elsewhere, AutoresetMode.DISABLED),
    "elsewhere, same step": partial(elsewhere, AutoresetMode.SAME_STEP),
    "elsewhere, next step": partial(elsewhere, AutoresetMode.NEXT_STEP),
    "elsewhere, without masks": partial(elsewhere, AutoresetMode.NEXT_STEP, False),
    "one faithless": one_faithless,
    "long": lambda: registry.make("tests/Clock-v0", SLOTS),
}


@dataclass
class Both(Tape):
    """A replay that also keeps what it is given."""

    replay: Any = field(
        default_factory=lambda: wiring.make_replay(
            CONFIG, wiring.block_spec(CONFIG, clock_spec(), 3)
        )
    )

    def __post_init__(self) -> None:
        super().__init__()

    def insert(self, blocks: Any, items: Any) -> None:
        super().insert(blocks, items)
        self.replay.insert(blocks, items)


@dataclass
class Lived:
    """An actor that was stopped after `stop` turns, and a second one that went on from it."""

    tape: Both
    actor: Actor
    told: list[str]
    elapsed: np.ndarray  # of the slots' episodes where it stopped
    episode: np.ndarray  # their numbers
    counts: dict[str, int]  # then

    @property
    def begun(self) -> list[int]:
        """Slots that had taken a step of their episode."""
        return np.flatnonzero(self.elapsed).tolist()


def live(make: Callable[[], VectorEnv], stop: int, loads: int = 1) -> Lived:
    """Saved, also of `replay`, after `stop` turns, and `loads` times loaded and saved again."""
    tape = Both()
    actor = make_actor(tape, env=make())
    take_turns(actor, stop)
    elapsed, episode, counts = actor._elapsed.copy(), actor._episodes.copy(), actor.counts()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(loads):
            state, kept = actor.state_dict(), tape.replay.state_dict()
            again = Both()
            again.blocks, again.items, again.dropped = tape.blocks, tape.items, tape.dropped
            tape = again
            tape.replay.load_state_dict(kept)
            actor = make_actor(tape, env=make())
            actor.load_state_dict(state)
        take_turns(actor, TURNS)
    return Lived(tape, actor, [str(c.message) for c in caught], elapsed, episode, counts)


def slot_of(uid: int) -> int:
    return (uid >> 32) % 2**23


def number_of(uid: int) -> int:
    return uid % 2**32


def judge(lived: Lived, cut: list[int], rewards: bool = True) -> None:
    """Every step is there once, learned as often as it should be, with the priority it should have.

    Args:
        lived: two actors one after the other.
        cut: the slots whose episodes were cut short.
        rewards: whether a clock's step number is what it pays, in every slot.
    """
    tape, actor, found = lived.tape, lived.actor, episodes(lived.tape)
    learned_of: dict[int, dict[int, int]] = {uid: {} for uid in found}
    for item in tape.items:
        seen = learned_of[item.episode]
        assert item.start not in seen, "no window is there twice"
        seen[item.start] = item.learned
    for uid, blocks in found.items():
        assert [b.index for b in blocks] == list(range(len(blocks))), "no block is lost or twice"
        assert not any(b.last for b in blocks[:-1])
        steps = sum(b.steps for b in blocks)
        clock = np.concatenate([b.observation["observation"][:, 0] for b in blocks])
        np.testing.assert_array_equal(clock, np.arange(steps + blocks[-1].last))
        if rewards:
            paid = np.concatenate([b.reward for b in blocks])
            np.testing.assert_array_equal(paid, np.arange(1, steps + 1))
        if blocks[-1].last:
            judge_whole(lived, uid, blocks, learned_of[uid])
    counts = actor.counts()
    in_the_making = int((actor._pos - actor._begin).sum())
    assert counts["env_steps"] == sum(b.steps for b in tape.blocks) + in_the_making
    assert counts["cut_short_episodes"] == len(cut)
    whole = [uid for uid, blocks in found.items() if blocks[-1].last]
    assert counts["episodes"] == len(whole) - len(cut)
    assert counts["dropped_episodes"] == counts["env_failures"] == 0
    for slot in range(SLOTS):  # and every number, but for those without a block yet
        numbers = sorted(number_of(uid) for uid in found if slot_of(uid) == slot)
        unbegun = {int(lived.episode[slot])} - {-1, *numbers}  # reset, no step taken
        assert not unbegun or lived.elapsed[slot] == 0
        assert sorted({*numbers, *unbegun}) == list(range(max(numbers) + 1))
        assert actor._episodes[slot] - max(numbers) in (0, 1)
    for slot in cut:
        (blocks,) = [
            b for u, b in found.items() if (slot_of(u), number_of(u)) == (slot, lived.episode[slot])
        ]
        assert sum(b.steps for b in blocks) == lived.elapsed[slot], "cut where it was stopped"
        assert blocks[-1].last
        assert blocks[-1].discount[-1] == np.float32(CONFIG.gamma), "truncated: it bootstraps"
    tape.replay.check_valid()
    assert len(tape.replay) == len(tape.items)
    tape.replay.sample(np.full(CONFIG.batch_size, 0.5))


def judge_whole(lived: Lived, uid: int, blocks: list[Block], learned: dict[int, int]) -> None:
    steps = sum(b.steps for b in blocks)
    times = np.zeros(steps, int)
    for start, length in learned.items():
        times[start : start + length] += 1
    wanted = np.zeros(steps, int)
    start = 0
    while True:  # one every period, until one reaches the end
        wanted[start : start + CONFIG.trace_length] += 1
        if start + CONFIG.trace_length >= steps:
            break
        start += CONFIG.period
    np.testing.assert_array_equal(times, wanted)
    errors = act_again(blocks, CONFIG)
    for item in (i for i in lived.tape.items if i.episode == uid):
        own = errors[item.start : item.start + item.learned]
        expected = CONFIG.eta * own.max() + (1 - CONFIG.eta) * own.mean()
        assert item.priority == pytest.approx(float(expected), rel=1e-4)


def assert_others_lived_on(lived: Lived, stop: int, slots: list[int], cut: list[int]) -> None:
    """What these slots lived after the cut is what they would have lived without one."""
    unstopped = Tape()
    take_turns(make_actor(unstopped), stop + 2 * TURNS)
    wanted = contents(unstopped)
    compared = 0
    for (uid, index), buffer in contents(lived.tape).items():
        slot = slot_of(uid)
        if slot in slots and not (slot in cut and number_of(uid) == lived.episode[slot]):
            assert buffer == wanted[uid, index]
            compared += 1
    assert compared > 10 * len(slots)


@pytest.mark.parametrize("stop", [1, 4, 8, 37])
@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("elsewhere")])
def test_a_vector_made_elsewhere_begins_new_episodes_and_loses_no_step(
    name: str, stop: int
) -> None:
    lived = live(VECTORS[name], stop)
    assert lived.told == [
        "4 of 4 environment slots cannot be put back where they were: their episodes are closed as "
        "truncated and others begin. environment tests/Clock-v0, slot 0, episode "
        f"{lived.episode[0]}: {ELSEWHERE}"
    ]
    judge(lived, lived.begun)
    if "without masks" not in name:
        assert lived.actor.counts()["env_steps"] == SLOTS * (stop + TURNS)
        assert_others_lived_on(lived, stop, list(range(SLOTS)), list(range(SLOTS)))


@pytest.mark.parametrize("stop", [1, 8, 37])
def test_one_slot_that_does_something_else_is_the_only_one_cut_short(stop: int) -> None:
    lived = live(one_faithless, stop)
    (told,) = lived.told
    episode, steps = lived.episode[FAITHLESS], lived.elapsed[FAITHLESS]
    assert re.fullmatch(
        "1 of 4 environment slots cannot be put back where they were: their episodes are closed as "
        rf"truncated and others begin\. environment tests/Clock-v0, slot 1, episode {episode}: "
        rf"repeating the {steps} steps since its reset earned \S+ and not \S+: it does not do the "
        "same from the same seed",
        told,
    ), told
    judge(lived, [FAITHLESS], rewards=False)
    assert lived.actor.counts()["env_steps"] == SLOTS * (stop + TURNS)
    assert_others_lived_on(lived, stop, [0, 2, 3], [])


def test_episodes_too_long_to_be_repeated_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "JOURNAL_STEPS", LONG)
    lived = live(VECTORS["long"], 37)
    cut = np.flatnonzero(lived.elapsed > LONG).tolist()
    assert 0 < len(cut) < SLOTS
    (told,) = lived.told
    assert told.startswith(f"{len(cut)} of 4 environment slots cannot be put back")
    assert f"slot {cut[0]}, episode {lived.episode[cut[0]]}: its episode has more than 6" in told
    judge(lived, cut)
    assert_others_lived_on(lived, 37, list(range(SLOTS)), cut)


@pytest.mark.parametrize("name", ["elsewhere, same step", "one faithless"])
def test_stopped_again_before_the_new_episodes_begin_they_are_cut_short_once(name: str) -> None:
    lived = live(VECTORS[name], 37, loads=3)
    judge(lived, lived.begun if name.startswith("elsewhere") else [FAITHLESS], rewards=False)


def test_before_the_first_step_there_is_nothing_to_cut_short() -> None:
    lived = live(VECTORS["elsewhere, same step"], 0)
    assert lived.told == []
    judge(lived, [])


def test_ales_own_vector_begins_new_episodes() -> None:
    vector_env = pytest.importorskip("ale_py.vector_env")

    def make() -> VectorEnv:
        return registry.wrap(vector_env.AtariVectorEnv("pong", 2), "ale_py:ALE/Pong-v5", {})

    tape, old, new = Tape(), make(), make()
    first = pong_actor(tape, old)
    take_turns(first, 50)
    state, sent = first.state_dict(), len(tape.blocks)
    second = pong_actor(tape, new)
    with pytest.warns(RuntimeWarning, match="2 of 2 environment slots cannot be put back"):
        second.load_state_dict(state)
    take_turns(second, 50)
    first.close()
    second.close()
    counts = second.counts()
    assert (counts["cut_short_episodes"], counts["env_steps"]) == (2, 2 * 100)
    cut, after = ([b for b in tape.blocks if number_of(b.episode) == number] for number in (0, 1))
    assert sum(b.steps for b in cut) == 2 * 50
    closing = {slot_of(b.episode): b for b in tape.blocks[sent:] if number_of(b.episode) == 0}
    for slot, block in closing.items():
        assert block.last
        assert block.discount[-1] == np.float32(CONFIG.gamma)
        seen = state["env"]["observation"]["observation"][slot]
        np.testing.assert_array_equal(block.observation["observation"][-1], seen)
    assert len(closing) == 2
    assert {slot_of(b.episode) for b in after} == {0, 1}


def pong_actor(tape: Tape, env: VectorEnv) -> Actor:
    network = Constant(env.spec)
    parameters = Parameters()
    parameters.publish(Version(0, 0), FlatParameters(network).numpy())
    return Actor(
        policy=Policy(network, env.spec),
        env=env,
        first_slot=0,
        epsilons=np.array([0.5, 0.5]),
        replay=tape,  # type: ignore[arg-type]
        parameters=parameters,
        windows=CONFIG.windows(),
        block_spec=wiring.block_spec(CONFIG, env.spec, network.state_size),
        n_step=CONFIG.n_step,
        gamma=CONFIG.gamma,
        eta=CONFIG.eta,
        refresh_period=CONFIG.refresh_period,
        absolute_errors=partial(r2d2.absolute_errors, config=CONFIG),
        seed=5,
    )


def test_new_episodes_begin_from_the_seeds_that_are_theirs() -> None:
    lived = live(VECTORS["elsewhere, same step"], 37)
    for slot in range(SLOTS):
        following = int(lived.episode[slot]) + 1
        (first,) = [
            b
            for b in lived.tape.blocks
            if (slot_of(b.episode), number_of(b.episode), b.index) == (slot, following, 0)
        ]
        seed = int(philox.seeds(5, philox.Purpose.RESET, slot, following, 0))
        start, _ = Clock(30).reset(seed=seed)
        np.testing.assert_array_equal(first.observation["observation"][0], start)
        assert (first.previous_action, first.previous_reward) == (-1, 0)
        assert not first.states[0].any()


def test_a_run_in_which_nothing_can_be_put_back_trains_on(tmp_run: Path) -> None:
    settings: dict[str, Any] = {
        "actors": 3,
        "burn_in": 2,
        "trace_length": 4,
        "period": 2,
        "n_step": 1,
        "min_replay_steps": 60,
        "batch_size": 4,
        "hidden": 8,
        "head_hidden": 8,
        "torso_sizes": (8,),
        "evaluation_period": 0,
    }
    env = "tests/Faithless-v0"
    first = recollect.train("r2d2", env=env, env_steps=300, run_dir=tmp_run, **settings)
    with pytest.warns(RuntimeWarning, match=r"of 3 environment slots cannot be put back.*earned"):
        then = recollect.resume(tmp_run, env_steps=600)
    assert first.env_steps == 300
    assert then.env_steps == 600
    assert then.updates > first.updates > 0
    assert 0 < read_metrics(tmp_run)[-1]["run/cut_short_episodes"] <= 3
