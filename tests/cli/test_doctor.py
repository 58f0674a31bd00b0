"""The doctor's words, what it prints, and its exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recollect import cli
from recollect.doctor import machine, supervise
from recollect.doctor.request import Request
from recollect.doctor.sheet import Check

OK = Check("environment", "made", "ok", "it was made", value=0.5)
WARN = Check("memory", "replay", "warn", "much " * 40, "take less " * 20)
FAIL = Check("traps", "trap 1", "FAIL", "states differ", "mend the network", float("nan"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for the examinations: `found` is what they find, `request` what was asked."""
    seen: dict[str, Any] = {"found": [OK]}

    def examine(request: Request, tell: Any) -> None:
        seen["request"] = request
        for check in seen["found"]:
            tell(check)

    monkeypatch.setattr(supervise, "examine", examine)
    monkeypatch.setattr(machine, "examine", lambda sheet: sheet.ok("python", "is there"))
    return seen


def test_words_become_a_request(asked: dict[str, Any]) -> None:
    line = "doctor --env A-v0 --agent drqn --preset paper --steps 2k --seconds 0.5"
    assert cli.main([*line.split(), "--env-kwargs", '{"a": 1}']) == 0
    assert asked["request"] == Request("A-v0", {"a": 1}, "drqn", "paper", "", 2000, 0.5)


def test_without_an_environment_only_the_machine_is_examined(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor"]) == 0
    assert "request" not in asked
    assert "doctor --env ID" in capsys.readouterr().out.splitlines()[-1]


def test_the_last_line_is_the_command_that_trains(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", "--env", "A-v0", "--preset", "paper", "--env-kwargs", '{"a": 1}']
    assert cli.main(words) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("""train r2d2 --env A-v0 --env-kwargs '{"a": 1}' --preset paper""")


def test_a_fail_makes_the_exit_code_1_and_is_named(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["found"] = [OK, WARN, FAIL]
    assert cli.main(["doctor", "--env", "A-v0"]) == 1
    out, err = capsys.readouterr()
    assert err == "recollect: not ready: 1 FAIL, 1 warning; begin with traps, trap 1\n"
    assert "ready to train" not in out
    assert "  FAIL  trap 1           states differ\n" in out
    assert "-> mend the network" in out


def test_a_pipe_gets_plain_lines_of_at_most_100_columns(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["found"] = [OK, WARN]
    assert cli.main(["doctor", "--env", "A-v0"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 100
    assert "ready to train (1 warning above)" in out


def test_json_is_one_object_without_nan(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["found"] = [OK, FAIL]
    assert cli.main(["doctor", "--env", "A-v0", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [check["name"] for check in found["checks"]] == ["python", "made", "trap 1"]
    assert set(found["checks"][0]) == {"group", "name", "status", "message", "advice", "value"}
    assert found["checks"][2]["value"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--agent r2d3", "did you mean r2d2?"),
        ("--preset papr --env A-v0", "did you mean paper?"),
        ("--network nowhere_to_be_found:Net --env A-v0", "no module 'nowhere_to_be_found'"),
        ("--network json:Net", "add --env ID"),
        ("--seconds 0 --env A-v0", "--seconds must be above 0"),
        ("A-v0 --env B-v0", "unexpected word 'A-v0'"),
    ],
)
def test_wrong_words_are_refused(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert cli.main(["doctor", *line.split()]) == 2
    assert message in capsys.readouterr().err
    assert "request" not in asked
