"""The contents of replay as arrays, numbers and strings, and back again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recollect import states
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.contents import (
    EPISODE,
    INDEX,
    LAST,
    OWNER,
    PREFIX,
    SERIAL,
    START,
    STEPS,
    UID,
    VERSION,
    Contents,
)
from recollect.replay.table import Table
from recollect.replay.windows import Windows
from recollect.types import Array, Buffers

_ITEM_COLUMNS = ("uid", "episode", "start", "prefix", "learned", "tail", "version")
_BLOCK_COLUMNS = {"serial": SERIAL, "episode": OWNER, "index": INDEX, "steps": STEPS, "last": LAST}


def layout(spec: BlockSpec, windows: Windows) -> str:
    """What must be the same for a state to fit.

    Without a codec none is named: states are older than codecs.
    """
    observation = {key: spec.observation[key] for key in sorted(spec.observation)}
    return (
        f"observation {observation}, action {spec.action}, state_size {spec.state_size}, "
        f"period {spec.period}, state_offsets {spec.state_offsets}, stack {spec.stack}, "
        f"{'' if spec.codec == 'none' else f'codec {spec.codec}, '}{windows}"
    )


def save(contents: Contents) -> dict[str, Any]:
    """Everything, in nested dicts: `layout` and one for each kind of thing held.

    `buffers` has each block's bytes under its serial number. They are the blocks' own, read-only:
    nothing is copied.
    """
    items, blocks = _oldest_first(contents.items), _oldest_first(contents.blocks)
    episodes = list(contents.episodes.values())
    columns = contents.items.rows[items, UID : VERSION + 1].T
    lines = contents.blocks.rows[blocks]
    return {
        "layout": layout(contents.spec, contents.windows),
        "items": {
            "row": items,
            "free": np.array(contents.items.free, np.int64),
            **{name: c.copy() for name, c in zip(_ITEM_COLUMNS, columns, strict=True)},
        },
        "blocks": {
            "row": blocks,
            "free": np.array(contents.blocks.free, np.int64),
            **{name: lines[:, c].copy() for name, c in _BLOCK_COLUMNS.items()},
        },
        "episodes": {
            "uid": np.array([episode.uid for episode in episodes], np.int64),
            "window": np.array([episode.window for episode in episodes], np.int64),
            "joined": np.array([episode.joined for episode in episodes], np.int64),
        },
        "counters": {
            **contents.counters,
            "next_uid": contents.next_uid,
            "next_serial": contents.next_serial,
        },
        "buffers": Buffers(
            lines[:, SERIAL].copy(), [body.buffer for body in contents.bodies[blocks]]
        ),
    }


def _oldest_first(table: Table) -> Array:
    """The rows in use: `Table.ages`, without a step of Python for each. Numbers rise with age."""
    rows = np.flatnonzero(table.rows[: table.used, 2] >= 0)
    return rows[np.argsort(table.rows[rows, 2])]


def restore(spec: BlockSpec, windows: Windows, state: Mapping[str, Any]) -> Contents:
    """The contents whose state this is; whether they are sound is for `check_contents` to say.

    Raises:
        Exception: of any kind, where the state is damaged.
    """
    contents = Contents(spec, windows)
    _restore_blocks(contents, state)
    columns = [state["episodes"][name] for name in ("uid", "window", "joined")]
    for values in zip(*columns, strict=True):
        episode = contents.episodes[int(values[0])]
        episode.window, episode.joined = int(values[1]), bool(values[2])
    # In the order they had, so that the state saved again is the same.
    contents.episodes = {uid: contents.episodes[uid] for uid in map(int, columns[0])}
    _restore_items(contents, state)
    counters = {name: states.count(state["counters"], name) for name in state["counters"]}
    contents.next_uid, contents.next_serial = counters.pop("next_uid"), counters.pop("next_serial")
    if counters.keys() != contents.counters.keys():
        raise ValueError(f"its counters are {sorted(counters)}")
    contents.counters = counters
    return contents


def _restore_blocks(contents: Contents, state: Mapping[str, Any]) -> None:
    blocks, buffers = state["blocks"], state["buffers"]
    if not np.array_equal(buffers.numbers, blocks["serial"]):
        raise ValueError("its buffers are not those of its blocks")
    names = ("row", "serial", "episode", "index", "steps", "last")
    columns = [np.asarray(blocks[name], np.int64).tolist() for name in names]
    rows, bodies, lines = [], [], []
    for *values, buffer in zip(*columns, buffers.arrays, strict=True):
        row, serial, uid, index, steps, last = values
        body = Block.from_buffer(contents.spec, uid, index, steps, bool(last), buffer).owned()
        rows.append(row)
        bodies.append(body)
        # NEXT is set when the next one is attached, ITEMS when items cover it.
        lines.append((serial, uid, index, -1, 0, body.address, steps, last))
    contents.blocks.restore(rows, [int(row) for row in blocks["free"]], np.array(lines))
    for row, body in zip(rows, bodies, strict=True):
        contents.attach(body, row)


def _restore_items(contents: Contents, state: Mapping[str, Any]) -> None:
    items = state["items"]
    slots = [int(row) for row in items["row"]]
    columns = [np.asarray(items[name], np.int64) for name in _ITEM_COLUMNS]
    columns += [np.full(len(slots), end, np.int64) for end in (-1, 0)]  # FIRST and HELD
    contents.items.restore(slots, [int(row) for row in items["free"]], np.stack(columns, axis=1))
    for slot in slots:
        line = contents.items.rows[slot]
        episode = contents.episodes[int(line[EPISODE])]
        if line[START] - line[PREFIX] < episode.first * contents.spec.period:
            raise ValueError(f"item {line[UID]} needs a block that is not there")
        contents.cover(slot)
