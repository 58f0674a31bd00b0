"""`recollect resume`, and `train --from`: what goes on, what is refused, what is said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recollect
from recollect import cli
from recollect.cli.train import KEEPING, RUNTIME
from recollect.envs.memory import Recall
from recollect.run import checkpoint
from recollect.run.lock import RunLock
from recollect.run.metrics import read_metrics, without_wall_clock
from recollect.training.saves import Saves

SMALL = [
    "--env",
    "recollect/Recall-v0",
    "--env-steps",
    "400",
    "--actors",
    "4",
    "--min-replay-steps",
    "60",
    "--replay-steps",
    "300",
    "--batch-size",
    "5",
    "--burn-in",
    "2",
    "--trace-length",
    "4",
    "--period",
    "2",
    "--n-step",
    "2",
    "--hidden",
    "8",
    "--head-hidden",
    "7",
    "--torso-sizes",
    "7",
    "--replay-ratio",
    "8",
    "--evaluation-period",
    "20",
    "--evaluation-episodes",
    "3",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint at its end and one from before, however the clock falls."""
    run = tmp_path_factory.mktemp("resume") / "run"
    words = [*SMALL, "--checkpoint-seconds", "0.02", "--run-dir", str(run)]
    start = Saves.start

    def not_at_the_end(saves: Saves, **what: Any) -> None:
        if what["meta"]["env_steps"] < 400:
            start(saves, **what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saves, "start", not_at_the_end)
        assert cli.main(["train", "r2d2", *words]) == 0
    older, newer = (int(path.name.split("-")[1]) for path in fulls(run))
    assert older < newer == 400
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert cli.main(list(words)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("recollect: ").rstrip("\n")


def steps(run: Path) -> list[int]:
    return [row["env_steps"] for row in read_metrics(run)]


def test_a_finished_run_goes_on_only_if_it_is_told_how_long(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    said = refused(capsys, "resume", str(run))
    assert said.startswith(f"{run} is finished, after 400 environment steps: to go on, give")
    assert said.endswith("--env-steps a larger number")
    said = refused(capsys, "resume", str(run), "--env-steps", "300")
    assert "is finished" in said
    assert sorted(run.rglob("*")) == before
    rows = read_metrics(run)
    assert cli.main(["resume", str(run), "--env-steps", "600"]) == 0
    assert "trained          600 environment steps" in capsys.readouterr().out
    assert read_metrics(run)[: len(rows) - 1] == rows[:-1], "all but the row of the end stay"
    (aside,) = run.glob("metrics-aside-*.jsonl")
    assert json.loads(aside.read_text())["final/episodes"] == 20
    assert steps(run)[-1] == 600
    config = json.loads((run / "config.json").read_text())
    assert config["env_steps"] == config["config"]["decay_steps"] == 600
    assert read_metrics(run)[-1]["updates"] > rows[-1]["updates"]
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_environments_may_get_processes_of_their_own_which_changes_no_bit(
    run: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    longer = ("--env-steps", "600")
    assert cli.main(["resume", str(run), *longer]) == 0
    processes = ("--env-processes", "2", "--env-deadline", "9")
    assert cli.main(["resume", str(other), *longer, *processes]) == 0
    rows, others = ([without_wall_clock(row) for row in read_metrics(x)] for x in (run, other))
    assert rows == others
    assert rows[-1]["env_steps"] == 600
    assert rows[-1]["run/cut_short_episodes"] == 0
    config = json.loads((other / "config.json").read_text())["config"]
    assert (config["env_processes"], config["env_deadline"]) == (2, 9.0)


@pytest.mark.parametrize("damage", ["garbage", "a pipe"])
def test_status_json_decides_nothing(run: Path, damage: str) -> None:
    """It is for programs that look on: the checkpoint says how far the run is."""
    (run / "status.json").unlink()
    if damage == "garbage":
        (run / "status.json").write_text("garbage")
    else:
        os.mkfifo(run / "status.json")
    assert cli.main(["resume", str(run), "--env-steps", "420"]) == 0
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_an_environment_that_goes_to_another_folder_takes_the_run_not_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    inner = Recall.reset

    def reset(self: Recall, **given: Any) -> Any:
        os.chdir(away)
        return inner(self, **given)

    monkeypatch.setattr(Recall, "reset", reset)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "r2d2", *SMALL, "--run-dir", "here"]) == 0
    assert "run              here\n" in capsys.readouterr().out
    assert not list(away.iterdir())
    os.chdir(tmp_path)
    assert cli.main(["resume", "here", "--env-steps", "500"]) == 0
    assert not list(away.iterdir())
    assert len(fulls(tmp_path / "here")) == 2


def test_a_setting_of_the_config_that_cannot_be_is_refused_by_its_option(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "resume", str(run), "--env-steps", "600", "--env-deadline", "0")
    assert said.startswith("--env-deadline must be above 0")


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--learning-rate", "1e-3"], "--learning-rate"),
        (["--seed=4"], "--seed"),
        (["--env", "CartPole-v1"], "--env"),
        (["--no-double-q"], "--no-double-q"),
        (["--actor_processes", "2"], "--actor-processes"),
        (["--from", "x"], "--from"),
    ],
)
def test_what_may_not_change_is_refused_by_name(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], flag: str
) -> None:
    said = refused(capsys, "resume", str(run), *words)
    may = (
        "--actor-device, --address, --checkpoint-seconds, --device, --env-deadline, "
        "--env-processes, --env-steps, --keep-checkpoints, --place, --runtime, --threads"
    )
    assert said.startswith(f"{flag} cannot change on resume, only {may} can: ")


def test_another_word_is_refused_with_the_nearest(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "resume", str(run), "--env-stepz", "5")
    assert said == "unknown option --env-stepz: did you mean --env-steps?"
    assert refused(capsys, "resume") == "resume needs a run: give its folder"


def test_a_config_that_was_edited_is_refused_by_name(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((run / "config.json").read_text())
    config["config"]["gamma"] = 0.5
    config["seed"] = 9
    (run / "config.json").write_text(json.dumps(config))
    said = refused(capsys, "resume", str(run), "--env-steps", "500")
    assert "gamma is 0.5 in config.json and was 0.99; seed is 9 in config.json and was 0" in said
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def damage(path: Path) -> None:
    (path / "state.json").write_text("{}")


def fulls(run: Path) -> list[Path]:
    found = run.glob("checkpoints/last-*")
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def test_c2_a_damaged_checkpoint_is_passed_over_loudly(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [without_wall_clock(row) for row in read_metrics(run)]
    older, newer = fulls(run)
    damage(newer)
    assert cli.main(["resume", str(run)]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("ERROR")]
    assert str(newer / "state.json") in line
    assert older.name in line
    rows = read_metrics(run)
    assert rows[-1]["checkpoint/damaged"] == 1
    assert [without_wall_clock(row) for row in rows] == whole, "it came to the same end"


def test_c2_without_a_whole_checkpoint_it_never_begins_anew_by_itself(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in fulls(run):
        damage(path)
    said = refused(capsys, "resume", str(run))
    assert all(str(path / "state.json") in said for path in fulls(run))


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew_and_says_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [without_wall_clock(row) for row in read_metrics(run)]
    shutil.rmtree(run / "checkpoints")
    (run / "status.json").unlink()
    assert cli.main(["resume", str(run)]) == 0
    said = capsys.readouterr().out
    assert "there is no checkpoint to go on from: the run begins anew\n" in said
    assert "rows of metrics of the attempt before are now in metrics-aside-1.jsonl\n" in said
    assert [without_wall_clock(row) for row in read_metrics(run)] == whole


def test_c8_another_process_at_work_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLock(run):
        said = refused(capsys, "resume", str(run), "--env-steps", "500")
    assert said.startswith(f"{run} is in use by process ")


def test_a_new_run_begins_with_anothers_parameters(run: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    # No learning: fewer steps than learning begins after.
    short = ["--env-steps", "40", "--evaluation-period", "0", "--seed", "5"]
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.train(
            "r2d2",
            run_dir=new,
            start_from=run,
            env="recollect/Recall-v0",
            env_steps=40,
            seed=5,
            **{
                "actors": 4, "min_replay_steps": 60, "replay_steps": 300, "batch_size": 5,
                "burn_in": 2, "trace_length": 4, "period": 2, "n_step": 2, "hidden": 8,
                "head_hidden": 7, "torso_sizes": (7,), "evaluation_period": 0,
            },
        )  # fmt: skip
    found, wanted = (
        checkpoint.load_parameters(checkpoint.find(folder / "checkpoints", "last"))[0]
        for folder in (new, run)
    )
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    assert json.loads((new / "config.json").read_text())["start_from"] == str(run)
    assert short


def test_parameters_that_do_not_fit_are_refused_and_leave_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    words = ["train", "r2d2", *SMALL, "--hidden", "9", "--from", str(run), "--run-dir", str(new)]
    capsys.readouterr()
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"recollect: the parameters of {run} do not fit this run: parameter ")
    assert not new.exists()
    assert cli.main([*words[:-6], "--from", str(tmp_path / "no"), "--run-dir", str(new)]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert not new.exists()


def test_its_help_names_no_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not given stays as the run has it, and that is not what `train` begins with."""
    assert cli.main(["resume", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for option in (*KEEPING, *RUNTIME):
        (line,) = [line for line in lines if line.strip().startswith(f"{option.flag} ")]
        assert line.split()[2] == option.help.split()[0]
