from __future__ import annotations

import json
import math
from typing import Any

import pytest

from recollect import cli, inspection

SPREAD = {"least": 0.0, "p10": 1.0, "median": 2.5, "p90": 1234.5, "most": 70000.0, "mean": 9.0}
FACTS: dict[str, Any] = {
    "run": "runs/a",
    "config": {
        "agent": "r2d2",
        "env": {"id": "recollect/Recall-v0", "kwargs": {"delay": 30}},
        "seed": 3,
        "network": "",
        "env_steps": 70_000,
        "preset": "auto",
    },
    "differences": ["burn_in = 8 (paper: 40)"],
    "status": {"state": "running", "env_steps": 12_000, "total_env_steps": 20_000},
    "owner": None,
    "progress": {
        "rows": 4,
        "env_steps": 12_000,
        "updates": 456,
        "seconds": 7.5,
        "env_steps_per_second": 1600.0,
        "updates_per_second": 60.8,
        "lately_env_steps_per_second": 1500.0,
        "lately_updates_per_second": 1.234,
        "greedy_return": 0.5,
        "best_return": 0.75,
        "training_return": None,
        "final_return": None,
    },
    "checkpoints": [
        {"name": "last", "env_steps": 12_000, "bytes": 5e6, "full": True, "damage": None},
        {"name": "best", "env_steps": 9_000, "bytes": 2e4, "full": False, "damage": None},
        {"name": "last", "env_steps": 8_000, "bytes": 1, "full": False, "damage": "x: cut"},
    ],
    "parameters": {
        "numbers": 18,
        "layers": [{"name": "a", "numbers": 18, "shapes": {"weight": [3, 5], "bias": [3]}}],
    },
    "replay": {
        "checkpoint": "last-12000-0",
        "shards": 1,
        "items": 500,
        "steps": 11_000,
        "blocks": 600,
        "waiting_blocks": 4,
        "bytes": 1_500_000,
        "episodes": 40,
        "running_episodes": 16,
        "inserted_steps": 12_000,
        "learned_steps": 324_000,
        "mid_episode_share": 0.9,
        "prefix_share": 0.8,
        "priority_zero_share": 0.0,
        "effective_items": 371.4,
        "priority_exponent": 0.6,
        "age_env_steps": SPREAD,
        "lag_updates": SPREAD,
        "priority": None,
        "episode_steps": SPREAD,
    },
    "pictures": ["runs/a/inspect/replay.png"],
    "problems": ["runs/a/system.json: gone"],
}

TEXT = """\
run          runs/a
agent        r2d2 on recollect/Recall-v0, seed 3
             environment's arguments {"delay": 30}
asked for    70,000 environment steps, preset auto
status       running, 12,000 steps of 20,000
             but nobody works on it: it was killed; go on with:
               python -m recollect resume runs/a
settings     1 differ from the paper's
               burn_in = 8 (paper: 40)
last row     12,000 environment steps, 456 updates, 7.5 s
speed        1,600 steps/s, 61 updates/s
lately       1,500 steps/s, 1.23 updates/s
return       last evaluation 0.5, best evaluation 0.75
checkpoints  last        12,000 steps    5.0 MB  full: a run can go on from it
             best         9,000 steps   20.0 kB  parameters alone
             last         8,000 steps       1 B  DAMAGED: x: cut
parameters   18 numbers
                       18  a                     3 x 5
replay       of last-12000-0
             500 items over 11,000 steps in 600 blocks (4 wait for their items), 1.5 MB
             40 episodes, 16 of them running
             12,000 steps inserted so far, 324,000 learned (27 times each)
             90.0% of the items begin in mid-episode, 80.0% have a burn-in, 0.0% have priority 0
             drawn as if from 371 of 500 items evenly (priority to the 0.6)
                                               least        p10     median        p90       most
             age, environment steps                0          1        2.5      1,234     70,000
             policy's age, updates                 0          1        2.5      1,234     70,000
             steps of ended episodes               0          1        2.5      1,234     70,000
picture      runs/a/inspect/replay.png
PROBLEM      runs/a/system.json: gone
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for `inspection.inspect`: what it was asked, and with `facts` what it answers."""
    seen: dict[str, Any] = {"facts": dict(FACTS)}

    def inspect(run: str, **rest: Any) -> dict[str, Any]:
        seen.update(run=run, **rest)
        answer: dict[str, Any] = seen["facts"]
        return answer

    monkeypatch.setattr(inspection, "inspect", inspect)
    return seen


def test_the_text_says_it_all(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "runs/a"]) == 0
    assert (asked["run"], asked["pictures"]) == ("runs/a", True)
    assert capsys.readouterr().out == TEXT


def test_json_is_one_object(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    asked["facts"]["progress"] = {"seconds": math.nan}
    assert cli.main(["inspect", "runs/a", "--json", "--no-pictures"]) == 0
    assert asked["pictures"] is False
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line, parse_constant=pytest.fail)
    assert found == {**FACTS, "progress": {"seconds": None}}


def test_what_is_not_known_is_said(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = {"config": {}, "differences": [], "status": None, "owner": None, "progress": None}
    nothing |= {"checkpoints": [], "parameters": None, "replay": None, "pictures": []}
    asked["facts"] = {"run": "a", "problems": ["a/config.json: gone"], **nothing}
    assert cli.main(["inspect", "a"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run          a",
        "status       cannot be read",
        "progress     cannot be read",
        "checkpoints  none",
        "replay       no full checkpoint, so what lay in it is not known",
        "PROBLEM      a/config.json: gone",
    ]
    asked["facts"] |= {"status": {}, "progress": {"rows": 0}}
    assert cli.main(["inspect", "a"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "status       none: it has not begun, or was killed at once"
    assert lines[2] == "progress     no rows of metrics"


def test_of_replay_it_says_how_many_shards_and_nothing_false_where_it_is_damaged(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["facts"] |= {"replay": {**FACTS["replay"], "shards": 3}}
    assert cli.main(["inspect", "runs/a"]) == 0
    assert "replay       of last-12000-0, 3 shards together\n" in capsys.readouterr().out
    asked["facts"] |= {"replay": None}
    assert cli.main(["inspect", "runs/a"]) == 0
    assert "no full checkpoint" not in capsys.readouterr().out


def test_a_run_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect"]) == 2
    assert capsys.readouterr().err == "recollect: inspect needs a run: give its folder\n"
