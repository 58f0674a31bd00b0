from __future__ import annotations

from pathlib import Path

import pytest

from recollect.scores import reading
from recollect.types import ConfigError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("s")


JSON = '\ufeff{"pong": 20.5,\n\n "a \\" {,:\\n b" :\n -3, "x": 1e3}'
CSV = 'game,score\npong,20.5\n\n"a "" {,: b", -3\r\nx,1e3\n'


def test_a_json_object_and_csv_are_read_with_their_lines(file: Path) -> None:
    file.write_text(JSON)
    assert reading.from_file(file) == [
        ("pong", 20.5, "s, line 1"),
        ('a " {,:\n b', -3, "s, line 3"),
        ("x", 1000, "s, line 4"),
    ]
    file.write_text(CSV)
    assert reading.from_file(file) == [
        ("pong", 20.5, "s, line 2"),
        ('a " {,: b', -3, "s, line 4"),
        ("x", 1000, "s, line 5"),
    ]


def test_a_column_of_a_wider_file_is_chosen_and_its_empty_cells_are_no_scores(file: Path) -> None:
    file.write_text("game, a ,b\npong,1,2\nqbert,,3\n")
    assert [(e.name, e.score) for e in reading.from_file(file, "a")] == [("pong", 1)]
    assert [(e.name, e.score) for e in reading.from_file(file, "b")] == [("pong", 2), ("qbert", 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"pong": 1,\n "qbert": NaN}', "s, line 2: 'qbert' has the score nan, a number was"),
        ('{"pong": 1,\n "qbert": "two"}', "s, line 2: 'qbert' has the score 'two', a number"),
        ('{"pong":\n null}', "s, line 1: 'pong' has the score None, a number was wanted"),
        ('{"pong": [1]}', r"s, line 1: 'pong' has the score \[1\], a number was wanted"),
        ('{"pong": 1', "s: wanted JSON, found damage"),
        ('{"pong": ' + "[" * 100_000, "s: wanted JSON, found damage"),
        ('{"pong": ' + "1" * 5000 + "}", "s: wanted JSON, found damage"),
        ("[1]", 's: wanted an object as in {"pong": 20.9}, got a list'),
        ("", "s: wanted JSON, or CSV that begins with a line such as game,score, got ''"),
        ("pong,21\n", "begins with a line such as game,score, got 'pong,21'"),
        ("pong\n", "begins with a line such as game,score, got 'pong'"),
        ("game,score\npong,21\nqbert,n/a\n", "s, line 3: 'qbert' has the score 'n/a', a number"),
        ("game,score\npong,nan\n", "s, line 2: 'pong' has the score nan, a number was wanted"),
        ("game,score\npong,\n", "s, line 2: 'pong' has the score '', a number was wanted"),
        ("game,score\npong,1,234\n", r"s, line 2: wanted 2 cells .*, got 3 \('pong,1,234'\)"),
        ("game,score\npong\n", "s, line 2: wanted 2 cells as in the first line, got 1"),
        ('game,score\n"pong,1\n', "s, line 2: wanted CSV"),
        ("game,a,b\npong,1,2\n", r"has 2 columns of scores: choose one .*: 'a', 'b'"),
    ],
)
def test_what_is_no_score_is_refused_with_its_line_and_name(
    file: Path, text: str, message: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        reading.from_file(file)


def test_what_is_no_text_or_too_long_or_not_there_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file or run s"):
        reading.from_file(file)
    file.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ConfigError, match="wanted text in UTF-8"):
        reading.from_file(file)
    file.write_text("game,score\n" + "pong,1\n" * 200_000)
    with pytest.raises(ConfigError, match="more than 1,048,576 bytes"):
        reading.from_file(file)


def test_a_column_that_is_not_there_is_refused(file: Path) -> None:
    file.write_text("game,Ape-X,R2D2\npong,1,2\n")
    with pytest.raises(ConfigError, match="unknown column Apex: did you mean Ape-X"):
        reading.from_file(file, "Apex")
    file.write_text("game,a,a\npong,1,2\n")
    with pytest.raises(ConfigError, match="has the column a twice"):
        reading.from_file(file, "a")
    file.write_text("{}")
    with pytest.raises(ConfigError, match="is JSON, which has no columns"):
        reading.from_file(file, "a")
