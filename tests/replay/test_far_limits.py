"""One limiter over all shards, however late their answers are; and who waits for what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.messages import Posts
from recollect.replay import asking, far
from recollect.replay.far import FarReplay
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.store import Replay
from tests.replay.lived import UNEVEN, insert_episode, make_episode
from tests.replay.spread import PAIRS, Clock, Spread, insert, uniforms


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(far, "time", clock)
    monkeypatch.setattr(far, "SEND_BLOCKS", 4)
    return clock


BATCH = 3


class Sides:
    """Actors and a learner that do what is wanted, and what they have done, truly.

    Episodes are pairs: an insert is of two steps, a batch teaches 2 * BATCH.
    """

    def __init__(self, spread: Spread, actors: int) -> None:
        self.spread = spread
        self.actors = [spread.client(f"actor/{i}") for i in range(actors)]
        self.learner = spread.client("learner")
        self.drawn: list[far.FarDraw] = []
        self.inserted = self.learned = 0
        self.draws = 0

    @property
    def surplus(self) -> float:
        """With all counted that was inserted or asked for, wherever it is now."""
        ratio = self.spread.ratio
        return ratio * max(0, self.inserted - self.spread.min_size) - self.learned if ratio else 0.0

    def insert(self, i: int) -> bool:
        """Actor i inserts an episode, if that is wanted; as far as it knows."""
        actor, spread = self.actors[i], self.spread
        if not actor.wants_insert():
            return False
        heard = sum(standing.totals.inserted for standing in actor._shards.standing)
        # What it had not heard of was on its way, from it or from others.
        unheard = self.inserted - heard
        assert self.surplus <= spread.tolerance + (spread.ratio or 0) * unheard
        spread.pair(actor, self.inserted * 8 + i)
        self.inserted += 2
        return True

    def gather(self) -> None:
        """The learner takes a batch it asked for."""
        if self.drawn:
            batch = self.learner.gather(self.drawn.pop(self.draws % len(self.drawn)))
            assert batch.learned.sum() == 2 * BATCH

    def sample(self) -> bool:
        """The learner asks for a batch, if that is wanted."""
        if not self.learner.wants_sample():
            return False
        assert self.inserted >= self.spread.min_size
        assert self.surplus >= 0
        self.drawn.append(self.learner.draw(uniforms(BATCH, self.draws)))
        self.learned += 2 * BATCH
        self.draws += 1
        return True

    def settle(self, clock: Clock) -> None:
        """Everything arrives, and everybody knows."""
        while self.drawn:
            self.gather()
        for _ in range(3):
            for side in (*self.actors, self.learner):
                side.flush()
                side.wants_insert()
            self.spread.world.run()
            clock.now += asking.FRESH_SECONDS


@given(
    shards=st.integers(1, 4),
    actors=st.integers(1, 3),
    limits=st.tuples(
        st.sampled_from([None, 0.5, 1.0, 3.0]),
        st.integers(0, 20),
        st.sampled_from([0.0, 9.0, 30.0]),
    ),
    does=st.lists(st.integers(0, 9), max_size=120),
    choices=st.lists(st.integers(0, 99), max_size=200),
)
@settings(max_examples=150)
def test_one_side_is_always_wanted_and_the_surplus_bounded(
    shards: int,
    actors: int,
    limits: tuple[float | None, int, float],
    does: list[int],
    choices: list[int],
) -> None:
    """No deadlock, whatever is late; -(a batch) <= surplus; above, what is told of and `insert`.

    With one actor what it has not heard of is what it keeps or has on its way.
    """
    clock = far.time
    assert isinstance(clock, Clock)
    left = iter(choices)
    spread = Spread(shards, limits=limits, choose=lambda n: next(left, 0) % n)
    sides = Sides(spread, actors)
    for do in does:
        if do < actors:
            sides.insert(do)
        elif do == 3:
            sides.sample()
        elif do == 4:
            sides.gather()
        elif do < 9:
            spread.world.move()
        else:
            clock.now += 0.05
        assert sides.surplus >= -2 * BATCH
    sides.settle(clock)
    for k in range(4):  # and it goes on from here, by turns
        moved = [sides.insert(i) for i in range(actors)]
        moved.append(sides.sample())
        assert any(moved), k
        sides.settle(clock)
    totals = [store.totals for store in spread.stores]
    assert sum(each.inserted for each in totals) == sides.inserted
    assert sum(each.learned for each in totals) == sides.learned
    assert sum(each.min_size for each in totals) == spread.min_size
    for client in (*sides.actors, sides.learner):
        client._limiter.elsewhere = client._counted()
        assert client._limiter.surplus == pytest.approx(sides.surplus)


@given(
    shards=st.integers(1, 4),
    limits=st.tuples(
        st.sampled_from([None, 0.7, 1.0, 3.0]),
        st.integers(0, 20),
        st.sampled_from([0.0, 9.0, 30.0]),
    ),
    does=st.lists(st.booleans(), max_size=60),
)
def test_near_shards_are_one_limiter_exactly(
    shards: int, limits: tuple[float | None, int, float], does: list[bool]
) -> None:
    spread = Spread(shards, limits=limits, near=True)
    one = Replay(spread.spec, PAIRS, Prioritized(1.0), Limiter(*limits), capacity_steps=10**6)
    actor, learner = spread.client("actor"), spread.client("learner")
    for i, insert_now in enumerate(does):
        wanted = one.wants_insert(), one.wants_sample()
        for client in (actor, learner):
            assert (client.wants_insert(), client.wants_sample()) == wanted
        if insert_now and wanted[0]:
            spread.pair(actor, i)
            insert_episode(one, PAIRS, spread.spec, make_episode(spread.spec, i, 2))
        elif wanted[1]:
            learner.sample(uniforms(BATCH, i))
            one.sample(uniforms(BATCH, i))
    metrics = [store.metrics() for store in spread.stores]
    assert sum(each["inserted_steps"] for each in metrics) == one.metrics()["inserted_steps"]
    assert sum(each["learned_steps"] for each in metrics) == one.metrics()["learned_steps"]


def test_actors_that_fill_different_shards_stop_though_nobody_draws(clock: Clock) -> None:
    """M2: the learner is paused, and no shard by itself is full.

    What may come beyond the tolerance is what others insert between two looks.
    """
    spread = Spread(4, limits=(1.0, 0, 40.0))
    sides = Sides(spread, 4)
    for _ in range(200):
        for actor in sides.actors:
            if actor.wants_insert():
                uid = 4 * sides.inserted + sides.actors.index(actor)
                spread.pair(actor, uid)
                sides.inserted += 2
        clock.now += asking.FRESH_SECONDS / 4
        spread.world.run()
    assert 40 <= sides.surplus <= 40 + 4 * 2 * (4 + 2)
    assert min(store.steps for store in spread.stores) > 0


def test_a_shard_that_was_empty_at_first_is_drawn_from_once_it_is_not(clock: Clock) -> None:
    """Also where the learner is never kept waiting, and so has no need to look."""
    spread = Spread(2)
    actor, learner = spread.client("actor"), spread.learner()
    spread.pair(actor, 0)
    actor.flush()
    clock.now += 1
    learner.wants_sample()
    spread.world.run()
    assert learner.wants_sample()
    spread.pair(actor, 1)
    actor.flush()
    assert set(learner.sample(uniforms(20)).uids % 2) == {0}
    for _ in range(3):
        clock.now += asking.FRESH_SECONDS
        assert learner.wants_sample()
        spread.world.run()
    assert set(learner.sample(uniforms(20)).uids % 2) == {0, 1}


def test_nothing_is_drawn_before_every_shard_has_told_what_it_waits_for(clock: Clock) -> None:
    """Shard 0 alone has what it waits for, and shard 1 has not."""
    spread = Spread(2, limits=(1.0, 8, 100.0))
    actor = spread.client("actor")
    for i in range(2):
        spread.pair(actor, 2 * i)
    actor.flush()
    assert [store.wants_sample() for store in spread.stores] == [True, False]
    learner = spread.client("learner")
    assert not learner.wants_sample()
    for _ in range(4):
        spread.world.move()  # one question arrives, or one answer comes
        assert not learner.wants_sample()


def test_what_was_asked_for_and_has_not_come_counts_as_learned(clock: Clock) -> None:
    spread = Spread(2, limits=(1.0, 0, 100.0))
    sides = Sides(spread, 1)
    for _ in range(3):
        sides.actors[0].wants_insert()
        spread.world.run()
        assert sides.insert(0)
    sides.settle(clock)
    assert [sides.sample() for _ in range(3)] == [True, True, False], "6 steps came, a batch has 6"
    sides.settle(clock)
    assert not sides.sample()


def test_answers_that_come_late_put_nothing_back(clock: Clock) -> None:
    """An answer to a look before the draw comes after the draw's own."""
    spread = Spread(1, limits=(1.0, 0, 100.0))
    actor, learner = spread.client("actor"), spread.learner()
    for i in range(4):
        spread.pair(actor, i)
    actor.flush()
    for _ in range(2):
        clock.now += asking.FRESH_SECONDS
        learner.wants_sample()
        spread.world.run()
    clock.now += asking.FRESH_SECONDS
    assert learner.wants_sample(), "and a look is asked, that is late"
    spread.world.move()
    spread.world.choose = lambda n: n - 1
    learner.sample(uniforms(5))
    assert learner._counted().learned == 10
    spread.world.run()
    assert not learner.wants_sample(), "8 steps came in, 10 were learned"


# --- Who waits ------------------------------------------------------------------------------------


def test_only_gather_waits_and_full_posts_want_nothing(clock: Clock) -> None:
    """M2."""
    spread = Spread(3)
    actor, learner = spread.client("actor"), spread.learner()
    assert not actor.wants_insert(), "nobody has told yet how they stand"
    spread.world.run()
    uid = 0
    while actor.wants_insert() and uid < 100:
        spread.pair(actor, uid)
        uid += 1
        clock.now += 0.03
    assert len(actor.posts) == 8
    assert uid < 100
    assert spread.world.waited == 0
    for _ in range(5):
        clock.now += 1
        assert not actor.wants_insert()
        actor.send()
    assert (len(actor.posts), spread.world.waited) == (8, 0)
    spread.world.run()
    assert actor.wants_insert()
    actor.flush()
    held = sum(len(store) for store in spread.stores)
    assert held == uid
    clock.now += 1
    learner.wants_sample()
    spread.world.run()
    assert learner.wants_sample()
    spread.world.waited = 0
    draw = learner.draw(uniforms(4))
    assert spread.world.waited == 0
    batch = learner.gather(draw)
    assert spread.world.waited > 0
    spread.world.waited = 0
    learner.update_priorities(batch.slots, batch.uids, np.ones(4))
    assert spread.world.waited == 0


def test_experience_waits_for_more_and_not_long(clock: Clock) -> None:
    """S3-11: few messages, and none older than SEND_SECONDS at a look."""
    spread = Spread(1)
    actor = spread.client("actor")
    actor.wants_insert()
    spread.world.run()
    asked = spread.world.asked
    assert actor.wants_insert()
    spread.pair(actor, 0)
    assert asked["take"] == 0
    clock.now += far.SEND_SECONDS * 0.9
    assert actor.wants_insert()
    spread.pair(actor, 1)
    assert asked["take"] == 0
    clock.now += far.SEND_SECONDS * 0.11
    assert actor.wants_insert()
    assert asked["take"] == 1, "the oldest has waited for so long"
    for i in range(far.SEND_BLOCKS):
        spread.pair(actor, 2 + i)
    assert asked["take"] == 2, "there are enough"
    assert actor.posts.sent == 2
    actor.flush()
    assert spread.stores[0].steps == 2 * (2 + far.SEND_BLOCKS)


def test_what_waits_is_sent_when_no_more_is_wanted(clock: Clock) -> None:
    spread = Spread(2, limits=(1.0, 0, 4.0))
    actor = spread.client("actor")
    actor.wants_insert()
    spread.world.run()
    for i in range(3):
        assert actor.wants_insert()
        spread.pair(actor, i)
    clock.now += far.SEND_SECONDS
    assert actor.wants_insert()
    spread.pair(actor, 3)
    spread.world.run()
    assert not actor.wants_insert()
    spread.world.run()
    assert sum(store.steps for store in spread.stores) == 8


def test_who_inserts_unasked_waits_rather_than_keep_without_end(clock: Clock) -> None:
    spread = Spread(1)
    actor = spread.client("actor", Posts(most=2))
    for i in range(60):
        spread.pair(actor, i)
        assert len(actor._lines[0].blocks) < 2 * far.SEND_BLOCKS
        assert len(actor.posts) <= 2
    assert spread.world.waited > 0


def test_questions_are_few_while_nothing_is_wanted(clock: Clock) -> None:
    spread = Spread(2, limits=(1.0, 100, 0.0))
    learner = spread.client("learner")
    for _ in range(1000):  # a second
        assert not learner.wants_sample()
        spread.world.run()
        clock.now += 0.001
    assert 10 <= spread.world.asked["look"] / 2 <= 20


def test_whole_episodes_are_counted_once_they_have_come(clock: Clock) -> None:
    spread = Spread(2, UNEVEN, limits=(1.0, 0, 1e9))
    actor = spread.client("actor")
    for uid in range(6):
        insert(actor, UNEVEN, spread.spec, uid, 5 + 3 * uid)
    actor.flush()
    learner: FarReplay = spread.learner()
    batch = learner.sample(uniforms(7))
    assert learner._counted().learned == batch.learned.sum()
    assert learner._counted().inserted == sum(5 + 3 * uid for uid in range(6))
