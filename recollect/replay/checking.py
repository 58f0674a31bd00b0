"""Whether the contents of replay are sound: every figure worked out again, slowly."""

from __future__ import annotations

import numpy as np

from recollect.replay.blocks import Block
from recollect.replay.contents import (
    ADDRESS,
    BLOCK_OVERHEAD,
    EPISODE,
    FIRST,
    HELD,
    INDEX,
    ITEM_OVERHEAD,
    ITEMS,
    LAST,
    NEXT,
    OWNER,
    START,
    STEPS,
    TAIL,
    UID,
    Contents,
)
from recollect.replay.episodes import Episode
from recollect.replay.table import Table
from recollect.types import Array


def require(condition: bool, what: str) -> None:
    """Raise RuntimeError, saying what does not hold, unless it does."""
    if not condition:
        raise RuntimeError(f"replay is damaged: this does not hold: {what}")


def check_contents(contents: Contents) -> None:
    """Check tables, counts, every episode and every item.

    Raises:
        RuntimeError: naming what does not hold.
    """
    _check_table(contents.items, contents.next_uid, "items", "uids")
    _check_table(contents.blocks, contents.next_serial, "blocks", "serials")
    items, blocks = contents.items.ages(), contents.blocks.ages()
    bodies: list[Block] = [contents.bodies[row] for row in blocks]
    require(sum(body.steps for body in bodies) == contents.steps, "steps are counted")
    overhead = len(bodies) * BLOCK_OVERHEAD + len(items) * ITEM_OVERHEAD
    nbytes = sum(body.nbytes for body in bodies) + overhead
    require(nbytes == contents.nbytes, "bytes are counted")
    unpacked = sum(body.raw_nbytes for body in bodies) + overhead
    require(unpacked == contents.nbytes_unpacked, "unpacked bytes are counted")
    require(sum(body is not None for body in contents.bodies) == len(blocks), "no block left over")
    listed = sorted(row for episode in contents.episodes.values() for row in episode.rows)
    require(listed == sorted(blocks), "every block in its episode")
    for uid, episode in contents.episodes.items():
        _check_episode(contents, uid, episode)
    covers = dict.fromkeys(blocks, 0)
    for slot in items:
        for row in _check_item(contents, contents.items.rows[slot]):
            covers[row] += 1
    held = contents.blocks.rows[:, ITEMS]
    require(all(int(held[row]) == n for row, n in covers.items()), "items per block")


def _check_table(table: Table, following: int, name: str, numbers: str) -> None:
    """Check a table whose column 2 numbers the rows; `following` is the next number."""
    found = table.ages()
    require(sorted([*found, *table.free]) == list(range(table.used)), f"{name} and free rows")
    rising = np.diff(table.rows[found, 2], prepend=-1) > 0
    require(bool(rising.all()), f"{name} from oldest to newest")
    require(bool((table.rows[table.free, 2] == -1).all()), f"free rows of {name}")
    require(not found or int(table.rows[found[-1], 2]) < following, numbers)


def _check_episode(contents: Contents, uid: int, episode: Episode) -> None:
    """Check one episode and its blocks."""
    name, rows = f"episode {uid}", contents.blocks.rows
    require(len(episode.rows) > 0, f"{name}: has blocks")
    require(episode.window >= 0, f"{name}: windows")
    mine: list[Block] = [contents.bodies[row] for row in episode.rows]
    before: Block | None = None
    for i, (row, body) in enumerate(zip(episode.rows, mine, strict=True)):
        index = episode.first + i
        header = (uid, index, body.address, body.steps, int(body.last))
        require((body.episode, body.index) == (uid, index), f"{name}: blocks in order")
        require(tuple(rows[row, [OWNER, INDEX, ADDRESS, STEPS, LAST]]) == header, name)
        following = episode.rows[i + 1] if i + 1 < len(mine) else -1
        require(int(rows[row, NEXT]) == following, f"{name}: chain")
        require(not body.last or following < 0, f"{name}: the last block is the last")
        unpacked = body.unpacked()  # each once: it is also the test that it can be
        if before is not None:
            _check_seam(before, unpacked)
        before = unpacked
    require(episode.next_block == episode.first + len(mine), f"{name}: blocks are counted")
    require(episode.ended == mine[-1].last, f"{name}: ended")
    total = mine[-1].index * contents.spec.period + mine[-1].steps
    require(episode.steps == total, f"{name}: steps")
    idle = int(rows[episode.rows[0], ITEMS]) == 0
    gone = episode.first < episode.needed_from(contents.windows)
    require(not (idle and gone), f"{name}: a block nothing needs is freed")


def _check_seam(before: Block, after: Block) -> None:
    """What a block carries from before its first step is what the block before ended with."""
    where = f"episode {after.episode}, block {after.index}:"
    require(np.array_equal(after.previous_action, before.action[-1]), f"{where} previous action")
    require(after.previous_reward == float(before.reward[-1]), f"{where} previous reward")
    context = before.spec.context
    if context:
        for key, rows in after.observation.items():
            ended = before.observation[key][-context:]
            require(np.array_equal(rows[:context], ended), f"{where} frames of {key!r}")


def _check_item(contents: Contents, line: Array) -> list[int]:
    """Check one item; the rows of the blocks it lies in."""
    name, uid = f"item {line[UID]}", int(line[EPISODE])
    require(uid in contents.episodes, f"{name}: its episode is here")
    episode, period = contents.episodes[uid], contents.spec.period
    k = int(line[START]) // period
    require(k < episode.window, f"{name}: windows are counted")
    window = contents.windows.window(k, episode.steps)
    geometry = (window.start, window.prefix, window.learned, window.tail)
    require(tuple(line[START : TAIL + 1].tolist()) == geometry, f"{name}: is a window")
    require(window.stop < episode.steps + episode.ended, f"{name}: its observations are here")
    first, last = window.first // period, min(window.stop // period, episode.next_block - 1)
    require(first >= episode.first, f"{name}: its blocks are here")
    wanted = episode.rows[first - episode.first : last - episode.first + 1]
    chain = [int(line[FIRST])]
    while len(chain) < len(wanted):
        chain.append(int(contents.blocks.rows[chain[-1], NEXT]))
    require(chain == wanted and int(line[HELD]) == len(wanted), f"{name}: chain")
    return wanted
