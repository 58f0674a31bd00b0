"""Running a job in a folder, to its end or until it is stopped, and going on with it later."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recollect import presets
from recollect.machine import free_memory, keep_memory, threads
from recollect.messages import PartLostError
from recollect.run.folder import RunFolder, default_run_dir
from recollect.run.lock import RunLock
from recollect.run.parts import real
from recollect.run.progress import Progress, size
from recollect.run.signals import Interrupted, Stop
from recollect.training import room
from recollect.training.job import MAY_CHANGE, Job, prepare
from recollect.types import ConfigError, DivergedError, EnvError, NotSavedError

if TYPE_CHECKING:
    from recollect.run.checkpoint import Checkpoint
    from recollect.training.loop import Training

FINAL_EPISODES = 20
LARGE = 512
"""Units of a core from which images want a GPU: the paper's."""


@dataclass(frozen=True)
class Run:
    """A training that has ended: its folder and the greedy evaluation at its end.

    `return_mean` is NaN if the environment failed in that evaluation, and `fault` says how.
    `mid_episode_share` is that of the learned windows which start in mid-episode.
    `dropped_episodes` were dropped in training for a fault. `best_mean` is of the best parameters
    evaluated meanwhile, None if none were. `env_failures` counts faults, also those of resets,
    `deaths` the parts of the run that died, on Ray, and were replaced.
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
    env_failures: int = 0
    deaths: int = 0


def train(
    agent: str,
    *,
    env: str,
    env_kwargs: dict[str, Any] | None = None,
    preset: str = "auto",
    seed: int = 0,
    env_steps: int | None = None,
    runtime: str = "inline",
    address: str = "",
    place: str = "",
    run_dir: str | Path | None = None,
    network: str = "",
    start_from: str | Path = "",
    checkpoint_seconds: float = 0.0,
    keep_checkpoints: int = 2,
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
        runtime=runtime,
        address=address,
        place=place,
        network=network,
        start_from=str(start_from),
        checkpoint_seconds=checkpoint_seconds,
        keep_checkpoints=keep_checkpoints,
        settings=settings,
    )
    return execute(job, run_dir, verbose=verbose)


def execute(job: Job, run_dir: str | Path | None = None, *, verbose: bool = True) -> Run:
    """Run a job to its end in a new folder.

    Raises:
        ConfigError: the folder holds something or is another's, or replay cannot fit in memory.
        Interrupted: by a signal; `resume` goes on as if nothing had been.
        EnvError, DivergedError: an environment failed too often, learning diverged. The last
            parameters, status and curve are there.
        NotSavedError: it came to its end and could not be saved there.
    """
    path = Path(run_dir) if run_dir else default_run_dir(job.agent, job.env.id, job.seed)
    RunFolder(path).refuse_if_taken()
    room.check(job)
    path = path.absolute()  # an environment may go to another folder
    # The first two refuse before torch is loaded; a signal from here on is answered by saving.
    with RunLock(path), _stop(verbose) as stop, _computing(job):
        RunFolder(path).refuse_if_taken()
        from recollect.training import runtimes

        program = runtimes.program_of(job)
        said = [*_differences(job), *_told(job), _check_memory(job, program.replay_bytes)]
        said.append(f"learning begins after {job.config.min_replay_steps:,} steps")
        start = _start(job, program, said)
        folder = RunFolder.create(path, job.as_dict())
        try:
            return _carry_on(job, folder, program, None, start, verbose, stop, said, changed=False)
        except ConfigError:  # as where a cluster has no room
            folder.take_back()
            raise


def resume(
    run: Any,
    *,
    verbose: bool = False,
    **given: Any,
) -> Run:
    """Go on with a run that was stopped or killed, from its newest whole checkpoint.

    In one process and on the CPU, with as many threads, it goes on bit for bit as if it had not
    been stopped, if its environments can be put back where they were.

    Args:
        run: a run or its folder.
        verbose: print progress.
        given: any of `MAY_CHANGE`, arguments of `prepare` or fields of the agent's config; the
            others, and those that are None, stay as they were. Environments in other processes
            change no bit; other devices and numbers of threads do.
    Raises:
        ConfigError: something else is given; no such run; it is finished; another process works
            on it; its config.json is not that of its checkpoint.
        CheckpointError: none of its checkpoints can be used.
        Interrupted, EnvError, DivergedError, NotSavedError: as `execute`.
    """
    for name in given.keys() - {*MAY_CHANGE}:
        raise presets.nearest("setting that may change", name, MAY_CHANGE)
    folder = RunFolder(RunFolder.open(Path(getattr(run, "folder", run))).path.absolute())
    with RunLock(folder.path), _stop(verbose) as stop, contextlib.ExitStack() as inside:
        try:
            stored = Job.from_dict(folder.config())
        except ConfigError as error:
            raise ConfigError(f"{folder.config_path}: {error}") from error
        job = stored.changed(**{name: x for name, x in given.items() if x is not None})
        room.check(job)
        inside.enter_context(_computing(job))
        from recollect.run import checkpoint
        from recollect.training import runtimes

        said: list[str] = []
        found: checkpoint.Checkpoint | None = None
        with contextlib.suppress(checkpoint.NoCheckpointError):
            found = checkpoint.load_newest(
                folder.checkpoints, "last", full=True, report=said.append
            )
        if found is not None:
            _refuse_changes(found.meta.get("job"), job, found.path)
            _refuse_if_finished(folder, job, found.env_steps)
        program = runtimes.program_of(job)
        said += [*_told(job), _check_memory(job, program.replay_bytes)]
        start = None
        if found is None:
            start = _start(job, program, said)
            said.append("there is no checkpoint to go on from: the run begins anew")
        if job.config.decay_steps != stored.config.decay_steps:
            said.append(
                f"decay_steps = {job.env_steps}: the learning rate falls over the new length"
            )
        if (stored.address, stored.place) != ("", "") == (job.address, job.place):
            were = {"address": stored.address, "place": stored.place}
            several = " and ".join(f"{name} {value!r}" for name, value in were.items() if value)
            said.append(f"forgotten: {several}; to go back to that, give it again")
        return _carry_on(
            job, folder, program, found, start, verbose, stop, said, changed=job != stored
        )


@contextlib.contextmanager
def _computing(job: Job) -> Iterator[None]:
    """Threads and memory as the job wants them."""
    from recollect.agents import computing

    if job.env.has_images:
        keep_memory()
    with threads(computing.threads(job.config.threads, job.env)):
        yield


def _stop(verbose: bool) -> Stop:
    """Hears signals from the beginning: what comes before the first turn ends the run there."""

    def tell() -> None:
        if verbose:
            print("stopping: as soon as that can be done in good order", flush=True)

    return Stop(on_first=tell)


def _refuse_if_finished(folder: RunFolder, job: Job, done: int) -> None:
    status: Mapping[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # the checkpoint says how far it is
        status = folder.status()
    finished = status.get("state") == "finished"
    if finished and job.env_steps <= done:
        raise ConfigError(
            f"{folder.path} is finished, after {done:,} environment steps: to go on, give "
            "env_steps a larger number"
        )
    if job.env_steps < done:
        raise ConfigError(
            f"env_steps {job.env_steps:,} is less than the {done:,} that {folder.path} has taken: "
            "give a larger number, or none"
        )


def _carry_on(
    job: Job,
    folder: RunFolder,
    program: Any,
    found: Checkpoint | None,
    start: Any,
    verbose: bool,
    stop: Stop,
    said: list[str],
    changed: bool,
) -> Run:
    """Train in a folder that is ours, from a checkpoint if there is one, and end in good order.

    `changed`: config.json says something else of the job.
    """
    from recollect.run import curves
    from recollect.runtime import randomness

    title = f"{job.agent} on {job.env.id}, seed {job.seed}"
    with (
        Progress(job.env_steps, title, quiet=not verbose, stands=_stands(found)) as progress,
        progress.warnings(),
        randomness.seeded(job.seed),
        contextlib.closing(
            _begun(job, folder, program, progress, stop, found, start, changed)
        ) as training,
    ):
        if changed:  # a resume that is refused until here has changed nothing
            folder.write_config(job.as_dict())
        stop.on_first = lambda: progress.line("stopping: saving a checkpoint")
        training.damaged = sum(line.startswith("ERROR") for line in said)
        for line in said:
            (progress.line if line.startswith("ERROR") else progress.note)(line)
        _warn_if_nothing_can_be_learned(job)
        try:
            training.to_the_end()
            return_mean, fault = training.final_evaluation(FINAL_EPISODES)
            if not training.save_and_wait():
                training.save_parameters("failed")
                raise NotSavedError(training.unsaved)
            state = "finished"
        except Interrupted as stopped:
            training.leave(stopped)
            raise
        except NotSavedError as error:
            training.write_status(f"failed: {error}")
            raise
        except (KeyboardInterrupt, DivergedError, EnvError, PartLostError) as error:
            # In the middle of a turn: what was learned is whole, the rest is not.
            plain = isinstance(error, KeyboardInterrupt)
            training.give_up("interrupted" if plain else f"failed: {error}")
            raise
        except BaseException as error:
            training.write_status(f"failed: {type(error).__name__}: {error}")
            raise
        finally:
            with contextlib.suppress(OSError):
                curves.draw([folder.path], folder.curve)
        training.write_status(state)
    row = training.last_row
    return Run(
        folder.path,
        return_mean,
        int(row["env_steps"]),
        int(row["updates"]),
        float(row["seconds"]),
        row["run/learned_windows_mid_episode"] / max(1, row["run/learned_windows"]),
        int(row["run/dropped_episodes"]),
        fault,
        training.best[0] if training.best else None,
        int(row["run/env_failures"]),
        int(row.get("faults/deaths", 0)),
    )


def _begun(
    job: Job,
    folder: RunFolder,
    program: Any,
    progress: Progress,
    stop: Stop,
    found: Checkpoint | None,
    start: Any,
    changed: bool,
) -> Training:
    """The training; one that a signal stops before it has begun keeps what `job` changed."""
    from recollect.training.loop import Training

    try:
        return Training(job, folder, program, progress, stop, found, start)
    except Interrupted:
        if changed:
            folder.write_config(job.as_dict())
        raise


def _stands(found: Checkpoint | None) -> dict[str, float]:
    """Where a checkpoint stands, as a row of metrics has it."""
    if found is None:
        return {}
    told = {name: real(found.meta.get(name)) for name in ("updates", "seconds")}
    known = {name: value for name, value in told.items() if value is not None}
    return {"env_steps": found.env_steps, **known}


def _differences(job: Job) -> list[str]:
    found = presets.differences(job.agent, job.config, job.env)
    if not found:
        return []
    short = ", ".join(
        f"{name} {_value(name, value)} ({_value(name, published)})"
        for name, value, published in found
    )
    several = "settings differ" if len(found) > 1 else "setting differs"
    return [f"{len(found)} {several} from the paper's, in brackets: {short}"]


def _value(name: str, value: Any) -> str:
    """A setting's value as it is quickly read."""
    if name.endswith("_bytes"):
        return size(value) if value else "no limit"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _told(job: Job) -> list[str]:
    """What the environment was made with, what is computed on, and what is odd about either."""
    from recollect.agents import computing
    from recollect.envs import registry
    from recollect.training import runtimes

    lines = [registry.options_line(job.env)]
    lines.append(runtimes.told(job))
    if job.env.has_images:
        large = job.preset != "small" and not job.network and job.config.hidden >= LARGE
        if large and computing.learner(job.config, job.env).device == "cpu":
            lines.append(
                "a network of the paper's size learns for days on a processor before it shows: "
                "preset small learns something within hours"
            )
    lines += [f"warning: {odd}" for odd in job.odd()]
    return [line for line in lines if line]


def _check_memory(job: Job, need: int) -> str:
    """One line on what replay needs; ConfigError if this machine has less, where it lies here."""
    free = None if job.address else free_memory()
    steps, limit = job.config.replay_steps, job.config.replay_bytes
    if free is not None and need > free:
        fits = max(10**6, int(presets.SHARE_OF_MEMORY * free))  # 0 would be no limit
        fits -= fits % (10**8 if fits >= 10**8 else 10**6)
        raise ConfigError(
            f"replay of {steps:,} steps needs {need / 1e9:.2f} GB and {free / 1e9:.2f} GB are "
            f"free: set replay_bytes, to {fits:_} for instance, and as many steps are "
            "kept as that holds; or lower replay_steps"
        )
    packed = ", packed" if job.config.codec != "none" else ""
    if limit:
        return f"replay: at most {steps:,} steps and {size(limit)}{packed}"
    return f"replay: {steps:,} steps{packed} need {size(need)}, more where episodes are short"


def _warn_if_nothing_can_be_learned(job: Job) -> None:
    least = job.config.min_replay_steps
    if job.env_steps <= least:
        warnings.warn(
            f"nothing will be learned: the run ends after {job.env_steps:,} environment steps and "
            f"learning begins after {least:,}: raise env_steps, or lower min_replay_steps",
            RuntimeWarning,
            stacklevel=2,
        )


def _start(job: Job, program: Any, said: list[str]) -> Any:
    """The parameters [P] of the run that this one begins with; None if it begins with its own."""
    from recollect.agents.learning import load_named_arrays
    from recollect.run import checkpoint

    if not job.start_from:
        return None
    there = RunFolder.open(job.start_from)
    found = checkpoint.find(there.checkpoints, "last", "failed", parameters_only=True)
    policy = program.policy()
    try:
        arrays, meta = checkpoint.load_parameters(found)
        load_named_arrays(policy.network, arrays)
    except ValueError as error:
        raise ConfigError(
            f"the parameters of {job.start_from} do not fit this run: {error}"
        ) from error
    said.append(
        f"it begins with the parameters of {job.start_from} after {meta['env_steps']:,} steps, and "
        "with settings of its own"
    )
    return policy.vector()


def _refuse_changes(saved: Any, job: Job, found: Path) -> None:
    """Raise ConfigError, naming what differs, unless the checkpoint is of this job."""
    wanted = job.as_dict()
    from recollect.run.checkpoint import CheckpointError

    if not isinstance(saved, dict):
        raise CheckpointError(f"{found}: it does not say which run it is of")
    before, now = (_flat(x) for x in (presets.with_later(saved), wanted))
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


def _flat(job: Any) -> dict[str, Any]:
    """Config fields beside the others, as config.json has them: tuples are lists there."""
    config = job.get("config")
    fields = {**job, **config} if isinstance(config, Mapping) else dict(job)
    fields.pop("config", None)
    if fields.get("decay_steps") == fields.get("env_steps"):
        fields["decay_steps"] = "the run's length"
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
