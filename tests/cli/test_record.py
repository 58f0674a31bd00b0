from __future__ import annotations

import re
from pathlib import Path

import pytest

from recollect import cli
from tests.untrained import made


def test_it_says_what_it_wrote_and_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recollect.recording.default_suffix", lambda: ".gif")
    run = made("tests/Painted-v0").save(tmp_path / "run")
    assert cli.main(["record", str(run), "--picture", "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"run         {run}", "parameters  last, after 123 steps"]
    assert re.fullmatch(r"episode 0   return [\d,.]+ in 30 steps, terminated", lines[2])
    files = [run / "videos" / f"last-123-seed3-episode0{suffix}" for suffix in (".gif", ".png")]
    assert lines[3:] == [f"            {file}" for file in files]
    assert sorted((run / "videos").iterdir()) == files


def test_it_says_why_there_is_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made("tests/Clock-v0").save(tmp_path / "run")
    assert cli.main(["record", str(run), "--out", str(tmp_path / "here")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "note        tests/Clock-v0 cannot be rendered: its metadata name no render mode "
        "rgb_array; here is a picture instead"
    )
    assert (tmp_path / "here" / "last-123-seed1-episode0.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["record"], "record needs a run: give its folder"),
        (["record", "nothing"], "nothing is not a run"),
        (["record", "nothing", "--out", "a.avi"], "wanted a file that ends in .gif, .mp4 or .png"),
        (["record", "nothing", "--out", "a", "--episodes", "0"], "episodes must be 1 or more"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"recollect: {message}")
