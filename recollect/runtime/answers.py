"""Answers of Ray actors, and Ray's words on their deaths.

Ray itself comes from `runtime.ray.load`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Protocol

from recollect.messages import DEADLINE, PartLostError, PartSilentError, exchanged
from recollect.run import watchdog
from recollect.runtime import ray as opening

GLANCE_SECONDS = 0.5
"""Between two looks of who waits for an answer whether the part was replaced."""
UNKNOWN_END = "killed from outside, out of memory, or ended by what it ran"
Words = Callable[[int], str]


class Replaceable(Protocol):
    """A part that may be replaced; `life` is the number of its present life."""

    life: int


class Answer:
    """A Ray object as a `Pending`.

    Args:
        ref: the object. name: of the part that was asked.
        handle: with which, where the part may be replaced. life: the one that was asked.
        words: see `why_lost`.
    """

    def __init__(
        self,
        ref: Any,
        name: str,
        handle: Replaceable | None = None,
        life: int = 0,
        words: Words | None = None,
    ) -> None:
        self.ref, self._name, self._handle, self._life = ref, name, handle, life
        self._words = words

    @property
    def _late(self) -> bool:
        """Whether the life that was asked has ended: if it is cut off it never answers."""
        return self._handle is not None and self._handle.life != self._life

    def ready(self) -> bool:
        """Whether it has come, or never will."""
        # For the driver, which must not be kept waiting, an answer has come when it is here: one
        # that lies on a machine that is cut off never will be.
        here = self._handle is None
        there = opening.load().wait([self.ref], timeout=0, fetch_local=here)[0]
        return bool(there) or self._late

    def result(self, seconds: float = DEADLINE) -> Any:
        """The answer, or what was raised; PartLostError, PartSilentError as `Pending`."""
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            try:
                return _fetched(self.ref, min(end, now + GLANCE_SECONDS), self._name, self._words)
            except PartSilentError:
                if self._late:
                    raise PartLostError("it was replaced", self._name) from None
                if now >= end:
                    raise


def _fetched(ref: Any, end: float, name: str, words: Words | None = None) -> Any:
    ray = opening.load()
    try:
        answer = ray.get(ref, timeout=max(0.0, end - time.monotonic()))
    except ray.exceptions.GetTimeoutError as error:
        raise PartSilentError("it did not answer in time", name) from error
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, Exception):
            raise cause from None
        raise
    except ray.exceptions.RayError as error:  # it died, or the owner of what it sent
        raise PartLostError(why_lost(error, words), name) from None
    # What is `Shared` comes as a reference.
    return exchanged(answer, ray.ObjectRef, lambda shared: _fetched(shared, end, name, words))


def why_lost(error: Exception, words: Words | None = None) -> str:
    """Ray's words on a death, without its numbers.

    Args:
        words: gives the last words of a process, if they are known.
    """
    text = " ".join(str(error).split())
    for sign, said in (
        (
            "is unavailable",
            "it cannot be reached: Ray's own process on its machine has died, or it is cut off",
        ),
        ("worker process has died", "its process has died"),
        ("node", "its node has died or is cut off"),
        ("Owner", "what it sent was lost with it"),
    ):
        if sign in text:
            exit_detail = text.partition("exit detail: ")[2].partition(". ")[0]
            if "unexpectedly exits" in exit_detail:  # which says no more
                pid = re.search(r"\bpid: (\d+)", text)
                exit_detail = _end(words(int(pid[1]))) if pid and words else ""
                exit_detail = exit_detail or UNKNOWN_END
            return said + (f": {exit_detail}" if exit_detail else "")
    return text[:200]


def _end(words: str) -> str:
    """How a process ended, if it was said in its last words; else empty.

    By `faulthandler`, where it crashed, or by the watchdog, where making an environment hung.
    """
    if hung := re.search(rf"^recollect: (.*){re.escape(watchdog.ENDS)}", words, re.MULTILINE):
        return hung[1]
    fatal = re.search(
        r"Fatal Python error: ([^\n]+)\n.*?most recent call first\):\n"
        r'  File "([^"\n]+)", line (\d+) in (\S+)',
        words,
        re.DOTALL,
    )
    return f"{fatal[1]} in {fatal[4]} ({fatal[2]}, line {fatal[3]})" if fatal else ""
