"""What has come of an episode, and so what may come next: its blocks and its windows, in order."""

from __future__ import annotations

from dataclasses import dataclass

from recollect.replay.blocks import Block
from recollect.replay.windows import Windows

LARGEST_PRIORITY = 1e100
"""More is no TD error of float32, and to a power it would leave the sampler's range."""


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


class Episode:
    """What is known of an episode that has blocks here.

    Args:
        uid: its own number.
        index: number of the first block that comes; if not 0, the earlier ones are lost.
        period: steps of a block.

    Attributes:
        uid: likewise.
        first: number, in the episode, of its oldest block here.
        rows: of its blocks here, in the table of blocks, oldest first.
        next_block: number of the block to come.
        steps: of the episode so far, those lost or gone included.
        ended: whether its last block has come.
        window: number of the next window.
        joined: its earlier blocks are lost, so `window` is only the least it can be.
    """

    __slots__ = ("ended", "first", "joined", "next_block", "rows", "steps", "uid", "window")

    def __init__(self, uid: int, index: int, period: int) -> None:
        self.uid = uid
        self.first = self.next_block = index
        self.rows: list[int] = []
        self.steps = index * period
        self.ended = False
        self.window = 0
        self.joined = index > 0

    def copy_without_rows(self) -> Episode:
        """A record that changes by itself, to check what comes: that does not depend on rows."""
        other = Episode(self.uid, self.next_block, 0)
        other.first, other.steps, other.ended = self.first, self.steps, self.ended
        other.window, other.joined = self.window, self.joined
        return other

    def take_block(self, block: Block, row: int) -> None:
        """Add its next block, which has this row.

        Raises:
            RuntimeError: it is not the next one.
        """
        if self.ended or block.index != self.next_block:
            wanted = "none, as it has ended" if self.ended else f"block {self.next_block}"
            raise RuntimeError(
                f"block {block.index} of episode {block.episode} came, wanted was {wanted}: insert "
                "an episode's blocks in order, or drop_episode first"
            )
        self.rows.append(row)
        self.next_block += 1
        self.steps += block.steps
        self.ended = block.last

    def check_item(self, item: Item, windows: Windows) -> None:
        """Make sure that an item is the next window, with a priority that can be.

        Raises:
            ValueError: it is no window of the episode, or its priority is outside
                [0, LARGEST_PRIORITY] or not a number.
            RuntimeError: it is not the next one, or not all its observations are here.
        """
        k, rest = divmod(item.start, windows.period)
        name = f"window {k} of episode {item.episode}"
        if k < self.window or (k > self.window and not self.joined):
            raise RuntimeError(
                f"{name} came, wanted was window {self.window}: insert each once, in order"
            )
        if not windows.ready(k, self.steps, self.ended):
            raise RuntimeError(
                f"{name} came after {self.steps} steps (ended: {self.ended}): insert it with "
                "the block that holds its last observation, and only if the episode has it"
            )
        window = windows.window(k, self.steps)
        given = (item.prefix, item.learned, item.tail)
        if rest or given != (window.prefix, window.learned, window.tail):
            raise ValueError(f"{name} is {window}, not {item}")
        if not 0 <= item.priority <= LARGEST_PRIORITY:
            raise ValueError(
                f"{name} has priority {item.priority}: it must be in [0, {LARGEST_PRIORITY:g}]"
            )

    def take_item(self, item: Item, windows: Windows) -> None:
        """Pass on to the window after the item's, which was checked."""
        self.window, self.joined = item.start // windows.period + 1, False

    def needed_from(self, windows: Windows) -> int:
        """Number of the first block that windows to come may need."""
        if self.ended and not windows.exists(self.window, self.steps):
            return self.next_block
        return windows.oldest_block(self.window)
