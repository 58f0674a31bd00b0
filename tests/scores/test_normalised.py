"""C-4, S4-19: the aggregates of the published tables come out as they were published."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recollect
from recollect.scores.normalised import human_normalised
from recollect.scores.references import references
from tests.scores.published import ATARI, DMLAB, column

GAMES = sorted(references("atari57"))


@pytest.mark.parametrize(
    ("agent", "median", "mean", "mean_with_0", "above", "n"),
    [
        ("Ape-X", 434.08, 2321.3, 1694.9, 49, 57),
        ("R2D2", 1922.7, 5148.1, 4024.9, 52, 57),  # reported 1920.6: Double Dunk is rounded
        ("IMPALA deep", 191.8, 1592.5, 957.3, 40, 57),
        ("Gorila", 87.5, 400.6, 214.4, 24, 49),
    ],
)
def test_atari_from_no_op_starts(
    agent: str, median: float, mean: float, mean_with_0: float, above: int, n: int
) -> None:
    found = human_normalised(ATARI, column=agent)
    assert found["table"] == "atari57"
    assert found["median"] == pytest.approx(median, abs=0.05 if median != 434.08 else 0.005)
    assert found["mean"] == pytest.approx(mean, abs=0.05)
    assert found["means"] == {"16256.9": found["mean"], "0": pytest.approx(mean_with_0, abs=0.05)}
    assert (found["above_human"], found["n"], found["of"]) == (above, n, 57)
    other = human_normalised(ATARI, column=agent, video_pinball_random=0)
    assert other["mean"] == pytest.approx(mean_with_0, abs=0.05)
    assert (other["median"], other["means"]) == (found["median"], found["means"])


@pytest.mark.parametrize(
    ("agent", "median", "mean"),
    [("hs Ape-X", 358.09, None), ("hs Gorila", 71.34, 215.2), ("hs DQN", 47.51, None)],
)
def test_atari_from_human_starts(agent: str, median: float, mean: float | None) -> None:
    found = human_normalised(ATARI, column=agent, starts="human")
    assert found["median"] == pytest.approx(median, abs=0.005)
    assert mean is None or found["mean"] == pytest.approx(mean, abs=0.05)
    assert (found["n"], found["of"], found["means"]) == (49, 57, {})
    without = {"berzerk", "defender", "phoenix", "pitfall", "skiing", "solaris", "surround"}
    without |= {"yars_revenge"}
    given, other = ("left_out", "missing") if agent == "hs Ape-X" else ("missing", "left_out")
    assert (set(found[given]), found[other]) == (without, [])


def test_gorila_beats_dqn_in_41_of_49_games_from_human_starts() -> None:
    """S4-19."""
    gorila, dqn = (
        human_normalised(ATARI, column=f"hs {name}", starts="human")["games"]
        for name in ("Gorila", "DQN")
    )
    assert sum(gorila[game]["score"] > dqn[game]["score"] for game in gorila) == 41


def test_the_games_at_or_below_human_are_those_the_paper_names() -> None:
    games = human_normalised(ATARI, column="R2D2")["games"]
    below = {game: row["normalised"] for game, row in games.items() if row["normalised"] <= 100}
    assert below == {
        "montezuma_revenge": pytest.approx(43.4, abs=0.05),
        "pitfall": pytest.approx(3.4, abs=0.05),
        "private_eye": pytest.approx(7.6, abs=0.05),
        "skiing": pytest.approx(-101.3, abs=0.05),
        "solaris": pytest.approx(23.0, abs=0.05),
    }


@pytest.mark.parametrize(
    ("agent", "mean_capped", "median"),
    [
        ("IMPALA shallow", 73.6, 89.6),
        ("IMPALA deep", 85.1, 102.1),
        ("R2D2", 77.4, 96.0),
        ("R2D2+", 85.4, 97.7),
    ],
)
def test_dmlab(agent: str, mean_capped: float, median: float) -> None:
    found = human_normalised(DMLAB, column=agent)
    assert (found["table"], found["starts"], found["n"], found["of"]) == ("dmlab30", None, 30, 30)
    assert found["mean_capped"] == pytest.approx(mean_capped, abs=0.05)
    assert found["median"] == pytest.approx(median, abs=0.05)


def test_a_game_is_its_score_between_random_and_human() -> None:
    found = human_normalised({"ALE/Pong-v5": 20.9, "Qbert": 163.9, "boxing": 12.1})
    assert found["games"]["pong"] == {
        "score": 20.9,
        "random": -20.7,
        "human": 14.6,
        "normalised": 100 * (20.9 - -20.7) / (14.6 - -20.7),
        "runs": 1,
    }
    assert found["games"]["qbert"]["normalised"] == 0
    assert found["games"]["boxing"]["normalised"] == 100
    assert (found["above_human"], found["mean_capped"]) == (1, pytest.approx(200 / 3))
    assert (found["n"], len(found["missing"]), found["means"]) == (3, 54, {})
    assert list(found["games"]) == ["boxing", "pong", "qbert"], "in the table's order"


@given(st.dictionaries(st.sampled_from(GAMES), st.floats(-1e6, 1e6), min_size=1))
def test_the_aggregates_are_those_of_a_plain_loop(scores: dict[str, float]) -> None:
    found, known = human_normalised(scores), references("atari57")
    plain = []
    for game, score in scores.items():
        random, human = known[game]
        plain.append((score - random) / (human - random) * 100)
    assert found["median"] == pytest.approx(statistics.median(plain))
    assert found["mean"] == pytest.approx(sum(plain) / len(plain), abs=1e-6)
    assert found["mean_capped"] == pytest.approx(np.minimum(plain, 100).mean(), abs=1e-6)
    assert found["n"] + len(found["missing"]) + len(found["left_out"]) == found["of"] == 57
    json.dumps(found, allow_nan=False)


def test_the_front_door_has_it() -> None:
    assert recollect.human_normalised is human_normalised
    assert human_normalised({"pong": np.float32(21)})["games"]["pong"]["score"] == 21


@pytest.mark.parametrize(
    ("scores", "words", "message"),
    [
        ({"Pongg": 1}, {}, "scores: unknown game Pongg: did you mean pong?"),
        ({"Pong": 1, "ALE/Pong-v5": 2}, {}, "'ALE/Pong-v5' is pong, which scores has as 'Pong'"),
        ({"pong": float("nan")}, {}, "scores: 'pong' has the score nan, a number was wanted"),
        ({"pong": "21"}, {}, "'pong' has the score '21', a number was wanted"),
        ({"pong": True}, {}, "'pong' has the score True, a number was wanted"),
        ({"pong": 10**400}, {}, r"'pong' has the score 1000.*, at most 1e\+15 was wanted"),
        ({"pong": -np.inf}, {}, r"'pong' has the score -inf, at most 1e\+15 was wanted"),
        ({3: 1.0}, {}, "scores: wanted the name of a game, got 3"),
        ({}, {}, "there is no score of a game of Atari-57 that has a reference with noop starts"),
        ({"berzerk": 1}, {"starts": "human"}, "no score of .* a reference with human starts"),
        ({"pong": 1}, {"table": "atari"}, "unknown table atari: did you mean atari57"),
        ({"pong": 1}, {"starts": "humans"}, "unknown starts humans: did you mean human"),
        ({"rooms_watermaze": 1}, {"starts": "human"}, "DMLab-30 has no references for human"),
        ({"pong": 1}, {"video_pinball_random": 1.0}, "taken as 16256.9 or 0, got 1.0"),
        ({"pong": 1}, {"table": "dmlab30"}, "pong is a game of Atari-57, and scored are levels"),
    ],
)
def test_what_means_nothing_is_refused(scores: Any, words: dict[str, Any], message: str) -> None:
    with pytest.raises(recollect.ConfigError, match=message):
        human_normalised(scores, **words)


def write_run(folder: Path, env: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"env": {"id": env, "kwargs": {}}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_runs_count_with_their_final_evaluation_and_runs_of_a_game_with_their_mean(
    tmp_path: Path,
) -> None:
    ended = [{"evaluator/return_mean": 21.0}, {"final/return_mean": 3.0}]
    runs = [
        write_run(tmp_path / "a", "ALE/Pong-v5", [*ended, {"final/return_mean": 7.0}]),
        write_run(tmp_path / "b", "ALE/Pong-v5", ended),
        write_run(tmp_path / "c", "ale_py:ALE/Qbert-v5", ended),
    ]
    found = human_normalised(runs)
    games = found["games"]
    assert found["scored"].startswith("final evaluation: greedy, last parameters")
    assert human_normalised({"pong": 1})["scored"] is None
    assert [(game, row["score"], row["runs"]) for game, row in games.items()] == [
        ("pong", (7 + 3) / 2, 2),
        ("qbert", 3, 1),
    ]
    assert human_normalised(runs[0])["games"]["pong"]["score"] == 7

    class Run:
        folder = runs[1]

    assert human_normalised(Run())["games"]["pong"]["score"] == 3


@pytest.mark.parametrize(
    ("env", "rows", "message"),
    [
        ("ALE/Pong-v5", [{"evaluator/return_mean": 1.0}], "run has no final evaluation: let"),
        ("recollect/Recall-v0", [{"final/return_mean": 1.0}], "run: unknown game recollect/Rec"),
    ],
)
def test_runs_that_are_no_scores_are_refused(
    tmp_path: Path, env: str, rows: list[Any], message: str
) -> None:
    with pytest.raises(recollect.ConfigError, match=message):
        human_normalised(write_run(tmp_path / "run", env, rows))


def test_files_and_runs_do_not_mix(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "ALE/Pong-v5", [{"final/return_mean": 1.0}])
    with pytest.raises(recollect.ConfigError, match="one file of scores, or folders of runs, got"):
        human_normalised([ATARI, run])
    with pytest.raises(recollect.ConfigError, match="a run has no columns"):
        human_normalised(run, column="R2D2")


def test_a_mapping_is_the_same_as_its_file() -> None:
    assert human_normalised(column(ATARI, "Ape-X")) == human_normalised(ATARI, column="Ape-X")
