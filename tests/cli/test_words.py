from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from recollect import presets
from recollect.cli import settings, words
from recollect.cli.words import Option
from recollect.types import ConfigError

OPTIONS = [
    Option("--env-steps", "N", "how many", words.whole),
    Option("--gamma", "X", "discount", words.number, 0.9),
    Option("--sizes", "N ...", "layers", many=True),
    Option("--json", "", "as JSON"),
    Option("--prioritized", "", "", negatable=True),
    words.HELP,
]


def parse(line: str, **rest: object) -> dict[str, object]:
    return words.parse("play", line.split(), OPTIONS, **{"positional": "RUN", **rest})


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", {"RUN": None}),
        ("a", {"RUN": "a"}),
        ("a --env-steps 3", {"RUN": "a", "env_steps": 3}),
        ("--env-steps 3 a", {"RUN": "a", "env_steps": 3}),
        ("--env_steps=3 a --json", {"RUN": "a", "env_steps": 3, "json": True}),
        ("a --sizes 7 5 --gamma -1", {"RUN": "a", "sizes": ["7", "5"], "gamma": -1.0}),
        ("--json a", {"RUN": "a", "json": True}),
        ("a --gamma -1e-4", {"RUN": "a", "gamma": -1e-4}),
        ("--sizes 64 64 a --json", {"RUN": "a", "sizes": ["64", "64"], "json": True}),
        ("--sizes none a", {"RUN": "a", "sizes": ["none"]}),
        ("--sizes 7 5", {"RUN": None, "sizes": ["7", "5"]}),
    ],
)
def test_options_stand_before_and_behind_plain_words(line: str, found: dict[str, object]) -> None:
    assert parse(line) == {"gamma": 0.9, **found}


def test_several_plain_words_where_several_are_wanted() -> None:
    assert parse("a --gamma 1 b", many=True) == {"RUN": ["a", "b"], "gamma": 1.0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a --env-stps 3", "unknown option --env-stps: did you mean --env-steps?"),
        ("a --env-stps=3", "unknown option --env-stps: did you mean --env-steps?"),
        ("a --es 3", "unknown option --es: did you mean --env-steps?"),
        ("a --Gama 3", "unknown option --Gama: did you mean --gamma?"),
        ("a --gamma -x", "--gamma needs a value"),
        ("a --gamma -inf", "--gamma: wanted a number, got '-inf'"),
        ("a --gamma -nan", "--gamma: wanted a number, got '-nan'"),
        ("a --env-steps -1.5e0", "--env-steps: wanted a whole number, got '-1.5e0'"),
        ("a --env-steps 1e3k", "--env-steps: wanted a whole number, got '1e3k'"),
        ("a --env-steps k", "--env-steps: wanted a whole number, got 'k'"),
        (
            "a --qqqqq",
            "unknown option --qqqqq: python -m recollect play --help shows what there is",
        ),
        ("a -z", "unknown option -z: python -m recollect play --help shows what there is"),
        ("a --env-steps", "--env-steps needs a value"),
        ("a --env-steps --json", "--env-steps needs a value"),
        ("a --sizes", "--sizes needs a value"),
        ("a --json=3", "--json takes no value"),
        ("a --env-steps abc", "--env-steps: wanted a whole number, got 'abc'"),
        ("a --env-steps 2.5", "--env-steps: wanted a whole number, got '2.5'"),
        ("a --env-steps inf", "--env-steps: wanted a whole number, got 'inf'"),
        ("a --gamma x", "--gamma: wanted a number, got 'x'"),
        ("a --gamma nan", "--gamma: wanted a number, got 'nan'"),
        ("a b", "unexpected word 'b': RUN is 'a'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(line)
    assert str(refused.value) == message


def test_a_missing_plain_word_is_refused_where_it_is_required() -> None:
    with pytest.raises(ConfigError, match="give its folder"):
        parse("--json", required="play needs a run: give its folder")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("70000", 70_000),
        ("70_000", 70_000),
        ("7e4", 70_000),
        ("-3", -3),
        ("70k", 70_000),
        ("4.1M", 4_100_000),
    ],
)
def test_whole_numbers_are_read_as_people_write_them(word: str, value: int) -> None:
    assert words.whole(word) == value


def test_a_seed_beyond_the_floats_is_read_exactly() -> None:
    assert words.whole(str(2**64 - 1)) == 2**64 - 1


@pytest.mark.parametrize("agent", ["r2d2", "drqn"])
@pytest.mark.parametrize(("short", "long"), [("--lr", "learning-rate"), ("--bs", "batch-size")])
def test_initials_name_an_agents_settings(agent: str, short: str, long: str) -> None:
    config = presets.agent(agent).config()
    every = [option for group in settings.options(config, config).values() for option in group]
    with pytest.raises(ConfigError, match=f"unknown option {short}: did you mean --{long}"):
        words.parse("train", [short, "3"], [*every, words.HELP], positional="AGENT")


def test_the_program_is_named_as_it_can_be_typed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / ".venv" / "bin" / "recollect"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "train"])
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert words.program() == ".venv/bin/recollect"
    monkeypatch.chdir(script.parent)
    assert words.program() == "./recollect"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert words.program() == str(script)
    monkeypatch.setenv("PATH", str(script.parent))
    assert words.program() == "recollect"
    monkeypatch.setattr(sys, "argv", ["recollect/__main__.py"])
    assert words.program() == "python -m recollect"


@pytest.mark.parametrize("columns", [60, 80, 120, 300])
def test_a_help_page_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = Option("--a-flag-that-takes-much-room-here", "NAME", "word " * 60, shown="here")
    words.show_page("play RUN", "About it. " * 30, {"what": OPTIONS, "more": [long]})
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= min(columns, 100)
    for option in OPTIONS:
        assert option.help in page
    assert "--[no-]prioritized" in page
    assert page.count("word") == 60


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("4GB", 4 * 1000**3),
        ("1.5 MB", 1_500_000),
        ("2GiB", 2 * 1024**3),
        ("64kB", 64_000),
        ("64KiB", 65_536),
        ("123", 123),
        ("1e6", 10**6),
        ("100B", 100),
    ],
)
def test_bytes_are_read_as_people_write_them(word: str, value: int) -> None:
    assert words.nbytes(word) == value


@pytest.mark.parametrize("word", ["", "GB", "4XB", "1.2345kB", "-", "4.5B", "four GB"])
def test_what_are_no_bytes_is_refused(word: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        words.nbytes(word)
