"""The generators everybody in a process shares."""

from __future__ import annotations

import random

import numpy as np
import torch

from recollect.run.checkpoint import digest
from recollect.runtime import randomness


def drawn() -> list[float]:
    """Odd numbers of normal ones: half of a pair stays behind."""
    normal = [random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(()))]
    return [*normal, random.random(), float(np.random.random()), float(torch.rand(()))]


def test_inside_a_seed_decides_and_outside_nothing_has_happened() -> None:
    with randomness.seeded(7):
        drawn()
        before = digest(randomness.state_dict())
        inside = []
        for seed in (1, 2, 1):
            with randomness.seeded(seed):
                inside.append(drawn())
        assert digest(randomness.state_dict()) == before
    assert inside[0] == inside[2]
    assert not set(inside[0]) & set(inside[1])


def test_a_state_is_a_snapshot_and_leads_to_the_same_numbers() -> None:
    with randomness.seeded(7):
        drawn()
        state = randomness.state_dict()
        before, wanted = digest(state), drawn()
        assert digest(state) == before
        randomness.load_state_dict(state)
        assert drawn() == wanted
        assert digest(state) == before
