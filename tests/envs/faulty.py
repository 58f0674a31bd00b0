"""Environments that misbehave on request, under ids that environment processes can import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

ID = "tests.envs.faulty:tests/Faulty-v0"
LAST = 5


class Faulty(gym.Env):
    """Observes (seed, step); an episode has `LAST` steps; does `how` in `verb` where seeded 7.

    In a step it does so at the third. `path` is a file that gets the pids of what it starts.
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, how: str = "", verb: str = "step", path: str = "") -> None:
        self.how, self.verb, self.path = how, verb, path
        self.seed = self.t = 0
        if verb == "construction":
            self._misbehave()

    def _misbehave(self):
        how = self.how
        if how == "raises":
            raise OSError("the engine\nstopped")
        if how == "interrupts":
            raise KeyboardInterrupt
        if how == "sys.exit":
            sys.exit(3)
        if how == "os._exit":
            os._exit(3)
        if how == "segfaults":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "hangs":
            child = subprocess.Popen(["sleep", "600"])
            if self.path:
                with open(self.path, "a") as file:
                    file.write(f"{child.pid}\n")
            time.sleep(600)
        if how == "prints":
            print('{"made": false}\n' * 3, flush=True)
        values = {"nan": np.nan, "inf": -np.inf}
        return {
            "shape": np.zeros(3, np.float32),
            "dtype": np.zeros(2, np.complex64),
        }.get(how, np.array([values.get(how, self.seed), self.t], np.float32))

    def _seen(self, verb):
        if self.seed == 7 and self.verb == verb and (verb == "reset" or self.t == 3):
            return self._misbehave()
        return np.array([self.seed, self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t = seed, 0
        return self._seen("reset"), {}

    def step(self, action):
        self.t += 1
        return self._seen("step"), float(action), self.t == LAST, False, {}


class Odd(gym.Env):
    """Gives back what it is told to, as `what`, in the second step."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(0, 9, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, what: dict | None = None) -> None:
        self.what, self.t = what or {}, 0

    def reset(self, *, seed=None, options=None):
        self.t = 0
        if "reset" in self.what:
            return self.what["reset"]
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        given = {
            "observation": np.zeros(2, np.float32),
            "reward": 0.0,
            "terminated": False,
            "truncated": False,
            "info": {},
        }
        if self.t == 2:
            given |= self.what
        return tuple(given.values()) if self.t < 2 or "cut" not in self.what else (1, 2, 3)


class Wild(gym.Env):
    """Draws from the global generator, so that nothing comes twice."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, what: str = "observation") -> None:
        self.what, self.t = what, 0

    def _drawn(self, what: str) -> float:
        return np.random.random() if self.what == what else 0.5

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        shown = np.array([self._drawn("observation")], np.float32)
        early = self.t == 4 and ENDS_EARLY[0]
        ends, cut = early and self.what == "end", early and self.what == "cut"
        return shown, self._drawn("reward"), ends, cut, {}


ENDS_EARLY = [False]


class Reach(gym.Env):
    """A Box of actions it writes into and a nested observation of what it was pushed to."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Dict(
        {
            "x": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "in": spaces.Tuple([spaces.Discrete(4), spaces.Box(0, 255, (2, 2), np.uint8)]),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def _seen(self):
        return {
            "x": self.x.copy(),
            "in": (self.t % 4, np.full((2, 2), self.t % 256, np.uint8)),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(size=2), 0
        return self._seen(), {}

    def step(self, action):
        self.x += action
        action *= 0  # as some do
        self.x += self.np_random.normal(size=2)
        self.t += 1
        return self._seen(), float(self.x.sum() / 3), bool(abs(self.x[0]) > 4), self.t >= 50, {}


class Slow(Faulty):
    """Takes 0.1 s a step, and ends late."""

    def step(self, action):
        time.sleep(0.1)
        return *super().step(action)[:2], False, False, {}


for kind in (Faulty, Odd, Wild, Reach, Slow):
    gym.register(f"tests/{kind.__name__}-v0", entry_point=kind)
