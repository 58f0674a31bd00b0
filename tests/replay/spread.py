"""A replay spread over stores, and what actors and a learner hold of it, in a world of delays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recollect.messages import Near, Posts
from recollect.replay.batch import Batch
from recollect.replay.far import FarReplay
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.shard import Shard
from recollect.replay.store import Replay
from recollect.replay.windows import Windows
from tests.replay.lived import cut, make_episode, make_spec, messages
from tests.runtime.faked import World

PAIRS = Windows(burn_in=0, trace=2, period=2, tail=0)
"""An episode of two steps is one block and one item, and teaches two steps."""


class Clock:
    """Stands in for the module `time`; it moves when it is moved."""

    now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


class Spread:
    """Stores, and handles of them.

    Args:
        shards: K.
        sampler: makes each store's.
        limits: ratio, min_size of all together, tolerance.
        near: whether the shards are objects of the askers' process.
        choose: of the world; None: the oldest first.
        change: of the block spec.
    """

    def __init__(
        self,
        shards: int,
        windows: Windows = PAIRS,
        sampler: Callable[[], Any] = lambda: Prioritized(1.0),
        limits: tuple[float | None, int, float] = (None, 0, 0.0),
        near: bool = False,
        choose: Callable[[int], int] | None = None,
        **change: Any,
    ) -> None:
        self.windows, self.spec = windows, make_spec(windows, **change)
        self.ratio, self.min_size, self.tolerance = limits
        self.world = World(choose) if choose else World()
        self.near = near
        self.stores = [
            Replay(
                self.spec,
                windows,
                sampler(),
                Limiter(
                    self.ratio,
                    self.min_size // shards + (k < self.min_size % shards),
                    self.tolerance,
                ),
                capacity_steps=10**6,
            )
            for k in range(shards)
        ]
        self.shards = [Shard(store) for store in self.stores]

    def client(self, asker: str, posts: Posts | None = None) -> FarReplay:
        """What an actor or a learner holds."""
        handles: list[Any] = [
            Near(str(k), shard) if self.near else self.world.handle(str(k), shard, asker)
            for k, shard in enumerate(self.shards)
        ]
        limiter = Limiter(self.ratio, 0, self.tolerance)
        return FarReplay(handles, self.spec, self.windows, limiter, posts)

    def learner(self) -> FarReplay:
        """One that has heard how all shards stand."""
        client = self.client("learner")
        client.wants_sample()
        self.world.run()
        client.wants_sample()
        return client

    def pair(self, client: FarReplay, uid: int, priority: float = 1.0) -> None:
        """Insert an episode of one item."""
        insert(client, self.windows, self.spec, uid, 2, lambda k: priority)


def insert(
    client: Any,
    windows: Windows,
    spec: Any,
    uid: int,
    steps: int,
    priority: Callable[[int], float] = lambda k: 1.0,
) -> None:
    """Insert an episode, block by block."""
    for blocks, items in messages(windows, cut(spec, make_episode(spec, uid, steps)), priority):
        client.insert(blocks, items)


def leaves(store: Replay) -> list[tuple[int, int, float]]:
    """(slot, uid, mass) of a store's items in the order in which uniforms count them."""
    state = store.state_dict()
    uids = dict(zip(state["items"]["row"].tolist(), state["items"]["uid"].tolist(), strict=True))
    if "values" in state["sampler"]:
        masses = dict(enumerate(state["sampler"]["values"].tolist()))
        return [(slot, uids[slot], masses[slot]) for slot in sorted(uids)]
    places = state["sampler"]["places"]
    return [(slot, uids[slot], 1.0) for slot in sorted(uids, key=lambda slot: places[slot])]


def priorities(store: Replay) -> dict[int, float]:
    """uid -> mass of a store's items."""
    return {uid: mass for _, uid, mass in leaves(store)}


def home(batch: Batch, b: int, shards: int) -> tuple[int, int, int]:
    """Shard, slot and uid there of the item in column b."""
    slot, uid = int(batch.slots[b]), int(batch.uids[b])
    assert slot % shards == uid % shards
    return uid % shards, slot // shards, uid // shards


def uniforms(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(number)
