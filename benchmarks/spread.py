"""The same training inline and on Ray: wall time, and processor time of the whole process tree.

R2D2 on Pong with the paper's network, lengths and replay ratio, as its preset fits them to the
machine, without evaluations: as many environment steps, and as many updates to within one batch.
A whole run each time, from starting Python to having saved and ended: Ray's own start and its parts
loading torch count. Processor time is that of every process of the tree, read every quarter second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import Result
from benchmarks.processes import processor_seconds

ENV, ENV_STEPS = "ALE/Pong-v5", 120_000
SETTINGS: dict[str, Any] = {
    "evaluation_period": 0,
    "min_replay_steps": 4_000,
    "replay_steps": 100_000,
}
LOOK_SECONDS = 0.25


def train(runtime: str, folder: Path, settings: Mapping[str, Any]) -> None:
    """Train, without the evaluation at the end; the figures to `figures.json`."""
    from recollect import presets, training
    from recollect.agents import computing
    from recollect.machine import keep_memory, threads
    from recollect.run.folder import RunFolder
    from recollect.run.progress import Progress
    from recollect.run.signals import Stop
    from recollect.training.loop import Training

    given = {**SETTINGS, **settings}
    env, steps = given.pop("env", ENV), given.pop("env_steps", ENV_STEPS)
    place = given.pop("place", "") if runtime == "ray" else ""
    job = training.prepare(
        "r2d2", env=env, env_steps=steps, runtime=runtime, place=place, settings=given
    )
    program = presets.agent("r2d2").program(job.config, job.env, job.seed, "")
    run = RunFolder.create(folder, job.as_dict())
    if job.env.has_images:
        keep_memory()
    begun = time.perf_counter()
    quiet = Progress(job.env_steps, "", quiet=True)
    with threads(computing.threads(job.config.threads, job.env)), quiet as progress, Stop() as stop:
        at = Training(job, run, program, progress, stop, None, None)
        started = time.perf_counter()
        at.to_the_end()
        ended = time.perf_counter()
        counts = at._runtime.counts()
        at.close()
    figures = {
        "start_seconds": started - begun,
        "seconds": ended - started,
        "updates": counts["updates"],
        "env_steps": counts["env_steps"],
    }
    (folder / "figures.json").write_text(json.dumps(figures))


def measured(runtime: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A training in a process of its own: its figures, wall and processor seconds."""
    from recollect.runtime import sockets

    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "run"
        words = [sys.executable, "-m", "benchmarks.spread", runtime, str(folder)]
        begun = time.perf_counter()
        process = subprocess.Popen([*words, json.dumps(dict(settings))])
        seconds: dict[int, float] = {}
        names: dict[int, str] = {}
        while process.poll() is None:
            for pid in sockets.tree(process.pid):
                _read(pid, seconds, names)
            time.sleep(LOOK_SECONDS)
        wall = time.perf_counter() - begun
        if process.returncode:
            raise RuntimeError(f"the training on {runtime} ended with {process.returncode}")
        kinds: dict[str, float] = defaultdict(float)
        for pid, spent in seconds.items():
            kinds[names[pid]] += spent
        figures: dict[str, Any] = json.loads((folder / "figures.json").read_text())
        return {**figures, "wall": wall, "processor": sum(seconds.values()), "kinds": dict(kinds)}


def _read(pid: int, seconds: dict[int, float], names: dict[int, str]) -> None:
    """A process's processor time so far, and what it is."""
    spent = processor_seconds(pid)
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return
    if spent is None:  # it has ended
        return
    seconds[pid] = spent
    part = words.startswith("ray::")
    daemon = "/ray/" in words or words.startswith("ray")
    names[pid] = "parts" if part else "Ray's own" if daemon else "driver"


def run() -> Iterator[Result]:
    """Inline, then on Ray."""
    inline = measured("inline", {})
    ray = measured("ray", {})
    for runtime, found in (("inline", inline), ("ray", ray)):
        yield Result(f"{runtime}: environment steps", found["env_steps"], "")
        yield Result(f"{runtime}: updates", found["updates"], "")
        yield Result(f"{runtime}: start", found["start_seconds"], "seconds")
    for name in ("wall", "processor", "seconds"):
        what = "turns alone, wall time" if name == "seconds" else f"whole run, {name} time"
        yield Result(f"inline: {what}", inline[name], "seconds")
        ratio = ray[name] / inline[name]
        yield Result(f"ray: {what}", ray[name], "seconds", "inline", ratio)
    for kind, seconds in sorted(ray["kinds"].items()):
        yield Result(f"ray: processor time of {kind}", seconds, "seconds")


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
