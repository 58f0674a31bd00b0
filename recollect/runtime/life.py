"""What is known of a part and of its lives; how it is started and asked."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from recollect.envs.failures import Recent
from recollect.messages import DEADLINE, PartLostError, Pending
from recollect.program import Part

Recovery = Generator[Pending | None, Any, None]
"""A recovery: it yields an answer it waits for, or None to go on later."""


class Transport(Protocol):
    """Starts parts elsewhere and asks their hosts."""

    def start(self, part: Part, held: Mapping[str, Sequence[Part]], epoch: int) -> None:
        """Begin to make a life of a part, which holds others that were started before."""

    def ask(self, name: str, method: str, *arguments: Any) -> Pending:
        """Ask the `Host` of a part's present life.

        Of a worker one thread answers `slice`, and of any part one what is `QUICK`.
        """

    def rewire(self, holder: str, name: str) -> None:
        """Let a part know the present life of another one that it holds."""

    def no_room(self, name: str) -> str:
        """Why no machine has room for a part that was started; empty if one has."""

    def kill(self, name: str, pid: int) -> None:
        """End what may be left of a part's present life; its process, if that is known."""

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        """Return when one of these has come, or after so many seconds."""

    def lost(self) -> str:
        """Why no part can be reached or started any more; empty if they can."""

    def close(self) -> None:
        """End all parts."""


@dataclass
class Death:
    """A part that died and came back: what was lost with it, and for how long it was away.

    `epoch` is that of the life that ended, `pid` its process. `lost_steps` were taken, as far as
    had been heard, and did not arrive in replay; `undone_updates` went with a learner, and the
    `undone_steps` it learned from in them, or was about to, are owed again; of `replayed` calls a
    shard's journal had record, -1 if it could not be used. `env_failures` of environments ended it.
    """

    part: str
    kind: str
    epoch: int
    pid: int
    why: str
    down_seconds: float = 0.0
    lost_steps: int = 0
    undone_updates: int = 0
    undone_steps: int = 0
    replayed: int = 0
    env_failures: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"down_seconds": round(self.down_seconds, 3)}


@dataclass
class Known:
    """What is known of a part."""

    part: Part
    epoch: int
    who: Mapping[str, Any] = field(default_factory=dict)
    heard: float = 0.0
    dead: str = ""
    """Why; empty while it lives."""
    no_room: str = ""
    """Why its next life has no place."""
    counted: bool = True
    """Whether it is known what the lives that ended had added to the run."""
    began_with: int = 0
    """Environment steps of its earlier lives."""
    deaths: Recent = field(default_factory=Recent)
    open: list[tuple[float, Death]] = field(default_factory=list)
    """Deaths since it lived last, and when they were noticed."""
    steps: Recovery | None = None
    """Its recovery."""
    waits: Pending | None = None
    silent: float = 0.0
    """For so long there is no answer to `waits`, or to `question`."""
    calling: float = 0.0
    """For so long it was in a call of an environment, when it answered last."""
    looked_at: float = 0.0
    """When it was last looked whether there is room."""
    question: Pending | None = None
    asked_at: float = 0.0
    copying: Pending | None = None
    copied_at: float = -1e9
    copy: Any = None


class Read:
    """What a thread reads, as an answer to come."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def ready(self) -> bool:
        """Whether it was read."""
        return self._future.done()

    def result(self, seconds: float = DEADLINE) -> Any:
        """What was read."""
        return self._future.result(seconds)


class Asked:
    """What a part that lives was asked for a recovery: lost, as soon as another life of it begins.

    One that is cut off never answers.
    """

    def __init__(self, answer: Pending, known: Known) -> None:
        self.answer, self.known, self.epoch = answer, known, known.epoch

    def ready(self) -> bool:
        """Whether it answered, or was replaced."""
        return self.known.epoch != self.epoch or self.answer.ready()

    def result(self, seconds: float = DEADLINE) -> Any:
        """Its answer; PartLostError if it was replaced."""
        if self.known.epoch != self.epoch:
            raise PartLostError("it was replaced", self.known.part.name)
        return self.answer.result(seconds)
