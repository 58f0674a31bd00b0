"""Batches: what was drawn, and the windows copied out of their blocks into arrays over time.

`gather` reads a `Draw` and nothing else, which holds the blocks it needs: it may run in another
thread, and whatever happens to the store in between the batch is the same. How it copies is in
`gathering`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recollect.replay.blocks import BlockSpec
from recollect.replay.gathering import Copy
from recollect.replay.memory import ALIGNMENT, PAGE, aligned_empty
from recollect.replay.windows import Windows
from recollect.types import Array, ArraySpec, Observation


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

    In memory the arrays over time lie as they are seen, or window by window: see `gather`. Cells
    where nothing happened are zero, and previous actions there are none (-1 where discrete).
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


def gather(
    spec: BlockSpec,
    windows: Windows,
    draw: Draw,
    out: Batch | None = None,
    *,
    batch_major: bool = False,
    threads: int = 1,
) -> Batch:
    """The batch that was drawn.

    Args:
        spec: of the blocks drawn.
        windows: geometry of the windows drawn.
        draw: what was drawn.
        out: an earlier batch of the same shape; its arrays over time, and its
            `recurrent_state`, are written again and returned.
        batch_major: how a new batch's arrays over time lie in memory: each window in one piece,
            [B, T, ...], and they are seen through their first two axes swapped; else as they are
            seen. The numbers are the same. An `out` stays as it lies.
        threads: that copy and unpack at once, this one included.

    Raises:
        ValueError: `out` has other shapes; a packed block is damaged; no threads.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, this one included, not {threads}")
    batch = len(draw.slots)
    steps = draw.prefix + draw.learned + draw.tail
    length = int(steps.max()) if windows.trajectory else windows.steps
    if out is None:
        out = _empty(spec, length, batch, batch_major)
    elif out.mask.shape != (length, batch):
        raise ValueError(
            f"the batch to write to is {out.mask.shape} steps, ({length}, {batch}) are wanted"
        )
    column = windows.burn_in - draw.prefix  # of the first real step
    offset = (draw.start - draw.prefix) % spec.period  # of it, in its block
    copy = Copy(spec, batch)
    keys = sorted(spec.observation)
    for field, key in enumerate(keys):
        copy.add(out.observation[key], field, offset, steps + 1 + spec.context, column)
    field = len(keys)
    # Row 0 of actions and rewards is the one before the block: one row on is the step's own.
    # All bits of -1 are set, so it can be filled in byte by byte.
    copy.add(out.previous_action, field, offset, steps + 1, column, spec.no_action & 0xFF)
    copy.add(out.action, field, offset + 1, steps, column)
    copy.add(out.previous_reward, field + 1, offset, steps + 1, column)
    copy.add(out.reward, field + 1, offset + 1, steps, column)
    copy.add(out.discount, field + 2, offset, steps, column)
    if out.states is not None:
        copy.add(out.states, field + 3, offset, steps, column)
    if spec.state_size:
        one, top = np.ones_like(column), np.zeros_like(column)
        copy.add(out.recurrent_state[None], field + 3, spec.state_row[offset], one, top)
    copy.run(draw.pieces, draw.held, draw.blocks, threads)
    t = np.arange(length)[:, None]
    np.logical_and(t >= column, t < column + steps, out=out.mask)
    begin = windows.burn_in
    np.logical_and(t >= begin, t < begin + draw.learned, out=out.learned)
    return replace(
        out,
        prefix=draw.prefix > 0,
        mid_episode=draw.start > draw.prefix,
        slots=draw.slots,
        uids=draw.uids,
        probabilities=draw.probabilities,
        size=draw.size,
        version=draw.version,
    )


def _empty(spec: BlockSpec, length: int, batch: int, batch_major: bool = False) -> Batch:
    """A batch to write to; what `gather` writes is not set."""

    def empty(element: ArraySpec, rows: int) -> Array:
        """[rows, B, ...]; where it is large it begins with a page, to be pinned alone."""
        nbytes = rows * batch * element.nbytes
        memory = aligned_empty(nbytes, PAGE if nbytes >= PAGE else ALIGNMENT).view(element.dtype)
        if batch_major:
            return memory.reshape(batch, rows, *element.shape).swapaxes(0, 1)
        return memory.reshape(rows, batch, *element.shape)

    action, number, truth = spec.action, ArraySpec((), "float32"), ArraySpec((), "bool")
    state = ArraySpec((spec.state_size,))
    none = np.empty(0)
    return Batch(
        observation={
            key: empty(element, spec.context + length + 1)
            for key, element in spec.observation.items()
        },
        previous_action=empty(action, length + 1),
        previous_reward=empty(number, length + 1),
        action=empty(action, length),
        reward=empty(number, length),
        discount=empty(number, length),
        mask=empty(truth, length),
        learned=empty(truth, length),
        recurrent_state=np.empty((batch, spec.state_size), np.float32),
        states=empty(state, length) if spec.every_state else None,
        prefix=none,
        mid_episode=none,
        slots=none,
        uids=none,
        probabilities=none,
        size=0,
        version=none,
    )
