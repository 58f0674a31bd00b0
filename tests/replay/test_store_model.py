"""D1: replay against a model that is all lists and dicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from recollect.replay.batch import Batch
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.contents import BLOCK_OVERHEAD, ITEM_OVERHEAD
from recollect.replay.episodes import Item
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.store import Replay
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Windows
from recollect.types import Array
from tests.replay.lived import (
    Episode,
    assert_batch,
    cut,
    live_items,
    make_episode,
    make_spec,
    messages,
    on_disk,
)


@dataclass
class Model:
    """Replay as dicts and lists: blocks and items oldest first, all else worked out each time."""

    windows: Windows
    spec: BlockSpec
    capacity_steps: float
    capacity_bytes: float
    blocks: list[tuple[int, int, Block]] = field(default_factory=list)  # episode, index
    items: list[tuple[int, Item]] = field(default_factory=list)  # uid
    next_window: dict[int, int] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)  # of episodes that have ended
    priorities: dict[int, float] = field(default_factory=dict)
    uids: int = 0
    late: int = 0
    stale: int = 0

    @property
    def steps(self) -> int:
        return sum(block.steps for *_, block in self.blocks)

    @property
    def nbytes(self) -> int:
        blocks = sum(block.nbytes + BLOCK_OVERHEAD for *_, block in self.blocks)
        return blocks + ITEM_OVERHEAD * len(self.items)

    def fits(self, blocks: list[Block], items: list[Item]) -> bool:
        steps = sum(block.steps for block in blocks)
        nbytes = sum(block.nbytes + BLOCK_OVERHEAD for block in blocks) + ITEM_OVERHEAD * len(items)
        return (
            self.steps + steps <= self.capacity_steps
            and self.nbytes + nbytes <= self.capacity_bytes
        )

    def needs(self, item: Item, episode: int, index: int) -> bool:
        """Whether the item lies in this block: any of its observations does."""
        if item.episode != episode:
            return False
        stop = item.start + item.learned + item.tail
        closing = stop == self.lengths.get(episode) and stop % self.windows.period == 0
        places = {t // self.windows.period for t in range(item.start - item.prefix, stop + 1)}
        if closing:  # it lies with the last step
            places.discard(stop // self.windows.period)
        return index in places

    def wanted(self, episode: int, index: int) -> bool:
        """Whether an item needs the block, or a window to come will."""
        if any(self.needs(item, episode, index) for _, item in self.items):
            return True
        k = self.next_window[episode]
        steps = self.lengths.get(episode, 10**6)
        if not self.windows.exists(k, steps):
            return False
        near = range(k, k + self.windows.burn_in + 2)
        return any(
            self.windows.window(j, 10**6).first // self.windows.period <= index for j in near
        )

    def purge(self) -> None:
        """Blocks go from an episode's oldest on."""
        for episode in {episode for episode, *_ in self.blocks}:
            for entry in [entry for entry in self.blocks if entry[0] == episode]:
                if self.wanted(*entry[:2]):
                    break
                self.blocks.remove(entry)

    def insert(self, blocks: list[Block], items: list[Item]) -> None:
        for block in blocks:
            if block.index == 0:
                self.next_window[block.episode] = 0
            if block.last:
                steps = block.index * self.windows.period + block.steps
                self.lengths[block.episode] = steps
        while not self.fits(blocks, items):
            episode, index, _ = self.blocks[0]
            if any(self.needs(item, episode, index) for _, item in self.items):
                self.items.pop(0)
            else:
                self.blocks.pop(0)
            self.purge()
        self.blocks += [(block.episode, block.index, block) for block in blocks]
        for item in items:
            first = (item.start - item.prefix) // self.windows.period
            if any(entry[:2] == (item.episode, first) for entry in self.blocks):
                self.items.append((self.uids, item))
                self.priorities[self.uids] = item.priority
                self.uids += 1
            else:
                self.late += 1
            self.next_window[item.episode] = item.start // self.windows.period + 1
        self.purge()

    def drop(self, episode: int) -> None:
        self.items = [entry for entry in self.items if entry[1].episode != episode]
        self.blocks = [entry for entry in self.blocks if entry[0] != episode]

    def update(self, uids: Array, priorities: Array) -> None:
        live = {uid for uid, _ in self.items}
        for uid, priority in zip(uids.tolist(), priorities.tolist(), strict=True):
            if uid in live:
                self.priorities[uid] = priority
            else:
                self.stale += 1


EXPONENT = 0.8


def probabilities(replay: Replay, uniform: bool) -> dict[int, float]:
    """uid -> the chance of an item to be drawn, as the sampler's own state tells it."""
    state = replay.state_dict()
    slots = state["items"]["row"]
    if uniform:
        return dict.fromkeys(state["items"]["uid"].tolist(), 1 / max(1, len(slots)))
    values = state["sampler"]["values"]
    return dict(
        zip(state["items"]["uid"].tolist(), values[slots] / (values.sum() or 1), strict=True)
    )


@pytest.mark.parametrize("seed", range(10))
def test_replay_equals_its_model_after_every_operation(seed: int) -> None:
    """D1: insert, evict, sample, update, save, load into a fresh one, lose an episode's actor.

    Seeds cover both samplers, a capacity in steps, in bytes and in both, one to three slots.
    """
    rng = np.random.default_rng(seed)
    uniform, in_bytes, in_both = seed % 2 == 1, seed % 4 > 1, seed > 7
    period = int(rng.integers(1, 4))
    windows = Windows(
        int(rng.integers(0, 6)), period + int(rng.integers(0, 5)), period, int(rng.integers(0, 4))
    )
    spec = make_spec(windows, stack=1 + seed % 3, every_state=seed % 2 == 0)
    steps = windows.blocks * period + int(rng.integers(0, 40))
    least = windows.blocks * (spec.nbytes(period, True) + BLOCK_OVERHEAD) + ITEM_OVERHEAD
    nbytes = 2 * least + int(rng.integers(0, 40 * ITEM_OVERHEAD))
    capacity = {"capacity_bytes": nbytes} if in_bytes else {"capacity_steps": steps}
    if in_both:
        capacity = {"capacity_bytes": nbytes, "capacity_steps": steps}
    samplers: list[Any] = []

    def empty() -> Replay:
        samplers.append(Uniform() if uniform else Prioritized(EXPONENT))
        return Replay(spec, windows, samplers[-1], Limiter(2.0, 9, 11.0), **capacity)

    def check() -> None:
        replay.check_valid()
        assert list(live_items(replay).items()) == [
            (uid, (item.episode, item.start)) for uid, item in model.items
        ]
        state = replay.state_dict()
        blocks = state["blocks"]
        held = zip(blocks["episode"].tolist(), blocks["index"].tolist(), strict=True)
        assert list(held) == [entry[:2] for entry in model.blocks]
        assert state["buffers"].numbers.tolist() == blocks["serial"].tolist()
        buffers = [bytes(buffer) for buffer in state["buffers"].arrays]
        assert buffers == [bytes(block.buffer) for *_, block in model.blocks]
        assert samplers[-1].slots().tolist() == sorted(state["items"]["row"].tolist())
        powers = {u: 1.0 if uniform else model.priorities[u] ** EXPONENT for u, _ in model.items}
        assert probabilities(replay, uniform) == pytest.approx(
            {uid: power / (sum(powers.values()) or 1) for uid, power in powers.items()}
        )
        assert replay.steps == model.steps
        assert replay.nbytes == model.nbytes
        assert model.fits([], [])
        assert replay.metrics()["late_items"] == model.late
        assert replay.metrics()["stale_write_backs"] == model.stale
        assert replay.metrics()["inserted_steps"] == inserted
        assert replay.metrics()["learned_steps"] == learned
        assert replay.wants_insert() or replay.wants_sample()

    replay = empty()
    limits = (capacity.get(f"capacity_{unit}", np.inf) for unit in ("steps", "bytes"))
    model = Model(windows, spec, *limits)
    episodes: dict[int, Episode] = {}
    slots: list[Iterator[Any]] = [iter(()) for _ in range(1 + seed % 3)]
    running = [-1] * len(slots)
    remembered: list[Batch] = []
    inserted = learned = restored = 0
    for _ in range(500):
        choice = rng.random()
        slot = int(rng.integers(len(slots)))
        if choice < 0.6:
            message = next(slots[slot], None)
            if message is None:
                uid = len(episodes)
                running[slot] = uid
                episodes[uid] = make_episode(spec, uid, int(rng.integers(1, 30)))
                slots[slot] = messages(
                    windows, cut(spec, episodes[uid]), lambda k: float(rng.random())
                )
                message = next(slots[slot])
            replay.insert(*message)
            model.insert(*message)
            inserted += sum(block.steps for block in message[0])
        elif choice < 0.8 and samplers[-1].mass:
            batch = replay.sample(rng.random(5))
            learned += int(batch.learned.sum())
            items, chances = dict(model.items), probabilities(replay, uniform)
            wanted = [chances[uid] for uid in batch.uids.tolist()]
            np.testing.assert_allclose(batch.probabilities, wanted)
            assert batch.size == len(items)
            found = []
            for uid in batch.uids.tolist():
                episode = episodes[items[uid].episode]
                found.append((episode, windows.window(items[uid].start // period, episode.steps)))
            assert_batch(windows, spec, batch, found)
            remembered.append(batch)
        elif choice < 0.92 and remembered:
            batch = remembered.pop(int(rng.integers(len(remembered))))
            # As a learner would: one priority per item, however often it was drawn.
            priorities = (batch.uids % 7 + rng.random()) / 7 * (batch.uids % 5 > 0)
            replay.update_priorities(batch.slots, batch.uids, priorities)
            model.update(batch.uids, priorities)
        elif choice < 0.96:
            wants = replay.wants_insert(), replay.wants_sample()
            state = on_disk(replay.state_dict())
            replay = empty()
            replay.load_state_dict(state)
            assert (replay.wants_insert(), replay.wants_sample()) == wants
            restored += 1
        elif running[slot] >= 0:
            replay.drop_episode(running[slot])
            model.drop(running[slot])
            slots[slot], running[slot] = iter(()), -1
        check()
    assert replay.metrics()["evicted_items"] > 20
    assert restored > 5
