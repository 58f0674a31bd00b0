"""Replay: blocks once, the windows over them, what is drawn next, and the batch that comes out.

An *item* is a window of an episode with a priority. Its steps lie in blocks, which windows that
overlap share: a block counts the items over it and goes with the last of them, unless a window
still to come needs it. Blocks no item has yet *wait*; they count in the capacity like the others.

Room is made before new blocks come in, oldest first: if the oldest block of all waits for items, it
goes (its episode was given up, or the capacity is too small for the episodes that run); otherwise
the oldest item goes. An item whose blocks went while it was made is *late*: it is dropped and
counted.

`draw` decides, and holds the blocks it found. `gather` reads only these: it may run in another
thread, and whatever happens in between the batch is the same. Everything else is for one thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recollect.replay import batch, saving
from recollect.replay.batch import Batch, Draw
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.capacity import check_capacity, memory_need
from recollect.replay.checking import check_contents, require
from recollect.replay.contents import BLOCK_OVERHEAD, ITEM_OVERHEAD, Contents
from recollect.replay.episodes import LARGEST_PRIORITY, Episode, Item
from recollect.replay.limiter import Limiter, Totals
from recollect.replay.sampler import Sampler
from recollect.replay.uniform import batch_of_uniforms
from recollect.replay.windows import Windows
from recollect.types import Array, Metrics

__all__ = ["Replay", "check_capacity", "memory_need"]


class Replay:
    """The experience learned from: a service. See the module for what goes when.

    Args:
        spec: of the blocks.
        windows: geometry of the items.
        sampler: which items are drawn; empty, and the store's own from now on.
        limiter: how much is drawn per step inserted; likewise.
        capacity_steps: unique environment steps to hold at most; and, or instead,
        capacity_bytes: bytes to hold at most: buffers, and the two overheads of `contents` for each
            block and item. What is reached first counts; one of the two may be None.
    Attributes:
        gaps: whether windows may come whose blocks never will, as after `abandon`.

    Raises:
        ConfigError: as `check_capacity`.
    """

    def __init__(
        self,
        spec: BlockSpec,
        windows: Windows,
        sampler: Sampler,
        limiter: Limiter,
        *,
        capacity_steps: int | None = None,
        capacity_bytes: int | None = None,
    ) -> None:
        check_capacity(spec, windows, capacity_steps, capacity_bytes)
        self._spec, self._windows = spec, windows
        self._sampler, self._limiter = sampler, limiter
        self._capacity_steps = math.inf if capacity_steps is None else capacity_steps
        self._capacity_bytes = math.inf if capacity_bytes is None else capacity_bytes
        self._contents = Contents(spec, windows)
        self.gaps = False

    def __len__(self) -> int:
        """Items."""
        return len(self._contents.items)

    @property
    def spec(self) -> BlockSpec:
        """Of the blocks."""
        return self._spec

    @property
    def windows(self) -> Windows:
        """Geometry of the items."""
        return self._windows

    @property
    def steps(self) -> int:
        """Unique environment steps held."""
        return self._contents.steps

    @property
    def nbytes(self) -> int:
        """Bytes held, overheads included."""
        return self._contents.nbytes

    # --- Beside other stores ---------------------------------------------------------------------

    @property
    def mass(self) -> float:
        """What there is to draw from."""
        return self._sampler.mass

    @property
    def totals(self) -> Totals:
        """What its limiter has counted."""
        return self._limiter.totals

    @property
    def limiter(self) -> Limiter:
        """What counts the two sides."""
        return self._limiter

    # --- What comes in and what goes -------------------------------------------------------------

    def wants_insert(self) -> bool:
        """Whether experience is wanted now."""
        return self._limiter.wants_insert(self._sampler.mass > 0)

    def insert(self, blocks: Sequence[Block], items: Sequence[Item]) -> None:
        """Take in blocks, then items over these or earlier ones.

        An episode's blocks come in order, and so do its windows, each once all its observations are
        in. An episode not known may begin with any block: its earlier ones were lost.

        Raises:
            ValueError: a block of another spec, an item that is no window of its episode, a
                priority outside [0, LARGEST_PRIORITY] or not a number.
            RuntimeError: blocks or items out of order, or before what they need; more than the
                capacity at once. In every case nothing has changed.
        """
        self._check(blocks, items)
        steps = sum(block.steps for block in blocks)
        nbytes = len(items) * ITEM_OVERHEAD
        nbytes += sum(block.nbytes + BLOCK_OVERHEAD for block in blocks)
        for given, capacity, unit in (
            (steps, self._capacity_steps, "steps"),
            (nbytes, self._capacity_bytes, "bytes"),
        ):
            if given > capacity:
                raise RuntimeError(
                    f"{given} {unit} were inserted at once into a capacity of {capacity}: insert "
                    "fewer blocks at a time, or raise the capacity"
                )
        self._make_room(steps, nbytes)
        contents = self._contents
        for block in blocks:
            contents.append(block.owned())
        slots, taken = [], []
        for item in items:
            slot = contents.place(item)
            if slot >= 0:
                slots.append(slot)
                taken.append(item.priority)
        if slots:
            self._sampler.ensure(contents.slots)
            self._sampler.set(np.array(slots), np.array(taken, np.float64))
        for uid in _uids(blocks, items):
            if uid in contents.episodes:
                contents.release(contents.episodes[uid])
        self._limiter.inserted(steps)

    def _check(self, blocks: Sequence[Block], items: Sequence[Item]) -> None:
        """Raise what `insert` raises, on copies of the episodes."""
        episodes: dict[int, Episode] = {}
        for uid in _uids(blocks, items):
            if uid in self._contents.episodes:
                episodes[uid] = self._contents.episodes[uid].copy_without_rows()
        for block in blocks:
            if block.spec is not self._spec and block.spec != self._spec:
                raise ValueError(
                    f"a block laid out as {block.spec} came where {self._spec} was wanted"
                )
            episode = episodes.setdefault(
                block.episode, Episode(block.episode, block.index, self._spec.period)
            )
            episode.take_block(block, -1)
        for item in items:
            if item.episode not in episodes:
                if self.gaps:
                    continue
                raise RuntimeError(
                    f"a window of episode {item.episode} came and none of its blocks is here: "
                    "insert blocks before items"
                )
            episodes[item.episode].check_item(item, self._windows)
            episodes[item.episode].take_item(item, self._windows)

    def _make_room(self, steps: int, nbytes: int) -> None:
        """Evict, oldest first, until there is room."""
        contents, evicted = self._contents, []
        while (
            contents.steps + steps > self._capacity_steps
            or contents.nbytes + nbytes > self._capacity_bytes
        ):
            slot = contents.evict()
            if slot >= 0:
                evicted.append(slot)
        if evicted:
            self._sampler.remove(np.array(evicted))

    def drop_episode(self, episode: int) -> None:
        """Remove all items and blocks of an episode; nothing happens if it has none here."""
        if episode not in self._contents.episodes:
            return
        slots = self._contents.drop(self._contents.episodes[episode])
        if slots.size:
            self._sampler.remove(slots)

    def abandon(self) -> None:
        """Go on where what came after this state is lost.

        Episodes that have not ended get no more blocks: what comes of them later is as of episodes
        not known. What is held stays, and is drawn as before. Uids and serial numbers that were
        given after this state are not given again. Windows without blocks are late, from now on.
        """
        self._contents.abandon()
        self.gaps = True

    # --- What goes out ---------------------------------------------------------------------------

    def wants_sample(self) -> bool:
        """Whether a batch may be drawn now."""
        return self._limiter.wants_sample(self._sampler.mass > 0)

    def draw(self, uniforms: Array) -> Draw:
        """Draw one item for each of `uniforms` [B] in [0, 1), and count the steps it will teach.

        Raises:
            ValueError: no uniforms, or one outside [0, 1).
            RuntimeError: there is nothing to draw.
        """
        uniforms = batch_of_uniforms(uniforms)
        if not self._sampler.mass > 0:
            raise RuntimeError("there is nothing to draw: ask wants_sample() before")
        slots, probabilities = self._sampler.draw(uniforms)
        draw = self._contents.locate(slots, probabilities)
        self._limiter.learned(int(draw.learned.sum()))
        return draw

    def gather(
        self,
        draw: Draw,
        out: Batch | None = None,
        *,
        batch_major: bool = False,
        threads: int = 1,
    ) -> Batch:
        """The batch that was drawn from this store: see `batch.gather`."""
        return batch.gather(
            self._spec, self._windows, draw, out, batch_major=batch_major, threads=threads
        )

    def sample(self, uniforms: Array) -> Batch:
        """`draw` and `gather` in one."""
        return self.gather(self.draw(uniforms))

    def update_priorities(self, slots: Array, uids: Array, priorities: Array) -> None:
        """Write back priorities [B] of items drawn earlier.

        An item that has gone, whether its slot is empty or given to another, is passed over and
        counted.

        Raises:
            ValueError: arrays of different lengths, or a priority outside [0, LARGEST_PRIORITY]
                or not a number: nothing has changed then.
        """
        slots, uids = np.asarray(slots, np.int64), np.asarray(uids, np.int64)
        priorities = np.asarray(priorities, np.float64)
        if not slots.shape == uids.shape == priorities.shape or slots.ndim != 1:
            raise ValueError(
                f"slots {slots.shape}, uids {uids.shape} and priorities {priorities.shape} must be "
                "[B] alike"
            )
        bad = ~((priorities >= 0) & (priorities <= LARGEST_PRIORITY))  # also where NaN
        if bad.any():
            raise ValueError(
                f"the priority of item {uids[bad][0]} is {priorities[bad][0]}: it must be in "
                f"[0, {LARGEST_PRIORITY:g}]"
            )
        there = self._contents.live(slots, uids)
        self._contents.counters["stale_write_backs"] += int(np.count_nonzero(~there))
        if there.any():
            self._sampler.set(slots[there], priorities[there])

    def metrics(self) -> Metrics:
        """What is held, what happened so far, and the limiter's figures.

        Held: `items`, `steps`, `bytes`, `bytes_unpacked` (what these would be without a codec),
        `fill` (share of the capacity), `blocks`, `waiting_blocks`
        (that have no item) and `episodes`. Totals: `evicted_items`; `late_items` and
        `abandoned_blocks`, which should stay 0 but where a part was lost; `dropped_episodes`;
        `stale_write_backs`.
        """
        contents = self._contents
        return {
            "items": float(len(self)),
            "steps": float(self.steps),
            "bytes": float(self.nbytes),
            "bytes_unpacked": float(contents.nbytes_unpacked),
            "fill": max(self.steps / self._capacity_steps, self.nbytes / self._capacity_bytes),
            "blocks": float(len(contents.blocks)),
            "waiting_blocks": float(contents.waiting_blocks),
            "episodes": float(len(contents.episodes)),
            **{name: float(count) for name, count in contents.counters.items()},
            **self._limiter.metrics(),
        }

    # --- What must hold, and what survives -------------------------------------------------------

    def check_valid(self) -> None:
        """Work every figure out again, slowly, and compare.

        Raises:
            RuntimeError: naming what does not hold.
        """
        self._sampler.check_valid()
        check_contents(self._contents)
        slots = np.sort(self._contents.items.ages())
        require(np.array_equal(self._sampler.slots(), slots), "the sampler has the items' slots")
        require(self.steps <= self._capacity_steps, "steps within the capacity")
        require(self.nbytes <= self._capacity_bytes, "bytes within the capacity")

    def state_dict(self) -> dict[str, Any]:
        """Everything, as arrays, numbers and strings in nested dicts.

        `buffers` are the blocks' own bytes under their serial numbers: nothing is copied.
        """
        return {
            **saving.save(self._contents),
            "sampler": self._sampler.state_dict(),
            "limiter": self._limiter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the store whose state this is: it draws, gathers and evicts as that one would.

        The capacity is this store's own. Nothing in the state is trusted: what is read by address
        later is checked here.

        Raises:
            ValueError: it was saved with other blocks or windows, holds more than the capacity, or
                is damaged. The store is empty then, and its sampler and limiter not to be used.
        """
        layout = saving.layout(self._spec, self._windows)
        if state.get("layout") != layout:
            raise ValueError(
                f"the saved replay holds {state.get('layout')}, wanted is {layout}: resume "
                "with the settings of the run"
            )
        self._contents = Contents(self._spec, self._windows)
        try:
            self._contents = saving.restore(self._spec, self._windows, state)
            self._sampler.load_state_dict(state["sampler"])
            self._sampler.ensure(self._contents.slots)
            self._limiter.load_state_dict(state["limiter"])
            self.check_valid()
        except Exception as error:
            self._contents = Contents(self._spec, self._windows)
            raise ValueError(f"the saved replay cannot be used: {error}") from error


def _uids(blocks: Sequence[Block], items: Sequence[Item]) -> list[int]:
    """The episodes of these, each once, in order."""
    return list(dict.fromkeys([b.episode for b in blocks] + [i.episode for i in items]))
