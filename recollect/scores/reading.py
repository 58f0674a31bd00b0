"""Scores of games from a file somebody wrote, or from the folders of finished runs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from recollect.types import MOST_FLOAT, ConfigError, shown

BYTES_LIMIT = 1 << 20
FINAL = "final/return_mean"

_COLON = re.compile(r"\s*:\s*")
_NEXT_KEY = re.compile(r'[\s,]*(?=")')


class Entry(NamedTuple):
    """What somebody says a game's score is: `where` it stands, for errors."""

    name: str
    score: float
    where: str


def from_file(path: Path, column: str | None = None) -> list[Entry]:
    """The scores in a file: a JSON object {game: score}, or CSV whose first line names the columns.

    Args:
        path: of at most a megabyte.
        column: of a CSV file; needed where there are several beside the first, which names games.
            An empty cell is no score then.
    Raises:
        ConfigError: it is no such file; the line, and the game if there is one, are named.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_LIMIT + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no file or run {path}") from None
    if len(data) > BYTES_LIMIT:
        raise ConfigError(f"{path}: wanted a file of scores, got more than {BYTES_LIMIT:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: wanted text in UTF-8, got {shown(data[:20])}") from error
    if not text.lstrip().startswith(("{", "[")):
        return list(_csv(path, text, column))
    if column is not None:
        raise ConfigError(f"{path} is JSON, which has no columns: leave column out")
    return list(_json(path, text))


def from_mapping(scores: Mapping[str, float]) -> list[Entry]:
    """The scores a caller has; errors as of `from_file`."""
    return [_entry(name, score, "scores") for name, score in scores.items()]


def from_runs(paths: Sequence[Path]) -> list[Entry]:
    """Of each run its final evaluation: greedy, with the last parameters.

    Raises:
        ConfigError: no such run, or it has not come to its end.
    """
    from recollect.run.folder import RunFolder
    from recollect.run.metrics import read_metrics

    entries = []
    for path in paths:
        folder = RunFolder.open(path)
        env = folder.config().get("env")
        name = env.get("id") if isinstance(env, Mapping) else None
        try:
            rows = read_metrics(folder.metrics) if folder.metrics.exists() else []
        except ValueError as error:
            raise ConfigError(str(error)) from error
        finals = [row[FINAL] for row in rows if isinstance(row.get(FINAL), int | float)]
        if not isinstance(name, str) or not finals:
            raise ConfigError(
                f"{path} has no final evaluation: let the run end, or score it with recollect "
                "evaluate and write the result into a file"
            )
        entries.append(_entry(name, finals[-1], str(path)))
    return entries


def _json(path: Path, text: str) -> Iterator[Entry]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: wanted JSON, found damage ({error})") from error
    if not isinstance(whole, dict):
        raise ConfigError(f'{path}: wanted an object as in {{"pong": 20.9}}, got a list')
    decoder, line, before, at = json.JSONDecoder(), 1, 0, text.index("{") + 1
    while key := _NEXT_KEY.match(text, at):  # by hand, as json says no lines
        line, before = line + text.count("\n", before, key.end()), key.end()
        name, at = decoder.raw_decode(text, key.end())
        colon = _COLON.match(text, at)
        assert colon is not None
        score, at = decoder.raw_decode(text, colon.end())
        yield _entry(name, score, f"{path}, line {line}")


def _csv(path: Path, text: str, column: str | None) -> Iterator[Entry]:
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        rows = [(f"{path}, line {reader.line_num}", row) for row in reader if any(row)]
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: wanted CSV ({error})") from error
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    if len(header) < 2 or any(_is_number(cell) for cell in header[1:]):
        raise ConfigError(
            f"{path}: wanted JSON, or CSV that begins with a line such as game,score, "
            f"got {shown(','.join(header))}"
        )
    at = _column(path, header, column)
    for where, row in rows[1:]:
        if len(row) != len(header):
            raise ConfigError(
                f"{where}: wanted {len(header)} cells as in the first line, got {len(row)} "
                f"({shown(','.join(row))})"
            )
        if len(header) > 2 and not row[at].strip():
            continue
        yield _entry(row[0].strip(), _number(row[at]), where)


def _column(path: Path, header: Sequence[str], column: str | None) -> int:
    if column is None and len(header) == 2:
        return 1
    if column is None:
        raise ConfigError(
            f"{path} has {len(header) - 1} columns of scores: choose one with column "
            f"(--column NAME): {', '.join(shown(name) for name in header[1:])}"
        )
    if header.count(column) > 1:
        raise ConfigError(f"{path} has the column {column} twice: rename one")
    if column not in header[1:]:
        from recollect.presets import nearest  # which imports torch

        raise nearest("column", column, header[1:])
    return header.index(column)


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _is_number(cell: str) -> bool:
    return isinstance(_number(cell), float)


def _entry(name: Any, score: Any, where: str) -> Entry:
    if not isinstance(name, str):
        raise ConfigError(f"{where}: wanted the name of a game, got {shown(name)}")
    said = f"{where}: {shown(name)} has the score {shown(score)}"
    if isinstance(score, bool) or not isinstance(score, Real) or score != score:
        raise ConfigError(f"{said}, a number was wanted")
    number: Any = score  # Real has no order
    if abs(number) > MOST_FLOAT:
        raise ConfigError(f"{said}, at most {MOST_FLOAT:g} was wanted")
    return Entry(name, float(score), where)
