"""R8 on Ray without Ray: slices that tell of faults, hangs that are counted, deaths with words."""

from __future__ import annotations

import re
import time

import pytest

from recollect.envs import calls
from recollect.runtime import answers, transport
from tests.runtime.staged import Stage
from tests.runtime.test_hosting import Worker, host_of


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


def test_what_failed_in_the_same_turn_is_told_of_with_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R8: an engine that raises, and hangs when it is begun again."""
    worker = Fails()
    host = host_of(worker)
    monkeypatch.setattr(calls, "current", lambda: (time.monotonic(), "a reset"))
    assert host.slice(60.0, {"env_steps": 3}).fault == "fault of turn 3"
    asked = host.pulse()
    worker.fault = "it raised"
    again = host.pulse()
    assert asked is not None
    assert again is not None
    assert (asked[1], again[1]) == ("a reset", "a reset (after it raised)")


def test_a_hang_is_counted_as_a_failure_by_the_actors_next_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R8: once, and no other death is."""
    stage = Stage(monkeypatch)
    stage.counted["actor/0"] = {"env_steps": 0, "episodes": 2, "env_failures": 4}
    stage.answers["actor/0", "pulse"] = (61.0, "environment Slow-v0, slot 3, episode 2, step 7")
    stage.tend(1.0, times=2)
    stage.answers.clear()
    stage.tend(times=2)
    assert stage.counted["actor/0"]["env_failures"] == 4 + 1
    stage.die("actor/0")
    stage.tend(times=2)
    assert stage.counted["actor/0"]["env_failures"] == 4 + 1
    given = [each[3] for each in stage.done("actor/0") if each[1:3] == ("own", "go_on_from")]
    assert [counts["env_failures"] for counts in given] == [5, 5]


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
        (f"{HUNG.replace('recollect: ', '')}\nsomething", answers.UNKNOWN_END),
        ("", answers.UNKNOWN_END),
    ],
)
def test_a_death_is_told_with_the_last_words_of_its_process(words: str, why: str) -> None:
    """R8: which of its environment's lines crashed, which environment hung as it was made."""
    told = answers.why_lost(RuntimeError(RAYS), lambda pid: words if pid == 77 else "another's")
    assert told == f"its process has died: {why}"


@pytest.mark.parametrize(
    ("error", "said"), [(SystemExit(3), "SystemExit 3"), (KeyboardInterrupt(), "KeyboardInterrupt")]
)
def test_what_a_part_runs_ends_no_process_in_passing(error: BaseException, said: str) -> None:
    """R8: in a task of Ray SystemExit ends the worker, KeyboardInterrupt cancels the task."""
    wanted = rf"^something that it runs raised {re.escape(said)}$"
    with pytest.raises(RuntimeError, match=wanted), transport._staying():
        raise error
