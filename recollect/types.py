"""What flows between the parts of a program: specs, actions, errors.

An observation is a flat dict of arrays; an environment whose observation is one array gives
`{"observation": array}`. Nothing here is called `done`: see `VectorStep`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

Array = np.ndarray
Observation = dict[str, Array]
Metrics = dict[str, float]

TEXT_WORDS, TEXT_BUCKETS = 16, 1_000
"""Words kept of a text observation, and how many different ones are told apart."""

NO_ACTION = -1
"""The previous action at an episode's start, where actions are discrete: one-hot, all zeros."""


class ConfigError(ValueError):
    """A setting that cannot be used. The message says what was wanted, what came, what to do."""


class EnvError(RuntimeError):
    """An environment raised an error, or gave what its spaces do not allow."""


class NotFiniteError(EnvError):
    """An environment gave what is not finite, where no episode can be dropped for it."""


class NotSavedError(OSError):
    """A run came to its end and the disk did not take it: what came last is not kept."""


class DivergedError(RuntimeError):
    """What a network gives, or a loss or gradient, is not finite and will not be so again."""


LARGEST: dict[str, float] = {
    "actors": 100_000,
    "actor_processes": 10_000,
    "replay_shards": 10_000,
    "threads": 10_000,
    "frame_stack": 64,
    "burn_in": 100_000,
    "trace_length": 100_000,
    "period": 100_000,
    "n_step": 10_000,
    "actors period": 1e8,
    "actors n_step": 1e8,
    "batch_size": 100_000,
    "batch_size burn_in": 1e8,
    "batch_size trace_length": 1e8,
    "batch_size n_step": 1e8,
    "evaluation_episodes": 100_000,
    "torso_sizes": 16_384,
    "pre_core": 16_384,
    "hidden": 16_384,
    "head_hidden": 16_384,
}
"""The most a setting may be, or the product of several, whatever the agent.

All this is far more than anybody has used; it is there so that a slip is told at once, and not when
the machine has run out of memory. What replay needs is compared with the memory there is.
"""
MOST_WHOLE = 2**53
"""The most any other whole number may be: a float64 still tells it from the next."""
MOST_FLOAT, LEAST_FLOAT = 1e15, 1e-30
"""The most any other number may be, and the least above 0: their squares, or they, fit a float32.

With an adam_epsilon that is 0 in float32 a gradient of 0 would make parameters that are NaN.
"""
MOST_SIZES = 64
"""The most numbers a tuple may have."""


def check_ranges(
    config: object,
    positive: Iterable[str] = (),
    fractions: Iterable[str] = (),
    counts: Iterable[str] = (),
) -> None:
    """Raise ConfigError unless fields are above 0, in [0, 1], or 0 and more; it names the field.

    Before that every field must be of its type, for a misspelt word would be another algorithm, and
    of a size that can be meant.
    """
    values, positive = vars(config), tuple(positive)
    check_kinds(type(config), values)
    for names, fits, wanted in (
        (positive, lambda x: x > 0, "above 0"),
        (fractions, lambda x: 0 <= x <= 1, "in [0, 1]"),
        (counts, lambda x: x >= 0, "0 or more"),
    ):
        for name in names:
            if not fits(values[name]):
                raise ConfigError(f"{name} must be {wanted}, got {shown(values[name])}")
    for name in positive:
        if values[name] < LEAST_FLOAT:
            raise ConfigError(f"{name} must be at least {LEAST_FLOAT:g}, got {values[name]}")
    for together in filter(lambda names: " " in names, LARGEST):
        factors = {name: values.get(name, 0) for name in together.split()}
        if math.prod(factors.values()) > LARGEST[together]:
            what = " times ".join(f"{name} {value:,}" for name, value in factors.items())
            raise ConfigError(f"{what} is more than {LARGEST[together]:,.0f}: lower one of them")


def check_kinds(kind: type, values: Mapping[str, Any]) -> None:
    """Raise ConfigError unless values fit the fields of a config of this kind: type and size."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _is(value, hints[name]):
            such = " of bytes, such as 4_000_000_000" if name.endswith("_bytes") else ""
            raise ConfigError(f"{name} must be {_wanted(hints[name])}{such}, got {shown(value)}")
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) > MOST_SIZES:
            raise ConfigError(f"{name} must be at most {MOST_SIZES} numbers, got {len(numbers):,}")
        if isinstance(value, tuple) and any(number < 1 for number in numbers):
            raise ConfigError(f"{name} must be whole numbers above 0, got {shown(value)}")
        if isinstance(value, str):
            continue
        largest = LARGEST.get(name, MOST_FLOAT if hints[name] is float else MOST_WHOLE)
        if any(abs(number) > largest for number in numbers):
            raise ConfigError(f"{name} must be at most {largest:,.0f}, got {shown(value)}")


def shown(value: object) -> str:
    """`value` as an error shows it: what it is, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # a number of 5000 digits, an object that fails
        return f"a value of {type(value).__name__} that cannot be shown"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"


def _is(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(item, get_args(kind)[0]) for item in value)
    if kind is float:
        whole = type(value) is int
        return whole or (type(value) is float and math.isfinite(value))
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _wanted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a tuple of whole numbers"
    names = {int: "a whole number", float: "a finite number", bool: "True or False"}
    return names.get(kind, "text")


def channels_last(shape: Sequence[int]) -> bool:
    """Whether an image of this shape is [H, W, C]: by its square, else by its longer end."""
    if len(shape) != 3:
        return False
    first, second, third = shape
    return first == second or (second != third and third <= first)


@dataclass(frozen=True)
class ArraySpec:
    """Shape (without batch or time) and dtype of one array.

    `kind` "text" marks [`TEXT_WORDS`] int16 hashed words, each from 1 to `TEXT_BUCKETS`, then zeros
    where there is none.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: str = ""

    @property
    def image(self) -> bool:
        """Whether it is an image: bytes or bits in two or three dimensions, [H, W] or with C."""
        return self.dtype in ("uint8", "bool") and len(self.shape) in (2, 3)

    @property
    def like_an_image(self) -> bool:
        """Whether it has an image's shape and not its dtype: networks take it as numbers."""
        return not self.image and len(self.shape) in (2, 3) and sorted(self.shape)[-2] > 15

    @property
    def nbytes(self) -> int:
        """Bytes of one element of this shape."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def zeros(self, *leading: int) -> Array:
        """Zeros of shape [*leading, *shape]."""
        return np.zeros((*leading, *self.shape), self.dtype)


@dataclass(frozen=True)
class ActionSpec:
    """`num_actions` actions numbered from 0, or, where it is 0, a bounded Box."""

    num_actions: int
    shape: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def discrete(self) -> bool:
        """Whether actions are numbers 0 .. num_actions - 1."""
        return self.num_actions > 0

    @property
    def array(self) -> ArraySpec:
        """How one action lies in memory."""
        return ArraySpec((), "int64") if self.discrete else ArraySpec(self.shape, "float32")

    def none(self, *leading: int) -> Array:
        """The previous action where there was none: [*leading, *shape]."""
        if self.discrete:
            return np.full(leading, NO_ACTION, np.int64)
        return np.zeros((*leading, *self.shape), np.float32)


@dataclass(frozen=True)
class EnvSpec:
    """What an agent needs to know of an environment.

    `max_episode_steps` is 0 where the environment states no limit.
    """

    id: str
    kwargs: Mapping[str, object]
    observation: Mapping[str, ArraySpec]
    action: ActionSpec
    max_episode_steps: int = 0

    @property
    def has_images(self) -> bool:
        """Whether an observation has an image in it, which is worth convolutions."""
        return any(spec.image for spec in self.observation.values())


@dataclass(frozen=True)
class Buffers:
    """Bytes that never change, each under a number that never means other bytes.

    What holds much puts such an object into its `state_dict`, under any key: who writes states to
    disk need write each buffer only once.

    Args:
        numbers: [n] int64, rising.
        arrays: n arrays uint8 [bytes], read-only.
    """

    numbers: Array
    arrays: Sequence[Array]


@dataclass(frozen=True)
class VectorStep:
    """One step of E environments.

    `observation` [E, ...] follows the step; where an episode ended it is the *closing* observation,
    never the next episode's first. `valid` is False where the environment used the step to reset
    itself (Gymnasium's NEXT_STEP): nothing happened there, and `observation` is the first of the
    new episode. `faults` maps an environment's number to what was wrong with what it gave, or with
    the environment itself; it must be restarted. Those in `bystanders` only shared a process with
    another.
    """

    observation: Observation
    reward: Array  # [E] float32
    terminated: Array  # [E] bool: the episode is over, nothing follows
    truncated: Array  # [E] bool: cut off by a limit; the closing observation has a value
    valid: Array  # [E] bool
    faults: Mapping[int, str]
    bystanders: Set[int] = frozenset()
