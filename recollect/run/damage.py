"""What is wrong with a checkpoint: the errors, and how what was found is shown in them."""

from __future__ import annotations

from collections.abc import Callable

SHOWN_LENGTH = 80
"""Characters of a found value that stand in a message: it may be a stranger's, and long."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged or missing. The message names file, expected and found."""


class NoCheckpointError(CheckpointError):
    """There is none of that name."""


class CheckpointWarning(RuntimeWarning):
    """A damaged checkpoint was passed over, or an old one could not be removed."""


def shown(value: object) -> str:
    """`value` on one line of harmless characters, cut short."""
    text = ascii(value[: 2 * SHOWN_LENGTH] if isinstance(value, str | bytes) else value)
    return text if len(text) <= SHOWN_LENGTH else text[:SHOWN_LENGTH] + "..."


def expect(where: object, what: str, expected: object, found: object) -> None:
    """Raise CheckpointError unless the two are equal and of one type."""
    if type(expected) is not type(found) or expected != found:
        raise CheckpointError(f"{where}: expected {what} {expected}, found {plain(found)}")


def refuse_unless(holds: object, where: object, expected: str, found: object) -> None:
    """Raise CheckpointError unless `holds`."""
    if not holds:
        raise CheckpointError(f"{where}: expected {expected}, found {shown(found)}")


def plain(value: object) -> str:
    """A short text of ordinary characters as it is, anything else as `shown`."""
    simple = isinstance(value, str) and value.isascii() and value.isprintable()
    return str(value) if simple and len(str(value)) <= SHOWN_LENGTH else shown(value)


Report = Callable[[str], None]
