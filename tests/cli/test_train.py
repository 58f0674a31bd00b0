from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recollect import cli, training
from recollect.agents.r2d2 import R2D2Config
from recollect.messages import PartLostError


class Executed:
    """Stands for `training.execute`: keeps the job, and says what a run would."""

    def __init__(self) -> None:
        self.job: Any = None

    def __call__(self, job: training.Job, run_dir: Path, *, verbose: bool) -> training.Run:
        assert verbose
        self.job, self.folder = job, Path(run_dir)
        return training.Run(self.folder, 17.25, 1_000, 50, 83.21, 0.625)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    stand_in = Executed()
    monkeypatch.setattr(training, "execute", stand_in)
    return stand_in


def train(line: str) -> int:
    return cli.main(["train", *line.split()])


def test_words_become_the_job(executed: Executed, tmp_run: Path) -> None:
    line = (
        'drqn --env recollect/Recall-v0 --env-kwargs {"delay":3} --preset paper --seed 7 '
        f"--env-steps 1e3 --run-dir {tmp_run} --n-step 3 --torso-sizes 7 5 --no-double-q "
        "--prioritized --rewards raw --gamma 0.5 --previous-action False --runtime inline"
    )
    assert train(line) == 0
    job = executed.job
    assert (job.agent, job.preset, job.seed, job.env_steps) == ("drqn", "paper", 7, 1000)
    assert (job.env.id, job.env.kwargs) == ("recollect/Recall-v0", {"delay": 3})
    assert executed.folder == tmp_run
    config = job.config
    assert (config.n_step, config.torso_sizes, config.rewards) == (3, (7, 5), "raw")
    assert (config.double_q, config.prioritized, config.previous_action) == (False, True, False)
    assert (config.gamma, config.burn_in, config.trace_length) == (0.5, 0, 10)  # the preset's


def test_the_agent_may_stand_behind_the_options(executed: Executed) -> None:
    assert train("--env recollect/Recall-v0 --prioritized drqn") == 0
    assert executed.job.agent == "drqn"
    assert executed.job.config.prioritized


def test_without_settings_the_job_is_the_presets(executed: Executed) -> None:
    assert train("r2d2 --env recollect/Recall-v0") == 0
    assert executed.job == training.prepare("r2d2", env="recollect/Recall-v0")
    assert executed.folder.parent == Path("runs")


def test_the_end_says_what_was_reached_and_what_to_do_next(
    executed: Executed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("r2d2 --env recollect/Recall-v0 --run-dir my_runs/first") == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "",
        "greedy return    17.25, mean of 20 episodes with the last parameters",
        "trained          1,000 environment steps and 50 updates in 83.2 s",
        "learned windows  62% start in mid-episode",
        "run              my_runs/first",
        "curve            my_runs/first/curve.png",
        "",
        "next:",
        "  python -m recollect evaluate my_runs/first --episodes 100",
        "  python -m recollect plot my_runs/first",
        "  python -m recollect resume my_runs/first --env-steps 2000",
    ]


def test_an_interrupt_says_where_the_rest_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(job: Any, run_dir: Path, *, verbose: bool) -> None:
        Path(run_dir, "checkpoints").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "execute", interrupted)
    assert train(f"r2d2 --env recollect/Recall-v0 --run-dir {tmp_run}") == 130
    said = capsys.readouterr().err
    assert said.startswith(f"recollect: interrupted; what was learned lies in {tmp_run}: ")
    assert said.endswith(f"recollect evaluate {tmp_run}\n")


def test_help_shows_the_defaults_of_the_agent_the_preset_and_the_environment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def shown(line: str, flag: str) -> str:
        assert train(line) == 0
        (entry,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith(f"  {flag} ")]
        return entry.split()[2]

    assert shown("--help", "--n-step") == "5"
    assert shown("drqn --help", "--n-step") == "1"
    assert shown("r2d2 --preset paper --help", "--burn-in") == str(R2D2Config().burn_in)
    assert shown("r2d2 --env recollect/Recall-v0 --help", "--hidden") == "32"
    assert shown("r2d2 --env nothing-v0 --nonsense --help", "--hidden") == "32"


def test_help_names_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("r2d2 --help") == 0
    page = capsys.readouterr().out
    words = "--env --env-kwargs --preset --runtime --address --place --seed --env-steps --run-dir "
    words += "--network --help"
    fields = [f"--{name.replace('_', '-')}" for name in R2D2Config.__dataclass_fields__]
    for word in [*words.split(), *fields]:
        assert f"  {word} " in page or f"  --[no-]{word[2:]} " in page, word
    assert "recollect/Recall-v0" in page


@pytest.mark.parametrize("saved", [True, False])
def test_of_a_part_that_died_it_says_whether_there_is_anything_to_go_on_from(
    saved: bool, tmp_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(job: training.Job, run_dir: Path, *, verbose: bool) -> training.Run:
        (run_dir / "checkpoints" / ("last-5-a" if saved else "failed-5-a")).mkdir(parents=True)
        raise PartLostError("actor/0: its process has died", "actor/0")

    monkeypatch.setattr(training, "execute", execute)
    assert train(f"r2d2 --env recollect/Recall-v0 --run-dir {tmp_run}") == 1
    go_on = "go on from its last checkpoint with" if saved else "begin again with"
    assert capsys.readouterr().err == (
        f"recollect: actor/0: its process has died; {go_on}: python -m recollect resume {tmp_run}\n"
    )
