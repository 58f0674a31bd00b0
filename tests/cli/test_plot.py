from __future__ import annotations

import json
from pathlib import Path

import pytest

from recollect import cli

PNG = b"\x89PNG\r\n"


def write_run(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    config = {"agent": "r2d2", "env": {"id": "recollect/Recall-v0", "kwargs": {}}, "seed": seed}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {"env_steps": n * 100, "evaluator/return_mean": n / 9 + seed / 10, "learner/loss": 1 / n}
        for n in range(1, 10)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_one_run_is_drawn_into_its_own_folder(
    tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_run, 0)
    assert cli.main(["plot", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'curve.png'}\n"
    assert (run / "curve.png").read_bytes().startswith(PNG)


def test_another_metric_gets_an_image_of_its_own(
    tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_run, 0)
    assert cli.main(["plot", str(run), "--metric", "learner/loss"]) == 0
    assert capsys.readouterr().out == f"{run / 'learner_loss.png'}\n"
    assert not (run / "curve.png").exists()


def test_several_runs_are_drawn_here_or_where_out_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [str(write_run(tmp_path / f"run{seed}", seed)) for seed in (1, 2, 3)]
    assert cli.main(["plot", *runs]) == 0
    assert cli.main(["plot", runs[0], "--out", "my.svg", *runs[1:]]) == 0
    assert capsys.readouterr().out == "curves.png\nmy.svg\n"
    assert Path("curves.png").read_bytes().startswith(PNG)
    assert b"<svg" in Path("my.svg").read_bytes()


def test_a_run_given_twice_is_one_run(tmp_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_run, 0)
    assert cli.main(["plot", str(run), f"{run}/"]) == 0
    assert capsys.readouterr().out == f"{run / 'curve.png'}\n"


def test_an_image_that_is_a_folder_is_refused(
    tmp_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_run, 0)
    assert cli.main(["plot", str(run), "--out", str(run)]) == 2
    assert capsys.readouterr().err.startswith(f"recollect: --out: {run} is a folder: name the ")
