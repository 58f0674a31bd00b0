"""A replay that lives elsewhere, in one shard or several: what actors and learners hold of it.

Sharded prioritised sampling: the numbers are drawn over the concatenated masses of the shards, and
a shard only looks up, so that the same numbers give the same items as one tree over all. Masses are
those of the shards' last answers; a window's probability is the share that its shard was given
times that with which the shard then drew it, so it is the true one also where masses have changed.
Numbers that fell to a shard which has nothing any more are used again over the others, and count
in their shares.

Both sides go by one limiter over all shards, and by what these have last answered. With what is on
its way counted as inserted, surplus stays within the limiter's bounds and ratio times the steps
that others had inserted, and nobody had told of, when an insert was allowed.

All blocks of an episode go to one shard. Slots and uids of a batch carry the shard's number:
`slot * shards + shard`.

A shard that died counts as one with nothing to draw, and with what it had last told of its totals,
until it was replaced and has answered. What is sent to it is kept, in bounds, and sent again.

Nothing here waits but `gather`, and who sends though too much is on its way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from recollect.messages import DEADLINE, Handle, Pending, Posts
from recollect.replay import batch, wire
from recollect.replay.asking import Asked, Shards
from recollect.replay.batch import Batch
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Item
from recollect.replay.limiter import Limiter, NothingToDrawError, Totals
from recollect.replay.shard import Stamp, Standing
from recollect.replay.uniform import batch_of_uniforms, refuse_outside
from recollect.replay.windows import Windows
from recollect.replay.wire import Drawn
from recollect.types import Array

SEND_SECONDS = 0.1
"""Experience that waits so long is sent, however little it is."""
SEND_BYTES = 4 << 20
SEND_BLOCKS = 64
"""So much is sent at once."""
_BELOW_ONE = np.nextafter(1.0, 0.0)


@dataclass(eq=False)
class _Line:
    """What goes to one shard.

    `blocks` of `nbytes` and `items` wait for more since `since`. `number` messages were sent, those
    of `open` were not answered.
    """

    blocks: list[Block] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    nbytes: int = 0
    since: float = 0.0
    number: int = 0
    open: list[int] = field(default_factory=list)

    def keep(self, blocks: Sequence[Block], items: Sequence[Item]) -> None:
        """Let these wait."""
        if not self.blocks and not self.items:
            self.since = time.monotonic()
        self.blocks += blocks
        self.items += items
        self.nbytes += sum(block.nbytes for block in blocks)

    def drop(self, episode: int) -> None:
        """Forget what waits of an episode."""
        self.blocks = [block for block in self.blocks if block.episode != episode]
        self.items = [item for item in self.items if item.episode != episode]
        self.nbytes = sum(block.nbytes for block in self.blocks)


@dataclass(eq=False)
class FarDraw:
    """What was asked for: `gather` waits for it.

    `shares` [K] are the probabilities with which a number falls to each shard. `waiting` has what
    was asked of shards, with the places in the batch, the numbers looked up there and their part of
    the share; `parts` what came, with shard and places. `steps` is how many it will teach (of whole
    episodes: at least), until that is known.
    """

    uniforms: Array
    shares: Array
    steps: int
    waiting: list[tuple[Asked, Array, Array, float]] = field(default_factory=list)
    parts: list[tuple[int, Drawn, Array]] = field(default_factory=list)


class FarReplay:
    """The store's own interface, for actors and a learner in other processes than its shards.

    Args:
        shards: handles of `Shard`s.
        spec, windows: of the blocks and items.
        limiter: of nothing counted and no `min_size`: it answers for all shards together.
        posts: for messages on their way; None: for some.
        send_blocks: sent at once, far fewer than a shard can hold; None: SEND_BLOCKS.
    """

    def __init__(
        self,
        shards: Sequence[Handle],
        spec: BlockSpec,
        windows: Windows,
        limiter: Limiter,
        posts: Posts | None = None,
        send_blocks: int | None = None,
    ) -> None:
        self._shards, self._spec, self._windows = Shards(shards), spec, windows
        self._send_blocks = send_blocks or SEND_BLOCKS
        self._limiter = limiter
        self.posts = Posts() if posts is None else posts  # an empty one is false
        self.far = not self._shards.near
        self._lines = [_Line() for _ in shards]
        self._under_way = 0  # steps of draws that were not gathered yet
        self._lock = threading.Lock()  # `gather` may run in a thread of its own
        self.raw_bytes = 0

    @property
    def windows(self) -> Windows:
        """Geometry of the items."""
        return self._windows

    # --- What goes there -------------------------------------------------------------------------

    def wants_insert(self) -> bool:
        """Whether experience is wanted: as far as is known, and while not too much is under way."""
        now = time.monotonic()
        if any(
            (line.blocks or line.items) and now - line.since >= SEND_SECONDS
            for line in self._living()
        ):
            self.send()
        if self.posts.full:
            return False
        wanted = self._may(self._limiter.wants_insert)
        if not wanted or self._fill(self._lines) >= 1:
            self.send()
        return wanted and self._fill(self._lines) < 1

    def insert(self, blocks: Sequence[Block], items: Sequence[Item]) -> None:
        """Send blocks and items, a message for each shard, when there are enough of them."""
        uids = {block.episode for block in blocks} | {item.episode for item in items}
        for k in sorted({self._shard_of(uid) for uid in uids}):
            self._lines[k].keep(
                [block for block in blocks if self._shard_of(block.episode) == k],
                [item for item in items if self._shard_of(item.episode) == k],
            )
        self.raw_bytes += sum(block.raw_nbytes for block in blocks)
        if self._shards.near or self._fill(self._living()) >= 1:
            self.send()
        if self._fill(self._lines) >= 2:
            self.send(wait=True)

    def send(self, wait: bool = False) -> None:
        """Send what waits for more: what there is room for, or where it may `wait`, all.

        What would go to a shard that died stays here, unless it may wait.
        """
        for k in sorted(range(len(self._lines)), key=self._gone):
            line = self._lines[k]
            if not line.blocks and not line.items:
                continue
            if not wait and (self._gone(k) or self.posts.full):
                continue
            parcel, items = wire.pack_blocks(line.blocks), wire.pack_items(line.items)
            line.blocks, line.items, line.nbytes = [], [], 0
            self._post(k, parcel.nbytes, "take", parcel, items)

    def flush(self, seconds: float = DEADLINE) -> None:
        """Send everything, and wait until all is answered."""
        self.send(wait=True)
        self.posts.flush(seconds)

    def drop_episode(self, episode: int) -> None:
        """Remove an episode, also what of it waits to be sent."""
        k = self._shard_of(episode)
        self._lines[k].drop(episode)
        self._post(k, 0, "drop_episode", episode)

    def _post(self, k: int, nbytes: int, method: str, *arguments: Any) -> None:
        """Send a message that must neither be lost nor taken twice."""
        line, handle = self._lines[k], self._shards.handles[k]
        if not handle.asker[0]:  # nothing is lost between parts of one process
            asked = self._shards.ask(k, method, Stamp(), *arguments)
            self.posts.add(asked.answer, nbytes, partial(self._answered, asked))
            return
        line.number += 1
        number = line.number
        sent: list[Asked] = []

        def send() -> Pending:
            stamp = Stamp(*handle.asker, number, line.open[0])
            sent[:] = [self._shards.ask(k, method, stamp, *arguments)]
            return sent[0].answer

        def heard(standing: Standing | None) -> None:
            line.open.remove(number)
            self._answered(sent[0], standing)

        line.open.append(number)
        self.posts.keep(handle, send, nbytes, heard)

    def _answered(self, asked: Asked, standing: Standing | None) -> None:
        if standing is not None:  # a shard tells how it stands when it has taken something
            self._shards.hear(asked, standing)

    def _living(self) -> list[_Line]:
        """What goes to shards that are there."""
        return [line for k, line in enumerate(self._lines) if not self._gone(k)]

    def _gone(self, k: int) -> bool:
        """Whether a shard is known to have died, and was not replaced."""
        handle = self._shards.handles[k]
        life = handle.life
        if self.posts.keeps(handle):
            self._shards.lose(k, life)
        return self._shards.gone(k)

    def _fill(self, lines: Sequence[_Line]) -> float:
        """What waits in these, in messages that are full."""
        blocks, nbytes = sum(len(x.blocks) for x in lines), sum(x.nbytes for x in lines)
        return max(blocks / self._send_blocks, nbytes / SEND_BYTES)

    def update_priorities(self, slots: Array, uids: Array, priorities: Array) -> None:
        """Write back priorities [B] of windows drawn, each to its shard."""
        number = len(self._shards)
        for k in range(number):
            mine = slots % number == k
            if mine.any():
                given = slots[mine] // number, uids[mine] // number, priorities[mine]
                asked = self._shards.ask(k, "update_priorities", *given)
                self.posts.add(asked.answer, 24 * int(mine.sum()))

    # --- What comes from there -------------------------------------------------------------------

    def wants_sample(self) -> bool:
        """Whether a batch may be drawn, as far as is known."""
        return self._may(self._limiter.wants_sample)

    def draw(self, uniforms: Array) -> FarDraw:
        """Ask for what these numbers [B] draw; they are looked up where the items are.

        Raises:
            ValueError: no uniforms, or one outside [0, 1).
            NothingToDrawError: nothing is known that could be drawn.
        """
        if self._shards.near:
            self._shards.look(time.monotonic())
        uniforms = batch_of_uniforms(uniforms)
        refuse_outside(uniforms)
        steps = len(uniforms) * (1 if self._windows.trajectory else self._windows.trace)
        draw = FarDraw(uniforms, np.zeros(len(self._shards)), steps)
        self._ask_for(draw, np.arange(len(uniforms)), uniforms, 1.0)
        with self._lock:
            self._under_way += draw.steps
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
            PartSilentError: a shard does not answer.
            FencedError: we were replaced.
            NothingToDrawError: the shards have nothing to draw any more.
        """
        number = len(self._shards)
        try:
            while draw.waiting:
                self._receive(draw)
        finally:
            with self._lock:
                self._under_way -= draw.steps
                draw.steps = 0
        parts = []
        probabilities = np.zeros(len(draw.uniforms))
        for k, drawn, places in draw.parts:
            probabilities[places] = draw.shares[k] * drawn.probabilities
            # Slots and uids are the first two lines, and say whose they are.
            windows = drawn.windows.copy()
            windows[:2] = windows[:2] * number + k
            parts.append((drawn._replace(windows=windows), places))
        size = sum(standing.items for standing in self._shards.standing)
        whole = wire.unpack_draws(self._spec, parts, probabilities, size)
        return batch.gather(
            self._spec, self._windows, whole, out, batch_major=batch_major, threads=threads
        )

    def sample(self, uniforms: Array) -> Batch:
        """`draw` and `gather` in one."""
        return self.gather(self.draw(uniforms))

    def _ask_for(self, draw: FarDraw, places: Array, uniforms: Array, share: float) -> None:
        """Ask for what `uniforms` [n] draw, for these places [n] of a batch.

        `share` is the probability with which a number comes to be used here.
        """
        masses = np.array([standing.mass for standing in self._shards.standing])
        ends = np.cumsum(masses)
        if not ends[-1] > 0:
            raise NothingToDrawError("there is nothing to draw: ask wants_sample() before")
        draw.shares += share * masses / ends[-1]
        points = uniforms * ends[-1]
        # The product rounds up to the whole for a number just below 1.
        last = np.flatnonzero(masses)[-1]
        chosen = np.minimum(np.searchsorted(ends, points, side="right"), last)
        for k in map(int, np.unique(chosen)):
            mine = chosen == k
            local = (points[mine] - (ends[k] - masses[k])) / masses[k]
            local = np.clip(local, 0.0, _BELOW_ONE)
            asked = self._shards.ask(k, "draw", local)
            draw.waiting.append((asked, places[mine], local, share * masses[k] / ends[-1]))

    def _receive(self, draw: FarDraw) -> None:
        """Wait for what was asked for; where a shard is gone or has nothing, ask the others."""
        missed, share = [], 0.0
        waiting, draw.waiting = draw.waiting, []
        for asked, places, local, given in waiting:
            answer = self._shards.result(asked)
            if answer is not None:
                drawn, standing = answer
                self._shards.hear(asked, standing)
                if drawn is not None:
                    draw.parts.append((asked.shard, drawn, places))
                    continue
            missed.append((places, local))
            share += given
            draw.shares[asked.shard] -= given
        if missed:  # within the shard that was chosen the numbers are uniform once more
            places, uniforms = (np.concatenate(each) for each in zip(*missed, strict=True))
            self._ask_for(draw, places, uniforms, share)

    # --- What is known of the shards -------------------------------------------------------------

    def _may(self, limiter: Callable[[bool], bool]) -> bool:
        """What the limiter of all shards says, once it is known how each of them stands."""
        self._shards.look(time.monotonic())
        self._limiter.elsewhere = self._counted()
        allowed = self._shards.told and limiter(self._mass() > 0)
        self._shards.wait(not allowed)
        return allowed

    def _counted(self) -> Totals:
        """What all shards have, with what was asked for and has not come counted as learned.

        It is `elsewhere` for our limiter, which has counted nothing itself.
        """
        known = Totals.of([standing.totals for standing in self._shards.standing])
        return known._replace(learned=known.learned + self._under_way)

    def _mass(self) -> float:
        return sum(standing.mass for standing in self._shards.standing)

    def _shard_of(self, episode: int) -> int:
        """The one shard of an episode: its slot and number both count, so that all get a share."""
        return (episode + (episode >> 32)) % len(self._shards)
