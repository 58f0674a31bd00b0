"""A store of replay as others ask it from other processes: in arrays, and with what it has counted.

One of several stores over which a replay is spread, or the only one. Who asks knows them all: see
`far`.
"""

from __future__ import annotations

from typing import NamedTuple

from recollect.replay import wire
from recollect.replay.limiter import Totals
from recollect.replay.store import Replay
from recollect.replay.wire import Drawn, Parcel
from recollect.types import Array


class Standing(NamedTuple):
    """How a shard stands: what it has counted, `mass` to draw from, `items`."""

    totals: Totals = Totals()
    mass: float = 0.0
    items: int = 0


class Shard:
    """Answers for a store."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def look(self) -> Standing:
        """How it stands."""
        replay = self._replay
        return Standing(replay.totals, replay.mass, len(replay))

    def take(self, parcel: Parcel, items: tuple[Array, Array]) -> Standing:
        """Insert blocks and items; raises as `Replay.insert`."""
        blocks = wire.unpack_blocks(self._replay.spec, parcel)
        self._replay.insert(blocks, wire.unpack_items(items))
        return self.look()

    def draw(self, uniforms: Array) -> tuple[Drawn | None, Standing]:
        """What these numbers [n] draw, or None if there is nothing; and how it stands then."""
        if not self._replay.mass > 0:
            return None, self.look()
        drawn = wire.pack_draw(self._replay.draw(uniforms))
        return drawn, self.look()

    def update_priorities(self, slots: Array, uids: Array, priorities: Array) -> None:
        """As `Replay.update_priorities`."""
        self._replay.update_priorities(slots, uids, priorities)

    def drop_episode(self, episode: int) -> None:
        """As `Replay.drop_episode`."""
        self._replay.drop_episode(episode)
