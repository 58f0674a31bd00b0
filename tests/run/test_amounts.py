from __future__ import annotations

import pytest

from recollect.run.amounts import duration, number, percent, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0.0, "0.00"),
        (0.126, "0.13"),
        (-9.999, "-10.0"),
        (99.96, "100.0"),
        (999.96, "1,000"),
        (1234567.0, "1,234,567"),
    ],
)
def test_numbers_have_four_digits_or_so(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_960_000, "100 MB"),
        (999_600_000, "1.0 GB"),
        (28e9, "28.0 GB"),
        (3e15, "3,000.0 TB"),
    ],
)
def test_sizes_are_in_decimal_units(value: float | None, text: str) -> None:
    assert size(value) == text


def test_what_is_not_whole_is_never_100_percent() -> None:
    assert [percent(x) for x in (None, 0.0, 0.999, 1.0, 1.2)] == ["-", "0%", "99%", "100%", "100%"]


def test_durations_read_like_a_clock() -> None:
    seconds = (7, 59.6, 754, 3723, 2 * 86400 + 3 * 3600 + 4 * 60)
    assert [duration(s) for s in seconds] == ["0:07", "1:00", "12:34", "1:02:03", "2 d 03:04"]
