"""The shards of a replay as who asks them knows them: how each stood when it last told.

A shard that died has nothing to draw, and the totals it had last told, until it was replaced and
has answered.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from recollect.messages import FencedError, Handle, PartLostError, PartSilentError, Pending
from recollect.replay.shard import Standing

ASK_SECONDS = (0.002, 0.1)
"""Between two questions how the shards stand, of who waits: from the least, doubled up to the most.
"""
FRESH_SECONDS = 1.0
"""Between two such questions of who need not wait."""


class Asked(NamedTuple):
    """A question to life `life` of shard `shard`, its number `number`, and the answer to come."""

    shard: int
    life: int
    number: int
    answer: Pending


class Shards:
    """Asks, and takes in what is told. May be used by several threads.

    Args:
        handles: of `Shard`s.

    Attributes:
        handles: likewise.
        near: whether all are objects of this process.
        standing: how each stood.
    """

    def __init__(self, handles: Sequence[Handle]) -> None:
        self.handles = list(handles)
        self.near = all(handle.near for handle in handles)
        self.standing = [Standing() for _ in handles]
        self._heard = [0] * len(handles)  # number of the question that told it; 0: none yet
        self._number = 0
        self._lost = [-1] * len(handles)  # the last life that is known to be over
        self._looks: list[Asked | None] = [None] * len(handles)
        self._looked = [handle.life for handle in handles]  # the life that was last looked at
        self._asked, self._pause, self._waits = -1e9, ASK_SECONDS[0], True
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """K."""
        return len(self.handles)

    @property
    def told(self) -> bool:
        """Whether every one has told how it stands."""
        return all(self._heard)

    def ask(self, k: int, method: str, *arguments: Any) -> Asked:
        """Ask a shard; it is asked, and answers, in the order of the numbers."""
        with self._lock:
            self._number += 1
            handle = self.handles[k]
            return Asked(k, handle.life, self._number, handle.ask(method, *arguments))

    def result(self, asked: Asked) -> Any:
        """The answer, None if it was lost with its shard.

        Raises:
            PartSilentError: it does not come in time.
            FencedError: we were replaced.
        """
        try:
            return asked.answer.result()
        except (PartSilentError, FencedError):
            raise
        except PartLostError:
            self.lose(asked.shard, asked.life)
            return None

    def hear(self, asked: Asked, standing: Standing) -> None:
        """Take in how a shard stood, unless a later answer was heard before, or it has died."""
        with self._lock:
            k = asked.shard
            if asked.number > self._heard[k] and asked.life > self._lost[k]:
                self._heard[k] = asked.number
                self.standing[k] = standing

    def lose(self, k: int, life: int) -> None:
        """A life of a shard is over."""
        with self._lock:
            if life > self._lost[k]:
                self._lost[k] = life
                self.standing[k] = Standing(self.standing[k].totals)

    def gone(self, k: int) -> bool:
        """Whether a shard is known to have died, and was not replaced."""
        return self._lost[k] >= self.handles[k].life

    def look(self, now: float) -> None:
        """Take answers on how the shards stand, and ask anew, not more often than makes sense.

        One that was replaced is asked at once.
        """
        for k, asked in enumerate(self._looks):
            if asked is not None and asked.answer.ready():
                self._looks[k] = None
                self._take(asked)
        due = self.near or now - self._asked >= (self._pause if self._waits else FRESH_SECONDS)
        if due:
            self._asked, self._pause = now, min(2 * self._pause, ASK_SECONDS[1])
        for k, handle in enumerate(self.handles):
            life = handle.life
            if life > self._looked[k]:
                self.lose(k, life - 1)
            elif not due:
                continue
            if self._looks[k] is not None:
                continue
            self._looked[k] = life
            asked = self.ask(k, "look")
            if self.near:
                self._take(asked)
            else:
                self._looks[k] = asked

    def wait(self, waits: bool) -> None:
        """Whether what was last told makes us wait: then it is asked for sooner."""
        self._waits = waits
        if not waits:
            self._pause = ASK_SECONDS[0]

    def _take(self, asked: Asked) -> None:
        standing = self.result(asked)
        if standing is not None:
            self.hear(asked, standing)
