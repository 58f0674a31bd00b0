"""Replay filled with episodes of random steps that nobody lived."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

STEPS_OF_EPISODE = 400


def fill(replay: Any, *, steps: float = inf, nbytes: float = inf) -> int:
    """Insert random episodes until so many steps or bytes were; how many blocks that is."""
    from recollect.replay.blocks import Block
    from recollect.replay.episodes import Item

    spec, windows = replay._spec, replay._windows
    rng = np.random.default_rng(1)
    state_rows, context = len(spec.state_offsets), spec.context
    blocks = held = room = 0
    uid = 1 << 60  # the actors' are below
    while held < steps and room < nbytes:
        uid, known, window = uid + 1, 0, 0
        for index in range(STEPS_OF_EPISODE // spec.period):
            known += spec.period
            last = known == STEPS_OF_EPISODE
            rows = context + spec.period + last
            block = Block.build(
                spec,
                uid,
                index,
                {
                    key: rng.integers(0, 256, (rows, *each.shape), np.uint8).astype(each.dtype)
                    for key, each in spec.observation.items()
                },
                rng.integers(0, 2, spec.period),
                np.ones(spec.period, np.float32),
                np.full(spec.period, 0.0 if last else 0.997, np.float32),
                np.zeros((state_rows, spec.state_size), np.float32),
                0,
                0.0,
                last,
            )
            items = []
            while windows.ready(window, known, last):
                each = windows.window(window, known)
                priority = float(rng.random())
                items.append(
                    Item(uid, each.start, each.prefix, each.learned, each.tail, priority, 0)
                )
                window += 1
            replay.insert([block], items)
            blocks, held, room = blocks + 1, held + block.steps, room + block.nbytes
    replay._limiter.restart_surplus()  # what nobody lived need not be learned from
    return blocks
