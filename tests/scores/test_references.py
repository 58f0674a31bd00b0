from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

import gymnasium
import pytest

from recollect.scores.references import TABLES, game_of, references, table_of
from recollect.types import ConfigError

ROOT = Path(__file__).parents[2]


def test_the_tables_have_their_games() -> None:
    assert len(references("atari57")) == 57
    assert len(references("atari57", "human")) == 49
    assert len(references("dmlab30")) == 30
    assert references("atari57")["video_pinball"] == (16256.9, 17667.9)
    assert references("atari57", video_pinball_random=0)["video_pinball"] == (0, 17667.9)
    assert references("atari57", "human")["video_pinball"] == (20452, 15641.1)
    assert references("dmlab30")["rooms_collect_good_objects_test"] == (0.073, 10)


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("pong", "pong"),
        ("Pong", "pong"),
        ("ALE/Pong-v5", "pong"),
        ("ale_py:ALE/Pong-v5", "pong"),
        ("PongNoFrameskip-v4", "pong"),
        ("PongDeterministic-v0", "pong"),
        ("MsPacman", "ms_pacman"),
        ("Ms. Pac-Man", "ms_pacman"),
        ("Q*bert", "qbert"),
        ("Up'n Down", "up_n_down"),
        ("H.E.R.O.", "hero"),
        ("Montezuma's Revenge", "montezuma_revenge"),
        ("ALE/YarsRevenge-v5", "yars_revenge"),
    ],
)
def test_a_game_is_known_in_every_spelling(name: str, game: str) -> None:
    assert game_of(name, "atari57") == game


def test_every_game_is_known_by_its_gymnasium_id() -> None:
    pytest.importorskip("ale_py")
    for game in references("atari57"):
        name = "".join(word.capitalize() for word in game.split("_"))
        assert f"ALE/{name}-v5" in gymnasium.registry
        assert game_of(f"ALE/{name}-v5", "atari57") == game


@pytest.mark.parametrize(
    "name",
    [
        "rooms_collect_good_objects",
        "rooms_collect_good_objects_train",
        "contributed/dmlab30/rooms_collect_good_objects_test",
    ],
)
def test_a_level_is_known_whichever_map_it_was_trained_on(name: str) -> None:
    assert game_of(name, "dmlab30") == "rooms_collect_good_objects_test"


def test_the_table_is_the_one_that_knows_most_of_the_games() -> None:
    assert table_of(["pong", "nothing", "ALE/Qbert-v5"]) == "atari57"
    assert table_of(["rooms_watermaze", "natlab_fixed_large_map", "pong"]) == "dmlab30"
    assert table_of([]) == table_of(["x"]) == "atari57"


def test_the_tables_are_files_of_the_package() -> None:
    for name in TABLES:
        text = resources.files("recollect.scores").joinpath(f"{name}.csv").read_text("utf-8")
        assert text.count("\n") == len(references(name)) + 1


def test_a_wheel_holds_the_tables(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "recollect", tmp_path / "recollect", ignore=ignored)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"recollect/scores/{name}.csv" for name in TABLES} <= set(names)


def test_a_game_of_another_table_is_called_that() -> None:
    with pytest.raises(ConfigError, match="rooms_watermaze is a level of DMLab-30, and scored are"):
        game_of("rooms_watermaze", "atari57")
