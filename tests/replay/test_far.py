"""Drawing from a replay in shards is drawing from one tree; what is written back finds its item."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.agents.acting import episode_uid
from recollect.maths.priorities import importance_weights
from recollect.replay import far
from recollect.replay.prioritized import Prioritized
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Windows
from tests.replay.lived import (
    UNEVEN,
    assert_batch,
    assert_contents,
    assert_same_batch,
    geometries,
    live_items,
    make_episode,
)
from tests.replay.spread import (
    Clock,
    Spread,
    home,
    insert,
    leaves,
    priorities,
    uniforms,
)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(far, "time", clock)
    return clock


BELOW_ONE = float(np.nextafter(1.0, 0.0))
numbers = st.lists(
    st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.25, 0.5, BELOW_ONE])),
    min_size=1,
    max_size=12,
)


def spread_of(
    masses: list[tuple[int, float]], shards: int, prioritised: bool, near: bool = False
) -> Spread:
    """One item in a shard, with a priority, for each of these."""
    sampler: Any = (lambda: Prioritized(0.9)) if prioritised else Uniform
    spread = Spread(shards, sampler=sampler, near=near)
    actor = spread.client("actor")
    for i, (shard, priority) in enumerate(masses):
        spread.pair(actor, i * shards + shard % shards, priority)
    actor.flush()
    return spread


@given(
    masses=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1e-3, 0.3, 1.0, 2.0, 7.0, 1e6])),
        min_size=1,
        max_size=20,
    ),
    shards=st.integers(1, 5),
    prioritised=st.booleans(),
    near=st.booleans(),
    dropped=st.sets(st.integers(0, 19), max_size=6),
    found=numbers,
)
def test_the_same_numbers_give_the_same_items_as_one_tree(
    masses: list[tuple[int, float]],
    shards: int,
    prioritised: bool,
    near: bool,
    dropped: set[int],
    found: list[float],
) -> None:
    """One tree over the leaves of all shards, walked leaf by leaf."""
    spread = spread_of(masses, shards, prioritised, near)
    for i in dropped & set(range(len(masses))):
        shard = masses[i][0] % shards
        spread.stores[shard].drop_episode(i * shards + shard)
    tree = [(k, *leaf) for k, store in enumerate(spread.stores) for leaf in leaves(store)]
    total = sum(mass for *_, mass in tree)
    learner = spread.learner()
    if not total:
        with pytest.raises(RuntimeError, match=r"nothing to draw: ask wants_sample"):
            learner.draw(np.array(found))
        return
    batch = learner.sample(np.array(found))
    for b, u in enumerate(found):
        got = home(batch, b, shards)
        begin = 0.0
        for *leaf, mass in tree:
            if tuple(leaf) == got:
                break
            begin += mass
        assert mass > 0, "a leaf of priority 0 is never drawn"
        # Where two leaves meet, the last bits may decide otherwise.
        assert begin - 1e-9 * total <= u * total <= begin + mass + 1e-9 * total
        assert batch.probabilities[b] == pytest.approx(mass / total, rel=1e-9)
    assert batch.size == len(tree)


@given(
    windows=geometries(),
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=7),
    shards=st.integers(1, 4),
    change=st.fixed_dictionaries(
        {
            "stack": st.integers(1, 3),
            "every_state": st.booleans(),
            "box": st.booleans(),
            "codec": st.sampled_from(["none", "zstd"]),
        }
    ),
    near=st.booleans(),
    choices=st.lists(st.integers(0, 99), max_size=40),
    found=numbers,
)
@settings(max_examples=60)
def test_a_batch_holds_what_was_lived_wherever_it_lies(
    windows: Windows,
    lengths: list[int],
    shards: int,
    change: dict[str, Any],
    near: bool,
    choices: list[int],
    found: list[float],
) -> None:
    """Bit for bit, in the numbers' order: mid-episode, prefixes, whole episodes, stacks, packed.

    And it is what each store itself gathers of its items.
    """
    left = iter(choices)
    spread = Spread(
        shards, windows, Uniform, near=near, choose=lambda n: next(left, 0) % n, **change
    )
    actor = spread.client("actor")
    episodes = {uid: make_episode(spread.spec, uid, steps) for uid, steps in enumerate(lengths)}
    for uid, steps in enumerate(lengths):
        insert(actor, windows, spread.spec, uid, steps)
        spread.world.move()
    actor.flush()
    for store in spread.stores:
        assert_contents(store, windows, spread.spec, episodes)
    batch = spread.learner().sample(np.array(found))
    lived = []
    for b in range(len(found)):
        shard, slot, uid = home(batch, b, shards)
        uid, start = live_items(spread.stores[shard])[uid]
        lived.append((episodes[uid], windows.window(start // windows.period, lengths[uid])))
        alone = spread.stores[shard]._contents.locate(np.array([slot]), np.ones(1))
        own = spread.stores[shard].gather(alone)
        rows = len(own.mask)
        np.testing.assert_array_equal(batch.reward[:rows, b], own.reward[:, 0])
        np.testing.assert_array_equal(batch.recurrent_state[b], own.recurrent_state[0])
    assert_batch(windows, spread.spec, batch, lived)


def test_batches_gather_into_rooms_and_in_any_order() -> None:
    """Two draws are under way; an earlier batch's arrays are written again; and once more."""
    spread = spread_of([(i, 1.0 + i) for i in range(9)], 3, True)
    learner = spread.learner()
    one, two = learner.draw(uniforms(5, 1)), learner.draw(uniforms(5, 2))
    room = learner.gather(two)
    np.testing.assert_array_equal(learner.gather(two).uids, room.uids)
    second = {name: np.array(value) for name, value in vars(room).items() if name != "observation"}
    first = learner.gather(one, room, batch_major=True, threads=2)
    assert first.reward is room.reward
    assert_same_batch(first, learner.sample(uniforms(5, 1)))
    assert not np.array_equal(first.uids, second["uids"])


# --- Probabilities --------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_draw_also_where_masses_have_changed() -> None:
    """By formula: the share by the masses as they were told, times that inside as it is now."""
    spread = spread_of([(0, 1.0), (0, 3.0), (1, 4.0), (1, 8.0), (2, 2.0)], 3, True)
    old = [store.mass for store in spread.stores]
    learner = spread.learner()
    for store, priority in zip(spread.stores, (50.0, 0.5, 5.0), strict=True):
        slot, uid, _ = leaves(store)[0]
        store.update_priorities(np.array([slot]), np.array([uid]), np.array([priority]))
    batch = learner.sample(uniforms(200))
    known: dict[tuple[int, int], float] = {}
    for b in range(200):
        shard, _, uid = home(batch, b, 3)
        own = priorities(spread.stores[shard])
        wanted = old[shard] / sum(old) * own[uid] / sum(own.values())
        assert batch.probabilities[b] == pytest.approx(wanted, rel=1e-12)
        known[shard, uid] = batch.probabilities[b]
    assert len(known) == 5
    assert sum(known.values()) == pytest.approx(1.0)
    # The answers told the new masses.
    batch = learner.sample(uniforms(50))
    total = sum(store.mass for store in spread.stores)
    for b in range(50):
        shard, _, uid = home(batch, b, 3)
        wanted = priorities(spread.stores[shard])[uid] / total
        assert batch.probabilities[b] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("emptied", [(), (1,), (0, 2)])
def test_items_come_as_often_as_their_probabilities_say(emptied: tuple[int, ...]) -> None:
    """By frequency, with masses that are one reply old, or have fallen to 0 since."""
    masses = [(i % 4, 1.0 + i) for i in range(12)]
    spread = spread_of(masses, 4, True)
    learner = spread.learner()
    for k, store in enumerate(spread.stores):
        slots, uids, own = map(np.array, zip(*leaves(store), strict=True))
        changed = np.zeros(3) if k in emptied else own[::-1] * (k + 1)
        store.update_priorities(slots, uids, changed)
    times = 40_000
    batch = learner.sample(uniforms(times, 7))
    counted: Counter[tuple[int, ...]] = Counter()
    said = {}
    for b in range(times):
        item = home(batch, b, 4)
        counted[item] += 1
        said[item] = batch.probabilities[b]
    assert len(said) == 3 * (4 - len(emptied))
    assert sum(said.values()) == pytest.approx(1.0)
    for item, p in said.items():
        spread_out = (times * p * (1 - p)) ** 0.5
        assert abs(counted[item] - times * p) < 5 * spread_out, item


def test_weights_are_over_the_whole_batch_and_all_items() -> None:
    """w_i = (1 / (N P(i)))^beta, over the largest of the batch: N is of all shards together."""
    spread = spread_of([(0, 1.0), (1, 2.0), (1, 4.0), (1, 3.0), (2, 9.0)], 3, True)
    batch = spread.learner().sample(uniforms(40))
    assert batch.size == 5
    weights = importance_weights(torch.from_numpy(batch.probabilities), batch.size, 0.6)
    raw = []
    for b in range(40):
        shard, _, uid = home(batch, b, 3)
        total = sum(store.mass for store in spread.stores)
        raw.append((1 / (5 * priorities(spread.stores[shard])[uid] / total)) ** 0.6)
    np.testing.assert_allclose(weights, np.array(raw) / max(raw))


def test_a_shard_that_is_empty_is_passed_over() -> None:
    spread = spread_of([(1, 1.0), (1, 2.0), (3, 5.0)], 5, True)
    batch = spread.learner().sample(np.array([0.0, 0.999, BELOW_ONE]))
    assert [home(batch, b, 5)[0] for b in range(3)] == [1, 3, 3]


def test_where_all_has_gone_gathering_says_so_and_owes_nothing() -> None:
    spread = spread_of([(0, 1.0), (1, 2.0)], 2, True)
    learner = spread.learner()
    draw = learner.draw(np.array([0.1, 0.9]))
    for uid, store in zip((0, 3), spread.stores, strict=True):
        store.drop_episode(uid)
    with pytest.raises(RuntimeError, match="there is nothing to draw: ask wants_sample"):
        learner.gather(draw)
    assert learner._under_way == 0
    with pytest.raises(RuntimeError, match="there is nothing to draw: ask wants_sample"):
        learner.draw(np.array([0.5]))
    with pytest.raises(RuntimeError, match="there is nothing to draw: ask wants_sample"):
        spread.stores[0].draw(np.array([0.5]))


@pytest.mark.parametrize("wrong", [[], [1.0], [-0.1], [0.5, float("nan")], [[0.5]]])
def test_numbers_are_refused_as_a_store_refuses_them(wrong: Any) -> None:
    spread = spread_of([(0, 1.0)], 1, True)
    for replay in (spread.learner(), spread.stores[0]):
        with pytest.raises(ValueError, match=r"uniforms? must be"):
            replay.draw(np.array(wrong))


# --- What goes there ------------------------------------------------------------------------------


@given(
    shards=st.integers(1, 4),
    items=st.integers(1, 12),
    found=numbers,
    gone=st.sets(st.integers(0, 11), max_size=4),
    near=st.booleans(),
)
def test_priorities_written_back_reach_their_items_and_no_others(
    shards: int, items: int, found: list[float], gone: set[int], near: bool
) -> None:
    """Trap 26: some have gone since, and their slots are given to others."""
    spread = spread_of([(i, 1.0 + i) for i in range(items)], shards, True, near)
    learner, actor = spread.learner(), spread.client("actor")
    batch = learner.sample(np.array(found))
    gone &= set(range(items))
    for i in gone:  # item i is alone in episode i * shards + i % shards
        actor.drop_episode(i * shards + i % shards)
    for i in gone:
        spread.pair(actor, 1000 * shards + i * shards + i % shards, 77.0)
    actor.flush()
    before = [priorities(store) for store in spread.stores]
    wanted = [dict(own) for own in before]
    stale = 0
    given_back = np.random.default_rng(items).random(len(found)) + 100
    for b, priority in enumerate(given_back):
        shard, _, uid = home(batch, b, shards)
        if uid in before[shard]:
            wanted[shard][uid] = priority**0.9
        else:
            stale += 1
    learner.update_priorities(batch.slots, batch.uids, given_back)
    learner.flush()
    for store, own in zip(spread.stores, wanted, strict=True):
        assert priorities(store) == pytest.approx(own, rel=1e-12)
        store.check_valid()
    counted = sum(store.metrics()["stale_write_backs"] for store in spread.stores)
    assert counted == stale


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 5, 8, 16])
def test_episodes_spread_evenly_over_shards(shards: int) -> None:
    """Of one slot in turn; and those that all slots begin together."""
    client = Spread(shards).client("actor")

    def counts(uids: list[int]) -> list[int]:
        found = Counter(client._shard_of(uid) for uid in uids)
        return [found[k] for k in range(shards)]

    for epoch in (0, 3):
        for slot in (0, 7, 255):
            of_slot = counts([episode_uid(epoch, slot, n) for n in range(10 * shards)])
            assert of_slot == [10] * shards
        for n in (0, 1, 1000):
            together = counts([episode_uid(epoch, slot, n) for slot in range(256)])
            assert max(together) - min(together) <= 1


def test_all_of_an_episode_lies_in_one_shard() -> None:
    spread = Spread(3, UNEVEN, Uniform)
    actor = spread.client("actor")
    lengths = {episode_uid(0, slot, n): 5 + 4 * n for slot in range(4) for n in range(4)}
    for uid, steps in lengths.items():
        insert(actor, UNEVEN, spread.spec, uid, steps)
    actor.flush()
    held = [set(store.state_dict()["episodes"]["uid"].tolist()) for store in spread.stores]
    assert sum(map(len, held)) == len(set().union(*held)) == len(lengths)
    assert all(len(own) >= 4 for own in held)
    assert sum(store.steps for store in spread.stores) == sum(lengths.values())


@given(
    does=st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), max_size=30),
    choices=st.lists(st.integers(0, 99), max_size=60),
    shards=st.integers(1, 3),
)
def test_what_is_dropped_is_gone_and_nothing_else(
    does: list[tuple[int, bool, int]], choices: list[int], shards: int
) -> None:
    """R9: also what waits to be sent, and what was sent before and has not arrived."""
    left = iter(choices)
    spread = Spread(shards, choose=lambda n: next(left, 0) % n)
    actor = spread.client("actor")
    wanted: set[int] = set()
    fresh = iter(range(10**6))
    running = {slot: next(fresh) for slot in range(6)}
    for slot, drop, then in does:
        uid = running[slot]
        if drop:
            actor.drop_episode(uid)
            wanted.discard(uid)
            running[slot] = next(fresh)
        elif uid not in wanted:
            spread.pair(actor, uid)
            wanted.add(uid)
        if then == 1:
            actor.send()
        for _ in range(then):
            spread.world.move()
    actor.flush()
    held = [uid for store in spread.stores for uid in store.state_dict()["episodes"]["uid"]]
    assert sorted(held) == sorted(wanted)
    assert not any(line.blocks or line.items or line.nbytes for line in actor._lines)


def test_what_a_shard_refuses_is_raised_where_it_was_sent_from() -> None:
    spread = Spread(2)
    actor = spread.client("actor")
    spread.pair(actor, 4)
    spread.pair(actor, 4)
    with pytest.raises(RuntimeError, match="block 0 of episode 4 came, wanted was"):
        actor.flush()
