"""Shards that are killed and replaced while actors send and a learner draws: D2 in small."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recollect.messages import FencedError, Posts
from recollect.replay import asking, far
from recollect.replay.far import FarReplay
from recollect.replay.limiter import Limiter, NothingToDrawError
from recollect.replay.prioritized import Prioritized
from recollect.replay.shard import Shard, Stamp
from recollect.replay.store import Replay
from tests.replay.lived import (
    UNEVEN,
    assert_batch,
    assert_same_state,
    cut,
    make_episode,
    make_spec,
    messages,
    on_disk,
)
from tests.replay.spread import Clock, Spread, home, insert, leaves, priorities, uniforms
from tests.runtime.faked import Asks, World


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(far, "time", clock)
    monkeypatch.setattr(far, "SEND_BLOCKS", 4)
    return clock


SPEC = make_spec(UNEVEN)
BATCH, RATIO, TOLERANCE = 3, 1.0, 60.0

Block = tuple[int, int]
"""Uid of the episode, and index."""


class Taped(Shard):
    """A shard that notes what it has taken, unless it does so from a journal."""

    def __init__(self, replay: Replay, tape: list[tuple[Stamp, list[Block], int]]) -> None:
        super().__init__(replay)
        self.tape, self.recovering = tape, False

    def take(self, stamp: Stamp, parcel: Any, items: Any) -> Any:
        before = self._replay.totals.inserted
        told = super().take(stamp, parcel, items)
        steps = self._replay.totals.inserted - before
        if steps and not self.recovering:
            blocks = [(int(uid), int(index)) for uid, index in parcel.header[:, :2]]
            self.tape.append((Stamp(*stamp), blocks, steps))
        return told


class Actor:
    """One life of an actor, that inserts blocks of one episode after another."""

    def __init__(self, run: Run, number: int, epoch: int) -> None:
        self.name, self.epoch = f"actor/{number}", epoch
        self.held = run.client(self.name, epoch)
        self.given: list[Block] = []
        self._first, self._count = 1000 * epoch + 100 * number, 0
        self._rest: list[Any] = []

    def insert(self) -> bool:
        """Insert a block, if that is wanted."""
        if not self.held.wants_insert():
            return False
        if not self._rest:
            uid, steps = self._first + self._count, 4 + 7 * (self._count % 4)
            self._rest = list(messages(UNEVEN, cut(SPEC, make_episode(SPEC, uid, steps))))
            self._count += 1
        blocks, items = self._rest.pop(0)
        self.given += [(block.episode, block.index) for block in blocks]
        self.held.insert(blocks, items)
        return True


class Run:
    """Shards with journals, actors, a learner, and the driver's part of it."""

    def __init__(self, folder: Path, shards: int, actors: int, choices: list[int]) -> None:
        left = iter(choices)
        self.world = World(lambda n: next(left, 0) % n)
        self.folder, self.number = folder, shards
        self.tapes: list[list[Any]] = [[] for _ in range(shards)]
        self.lost: list[set[Block]] = [set() for _ in range(shards)]
        self.alone = [0] * shards  # tape as long as when it last went on without its journal
        self.shards = [self.make(k) for k in range(shards)]
        for k, shard in enumerate(self.shards):
            shard.keep_journal(folder / str(k))
        self.pages = [0] * shards
        self.bases: list[Any] = []
        self.save()
        self.dead: set[int] = set()
        self.actors = [Actor(self, i, 0) for i in range(actors)]
        self.former: list[Actor] = []
        self.learner = self.client("learner", 0)
        self.draws = 0
        self.drawn: list[Any] = []

    def make(self, k: int) -> Taped:
        limiter = Limiter(RATIO, 6 if k == 0 else 0, TOLERANCE)
        store = Replay(SPEC, UNEVEN, Prioritized(0.8), limiter, capacity_steps=10**6)
        return Taped(store, self.tapes[k])

    def client(self, name: str, epoch: int) -> FarReplay:
        handles = [
            self.world.handle(str(k), shard, name, epoch) for k, shard in enumerate(self.shards)
        ]
        posts = Posts(most=4)
        return FarReplay(handles, SPEC, UNEVEN, Limiter(RATIO, 0, TOLERANCE), posts)

    def save(self) -> None:
        """Pages are turned, and the states kept that go with them: when nothing is on its way."""
        self.bases = []
        for k, shard in enumerate(self.shards):
            self.pages[k] = shard.turn_page(self.pages[k])
            self.bases.append((on_disk(shard._replay.state_dict()), len(self.tapes[k])))

    def kill(self, k: int) -> None:
        self.world.lose(str(k))
        self.dead.add(k)

    def revive(self, k: int, alone: bool) -> None:
        """As the driver does."""
        died = self.shards[k]
        self.kill(k)
        self.dead.discard(k)
        fresh = self.make(k)
        state, taken = self.bases[k]
        fresh._replay.load_state_dict(on_disk(state))
        if alone:
            for path in (self.folder / str(k)).iterdir():
                path.unlink()
            for _, blocks, _ in self.tapes[k][taken:]:
                self.lost[k].update(blocks)
            del self.tapes[k][taken:]
            self.alone[k] = taken
        fresh.recovering = True
        assert fresh.recover(self.folder / str(k), self.pages[k])[0] == (not alone)
        fresh.recovering = False
        if not alone:
            assert_same_state(fresh._replay.state_dict(), died._replay.state_dict())
            assert fresh._lives == died._lives
        self.shards[k] = fresh
        self.world.revive(str(k), fresh)
        if alone:
            for shard in self.shards:
                shard.restart_surplus()

    def replace(self, i: int) -> None:
        """An actor dies; what it has sent comes or comes not."""
        old = self.actors[i]
        self.former.append(old)
        self.actors[i] = Actor(self, i, old.epoch + 1)

    def sample(self) -> bool:
        if not self.learner.wants_sample():
            return False
        try:
            self.drawn.append(self.learner.draw(uniforms(BATCH, self.draws)))
        except NothingToDrawError:
            return False
        self.draws += 1
        return True

    def gather(self) -> None:
        if not self.drawn:
            return
        try:
            batch = self.learner.gather(self.drawn.pop(0))
        except NothingToDrawError:
            return
        assert ((batch.probabilities > 0) & (batch.probabilities <= 1 + 1e-9)).all()
        assert_lived(batch)
        rng = np.random.default_rng(self.draws)
        self.learner.update_priorities(batch.slots, batch.uids, rng.random(BATCH) + 0.1)

    def settle(self, clock: Clock) -> None:
        """Everything arrives, and everybody knows."""
        while self.drawn:
            self.gather()
        for _ in range(3):
            for actor in self.actors:
                actor.held.flush()
                actor.held.wants_insert()
            self.learner.flush()
            self.learner.wants_sample()
            self.world.run()
            clock.now += asking.FRESH_SECONDS


def assert_lived(batch: Any) -> None:
    """Every window is as it was lived: its episode and time stand in what is seen."""
    found = []
    for b in range(batch.mask.shape[1]):
        uid, begin = batch.observation["clock"][UNEVEN.burn_in, b]
        steps = 4 + 7 * (int(uid) % 100 % 4)
        episode = make_episode(SPEC, int(uid), steps)
        found.append((episode, UNEVEN.window(int(begin) // UNEVEN.period, steps)))
    assert_batch(UNEVEN, SPEC, batch, found)


@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.integers(1, 3),
    actors=st.integers(1, 2),
    journals=st.booleans(),
    order=st.sampled_from([1, 3, 99]),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_dies_each_block_is_taken_once_in_order_and_both_sides_live_on(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shards: int,
    actors: int,
    journals: bool,
    order: int,
) -> None:
    """R1, R2, D2: random delays; shards die at any moment, and come back with or without a journal.

    Without one only what it had taken since the last save is lost.
    """
    clock = far.time
    assert isinstance(clock, Clock)
    rng = np.random.default_rng(seed)
    choices = rng.integers(0, order, 600).tolist()
    run = Run(tmp_path_factory.mktemp("run"), shards, actors, choices)
    run.settle(clock)
    for do, which in rng.integers(0, (64, 100), (200, 2)).tolist():
        if do < 24:
            run.actors[which % actors].insert()
        elif do < 30:
            run.sample()
        elif do < 33:
            run.gather()
        elif do < 35:
            run.kill(which % shards)
        elif do < 39:
            run.revive(which % shards, alone=not journals and do == 38)
        elif do == 39:
            run.replace(which % actors)
        elif do == 40 and not run.dead:
            run.settle(clock)
            run.save()
        elif do < 46:
            clock.now += 0.2
        else:
            run.world.move()
        assert all(len(actor.held.posts) <= 4 for actor in run.actors)
    for k in sorted(run.dead):
        run.revive(k, alone=False)
    run.settle(clock)

    for k, (shard, tape) in enumerate(zip(run.shards, run.tapes, strict=True)):
        shard._replay.check_valid()
        assert shard._replay.totals.inserted == sum(steps for *_, steps in tape)
        lives: Counter[tuple[str, int]] = Counter()
        last: dict[tuple[str, int], int] = {}
        for stamp, _, steps in tape[run.alone[k] :]:
            who = stamp.name, stamp.epoch
            lives[who] += steps
            assert stamp.number > last.get(who, 0)
            last[who] = stamp.number
        for actor in (*run.actors, *run.former):
            who = actor.name, actor.epoch
            assert shard.steps_from(*who) == lives[who]
    taken = [block for tape in run.tapes for _, blocks, _ in tape for block in blocks]
    assert len(taken) == len(set(taken)), "no block twice"
    lost = set().union(*run.lost)
    for actor in run.actors:
        assert set(actor.given) <= set(taken) | lost, "none is missing that was acknowledged"
    for tape in run.tapes:  # in order within an episode
        indices: dict[int, int] = {}
        for _, blocks, _ in tape:
            for uid, index in blocks:
                assert index > indices.get(uid, -1)
                indices[uid] = index
    for shard in run.shards:
        items = shard._replay.state_dict()["items"]
        if len(items["uid"]):
            slots = items["row"]
            draw = shard._replay._contents.locate(slots, np.ones(len(slots)))
            assert_lived(shard._replay.gather(draw))
    if not lost and not run.former:
        given_items = sum(
            len(items)
            for actor in run.actors
            for uid in {uid for uid, _ in actor.given}
            for blocks, items in messages(
                UNEVEN, cut(SPEC, make_episode(SPEC, uid, 4 + 7 * (uid % 100 % 4)))
            )
            if (uid, blocks[0].index) in set(actor.given)
        )
        assert sum(len(shard._replay) for shard in run.shards) == given_items

    for k in range(6):  # and it goes on from here, by turns
        moved = [actor.insert() for actor in run.actors]
        moved.append(run.sample())
        assert any(moved), k
        run.settle(clock)


# --- What each side sees --------------------------------------------------------------------------


def full_spread(masses: list[tuple[int, float]], shards: int) -> Spread:
    spread = Spread(shards)
    actor = spread.client("filler")
    for i, (shard, priority) in enumerate(masses):
        spread.pair(actor, i * shards + shard, priority)
    actor.flush()
    return spread


MASSES = [(0, 1.0), (0, 3.0), (1, 4.0), (1, 8.0), (2, 2.0), (2, 7.0)]


@pytest.mark.parametrize("when", ["before", "between", "known"])
def test_the_others_are_drawn_from_with_their_true_probabilities(clock: Clock, when: str) -> None:
    """R2: renormalised over the living, by frequency too."""
    spread = full_spread(MASSES, 3)
    learner = spread.learner()
    times = 20_000
    if when == "before":
        spread.world.lose("1")
    draw = learner.draw(uniforms(times, 3))
    if when == "between":
        spread.world.lose("1")
    batch = learner.gather(draw)
    if when == "known":
        spread.world.lose("1")
        learner.gather(learner.draw(uniforms(5)))
        asked = spread.world.asked["draw"]
        batch = learner.sample(uniforms(times, 3))
        assert spread.world.asked["draw"] == asked + 2, "who is known to be gone is not asked"
    counted: Counter[Any] = Counter(home(batch, b, 3) for b in range(times))
    assert {shard for shard, *_ in counted} == {0, 2}
    for b in range(0, times, 97):
        shard, _, uid = home(batch, b, 3)
        p = priorities(spread.stores[shard])[uid] / (1.0 + 3.0 + 2.0 + 7.0)
        assert batch.probabilities[b] == pytest.approx(p, rel=1e-9)
        assert abs(counted[home(batch, b, 3)] - times * p) < 5 * (times * p * (1 - p)) ** 0.5
    if when == "known":
        assert batch.size == 4
    assert learner._under_way == 0


def test_where_all_shards_are_gone_nothing_is_drawn_until_one_is_back(clock: Clock) -> None:
    spread = full_spread(MASSES, 3)
    learner = spread.learner()
    draw = learner.draw(uniforms(9))
    for k in "012":
        spread.world.lose(k)
    with pytest.raises(NothingToDrawError):
        learner.gather(draw)
    assert not learner.wants_sample()
    with pytest.raises(NothingToDrawError):
        learner.draw(uniforms(2))
    spread.world.run()
    assert not learner.wants_sample()
    asked = spread.world.asked["look"]
    spread.world.revive("1", spread.shards[1])
    assert not learner.wants_sample()
    assert spread.world.asked["look"] == asked + 1, "it is asked at once"
    spread.world.run()
    assert learner.wants_sample()
    batch = learner.sample(uniforms(20))
    assert {home(batch, b, 3)[0] for b in range(20)} == {1}
    assert batch.size == 2


def test_a_shard_that_missed_twice_keeps_the_probabilities_of_what_it_gave(clock: Clock) -> None:
    """It gave windows, then was asked for those that fell to another, and had none any more."""
    spread = full_spread(MASSES, 3)
    learner = spread.learner()
    draw = learner.draw(uniforms(60))
    before = priorities(spread.stores[0])
    spread.world.lose("1")
    answered = draw.waiting[0]
    assert answered[0].shard == 0
    answered[0].answer.result()
    for _, uid, _ in leaves(spread.stores[0]):
        spread.stores[0].drop_episode(3 * uid)
    spread.stores[0].drop_episode(0)
    spread.stores[0].drop_episode(3)
    batch = learner.gather(draw)
    found = [(home(batch, b, 3), batch.probabilities[b]) for b in range(60)]
    assert {shard for (shard, *_), _ in found} == {0, 2}
    for (shard, _, uid), p in found:
        if shard == 0:
            assert p == pytest.approx(4 / 25 * before[uid] / 4)


def test_an_actor_goes_on_with_the_shards_there_are_and_keeps_the_rest(clock: Clock) -> None:
    """M2: what it keeps for the one that is gone is bounded, and arrives once that is back."""
    spread = Spread(2)
    actor = spread.client("actor")
    actor.wants_insert()
    spread.world.run()
    spread.world.lose("1")
    uid = 0
    while actor.wants_insert() and uid < 400:
        spread.pair(actor, uid)
        uid += 1
        clock.now += far.SEND_SECONDS
        spread.world.run()
    assert 2 * far.SEND_BLOCKS <= uid < 100
    assert len(spread.stores[0]) == uid // 2 + uid % 2
    assert len(spread.stores[1]) == 0
    takes = spread.world.asked["take"]
    for _ in range(50):
        clock.now += 1
        assert not actor.wants_insert()
        actor.send()
        spread.world.run()
    assert (spread.world.asked["take"], spread.world.waited) == (takes, 0), "it asks, and waits"
    spread.world.revive("1", spread.shards[1])
    for _ in range(3):
        actor.wants_insert()
        spread.world.run()
    assert actor.wants_insert()
    actor.flush()
    assert [len(store) for store in spread.stores] == [uid // 2 + uid % 2, uid // 2]
    assert actor.posts.lost == 0


def test_a_shard_that_hangs_holds_up_neither_the_looks_nor_the_answers_of_others(
    clock: Clock,
) -> None:
    """R7."""
    spread = Spread(2)
    actor = spread.client("actor")
    actor.wants_insert()
    spread.world.run()
    spread.world.silence("0")
    spread.pair(actor, 0)
    actor.send()
    for uid in range(1, 41, 2):
        assert actor.wants_insert()
        spread.pair(actor, uid)
        clock.now += far.SEND_SECONDS
        actor.wants_insert()
        spread.world.run()
    assert len(spread.stores[1]) == 20
    actor.posts.look()
    assert len(actor.posts) == 1


def test_who_was_replaced_is_told_and_stops(clock: Clock) -> None:
    """R7."""
    spread = Spread(1)
    old = spread.client("actor")
    handle = spread.world.handle("0", spread.shards[0], "actor", epoch=1)
    new = FarReplay([handle], spread.spec, spread.windows, Limiter(None, 0, 0.0))
    spread.pair(old, 0)
    old.flush()
    spread.pair(new, 1)
    new.flush()
    spread.pair(old, 2)
    with pytest.raises(FencedError, match="actor of epoch 0 was replaced: 1 is here"):
        old.flush()
    with pytest.raises(FencedError):
        old.wants_insert()
    assert len(spread.stores[0]) == 2


def test_priorities_for_a_shard_that_is_gone_are_lost_and_counted(clock: Clock) -> None:
    spread = full_spread(MASSES, 3)
    learner = spread.learner()
    batch = learner.sample(uniforms(30))
    spread.world.lose("2")
    learner.update_priorities(batch.slots, batch.uids, np.full(30, 9.0))
    learner.flush()
    assert learner.posts.lost == 1
    assert set(priorities(spread.stores[0]).values()) == {9.0}
    assert set(priorities(spread.stores[2]).values()) == {2.0, 7.0}


def test_an_episode_dropped_while_its_shard_is_gone_is_dropped_there(clock: Clock) -> None:
    """R9."""
    spread = Spread(1, UNEVEN)
    actor = spread.client("actor")
    insert(actor, UNEVEN, spread.spec, 3, 20)
    actor.flush()
    spread.world.lose("0")
    actor.drop_episode(3)
    insert(actor, UNEVEN, spread.spec, 4, 8)
    actor.send()
    spread.world.revive("0", spread.shards[0])
    actor.flush()
    assert set(spread.stores[0].state_dict()["episodes"]["uid"]) == {4}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("at", range(12))
def test_a_shard_replaced_at_any_moment_of_a_send_gets_everything_once(
    clock: Clock, at: int, alone: bool
) -> None:
    """R2: by another thread; also where the new one knows nothing of who sends."""
    spread = Spread(1)
    touched = 0

    class Turning(Asks):
        """A handle that is turned to the new part at its `at`th use, of the third send."""

        def touch(self) -> None:
            nonlocal touched
            touched += sends == 3
            if touched == at + 1 and not self._world.lives["0"]:
                self._world.revive("0", fresh)

        @property
        def life(self) -> int:
            self.touch()
            return super().life

        def ask(self, method: str, *arguments: Any) -> Any:
            self.touch()
            return super().ask(method, *arguments)

    fresh = spread.shards[0]
    if alone:
        fresh = Spread(1).shards[0]
        fresh.abandon()
    sends = 0
    spread.world.parts["0"] = spread.shards[0]
    handle = Turning(spread.world, "0", ("actor", 0))
    actor = FarReplay([handle], spread.spec, spread.windows, Limiter(None, 0, 0.0))
    spread.pair(actor, 0)
    actor.flush()  # this one is answered, and lost where the new one begins alone
    for uid in range(1, 6):
        sends = uid
        spread.pair(actor, uid)
        actor.send()
    sends = 3
    actor.flush()
    if not spread.world.lives["0"]:
        return
    held = sorted(fresh._replay.state_dict()["episodes"]["uid"].tolist())
    assert held == list(range(alone, 6))


def test_what_is_told_late_of_a_shard_that_died_is_not_believed() -> None:
    spread = full_spread(MASSES, 3)
    world = spread.world
    shards = asking.Shards([world.handle(str(k), spread.shards[k], "me") for k in range(3)])
    late = shards.ask(1, "look")
    told = late.answer.result()
    assert told.mass == 12.0
    world.lose("1")
    assert shards.result(shards.ask(1, "look")) is None
    shards.hear(late, told)
    assert shards.standing[1].mass == 0.0
    assert shards.gone(1)
    assert not shards.gone(0)


def test_a_shard_replaced_unseen_is_asked_before_it_is_drawn_from(clock: Clock) -> None:
    spread = full_spread(MASSES, 3)
    learner = spread.learner()
    assert learner._shards.standing[1].mass == 12.0
    spread.world.revive("1", Spread(1).shards[0])
    assert learner.wants_sample()
    known = learner._shards.standing[1]
    assert (known.mass, known.items, known.totals.inserted) == (0.0, 0, 4)
    spread.world.run()
    learner.wants_sample()
    assert learner._shards.standing[1].totals.inserted == 0
