"""A transport for tests of `Lives`: on a clock, with every answer as a test wants it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recollect.messages import DEADLINE, PartLostError, Pending
from recollect.program import Far, Part, Program
from recollect.replay.limiter import Totals
from recollect.replay.shard import Standing
from recollect.roles import ACTOR, EVALUATOR, LEARNER, PARAMETERS, REPLAY
from recollect.runtime import lives, recovery
from recollect.runtime.lives import Lives

SHARDS = ("replay/0", "replay/1")


def program(actors: int = 2) -> Program:
    """Two shards, parameters, a learner, actors, an evaluator."""
    far, held = Far(list), {"replay": SHARDS, "parameters": "parameters"}
    return Program(
        (
            *(Part(name, REPLAY, list, far=far) for name in SHARDS),
            Part("parameters", PARAMETERS, list, far=far),
            Part("learner", LEARNER, list, held),
            *(Part(f"actor/{i}", ACTOR, list, held) for i in range(actors)),
            Part("evaluator", EVALUATOR, list, {"parameters": "parameters"}),
        ),
        policy=list,
    )


class Answer:
    """An answer that comes when it is given."""

    def __init__(self) -> None:
        self.here, self.value = False, None

    def give(self, value: Any) -> None:
        self.here, self.value = True, value

    def ready(self) -> bool:
        return self.here

    def result(self, seconds: float = DEADLINE) -> Any:
        assert self.here, "nobody waits here"
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Stage:
    """A transport, and the `Lives` over it.

    Attributes:
        now: the clock.
        log: what was done but pulses, as tuples.
        open: answers that did not come yet, with their question.
        dead: parts that answer that they are dead, until they are started.
        withheld: what is not answered, as (part, method): the test does it.
        answers: what is not answered as usual, as (part, method).
        counted: of workers, as last heard.
        steps: what shards acknowledge, by shard, sender and epoch.
        undone: steps that a shard can owe again.
        back: who came back, and with which counts.
        saved: the last checkpoint.
        why: no part can be reached any more.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        epochs: Mapping[str, int] | None = None,
        journal: str = "/journals",
        env_deadline: float = 60.0,
        actors: int = 2,
    ) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(lives, "time", clock)
        monkeypatch.setattr(recovery, "ThreadPoolExecutor", lambda *_: Reads())
        self.log: list[tuple[Any, ...]] = []
        self.open: list[tuple[tuple[Any, ...], Answer]] = []
        self.dead: set[str] = set()
        self.withheld: set[tuple[str, str]] = set()
        self.answers: dict[tuple[str, str], Any] = {}
        self.counted: dict[str, dict[str, int]] = {
            "learner": {"learned_steps": 0},
            "evaluator": {},
        }
        self.counted |= {f"actor/{i}": {"env_steps": 0, "episodes": 0} for i in range(actors)}
        self.steps: dict[tuple[str, str, int], int] = {}
        self.undone = dict.fromkeys(SHARDS, 0)
        self.back: list[tuple[str, dict[str, int]]] = []
        self.saved: dict[str, Any] | None = None
        self.why = ""
        self.pulses = 0
        self.lives = Lives(
            program(actors),
            self,
            env_deadline,
            epochs or {},
            lambda name: self.counted.get(name, {}),
            self._back,
            lambda: self.saved,
            journal,
        )
        for name in self.lives.epochs:
            self.lives.hear(name, self._who(name))

    def _who(self, name: str) -> dict[str, Any]:
        return {"pid": 100 * len(name) + self.lives.epoch(name), "host": ""}

    def _back(self, name: str, counts: dict[str, int]) -> None:
        self.log.append((name, "BACK"))
        self.back.append((name, counts))
        if name in self.counted:
            self.counted[name] = counts

    # --- The transport ---------------------------------------------------------------------------

    def start(self, part: Part, held: Mapping[str, Sequence[Part]], epoch: int) -> None:
        given = {argument: tuple(p.name for p in parts) for argument, parts in held.items()}
        assert given == part.held
        self.log.append((part.name, "START", epoch))
        self.dead.discard(part.name)

    def kill(self, name: str, pid: int) -> None:
        self.log.append((name, "KILL", pid))
        self.dead.add(name)

    def rewire(self, holder: str, name: str) -> None:
        self.log.append((holder, "REWIRE", name))

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        raise AssertionError("nobody waits here")

    def no_room(self, name: str) -> str:
        return ""

    def lost(self) -> str:
        return self.why

    def close(self) -> None:
        raise AssertionError("not ours to close")

    def ask(self, name: str, method: str, *arguments: Any) -> Pending:
        answer = Answer()
        if method == "pulse":
            self.pulses += 1
        else:
            self.log.append((name, method, *arguments))
        of = arguments[0] if method in ("own", "serve") else method
        if name in self.dead:
            answer.give(PartLostError("it died", name))
        elif (name, of) in self.withheld:
            self.open.append(((name, method, *arguments), answer))
        else:
            answer.give(self._answer(name, of, arguments))
        return answer

    def _answer(self, name: str, of: str, arguments: tuple[Any, ...]) -> Any:
        if (name, of) in self.answers:
            given = self.answers[name, of]
            return given() if callable(given) else given
        if of == "who":
            return self._who(name)
        if of == "state":
            return {"weights": np.full(3, self.now)}
        if of == "counts":
            return dict(self.counted[name])
        if of == "steps_from":
            return self.steps.get((name, arguments[1], arguments[2]), 0)
        if of == "look":
            return Standing(Totals(learned=self.undone[name]))
        if of == "unlearned":
            taken = min(arguments[1], self.undone[name])
            self.undone[name] -= taken
            return taken
        return (True, 5) if of == "recover" else None

    # --- What a test does ------------------------------------------------------------------------

    def tend(self, seconds: float = 0.1, times: int = 1) -> None:
        """Let time pass, and look."""
        for _ in range(times):
            self.now += seconds
            self.lives.tend()

    def die(self, name: str) -> None:
        """A part dies, and an answer says so."""
        self.dead.add(name)
        self.lives.lost(name, PartLostError("it was killed", name), self.lives.epoch(name))

    def let(self, name: str, method: str, value: Any = None) -> None:
        """What was withheld is answered: as usual, or with a value. Later it is not withheld."""
        self.withheld.discard((name, method))
        for question, answer in [*self.open]:
            of = question[2] if question[1] in ("own", "serve") else question[1]
            if (question[0], of) == (name, method):
                self.open.remove((question, answer))
                usual = self._answer(name, of, question[2:]) if value is None else value
                answer.give(usual)

    def done(self, *names: str) -> list[tuple[Any, ...]]:
        """What was done since this was last asked; of some parts if they are named."""
        found, self.log[:] = [*self.log], []
        return [each for each in found if not names or each[0] in names]


class Reads:
    """A pool that reads at once."""

    def submit(self, read: Callable[[], Any]) -> Any:
        value = read()
        return SimpleNamespace(done=lambda: True, result=lambda seconds: value)

    def shutdown(self, **_: Any) -> None:
        pass
