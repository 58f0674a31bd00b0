"""R8 on Ray without Ray: slices that tell of faults, hangs that are counted, deaths with words."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from recollect.envs.failures import LIMIT
from recollect.messages import PartLostError
from recollect.program import Part, Program
from recollect.roles import ACTOR
from recollect.runtime import lives, transport
from recollect.runtime.lives import Lives
from recollect.types import EnvError
from tests.runtime.test_hosting import Worker, host_of

NAMED = "environment Slow-v0, slot 3, episode 2, step 7"


class Fails(Worker):
    """Its environment fails in its third and fourth turn."""

    fault = ""

    def step(self) -> None:
        super().step()
        if self.turns in (3, 4):
            self.fault = f"fault of turn {self.turns}"


def test_a_slice_ends_with_a_failure_of_an_environment_and_tells_of_it() -> None:
    """R8: else what was counted since the last slice goes with a process that dies of the next."""
    host = host_of(Fails())
    found = [host.slice(60.0, {"env_steps": 9}) for _ in range(3)]
    assert [each.turns for each in found] == [3, 1, 5]
    assert [each.fault for each in found] == [f"fault of turn {turn}" for turn in (3, 4, 4)]


class Stage:
    """One actor that is asked; what it answers is `answers`, by method, and on a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(lives, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.counts: dict[str, int] = {"env_steps": 30, "episodes": 2, "env_failures": 4}
        self.answers: dict[str, Callable[[], Any]] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.started: list[int] = []
        program = Program((Part("actor/0", ACTOR, lambda: None),), lambda: None)
        told = lambda _, counts: self.counts.update(counts)  # noqa: E731
        self.lives = Lives(
            program, self, 60.0, {}, lambda _: self.counts, told, lambda: None, journal=""
        )

    def start(self, part: Any, held: Any, epoch: int) -> None:
        self.started.append(epoch)

    def ask(self, name: str, *question: Any) -> Any:
        self.asked.append(question)
        answer = self.answers.get(
            question[0], lambda: {"pid": 5, "host": ""} if question == ("who",) else None
        )
        return SimpleNamespace(ready=lambda: True, result=answer)

    def kill(self, name: str, pid: int) -> None:
        pass

    def lost(self) -> str:
        return ""

    def tend(self, seconds: float) -> None:
        """A second after the other."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.lives.tend()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_a_hang_is_named_replaced_and_counted_as_a_failure(stage: Stage) -> None:
    """R8: the actor's next life counts on from it."""
    stage.answers["pulse"] = lambda: (59.0, NAMED)
    stage.tend(5)
    assert not stage.started
    stage.answers["pulse"] = lambda: (61.0, NAMED)
    stage.tend(2)
    del stage.answers["pulse"]
    stage.tend(2)
    assert stage.started == [1]
    assert stage.counts["env_failures"] == 4 + 1
    (asked,) = [question[2] for question in stage.asked if question[:2] == ("own", "go_on_from")]
    assert asked["env_failures"] == 4 + 1
    (death,) = stage.lives.deaths
    assert death.why.startswith(f"{NAMED} has not returned for 61 s, env_deadline is 60: mend ")
    stage.lives.lost("actor/0", PartLostError("killed"), 1)
    stage.tend(2)
    assert stage.counts["env_failures"] == 4 + 1, "that was none of an environment"


def test_hangs_without_end_are_the_environments_error(stage: Stage) -> None:
    """R8: more than ten."""
    stage.answers["pulse"] = lambda: (61.0, NAMED)
    with pytest.raises(EnvError, match=rf"^actor/0: {NAMED} has not returned .* failed 11 times"):
        stage.tend(100)
    assert stage.started == list(range(1, LIMIT + 1))


def test_an_environment_that_cannot_be_made_anew_is_tried_again(stage: Stage) -> None:
    """R8: an actor that comes back; at a run's start that ends it."""
    errors = [EnvError("Slow-v0: the engine is busy")] * 3

    def who() -> Any:
        if errors:
            raise errors.pop()
        return {"pid": 5, "host": ""}

    stage.answers["who"] = who
    stage.lives.lost("actor/0", PartLostError("killed"), 0)
    stage.tend(10)
    assert stage.started == [1, 2, 3, 4]
    assert stage.counts["env_failures"] == 4 + 3
    errors += [EnvError("Slow-v0: the engine is busy")] * 99
    stage.lives.lost("actor/0", PartLostError("killed"), 4)
    with pytest.raises(
        EnvError, match=r"^actor/0: Slow-v0: the engine is busy; .* failed 11 times"
    ):
        stage.tend(100)


def test_an_actor_that_dies_all_the_time_may_die_of_its_environment(stage: Stage) -> None:
    """R8: a crash that leaves no word; the line says what to try."""
    died = PartLostError(f"its process has died: {transport.UNKNOWN_END}")
    for epoch in range(LIMIT):
        stage.lives.lost("actor/0", died, epoch)
        stage.tend(2)
    with pytest.raises(
        PartLostError,
        match=r"^actor/0 \(process 5\): its process has died: .*; that is its death number 11 "
        "within 10 minutes, and 10 are borne: an environment may be what ends it, give them "
        "processes of their own with env_processes$",
    ):
        stage.lives.lost("actor/0", died, LIMIT)


# --- Last words -----------------------------------------------------------------------------------

RAYS = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: _Actor\n\tpid: 77\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code 2. End of file."
)
CRASHED = """:actor_name:_Actor
[2026 E 7] logging.cc:474:     @ ... and at least 5 more frames
Fatal Python error: Segmentation fault

Thread 0x00007f (most recent call first):
  File "/games/engine.py", line 41 in tick
  File "/games/env.py", line 7 in step

Extension modules: numpy._core, torch._C (total: 2)"""
HUNG = """recollect: environment Slow-v0, slot 0: construction has not come back for 60 s \
(/games/env.py, line 3): the run ends here"""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (CRASHED, "Segmentation fault in tick (/games/engine.py, line 41)"),
        (
            HUNG,
            "environment Slow-v0, slot 0: construction has not come back for 60 s (/games/env.py, "
            "line 3)",
        ),
        (f"{HUNG.replace('recollect: ', '')}\nsomething", transport.UNKNOWN_END),
        ("", transport.UNKNOWN_END),
    ],
)
def test_a_death_is_told_with_the_last_words_of_its_process(words: str, why: str) -> None:
    """R8: which of its environment's lines crashed, which environment hung as it was made."""
    told = transport._why(RuntimeError(RAYS), lambda pid: words if pid == 77 else "another's")
    assert told == f"its process has died: {why}"


@pytest.mark.parametrize(
    ("error", "said"), [(SystemExit(3), "SystemExit 3"), (KeyboardInterrupt(), "KeyboardInterrupt")]
)
def test_what_a_part_runs_ends_no_process_in_passing(error: BaseException, said: str) -> None:
    """R8: in a task of Ray SystemExit ends the worker, KeyboardInterrupt cancels the task."""
    wanted = rf"^something that it runs raised {re.escape(said)}$"
    with pytest.raises(RuntimeError, match=wanted), transport._staying():
        raise error
