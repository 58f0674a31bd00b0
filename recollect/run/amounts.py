"""Numbers as people read them: four digits, shares, bytes, times."""

from __future__ import annotations


def number(value: float | None) -> str:
    """Four digits or so, `-` for what is not known.

    >>> number(0.1234), number(12.34), number(1234.5)
    ('0.12', '12.3', '1,234')
    """
    if value is None or value != value:
        return "-"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 999.95 else 0
    return f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """`41%`; what is not quite whole is never called 100%."""
    return "-" if value is None else f"{min(99, int(100 * value)) if value < 1 else 100}%"


def size(value: float | None) -> str:
    """Bytes in decimal units: `1.2 GB`."""
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def duration(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`, `2 d 03:04`."""
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
