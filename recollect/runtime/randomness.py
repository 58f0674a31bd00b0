"""The generators everybody in a process shares, as arrays and numbers.

recollect draws nothing from them: its numbers are counter-based. An environment or a network of a
user's may, and its runs are to be repeatable too.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from recollect import states
from recollect.maths import philox


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the generators draw what `seed` says; afterwards they go on where they were."""
    before = state_dict()
    word = int(philox.seeds(seed, philox.Purpose.INITIALISATION, 0, 0, 1))
    random.seed(word)
    np.random.seed(word % 2**32)
    torch.manual_seed(word)
    try:
        yield
    finally:
        load_state_dict(before)


def state_dict() -> dict[str, Any]:
    """Of Python's, numpy's and torch's generators."""
    version, words, gauss = random.getstate()
    kind, key, position, has_gauss, cached = np.random.get_state()
    assert (version, kind) == (3, "MT19937")
    return {
        "python": {"words": np.array(words, np.uint64), "gauss": gauss},
        "numpy": {
            "key": np.asarray(key, np.uint32).copy(),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state().numpy().copy(),
    }


def load_state_dict(state: Mapping[str, Any]) -> None:
    """Put the generators where they were; ValueError if the state is damaged."""
    like = state_dict()
    python, numpy = states.part(state, "python"), states.part(state, "numpy")
    words = states.array(python, "words", like["python"]["words"])
    gauss = states.member(python, "gauss")
    key = states.array(numpy, "key", like["numpy"]["key"])
    position, has_gauss = states.count(numpy, "position"), states.count(numpy, "has_gauss")
    cached = states.number(numpy, "cached")
    of_torch = torch.from_numpy(states.array(state, "torch", like["torch"]))
    try:
        gauss = None if gauss is None else states.number(python, "gauss")
        random.setstate((3, tuple(int(word) for word in words), gauss))
        np.random.set_state(("MT19937", key, position, has_gauss, cached))
        torch.set_rng_state(of_torch)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the state of a random generator is damaged: {error}") from error
