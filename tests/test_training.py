"""A training from Python: repeatable, whole in its folder, and loadable."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import recollect
from recollect.agents.learning import named_arrays
from recollect.messages import PartLostError
from recollect.run import checkpoint
from recollect.run.folder import RunFolder
from recollect.run.metrics import read_metrics, without_wall_clock
from recollect.run.signals import Interrupted
from recollect.training import execution, loop, runtimes
from recollect.training.job import prepare
from recollect.types import ArraySpec, ConfigError
from tests.agents import clockwork

assert clockwork.Clock, "importing it registers tests/Clock-v0"
QUICK = {"min_replay_steps": 500, "evaluation_period": 20, "evaluation_episodes": 4}


def train(folder: Path, **settings: Any) -> recollect.Run:
    words: dict[str, Any] = {"env_kwargs": {"delay": 3}, "env_steps": 4000, "seed": 7}
    words |= QUICK | settings
    return recollect.train("r2d2", env="recollect/Recall-v0", run_dir=folder, **words)


def parameters(run: recollect.Run, which: str = "last") -> dict[str, np.ndarray]:
    found = checkpoint.find(RunFolder.open(run.folder).checkpoints, which)
    return checkpoint.load(found).parameters


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> recollect.Run:
    return train(tmp_path_factory.mktemp("first") / "run")


def test_the_same_seed_gives_the_same_metrics_twice(first: recollect.Run, tmp_path: Path) -> None:
    """Must show 4: all but wall-clock fields, and the last parameters bit for bit."""
    again = train(tmp_path / "again")
    rows = [[without_wall_clock(r) for r in read_metrics(run.folder)] for run in (first, again)]
    assert len(rows[0]) > 50
    assert rows[0] == rows[1]
    assert equal(parameters(first), parameters(again))
    assert not equal(parameters(first), parameters(train(tmp_path / "other", seed=8)))


def test_trap_24_turning_evaluation_off_changes_no_bit_of_the_training(
    first: recollect.Run, tmp_path: Path
) -> None:
    """The evaluator adds no data and draws from keys of its own."""
    silent = train(tmp_path / "silent", evaluation_period=0)
    assert equal(parameters(first), parameters(silent))
    with pytest.raises(checkpoint.CheckpointError):
        parameters(silent, "best")


def test_the_folder_explains_the_run(first: recollect.Run) -> None:
    folder = RunFolder.open(first.folder)
    config = folder.config()
    assert (config["agent"], config["seed"], config["env"]["kwargs"]) == ("r2d2", 7, {"delay": 3})
    assert folder.curve.is_file()
    *rows, last = read_metrics(first.folder)
    assert last["env_steps"] == first.env_steps >= 4000
    assert last["updates"] == first.updates > 20
    assert {"replay/fill", "parameters/published", "final/return_mean"} <= last.keys()
    seen = set().union(*rows)
    assert {"actor/return_mean", "actor/lag_updates", "learner/loss", "seconds"} <= seen


def test_a_loaded_agent_acts_as_the_evaluation_does(first: recollect.Run) -> None:
    """Trap 31: stepping `act` through episodes gives the returns that evaluation measured."""
    agent = recollect.load(first)
    env = gymnasium.make("recollect.envs.registry:recollect/Recall-v0", delay=3)
    from recollect.agents.evaluating import evaluation_seeds

    seeds = evaluation_seeds(5, np.arange(12))
    returns = []
    for seed in seeds:
        observation, _ = env.reset(seed=int(seed))
        total, reward, start, over = 0.0, 0.0, True, False
        while not over:
            action = agent.act(observation, reward, start)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, start, over = total + reward, False, terminated or truncated
        returns.append(total)
    figures = recollect.evaluate(first, episodes=12, seed=5)
    assert figures["return_mean"] == pytest.approx(np.mean(returns))
    assert figures["episodes"] == 12


def test_best_and_last_are_both_kept(first: recollect.Run) -> None:
    assert recollect.load(first, "best").which == "best"
    assert recollect.evaluate(first, episodes=3, which="last")["which"] == "last"
    with pytest.raises(recollect.ConfigError, match="did you mean last"):
        recollect.load(first, "lasst")


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> recollect.Run:
    """A run evaluated once, at update 48, and last published on its own at update 64."""
    return recollect.train(
        "r2d2",
        env="tests/Clock-v0",
        network="tests.agents.clockwork:Counter",
        run_dir=tmp_path_factory.mktemp("brief") / "run",
        seed=7,
        env_steps=600,
        min_replay_steps=200,
        burn_in=4,
        trace_length=8,
        period=4,
        n_step=2,
        batch_size=16,
        publish_period=16,
        evaluation_period=48,
        evaluation_episodes=3,
    )


def test_last_is_what_the_last_update_made_and_best_what_was_evaluated(
    brief: recollect.Run,
) -> None:
    last, best = recollect.load(brief, "last"), recollect.load(brief, "best")
    assert 64 < brief.updates < 80
    assert last.meta["updates"] == brief.updates, "published once more at the end"
    assert last.meta["env_steps"] == last.env_steps == brief.env_steps
    assert best.meta["updates"] == 48
    assert best.env_steps < last.env_steps
    assert not equal(parameters(brief, "last"), parameters(brief, "best"))
    for agent in (last, best):
        assert equal(named_arrays(agent.policy.network), parameters(brief, agent.which))


def test_the_best_score_is_of_the_evaluators_episodes(brief: recollect.Run) -> None:
    again = recollect.evaluate(brief, episodes=3, seed=7, which="best")
    assert recollect.load(brief, "best").meta["score"] == again["return_mean"]
    [row] = [r for r in read_metrics(brief.folder) if "evaluator/return_mean" in r]
    assert (row["evaluator/return_mean"], row["evaluator/version_updates"]) == (
        again["return_mean"],
        48,
    )


def test_a_run_ends_with_20_greedy_episodes_of_its_last_parameters(brief: recollect.Run) -> None:
    again = recollect.evaluate(brief, episodes=20, seed=7, which="last")
    assert brief.return_mean == again["return_mean"]
    assert brief.return_mean != recollect.evaluate(brief, episodes=19, seed=7)["return_mean"]
    *_, row = read_metrics(brief.folder)
    assert (row["final/return_mean"], row["final/episodes"]) == (brief.return_mean, 20)


def test_a_run_says_what_was_done(brief: recollect.Run) -> None:
    *_, row = read_metrics(brief.folder)
    assert (row["env_steps"], row["updates"]) == (brief.env_steps, brief.updates)
    assert row["run/learned_windows"] == 16 * brief.updates
    share = row["run/learned_windows_mid_episode"] / row["run/learned_windows"]
    assert brief.mid_episode_share == share
    assert 0 < share < 1
    status = json.loads((brief.folder / "status.json").read_text())
    assert (status["state"], status["env_steps"]) == ("finished", brief.env_steps)


def test_a_folder_that_holds_something_is_left_alone(first: recollect.Run) -> None:
    before = sorted(p.name for p in first.folder.iterdir())
    with pytest.raises(recollect.ConfigError, match="run"):
        train(first.folder)
    assert sorted(p.name for p in first.folder.iterdir()) == before


def test_without_an_evaluation_there_are_no_best_parameters_and_it_says_why(
    tmp_path: Path,
) -> None:
    run = train(tmp_path / "run", env_steps=700, evaluation_period=10_000)
    with pytest.raises(checkpoint.CheckpointError, match="was never evaluated while it ran"):
        recollect.load(run, "best")


def test_an_interrupted_run_keeps_what_it_has_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recollect.agents.r2d2 import Learner

    step = Learner.step

    def interrupted(self: Learner) -> None:
        step(self)
        if self.updates == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.status()["state"] == "interrupted"
    assert folder.curve.is_file()
    assert recollect.load(folder.path).meta["updates"] == 30
    assert read_metrics(folder.path)[-1]["updates"] == 30


def test_an_environment_that_is_no_id_is_refused() -> None:
    with pytest.raises(recollect.ConfigError, match=r"env must be the id .* got TimeLimit: regis"):
        recollect.prepare("r2d2", env=gymnasium.make("CartPole-v1"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_state": "zeros"}, "start_state must be 'stored' or 'zero', got 'zeros'"),
        ({"prioritized": "False"}, "prioritized must be True or False, got 'False'"),
        ({"actors": True}, "actors must be a whole number, got True"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, got 2.0"),
        ({"gamma": float("nan")}, "gamma must be a finite number, got nan"),
        ({"gamma": None}, "gamma must be a finite number, got None"),
        ({"torso_sizes": [3]}, r"torso_sizes must be a tuple of whole numbers, got \[3\]"),
        ({"torso_sizes": ("a",)}, "torso_sizes must be a tuple of whole numbers"),
        ({"priority_exponent": 40}, r"priority_exponent must be in \[0, 1\], got 40"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused(settings: dict[str, Any], message: str) -> None:
    """A misspelt word would silently be another algorithm."""
    with pytest.raises(recollect.ConfigError, match=message):
        recollect.prepare("r2d2", env="recollect/Recall-v0", settings=settings)


def test_the_rate_falls_over_the_run_however_long_it_is() -> None:
    for asked, steps in ((None, 160_000), (1_000_000, 1_000_000)):
        job = recollect.prepare("r2d2", env="recollect/Recall-v0", env_steps=asked)
        assert (job.env_steps, job.config.decay_steps) == (steps, steps)


def test_a_run_too_short_to_learn_says_so(tmp_path: Path) -> None:
    said = r"nothing will be learned: the run ends after 400 .* begins after 500: raise env_steps"
    with pytest.warns(RuntimeWarning, match=said):
        run = train(tmp_path / "run", env_steps=400)
    assert (run.updates, run.mid_episode_share) == (0, 0)


def test_a_stored_config_that_is_wrong_is_named_with_its_file(
    first: recollect.Run, tmp_path: Path
) -> None:
    copied = recollect.load(first).save(tmp_path / "copied")
    stored = RunFolder.open(copied).config()
    lacking = {k: v for k, v in stored["config"].items() if k != "gamma"}
    (copied / "config.json").write_text(json.dumps({**stored, "config": lacking}))
    with pytest.raises(recollect.ConfigError, match=r"copied/config\.json: .* lacks gamma"):
        recollect.load(copied)


def test_whole_trajectories_take_a_presets_burn_in_away() -> None:
    def config(**settings: Any) -> Any:
        return recollect.prepare("r2d2", env="recollect/Recall-v0", settings=settings).config

    assert config().burn_in > 0
    assert config(sequences="trajectories").burn_in == 0
    with pytest.raises(recollect.ConfigError, match="burn_in 4 with sequences=trajectories"):
        config(sequences="trajectories", burn_in=4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"agent": "r2d3"}, "unknown agent r2d3: did you mean r2d2"),
        ({"preset": "smal"}, "unknown preset smal: did you mean small"),
        ({"env": "recollect/Recal-v0"}, "recollect/Recall-v0"),
        ({"env": "Pendulum-v1"}, "continuous actions"),
        ({"settings": {"n_stepp": 3}}, "unknown setting n_stepp: did you mean n_step"),
        ({"settings": {"n_step": 99}}, "n_step 99 is longer than trace_length"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"env_steps": 0}, "env_steps must be 1 or more"),
        ({"settings": {"env_step": 9}}, "unknown setting env_step: did you mean env_steps"),
        ({"settings": {"run_dirr": ""}}, "unknown setting run_dirr: did you mean run_dir"),
        ({"settings": {"seed": 1}}, "seed is an argument of its own: give it beside the settings"),
        ({"settings": {"runtime": "x"}}, "runtime is an argument of its own"),
        ({"settings": {"replay_bytes": "4GB"}}, "bytes, such as 4_000_000_000, got '4GB'"),
    ],
)
def test_bad_words_are_refused_by_name(words: dict[str, Any], message: str) -> None:
    given = {"agent": "r2d2", "env": "recollect/Recall-v0"} | words
    with pytest.raises(recollect.ConfigError, match=message):
        recollect.prepare(given.pop("agent"), **given)


def test_replay_that_cannot_fit_is_refused_with_the_bytes(tmp_path: Path) -> None:
    with pytest.raises(recollect.ConfigError, match=r"needs \d[\d.]* GB and .* GB are free"):
        train(tmp_path / "huge", replay_steps=10**12)
    assert not (tmp_path / "huge").exists()


@pytest.mark.parametrize(
    ("free", "advised"),
    [(100, 1_000_000), (150_000_000, 60_000_000), (10_240_000_000, 4_000_000_000)],
)
def test_the_bytes_advised_are_a_limit_and_a_share_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, free: int, advised: int
) -> None:
    job = recollect.prepare("r2d2", env="recollect/Recall-v0")
    monkeypatch.setattr(execution, "free_memory", lambda: free)
    with pytest.raises(recollect.ConfigError, match=f"set replay_bytes, to {advised:_} for"):
        execution._check_memory(job, free + 1)
    assert execution._check_memory(job, free).startswith("replay: ")


def test_what_changes_nothing_or_looks_wrong_is_told() -> None:
    def odd(env: str, **settings: Any) -> list[str]:
        return recollect.prepare("r2d2", env=env, settings=settings).odd()

    assert odd("recollect/Recall-v0") == odd("ALE/Pong-v5", torso="impala") == []
    said = odd("recollect/Recall-v0", torso="impala", frame_stack=4, threads=999)
    assert [line.partition(" ")[0] for line in said] == ["frame_stack", "torso", "threads"]
    assert "recollect/Recall-v0 has no images" in said[0]


def test_an_image_that_is_not_of_bytes_is_told() -> None:
    job = recollect.prepare("r2d2", env="recollect/Recall-v0")
    for shape, dtype, lines in (
        ((60, 80, 3), "float32", 1),
        ((3, 60, 80), "float32", 1),
        ((60, 80), "int16", 1),
        ((60, 80, 3), "uint8", 0),
        ((4, 5), "float32", 0),
        ((984,), "float32", 0),
    ):
        env = replace(job.env, observation={"view": ArraySpec(shape, dtype)})
        assert len(replace(job, env=env).odd()) == lines


def test_a_run_that_is_stopped_while_a_part_dies_says_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C7: a signal to all of a job's processes ends parts before they can be saved."""

    def stopped(self: Any) -> None:
        raise Interrupted("SIGTERM")

    def died(self: Any) -> bool:
        raise PartLostError("actor/0: its process has died", "actor/0")

    monkeypatch.setattr(loop.Training, "to_the_end", stopped)
    monkeypatch.setattr(loop.Training, "save_and_wait", died)
    run = tmp_path / "run"
    with pytest.raises(PartLostError, match="actor/0"):
        recollect.train("r2d2", env="recollect/Recall-v0", run_dir=run)
    state = json.loads((run / "status.json").read_text())["state"]
    assert state == "failed: actor/0: its process has died"
    assert list((run / "checkpoints").glob("failed-*"))


def test_a_run_that_cannot_begin_leaves_its_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1: as where a cluster has no room; the same words, mended, are taken the second time."""
    run = tmp_path / "run"
    words: dict[str, Any] = {"env": "recollect/Recall-v0", "env_steps": 10}

    def refused(*_: Any) -> None:
        raise ConfigError("there is no room")

    with monkeypatch.context() as now:
        now.setattr(runtimes, "begun", refused)
        with pytest.raises(ConfigError, match="no room"):
            recollect.train("r2d2", run_dir=run, **words)
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.train("r2d2", run_dir=run, **words)


def test_a_resume_that_is_refused_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1: a cluster that is not there, and the next `resume` goes on as the run was."""
    run = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.train("r2d2", env="recollect/Recall-v0", env_steps=10, run_dir=run)
    before = (run / "config.json").read_text()

    def refused(*_: Any) -> None:
        raise ConfigError("no Ray cluster answers at 127.0.0.1:9")

    more = {"env_steps": 1_000_000, "env_processes": 1}
    with monkeypatch.context() as now:
        now.setattr(runtimes, "begun", refused)
        with pytest.raises(ConfigError, match="no Ray cluster"):
            recollect.resume(run, **more, runtime="ray", address="127.0.0.1:9")
    assert (run / "config.json").read_text() == before
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.resume(run, env_steps=30)
    assert json.loads((run / "config.json").read_text())["env_steps"] == 30


def test_a_resume_that_is_stopped_before_it_has_begun_keeps_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C7: while its parts start; the line that is said then names no options."""
    run = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.train("r2d2", env="recollect/Recall-v0", env_steps=10, run_dir=run)

    def stopped(*_: Any) -> None:
        raise Interrupted("SIGINT")

    monkeypatch.setattr(runtimes, "begun", stopped)
    with pytest.raises(Interrupted):
        recollect.resume(run, env_steps=30, runtime="ray")
    config = json.loads((run / "config.json").read_text())
    assert (config["env_steps"], config["runtime"]) == (30, "ray")


def test_what_was_said_of_a_cluster_does_not_keep_a_run_from_going_on_inline() -> None:
    """Must go on with either runtime: an address that is written down cannot be left out."""
    job = prepare(
        "r2d2", env="recollect/Recall-v0", runtime="ray", address="a:1", place="actor:cpus=2"
    )
    now = job.changed(runtime="inline")
    assert (now.runtime, now.address, now.place) == ("inline", "", "")
    assert job.changed(env_steps=5).address == "a:1"
    here = job.changed(address="")
    assert (here.runtime, here.address, here.place) == ("ray", "", "")
    assert here.changed(address="", place="learner:cpus=2").changed(address="").place != ""
    with pytest.raises(ConfigError, match="is for runtime ray"):
        job.changed(runtime="inline", address="b:1")


def test_a_learner_computes_on_the_processors_that_it_was_given_and_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtimes, "processors", lambda: 8)

    def told(place: str, address: str = "") -> str:
        env, settings = "recollect/Recall-v0", {"actor_processes": 2}
        job = prepare(
            "r2d2", env=env, runtime="ray", address=address, place=place, settings=settings
        )
        return runtimes.told(job)

    assert "a learner on 4 threads, 2 for" in told("learner:cpus=4")
    assert "a learner on 8 threads, 2 for" in told("learner:cpus=5000")
    alone = prepare("r2d2", env="recollect/Recall-v0", runtime="ray", settings={"threads": 1})
    assert "a learner on 1 thread, 1 for" in runtimes.told(alone)
    assert "a learner on 64 threads, 2 for" in told("learner:cpus=64", "a:1"), "of its own machine"


def test_what_is_said_of_settings_is_left_to_the_display_to_wrap() -> None:
    job = prepare("r2d2", env="recollect/Recall-v0", preset="small")
    (text,) = execution._differences(job)
    assert len(text) > 200
    assert not [line for line in (text, *execution._told(job)) if "\n" in line]


def test_what_starts_is_said_of_ray_alone() -> None:
    def starting(**more: Any) -> str:
        settings = {"actor_processes": 2}
        job = prepare("r2d2", env="recollect/Recall-v0", **more, settings=settings)
        return runtimes.starting(job, runtimes.program_of(job))

    assert starting() == ""
    assert re.fullmatch(r"starting Ray and \d parts", starting(runtime="ray"))
    assert starting(runtime="ray", address="a:1").startswith("joining the cluster at a:1 and start")


def test_a_stopped_run_shows_where_it_was_saved_and_going_on_says_so_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The display, status.json, the checkpoint and the next start name the same steps."""
    run, must_stop = tmp_path / "run", loop.Training._must_stop

    def look(self: loop.Training) -> bool:
        if self._env_steps() >= 1050:  # a row comes after 1,040 steps and the next after 1,072
            os.kill(os.getpid(), signal.SIGTERM)
        return must_stop(self)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    began: list[Any] = []
    started = execution.Progress.started
    monkeypatch.setattr(
        execution.Progress, "started", lambda self: [began.append(self), started(self)]
    )
    with monkeypatch.context() as now:
        now.setattr(loop.Training, "_must_stop", look)
        with pytest.raises(Interrupted):
            train(run, verbose=True)
    status = json.loads((run / "status.json").read_text())
    steps = status["env_steps"]
    assert read_metrics(run)[-1]["env_steps"] < steps, "no row was added"
    said = capsys.readouterr().out.splitlines()
    assert f" {steps:,} steps" in said[-1]
    assert f"checkpoint after {steps:,} steps" in said[-2]
    assert "." in status["written"], "to the millisecond"
    assert status["seconds"] >= read_metrics(run)[-1]["seconds"] > 0
    monkeypatch.setattr(runtimes, "begun", killed)
    with pytest.raises(KeyboardInterrupt):
        recollect.resume(run, verbose=True)
    assert len(began) == 1, "the clock goes once the parts are there"
    assert f"going on after {steps:,} of 4,000 steps" in capsys.readouterr().out


def test_what_going_on_inline_forgets_is_told_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places may be of this machine: nothing is said of an address that was not given."""
    run, said = tmp_path / "run", []
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.train("r2d2", env="recollect/Recall-v0", env_steps=10, run_dir=run)
    config = json.loads((run / "config.json").read_text())
    config |= {"runtime": "ray", "place": "learner:cpus=2"}
    (run / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(execution, "_carry_on", lambda *given, **_: said.extend(given[-1]))
    recollect.resume(run, env_steps=30, runtime="inline")
    (line,) = [text for text in said if "forgotten" in text]
    assert line == "forgotten: place 'learner:cpus=2'; to go back to that, give it again"


def test_parts_that_died_before_a_resume_are_counted_on(tmp_path: Path) -> None:
    """Also where somebody has spoilt the file that tells of them."""
    run = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.train("r2d2", env="recollect/Recall-v0", env_steps=10, run_dir=run)
    told = [{"part": "actor/0", "lost_steps": 7}, {"part": "learner", "lost_steps": 0}]
    text = [*map(json.dumps, told), "[]", '{"lost_steps": null}', "{", "\x00"]
    (run / "faults.jsonl").write_text("\n".join(text))
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.resume(run, env_steps=30)
    assert json.loads((run / "status.json").read_text())["deaths"] == 2
    counted = loop._faults_before(RunFolder(run))
    assert counted == {"faults/deaths": 2, "faults/recoveries": 2, "faults/lost_steps": 7}
    (run / "faults.jsonl").unlink()
    assert not loop._faults_before(RunFolder(run))["faults/deaths"]
