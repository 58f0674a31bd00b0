"""What replay holds: items, the blocks they lie in, and the episodes these are of, all linked.

Nothing here knows of capacities, of priorities or of what is drawn: it does as it is told, and
keeps count.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from recollect.replay.batch import Draw
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Episode, Item
from recollect.replay.table import Table
from recollect.replay.windows import Windows
from recollect.types import Array

BLOCK_OVERHEAD = 1024
"""Bytes counted for a block beside its buffer: its row, its objects, its episode's record."""
ITEM_OVERHEAD = 256
"""Bytes counted for an item: its row here, its place in the sampler, and their room to grow."""

ABANDONED = (2**23 - 1) << 32
"""From here on episodes that were abandoned get uids: their slot would be 65,535, one too many."""
_LEAP = 1 << 32
"""More uids and serial numbers than a state can be behind."""

# Columns of the tables of items and of blocks. The first two are the links of `Table`.
UID, EPISODE, START, PREFIX, LEARNED, TAIL, VERSION, FIRST, HELD = range(2, 11)
SERIAL, OWNER, INDEX, NEXT, ITEMS, ADDRESS, STEPS, LAST = range(2, 10)

COUNTERS = (
    "evicted_items",
    "late_items",
    "abandoned_blocks",
    "dropped_episodes",
    "stale_write_backs",
)


class Contents:
    """Items, blocks and episodes.

    The methods keep the attributes in step with one another. From outside these are read; only
    `saving`, which puts back what was, writes them.

    Args:
        spec: of the blocks.
        windows: geometry of the items.

    Attributes:
        spec: likewise.
        windows: likewise.
        items: the items. The row of one is its *slot*. Beside its window it says FIRST, the row of
            the first block it lies in, and HELD, how many these are.
        blocks: the blocks. NEXT is the row of the next one of the episode, -1 if that has not come;
            ITEMS says how many items lie in a block.
        bodies: the `Block` of each row of `blocks`, or None.
        episodes: those that have blocks here, by uid.
        steps: unique environment steps held.
        nbytes: bytes held, overheads included.
        nbytes_unpacked: what these would be if no block were packed.
        next_uid: of the item to come; none is given twice.
        next_serial: of the block to come; likewise.
        counters: what happened so far, by COUNTERS; the store counts `stale_write_backs`.
    """

    def __init__(self, spec: BlockSpec, windows: Windows) -> None:
        self.spec, self.windows = spec, windows
        self.items, self.blocks = Table(11), Table(10)
        self.bodies = np.empty(0, object)
        self.episodes: dict[int, Episode] = {}
        self.steps = self.nbytes = self.nbytes_unpacked = 0
        self.next_uid = self.next_serial = 0
        self.counters = dict.fromkeys(COUNTERS, 0)

    @property
    def slots(self) -> int:
        """Slots are 0 .. slots - 1, whether or not an item is in them."""
        return len(self.items.rows)

    @property
    def waiting_blocks(self) -> int:
        """Blocks that no item has."""
        rows = self.blocks.rows
        return int(np.count_nonzero((rows[:, ITEMS] == 0) & (rows[:, SERIAL] >= 0)))

    def live(self, slots: Array, uids: Array) -> Array:
        """[B] bool, whether the items of these uids [B] are still in these slots [B]."""
        there = (slots >= 0) & (slots < self.slots) & (uids >= 0)
        there[there] = self.items.rows[slots[there], UID] == uids[there]
        return there

    # --- What comes in ---------------------------------------------------------------------------

    def append(self, block: Block) -> None:
        """Take in a block that was checked and fits."""
        row = self.blocks.add(
            self.next_serial,
            block.episode,
            block.index,
            -1,
            0,
            block.address,
            block.steps,
            int(block.last),
        )
        self.next_serial += 1
        self.attach(block, row)

    def attach(self, block: Block, row: int) -> None:
        """Link a block that has a row to its episode, and count it.

        Raises:
            RuntimeError: it is not the episode's next.
        """
        episode = self.episodes.get(block.episode)
        if episode is None:
            episode = Episode(block.episode, block.index, self.spec.period)
            self.episodes[block.episode] = episode
        if row >= len(self.bodies):
            self.bodies = np.append(self.bodies, np.empty(max(16, row + 1), object))
        self.bodies[row] = block
        if episode.rows:
            self.blocks.rows[episode.rows[-1], NEXT] = row
        episode.take_block(block, row)
        self.steps += block.steps
        self.nbytes += block.nbytes + BLOCK_OVERHEAD
        self.nbytes_unpacked += block.raw_nbytes + BLOCK_OVERHEAD

    def place(self, item: Item) -> int:
        """Take in an item that was checked; its slot, or -1 if a block it needs is gone."""
        episode = self.episodes.get(item.episode)
        if episode is not None:
            episode.take_item(item, self.windows)
        if episode is None or (item.start - item.prefix) // self.spec.period < episode.first:
            self.counters["late_items"] += 1
            return -1
        geometry = (item.start, item.prefix, item.learned, item.tail)
        slot = self.items.add(self.next_uid, item.episode, *geometry, item.version, -1, 0)
        self.next_uid += 1
        self.cover(slot)
        return slot

    def cover(self, slot: int) -> None:
        """Link an item that has a slot to the blocks it lies in, and count it."""
        line = self.items.rows[slot]
        episode = self.episodes[int(line[EPISODE])]
        start, stop = line[START] - line[PREFIX], line[START] + line[LEARNED] + line[TAIL]
        period = self.spec.period
        first = int(start) // period - episode.first
        # The closing observation lies in the episode's last block even if that one is full.
        rows = episode.rows[first : int(stop) // period - episode.first + 1]
        line[FIRST], line[HELD] = rows[0], len(rows)
        self.blocks.rows[rows, ITEMS] += 1
        self.nbytes += ITEM_OVERHEAD
        self.nbytes_unpacked += ITEM_OVERHEAD

    # --- What goes -------------------------------------------------------------------------------

    def evict(self) -> int:
        """Remove the oldest block of all if no item has it, and else the oldest item.

        Returns:
            The item's slot, or -1 if it was a block.
        """
        block = self.blocks.rows[self.blocks.oldest]
        slot = -1
        if block[ITEMS] == 0:
            episode = self.episodes[int(block[OWNER])]
            self._free_first(episode)
            self.counters["abandoned_blocks"] += 1
        else:
            slot = self.items.oldest
            episode = self._remove(slot)
            self.counters["evicted_items"] += 1
        self.release(episode)
        return slot

    def release(self, episode: Episode) -> None:
        """Free the episode's blocks, oldest first, that no item has and no later one will."""
        needed = episode.needed_from(self.windows)
        while (
            episode.rows
            and episode.first < needed
            and self.blocks.rows[episode.rows[0], ITEMS] == 0
        ):
            self._free_first(episode)
        if not episode.rows:
            del self.episodes[episode.uid]

    def drop(self, episode: Episode) -> Array:
        """Remove all of an episode; the slots [n] where its items were."""
        items = self.items.rows
        slots = np.flatnonzero((items[:, EPISODE] == episode.uid) & (items[:, UID] >= 0))
        for slot in slots:
            self._remove(int(slot))
        while episode.rows:
            self._free_first(episode)
        del self.episodes[episode.uid]
        self.counters["dropped_episodes"] += 1
        return slots

    def abandon(self) -> None:
        """Give episodes that have not ended uids under which nothing will come any more.

        Blocks of theirs that no item has stay until they are the oldest.
        """
        free = (uid for uid in itertools.count(ABANDONED) if uid not in self.episodes)
        for episode in list(self.episodes.values()):
            if episode.ended:
                # Windows may be lost that came without a block: a later one may be the next.
                episode.joined |= self.windows.exists(episode.window, episode.steps)
            elif not ABANDONED <= episode.uid < ABANDONED + _LEAP:
                self._rename(episode, next(free))
        self.next_uid += _LEAP
        self.next_serial += _LEAP

    def _rename(self, episode: Episode, uid: int) -> None:
        items = self.items.rows
        items[(items[:, EPISODE] == episode.uid) & (items[:, UID] >= 0), EPISODE] = uid
        self.blocks.rows[episode.rows, OWNER] = uid
        for row in episode.rows:
            self.bodies[row] = replace(self.bodies[row], episode=uid)
        del self.episodes[episode.uid]
        episode.uid = uid
        self.episodes[uid] = episode

    def _remove(self, slot: int) -> Episode:
        """Remove an item; its episode."""
        line = self.items.rows[slot]
        episode = self.episodes[int(line[EPISODE])]
        row = int(line[FIRST])
        for _ in range(int(line[HELD])):
            self.blocks.rows[row, ITEMS] -= 1
            row = int(self.blocks.rows[row, NEXT])
        self.items.remove(slot)
        self.nbytes -= ITEM_OVERHEAD
        self.nbytes_unpacked -= ITEM_OVERHEAD
        return episode

    def _free_first(self, episode: Episode) -> None:
        """Free the oldest block of an episode."""
        row = episode.rows.pop(0)
        episode.first += 1
        block = self.bodies[row]
        self.steps -= block.steps
        self.nbytes -= block.nbytes + BLOCK_OVERHEAD
        self.nbytes_unpacked -= block.raw_nbytes + BLOCK_OVERHEAD
        self.bodies[row] = None
        self.blocks.remove(row)

    # --- What goes out ---------------------------------------------------------------------------

    def locate(self, slots: Array, probabilities: Array) -> Draw:
        """The items in slots [B], drawn with these probabilities [B], and the blocks they lie in.

        Raises:
            RuntimeError: there is no item in a slot.
        """
        lines = self.items.rows[slots]  # [B, columns]
        if (lines[:, UID] < 0).any():
            raise RuntimeError("the sampler drew a slot without an item: replay is damaged")
        held = lines[:, HELD]
        chain = np.empty((len(slots), int(held.max())), np.int64)
        chain[:, 0] = row = lines[:, FIRST]
        for k in range(1, chain.shape[1]):
            # Past a window's last block its first one stands in, and is not read.
            row = np.where(k < held, self.blocks.rows[row, NEXT], lines[:, FIRST])
            chain[:, k] = row
        return Draw(
            slots=slots,
            uids=lines[:, UID].copy(),
            probabilities=probabilities,
            size=len(self.items),
            start=lines[:, START].copy(),
            prefix=lines[:, PREFIX].copy(),
            learned=lines[:, LEARNED].copy(),
            tail=lines[:, TAIL].copy(),
            version=lines[:, VERSION].copy(),
            pieces=np.ascontiguousarray(self.blocks.rows[chain, ADDRESS : LAST + 1]),
            held=held.copy(),
            blocks=self.bodies[chain],
        )
