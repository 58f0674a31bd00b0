"""The loop of a training: turns, rows of metrics, checkpoints, and how it stands."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recollect.agents.evaluating import InterruptedEvaluation, evaluate_on
from recollect.agents.learning import load_named_arrays, named_arrays
from recollect.envs import calls
from recollect.run import checkpoint
from recollect.run.checkpoint import Checkpoint, Checkpoints, Saved
from recollect.run.folder import RunFolder
from recollect.run.metrics import MetricsLog
from recollect.run.progress import Progress, size
from recollect.run.signals import Interrupted, Stop
from recollect.run.watchdog import Watchdog
from recollect.runtime.inline import Inline
from recollect.training.job import MAY_CHANGE, Job
from recollect.types import ConfigError, EnvError

ROWS_PER_RUN = 200
MOST_STEPS_PER_ROW = 50_000
SECONDS_PER_LOOK = 5.0
"""Between two looks at a run whose rows are further apart, and between two status files."""
CHECKPOINT_SECONDS = (10.0, 600.0)
"""Least and most between two checkpoints, where the run does not say how many."""
CHECKPOINT_SHARE = 0.02
"""Of the time, that writing checkpoints may take between these two."""


class Training:
    """A job at work in its folder.

    Args:
        job: what to do.
        folder: of the run; it must be ours alone.
        program: of the job.
        progress: where a person looks.
        stop: says when to stop.
        found: the checkpoint to go on from, verified; None: from the beginning.
    Raises:
        ConfigError: `found` was made by another job, or `start_from` has other parameters.
        CheckpointError: what is in `found` does not fit.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        program: Any,
        progress: Progress,
        stop: Stop,
        found: Checkpoint | None,
    ) -> None:
        self.job, self._folder, self._progress, self._stop = job, folder, progress, stop
        self._runtime = Inline(program)
        self._policy = program.policy()
        meta: Mapping[str, Any] = {"rows": 0, "next_row": 0, "seconds": 0.0}
        if found is not None:
            meta = self._restore(found)
        elif job.start_from:
            self._start_from(Path(job.start_from))
        self._log = MetricsLog(folder, keep_rows=int(meta["rows"]))
        self._next_row = int(meta["next_row"]) or self._row_after(0)
        self._started = time.perf_counter() - float(meta["seconds"])
        self._began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._checkpoints = Checkpoints(
            folder.checkpoints,
            keep=job.keep_checkpoints,
            resume_from=None if found is None else found.path,
        )
        self._saves: dict[str, float] = {"saved": 0, "failed": 0}
        self._last_saved: dict[str, Any] | None = None
        self._saved_at = self._looked_at = time.perf_counter()
        self._ended = False
        self.last_row: dict[str, float] = {}
        evaluator = self._runtime.parts.get("evaluator")
        self.best: tuple[float, Any] | None = None
        if evaluator is not None:
            evaluator.interrupted = self._must_stop
            self.best = evaluator.best()

    # --- From the beginning to the end -----------------------------------------------------------

    def to_the_end(self) -> None:
        """Take turns until the job's steps are taken, and save.

        Raises:
            Interrupted: a signal came; between two turns, nothing is lost.
            EnvError, DivergedError: in the middle of a turn.
        """
        self.write_status("running")
        with self._watchdog():
            while self._env_steps() < self.job.env_steps:
                try:
                    self._runtime.run(self._pause)
                except InterruptedEvaluation:
                    self._leave()
                if self._env_steps() >= min(self._next_row, self.job.env_steps):
                    self._write_row()
                if self._must_stop():
                    self._leave()
                self._look_after_checkpoints()
        self.save_and_wait()
        self._ended = True

    def final_evaluation(self, episodes: int) -> tuple[float, str]:
        """Mean return of greedy episodes with the last parameters, which a last row tells too.

        NaN and the reason, if an environment failed.

        Raises:
            Interrupted: a signal came.
        """
        self._runtime.parts["learner"].publish()
        self._policy.load(self._runtime.parts["parameters"].latest().vector)
        mean, fault = float("nan"), ""
        config = self.job.config
        try:
            with self._watchdog():
                played = evaluate_on(
                    self.job.env,
                    self._policy,
                    episodes,
                    self.job.seed,
                    interrupted=self._must_stop,
                    processes=config.env_processes,
                    deadline=config.env_deadline,
                )
            mean = float(played.returns.mean())
        except InterruptedEvaluation:
            self._leave()
        except EnvError as error:
            fault = f"the final evaluation failed: {error}"
        row = self._row()
        if not np.isnan(mean):
            row |= {"final/return_mean": mean, "final/episodes": episodes}
        self._log.write(row)
        self.last_row = row
        return mean, fault

    def close(self) -> None:
        """Close environments and files."""
        with contextlib.suppress(OSError, checkpoint.CheckpointError):
            self._checkpoints.wait()
        self._runtime.close()
        self._log.close()

    # --- Rows ------------------------------------------------------------------------------------

    def _env_steps(self) -> int:
        return self._runtime.counts()["env_steps"]

    def _row_after(self, env_steps: int) -> int:
        period = min(max(1, self.job.env_steps // ROWS_PER_RUN), MOST_STEPS_PER_ROW)
        return env_steps // period * period + period

    def _row(self) -> dict[str, float]:
        counts = self._runtime.counts()
        return {
            "env_steps": counts["env_steps"],
            "updates": counts["updates"],
            "seconds": time.perf_counter() - self._started,
            **{f"run/{name}": value for name, value in counts.items()},
            **self._runtime.metrics(),
            **{f"checkpoint/{name}": value for name, value in self._saves.items()},
        }

    def _write_row(self) -> None:
        row = self._row()
        self._log.write(row)
        self._progress.update(row)
        self.last_row = row
        self._next_row = self._row_after(int(row["env_steps"]))
        evaluator = self._runtime.parts.get("evaluator")
        found = evaluator.best() if evaluator is not None else None
        if found is not None and (self.best is None or found[1].version != self.best[1].version):
            self.best = found
            self._policy.load(found[1].vector)
            self.save_parameters("best", found[1].version.updates, found[0])

    # --- Pauses ----------------------------------------------------------------------------------

    def _pause(self, counts: Mapping[str, int]) -> bool:
        """Whether something is to be done between two rounds; also shows how the run stands."""
        now = time.perf_counter()
        if now - self._looked_at > SECONDS_PER_LOOK:
            self._looked_at = now
            replay = self._runtime.parts["replay"].metrics()
            self._progress.update(
                {
                    "env_steps": counts["env_steps"],
                    "updates": counts["updates"],
                    "seconds": now - self._started,
                    "replay/fill": replay["fill"],
                    "replay/bytes": replay["bytes"],
                }
            )
            self.write_status("running")
        return (
            counts["env_steps"] >= min(self._next_row, self.job.env_steps)
            or self._must_stop()
            or self._checkpoint_due(now)
        )

    def _must_stop(self) -> bool:
        return self._stop.requested is not None

    def _leave(self) -> None:
        raise Interrupted(str(self._stop.requested))

    def _watchdog(self) -> contextlib.AbstractContextManager[Any]:
        config = self.job.config
        if config.env_processes:
            return contextlib.nullcontext()
        advice = (
            "mend the environment, or set env_processes, where a hang costs no more than episodes; "
            f"what the last checkpoint holds can be resumed in {self._folder.path}"
        )
        return Watchdog(calls.current, config.env_deadline, self._tell_of_hang, advice=advice)

    def _tell_of_hang(self, text: str) -> None:
        self.write_status(f"failed: {text}")

    # --- How it stands ---------------------------------------------------------------------------

    def write_status(self, state: str) -> None:
        """Replace status.json; a full disk does not matter."""
        counts = self._runtime.counts()
        self._folder.write_status(
            {
                "state": state,
                "env_steps": counts["env_steps"],
                "total_env_steps": self.job.env_steps,
                "updates": counts["updates"],
                "seconds": round(time.perf_counter() - self._started, 3),
                "checkpoint": self._last_saved,
                "pid": os.getpid(),
                "host": platform.node(),
                "began": self._began,
                "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
        )

    # --- Checkpoints -----------------------------------------------------------------------------

    def save_and_wait(self) -> None:
        """Save everything, and return when it is on disk; where it is complete, do nothing."""
        if self._ended:
            return
        self._heed(self._checkpoints.wait)
        taken = self._snapshot()
        self._heed(lambda: self._checkpoints.save("last", **taken), always_tell=True)

    def save_parameters(
        self, name: str, updates: int | None = None, score: float | None = None
    ) -> None:
        """Save nothing but parameters: the policy's, or the learner's where `updates` is None."""
        learner = self._runtime.parts["learner"]
        network = learner.network if updates is None else self._policy.network
        meta = {
            "env_steps": self._env_steps(),
            "updates": learner.updates if updates is None else updates,
            "score": score,
        }
        self._heed(self._checkpoints.wait)
        self._heed(
            lambda: self._checkpoints.save(name, parameters=named_arrays(network), meta=meta),
            whole=False,
        )

    def _checkpoint_due(self, now: float) -> bool:
        least, most = CHECKPOINT_SECONDS
        period = self.job.checkpoint_seconds or min(
            max(least, self._saves.get("seconds", 0.0) / CHECKPOINT_SHARE), most
        )
        return now - self._saved_at >= period and not self._checkpoints.busy

    def _look_after_checkpoints(self) -> None:
        """Hear of the one under way, and begin another when it is time."""
        self._heed(self._checkpoints.finished)
        if self._checkpoint_due(time.perf_counter()):
            taken = self._snapshot()
            self._heed(lambda: self._checkpoints.start("last", **taken))

    def _snapshot(self) -> dict[str, Any]:
        """What a checkpoint holds, as it is now; nothing in it changes later."""
        self._saved_at = begin = time.perf_counter()
        learner = self._runtime.parts["learner"]
        with contextlib.suppress(OSError):
            self._log.sync()
        taken = {
            "state": self._runtime.state_dict(),
            "parameters": named_arrays(learner.network),
            "meta": {
                "env_steps": self._env_steps(),
                "updates": learner.updates,
                "score": None,
                "rows": self._log.rows,
                "next_row": self._next_row,
                "seconds": begin - self._started,
                "job": self.job.as_dict(),
            },
        }
        self._saves["standstill_seconds"] = time.perf_counter() - begin
        return taken

    def _heed(
        self,
        save: Callable[[], Saved | None],
        *,
        whole: bool = True,
        always_tell: bool = False,
    ) -> None:
        """Count what comes of a save; one that fails is tried again at the next interval."""
        try:
            saved = save()
        except (OSError, checkpoint.CheckpointError) as error:
            self._saves["failed"] += 1
            warnings.warn(
                f"a checkpoint could not be saved, the last one stays as it is: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        if saved is None or not whole:
            return
        first = self._last_saved is None
        self._saves["saved"] += 1
        self._saves |= {"seconds": saved.seconds, "bytes": saved.bytes_total}
        self._last_saved = {
            "name": saved.path.name,
            "env_steps": saved.env_steps,
            "seconds": round(saved.seconds, 3),
            "bytes_written": saved.bytes_written,
            "bytes": saved.bytes_total,
        }
        if first or always_tell:
            self._progress.note(
                f"checkpoint after {saved.env_steps:,} steps: {size(saved.bytes_written)} written "
                f"in {saved.seconds:.1f} s, {size(saved.bytes_total)} in all"
            )

    def _restore(self, found: Checkpoint) -> Mapping[str, Any]:
        """Put everything where it was; the checkpoint's meta."""
        assert found.state is not None  # it was looked for as a whole one
        _refuse_changes(found.meta.get("job"), self.job, found.path)
        try:
            self._runtime.load_state_dict(found.state)
            rows, following = found.meta["rows"], found.meta["next_row"]
            if min(rows, following) < 0:
                raise ValueError(f"rows {rows}, next_row {following}")
            return {
                "rows": int(rows),
                "next_row": int(following),
                "seconds": float(found.meta["seconds"]),
            }
        except (ValueError, KeyError, TypeError) as error:
            raise checkpoint.CheckpointError(
                f"{found.path}: it cannot be gone on from: {error}"
            ) from error

    def _start_from(self, run: Path) -> None:
        """Begin with the parameters of another run."""
        there = RunFolder.open(run)
        found = checkpoint.find(there.checkpoints, "last", "failed", parameters_only=True)
        try:
            load_named_arrays(self._policy.network, checkpoint.load_parameters(found)[0])
        except ValueError as error:
            raise ConfigError(f"the parameters of {run} do not fit this run: {error}") from error
        learner = self._runtime.parts["learner"]
        learner.online_parameters.load(self._policy.vector())
        learner.update_target()
        learner.publish()


def _refuse_changes(saved: Any, job: Job, found: Path) -> None:
    """Raise ConfigError, naming what differs, unless the checkpoint is of this job."""
    wanted = job.as_dict()
    if not isinstance(saved, dict):
        raise checkpoint.CheckpointError(f"{found}: it does not say which run it is of")
    before, now = (_flat(x) for x in (saved, wanted))
    changed = [
        f"{name} is {now.get(name)!r} in config.json and was {before.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in MAY_CHANGE
    ]
    if changed:
        raise ConfigError(
            f"{'; '.join(changed)}: a resumed run keeps its settings, only {', '.join(MAY_CHANGE)} "
            "may change. Put them back, or begin a new run from this one's weights (train --from)"
        )


def _flat(job: Mapping[str, Any]) -> dict[str, Any]:
    """Config fields beside the others, as config.json has them: tuples are lists there."""
    config = job.get("config")
    fields = {**job, **config} if isinstance(config, Mapping) else dict(job)
    fields.pop("config", None)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
