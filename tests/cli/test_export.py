from __future__ import annotations

import re
from pathlib import Path

import pytest

from recollect import cli
from tests.untrained import made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made("tests/Shifted-v0", "Counter").save(tmp_path / "run")


def test_it_says_what_it_wrote(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "a.safetensors"
    assert cli.main(["export", str(run), str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"run         {run}",
        "parameters  last, after 123 steps: 3 numbers",
        f"file        {file}, {file.stat().st_size:,} bytes",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export"], "export needs a run's folder and the file to write"),
        (["export", "a"], "export needs a run's folder and the file to write, .* got 'a'"),
        (["export", "a", "b", "c"], "export needs .* got 'a b c'"),
        (["export", "a", "b.safetensors"], "a is not a run"),
        (["export", "a", "b.safetensors", "--which", "worst"], "unknown parameters worst"),
        (["export", "RUN", "b.pt"], "wanted a file that ends in .safetensors, got 'b.pt'"),
        (["export", "RUN", "b.safetensors", "--which", "best"], "has no best parameters"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([word.replace("RUN", str(run)) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(message, err)
