"""Asks parts that may die meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from recollect.messages import DEADLINE, PartLostError, PartSilentError, Pending
from recollect.runtime.hosting import BusyError
from recollect.runtime.life import Transport
from recollect.runtime.lives import Lives

LOOK_SECONDS = 0.1
"""Between two looks at what has come, when nothing comes."""
GLANCE_SECONDS = 1.0
"""That who can do without an answer waits for it."""
TURN_SECONDS = 1800.0
"""That a turn may take at most."""


class AgainError(PartLostError):
    """A part died on the way; the next life of it may be asked."""


class Asking:
    """Asks the driver's questions, and looks after the parts while it waits for their answers.

    Args:
        transport: by which to ask. lives: who has died.
    """

    def __init__(self, transport: Transport, lives: Lives) -> None:
        self._transport, self._lives = transport, lives
        self.ready = False
        """Whether those that die come back: all were there, and what they begin with."""
        self._late: dict[tuple[str, ...], tuple[Pending, int]] = {}  # and of which life

    def wait_until_lives(self, name: str) -> None:
        """Wait until a part lives, or nobody waits for it any more.

        Raises:
            PartLostError: it will not come back.
        """
        while (why := self._lives.why_dead(name)) and not self._lives.away(name):
            if self._lives.gone_for_good(name):
                raise PartLostError(f"{name}: {why}", name)
            self.pause([])

    def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a method of a part, between two of its turns; of its next life, if it dies.

        Raises:
            PartLostError: it died and will not come back, or there is no room for it.
        """
        while True:
            self.wait_until_lives(name)
            if self._lives.away(name):
                raise PartLostError(f"{name}: {self._lives.why_dead(name)}", name)
            with contextlib.suppress(AgainError):
                return self.wait_for(name, "own", method, *arguments)

    def wait_for(self, name: str, method: str, *arguments: Any) -> Any:
        """Ask a part's host, and wait for the answer."""
        return self.ask_all([name], method, *arguments)[name]

    def ask_life(self, epoch: int, name: str, method: str, *arguments: Any) -> Any:
        """As `wait_for`; AgainError where it is not this life any more."""
        if self._lives.epoch(name) != epoch:
            raise AgainError(f"{name}: it died", name)
        return self.wait_for(name, method, *arguments)

    def ask_all(
        self,
        names: Sequence[str],
        method: str,
        *arguments: Any,
        whole: bool = True,
        stuck: bool = True,
    ) -> dict[str, Any]:
        """Ask several at once; their answers by name. One in a turn is asked until it ends.

        Meanwhile others may die and come back: an answer may wait for that.

        Args:
            whole: whether all must answer; else those who die are left out.
            stuck: whether to wait for one that is stuck.
        Raises:
            AgainError: one of them died, and comes back; or is stuck.
        """
        begin = time.monotonic()
        asked = {name: self._ask_one(name, method, *arguments) for name in names}
        found: dict[str, Any] = {}
        while asked:
            for name, (answer, epoch, since) in [*asked.items()]:
                if self._lives.epoch(name) != epoch or self._lives.why_dead(name):
                    if whole:
                        raise AgainError(f"{name}: {self._lives.why_dead(name) or 'it died'}", name)
                    del asked[name]
                    continue
                silent = time.monotonic() - since > DEADLINE
                if not (answer.ready() or silent):
                    continue
                try:
                    with self.noticing(name, epoch):
                        found[name] = answer.result(0.0 if silent else DEADLINE)
                    self._lives.hear(name)
                    del asked[name]
                except BusyError:
                    if time.monotonic() - begin > TURN_SECONDS:
                        error = PartSilentError(too_long(time.monotonic() - begin), name)
                        self._lives.lost(name, error, epoch)
                    else:
                        asked[name] = self._ask_one(name, method, *arguments)
                except AgainError:
                    continue  # the next look finds it dead
            if asked and not stuck and (why := self._lives.stuck()):
                raise AgainError(why)
            if asked:
                self.pause([answer for answer, _, _ in asked.values()])
        return found

    def glance(self, names: Sequence[str], *what: str) -> dict[str, Any]:
        """Ask several, and do not wait for who hangs or is in a long turn; answers by name.

        An answer that is late is that to the next such question, for which nobody waits any more.
        """
        new = set()
        for name in names:
            epoch = self._lives.epoch(name)
            if self._late.get((name, *what), (None, -1))[1] != epoch:
                self._late[name, *what] = self._transport.ask(name, *what), epoch
                new.add(name)
        found: dict[str, Any] = {}
        left, end = set(names), time.monotonic() + GLANCE_SECONDS
        while True:
            for name in [*left]:
                answer, epoch = self._late[name, *what]
                if self._lives.epoch(name) != epoch or self._lives.why_dead(name):
                    left.discard(name)
                elif answer.ready():
                    left.discard(name)
                    del self._late[name, *what]
                    with contextlib.suppress(AgainError, BusyError), self.noticing(name, epoch):
                        found[name] = answer.result()
                        self._lives.hear(name)
            if not left & new or time.monotonic() >= end:
                return found
            self.pause([self._late[name, *what][0] for name in left & new])

    def _ask_one(self, name: str, method: str, *arguments: Any) -> tuple[Pending, int, float]:
        epoch = self._lives.epoch(name)
        return self._transport.ask(name, method, *arguments), epoch, time.monotonic()

    @contextlib.contextmanager
    def noticing(self, name: str, epoch: int = 0) -> Iterator[None]:
        """Say by name what was raised in a part's life, and take it for dead if it is.

        Also one in which another one's death was raised: it was left in the middle of something.

        Raises:
            AgainError: it died, and comes back.
        """
        try:
            yield
        except BusyError:
            raise
        except PartLostError as error:
            if not self.ready:
                raise type(error)(f"{self._lives.called(name)}: {error}", name) from error
            if error.part not in ("", name):
                error = PartLostError(f"it was left in the middle: {error.part}: {error}", name)
            self._lives.lost(name, error, epoch)
            raise AgainError(str(error), name) from error
        except Exception as error:
            error.add_note(f"(raised in {self._lives.called(name)})")
            raise

    @contextlib.contextmanager
    def held(self, names: Sequence[str], *, stuck: bool = True) -> Iterator[None]:
        """With these workers between two turns, and all they posted arrived; see `ask_all`."""
        try:
            self.ask_all(names, "hold", stuck=stuck)
            yield
        finally:
            # In order, so that one that is stuck is not held when it goes on.
            answers = [self._transport.ask(name, "release") for name in names]
            end = time.monotonic() + GLANCE_SECONDS
            while (left := [x for x in answers if not x.ready()]) and time.monotonic() < end:
                self.pause(left)

    def pause(self, pending: Sequence[Pending]) -> None:
        """Wait a moment for one of these answers, and look after the parts."""
        waited_for = [*pending, *self._lives.waited_for()]
        if waited_for:
            self._transport.wait(waited_for, LOOK_SECONDS)
        else:
            time.sleep(LOOK_SECONDS)
        if self.ready:
            self._lives.tend()


def too_long(seconds: float) -> str:
    """Why a part is dead whose turn does not end."""
    return f"a turn takes {seconds:.0f} s already, more than it may"
