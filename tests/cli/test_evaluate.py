from __future__ import annotations

import json
import math
from typing import Any

import pytest

from recollect import cli, evaluation

FIGURES = {
    "return_mean": 432.125,
    "return_median": 500.0,
    "return_iqm": 481.5,
    "return_ci95": [401.0, 463.25],
    "episodes": 50,
    "env_steps": 70_000,
    "seed": 3,
    "which": "best",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for `evaluation.evaluate`: what it was asked, and with `figures` what it answers."""
    seen: dict[str, Any] = {"figures": dict(FIGURES)}

    def evaluate(run: str, **rest: Any) -> dict[str, Any]:
        seen.update(run=run, **rest)
        answer: dict[str, Any] = seen["figures"]
        return answer

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    return seen


def test_the_defaults_are_twenty_greedy_episodes_with_the_last_parameters(
    asked: dict[str, Any],
) -> None:
    assert cli.main(["evaluate", "a"]) == 0
    del asked["figures"]
    assert asked == {"run": "a", "episodes": 20, "seed": 1, "which": "last", "epsilon": 0.0}


def test_words_reach_the_evaluation(asked: dict[str, Any]) -> None:
    line = "evaluate --episodes 50 --seed 3 a --which best --epsilon 0.25 --json"
    assert cli.main(line.split()) == 0
    del asked["figures"]
    assert asked == {"run": "a", "episodes": 50, "seed": 3, "which": "best", "epsilon": 0.25}


def test_json_is_the_last_line(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "a", "--json"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == FIGURES


def test_json_has_null_where_one_episode_says_nothing_of_the_spread(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["figures"]["return_ci95"] = [math.nan, math.nan]
    assert cli.main(["evaluate", "a", "--json"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last, parse_constant=pytest.fail)["return_ci95"] == [None, None]


def test_the_text_says_it_all(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "runs/a", "--seed", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run                 runs/a",
        "parameters          best, after 70,000 steps",
        "played              50 episodes, greedy, seed 3",
        "mean return         432.12  (95% interval 401.00 to 463.25)",
        "median              500.00",
        "interquartile mean  481.50",
    ]


def test_the_text_of_one_episode_has_no_interval(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["figures"] |= {"return_ci95": [math.nan, math.nan], "episodes": 1}
    assert cli.main(["evaluate", "runs/a", "--epsilon", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == [
        "played              1 episode, epsilon 0.5, seed 3",
        "mean return         432.12",
    ]
