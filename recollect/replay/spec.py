"""How a block of steps lies in memory: its fields, their rows, and where each begins.

The picture of it is in `blocks`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from recollect.replay.codec import CODECS
from recollect.replay.memory import ALIGNMENT
from recollect.types import NO_ACTION, Array, ArraySpec, ConfigError

REWARD_SPEC = ArraySpec((), "float32")


@dataclass(frozen=True)
class Field:
    """One field of a block: `lead` rows before its first step, one row per step.

    Where `closing` is 1 the last block of an episode has one more row at its end.
    """

    name: str
    spec: ArraySpec
    lead: int
    closing: int


@dataclass(frozen=True)
class BlockSpec:
    """How the blocks of one program lie in memory.

    Args:
        observation: per key, one observation: a single frame where `stack` is more than 1.
        action: one action: whole numbers, where -1 is none, or floats, where zeros are none.
        state_size: H, floats of a recurrent state; 0 for a network without one.
        period: P, steps of every block but an episode's last.
        state_offsets: rising offsets in [0, P), the first 0, before whose steps the block carries
            the recurrent state; range(P) for all of them.
        stack: frames that make up what the actor saw; 1 for none.
        codec: "none", or "zstd" to pack what can be packed.

    Raises:
        ConfigError: a value that cannot be.
    """

    observation: Mapping[str, ArraySpec]
    action: ArraySpec
    state_size: int
    period: int
    state_offsets: tuple[int, ...]
    stack: int = 1
    codec: str = "none"

    def __post_init__(self) -> None:
        for name, least in (("state_size", 0), ("period", 1), ("stack", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        offsets = self.state_offsets
        if tuple(sorted({0, *offsets})) != tuple(offsets) or max(offsets) >= self.period:
            raise ConfigError(
                f"state_offsets must rise from 0 and stay below period {self.period}, not {offsets}"
            )
        if not self.observation:
            raise ConfigError("observation must have at least one key")
        for key, spec in self.observation.items():
            if np.dtype(spec.dtype).kind not in "biuf" or spec.nbytes == 0:
                raise ConfigError(f"observation {key!r} must be numbers, at least one, not {spec}")
        if np.dtype(self.action.dtype).kind not in "if" or self.action.nbytes == 0:
            raise ConfigError(f"action must be signed whole numbers or floats, not {self.action}")
        if self.codec not in CODECS:
            raise ConfigError(f"codec must be one of {CODECS}, not {self.codec!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockSpec, (
            dict(self.observation),
            self.action,
            self.state_size,
            self.period,
            self.state_offsets,
            self.stack,
            self.codec,
        )

    @property
    def context(self) -> int:
        """C = stack - 1, frames before the first one of every block."""
        return self.stack - 1

    @property
    def every_state(self) -> bool:
        """Whether blocks carry the recurrent state before every step."""
        return self.state_size > 0 and len(self.state_offsets) == self.period

    @cached_property
    def state_row(self) -> Array:
        """[P] the row of `states` for each offset in `state_offsets`."""
        return np.searchsorted(self.state_offsets, np.arange(self.period))

    @property
    def no_action(self) -> int:
        """What every entry of an action is where there was none: -1 or 0."""
        return NO_ACTION if np.dtype(self.action.dtype).kind == "i" else 0

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The fields in their order in the buffer: observations, then the other four."""
        return (
            *(
                Field(f"observation {key!r}", self.observation[key], self.context, 1)
                for key in sorted(self.observation)
            ),
            Field("action", self.action, 1, 0),
            Field("reward", REWARD_SPEC, 1, 0),
            Field("discount", REWARD_SPEC, 0, 0),
            Field("states", ArraySpec((self.state_size,)), 0, 0),
        )

    @cached_property
    def row_bytes(self) -> tuple[int, ...]:
        """Bytes of one row of each field."""
        return tuple(field.spec.nbytes for field in self.fields)

    @cached_property
    def offsets(self) -> Array:
        """Where each field begins in the buffer of a block, and the buffer's size.

        [2, P + 1, F + 1] int64, by whether the block is its episode's last, by its steps, by field.
        """
        table = np.zeros((2, self.period + 1, len(self.fields) + 1), np.int64)
        for last in range(2):
            for steps in range(self.period + 1):
                for i, row_bytes in enumerate(self.row_bytes):
                    size = self.rows(i, steps, bool(last)) * row_bytes
                    aligned = -(-size // ALIGNMENT) * ALIGNMENT
                    table[last, steps, i + 1] = table[last, steps, i] + aligned
        return table

    def rows(self, field: int, steps: int, last: bool) -> int:
        """Rows of field number `field` in a block of `steps` steps."""
        if self.fields[field].name == "states":
            return bisect_left(self.state_offsets, steps)
        return self.fields[field].lead + steps + self.fields[field].closing * last

    def nbytes(self, steps: int, last: bool) -> int:
        """Bytes of a block of `steps` steps: of its buffer, or what that holds packed."""
        return int(self.offsets[int(last), steps, -1])

    def check_steps(self, index: int, steps: int, last: bool) -> None:
        """Raise ValueError unless block `index` of an episode can have `steps` steps.

        All have `period`, but for the last one. That one may have none, only the closing
        observation, where the episode was cut just after a block had been sent.
        """
        least = self.period if not last else 0 if index > 0 else 1
        if index < 0 or not least <= steps <= self.period:
            kind = "last block" if last else "block that is not the last"
            raise ValueError(
                f"block {index} has {steps} steps: a {kind} of an episode has {least} to "
                f"{self.period}, and blocks are numbered from 0"
            )
