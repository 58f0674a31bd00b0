"""Processor seconds until a task is learned: the first 20 greedy episodes above a bound.

Each seed runs in a process of its own, on one thread; the clock starts when the parts are built and
counts everything, evaluations included. Reported: the median of three seeds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import Result

SEEDS = (1, 2, 3)
TASKS: tuple[tuple[str, str, dict[str, object], float, int, int], ...] = (
    # name, environment, arguments, bound, limit in environment steps, evaluation period in updates
    ("PositionCartPole to 450", "recollect/PositionCartPole-v0", {}, 450.0, 150_000, 100),
    ("Recall delay 20 to 0.95", "recollect/Recall-v0", {"delay": 20}, 0.95, 60_000, 50),
)
PLAIN = {"PositionCartPole to 450": 42.5, "Recall delay 20 to 0.95": 2.0}
"""Processor seconds of a plain PyTorch R2D2 of about 300 lines, measured on one core."""


def one(
    env: str, kwargs: dict[str, object], seed: int, bound: float, limit: int, period: int
) -> dict[str, float]:
    """Train until the bound is reached; processor seconds, environment steps and updates."""
    import time

    import torch

    from recollect import presets, training
    from recollect.runtime.inline import Inline

    torch.set_num_threads(1)
    job = training.prepare(
        "r2d2",
        env=env,
        env_kwargs=kwargs,
        seed=seed,
        settings={"evaluation_period": period, "evaluation_episodes": 20},
    )
    runtime = Inline(presets.agent("r2d2").program(job.config, job.env, job.seed))
    evaluator = runtime.parts["evaluator"]
    start = time.process_time()

    def finished(counts: dict[str, int]) -> bool:
        best = evaluator.best()
        return counts["env_steps"] >= limit or (best is not None and best[0] >= bound)

    runtime.run(finished)
    counts = runtime.counts()
    best = evaluator.best()
    return {
        "seconds": time.process_time() - start,
        "env_steps": counts["env_steps"],
        "updates": counts["updates"],
        "reached": best is not None and best[0] >= bound,
    }


def run() -> Iterator[Result]:
    """Both tasks, three seeds each."""
    for name, env, kwargs, bound, limit, period in TASKS:
        found = []
        for seed in SEEDS:
            arguments = (env, kwargs, seed, bound, limit, period)
            call = f"import json, benchmarks.learn as b; print(json.dumps(b.one(*{arguments!r})))"
            out = subprocess.run(
                [sys.executable, "-c", call],
                check=True,
                capture_output=True,
                text=True,
                env=os.environ,
            ).stdout
            found.append(json.loads(out.splitlines()[-1]))
        reached = [f for f in found if f["reached"]]
        seconds = statistics.median([f["seconds"] if f["reached"] else float("inf") for f in found])
        yield Result(
            f"{name}: processor time", seconds, "seconds", "a plain R2D2", seconds / PLAIN[name]
        )
        yield Result(f"{name}: seeds that reached it", len(reached), f"of {len(SEEDS)}")
        if reached:
            steps = statistics.median([f["env_steps"] for f in reached])
            yield Result(f"{name}: environment steps", steps, "steps")
