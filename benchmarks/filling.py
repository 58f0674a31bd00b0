"""Replay filled with episodes of random steps that nobody lived."""

from __future__ import annotations

from typing import Any

import numpy as np

STEPS_OF_EPISODE = 400


def fill(replay: Any, steps: int) -> int:
    """Insert random episodes of 400 steps until so many steps are held; how many blocks that is."""
    from recollect.replay.blocks import Block
    from recollect.replay.episodes import Item

    spec, windows = replay._spec, replay._windows
    rng = np.random.default_rng(1)
    state_rows, context = len(spec.state_offsets), spec.context
    blocks, held = 0, replay.steps
    uid = 1 << 60  # the actors' are below
    while held < steps:
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
                    key: rng.integers(0, 256, (rows, *each.shape)).astype(each.dtype)
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
            blocks, held = blocks + 1, held + spec.period
    replay._limiter.restart_surplus()  # what nobody lived need not be learned from
    return blocks
