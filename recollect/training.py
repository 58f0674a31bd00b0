"""Training: from a name and an environment to a run folder with an agent that has learned."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recollect import presets
from recollect.agents import wiring
from recollect.envs import registry
from recollect.run.folder import RunFolder, default_run_dir
from recollect.run.machine import free_memory, one_thread
from recollect.run.progress import Progress, size
from recollect.types import ConfigError, DivergedError, EnvError, EnvSpec, NotFiniteError

RUNTIMES = ("inline",)
FINAL_EPISODES = 20
ROWS_PER_RUN = 200
MOST_STEPS_PER_ROW = 50_000
SECONDS_PER_LOOK = 5.0
"""Between two looks at a run whose rows are further apart."""


@dataclass(frozen=True)
class Job:
    """A training that has been checked and not begun. `config` is the agent's own dataclass."""

    agent: str
    env: EnvSpec
    preset: str
    config: Any
    seed: int
    env_steps: int
    runtime: str = "inline"
    network: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What config.json holds: enough to build the same job again."""
        return {
            "agent": self.agent,
            "env": {"id": self.env.id, "kwargs": dict(self.env.kwargs)},
            "preset": self.preset,
            "seed": self.seed,
            "env_steps": self.env_steps,
            "runtime": self.runtime,
            "network": self.network,
            "config": asdict(self.config),
        }


@dataclass(frozen=True)
class Run:
    """A training that has ended: its folder and the greedy evaluation at its end.

    `return_mean` is NaN if the environment gave what is not finite in that evaluation, and `fault`
    says so. `mid_episode_share` is that of the learned windows which start in mid-episode.
    `dropped_episodes` were dropped in training for such a fault. `best_mean` is of the best
    parameters evaluated meanwhile, None if none were.
    """

    folder: Path
    return_mean: float
    env_steps: int
    updates: int
    seconds: float
    mid_episode_share: float
    dropped_episodes: int = 0
    fault: str = ""
    best_mean: float | None = None


def prepare(
    agent: str,
    *,
    env: str,
    env_kwargs: dict[str, Any] | None = None,
    preset: str = "auto",
    seed: int = 0,
    env_steps: int | None = None,
    runtime: str = "inline",
    network: str = "",
    config: Any = None,
    settings: dict[str, Any] | None = None,
) -> Job:
    """Check everything that can be checked without building anything, and without torch.

    Args:
        agent: r2d2 or drqn. env: a Gymnasium id, `module:Env-v0` included.
        preset: auto, paper or small. seed: 0 or more, below 2^64.
        env_steps: steps of all slots together; None: the preset's.
        network: "module:name" of a network of your own; empty: the agent's.
        config: a whole config instead of the preset's. settings: fields to replace in it.
    Raises:
        ConfigError: anything unknown or contradictory, in one line.
    """
    presets.agent(agent)
    if not isinstance(env, str):
        raise ConfigError(
            f"env must be the id of a registered environment, such as 'CartPole-v1', got "
            f"{type(env).__name__}: register yours (docs/own_environment.md) and give its id"
        )
    if env_steps is not None and env_steps < 1:
        raise ConfigError(f"env_steps must be 1 or more, got {env_steps}")
    env_spec = registry.env_spec(env, env_kwargs)
    wiring.check_actions(env_spec)
    base, steps = presets.resolve(agent, preset, env_spec, env_steps)
    chosen = presets.with_settings(base if config is None else config, settings or {})
    if runtime == "ray":
        raise ConfigError("runtime ray is not available in this version: use inline")
    if runtime not in RUNTIMES:
        raise presets.nearest("runtime", runtime, RUNTIMES)
    if network:
        wiring.check_network(network)
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be 0 or more and below 2^64, got {seed}")
    return Job(agent, env_spec, preset, chosen, seed, steps, runtime, network)


def train(
    agent: str,
    *,
    env: str,
    env_kwargs: dict[str, Any] | None = None,
    preset: str = "auto",
    seed: int = 0,
    env_steps: int | None = None,
    run_dir: str | Path | None = None,
    network: str = "",
    verbose: bool = False,
    **settings: Any,
) -> Run:
    """Train an agent and return its run; see `prepare` for the arguments.

    Args:
        run_dir: the folder to make; None: a new one below `runs/`.
        verbose: print progress. settings: fields of the agent's config.
    """
    job = prepare(
        agent,
        env=env,
        env_kwargs=env_kwargs,
        preset=preset,
        seed=seed,
        env_steps=env_steps,
        network=network,
        settings=settings,
    )
    return execute(job, run_dir, verbose=verbose)


def execute(job: Job, run_dir: str | Path | None = None, *, verbose: bool = True) -> Run:
    """Run a job to its end in a new folder.

    Raises:
        ConfigError: the folder holds something, or replay cannot fit in memory.
        KeyboardInterrupt, EnvError, DivergedError: interrupted, an environment failed, learning
            diverged; after the last parameters, status and curve are written.
    """
    path = Path(run_dir) if run_dir else default_run_dir(job.agent, job.env.id, job.seed)
    RunFolder(path).refuse_if_taken()  # before torch is loaded
    with one_thread():
        return _execute(job, path, verbose)


def _execute(job: Job, path: Path, verbose: bool) -> Run:
    from recollect.agents.learning import named_arrays
    from recollect.run import checkpoint, curves
    from recollect.run.metrics import MetricsLog
    from recollect.runtime.inline import Inline

    program = presets.agent(job.agent).program(job.config, job.env, job.seed, job.network)
    need = _check_memory(job, program.replay_bytes)
    folder = RunFolder.create(path, job.as_dict())
    title = f"{job.agent} on {job.env.id}, seed {job.seed}"
    started = time.perf_counter()
    best: tuple[float, Any] | None = None  # mean return and parameters, as the evaluator has them
    return_mean, fault = float("nan"), ""
    stopped: BaseException | None = None
    with (
        MetricsLog(folder) as log,
        Progress(job.env_steps, title, quiet=not verbose) as progress,
        progress.warnings(),
    ):
        for line in presets.differences(job.agent, job.config, job.env):
            progress.note(line)
        progress.line(need)
        _warn_if_nothing_can_be_learned(job)
        runtime = Inline(program)
        policy = program.policy()

        def keep(name: str, vector: np.ndarray, version: int, score: float | None) -> None:
            policy.load(vector)
            meta = {"env_steps": runtime.counts()["env_steps"], "updates": version, "score": score}
            checkpoint.save(folder.checkpoints, name, named_arrays(policy.network), meta)

        period = min(max(1, job.env_steps // ROWS_PER_RUN), MOST_STEPS_PER_ROW)
        next_row = period
        try:
            while True:
                runtime.run(_until(min(next_row, job.env_steps), runtime, progress, started))
                row = _row(runtime, started)
                log.write(row)
                progress.update(row)
                evaluator = runtime.parts.get("evaluator")
                found = evaluator.best() if evaluator is not None else None
                if found is not None and (best is None or found[1].version != best[1].version):
                    best = found
                    keep("best", found[1].vector, found[1].version.updates, found[0])
                if row["env_steps"] >= job.env_steps:
                    break
                next_row = int(row["env_steps"]) // period * period + period
        except (KeyboardInterrupt, DivergedError, EnvError) as error:
            stopped = error
        runtime.parts["learner"].publish()
        latest = runtime.parts["parameters"].latest()
        keep("last", latest.vector, latest.version.updates, None)
        if stopped is None:
            return_mean, fault = _final_evaluation(job, policy)
        row = _row(runtime, started)
        if not np.isnan(return_mean):
            row |= {"final/return_mean": return_mean, "final/episodes": FINAL_EPISODES}
        log.write(row)
        runtime.close()
    folder.write_status({"state": _state(stopped), "env_steps": row["env_steps"]})
    curves.draw([folder.path], folder.curve)
    if stopped is not None:
        raise stopped
    return Run(
        folder.path,
        return_mean,
        int(row["env_steps"]),
        int(row["updates"]),
        float(row["seconds"]),
        row["run/learned_windows_mid_episode"] / max(1, row["run/learned_windows"]),
        int(row["run/dropped_episodes"]),
        fault,
        best[0] if best else None,
    )


def _state(stopped: BaseException | None) -> str:
    """What status.json says of how a run ended."""
    if stopped is None:
        return "finished"
    return "interrupted" if isinstance(stopped, KeyboardInterrupt) else f"failed: {stopped}"


def _until(
    env_steps: int, runtime: Any, progress: Progress, started: float
) -> Callable[[Mapping[str, int]], bool]:
    """Whether so many steps are taken; until then it shows how the run stands, now and then."""
    shown = time.perf_counter()

    def reached(counts: Mapping[str, int]) -> bool:
        nonlocal shown
        now = time.perf_counter()
        if now - shown > SECONDS_PER_LOOK:
            shown = now
            replay = runtime.parts["replay"].metrics()
            progress.update(
                {
                    "env_steps": counts["env_steps"],
                    "updates": counts["updates"],
                    "seconds": now - started,
                    "replay/fill": replay["fill"],
                    "replay/bytes": replay["bytes"],
                }
            )
        return counts["env_steps"] >= env_steps

    return reached


def _check_memory(job: Job, need: int) -> str:
    """One line on what replay needs; ConfigError if the machine has less than that free."""
    free = free_memory()
    asked = f"{job.config.replay_steps:,} steps"
    if job.config.replay_bytes:
        asked = f"{job.config.replay_bytes:,} bytes"
    if free is not None and need > free:
        raise ConfigError(
            f"replay of {asked} needs {need / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: "
            "lower replay_steps, or set replay_bytes"
        )
    if job.config.replay_bytes:
        return f"replay: at most {size(need)}"
    return f"replay: {asked} need {size(need)}, more where episodes are short"


def _row(runtime: Any, started: float) -> dict[str, float]:
    counts = runtime.counts()
    seconds = time.perf_counter() - started
    return {
        "env_steps": counts["env_steps"],
        "updates": counts["updates"],
        "seconds": seconds,
        **{f"run/{name}": value for name, value in counts.items()},
        **runtime.metrics(),
    }


def _final_evaluation(job: Job, policy: Any) -> tuple[float, str]:
    """Mean return of greedy episodes with the last parameters, which `policy` must hold.

    NaN and the reason, if the environment gave what is not finite.
    """
    from recollect.agents.evaluating import evaluate_on

    try:
        played = evaluate_on(job.env, policy, FINAL_EPISODES, job.seed)
    except NotFiniteError as fault:
        return float("nan"), f"the final evaluation failed: {fault}"
    return float(played.returns.mean()), ""


def _warn_if_nothing_can_be_learned(job: Job) -> None:
    least = job.config.min_replay_steps
    if job.env_steps <= least:
        warnings.warn(
            f"nothing will be learned: the run ends after {job.env_steps:,} environment steps and "
            f"learning begins after {least:,}: raise env_steps, or lower min_replay_steps",
            RuntimeWarning,
            stacklevel=2,
        )
