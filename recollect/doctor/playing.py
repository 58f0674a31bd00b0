"""Playing a Gymnasium environment by itself, and writing down what it gives, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from recollect.doctor.sheet import Budget
from recollect.envs import registry
from recollect.types import EnvSpec

Env = gym.Env[Any, Any]


def make(spec: EnvSpec) -> Env:
    """The environment as its author has it, with Gymnasium's own wrappers only."""
    return registry.maker(spec.id, spec.kwargs)[1]()


def actions(env: Env, seed: int) -> Iterator[Any]:
    """Random actions without end, the same for the same seed."""
    env.action_space.seed(seed)
    while True:
        yield env.action_space.sample()


def play(env: Env, steps: int, seed: int, seconds: float, alive: Callable[[], None]) -> list[str]:
    """A word for each thing an environment gave; equal words were equal bits.

    The first episode is reset with `seed`, the next with `seed` + 1, and so on; actions are drawn
    from `seed`.
    """
    chosen = actions(env, seed)
    lived = [word(env.reset(seed=seed)[0])]
    for _ in Budget(steps, seconds, alive):
        observation, reward, terminated, truncated, _ = env.step(next(chosen))
        lived.append(word((observation, float(reward), bool(terminated), bool(truncated))))
        if terminated or truncated:
            seed += 1
            lived.append(word(env.reset(seed=seed)[0]))
    return lived


def word(value: Any) -> str:
    """A short word that stands for the bits of an observation or a step."""
    digest = hashlib.blake2b(digest_size=9)
    for piece in _leaves(value):
        digest.update(str((piece.dtype, piece.shape)).encode())
        digest.update(np.ascontiguousarray(piece).tobytes())
    return digest.hexdigest()


def difference(one: list[str], other: list[str]) -> int | None:
    """The first place where two lists differ, as far as both go; None if they agree."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return None


def arrays(value: Any) -> list[np.ndarray]:
    """The arrays in an observation, themselves, not copies."""
    return [leaf for leaf in _leaves(value) if isinstance(leaf, np.ndarray)]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key])
    elif isinstance(value, tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value if isinstance(value, np.ndarray) else np.asarray(value)
