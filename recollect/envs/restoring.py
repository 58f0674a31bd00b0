"""Saved states of environments: checked, for anybody may have written them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recollect.types import Array, ArraySpec, Observation


@dataclass(frozen=True)
class Saved:
    """What was saved of any vector of environments, in arrays of its own."""

    failures: int
    observation: Observation | None  # None before the first reset
    ended: Array  # [E] bool


def saved_vector(state: Mapping[str, Any], num_envs: int, specs: Mapping[str, ArraySpec]) -> Saved:
    """The state of `num_envs` environments with observations like `specs`.

    Raises:
        ValueError: it is not one.
    """
    count, failures, started = (state.get(key) for key in ("num_envs", "failures", "started"))
    if type(count) is not int or count != num_envs:
        raise ValueError(f"saved environments have {count!r} slots, {num_envs} were wanted")
    if type(failures) is not int or failures < 0 or type(started) is not bool:
        raise ValueError(
            f"saved environments have failures {failures!r} and started {started!r}, a number from "
            "0 and True or False were wanted"
        )
    if not started:
        return Saved(failures, None, np.zeros(num_envs, np.bool_))
    arrays = saved_dict(state, "observation")
    observation = {
        key: checked(arrays, key, spec.dtype, (num_envs, *spec.shape))
        for key, spec in specs.items()
    }
    return Saved(failures, observation, checked(state, "ended", np.bool_, (num_envs,)))


def saved_dict(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The dict saved as `name`.

    Raises:
        ValueError: there is none.
    """
    value = state.get(name)
    if not isinstance(value, Mapping):
        came = "is missing" if name not in state else f"is {type(value).__name__}"
        raise ValueError(f"saved {name!r} of environments {came}, a dict was wanted")
    return value


def checked(state: Mapping[str, Any], name: str, dtype: Any, shape: tuple[int, ...]) -> Array:
    """A copy of the saved array `name`.

    Raises:
        ValueError: it is missing, no array, or has another dtype or shape.
    """
    array = state.get(name)
    wanted = f"an array {np.dtype(dtype)} of shape {shape} was wanted"
    if not isinstance(array, np.ndarray):
        came = "is missing" if name not in state else f"is {type(array).__name__}"
        raise ValueError(f"saved {name!r} of environments {came}, {wanted}")
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"saved {name!r} of environments is {array.dtype} of shape {array.shape}, {wanted}"
        )
    return array.copy()
