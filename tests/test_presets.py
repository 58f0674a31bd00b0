from __future__ import annotations

import pytest

from recollect import presets

MANY = [f"name_{n}" for n in range(14)]


@pytest.mark.parametrize(
    ("kind", "name", "known", "hint"),
    [
        ("agent", "R2D2", ["drqn", "r2d2"], "did you mean r2d2?"),
        ("agent", "Sam", ["b", "A"], "known: A, b"),
        ("setting", "zzz", MANY, "recollect train --help shows all 14"),
        ("setting", "NAME-13", MANY, "did you mean name_13?"),
        ("metric", "zzz", MANY, f"known: {', '.join(sorted(MANY)[:12])} and 2 more"),
    ],
)
def test_an_unknown_name_is_told_the_nearest_or_where_to_look(
    kind: str, name: str, known: list[str], hint: str
) -> None:
    assert str(presets.nearest(kind, name, known)) == f"unknown {kind} {name}: {hint}"
