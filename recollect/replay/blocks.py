"""Blocks: the steps of an episode as they travel and lie in memory, once.

A block holds the `period` steps of an episode from step `index * period` on; the episode's last
block holds the rest. It is one buffer of bytes, the same in memory, on the wire and on disk: fields
after one another, each beginning at a multiple of 64 bytes,

    observation, per key  [C + L (+ 1 in the last block), ...]   keys in alphabetical order
    action                [1 + L, ...]   row 0 is the action before the block's first step
    reward                [1 + L]        float32, row 0 likewise
    discount              [L]            float32
    states                [S, H]         float32, S of the spec's offsets lie below L

with L steps and C = stack - 1. The rows that stand before a field's first step (C frames, one
action, one reward) are as the actor saw them, so that a stack of frames and the previous action and
reward can be given for every step when the block before is gone.

With the codec "zstd" the buffer is those bytes packed, if that makes them fewer: it is of any size
then and begins anywhere, in memory, on the wire and on disk alike. A buffer of the full size is
not packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recollect.replay import codec
from recollect.replay.memory import ALIGNMENT, address, aligned_copy, aligned_zeros
from recollect.replay.spec import BlockSpec
from recollect.types import Array, Observation

__all__ = ["Block", "BlockSpec"]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some steps of one episode, immutable. Made by `build` or `from_buffer`.

    Args:
        spec: how the buffer is laid out.
        episode: uid of the episode, not negative.
        index: number of the block in its episode; its first step is `index * period`.
        steps: L.
        last: whether the episode ends with it.
        buffer: [nbytes] uint8, read-only, contiguous; aligned to 64 bytes unless it is packed.
    """

    spec: BlockSpec
    episode: int
    index: int
    steps: int
    last: bool
    buffer: Array

    def __post_init__(self) -> None:
        self.spec.check_steps(self.index, self.steps, self.last)
        if self.episode < 0:
            raise ValueError(f"an episode's uid is not negative, not {self.episode}")
        wanted, buffer = self.raw_nbytes, self.buffer
        fits = buffer.nbytes == wanted or (self.spec.codec != "none" and 0 < buffer.nbytes < wanted)
        if (
            buffer.dtype != np.uint8
            or buffer.ndim != 1
            or not fits
            or not buffer.flags.c_contiguous
        ):
            most = "" if self.spec.codec == "none" else "at most "
            raise ValueError(
                f"block {self.index} of episode {self.episode}, {self.steps} steps, takes "
                f"{most}{wanted} contiguous bytes, not {buffer.dtype} {buffer.shape}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        header = (self.spec, self.episode, self.index, self.steps, self.last)
        return Block.from_buffer, (*header, self.buffer)

    @classmethod
    def build(
        cls,
        spec: BlockSpec,
        episode: int,
        index: int,
        observations: Mapping[str, Array],
        actions: Array,
        rewards: Array,
        discounts: Array,
        states: Array,
        previous_action: Array | int,
        previous_reward: Array | float,
        last: bool,
    ) -> Block:
        """Check what the actor gathered and copy it, once, into a new block; pack that.

        Args:
            spec: as above.
            episode: as above.
            index: as above.
            observations: per key [C + L (+ 1 if last), ...]: the C frames before, then one before
                each step, then, in the last block, the closing one.
            actions: [L, ...].
            rewards: [L] float32.
            discounts: [L] float32.
            states: [S, H] float32, before the steps at those of the spec's offsets that are < L.
            previous_action: [...] the action before the first step.
            previous_reward: the reward before the first step.
            last: as above.

        Raises:
            ValueError: a field of the wrong shape or dtype, or with a value that is not finite.
        """
        steps = len(actions)
        spec.check_steps(index, steps, last)
        if set(observations) != set(spec.observation):
            raise ValueError(
                f"observations {sorted(observations)} came where {sorted(spec.observation)} "
                "were wanted"
            )
        previous = (
            np.asarray(previous_action, spec.action.dtype),
            np.asarray(previous_reward, np.float32),
        )
        buffer = aligned_zeros(spec.nbytes(steps, last))
        given = [observations[key] for key in sorted(observations)]
        for i, array in enumerate((*given, actions, rewards, discounts, states)):
            field = spec.fields[i]
            rows = _view(spec, i, steps, last, buffer)
            if field.name in ("action", "reward"):
                before = previous[field.name == "reward"]
                _check(f"previous_{field.name}", before, before.dtype, field.spec.shape)
                rows[0], rows = before, rows[1:]
            _check(field.name, array, rows.dtype, rows.shape)
            rows[...] = array
        if spec.codec != "none":
            buffer = codec.pack(buffer)
        buffer.setflags(write=False)
        return cls(spec, episode, index, steps, bool(last), buffer)

    @classmethod
    def from_buffer(
        cls, spec: BlockSpec, episode: int, index: int, steps: int, last: bool, buffer: Array
    ) -> Block:
        """A block from the wire or the disk.

        The buffer is kept where it is read-only and, without a codec, aligned; else it is copied.
        Packed bytes are not looked into: see `unpacked`.

        Raises:
            ValueError: the buffer's size is not that of such a block, or there is no such block.
        """
        buffer = np.asarray(buffer)
        shifted = spec.codec == "none" and address(buffer) % ALIGNMENT
        if buffer.flags.writeable or not buffer.flags.c_contiguous or shifted:
            buffer = aligned_copy(buffer)
        return cls(spec, int(episode), int(index), int(steps), bool(last), buffer)

    def owned(self) -> Block:
        """This block, or a copy if its bytes are a part of something larger.

        Who keeps a block keeps all that its buffer is cut from: a whole message, or an object that
        a store could otherwise drop.
        """
        root = self.buffer
        while isinstance(root.base, np.ndarray):
            root = root.base
        if root.flags.owndata and root.nbytes <= self.nbytes + ALIGNMENT:
            return self
        header = (self.spec, self.episode, self.index, self.steps, self.last)
        return Block(*header, aligned_copy(self.buffer))

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer: what the block takes in memory."""
        return self.buffer.nbytes

    @property
    def raw_nbytes(self) -> int:
        """Bytes of the buffer when it is not packed."""
        return self.spec.nbytes(self.steps, self.last)

    @property
    def packed(self) -> bool:
        """Whether the buffer has to be unpacked before it can be read."""
        return self.nbytes < self.raw_nbytes

    def unpacked(self) -> Block:
        """This block with its bytes as they are laid out: itself where they are not packed.

        Reading a field of a packed block unpacks it for that alone: who reads several asks for this
        first.

        Raises:
            ValueError: the packed bytes are not those of such a block.
        """
        if not self.packed:
            return self
        try:
            buffer = codec.unpack(self.buffer, self.raw_nbytes)
        except ValueError as error:
            raise ValueError(f"block {self.index} of episode {self.episode}: {error}") from error
        return Block(self.spec, self.episode, self.index, self.steps, self.last, buffer)

    @property
    def address(self) -> int:
        """Where the buffer begins."""
        return address(self.buffer)

    def field(self, number: int) -> Array:
        """Field `number` of the spec with all its rows, read-only."""
        return _view(self.spec, number, self.steps, self.last, self.unpacked().buffer)

    @property
    def observation(self) -> Observation:
        """Per key [C + L (+ 1 if last), ...]: context, one per step, and the closing one."""
        raw = self.unpacked()
        return {key: raw.field(i) for i, key in enumerate(sorted(self.spec.observation))}

    @property
    def context(self) -> Observation:
        """Per key [C, ...], the frames before the first step's."""
        return {key: rows[: self.spec.context] for key, rows in self.observation.items()}

    @property
    def action(self) -> Array:
        """[L, ...]."""
        return self.field(len(self.spec.observation))[1:]

    @property
    def previous_action(self) -> Array:
        """[...] the action before the first step; -1 or zeros if there was none."""
        return self.field(len(self.spec.observation))[0]

    @property
    def reward(self) -> Array:
        """[L] float32."""
        return self.field(len(self.spec.observation) + 1)[1:]

    @property
    def previous_reward(self) -> float:
        """The reward before the first step; 0 if there was none."""
        return float(self.field(len(self.spec.observation) + 1)[0])

    @property
    def discount(self) -> Array:
        """[L] float32: 0 on termination."""
        return self.field(len(self.spec.observation) + 2)

    @property
    def states(self) -> Array:
        """[S, H] float32, before the steps at those of the spec's offsets that are < L."""
        return self.field(len(self.spec.observation) + 3)


def _view(spec: BlockSpec, field: int, steps: int, last: bool, buffer: Array) -> Array:
    """Field number `field` of a block's buffer."""
    element = spec.fields[field].spec
    rows = spec.rows(field, steps, last)
    start = int(spec.offsets[int(last), steps, field])
    flat = buffer[start : start + rows * spec.row_bytes[field]].view(element.dtype)
    return flat.reshape(rows, *element.shape)


def _check(name: str, array: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `array` is as wanted and finite."""
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} must be {dtype} of shape {shape}, not {array.dtype} of shape {array.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite: drop the episode")
