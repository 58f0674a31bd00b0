"""What an environment is doing now, as somebody else sees it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from recollect.envs import calls
from recollect.envs.slots import Slots
from recollect.envs.vector import VectorEnv
from tests.envs import faulty


class Watched(faulty.Faulty):
    """Notes what is said of it from inside its calls."""

    said: list = []  # noqa: RUF012

    def _look(self):
        began, text = calls.current()
        assert 0 <= time.monotonic() - began < 5
        Watched.said.append(text)

    def __init__(self, how=""):
        self._look()
        super().__init__(how)

    def reset(self, **kwargs):
        self._look()
        return super().reset(**kwargs)

    def step(self, action):
        self._look()
        return super().step(action)

    def close(self):
        self._look()


def test_every_call_is_told_with_slot_step_and_episode():
    Watched.said = []
    env = VectorEnv(Slots(lambda: Watched("raises"), "W-v0", 2), "W-v0")
    env.reset(np.array([1, 7]))
    for _ in range(3):
        env.step(np.zeros(2, int))
        assert calls.current() is None
    env.restart(np.array([False, True]), np.array([1, 2]))
    env.step(np.zeros(2, int))
    state = env.state_dict()
    env.load_state_dict(state)
    env.close()
    assert calls.current() is None
    name = "environment W-v0, slot "
    assert Watched.said == [
        f"{name}{what}"
        for what in (
            *("0: construction", "1: construction"),
            *("0: reset for episode 1", "1: reset for episode 1"),
            *("0: step 1 of episode 1", "1: step 1 of episode 1"),
            *("0: step 2 of episode 1", "1: step 2 of episode 1"),
            *("0: step 3 of episode 1", "1: step 3 of episode 1"),
            *("1: close", "1: construction", "1: reset for episode 2"),
            *("0: step 4 of episode 1", "1: step 1 of episode 2"),
            *("0: reset for episode 2", *["0: replay"] * 4),
            *("1: reset for episode 3", "1: replay"),
            *("0: close", "1: close"),
        )
    ]


def test_an_interrupt_leaves_nothing_behind():
    class Stop(faulty.Faulty):
        def step(self, action):
            raise KeyboardInterrupt

    env = VectorEnv(Slots(Stop, "S-v0", 1), "S-v0")
    env.reset(np.zeros(1, int))
    with pytest.raises(KeyboardInterrupt):
        env.step(np.zeros(1, int))
    assert calls.current() is None
