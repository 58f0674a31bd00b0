"""An environment that misbehaves a few times in a run, under an id that any process can import."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

ID = "tests.cli.moody:tests/Moody-v0"
KINDS = ("raises", "sys.exit", "os._exit", "segfaults", "hangs", "nan", "inf", "shape", "dtype")
DEADLY = ("os._exit", "segfaults", "hangs")
"""What ends a process, or keeps it for ever."""


class Moody(gymnasium.Env):
    """Observes (step, seed % 97), pays the step's number, ends after 12 steps.

    Args:
        how: what it does wrong, of `KINDS`. verb: in "reset", or in "step", at the third.
        marks: a file with a letter for each time that it did so. times: how often it does.
        wait: a folder in which there must be a last checkpoint first; "": it does so at once.
    """

    observation_space = gymnasium.spaces.Box(-1e3, 1e3, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(
        self, how: str = "", verb: str = "step", marks: str = "", times: int = 2, wait: str = ""
    ) -> None:
        self.how, self.verb, self.times, self.wait = how, verb, times, wait
        self.marks = Path(marks)
        self.t = self.key = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.key = 0, (seed or 0) % 97
        return self._seen("reset"), {}

    def step(self, action: int) -> Any:
        self.t += 1
        return self._seen("step"), float(self.t), self.t == 12, False, {}

    def _seen(self, verb: str) -> Any:
        if self.how and self.verb == verb and self.key % 3 == 0 and self.t in (0, 3):
            ready = not self.wait or any(Path(self.wait).glob("last-*"))
            if ready and (not self.marks.exists() or self.marks.stat().st_size < self.times):
                with self.marks.open("a") as file:
                    file.write("x")
                return self._misbehave()
        return np.array([self.t, self.key], np.float32)

    def _misbehave(self) -> Any:
        if self.how == "raises":
            raise OSError("the engine\nstopped")
        if self.how == "sys.exit":
            sys.exit(3)
        if self.how == "os._exit":
            os._exit(3)
        if self.how == "segfaults":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.how == "hangs":
            time.sleep(600)
        return {
            "nan": np.array([np.nan, 0], np.float32),
            "inf": np.array([0, -np.inf], np.float32),
            "shape": np.zeros(7, np.float32),
            "dtype": np.zeros(2, np.complex64),
        }[self.how]


gymnasium.register("tests/Moody-v0", entry_point=Moody)
