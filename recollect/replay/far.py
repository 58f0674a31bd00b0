"""A replay that lives elsewhere, in one shard or several: what actors and learners hold of it.

Sharded prioritised sampling: the numbers are drawn over the concatenated masses of the shards, and
a shard only looks up, so that the same numbers give the same items as one tree over all. Masses are
those of the shards' last answers; a window's probability is the share that its shard was given
times that with which the shard then drew it, so it is the true one also where masses have changed.

All blocks of an episode go to one shard. Slots and uids of a batch carry the shard's number:
`slot * shards + shard`.

Nothing here waits but `gather`, and messages of which too many are on their way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from recollect.messages import DEADLINE, Handle, Pending, Posts
from recollect.replay import batch, wire
from recollect.replay.batch import Batch
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Item
from recollect.replay.limiter import Limiter, Totals
from recollect.replay.shard import Standing
from recollect.replay.windows import Windows
from recollect.replay.wire import Drawn
from recollect.types import Array

SEND_SECONDS = 0.1
"""Experience that waits so long is sent, however little it is."""
SEND_BYTES = 4 << 20
SEND_BLOCKS = 64
"""So much is sent at once."""
ASK_SECONDS = (0.002, 0.1)
"""Between two questions whether a shard wants anything: from the least, doubled up to the most."""

_BELOW_ONE = np.nextafter(1.0, 0.0)


@dataclass
class FarDraw:
    """What was asked for: `gather` waits for it.

    `waiting` has, for each shard asked, its number, the places in the batch, its share of the mass
    and its answer to come. `steps` is how many it will teach at most, until that is known.
    """

    uniforms: Array
    waiting: list[tuple[int, Array, float, Pending]]
    steps: int
    parts: list[tuple[Drawn, Array]] = field(default_factory=list)


class FarReplay:
    """The store's own interface, for actors and a learner in other processes than its shards.

    Args:
        shards: handles of `Shard`s.
        spec, windows: of the blocks and items.
        limiter: of nothing counted and no `min_size`: it answers for all shards together.
        posts: for messages on their way; None: for some.
    """

    def __init__(
        self,
        shards: Sequence[Handle],
        spec: BlockSpec,
        windows: Windows,
        limiter: Limiter,
        posts: Posts | None = None,
    ) -> None:
        self._shards, self._spec, self._windows = list(shards), spec, windows
        self._limiter = limiter
        self.posts = posts or Posts()
        self._near = all(shard.near for shard in shards)
        self.far = not self._near
        self._standing = [Standing() for _ in shards]
        self._blocks: list[list[Block]] = [[] for _ in shards]
        self._items: list[list[Item]] = [[] for _ in shards]
        self._kept_blocks = self._kept_bytes = 0
        self._kept_since = 0.0
        self._questions: list[tuple[int, Pending]] = []
        self._asked = -1e9
        self._pause = ASK_SECONDS[0]
        self._drawing: list[FarDraw] = []
        self._lock = threading.Lock()  # `gather` may run in a thread of its own
        self.raw_bytes = 0

    @property
    def windows(self) -> Windows:
        """Geometry of the items."""
        return self._windows

    # --- What goes there -------------------------------------------------------------------------

    def wants_insert(self) -> bool:
        """Whether experience is wanted: as far as is known, and while not too much is under way."""
        if self._near:
            self._look()
            return self._answer().wants_insert(self._mass() > 0)
        if self._kept_blocks and time.monotonic() - self._kept_since >= SEND_SECONDS:
            self.send()
        if self.posts.full:
            return False
        if all(standing.wants_insert for standing in self._standing):
            self._pause = ASK_SECONDS[0]
            return True
        self.send()
        self._look()
        return False

    def insert(self, blocks: Sequence[Block], items: Sequence[Item]) -> None:
        """Send blocks and items, a message for each shard, when there are enough of them."""
        if not self._kept_blocks:
            self._kept_since = time.monotonic()
        for block in blocks:
            self._blocks[self._shard_of(block.episode)].append(block)
            self._kept_bytes += block.nbytes
            self.raw_bytes += block.raw_nbytes
        for item in items:
            self._items[self._shard_of(item.episode)].append(item)
        self._kept_blocks += len(blocks)
        if self._near or self._kept_blocks >= SEND_BLOCKS or self._kept_bytes >= SEND_BYTES:
            self.send()

    def send(self) -> None:
        """Send what waits for more."""
        for k, shard in enumerate(self._shards):
            blocks, items = self._blocks[k], self._items[k]
            if blocks or items:
                self._blocks[k], self._items[k] = [], []
                parcel = wire.pack_blocks(blocks)
                answer = shard.ask("take", parcel, wire.pack_items(items))
                self.posts.add(answer, parcel.nbytes, partial(self._hear, k))
        self._kept_blocks = self._kept_bytes = 0

    def flush(self, seconds: float = DEADLINE) -> None:
        """Send everything, and wait until all is answered."""
        self.send()
        self.posts.flush(seconds)

    def drop_episode(self, episode: int) -> None:
        """Remove an episode, also what of it waits to be sent."""
        k = self._shard_of(episode)
        self._blocks[k] = [block for block in self._blocks[k] if block.episode != episode]
        self._items[k] = [item for item in self._items[k] if item.episode != episode]
        self.posts.add(self._shards[k].ask("drop_episode", episode))

    def update_priorities(self, slots: Array, uids: Array, priorities: Array) -> None:
        """Write back priorities [B] of windows drawn, each to its shard."""
        number = len(self._shards)
        for k, shard in enumerate(self._shards):
            mine = slots % number == k
            if mine.any():
                given = slots[mine] // number, uids[mine] // number, priorities[mine]
                self.posts.add(shard.ask("update_priorities", *given), 24 * int(mine.sum()))

    # --- What comes from there -------------------------------------------------------------------

    def wants_sample(self) -> bool:
        """Whether a batch may be drawn, as far as is known."""
        if self._near or not self._allowed():
            self._look()
        return self._allowed()

    def draw(self, uniforms: Array) -> FarDraw:
        """Ask for what these numbers [B] draw; they are looked up where the items are.

        Raises:
            RuntimeError: nothing is known that could be drawn.
        """
        if self._near:
            self._look()
        uniforms = np.asarray(uniforms, np.float64)
        steps = len(uniforms) * (1 if self._windows.trajectory else self._windows.trace)
        draw = FarDraw(uniforms, [], steps)
        self._ask_for(draw, np.arange(len(uniforms)))
        with self._lock:
            self._drawing.append(draw)
        return draw

    def gather(
        self,
        draw: FarDraw,
        out: Batch | None = None,
        *,
        batch_major: bool = False,
        threads: int = 1,
    ) -> Batch:
        """The batch that was asked for, copied from what the shards sent: see `batch.gather`.

        Raises:
            PartLostError: a shard has died or does not answer.
        """
        probabilities = np.zeros(len(draw.uniforms))
        while draw.waiting:
            missed = []
            for k, places, share, answer in draw.waiting:
                drawn, standing = answer.result()
                self._hear(k, standing)
                if drawn is None:
                    missed.append(places)
                    continue
                number = len(self._shards)
                # Slots and uids are the first two lines, and say whose they are.
                windows = drawn.windows.copy()
                windows[:2] = windows[:2] * number + k
                draw.parts.append((drawn._replace(windows=windows), places))
                probabilities[places] = share * drawn.probabilities
            draw.waiting = []
            if missed:  # a shard has nothing any more: the others are asked in its place
                self._ask_for(draw, np.concatenate(missed))
        with self._lock:
            self._drawing.remove(draw)
        size = sum(standing.items for standing in self._standing)
        whole = wire.unpack_draws(self._spec, draw.parts, probabilities, size)
        return batch.gather(
            self._spec, self._windows, whole, out, batch_major=batch_major, threads=threads
        )

    def sample(self, uniforms: Array) -> Batch:
        """`draw` and `gather` in one."""
        return self.gather(self.draw(uniforms))

    # --- What is known of the shards -------------------------------------------------------------

    def _ask_for(self, draw: FarDraw, places: Array) -> None:
        masses = np.array([standing.mass for standing in self._standing])
        ends = np.cumsum(masses)
        if not ends[-1] > 0:
            raise RuntimeError("there is nothing to draw: ask wants_sample() before")
        points = draw.uniforms[places] * ends[-1]
        # The product rounds up to the whole for a number just below 1.
        last = np.flatnonzero(masses)[-1]
        chosen = np.minimum(np.searchsorted(ends, points, side="right"), last)
        for k in np.unique(chosen):
            mine = chosen == k
            local = (points[mine] - (ends[k] - masses[k])) / masses[k]
            local = np.clip(local, 0.0, _BELOW_ONE)
            share = float(masses[k] / ends[-1])
            answer = self._shards[k].ask("draw", local, *self._elsewhere(int(k)))
            draw.waiting.append((int(k), places[mine], share, answer))

    def _look(self) -> None:
        """Take answers on how the shards stand, and ask anew, not more often than makes sense."""
        left = []
        for k, answer in self._questions:
            if answer.ready():
                self._hear(k, answer.result())
            else:
                left.append((k, answer))
        self._questions = left
        now = time.monotonic()
        if left or (now - self._asked < self._pause and not self._near):
            return
        self._asked, self._pause = now, min(2 * self._pause, ASK_SECONDS[1])
        for k, shard in enumerate(self._shards):
            self._questions.append((k, shard.ask("look", *self._elsewhere(k))))
        if self._near:
            for k, answer in self._questions:
                self._hear(k, answer.result())
            self._questions = []

    def _hear(self, k: int, standing: Standing) -> None:
        if standing.wants_insert and not self._standing[k].wants_insert:
            self._pause = ASK_SECONDS[0]
        self._standing[k] = standing

    def _elsewhere(self, k: int) -> tuple[Totals, float]:
        """What is known of all shards but number k."""
        others = self._standing[:k] + self._standing[k + 1 :]
        return Totals.of([each.totals for each in others]), sum(each.mass for each in others)

    def _mass(self) -> float:
        return sum(standing.mass for standing in self._standing)

    def _answer(self) -> Limiter:
        """The limiter of all shards, with what was asked for and has not come counted as learned.

        It is `elsewhere` for this limiter, which has counted nothing itself.
        """
        known = Totals.of([standing.totals for standing in self._standing])
        with self._lock:
            under_way = sum(draw.steps for draw in self._drawing)
        self._limiter.elsewhere = known._replace(learned=known.learned + under_way)
        return self._limiter

    def _allowed(self) -> bool:
        allowed = self._answer().wants_sample(self._mass() > 0)
        if allowed:
            self._pause = ASK_SECONDS[0]
        return allowed

    def _shard_of(self, episode: int) -> int:
        """The one shard of an episode: its slot and number both count, so that all get a share."""
        return (episode + (episode >> 32)) % len(self._shards)
