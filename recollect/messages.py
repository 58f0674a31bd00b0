"""What passes between parts that may live in different processes: questions, answers, posts.

A part that holds another one asks it through a `Handle`. Nothing here says how a question travels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

DEADLINE = 120.0
"""Seconds that any answer may take; more means that a part hangs or is cut off."""


class PartLostError(RuntimeError):
    """A part has died, or cannot be reached; `part` is its name, as far as that is known."""

    def __init__(self, why: str, part: str = "") -> None:
        super().__init__(why, part)
        self.part = part

    def __str__(self) -> str:
        return str(self.args[0])


class PartSilentError(PartLostError):
    """A part did not answer within its deadline."""


class Pending(Protocol):
    """An answer that will come."""

    def ready(self) -> bool:
        """Whether it has come; what the part raised counts as an answer."""

    def result(self, seconds: float = DEADLINE) -> Any:
        """The answer.

        Raises:
            PartLostError: the part has died, or (PartSilentError) not answered in so many seconds.
            Exception: what the part raised.
        """


class Handle(Protocol):
    """A part, as others ask it. Questions of one asker arrive in the order they were asked."""

    @property
    def name(self) -> str:
        """The part's name in the program."""

    @property
    def near(self) -> bool:
        """Whether the part is an object of this process, which answers at once."""

    def ask(self, method: str, *arguments: Any) -> Pending:
        """Ask, and do not wait."""


@dataclass(frozen=True)
class Shared:
    """An answer that is large, never changes and goes to many: a transport may send it once."""

    value: Any


@dataclass(frozen=True)
class Known:
    """An answer that has come."""

    value: Any = None

    def ready(self) -> bool:
        """True."""
        return True

    def result(self, seconds: float = DEADLINE) -> Any:
        """The answer."""
        return self.value


class Near:
    """An object of this process as a handle: it answers before `ask` returns."""

    near = True

    def __init__(self, name: str, part: Any) -> None:
        self.name, self._part = name, part

    def ask(self, method: str, *arguments: Any) -> Pending:
        """Call it; what it raises is raised here."""
        return Known(unshared(getattr(self._part, method)(*arguments)))


def exchanged(answer: Any, kind: type, by: Callable[[Any], Any]) -> Any:
    """An answer with what is of a `kind`, itself or in a tuple, exchanged `by` a function."""
    if isinstance(answer, kind):
        return by(answer)
    if type(answer) is tuple:
        return tuple(exchanged(each, kind, by) for each in answer)
    return answer


def unshared(answer: Any) -> Any:
    """An answer with what is `Shared` in it taken out."""
    return exchanged(answer, Shared, lambda shared: shared.value)


class Posts:
    """Messages whose answer nobody waits for, bounded in number and bytes.

    One that failed by an exception raises it at the next look; one that was lost with its part is
    counted.

    Args:
        most: messages on their way before `full`.
        most_bytes: likewise.
    """

    def __init__(self, most: int = 8, most_bytes: int = 64 << 20) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: deque[tuple[Pending, int, Callable[[Any], object] | None]] = deque()
        self.nbytes = 0
        self.sent = self.sent_bytes = self.lost = 0

    def __len__(self) -> int:
        """Messages that are not answered."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether no more should be sent now."""
        self.look()
        return len(self) >= self._most or self.nbytes >= self._most_bytes

    def add(
        self, answer: Pending, nbytes: int = 0, heard: Callable[[Any], object] | None = None
    ) -> None:
        """Keep account of a message that was sent; `heard` gets its answer.

        Where they were full before it, wait until they were not: who looks at `full` first never
        waits here.

        Raises:
            PartSilentError: none is answered in time.
        """
        self._waiting.append((answer, nbytes, heard))
        self.nbytes += nbytes
        self.sent += 1
        self.sent_bytes += nbytes
        self.look()
        while len(self) > self._most or (
            len(self) > 1 and self.nbytes - nbytes >= self._most_bytes
        ):
            self._take(DEADLINE)

    def look(self) -> None:
        """Take the answers that have come."""
        while self._waiting and self._waiting[0][0].ready():
            self._take(DEADLINE)

    def flush(self, seconds: float = DEADLINE) -> None:
        """Wait until all are answered.

        Raises:
            PartSilentError: they are not, in so many seconds.
        """
        end = time.monotonic() + seconds
        while self._waiting:
            self._take(max(0.0, end - time.monotonic()))

    def _take(self, seconds: float) -> None:
        answer, nbytes, heard = self._waiting[0]
        try:
            value = answer.result(seconds)
        except PartSilentError:
            raise
        except PartLostError:
            self.lost += 1
        else:
            if heard is not None:
                heard(value)
        # What raised otherwise stays: it is raised again at every look.
        self._waiting.popleft()
        self.nbytes -= nbytes
