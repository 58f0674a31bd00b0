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
    "protocol": "greedy",
    "epsilon": 0.0,
    "frame_cap": None,
    "step_cap": 27_000,
    "env": {"id": "recollect/Recall-v0", "kwargs": {}},
}
ATARI = {
    "protocol": "noop30",
    "epsilon": 0.001,
    "frame_cap": 108_000,
    "step_cap": 108_000,
    "env": {"id": "ALE/Pong-v5", "kwargs": {"noop_max": 30, "reward_clipping": False}},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for `evaluation.evaluate`: what it was asked, and with `figures` what it answers.

    `order` is of the parameters asked for.
    """
    seen: dict[str, Any] = {"figures": dict(FIGURES), "order": []}

    def evaluate(run: str, **rest: Any) -> dict[str, Any]:
        seen.update(run=run, **rest)
        seen["order"].append(rest["which"])
        return dict(seen["figures"])

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    return seen


def test_the_defaults_are_the_greedy_protocol_with_the_last_parameters(
    asked: dict[str, Any],
) -> None:
    assert cli.main(["evaluate", "a"]) == 0
    del asked["figures"], asked["order"]
    assert asked == {"run": "a", "protocol": "greedy", "seed": 1, "which": "last"}


def test_words_reach_the_evaluation(asked: dict[str, Any]) -> None:
    line = "evaluate --episodes 50 --seed 3 a --which best --epsilon 0.25 --protocol noop30 --json"
    assert cli.main(line.split()) == 0
    del asked["figures"], asked["order"]
    assert asked == {
        "run": "a",
        "episodes": 50,
        "seed": 3,
        "which": "best",
        "epsilon": 0.25,
        "protocol": "noop30",
    }


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
        "protocol            greedy: the run's own environment, no exploration",
        "environment         recollect/Recall-v0",
        "played              50 episodes, greedy, seed 3",
        "                    at most 27,000 steps each",
        "parameters          best, after 70,000 steps",
        "mean return         432.12",
        "95% interval        401.00 to 463.25",
        "median              500.00",
        "interquartile mean  481.50",
    ]


def test_the_text_of_a_protocol_names_what_it_sets(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["figures"] |= ATARI
    assert cli.main(["evaluate", "runs/a", "--protocol", "noop30"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("protocol            noop30: R2D2 (Kapturowski et al. 2019)")
    assert lines[4:8] == [
        "environment         ALE/Pong-v5",
        "                    noop_max 30, reward_clipping False",
        "played              50 episodes, epsilon 0.001, seed 3",
        "                    at most 108,000 frames each",
    ]
    assert max(map(len, lines)) <= 80


def test_the_text_of_one_episode_has_no_interval(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["figures"] |= {"return_ci95": [math.nan, math.nan], "episodes": 1, "epsilon": 0.5}
    assert cli.main(["evaluate", "runs/a", "--epsilon", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "played              1 episode, epsilon 0.5 instead of 0, seed 3"
    assert [line.split()[0] for line in lines[5:]] == [
        "parameters",
        "mean",
        "median",
        "interquartile",
    ]


def test_both_parameters_stand_side_by_side(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    last = {"which": "last", "env_steps": 80_000, "return_mean": 1_000.0}

    def evaluate(run: str, **rest: Any) -> dict[str, Any]:
        asked["order"].append(rest["which"])
        return FIGURES | (last if rest["which"] == "last" else {})

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    assert cli.main(["evaluate", "a", "--which", "both"]) == 0
    assert capsys.readouterr().out.splitlines()[5:7] == [
        "parameters          last, after 80,000 steps  best, after 70,000 steps",
        "mean return         1,000.00                  432.12",
    ]
    assert asked["order"] == ["best", "last"], "a run may have no best ones: told at once"
    assert cli.main(["evaluate", "a", "--which", "both", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == {"last": FIGURES | last, "best": FIGURES}


def test_a_terminal_counts_the_episodes_and_is_left_clean(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play = evaluation.evaluate

    def evaluate(run: str, told: Any, **rest: Any) -> dict[str, Any]:
        told(3, 20, 1234)
        return play(run, **rest)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(cli.evaluate, "SECONDS_PER_LOOK", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert cli.main(["evaluate", "a"]) == 0
    said = capsys.readouterr().err
    assert "last: 3 of 20 episodes, 1,234 steps" in said
    assert said.endswith("\r\x1b[K")
