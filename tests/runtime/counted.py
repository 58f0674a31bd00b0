"""An environment whose steps are counted by itself, process by process, whatever becomes of them.

Where RECOLLECT_TEST_STEPS names a folder, the file `PID` there is the number of steps really taken.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from recollect.envs.memory import PositionCartPole

ID = "tests.runtime.counted:tests/CountedCartPole-v0"
FOLDER = "RECOLLECT_TEST_STEPS"
_counts: dict[int, np.ndarray] = {}


def _count() -> np.ndarray:
    """[1] int64, in this process's own file: it outlives the process."""
    pid = os.getpid()
    if pid not in _counts:
        folder = os.environ.get(FOLDER)
        if folder is None:
            _counts[pid] = np.zeros(1, np.int64)
            return _counts[pid]
        path = Path(folder) / str(pid)
        if not path.exists():
            path.write_bytes(bytes(8))
        with open(path, "r+b") as file:
            _counts[pid] = np.frombuffer(mmap.mmap(file.fileno(), 8), np.int64)
    return _counts[pid]


def steps_taken(folder: Path) -> dict[int, int]:
    """By process."""
    return {
        int(path.name): int(np.frombuffer(path.read_bytes(), np.int64)[0])
        for path in folder.iterdir()
    }


class CountedCartPole(PositionCartPole):
    """Counts its steps."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        found = super().step(action)
        _count()[0] += 1
        return found


gymnasium.register("tests/CountedCartPole-v0", entry_point=CountedCartPole, max_episode_steps=500)
