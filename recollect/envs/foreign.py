"""What vector environments made elsewhere do differently from one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from recollect.types import Array, ConfigError, EnvError, Observation

AnyVector = gym.vector.VectorEnv[Any, Any, Any]


def gymnasiums_own(env: AnyVector) -> bool:
    """Whether this is one of Gymnasium's two general vectors, which follow reset masks."""
    return isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv))


def reset_mode(
    env: AnyVector, env_id: str, masked_reset: bool | None
) -> tuple[AutoresetMode, bool]:
    """The auto-reset mode, and whether single slots can be reset.

    Args:
        env: the vector environment.
        env_id: to name.
        masked_reset: what the caller says of the second; None is found out as far as possible.
    Raises:
        ConfigError: the mode is unstated, or cannot work.
    """
    stated = env.metadata.get("autoreset_mode")
    try:
        mode = AutoresetMode(stated)
    except ValueError:
        raise ConfigError(
            f"{env_id}: metadata['autoreset_mode'] is {stated!r}, one of "
            f"{', '.join(mode.name for mode in AutoresetMode)} was wanted: set it on the vector "
            "environment to what it does"
        ) from None
    if masked_reset is None:
        masked_reset = gymnasiums_own(env) or mode is AutoresetMode.DISABLED
    if mode is AutoresetMode.DISABLED and not masked_reset:
        raise ConfigError(
            f"{env_id}: auto-reset is disabled and single slots cannot be reset, so no second "
            "episode could begin: give it an auto-reset mode, or support options['reset_mask']"
        )
    base = env.unwrapped
    if (
        isinstance(base, AsyncVectorEnv)
        and mode is AutoresetMode.NEXT_STEP
        and not base.shared_memory
    ):
        # Its workers clear the pending auto-reset only where memory is shared (seen in 1.4):
        # a reset by us would be followed by a second one of theirs.
        raise ConfigError(
            f"{env_id}: AsyncVectorEnv with shared_memory=False resets twice in NEXT_STEP "
            "mode: share its memory, or choose autoreset_mode DISABLED or SAME_STEP"
        )
    return mode, masked_reset


def reset_all(env: AnyVector, seeds: Array) -> Any:
    """The first observations, seeded in whatever form this environment takes a seed."""
    # What a vector environment takes as a seed is not agreed on: a list, an array, one number.
    forms: list[Any] = [seeds.tolist(), seeds, int(seeds[0])]
    for form in forms[:-1]:
        try:
            return env.reset(seed=form)[0]
        except (TypeError, ValueError, AssertionError, gym.error.Error):
            continue
    return env.reset(seed=forms[-1])[0]


def one_each(env_id: str, slots: int, values: Any, dtype: Any, name: str) -> Array:
    """A copy [slots] of what a step gave for each slot.

    Raises:
        EnvError: it has another shape.
    """
    with np.errstate(over="ignore"):  # what does not fit float32 is inf, and a fault
        array = np.array(values, dtype)
    if array.shape != (slots,):
        raise EnvError(
            f"environment {env_id}: {name} has shape {array.shape}, ({slots},) was wanted: one for "
            "each slot"
        )
    return array


def closing(
    env: AnyVector, env_id: str, info: Mapping[str, Any], slots: list[int]
) -> tuple[Any, bool]:
    """A batch with the closing observations of `slots` from SAME_STEP's info.

    Returns:
        It, and whether it has a row for every slot instead of those alone.
    Raises:
        EnvError: they are not there.
    """
    final = info.get("final_obs")
    if final is None:
        raise EnvError(
            f"environment {env_id}: slots {slots} ended in SAME_STEP mode without "
            "info['final_obs'], where their closing observations should be: return it there"
        )
    if not (isinstance(final, np.ndarray) and final.dtype == object):
        return final, True
    space = env.single_observation_space
    empty: Any = create_empty_array(space, len(slots))
    return concatenate(space, [final[slot] for slot in slots], empty), False


def prove_the_mask(
    env_id: str, before: Observation, after: Observation, mask: Array, others: Array
) -> None:
    """See that a reset of the slots in `mask` [E] changed none of the `others` [E].

    Raises:
        EnvError: it did.
    """
    for key, array in before.items():
        if not np.array_equal(array[others], after[key][others], equal_nan=True):
            raise EnvError(
                f"environment {env_id}: a reset of slots {np.flatnonzero(mask).tolist()} alone "
                f"changed observation {key!r} of others: it does not follow "
                "options['reset_mask'], so wrap it with masked_reset=False"
            )
