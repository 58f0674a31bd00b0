"""JSON from files that a stranger may have written: bounded, and of one meaning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recollect.run.damage import shown

BYTES_LIMIT = 4 << 20
"""Of one file. As text it may take four times as much."""

VALUES_LIMIT = 250_000
"""Commas, colons and opening brackets, those in texts too; each may cost 150 bytes of memory."""

DEPTH_LIMIT = 100
"""Of lists and objects in one another."""

DIGITS_LIMIT = 1000
"""Of a whole number: reading one takes time with their square."""


def dumps(value: Mapping[str, Any], where: str) -> bytes:
    """JSON that `parse` will read again.

    Args:
        value: dicts with text as keys, lists, tuples, numbers, text, None.
        where: named in errors.
    Raises:
        ValueError: JSON would change it, cannot hold it, or it is above a limit.
    """
    _check_plain(where, value, 1)
    data = json.dumps(value, indent=1).encode()
    try:
        parse(data, where)
    except ValueError as error:
        raise ValueError(f"{error}: what is large belongs among the arrays") from error
    return data


def parse(data: bytes, where: object) -> dict[str, Any]:
    """The JSON object in `data`; NaN and infinities may stand in it.

    Raises:
        ValueError: not JSON in UTF-8, not an object, above a limit, a key twice in one object, or
            half a character (a lone surrogate); `where` is named.
    """
    if len(data) > BYTES_LIMIT:
        raise ValueError(f"{where}: expected at most {BYTES_LIMIT:,} bytes, found {len(data):,}")
    marks = sum(data.count(mark) for mark in (b",", b":", b"[", b"{"))
    if marks > VALUES_LIMIT:
        raise ValueError(f"{where}: expected at most {VALUES_LIMIT:,} values, found {marks:,}")
    try:
        value = json.loads(data.decode(), parse_int=_integer, object_pairs_hook=_unique)
        _check_parsed(value, 1)
    except RecursionError as error:
        raise ValueError(f"{where}: expected JSON, found nesting too deep") from error
    except ValueError as error:
        raise ValueError(f"{where}: expected JSON, found damage ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, found a {type(value).__name__}")
    return value


def _integer(digits: str) -> int:
    if len(digits) > DIGITS_LIMIT:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} twice")
    return found


def _check_parsed(value: object, depth: int) -> None:
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError, a ValueError, where half a character stands
    elif isinstance(value, dict | list):
        if depth > DEPTH_LIMIT:
            raise ValueError(f"nesting deeper than {DEPTH_LIMIT}")
        if isinstance(value, dict):
            for key in value:
                key.encode()
        for inner in value.values() if isinstance(value, dict) else value:
            _check_parsed(inner, depth + 1)


def _check_plain(where: str, value: object, depth: int) -> None:
    if depth > DEPTH_LIMIT:
        raise ValueError(f"{where[:80]}... is nested deeper than {DEPTH_LIMIT}")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}: JSON keeps only text as keys")
            _check_plain(f"{where}[{key!r}]", inner, depth + 1)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_plain(f"{where}[{index}]", inner, depth + 1)
    elif value is not None and type(value) not in (str, int, float, bool):
        raise ValueError(
            f"{where} is a {type(value).__name__}: put arrays among the arrays, and make numbers "
            "plain with .item()"
        )
