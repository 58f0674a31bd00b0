"""Saving a run that has 1 GB of replay, twice, a minute apart: seconds, bytes, and standstill.

Replay is filled directly with blocks of random steps; then the real training loop goes on for a
minute, on its real environment, and saves in the background at the minute's beginning and end.
Once with large blocks (images of 84 x 84, a tiny network) and once with small ones
(PositionCartPole as `small` learns it). The longest turn is what training stands still at most,
snapshot included.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import register

from benchmarks import Result
from benchmarks.filling import STEPS_OF_EPISODE, fill
from recollect.types import EnvSpec

REPLAY_BYTES = 1_000_000_000
SECONDS = 60.0
SECONDS_OF_STEP = 0.002  # or a minute would replace all images that are there


class Drift(gymnasium.Env[Any, Any]):
    """Images at random, from a stock of 256, each after the time that an emulator's frames take."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (84, 84), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(4)
        self._stock = np.random.default_rng(0).integers(0, 256, (256, 84, 84), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._stock[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        time.sleep(SECONDS_OF_STEP)
        image = self._stock[int(self.np_random.integers(256))]
        return image, 1.0, self._t == STEPS_OF_EPISODE, False, {}


register("benchmarks/Drift-v0", entry_point="benchmarks.saving:Drift")


class Tiny(torch.nn.Module):
    """A recurrent network that sees 49 pixels of an image."""

    state_size = 16

    def __init__(self, env_spec: EnvSpec, config: Any = None) -> None:
        super().__init__()
        self.seen = torch.nn.Linear(49, 16)
        self.core = torch.nn.Linear(16, 16)
        self.head = torch.nn.Linear(16, env_spec.action.num_actions)

    def forward(
        self,
        observation: dict[str, torch.Tensor],
        previous_action: torch.Tensor,
        previous_reward: torch.Tensor,
        recurrent_state: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = observation["observation"][:, :, ::12, ::12].flatten(2).float() / 255
        state, values = recurrent_state, []
        for now in self.seen(pixels):
            state = torch.tanh(now + self.core(state))
            values.append(self.head(state))
        return torch.stack(values), state


CASES: dict[str, dict[str, Any]] = {
    "images": {
        "env": "benchmarks.saving:benchmarks/Drift-v0",
        "network": "benchmarks.saving:Tiny",
        "settings": {"period": 20, "burn_in": 20, "trace_length": 20, "replay_ratio": 1.0},
    },
    "small blocks": {"env": "recollect/PositionCartPole-v0", "settings": {}},
}


def one(name: str, folder: Path) -> Iterator[Result]:
    """Two saves of one run, a minute apart."""
    from recollect import presets, training
    from recollect.run.folder import RunFolder
    from recollect.run.lock import RunLock
    from recollect.run.progress import Progress
    from recollect.run.signals import Interrupted, Stop
    from recollect.runtime.inline import Inline
    from recollect.training.loop import Training

    case = CASES[name]
    job = training.prepare(
        "r2d2",
        env=case["env"],
        env_steps=100_000_000,
        network=case.get("network", ""),
        preset="small",
        checkpoint_seconds=SECONDS,
        settings={
            "evaluation_period": 0,
            "replay_bytes": REPLAY_BYTES + REPLAY_BYTES,
            "min_replay_steps": 2_000,
            **case["settings"],
        },
    )
    program = presets.agent("r2d2").program(job.config, job.env, job.seed, job.network)
    with RunLock(folder), Progress(1, "", quiet=True) as progress:
        stop = Stop()
        run = RunFolder.create(folder, job.as_dict())
        at = Training(job, run, program, progress, stop, None, None)
        runtime = at._runtime
        assert isinstance(runtime, Inline)
        blocks = fill(runtime.parts["replay"], nbytes=REPLAY_BYTES)
        account, checkpoints = at._saves, at._saves._checkpoints
        account._begun = time.perf_counter()
        looks: list[tuple[float, bool]] = []
        saves: list[Any] = []
        finished = checkpoints.finished

        def heard() -> Any:
            saved = finished()
            if saved is not None:
                saves.append((saved, account.figures["standstill_seconds"], at._env_steps()))
                if len(saves) == 2:
                    stop.requested = "SIGTERM"
            return saved

        def look() -> bool:
            looks.append((time.perf_counter(), checkpoints.busy))
            if len(looks) == 200:  # what the first updates compile is not what is measured
                account._begun = -1e9
            return stop.requested is not None

        checkpoints.finished = heard  # type: ignore[method-assign]
        at._must_stop = look  # type: ignore[method-assign]
        with contextlib.suppress(Interrupted):
            at.to_the_end()
        checkpoints.finished = finished  # type: ignore[method-assign]
        at.close()
    times, busy = (np.array(column) for column in zip(*looks[150:], strict=True))
    gaps = np.diff(times)
    saving = busy[1:] | busy[:-1]  # the turn that begins a save, too
    starts = np.flatnonzero(saving[1:] & ~saving[:-1])
    for number, (saved, standstill, _) in enumerate(saves, start=1):
        which = f"{name}, save {number}"
        yield Result(f"{which}: seconds", saved.seconds, "seconds")
        yield Result(f"{which}: written", saved.bytes_written / 1e6, "MB")
        yield Result(f"{which}: snapshot", standstill, "seconds")
        later = np.arange(len(saving)) > starts[-1]
        chosen = saving & (later if number == 2 else ~later)
        yield Result(f"{which}: longest turn meanwhile", float(gaps[chosen].max()), "seconds")
        yield Result(f"{which}: mean turn meanwhile", float(gaps[chosen].mean()), "seconds")
    yield Result(f"{name}: longest turn without a save", float(gaps[~saving].max()), "seconds")
    yield Result(f"{name}: mean turn without a save", float(gaps[~saving].mean()), "seconds")
    yield Result(f"{name}: steps between the two", saves[1][2] - saves[0][2], "steps")
    yield Result(f"{name}: blocks filled in", blocks, "blocks")


def run() -> Iterator[Result]:
    """Both kinds of blocks."""
    torch.set_num_threads(1)
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            yield from one(name, Path(folder) / "run")
