"""What passes between parts that may live in different processes: questions, answers, posts.

A part that holds another one asks it through a `Handle`. Nothing here says how a question travels.
"""

from __future__ import annotations

import time
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


class FencedError(PartLostError):
    """Who asks was replaced, and must stop: its part lives on in another process."""


class EarlyError(PartLostError):
    """A message came to a part that was replaced before an earlier one was sent there again."""


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
    """A part, as others ask it. Questions of one asker arrive in the order they were asked.

    When the part is replaced the handle is turned to the new one by another thread, and then its
    `life` rises. An answer of an earlier life that was not looked at is `ready`, and lost.
    """

    @property
    def name(self) -> str:
        """The part's name in the program."""

    @property
    def near(self) -> bool:
        """Whether the part is an object of this process, which answers at once."""

    @property
    def asker(self) -> tuple[str, int]:
        """Name and epoch of the part that asks."""

    @property
    def life(self) -> int:
        """How often the part was replaced."""

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
    asker = ("", 0)
    life = 0

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


def unless_lost(answer: Pending, otherwise: Any = None) -> Any:
    """The answer, or `otherwise` if it was lost with its part.

    Raises:
        PartSilentError: there is none in time.
        FencedError: we were replaced.
        Exception: what the part raised.
    """
    try:
        return answer.result()
    except (PartSilentError, FencedError):
        raise
    except PartLostError:
        return otherwise


@dataclass(eq=False)
class _Post:
    """A message and its answer to come; `kept`: it was lost, and `again` will send it again."""

    answer: Pending
    nbytes: int
    heard: Callable[[Any], object] | None
    handle: Handle | None = None
    again: Callable[[], Pending] | None = None
    life: int = 0
    kept: bool = False
    kept_at: float = 0.0


class Posts:
    """Messages whose answer nobody waits for, bounded in number and bytes.

    One that failed by an exception raises it at the next look. One that was lost with its part is
    counted, or, if it was given to `keep`, sent again once the part was replaced.

    Args:
        most: messages on their way before `full`.
        most_bytes: likewise.
    """

    PAUSE_SECONDS = 0.01
    """Between two looks whether a part was replaced, of who waits for it."""
    RETRY_SECONDS = 5.0
    """After which a message is sent again to a part that was not replaced: it may only have been
    out of reach."""

    def __init__(self, most: int = 8, most_bytes: int = 64 << 20) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: list[_Post] = []
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
            FencedError: we were replaced.
        """
        self._add(_Post(answer, nbytes, heard))

    def keep(
        self,
        handle: Handle,
        again: Callable[[], Pending],
        nbytes: int = 0,
        heard: Callable[[Any], object] | None = None,
    ) -> None:
        """Send a message by `again`, and so each time its part was replaced before it answered.

        Messages to one part go in order: before anything newer, all that were not answered are
        sent again. The part recognises what it has. Waits and raises as `add`.
        """
        # Read first: if the part is replaced meanwhile, this one goes there once more, in order.
        life = handle.life
        self.resend()
        self._add(_Post(again(), nbytes, heard, handle, again, life))

    def keeps(self, handle: Handle) -> bool:
        """Whether a message waits for this part to be replaced, as far as was looked."""
        mine = [post for post in self._waiting if post.kept and post.handle is handle]
        return any(post.life >= handle.life for post in mine)

    def resend(self) -> None:
        """Send again, in order, what was given to `keep`, to parts that were replaced since.

        Also what was kept for long: its part may live, and recognises what it has.
        """
        # A part may be replaced at any moment: what goes to it now is counted for one life.
        lives = {id(post.handle): post.handle.life for post in self._waiting if post.handle}
        late = time.monotonic() - self.RETRY_SECONDS
        kept = {id(post.handle) for post in self._waiting if post.kept and post.kept_at < late}
        for post in self._waiting:
            known = id(post.handle)
            if post.again is not None and (lives[known] > post.life or known in kept):
                post.answer, post.life, post.kept = post.again(), lives[known], False

    def look(self) -> None:
        """Take the answers that have come, those of each part in order."""
        self.resend()
        behind = set()
        for post in list(self._waiting):
            if id(post.handle) in behind:
                continue
            if not post.kept and post.answer.ready():
                self._take(post, DEADLINE)
            if post in self._waiting:
                behind.add(id(post.handle))

    def flush(self, seconds: float = DEADLINE) -> None:
        """Wait until all are answered, those kept for a part that is replaced too.

        Raises:
            PartSilentError: they are not, in so many seconds.
            FencedError: we were replaced.
        """
        end = time.monotonic() + seconds
        while self._waiting:
            self._wait(end)

    def _add(self, post: _Post) -> None:
        self._waiting.append(post)
        self.nbytes += post.nbytes
        self.sent += 1
        self.sent_bytes += post.nbytes
        self.look()
        end = time.monotonic() + DEADLINE
        while len(self) > self._most or (
            len(self) > 1 and self.nbytes - post.nbytes >= self._most_bytes
        ):
            self._wait(end)

    def _wait(self, end: float) -> None:
        """Wait for an answer, or a little where all wait for parts that are gone."""
        self.resend()
        # Not one behind a message that is kept: what was taken is never before what was not.
        behind = {id(post.handle) for post in self._waiting if post.kept}
        asked = next((post for post in self._waiting if id(post.handle) not in behind), None)
        if asked is not None:
            self._take(asked, max(0.0, end - time.monotonic()))
        elif time.monotonic() >= end:
            raise PartSilentError(self._gone(), self._names()[0])
        else:
            time.sleep(self.PAUSE_SECONDS)

    def _names(self) -> list[str]:
        """Parts for which messages are kept."""
        return sorted({post.handle.name for post in self._waiting if post.kept and post.handle})

    def _gone(self) -> str:
        return f"{', '.join(self._names())} died and was not replaced in time"

    def _take(self, post: _Post, seconds: float) -> None:
        """Take an answer, waiting so long for it."""
        try:
            value = post.answer.result(seconds)
        except (PartSilentError, FencedError):
            raise
        except PartLostError:
            if post.again is not None:
                post.kept, post.kept_at = True, time.monotonic()
                return
            self.lost += 1
        else:
            if post.heard is not None:
                post.heard(value)
        # What raised otherwise stays: it is raised again at every look.
        self._waiting.remove(post)
        self.nbytes -= post.nbytes
