"""What actors and a learner see of a shard that is gone, hangs, or is replaced."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from recollect.messages import FencedError
from recollect.replay import asking, far
from recollect.replay.far import FarReplay
from recollect.replay.limiter import Limiter, NothingToDrawError
from tests.replay.lived import (
    UNEVEN,
)
from tests.replay.spread import Clock, Spread, home, insert, leaves, priorities, uniforms
from tests.runtime.faked import Asks


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(far, "time", clock)
    monkeypatch.setattr(far, "SEND_BLOCKS", 4)
    return clock


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
