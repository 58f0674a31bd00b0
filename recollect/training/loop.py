"""The loop of a training: turns, rows of metrics, checkpoints, and how it stands."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from recollect.agents import computing
from recollect.agents.evaluating import InterruptedEvaluation, evaluate_on
from recollect.agents.learning import named_arrays
from recollect.envs import calls
from recollect.messages import PartLostError
from recollect.parameters import Published
from recollect.run import checkpoint
from recollect.run.checkpoint import Checkpoint
from recollect.run.folder import FAULTS, RunFolder, open_regular
from recollect.run.metrics import MetricsLog
from recollect.run.progress import Progress
from recollect.run.signals import Interrupted, Stop
from recollect.run.watchdog import Watchdog
from recollect.runtime.inline import epochs_of
from recollect.training import runtimes
from recollect.training.job import Job
from recollect.training.saves import Saves
from recollect.types import Array, EnvError

ROWS_PER_RUN = 200
MOST_STEPS_PER_ROW = 50_000
SECONDS_PER_LOOK = 5.0
"""Between two looks at a run whose rows are further apart, and between two status files."""


class Training:
    """A job at work in its folder.

    Args:
        job: what to do.
        folder: of the run; it must be ours alone.
        program: of the job.
        progress: where a person looks.
        stop: says when to stop.
        found: the checkpoint to go on from, of this job and verified; None: from the beginning.
        start: parameters [P] to begin with; None: the network's own.
    Raises:
        CheckpointError: what is in `found` does not fit.
        Interrupted: a signal came before all parts were there; there is nothing to save.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        program: Any,
        progress: Progress,
        stop: Stop,
        found: Checkpoint | None,
        start: Array | None,
    ) -> None:
        self.job, self._folder, self._progress, self._stop = job, folder, progress, stop
        self._policy = program.policy()
        meta: Mapping[str, Any] = {"rows": 0, "next_row": 0, "seconds": 0.0}
        progress.starting(runtimes.starting(job, program))
        shutil.rmtree(folder.path / runtimes.JOURNAL, ignore_errors=True)  # of one that was killed
        epochs = epochs_of(found.state) if found is not None and found.state else {}
        self._runtime = runtimes.begun(job, program, stop, folder.path, epochs, self._saved_state)
        try:
            if found is not None:
                meta = self._restore(found)
            elif start is not None:
                self._runtime.ask("learner", "begin_with", start)
            self._log = MetricsLog(folder, keep_rows=int(meta["rows"]))
        except BaseException:
            self._runtime.close()
            raise
        if self._log.moved_to is not None:
            than = "of the attempt before"
            if found is not None:
                than = f"newer than the checkpoint, after {found.env_steps:,} steps,"
            progress.note(f"rows of metrics {than} are now in {self._log.moved_to.name}")
        self._next_row = int(meta["next_row"]) or self._row_after(0)
        self._started = time.perf_counter() - float(meta["seconds"])
        self._began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        progress.started()
        self._saves = Saves(job, folder, progress, found)
        self._looked_at = time.perf_counter()
        self._ended = False
        self._faults = _faults_before(folder) if found is not None else Counter()
        self.damaged = 0  # checkpoints passed over
        self.last_row: dict[str, float] = {}
        self._runtime.interrupt_with(self._must_stop)
        self.best: tuple[float, Published] | None = None
        """Mean return and parameters of the best evaluation, as last heard of."""
        # After a restart it is saved once more: the stop may have come before its save.
        self._best_saved: Any = None

    # --- From the beginning to the end -----------------------------------------------------------

    def to_the_end(self) -> None:
        """Take turns until the job's steps are taken, and save.

        Raises:
            Interrupted: a signal came; between two turns, nothing is lost.
            EnvError, DivergedError: in the middle of a turn.
        """
        self.write_status("running")
        with self._watchdog():
            settled = False
            while not settled:
                while self._env_steps() < self.job.env_steps:
                    self._take_turns()
                if self._runtime.settle(self._must_stop):
                    self._tell_of_deaths()
                    self._write_row()
                if self._must_stop():
                    self._leave()
                # Where a part dies meanwhile, what it had not sent, or had learned, is done again.
                died = self._runtime.died
                self.save_and_wait()
                settled = self._env_steps() >= self.job.env_steps and self._runtime.died == died
        self._ended = not self._saves.failed("last")

    def _take_turns(self) -> None:
        """Turns until something is to be done between them, and do it."""
        if self._must_stop():
            self._leave()
        try:
            self._runtime.run(self._pause, {"env_steps": self.job.env_steps})
        except InterruptedEvaluation:
            self._leave()
        self._tell_of_deaths()
        if self._env_steps() >= min(self._next_row, self.job.env_steps):
            self._write_row()
        if self._saves.look():
            self._runtime.saved()
        if self._save_due(time.perf_counter()):
            taken = self._snapshot(self._runtime.try_state_dict)
            if taken is not None:
                self._saves.start(**taken)

    def final_evaluation(self, episodes: int) -> tuple[float, str]:
        """Mean return of greedy episodes with the last parameters, which a last row tells too.

        NaN and the reason, if an environment failed.

        Raises:
            Interrupted: a signal came.
        """
        self._policy.load(self._runtime.ask("learner", "vector"))
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
                    told=self._progress.counting("final evaluation"),
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

    def leave(self, stopped: Interrupted) -> None:
        """Save, when a signal ends the run.

        Raises:
            PartLostError, EnvError: a part is gone, or hangs: what is left was saved as `give_up`.
        """
        try:
            self.save_and_wait()
        except (PartLostError, EnvError) as error:
            self.give_up(f"failed: {error}")
            raise
        stopped.unsaved = self.unsaved
        self.write_status("preempted")

    def give_up(self, state: str) -> None:
        """Save what can be saved in the middle of a turn: the parameters, and a last row."""
        with contextlib.suppress(PartLostError, EnvError):  # what is left answers
            self.save_parameters("failed")
            self._log.write(self._row())
        self.write_status(state)

    def close(self) -> None:
        """Close environments and files."""
        self._saves.wait()
        self._runtime.close()
        self._log.close()
        with contextlib.suppress(OSError):
            (self._folder.path / runtimes.JOURNAL).rmdir()

    # --- Rows ------------------------------------------------------------------------------------

    def _env_steps(self) -> int:
        return self._runtime.counts()["env_steps"]

    def _stands(self) -> dict[str, float]:
        """Where the run stands; its seconds are those of its turns, of all of its attempts."""
        counts = self._runtime.counts()
        return {
            "env_steps": counts["env_steps"],
            "updates": counts["updates"],
            "seconds": time.perf_counter() - self._started,
        }

    def _row_after(self, env_steps: int) -> int:
        period = min(max(1, self.job.env_steps // ROWS_PER_RUN), MOST_STEPS_PER_ROW)
        return env_steps // period * period + period

    def _row(self) -> dict[str, float]:
        counts, metrics = self._runtime.counts(), self._runtime.metrics()
        for name, before in self._faults.items():
            if name in metrics:
                metrics[name] += before
        return {
            **self._stands(),
            **{f"run/{name}": value for name, value in counts.items()},
            **metrics,
            **{f"checkpoint/{name}": value for name, value in self._saves.figures.items()},
            "checkpoint/damaged": self.damaged,
        }

    def _write_row(self) -> None:
        row = self._row()
        self._log.write(row)
        self._progress.update(row, self._runtime.parts_now() or None)
        self.last_row = row
        self._next_row = self._row_after(int(row["env_steps"]))
        self._save_best(self._runtime.glance)

    def _save_best(self, ask: Callable[[str, str], Any]) -> None:
        """Save the best parameters; until they are on disk, that is tried again with each row."""
        if not self.job.config.evaluation_period:
            return
        found = ask("evaluator", "best")
        if found is None:
            return
        self.best = found
        if found[1].version == self._best_saved:
            return
        self._policy.load(found[1].vector)
        if self.save_parameters("best", found[1].version.updates, found[0]):
            self._best_saved = found[1].version

    # --- Pauses ----------------------------------------------------------------------------------

    def _pause(self, counts: Mapping[str, int]) -> bool:
        """Whether something is to be done between two rounds; also shows how the run stands."""
        self._tell_of_deaths()
        now = time.perf_counter()
        if now - self._looked_at > SECONDS_PER_LOOK:
            self._looked_at = now
            replay = self._runtime.metrics("replay")
            self._progress.update(
                {
                    **self._stands(),
                    "replay/fill": replay["replay/fill"],
                    "replay/bytes": replay["replay/bytes"],
                },
                self._runtime.parts_now() or None,
            )
            self.write_status("running")
        return (
            counts["env_steps"] >= min(self._next_row, self.job.env_steps)
            or self._must_stop()
            or self._save_due(now)
        )

    def _save_due(self, now: float) -> bool:
        """Whether it is time to save; as long as one is dead or stuck the others go on."""
        return self._saves.due(now) and self._runtime.whole

    def _tell_of_deaths(self) -> None:
        """Say who died and came back, and write it down."""
        for death in self._runtime.deaths():
            self._progress.note(
                f"{death.part} (process {death.pid}): {death.why}; it was replaced after "
                f"{death.down_seconds:.1f} s"
                + "; what it had taken since the last checkpoint is lost"
                * (death.replayed < 0)
            )
            told = {"time": _now(), "env_steps": self._env_steps(), **death.as_dict()}
            self._folder.add_line(FAULTS, json.dumps(told))

    def _must_stop(self) -> bool:
        return self._stop.requested is not None

    def _leave(self) -> None:
        raise Interrupted(str(self._stop.requested))

    def _watchdog(self) -> contextlib.AbstractContextManager[Any]:
        config = self.job.config
        if config.env_processes or self.job.runtime != "inline":
            return contextlib.nullcontext()
        advice = (
            "mend the environment, or let it have processes of its own, where a hang costs no more "
            f"than episodes: recollect resume {shlex.quote(str(self._folder.path))} "
            "--env-processes 2"
        )
        return Watchdog(calls.current, config.env_deadline, self._tell_of_hang, advice=advice)

    def _tell_of_hang(self, text: str) -> None:
        self.write_status(f"failed: {text}")

    # --- How it stands ---------------------------------------------------------------------------

    def write_status(self, state: str) -> None:
        """Replace status.json; a full disk does not matter."""
        stands = self._stands()
        if state != "running":
            self._progress.stopped_at(stands)
        self._folder.write_status(
            {
                "state": state,
                **stands,
                "seconds": round(stands["seconds"], 3),
                "total_env_steps": self.job.env_steps,
                "checkpoint": self._saves.last,
                "runtime": self.job.runtime,
                "deaths": self._faults["faults/deaths"] + self._runtime.died,
                "parts": [part.as_dict() for part in self._runtime.parts_now()],
                "pid": os.getpid(),
                "host": platform.node(),
                "began": self._began,
                # Exactly: `recollect status` reckons from it, and its clock must not go back.
                "written": _now(),
            }
        )

    # --- Checkpoints -----------------------------------------------------------------------------

    def save_and_wait(self) -> bool:
        """Save everything, and say when it is on disk; where it is complete, do nothing.

        Returns:
            Whether it could be saved; if not, `unsaved` says why.
        """
        if not self._ended:
            self._tell_of_deaths()
            self._saves.wait()
            taken = self._snapshot(self._runtime.state_dict)
            assert taken is not None  # it waits until there is one
            self._saves.save("last", **taken)
        self._save_best(self._runtime.ask)
        return not self.unsaved

    @property
    def unsaved(self) -> str:
        """Why the last save failed, and what there is instead; empty if it did not."""
        return self._saves.unsaved

    def save_parameters(
        self, name: str, updates: int | None = None, score: float | None = None
    ) -> bool:
        """Save nothing but parameters: the policy's, or the learner's where `updates` is None.

        Returns:
            Whether they could be saved.
        """
        if updates is None:
            updates = self._runtime.counts()["updates"]
            self._policy.load(self._newest())
        meta = {"env_steps": self._env_steps(), "updates": updates, "score": score}
        parameters = named_arrays(self._policy.network)
        return self._saves.save(name, parameters=parameters, meta=meta)

    def _newest(self) -> Array:
        """The learner's parameters [P]; those it published last, if it is there no more."""
        try:
            return self._runtime.ask("learner", "vector")
        except PartLostError:
            return self._runtime.ask("parameters", "latest").vector

    def _snapshot(self, take: Callable[..., dict[str, Any] | None]) -> dict[str, Any] | None:
        """What a checkpoint holds, as it is now; nothing in it changes later.

        None if `take` takes no state of the runtime.
        """
        begin = time.perf_counter()
        with contextlib.suppress(OSError):
            self._log.sync()
        state = take(self._saves.on_disk)
        if state is None:
            return None
        self._policy.load(state["parts"]["learner"]["online"])
        taken = {
            "state": state,
            "parameters": named_arrays(self._policy.network),
            "meta": {
                "env_steps": self._env_steps(),
                "updates": state["parts"]["learner"]["updates"],
                "score": None,
                "rows": self._log.rows,
                "next_row": self._next_row,
                "seconds": begin - self._started,
                "job": self.job.as_dict(),
                "arithmetic": _arithmetic(self.job),
            },
        }
        self._saves.taken(begin)
        return taken

    def _saved_state(self) -> Mapping[str, Any] | None:
        """The state of the newest whole checkpoint, read again; None if there is none."""
        for _ in range(3):  # it may be removed for a newer one while it is read
            with contextlib.suppress(checkpoint.CheckpointError):
                return checkpoint.load_newest(self._folder.checkpoints, "last", full=True).state
        return None

    def _restore(self, found: Checkpoint) -> Mapping[str, Any]:
        """Put everything where it was; the checkpoint's meta."""
        assert found.state is not None  # it was looked for as a whole one
        before, now = found.meta.get("arithmetic"), _arithmetic(self.job)
        if before != now:
            self._progress.line(
                f"this run was computed with {before} and goes on with {now}: from here on it is "
                "not bit for bit what it would have been"
            )
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


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")


def _faults_before(folder: RunFolder) -> Counter[str]:
    """Of the attempts before, as `faults.jsonl` tells of them; lines that are none are left out."""
    found: Counter[str] = Counter()
    with (
        contextlib.suppress(OSError, ValueError),
        open(folder.path / FAULTS, errors="replace", opener=open_regular) as lines,
    ):
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                found["faults/lost_steps"] += int(json.loads(line)["lost_steps"])
                found["faults/deaths"] += 1
    found["faults/recoveries"] = found["faults/deaths"]  # it tells of those who came back
    return found


def _arithmetic(job: Job) -> str:
    """What sums may depend on, beside what is computed."""
    learns = computing.learner(job.config, job.env)
    numbers = "bfloat16 " * learns.bfloat16
    return (
        f"torch {torch.__version__} on {learns.device} in {numbers or 'float32 '}"
        f"on {torch.get_num_threads()} threads"
    )
