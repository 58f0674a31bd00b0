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
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from recollect.replay.blocks import Block, BlockSpec, copy_rows
from recollect.replay.limiter import Limiter
from recollect.replay.windows import Windows
from recollect.types import Array, ConfigError, Metrics, Observation

BLOCK_OVERHEAD = 1024
"""Bytes counted for a block beside its buffer: its row, its objects, its episode's record."""
ITEM_OVERHEAD = 256
"""Bytes counted for an item: its row here, its place in the sampler, and their room to grow."""
LARGEST_PRIORITY = 1e100
"""More is no TD error of float32, and to a power it would leave the sampler's range."""

# Columns of the tables of items and of blocks. The first two are the links of `_Table`.
UID, EPISODE, START, PREFIX, LEARNED, TAIL, VERSION, FIRST, HELD = range(2, 11)
SERIAL, OWNER, INDEX, NEXT, ITEMS, ADDRESS, STEPS, LAST = range(2, 10)
_ITEM_COLUMNS = ("uid", "episode", "start", "prefix", "learned", "tail", "version")
_COUNTERS = ("evicted_items", "late_items", "abandoned_blocks", "dropped_episodes")


class Sampler(Protocol):
    """Which slots are drawn: `Prioritized` or `Uniform`."""

    @property
    def mass(self) -> float:
        """What there is to draw from; nothing can be drawn while it is 0."""

    def __len__(self) -> int:
        """Live slots."""

    def ensure(self, capacity: int) -> None:
        """Make room for slots below `capacity`."""

    def set(self, slots: Array, priorities: Array) -> None:
        """Make slots [n] live, or change their priorities [n]."""

    def remove(self, slots: Array) -> None:
        """Forget slots [n]."""

    def draw(self, uniforms: Array) -> tuple[Array, Array]:
        """Slots [n] and their probabilities [n] for uniforms [n]."""

    def check_valid(self) -> None:
        """Raise RuntimeError if an invariant does not hold."""

    def state_dict(self) -> dict[str, Array]:
        """Everything that decides what is drawn."""

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Go on from a state."""


@dataclass(frozen=True)
class Item:
    """One window of an episode, to be drawn: geometry as in `windows.Window`.

    Args:
        episode: uid of the episode.
        start, prefix, learned, tail: the window.
        priority: in [0, LARGEST_PRIORITY]; of 0, it is never drawn by priority.
        version: updates of the oldest parameters that acted in the window.
    """

    episode: int
    start: int
    prefix: int
    learned: int
    tail: int
    priority: float
    version: int


@dataclass(frozen=True)
class Draw:
    """What was drawn, and where it lies: enough for `gather`, whatever becomes of the store.

    Attributes:
        slots: [B] int64 where the items are; given again to later items once these have gone.
        uids: [B] int64 their own numbers, never given again.
        probabilities: [B] float64 with which each was drawn.
        size: items in replay when they were drawn.
        start, prefix, learned, tail, version: [B] int64, as in `Item`.
        pieces: [B, K, 3] int64 address, steps and last of the blocks each window lies in.
        held: [B] int64 how many of K these are.
        blocks: [B, K] the blocks themselves, which keeps them in memory: until the draw is let
            go, evicted ones stay beside what the capacity counts.
    """

    slots: Array
    uids: Array
    probabilities: Array
    size: int
    start: Array
    prefix: Array
    learned: Array
    tail: Array
    version: Array
    pieces: Array
    held: Array
    blocks: Array


@dataclass(frozen=True)
class Batch:
    """B windows, time-major: T steps between T + 1 observations; columns as in `windows`.

    Cells where nothing happened are zero, and previous actions there are none (-1 where discrete).
    For whole episodes T is the longest one's length.

    Attributes:
        observation: per key [C + T + 1, B, ...]; the stack seen at column t is rows t .. t + C.
        previous_action: [T + 1, B, ...] the action before each observation, as the actor saw it.
        previous_reward: [T + 1, B] float32 likewise.
        action: [T, B, ...].
        reward: [T, B] float32.
        discount: [T, B] float32: 0 on termination.
        mask: [T, B] bool, real steps.
        learned: [T, B] bool, real steps of the learned part.
        prefix: [B] bool, whether a burn-in prefix stands before the learned part.
        recurrent_state: [B, H] float32 before the first real step.
        states: [T, B, H] float32 the actor's before every step, where blocks carry all; else None.
        mid_episode: [B] bool, whether the first real step is not its episode's first.
        slots: [B] int64, as in `Draw`.
        uids: [B] int64, likewise.
        probabilities: [B] float64, likewise.
        size: likewise.
        version: [B] int64 updates of the oldest parameters that acted in the window.
    """

    observation: Observation
    previous_action: Array
    previous_reward: Array
    action: Array
    reward: Array
    discount: Array
    mask: Array
    learned: Array
    prefix: Array
    recurrent_state: Array
    states: Array | None
    mid_episode: Array
    slots: Array
    uids: Array
    probabilities: Array
    size: int
    version: Array


def memory_need(spec: BlockSpec, windows: Windows, capacity_steps: int) -> int:
    """Bytes that replay of `capacity_steps` steps takes at most, all in.

    capacity / P blocks, each of P steps, a closing observation and one item, with the overhead of
    each. Episodes shorter than P take more per step, for their blocks are shorter: up to a whole
    block's overhead for an episode of one step. `capacity_bytes` bounds that too.

    Raises:
        ConfigError: blocks and windows of different periods.
    """
    _check_fit(spec, windows)
    blocks = -(-capacity_steps // spec.period)
    return blocks * (spec.nbytes(spec.period, True) + BLOCK_OVERHEAD + ITEM_OVERHEAD)


def _check_fit(spec: BlockSpec, windows: Windows) -> None:
    if spec.period != windows.period or not set(windows.state_offsets) <= set(spec.state_offsets):
        raise ConfigError(
            f"blocks of {spec.period} steps with states at {spec.state_offsets} do not serve "
            f"windows of period {windows.period} that begin at {windows.state_offsets} in a block: "
            "make the block spec from the windows"
        )


def _uids(blocks: Sequence[Block], items: Sequence[Item]) -> list[int]:
    """The episodes of these, each once, in order."""
    return list(dict.fromkeys([b.episode for b in blocks] + [i.episode for i in items]))


class _Table:
    """Rows of int64 that grow by doubling, linked from the oldest to the newest.

    Columns 0 and 1 are the next older and the next newer row, -1 at the ends; column 2 is -1 in a
    row that is free. Freed rows are used again, the last freed first.
    """

    def __init__(self, columns: int) -> None:
        self.rows = np.full((16, columns), -1, np.int64)
        self.used = 0  # rows that were ever in use
        self.free: list[int] = []
        self.oldest = self.newest = -1

    def __len__(self) -> int:
        return self.used - len(self.free)

    def add(self, *values: int) -> int:
        """Write a new newest row, from column 2 on, and return its number."""
        if self.free:
            row = self.free.pop()
        else:
            row = self.used
            self.used += 1
            self.ensure(self.used)
        self._link(row, values)
        return row

    def remove(self, row: int) -> None:
        """Free a row."""
        older, newer = int(self.rows[row, 0]), int(self.rows[row, 1])
        if older < 0:
            self.oldest = newer
        else:
            self.rows[older, 1] = newer
        if newer < 0:
            self.newest = older
        else:
            self.rows[newer, 0] = older
        self.rows[row] = -1
        self.free.append(row)

    def ensure(self, used: int) -> None:
        """Make room for `used` rows."""
        if used > len(self.rows):
            grown = np.full((max(used, 2 * len(self.rows)), self.rows.shape[1]), -1, np.int64)
            grown[: len(self.rows)] = self.rows
            self.rows = grown

    def ages(self) -> list[int]:
        """The rows in use, oldest first."""
        found: list[int] = []
        row = self.oldest
        while row >= 0 and len(found) <= self.used:
            found.append(row)
            row = int(self.rows[row, 1])
        return found

    def restore(self, rows: Sequence[int], free: Sequence[int], values: Array) -> None:
        """Become the table with `values` [n, columns - 2] in `rows` [n], oldest first.

        Raises:
            ValueError: `rows` and `free` are not together all rows there are.
        """
        used = len(rows) + len(free)
        if sorted([*rows, *free]) != list(range(used)):
            raise ValueError("the saved rows and free rows do not fit: the state is damaged")
        self.ensure(used)
        self.used, self.free = used, list(free)
        for row, line in zip(rows, values, strict=True):
            self._link(row, line)

    def _link(self, row: int, values: Any) -> None:
        self.rows[row, 0] = self.newest
        self.rows[row, 1] = -1
        self.rows[row, 2:] = values
        if self.newest < 0:
            self.oldest = row
        else:
            self.rows[self.newest, 1] = row
        self.newest = row


class _Episode:
    """What is known of an episode that has blocks here."""

    __slots__ = ("ended", "first", "joined", "rows", "steps", "uid", "window")

    def __init__(self, uid: int, index: int, period: int) -> None:
        self.uid = uid
        self.first = index  # number in its episode of its oldest block here
        self.rows: list[int] = []  # of its blocks here
        self.steps = index * period  # of the episode so far
        self.ended = False
        self.window = 0  # number of the next one
        self.joined = index > 0  # its earlier blocks are lost, so `window` is only the least

    @property
    def next_block(self) -> int:
        return self.first + len(self.rows)

    def copy(self) -> _Episode:
        other = _Episode(self.uid, self.first, 0)
        other.rows, other.steps, other.ended = self.rows.copy(), self.steps, self.ended
        other.window, other.joined = self.window, self.joined
        return other


class Replay:
    """The experience learned from: a service. See the module for what goes when.

    Args:
        spec: of the blocks.
        windows: geometry of the items.
        sampler: which items are drawn; empty, and the store's own from now on.
        limiter: how much is drawn per step inserted; likewise.
        capacity_steps: unique environment steps to hold at most, or
        capacity_bytes: bytes to hold at most: buffers, and the two overheads above for each block
            and item. Exactly one of the two.

    Raises:
        ConfigError: both capacities or none; one too small for a single window; blocks that do not
            serve the windows.
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
        _check_fit(spec, windows)
        if (capacity_steps is None) == (capacity_bytes is None):
            raise ConfigError("give replay one capacity, in steps or in bytes")
        block = spec.nbytes(spec.period, True) + BLOCK_OVERHEAD
        for capacity, least, unit in (
            (capacity_steps, windows.blocks * spec.period, "steps"),
            (capacity_bytes, windows.blocks * block + ITEM_OVERHEAD, "bytes"),
        ):
            if capacity is not None and capacity < least:
                raise ConfigError(
                    f"a capacity of {capacity} {unit} cannot hold one window, which lies in up to "
                    f"{windows.blocks} blocks: {least} {unit} are the least"
                )
        self._spec, self._windows = spec, windows
        self._sampler, self._limiter = sampler, limiter
        self._capacity_steps = math.inf if capacity_steps is None else capacity_steps
        self._capacity_bytes = math.inf if capacity_bytes is None else capacity_bytes
        self._state_row = np.searchsorted(spec.state_offsets, np.arange(spec.period))
        self._clear()

    def _clear(self) -> None:
        self._items, self._blocks = _Table(11), _Table(10)
        self._bodies = np.empty(0, object)  # the Block of each row
        self._episodes: dict[int, _Episode] = {}
        self._steps = self._bytes = 0
        self._next_uid = self._next_serial = 0
        self._counters = dict.fromkeys((*_COUNTERS, "stale_write_backs"), 0)

    def __len__(self) -> int:
        """Items."""
        return len(self._items)

    @property
    def steps(self) -> int:
        """Unique environment steps held."""
        return self._steps

    @property
    def nbytes(self) -> int:
        """Bytes held, overheads included."""
        return self._bytes

    # --- What comes in ---------------------------------------------------------------------------

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
        for block in blocks:
            self._append(block.owned())
        slots, taken = [], []
        for item in items:
            slot = self._place(item)
            if slot >= 0:
                slots.append(slot)
                taken.append(item.priority)
        if slots:
            self._sampler.ensure(len(self._items.rows))
            self._sampler.set(np.array(slots), np.array(taken, np.float64))
        for uid in _uids(blocks, items):
            if uid in self._episodes:
                self._release(self._episodes[uid])
        self._limiter.inserted(steps)

    def _check(self, blocks: Sequence[Block], items: Sequence[Item]) -> None:
        """Raise what `insert` raises, on copies of the episodes."""
        episodes: dict[int, _Episode] = {}
        for uid in _uids(blocks, items):
            if uid in self._episodes:
                episodes[uid] = self._episodes[uid].copy()
        for block in blocks:
            if block.spec is not self._spec and block.spec != self._spec:
                raise ValueError(
                    f"a block laid out as {block.spec} came where {self._spec} was wanted"
                )
            episode = episodes.setdefault(
                block.episode, _Episode(block.episode, block.index, self._spec.period)
            )
            self._count_block(episode, block, -1)
        for item in items:
            if item.episode not in episodes:
                raise RuntimeError(
                    f"a window of episode {item.episode} came and none of its blocks is here: "
                    "insert blocks before items"
                )
            self._count_item(episodes[item.episode], item)

    def _count_block(self, episode: _Episode, block: Block, row: int) -> None:
        """Add a block to its episode's record."""
        if episode.ended or block.index != episode.next_block:
            wanted = "none, as it has ended" if episode.ended else f"block {episode.next_block}"
            raise RuntimeError(
                f"block {block.index} of episode {block.episode} came, wanted was {wanted}: insert "
                "an episode's blocks in order, or drop_episode first"
            )
        episode.rows.append(row)
        episode.steps += block.steps
        episode.ended = block.last

    def _count_item(self, episode: _Episode, item: Item) -> None:
        """Pass on to the window after the item's in its episode's record."""
        k, rest = divmod(item.start, self._windows.period)
        name = f"window {k} of episode {item.episode}"
        if k < episode.window or (k > episode.window and not episode.joined):
            raise RuntimeError(
                f"{name} came, wanted was window {episode.window}: insert each once, in order"
            )
        if not self._windows.ready(k, episode.steps, episode.ended):
            raise RuntimeError(
                f"{name} came after {episode.steps} steps (ended: {episode.ended}): insert it with "
                "the block that holds its last observation, and only if the episode has it"
            )
        window = self._windows.window(k, episode.steps)
        given = (item.prefix, item.learned, item.tail)
        if rest or given != (window.prefix, window.learned, window.tail):
            raise ValueError(f"{name} is {window}, not {item}")
        if not 0 <= item.priority <= LARGEST_PRIORITY:
            raise ValueError(
                f"{name} has priority {item.priority}: it must be in [0, {LARGEST_PRIORITY:g}]"
            )
        episode.window, episode.joined = k + 1, False

    def _append(self, block: Block) -> None:
        """Take in a block that was checked and fits."""
        episode = self._episodes.get(block.episode)
        if episode is None:
            episode = _Episode(block.episode, block.index, self._spec.period)
            self._episodes[block.episode] = episode
        row = self._blocks.add(
            self._next_serial,
            block.episode,
            block.index,
            -1,
            0,
            block.address,
            block.steps,
            int(block.last),
        )
        self._next_serial += 1
        self._attach(episode, block, row)

    def _attach(self, episode: _Episode, block: Block, row: int) -> None:
        """Link a block with its row to its episode, and count it."""
        if row >= len(self._bodies):
            self._bodies = np.append(self._bodies, np.empty(max(16, row + 1), object))
        self._bodies[row] = block
        if episode.rows:
            self._blocks.rows[episode.rows[-1], NEXT] = row
        self._count_block(episode, block, row)
        self._steps += block.steps
        self._bytes += block.nbytes + BLOCK_OVERHEAD

    def _place(self, item: Item) -> int:
        """Take in an item that was checked; its slot, or -1 if a block it needs is gone."""
        episode = self._episodes.get(item.episode)
        if episode is not None:
            episode.window, episode.joined = item.start // self._windows.period + 1, False
        if episode is None or (item.start - item.prefix) // self._spec.period < episode.first:
            self._counters["late_items"] += 1
            return -1
        geometry = (item.start, item.prefix, item.learned, item.tail)
        slot = self._items.add(self._next_uid, item.episode, *geometry, item.version, -1, 0)
        self._next_uid += 1
        self._cover(episode, slot)
        return slot

    def _cover(self, episode: _Episode, slot: int) -> None:
        """Count an item at the blocks it lies in."""
        line = self._items.rows[slot]
        start, stop = line[START] - line[PREFIX], line[START] + line[LEARNED] + line[TAIL]
        period = self._spec.period
        first = int(start) // period - episode.first
        # The closing observation lies in the episode's last block even if that one is full.
        rows = episode.rows[first : int(stop) // period - episode.first + 1]
        line[FIRST], line[HELD] = rows[0], len(rows)
        self._blocks.rows[rows, ITEMS] += 1
        self._bytes += ITEM_OVERHEAD

    # --- What goes -------------------------------------------------------------------------------

    def _make_room(self, steps: int, nbytes: int) -> None:
        """Evict, oldest first, until there is room."""
        evicted = []
        while (
            self._steps + steps > self._capacity_steps
            or self._bytes + nbytes > self._capacity_bytes
        ):
            block = self._blocks.rows[self._blocks.oldest]
            if block[ITEMS] == 0:
                episode = self._episodes[int(block[OWNER])]
                self._free_first(episode)
                self._counters["abandoned_blocks"] += 1
            else:
                slot = self._items.oldest
                evicted.append(slot)
                episode = self._remove(slot)
                self._counters["evicted_items"] += 1
            self._release(episode)
        if evicted:
            self._sampler.remove(np.array(evicted))

    def _remove(self, slot: int) -> _Episode:
        """Remove an item, but for the sampler's part; its episode."""
        line = self._items.rows[slot]
        episode = self._episodes[int(line[EPISODE])]
        row = int(line[FIRST])
        for _ in range(int(line[HELD])):
            self._blocks.rows[row, ITEMS] -= 1
            row = int(self._blocks.rows[row, NEXT])
        self._items.remove(slot)
        self._bytes -= ITEM_OVERHEAD
        return episode

    def _release(self, episode: _Episode) -> None:
        """Free the episode's blocks, oldest first, that no item has and no later one will."""
        needed = self._needed_from(episode)
        while (
            episode.rows
            and episode.first < needed
            and self._blocks.rows[episode.rows[0], ITEMS] == 0
        ):
            self._free_first(episode)
        if not episode.rows:
            del self._episodes[episode.uid]

    def _needed_from(self, episode: _Episode) -> int:
        """Number of the first block that windows to come may need."""
        if episode.ended and not self._windows.exists(episode.window, episode.steps):
            return episode.next_block
        return self._windows.oldest_block(episode.window)

    def _free_first(self, episode: _Episode) -> None:
        """Free the oldest block of an episode."""
        row = episode.rows.pop(0)
        episode.first += 1
        block = self._bodies[row]
        self._steps -= block.steps
        self._bytes -= block.nbytes + BLOCK_OVERHEAD
        self._bodies[row] = None
        self._blocks.remove(row)

    def drop_episode(self, episode: int) -> None:
        """Remove all items and blocks of an episode; nothing happens if it has none here."""
        if episode not in self._episodes:
            return
        items = self._items.rows
        slots = np.flatnonzero((items[:, EPISODE] == episode) & (items[:, UID] >= 0))
        record = self._episodes[episode]
        for slot in slots:
            self._remove(int(slot))
        if slots.size:
            self._sampler.remove(slots)
        while record.rows:
            self._free_first(record)
        del self._episodes[episode]
        self._counters["dropped_episodes"] += 1

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
        uniforms = np.asarray(uniforms, np.float64)
        if uniforms.ndim != 1 or not uniforms.size:
            raise ValueError(f"uniforms must be [B] with B >= 1, not {list(uniforms.shape)}")
        if not self._sampler.mass > 0:
            raise RuntimeError("there is nothing to draw: ask wants_sample() before")
        slots, probabilities = self._sampler.draw(uniforms)
        lines = self._items.rows[slots]  # [B, columns]
        if (lines[:, UID] < 0).any():
            raise RuntimeError("the sampler drew a slot without an item: replay is damaged")
        held = lines[:, HELD]
        chain = np.empty((len(slots), int(held.max())), np.int64)
        chain[:, 0] = row = lines[:, FIRST]
        for k in range(1, chain.shape[1]):
            # Past a window's last block its first one stands in, and is not read.
            row = np.where(k < held, self._blocks.rows[row, NEXT], lines[:, FIRST])
            chain[:, k] = row
        self._limiter.learned(int(lines[:, LEARNED].sum()))
        return Draw(
            slots=slots,
            uids=lines[:, UID].copy(),
            probabilities=probabilities,
            size=len(self),
            start=lines[:, START].copy(),
            prefix=lines[:, PREFIX].copy(),
            learned=lines[:, LEARNED].copy(),
            tail=lines[:, TAIL].copy(),
            version=lines[:, VERSION].copy(),
            pieces=np.ascontiguousarray(self._blocks.rows[chain, ADDRESS : LAST + 1]),
            held=held.copy(),
            blocks=self._bodies[chain],
        )

    def gather(self, draw: Draw, out: Batch | None = None) -> Batch:
        """The batch that was drawn.

        Args:
            draw: from this store.
            out: an earlier batch of the same shape; its arrays over time, and its
                `recurrent_state`, are written again and returned.

        Raises:
            ValueError: `out` has other shapes.
        """
        spec, batch = self._spec, len(draw.slots)
        steps = draw.prefix + draw.learned + draw.tail
        length = int(steps.max()) if self._windows.trajectory else self._windows.steps
        if out is None:
            out = self._empty(length, batch)
        elif out.mask.shape != (length, batch):
            raise ValueError(
                f"the batch to write to is {out.mask.shape} steps, ({length}, {batch}) are wanted"
            )
        column = self._windows.burn_in - draw.prefix  # of the first real step
        offset = (draw.start - draw.prefix) % spec.period  # of it, in its block

        def copy(
            array: Array, field: int, first: Array, count: Array, column: Array, fill: int = 0
        ) -> None:
            lead, closing = spec.fields[field].lead, spec.fields[field].closing
            if not array.flags.c_contiguous or array.shape[1] != batch:
                raise ValueError(
                    f"an array to write to must be contiguous and hold {batch} windows"
                )
            rows = array.reshape(len(array), batch, -1).view(np.uint8)
            source = (draw.pieces, draw.held, spec.offsets, field, lead, closing)
            cells = (first, column, count, np.uint8(fill))
            if rows.shape[2] != spec.row_bytes[field] or not copy_rows(rows, *source, *cells):
                raise RuntimeError("a window and its blocks or its batch do not fit each other")

        keys = sorted(spec.observation)
        for field, key in enumerate(keys):
            copy(out.observation[key], field, offset, steps + 1 + spec.context, column)
        field = len(keys)
        # Row 0 of actions and rewards is the one before the block: one row on is the step's own.
        # All bits of -1 are set, so it can be filled in byte by byte.
        copy(out.previous_action, field, offset, steps + 1, column, spec.no_action & 0xFF)
        copy(out.action, field, offset + 1, steps, column)
        copy(out.previous_reward, field + 1, offset, steps + 1, column)
        copy(out.reward, field + 1, offset + 1, steps, column)
        copy(out.discount, field + 2, offset, steps, column)
        if out.states is not None:
            copy(out.states, field + 3, offset, steps, column)
        if spec.state_size:
            one, top = np.ones_like(column), np.zeros_like(column)
            copy(out.recurrent_state[None], field + 3, self._state_row[offset], one, top)
        t = np.arange(length)[:, None]
        np.logical_and(t >= column, t < column + steps, out=out.mask)
        begin = self._windows.burn_in
        np.logical_and(t >= begin, t < begin + draw.learned, out=out.learned)
        return Batch(
            observation=out.observation,
            previous_action=out.previous_action,
            previous_reward=out.previous_reward,
            action=out.action,
            reward=out.reward,
            discount=out.discount,
            mask=out.mask,
            learned=out.learned,
            recurrent_state=out.recurrent_state,
            states=out.states,
            prefix=draw.prefix > 0,
            mid_episode=draw.start > draw.prefix,
            slots=draw.slots,
            uids=draw.uids,
            probabilities=draw.probabilities,
            size=draw.size,
            version=draw.version,
        )

    def _empty(self, length: int, batch: int) -> Batch:
        """A batch to write to; what `gather` writes is not set."""
        spec = self._spec

        def empty(shape: tuple[int, ...], dtype: str, *leading: int) -> Array:
            return np.empty((*leading, *shape), dtype)

        action, state = spec.action, (spec.state_size,)
        none = np.empty(0)
        return Batch(
            observation={
                key: empty(s.shape, s.dtype, spec.context + length + 1, batch)
                for key, s in spec.observation.items()
            },
            previous_action=empty(action.shape, action.dtype, length + 1, batch),
            previous_reward=empty((), "float32", length + 1, batch),
            action=empty(action.shape, action.dtype, length, batch),
            reward=empty((), "float32", length, batch),
            discount=empty((), "float32", length, batch),
            mask=empty((), "bool", length, batch),
            learned=empty((), "bool", length, batch),
            recurrent_state=empty(state, "float32", batch),
            states=empty(state, "float32", length, batch) if spec.every_state else None,
            prefix=none,
            mid_episode=none,
            slots=none,
            uids=none,
            probabilities=none,
            size=0,
            version=none,
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
        there = (slots >= 0) & (slots < len(self._items.rows)) & (uids >= 0)
        there[there] = self._items.rows[slots[there], UID] == uids[there]
        self._counters["stale_write_backs"] += int(np.count_nonzero(~there))
        if there.any():
            self._sampler.set(slots[there], priorities[there])

    def metrics(self) -> Metrics:
        """What is held, what happened so far, and the limiter's figures.

        Held: `items`, `steps`, `bytes`, `fill` (share of the capacity), `blocks`, `waiting_blocks`
        (that have no item) and `episodes`. Totals: `evicted_items`; `late_items` and
        `abandoned_blocks`, which should stay 0 but where a part was lost; `dropped_episodes`;
        `stale_write_backs`.
        """
        waiting = (self._blocks.rows[:, ITEMS] == 0) & (self._blocks.rows[:, SERIAL] >= 0)
        return {
            "items": float(len(self)),
            "steps": float(self._steps),
            "bytes": float(self._bytes),
            "fill": max(self._steps / self._capacity_steps, self._bytes / self._capacity_bytes),
            "blocks": float(len(self._blocks)),
            "waiting_blocks": float(np.count_nonzero(waiting)),
            "episodes": float(len(self._episodes)),
            **{name: float(count) for name, count in self._counters.items()},
            **self._limiter.metrics(),
        }

    # --- What must hold, and what survives -------------------------------------------------------

    def check_valid(self) -> None:
        """Work every figure out again, slowly, and compare.

        Raises:
            RuntimeError: naming what does not hold.
        """
        self._sampler.check_valid()
        items, blocks = self._items.ages(), self._blocks.ages()
        lines, rows = self._items.rows, self._blocks.rows
        period = self._spec.period
        for table, found, name in ((self._items, items, "items"), (self._blocks, blocks, "blocks")):
            _require(
                sorted([*found, *table.free]) == list(range(table.used)), f"{name} and free rows"
            )
            _require(
                bool((np.diff(table.rows[found, 2], prepend=-1) > 0).all()),
                f"{name} from oldest to newest",
            )
            _require(bool((table.rows[table.free, 2] == -1).all()), f"free rows of {name}")
        _require(len(self._sampler) == len(items), "as many items as the sampler has")
        _require(not items or int(lines[items[-1], UID]) < self._next_uid, "uids")
        _require(not blocks or int(rows[blocks[-1], SERIAL]) < self._next_serial, "serials")
        bodies = [self._bodies[row] for row in blocks]
        steps = sum(body.steps for body in bodies)
        _require(steps == self._steps <= self._capacity_steps, "steps within the capacity")
        nbytes = sum(body.nbytes + BLOCK_OVERHEAD for body in bodies) + len(items) * ITEM_OVERHEAD
        _require(nbytes == self._bytes <= self._capacity_bytes, "bytes within the capacity")
        _require(
            sum(body is not None for body in self._bodies) == len(blocks), "no block left over"
        )
        listed = sorted(row for episode in self._episodes.values() for row in episode.rows)
        _require(listed == sorted(blocks), "every block in its episode")
        for uid, episode in self._episodes.items():
            name = f"episode {uid}"
            _require(len(episode.rows) > 0, f"{name}: has blocks")
            _require(episode.window >= 0, f"{name}: windows")
            mine = [self._bodies[row] for row in episode.rows]
            for i, (row, body) in enumerate(zip(episode.rows, mine, strict=True)):
                index = episode.first + i
                header = (uid, index, body.address, body.steps, int(body.last))
                _require((body.episode, body.index) == (uid, index), f"{name}: blocks in order")
                _require(tuple(rows[row, [OWNER, INDEX, ADDRESS, STEPS, LAST]]) == header, name)
                following = episode.rows[i + 1] if i + 1 < len(mine) else -1
                _require(int(rows[row, NEXT]) == following, f"{name}: chain")
                _require(not body.last or following < 0, f"{name}: the last block is the last")
                if following >= 0:
                    _check_seam(body, mine[i + 1])
            _require(episode.ended == mine[-1].last, f"{name}: ended")
            total = mine[-1].index * period + mine[-1].steps
            _require(episode.steps == total, f"{name}: steps")
            idle = int(rows[episode.rows[0], ITEMS]) == 0
            gone = episode.first < self._needed_from(episode)
            _require(not (idle and gone), f"{name}: a block nothing needs is freed")
        covers = dict.fromkeys(blocks, 0)
        for slot in items:
            for row in self._check_item(lines[slot]):
                covers[row] += 1
        _require(all(int(rows[row, ITEMS]) == n for row, n in covers.items()), "items per block")

    def _check_item(self, line: Array) -> list[int]:
        """Check one item; the rows of the blocks it lies in."""
        name, uid = f"item {line[UID]}", int(line[EPISODE])
        _require(uid in self._episodes, f"{name}: its episode is here")
        episode, period = self._episodes[uid], self._spec.period
        k = int(line[START]) // period
        _require(k < episode.window, f"{name}: windows are counted")
        window = self._windows.window(k, episode.steps)
        geometry = (window.start, window.prefix, window.learned, window.tail)
        _require(tuple(line[START : TAIL + 1].tolist()) == geometry, f"{name}: is a window")
        _require(window.stop < episode.steps + episode.ended, f"{name}: its observations are here")
        first, last = window.first // period, min(window.stop // period, episode.next_block - 1)
        _require(first >= episode.first, f"{name}: its blocks are here")
        wanted = episode.rows[first - episode.first : last - episode.first + 1]
        chain = [int(line[FIRST])]
        while len(chain) < len(wanted):
            chain.append(int(self._blocks.rows[chain[-1], NEXT]))
        _require(chain == wanted and int(line[HELD]) == len(wanted), f"{name}: chain")
        return wanted

    def state_dict(self) -> dict[str, Any]:
        """Everything, as arrays, numbers and strings in nested dicts.

        `buffers` maps each block's serial number to its bytes. They are the blocks' own, read-only:
        nothing is copied, and a serial number always means the same bytes, so who writes states to
        disk need write each only once.
        """
        items, blocks = self._items.ages(), self._blocks.ages()
        bodies: list[Block] = [self._bodies[row] for row in blocks]
        episodes = list(self._episodes.values())
        columns = self._items.rows[items, UID : VERSION + 1].T
        return {
            "layout": self._layout(),
            "items": {
                "row": np.array(items, np.int64),
                "free": np.array(self._items.free, np.int64),
                **{name: c.copy() for name, c in zip(_ITEM_COLUMNS, columns, strict=True)},
            },
            "blocks": {
                "row": np.array(blocks, np.int64),
                "free": np.array(self._blocks.free, np.int64),
                "serial": self._blocks.rows[blocks, SERIAL],
                "episode": np.array([body.episode for body in bodies], np.int64),
                "index": np.array([body.index for body in bodies], np.int64),
                "steps": np.array([body.steps for body in bodies], np.int64),
                "last": np.array([body.last for body in bodies], np.int64),
            },
            "episodes": {
                "uid": np.array([episode.uid for episode in episodes], np.int64),
                "window": np.array([episode.window for episode in episodes], np.int64),
                "joined": np.array([episode.joined for episode in episodes], np.int64),
            },
            "counters": {
                **self._counters,
                "next_uid": self._next_uid,
                "next_serial": self._next_serial,
            },
            "buffers": {
                str(serial): body.buffer
                for serial, body in zip(
                    self._blocks.rows[blocks, SERIAL].tolist(), bodies, strict=True
                )
            },
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
        if state.get("layout") != self._layout():
            raise ValueError(
                f"the saved replay holds {state.get('layout')}, wanted is {self._layout()}: resume "
                "with the settings of the run"
            )
        self._clear()
        try:
            self._restore(state)
            self._sampler.load_state_dict(state["sampler"])
            self._sampler.ensure(len(self._items.rows))
            self._limiter.load_state_dict(state["limiter"])
            self.check_valid()
        except Exception as error:
            self._clear()
            raise ValueError(f"the saved replay cannot be used: {error}") from error

    def _restore(self, state: Mapping[str, Any]) -> None:
        items, blocks = state["items"], state["blocks"]
        names = ("row", "serial", "episode", "index", "steps", "last")
        rows, bodies, lines = [], [], []
        for values in zip(*(blocks[name] for name in names), strict=True):
            row, serial, uid, index, steps, last = map(int, values)
            buffer = np.asarray(state["buffers"][str(serial)])
            body = Block.from_buffer(self._spec, uid, index, steps, bool(last), buffer).owned()
            rows.append(row)
            bodies.append(body)
            lines.append((serial, uid, index, -1, 0, body.address, steps, last))
        self._blocks.restore(rows, [int(row) for row in blocks["free"]], np.array(lines))
        for row, body in zip(rows, bodies, strict=True):
            if body.episode not in self._episodes:
                self._episodes[body.episode] = _Episode(body.episode, body.index, self._spec.period)
            self._attach(self._episodes[body.episode], body, row)
        columns = [state["episodes"][name] for name in ("uid", "window", "joined")]
        for values in zip(*columns, strict=True):
            episode = self._episodes[int(values[0])]
            episode.window, episode.joined = int(values[1]), bool(values[2])
        slots = [int(row) for row in items["row"]]
        columns = [np.asarray(items[name], np.int64) for name in _ITEM_COLUMNS]
        columns += [np.full(len(slots), end, np.int64) for end in (-1, 0)]  # FIRST and HELD
        self._items.restore(slots, [int(row) for row in items["free"]], np.stack(columns, axis=1))
        for slot in slots:
            line = self._items.rows[slot]
            episode = self._episodes[int(line[EPISODE])]
            if line[START] - line[PREFIX] < episode.first * self._spec.period:
                raise ValueError(f"item {line[UID]} needs a block that is not there")
            self._cover(episode, slot)
        counters = {name: int(count) for name, count in state["counters"].items()}
        self._next_uid, self._next_serial = counters.pop("next_uid"), counters.pop("next_serial")
        if counters.keys() != self._counters.keys():
            raise ValueError(f"its counters are {sorted(counters)}")
        self._counters = counters

    def _layout(self) -> str:
        """What must be the same for a state to fit."""
        spec = self._spec
        observation = {key: spec.observation[key] for key in sorted(spec.observation)}
        return (
            f"observation {observation}, action {spec.action}, state_size {spec.state_size}, "
            f"period {spec.period}, state_offsets {spec.state_offsets}, stack {spec.stack}, "
            f"{self._windows}"
        )


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise RuntimeError(f"replay is damaged: this does not hold: {what}")


def _check_seam(before: Block, after: Block) -> None:
    """What a block carries from before its first step is what the block before ended with."""
    where = f"episode {after.episode}, block {after.index}:"
    _require(np.array_equal(after.previous_action, before.action[-1]), f"{where} previous action")
    _require(after.previous_reward == float(before.reward[-1]), f"{where} previous reward")
    context = before.spec.context
    if context:
        for key, rows in after.observation.items():
            ended = before.observation[key][-context:]
            _require(np.array_equal(rows[:context], ended), f"{where} frames of {key!r}")
