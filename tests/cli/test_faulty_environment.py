"""An environment that fails now and then: the run goes on and says so, or ends in good order."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import recollect
from recollect import cli
from recollect.envs.failures import LIMIT
from recollect.run.metrics import read_metrics
from tests.agents.clockwork import Clock

WORDS = (
    "train r2d2 --env tests/Holes-v0 --env-steps 600 --actors 4 --min-replay-steps 60 "
    "--evaluation-period 4 --evaluation-episodes 6 --hidden 8 --head-hidden 8 --torso-sizes 8 "
    "--burn-in 2 --trace-length 4 --period 2 --n-step 1 --batch-size 4 --replay-ratio 2 --run-dir"
)

SHARE = 0.01
"""Of rewards that are NaN: more than are told of, and fewer failures than end a run."""


class Holes(Clock):
    """A clock that gives a reward of NaN now and then, whatever it was seeded with."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__(longest=20)
        self.share, self.draws = share, np.random.default_rng(0)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, *rest = super().step(action)
        if self.draws.random() < self.share:
            reward = math.nan
        return observation, reward, *rest


gymnasium.register("tests/Holes-v0", entry_point=Holes)


def arguments(run: Path, share: float) -> list[str]:
    return [*WORDS.split(), str(run), "--env-kwargs", json.dumps({"share": share})]


@dataclass(frozen=True)
class Trained:
    """A run with holes: its folder, its exit code, and what it said."""

    run: Path
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run, out, err = tmp_path_factory.mktemp("holes") / "run", io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")  # in tests they are errors
        code = cli.main(arguments(run, SHARE))
    return Trained(run, code, out.getvalue(), err.getvalue())


def test_the_run_ends_whole_and_says_that_its_last_evaluation_failed(trained: Trained) -> None:
    run = trained.run
    assert trained.code == 1
    assert re.match(
        r"recollect: the final evaluation failed: environment tests/Holes-v0, slot \d+, evaluation "
        r"episode \d+, step \d+: reward is nan, a finite number was wanted",
        trained.err,
    )
    assert trained.err.count("\n") == 1
    assert "greedy return    not known\n" in trained.out
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert (run / "curve.png").is_file()
    assert list(run.glob("checkpoints/last-*"))
    last = read_metrics(run)[-1]
    assert "final/return_mean" not in last
    assert last["updates"] > 5


def test_the_first_dropped_episodes_are_told_of_and_the_rest_counted(trained: Trained) -> None:
    last = read_metrics(trained.run)[-1]
    dropped = last["run/dropped_episodes"]
    assert dropped == last["run/env_failures"] <= LIMIT
    told = [line for line in trained.out.splitlines() if "the episode is dropped" in line]
    assert dropped > len(told) == 3
    named = (
        r"warning: environment tests/Holes-v0, slot [0-3], episode \d+, step \d+: reward is nan, "
    )
    assert all(re.match(named, line) for line in told)
    assert [line.endswith("More of these are only counted") for line in told] == [
        False,
        False,
        True,
    ]
    assert (
        f"failures         {dropped:.0f} of environments, {dropped:.0f} episodes dropped\n"
        in trained.out
    )


def test_evaluations_with_a_hole_are_left_out_and_the_others_count(trained: Trained) -> None:
    last = read_metrics(trained.run)[-1]
    told = trained.out.count("updates is left out: environment tests/Holes-v0, slot ")
    assert last["run/failed_evaluations"] > told == 3
    assert last["run/evaluations"] > 3
    tried = last["run/failed_evaluations"] + last["run/evaluations"]
    assert tried == last["updates"] // 4, "a failed one is not tried again before the next is due"


def test_evaluating_such_a_run_is_refused_in_one_line(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(trained.run), "--episodes", "20"]) == 1
    said = capsys.readouterr().err
    assert re.match(
        r"recollect: environment tests/Holes-v0, slot \d+, evaluation episode \d+, step \d+: "
        "reward is nan, a finite number was wanted",
        said,
    )
    assert said.count("\n") == 1


def test_from_python_the_return_is_not_a_number_and_the_reason_is_there(tmp_run: Path) -> None:
    with pytest.warns(RuntimeWarning, match="the episode is dropped"):
        run = recollect.train(
            "r2d2",
            env="tests/Holes-v0",
            env_kwargs={"share": 1.0},
            env_steps=10,
            run_dir=tmp_run,
            actors=2,
            min_replay_steps=9,
        )
    assert math.isnan(run.return_mean)
    assert "the final evaluation failed: environment tests/Holes-v0, slot " in run.fault
    assert run.dropped_episodes == run.env_failures == 10
    assert run.updates == 0


class Crash(Clock):
    """Raises, or gives what does not fit, at its hundredth step: a new one again."""

    def __init__(self, how: str) -> None:
        super().__init__(longest=20)
        self.how, self.steps = how, 0

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        given = super().step(action)
        if self.steps < 100:
            return given
        if self.how == "raises":
            raise OSError("the link is down")
        if self.how == "shape":
            return (np.zeros(7, np.float32), *given[1:])
        return (*given[:2], None, *given[3:])


gymnasium.register("tests/Crash-v0", entry_point=Crash)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", r"step raised OSError: the link is down \(.*test_faulty_environment.py, line "),
        (
            "shape",
            r"observation 'observation' has shape \(7,\), its space says \(3,\) \(from step\)",
        ),
        ("flag", r"terminated is None, True or False was wanted \(from step\): mend"),
    ],
)
def test_an_environment_that_fails_is_named_in_one_line_and_what_was_learned_is_kept(
    how: str, message: str, tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS.replace("Holes", "Crash").split(), str(tmp_run)]
    words[words.index("--env-steps") + 1] = "9000"
    words += ["--env-kwargs", json.dumps({"how": how}), "--evaluation-period", "0"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main([*words, "--checkpoint-seconds", "0.01"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    named = r"recollect: environment tests/Crash-v0, slot [0-3], episode \d+, step \d+: "
    counted = ".*; that is failure 11 within 10 minutes and 10 are borne: mend the environment; "
    assert re.match(named + message + counted, said), said
    assert f"what was learned lies in {tmp_run}: python -m recollect evaluate {tmp_run}" in said
    status = json.loads((tmp_run / "status.json").read_text())
    assert status["state"].startswith("failed: environment tests/Crash-v0, slot ")
    saved = {path.name.split("-")[0] for path in (tmp_run / "checkpoints").iterdir()}
    assert saved == {"last", "failed"}
    assert recollect.load(tmp_run).env_steps == status["env_steps"] > 300, "of the newer"
    assert (tmp_run / "curve.png").is_file()


def test_without_holes_nothing_of_this_is_said(
    tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(tmp_run, 0.0)) == 0
    out = capsys.readouterr().out
    assert "warning" not in out
    assert "failures" not in out
