"""Shards that are killed and replaced while actors send and a learner draws: D2 in small."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recollect.messages import Posts
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
from tests.replay.spread import Clock, uniforms
from tests.runtime.faked import World


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
    if journals and not run.former:  # else windows over a gap are lost too
        given_items = sum(
            len(items)
            for actor in run.actors
            for uid in {uid for uid, _ in actor.given}
            for blocks, items in messages(
                UNEVEN, cut(SPEC, make_episode(SPEC, uid, 4 + 7 * (uid % 100 % 4)))
            )
            if (uid, blocks[0].index) in set(actor.given)
        )
        assert not lost
        assert sum(len(shard._replay) for shard in run.shards) == given_items

    for k in range(6):  # and it goes on from here, by turns
        moved = [actor.insert() for actor in run.actors]
        moved.append(run.sample())
        assert any(moved), k
        run.settle(clock)
