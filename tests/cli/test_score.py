from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recollect import cli
from recollect.scores.normalised import human_normalised
from tests.commanded import environment
from tests.scores.published import ATARI, DMLAB


def test_the_table_of_a_few_games(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text('{"ALE/Qbert-v5": 15000, "pong": 20.9}')
    assert cli.main(["score", "mine.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:13] == [
        "scores          mine.json",
        "references      Atari-57: up to 30 no-ops, 108,000 frames; as DQN Zoo lists them",
        "",
        "game      score  random     human  normalised",
        "pong       20.9   -20.7      14.6      117.8%",
        "qbert  15,000.0   163.9  13,455.0      111.6%",
        "",
        "games           2 of 57",
        "median          114.7%   over 2 of 57 games",
        "mean            114.7%   over 2 of 57 games",
        "above human     2 of 2",
        "missing         alien, amidar, assault, asterix, asteroids, atlantis,",
        "                bank_heist, battle_zone, beam_rider, berzerk, bowling, boxing,",
    ]
    assert max(map(len, lines)) <= 80


def test_both_means_are_shown_where_video_pinball_matters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    endings = {
        "16256.9": (
            "mean            5,148.1%   with video_pinball's random score 16256.9",
            "                4,024.9%   with 0",
        ),
        "0": (
            "mean            4,024.9%   with video_pinball's random score 0",
            "                5,148.1%   with 16256.9",
        ),
    }
    for constant, lines in endings.items():
        words = ["--column", "R2D2", "--video-pinball", constant]
        assert cli.main(["score", str(ATARI), *words]) == 0
        assert capsys.readouterr().out.splitlines()[-5:] == [
            "games           57 of 57",
            "median          1,922.7%",
            *lines,
            "above human     52 of 57",
        ]


def test_games_without_a_reference_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", str(ATARI), "--column", "hs Ape-X", "--starts", "human"]) == 0
    assert capsys.readouterr().out.splitlines()[-7:] == [
        "games           49 of 57",
        "median          358.1%   over 49 of 57 games",
        "mean            1,174.4%   over 49 of 57 games",
        "above human     39 of 49",
        "no reference    berzerk, defender, phoenix, pitfall, skiing, solaris, surround,",
        "                yars_revenge",
        "note            video_pinball: human is below random, so more counts less",
    ]


def test_levels_have_their_own_aggregates(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", str(DMLAB), "--column", "R2D2+"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].split() == ["rooms_collect_good_objects_test", "9.90", "0.07", "10.00", "99.0%"]
    assert lines[-3:] == [
        "levels          30 of 30",
        "mean capped     85.4%",
        "median          97.7%",
    ]


def test_json_is_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", str(ATARI), "--column", "Ape-X", "--json"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == human_normalised(ATARI, column="Ape-X")


def test_scoring_does_not_load_torch() -> None:
    program = (
        "import sys; from recollect.cli import main; code = main(sys.argv[1:]);"
        "print(code, 'torch._C' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "score", str(DMLAB), "--column", "R2D2"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "0 False"
