"""Gymnasium spaces as flat dicts of arrays, and batches of their values brought into that form.

| space | becomes |
|---|---|
| Box | the array in its own dtype, float64 as float32 |
| Discrete(n) | one-hot float32 [n] |
| MultiDiscrete | one-hots side by side, float32 [sum of nvec] |
| MultiBinary | float32 of its shape |
| Dict, Tuple | each leaf by its own row above, keys joined by "/" ("0", "1", ... in a Tuple) |
| Text | hashed words, int16 [16], see `words` |
| Graph, Sequence, OneOf | refused by name |

A space that is a single leaf goes by the key "observation".
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from recollect.types import (
    TEXT_BUCKETS,
    TEXT_WORDS,
    ActionSpec,
    Array,
    ArraySpec,
    ConfigError,
    Observation,
)

ROOT = "observation"


def words(text: str) -> Array:
    """A text as the hashes of its first 16 words, 1 + crc32(word) mod 1000, int16 [16].

    Words are what stands between white space, in small letters; 0 is none. The same everywhere.
    """
    row = np.zeros(TEXT_WORDS, np.int16)
    for i, word in enumerate(text.lower().split()[:TEXT_WORDS]):
        row[i] = 1 + zlib.crc32(word.encode("utf-8", "surrogatepass")) % TEXT_BUCKETS
    return row


class _Leaf:
    """One array of an observation: where it lies in the space, and what it must look like there."""

    def __init__(self, key: str, path: tuple[str | int, ...], space: spaces.Space[Any]) -> None:
        self.key = key
        self.path = path
        self.shape = tuple(space.shape or ())
        self.dtype = np.dtype(space.dtype)
        self.spec = ArraySpec(self.shape)

    def find(self, observation: Any) -> Any:
        for step in self.path:
            observation = observation[step]
        return observation

    def read(self, value: Any) -> Any:
        """One observation's value as it is put into arrays like those of `Encoder.empty`."""
        return value

    def rows(self, values: Any) -> Array:
        """What a batch has for this leaf, as one array."""
        return np.asarray(values)

    def mismatch(self, value: Any, shape: tuple[int, ...]) -> str:
        """What is wrong with the shape or dtype of `value`, or an empty string."""
        array = value if isinstance(value, (np.ndarray, np.generic)) else np.asarray(value)
        if array.shape != shape:
            return f"observation {self.key!r} has shape {array.shape}, its space says {shape}"
        if array.dtype != self.dtype and not np.can_cast(array.dtype, self.dtype, "same_kind"):
            return f"observation {self.key!r} has dtype {array.dtype}, its space says {self.dtype}"
        return ""

    def encode(
        self, values: Array, slots: Sequence[int], faults: dict[int, str], hands_over: bool
    ) -> Array:
        raise NotImplementedError


class _Dense(_Leaf):
    """Numbers as they are: Box and MultiBinary."""

    def __init__(self, key: str, path: tuple[str | int, ...], space: spaces.Space[Any]) -> None:
        super().__init__(key, path, space)
        wide = self.dtype == np.float64 or isinstance(space, spaces.MultiBinary)
        self._target = np.dtype(np.float32) if wide else self.dtype
        self._floating = self._target.kind == "f"
        self.spec = ArraySpec(self.shape, self._target.name)

    def encode(
        self, values: Array, slots: Sequence[int], faults: dict[int, str], hands_over: bool
    ) -> Array:
        with np.errstate(over="ignore"):  # what does not fit float32 is inf, and a fault
            array = np.array(values, self._target, order="C", copy=None if hands_over else True)
        if self._floating and not np.isfinite(array).all():
            wrong = ~np.isfinite(array).reshape(len(array), -1)
            for row in np.flatnonzero(wrong.any(1)).tolist():
                at = np.unravel_index(int(wrong[row].argmax()), self.shape)
                place = f"[{', '.join(str(i) for i in at)}]" if at else ""
                faults.setdefault(
                    slots[row],
                    f"observation {self.key!r}{place} is {array[(row, *at)]}, "
                    "a finite number was wanted",
                )
        return array


class _OneHot(_Leaf):
    """Categories as one-hots side by side: Discrete is a MultiDiscrete of one."""

    def __init__(self, key: str, path: tuple[str | int, ...], space: spaces.Space[Any]) -> None:
        super().__init__(key, path, space)
        if isinstance(space, spaces.Discrete):
            sizes, start = np.array([space.n]), np.array([space.start])
        else:
            assert isinstance(space, spaces.MultiDiscrete)
            sizes, start = space.nvec.reshape(-1), space.start.reshape(-1)
        self._sizes = sizes.astype(np.int64)
        self._start = start.astype(np.int64)
        self._offsets = np.cumsum(self._sizes) - self._sizes
        self.spec = ArraySpec((int(self._sizes.sum()),))

    def encode(
        self, values: Array, slots: Sequence[int], faults: dict[int, str], hands_over: bool
    ) -> Array:
        index = np.asarray(values).reshape(len(values), -1) - self._start  # [n, categories]
        inside = (index >= 0) & (index < self._sizes)
        row = np.arange(len(index))[:, None]
        array = self.spec.zeros(len(index))
        array[row, self._offsets + np.where(inside, index, 0)] = inside
        if not inside.all():
            for i, column in zip(*np.nonzero(~inside), strict=True):
                low = int(self._start[column])
                faults.setdefault(
                    slots[i],
                    f"observation {self.key!r} is {index[i, column] + low}, a number from {low} "
                    f"to {low + int(self._sizes[column]) - 1} was wanted",
                )
        return array


class _Text(_Leaf):
    """Words, hashed as soon as they are seen; a batch is of texts or of rows of hashes."""

    def __init__(self, key: str, path: tuple[str | int, ...], space: spaces.Space[Any]) -> None:
        super().__init__(key, path, space)
        self.shape, self.dtype = (TEXT_WORDS,), np.dtype(np.int16)
        self.spec = ArraySpec(self.shape, self.dtype.name, "text")

    def read(self, value: Any) -> Any:
        return words(value) if isinstance(value, str) else value

    def rows(self, values: Any) -> Array:
        if isinstance(values, np.ndarray) and values.dtype == self.dtype:
            return values
        texts = [self.read(value) for value in values]
        return np.stack(texts) if texts else np.zeros((0, *self.shape), self.dtype)

    def mismatch(self, value: Any, shape: tuple[int, ...]) -> str:
        if isinstance(value, str) or (
            isinstance(value, np.ndarray) and (value.shape, value.dtype) == (shape, self.dtype)
        ):
            return ""
        return f"observation {self.key!r} is {type(value).__name__}, its space says Text"

    def encode(
        self, values: Array, slots: Sequence[int], faults: dict[int, str], hands_over: bool
    ) -> Array:
        return values.copy()


def _leaves(space: spaces.Space[Any], env_id: str, path: tuple[str | int, ...] = ()) -> list[_Leaf]:
    key = "/".join(str(step) for step in path) or ROOT
    if isinstance(space, spaces.Dict):
        parts: list[tuple[str | int, spaces.Space[Any]]] = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        parts = list(enumerate(space.spaces))
    elif isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return [_OneHot(key, path, space)]
    elif isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return [_Dense(key, path, space)]
    elif isinstance(space, spaces.Text):
        return [_Text(key, path, space)]
    else:
        raise ConfigError(
            f"{env_id}: observation {key!r} is {type(space).__name__}, numbers in arrays of a "
            "fixed shape were wanted: wrap the environment so that it drops this or encodes it as "
            "a Box"
        )
    found = [leaf for step, part in parts for leaf in _leaves(part, env_id, (*path, step))]
    if not path:
        keys = [leaf.key for leaf in found]
        twice = sorted({k for k in keys if keys.count(k) > 1})
        if twice or not keys:
            what = f"two entries named {twice[0]!r}" if twice else "nothing in it"
            raise ConfigError(
                f"{env_id}: its observation space has {what} once nested keys are joined by '/': "
                "wrap the environment and rename or add entries"
            )
    return found


class Encoder:
    """Turns batches of a space's values into flat dicts of arrays.

    Args:
        space: of one environment's observations.
        env_id: to name in errors.
    Raises:
        ConfigError: a part of the space cannot become an array; the message names its key.
    """

    def __init__(self, space: spaces.Space[Any], env_id: str) -> None:
        self._leaves = _leaves(space, env_id)
        self.specs: dict[str, ArraySpec] = {leaf.key: leaf.spec for leaf in self._leaves}
        root = self._leaves[0]
        self._plain = (root.shape, root.dtype) if not root.path else None

    def encode(
        self,
        batch: Any,
        slots: Sequence[int],
        faults: dict[int, str],
        *,
        hands_over: bool = False,
    ) -> Observation:
        """Fresh arrays [len(slots), ...] by key, sharing no memory with `batch`.

        Args:
            batch: what a vector environment with this single space gives, one row for each slot.
            slots: the number of the environment in each row.
            faults: gets, by slot, what was wrong with its values (not finite, or no such category).
            hands_over: nobody else writes into the batch, so its own arrays may be given.
        Raises:
            RuntimeError: an entry is missing or has another shape or dtype than its space says.
        """
        observation: Observation = {}
        for leaf in self._leaves:
            try:
                values = leaf.rows(leaf.find(batch))
            except (KeyError, IndexError, TypeError) as error:
                raise RuntimeError(f"observation {leaf.key!r} is missing") from error
            wrong = leaf.mismatch(values, (len(slots), *leaf.shape))
            if wrong:
                raise RuntimeError(wrong)
            observation[leaf.key] = leaf.encode(values, slots, faults, hands_over)
        return observation

    def empty(self, slots: int) -> dict[str, Array]:
        """Zeros for observations as the space has them, [slots, ...] by key."""
        return {leaf.key: np.zeros((slots, *leaf.shape), leaf.dtype) for leaf in self._leaves}

    def nested(self, arrays: Mapping[str, Array]) -> Any:
        """Arrays by key as a batch that `encode` takes; nothing is copied."""
        if not self._leaves[0].path:
            return arrays[ROOT]
        batch: dict[str | int, Any] = {}
        for leaf in self._leaves:
            *inner, last = leaf.path
            place = batch
            for step in inner:
                place = place.setdefault(step, {})
            place[last] = arrays[leaf.key]
        return batch

    def put(self, observation: Any, arrays: Mapping[str, Array], row: int) -> str:
        """Write one observation into its row of arrays like those of `empty`.

        Returns:
            What is wrong with its shape or dtype, or an empty string. Nothing is written then.
        """
        if (
            type(observation) is np.ndarray
            and (observation.shape, observation.dtype) == self._plain
        ):  # nearly always; the rest costs as much as a small environment's step
            arrays[ROOT][row] = observation
            return ""
        wrong = self.mismatch(observation)
        if not wrong:
            with np.errstate(over="ignore"):  # what does not fit is inf, which `encode` finds
                for leaf in self._leaves:
                    arrays[leaf.key][row] = leaf.read(leaf.find(observation))
        return wrong

    def mismatch(self, observation: Any) -> str:
        """What is wrong with the shape or dtype of a single observation, or an empty string."""
        for leaf in self._leaves:
            try:
                value = leaf.find(observation)
            except (KeyError, IndexError, TypeError):
                return f"observation {leaf.key!r} is missing"
            wrong = leaf.mismatch(value, leaf.shape)
            if wrong:
                return wrong
        return ""


def action_spec(space: spaces.Space[Any], env_id: str) -> ActionSpec:
    """The actions of one environment: Discrete from 0 whatever its start, or a Box of floats.

    Raises:
        ConfigError: neither of the two.
    """
    if isinstance(space, spaces.Discrete):
        return ActionSpec(int(space.n))
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f":
        low, high = (
            tuple(float(x) for x in np.asarray(bound).reshape(-1))
            for bound in (space.low, space.high)
        )
        return ActionSpec(0, tuple(space.shape), low, high)
    raise ConfigError(
        f"{env_id}: its actions are {type(space).__name__} of {space.dtype}, Discrete or a Box of "
        "floats was wanted: wrap the environment so that one number (every combination counted) or "
        "a Box says the action"
    )


def first_action(space: spaces.Space[Any]) -> int:
    """What the environment calls the action that is 0 here: a Discrete's start."""
    return int(getattr(space, "start", 0))
