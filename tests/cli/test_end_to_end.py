"""The commands one after the other, on a run as small as a run can be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import recollect
from recollect import cli
from recollect.agents.r2d2 import R2D2Config
from recollect.cli import settings
from recollect.machine import free_memory
from recollect.run.metrics import without_wall_clock

SMALL = (
    "--env recollect/Recall-v0 --env-steps 400 --actors 4 --min-replay-steps 60 --replay-steps 300 "
    "--batch-size 5 --burn-in 2 --trace-length 4 --period 2 --n-step 2 --hidden 8 --head-hidden 7 "
    "--torso-sizes 7 --replay-ratio 8 --evaluation-period 20 --evaluation-episodes 3"
)


def arguments(agent: str, run: Path, *rest: str) -> list[str]:
    where = ["--run-dir", str(run), "--env-kwargs", '{"delay": 9}']
    return ["train", agent, *where, *SMALL.split(), *rest]


def stored_steps(run: Path) -> int:
    return int(json.loads((run / "config.json").read_text())["env_steps"])


@pytest.mark.parametrize("agent", ["r2d2", "drqn"])
def test_train_evaluate_plot(agent: str, tmp_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(agent, tmp_run, "--seed", "3")) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{agent} on recollect/Recall-v0, seed 3\n")
    assert "burn_in 2 (40)" in " ".join(out.split()) or agent == "drqn"
    share = int(out.split("learned windows")[1].split("%")[0])
    assert 0 < share < 100  # episodes are longer than a window
    assert out.endswith(
        f"next:\n  python -m recollect evaluate {tmp_run} --episodes 100\n"
        f"  python -m recollect plot {tmp_run}\n"
        f"  python -m recollect resume {tmp_run} --env-steps {2 * stored_steps(tmp_run)}\n"
    )
    assert (tmp_run / "curve.png").stat().st_size > 0
    stored = json.loads((tmp_run / "config.json").read_text())
    assert (stored["agent"], stored["seed"], stored["env"]["kwargs"]) == (agent, 3, {"delay": 9})
    assert stored["config"]["torso_sizes"] == [7]
    assert json.loads((tmp_run / "status.json").read_text())["state"] == "finished"
    rows = [json.loads(line) for line in (tmp_run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["replay/fill"] == rows[-1]["replay/steps"] / 300

    for which in ("last", "best"):
        assert cli.main(["evaluate", str(tmp_run), "--episodes", "5", "--which", which]) == 0
        assert f"parameters          {which}, after " in capsys.readouterr().out
    assert cli.main(["evaluate", str(tmp_run), "--episodes", "5", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["episodes"], figures["seed"], figures["which"]) == (5, 1, "last")
    assert figures["env_steps"] == rows[-1]["env_steps"] >= 400
    expected = recollect.evaluate(tmp_run, episodes=5)
    assert json.dumps(expected) == json.dumps(figures)

    assert cli.main(["plot", str(tmp_run), "--metric", "learner/loss"]) == 0
    assert (tmp_run / "learner_loss.png").stat().st_size > 0


def test_a_folder_that_holds_a_run_is_refused(
    tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments("r2d2", tmp_run, "--env-steps", "30", "--min-replay-steps", "20")
    assert cli.main(words) == 0
    before = {path: path.read_bytes() for path in tmp_run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith(f"recollect: {tmp_run} already holds a run: ")
    assert {path: path.read_bytes() for path in tmp_run.rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_is_refused_by_name(
    tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments("r2d2", tmp_run, "--env-steps", "80")) == 0
    (arrays,) = tmp_run.glob("checkpoints/last-*/parameters.safetensors")
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(data)
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_run)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("recollect: no 'last' or 'failed' checkpoint in ")
    assert err.count("\n") == 1
    assert str(arrays) in err


def test_a_replay_that_cannot_fit_is_refused_and_leaves_nothing(
    tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments("r2d2", tmp_run, "--replay-steps", "4_000_000_000_000")) == 2
    err = capsys.readouterr().err
    assert err.startswith("recollect: replay of 4,000,000,000,000 steps needs ")
    fits = re.search(r"are free: set --replay-bytes, to (\d[\d_]*) for instance, and as many", err)
    assert err.endswith("as that holds; or lower --replay-steps\n")
    assert not tmp_run.exists()
    assert fits is not None
    assert 0 < settings.read("replay_bytes", fits[1], R2D2Config) < 0.5 * free_memory()


def test_a_replay_that_cannot_hold_a_window_is_refused_and_leaves_nothing(
    tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting in ("--replay-bytes", "--replay-steps"):
        assert cli.main(arguments("r2d2", tmp_run, setting, "5")) == 2
        unit = setting.rpartition("-")[2]
        assert capsys.readouterr().err.startswith(
            f"recollect: a replay of 5 {unit} cannot hold one window, which lies in up to "
        )
        assert not tmp_run.exists()


def test_two_trainings_with_one_seed_are_equal(tmp_path: Path) -> None:
    rows = []
    for name in ("a", "b"):
        assert cli.main(arguments("r2d2", tmp_path / name)) == 0
        rows.append((tmp_path / name / "metrics.jsonl").read_text().splitlines())
    for a, b in zip(*rows, strict=True):
        assert without_wall_clock(json.loads(a)) == without_wall_clock(json.loads(b))
