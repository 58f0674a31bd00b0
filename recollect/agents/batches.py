"""Batches for a learner: drawn in its turn, and on a GPU gathered and copied there one ahead.

Which items are drawn is decided in the turn; copying them out of replay, unpacking and the copy to
the device then run in a thread while the learner computes, at a depth of one, and so does waiting
for a replay in other processes. On a processor of the same process there is nothing to win: the
copy takes a hundredth of an update's time, and nothing is drawn ahead.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recollect.agents.computing import Compute
from recollect.agents.learning import tensors
from recollect.replay.limiter import NothingToDrawError
from recollect.types import Array

if TYPE_CHECKING:
    from recollect.replay.batch import Batch
    from recollect.replay.far import FarReplay
    from recollect.replay.store import Replay

_FIELDS = (
    *("observation", "previous_action", "previous_reward", "action", "reward", "discount"),
    *("mask", "learned", "prefix", "recurrent_state"),
)

Fields = dict[str, Any]
"""A batch by name as tensors on the device; "observation" by key once more."""


class Batches:
    """What a learner learns from.

    Args:
        replay: to draw from.
        size: B, windows in a batch.
        seed, epoch: keys of the draws.
        compute: on what the learner computes.
        ahead: whether the next batch is drawn when one is taken; None: on a GPU, or where what is
            drawn comes from another process.
    """

    def __init__(
        self,
        replay: Replay | FarReplay,
        size: int,
        seed: int,
        epoch: int,
        compute: Compute,
        ahead: bool | None = None,
    ) -> None:
        self._replay, self._size, self._seed, self.epoch = replay, size, seed, epoch
        self._device = compute.device
        self._ahead = (
            compute.device == "cuda" or getattr(replay, "far", False) if ahead is None else ahead
        )
        self._pool = ThreadPoolExecutor(1, "gather") if self._ahead else None
        # Copies in a stream of their own do not wait for the update that is being computed.
        self._stream = torch.cuda.Stream() if self._device == "cuda" else None
        self._next: Future[tuple[Batch, Fields] | None] | None = None
        self._rooms: list[Batch | None] = [None, None]  # two batches of arrays, written in turn

    def ready(self) -> bool:
        """Whether there is one, or may be drawn one."""
        return self._next is not None or self._replay.wants_sample()

    def take(self, number: int) -> tuple[Batch, Fields] | None:
        """Batch `number` of the run; None if there is nothing to draw any more.

        Replay in other processes may lose its last items after it was asked. Where a batch was
        fetched ahead its arrays are written again by the one after the next.
        """
        if self._pool is None:
            batch = self._replay.sample(self._uniforms(number))
            return batch, fields_of(batch, self._device)
        waiting = self._next or self._start(number)
        found, self._next = waiting.result() if waiting else None, None
        if found is None:
            return None
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        if self._replay.wants_sample():
            self._next = self._start(number + 1)
        return found

    def forget(self) -> None:
        """Drop what was drawn ahead: the replay it is of has changed."""
        if self._next is not None:
            self._next.result()
            self._next = None

    def _start(self, number: int) -> Future[tuple[Batch, Fields] | None] | None:
        assert self._pool is not None
        try:
            draw = self._replay.draw(self._uniforms(number))
        except NothingToDrawError:  # an answer that came since `wants_sample` said so
            return None
        return self._pool.submit(self._fetch, draw)

    def _uniforms(self, number: int) -> Array:
        from recollect.maths import philox

        members = np.arange(self._size, dtype=np.int64)
        same = np.zeros_like(members)
        uniforms = philox.uniforms(
            self._seed, philox.Purpose.SAMPLING, members, same, same + self.epoch, same + number
        )
        return uniforms[:, 0]

    def _fetch(self, draw: Any) -> tuple[Batch, Fields] | None:
        try:
            batch = self._replay.gather(draw, self._rooms[0])
        except NothingToDrawError:
            return None
        room = self._rooms.pop(0)
        if self._device == "cuda" and room is None:
            batch = _pinned(batch)
        # Whole episodes make batches of many lengths, and each has new arrays.
        self._rooms.append(None if self._replay.windows.trajectory else batch)
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            return batch, fields_of(batch, self._device)


def fields_of(batch: Batch, device: str = "cpu") -> Fields:
    """A batch as tensors on a device."""
    return {name: tensors(getattr(batch, name), device) for name in _FIELDS}


def _pinned(batch: Batch) -> Batch:
    """The same batch in memory that a GPU reads by itself."""

    def pinned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: pinned(each) for key, each in value.items()}
        if not isinstance(value, Array) or value.dtype.kind not in "biuf":
            return value
        return torch.from_numpy(value).pin_memory().numpy()

    return replace(batch, **{f.name: pinned(getattr(batch, f.name)) for f in fields(batch)})
