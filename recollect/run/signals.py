"""Ending a run from outside: the first signal asks it to save and leave, the second just leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
SECONDS_AS_ONE = 0.2
"""What follows the first signal so soon says the same: a terminal and a parent both pass it on."""
SECONDS_TO_LEAVE = 0.5


class Interrupted(KeyboardInterrupt):
    """A run was ended by a signal, after it had saved, or before there was anything to save.

    Args:
        signal_name: SIGINT, SIGTERM or SIGHUP.
        unsaved: why it could not be saved, and what there is instead; empty if it was.
    """

    def __init__(self, signal_name: str, unsaved: str = "") -> None:
        super().__init__(f"ended by {signal_name}")
        self.signal_name, self.unsaved = signal_name, unsaved

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130, 143 or 129."""
        return 128 + int(signal.Signals[self.signal_name])


class Stop:
    """Turns signals into a request: `with Stop() as stop: ... if stop.requested: ...`.

    The first SIGINT or SIGTERM sets `requested` and is over; a later one ends the process at once,
    with exit code 130 or 143. SIGHUP counts as a first one, never as a second: who asks for a stop
    may close the terminal before it is done. Where SIGHUP is ignored (nohup) it stays so. The
    handlers that were there before come back at the end. Python runs handlers between two steps of
    its own, so a call into C that does not return delays both.

    Outside the main thread nothing is installed, and `requested` stays None.

    Args:
        on_first: called in the handler, between any two steps of the main thread.
        on_second: called before the process leaves, in a thread of its own, for half a second.
            Errors of both are ignored.
    """

    def __init__(
        self,
        on_first: Callable[[], object] | None = None,
        on_second: Callable[[], object] | None = None,
    ) -> None:
        self.requested: str | None = None
        self.on_first, self._on_second = on_first, on_second
        self._first_at = 0.0
        self._pid = os.getpid()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._pid = os.getpid()
        self._former = _install(
            self._handle, SIGNALS, lambda name, former: (name, former) != ("SIGHUP", signal.SIG_IGN)
        )
        return self

    def __exit__(self, *_: object) -> None:
        _put_back(self._former)
        self._former = {}

    def _handle(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked child: its signals are its own affair
            self.__exit__()
            os.kill(os.getpid(), number)
            return
        name = signal.Signals(number).name
        if self.requested is None:
            self.requested, self._first_at = name, time.monotonic()
            if self.on_first is not None:
                with contextlib.suppress(Exception):
                    self.on_first()
        elif name != "SIGHUP" and time.monotonic() - self._first_at > SECONDS_AS_ONE:
            self._leave(name)

    def _leave(self, name: str) -> None:
        def last_words() -> None:
            os.write(2, f"\n{name} again: leaving at once, nothing more is saved\n".encode())
            if self._on_second is not None:
                self._on_second()

        call_within(SECONDS_TO_LEAVE, last_words)
        os._exit(Interrupted(name).exit_code)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise Interrupted, as SIGINT raises KeyboardInterrupt.

    So a command that has nothing to save yet leaves in good order, too. What is ignored stays so.
    """

    def handle(number: int, _: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    former = _install(handle, ("SIGTERM", "SIGHUP"), lambda _, former: former == signal.SIG_DFL)
    try:
        yield
    finally:
        _put_back(former)


def _install(
    handle: Callable[[int, FrameType | None], None],
    names: Sequence[str],
    over: Callable[[str, Any], bool],
) -> dict[int, Any]:
    """Handle these signals where `over(name, former handler)` is true; the former handlers."""
    installed: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        return installed
    for name in names:
        number = getattr(signal, name, None)
        former = None if number is None else signal.getsignal(number)
        # One that is not of Python's making could not come back.
        if number is not None and former is not None and over(name, former):
            installed[number] = former
            signal.signal(number, handle)
    return installed


def _put_back(former: dict[int, Any]) -> None:
    for number, handler in former.items():
        signal.signal(number, handler)


def call_within(seconds: float, function: Callable[[], object]) -> None:
    """Call a function in a thread and wait at most so long for it; its errors are ignored."""

    def call() -> None:
        with contextlib.suppress(BaseException):
            function()

    thread = threading.Thread(target=call, daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be had
        thread.start()
        thread.join(seconds)
