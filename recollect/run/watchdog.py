"""Ends a run whose environment hangs: in our own process nobody could take its place."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from recollect.run.signals import call_within

PACKAGE = str(Path(__file__).parents[1]) + os.sep
SECONDS_BEYOND = 5.0
"""How much later than we the system's timer ends a process in which no Python can run."""
SECONDS_FOR_LAST_WORDS = 10.0
ENDS = ": the run ends here"


class Watchdog:
    """Looks at what an environment is doing, and leaves with exit code 1 when it does not return.

    First it calls `on_hang` and writes to stderr what hangs and where. A call that never lets go of
    Python's lock lets no thread look: a timer of `faulthandler` ends the process then, with the
    stack of every thread on stderr and without `on_hang`.

    Time in which the process was stopped (SIGSTOP, a laptop that sleeps) is not held against a
    call, but the timer does not know better: who stops a run for longer than `deadline` ends it.

    Args:
        current: what is being done, as `environment X, slot 3: step 41 of episode 7`, and since
            when on `time.monotonic()`, as (since, what); None if nothing is. Called from a thread.
        deadline: seconds a call may last; 0 turns the watchdog off.
        on_hang: told what hangs; it has 10 s, and its errors are ignored.
        gil: whether the timer is armed; there is one for a process, so whoever else uses it
            (pytest) would be disturbed.
        advice: what to do about it, the end of the line on stderr.
    """

    def __init__(
        self,
        current: Callable[[], tuple[float, str] | None],
        deadline: float,
        on_hang: Callable[[str], object],
        *,
        gil: bool = True,
        advice: str = "",
    ) -> None:
        self._current, self._deadline, self._on_hang, self._gil = current, deadline, on_hang, gil
        self._advice = advice and f": {advice}"
        self._period = min(1.0, deadline / 4)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if self._deadline > 0:
            self._over.clear()
            self._arm(self._deadline + SECONDS_BEYOND)
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        self._thread = None
        if self._gil:
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        looked, watched, last = time.monotonic(), 0.0, None
        while not self._over.wait(self._period):
            self._arm(self._deadline + SECONDS_BEYOND)
            now = time.monotonic()
            # Of a longer gap between two looks the process has not lived through the rest.
            lived, looked = min(now - looked, 2 * self._period), now
            found = self._look()
            if found is None:
                last = None
            elif found != last:
                watched, last = min(now - found[0], lived), found
            else:
                watched += lived
                if watched > self._deadline:
                    self._leave(f"{found[1]} has not come back for {self._deadline:g} s")

    def _look(self) -> tuple[float, str] | None:
        with contextlib.suppress(Exception):  # it reads what another thread is changing
            return self._current()
        return None

    def _arm(self, seconds: float) -> None:
        if self._gil:
            faulthandler.dump_traceback_later(seconds, exit=True, file=2)

    def _leave(self, text: str) -> None:
        self._arm(2 * SECONDS_FOR_LAST_WORDS + SECONDS_BEYOND)
        panel = "\n" * os.isatty(2)  # which may stand in the line
        line = f"{panel}recollect: {text} ({_where()}){ENDS}{self._advice}\n"
        call_within(SECONDS_FOR_LAST_WORDS, lambda: os.write(2, line.encode()))
        call_within(SECONDS_FOR_LAST_WORDS, lambda: self._on_hang(text))
        os._exit(1)


def _where() -> str:
    """File and line at which the main thread stands; ours only if no other's was called by us."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    frames: list[FrameType] = []  # innermost first
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    if not frames:
        return "the main thread has ended"
    ours = [frame.f_code.co_filename.startswith(PACKAGE) for frame in frames]
    outermost = len(ours) - 1 - ours[::-1].index(True) if True in ours else len(ours)
    called = [frame for frame, own in zip(frames[:outermost], ours, strict=False) if not own]
    at = (called or frames)[0]
    return f"{at.f_code.co_filename}, line {at.f_lineno}"
