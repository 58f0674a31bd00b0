"""R8 on Ray: whatever an environment does inside an actor is named, counted and survived."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from recollect.run.metrics import read_metrics
from recollect.runtime.answers import UNKNOWN_END
from tests import commanded
from tests.cli.test_supervised_environment import DEADLINE, LEFT, SAID, WHERE
from tests.runtime import unruly
from tests.runtime.harness import lines
from tests.runtime.unruly import noted

pytest.importorskip("ray")

WORDS = (
    f"train r2d2 --env {unruly.ID} --runtime ray --actors 4 --env-steps 800 --min-replay-steps 60 "
    "--hidden 8 --head-hidden 8 --torso-sizes 8 --burn-in 2 --trace-length 4 --period 2 --n-step 1 "
    "--batch-size 4 --replay-ratio 2 --evaluation-period 0"
)
KINDS = (
    *("raises", "sys.exit", "os._exit", "segfaults", "hangs"),
    *("nan", "interrupts", "shape", "dtype", "inf"),
)
DEADLY = ("os._exit", "segfaults", "hangs", "interrupts")
"""What ends an environment's process, or keeps it for ever."""
VERBS = ("step", "reset")
IN_A_PROCESS = SAID | {
    "interrupts": r"its process (exited with code \d+|was killed by SIGINT) in VERB"
}
UNRULY = rf"\({re.escape(unruly.__file__)}, line \d+\)"
IN_THE_ACTOR = SAID | {"interrupts": f"VERB raised KeyboardInterrupt {UNRULY}"}


def trained(folder: Path, plan: Sequence[str], *more: str, each: int = 99) -> tuple[int, str, str]:
    """A training whose environment does all this: its exit code, stdout and stderr."""
    (folder / "notes").mkdir()
    kwargs = {"plan": plan, "folder": str(folder / "notes"), "each": each}
    words = [*WORDS.split(), "--env-deadline", f"{DEADLINE:g}", "--run-dir", str(folder / "run")]
    words += ["--env-kwargs", json.dumps(kwargs), *more]
    done = commanded.done(["-m", "recollect", *words])
    return done.returncode, done.stdout, done.stderr


def assert_told(out: str, plan: Sequence[str], said: dict[str, str]) -> None:
    """The first three of each verb that an actor lived through are warned of, with all names."""
    told = [line for line in out.splitlines() if line.startswith("warning: ")]
    for verb in VERBS:
        own = [line for line in told if line.partition(LEFT[verb])[1]]
        kinds = [step.partition(" in ")[0] for step in plan if step.endswith(f" in {verb}")][:3]
        assert len(own) >= len(kinds) > 0, out
        call = r"reset for episode \d+" if verb == "reset" else r"episode \d+, step 3"
        for kind, line in zip(kinds, own, strict=False):
            what = said[kind].replace("VERB", verb)
            named = f"warning: actor/0: environment {unruly.ID}, slot [0-3], {call}: {what}"
            assert re.match(named + re.escape(LEFT[verb]), line), (named, line)


@pytest.mark.parametrize("other", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_r8_in_processes_of_their_own_a_fault_costs_episodes_and_no_actor(
    tmp_path: Path, other: bool
) -> None:
    """Must show 6: every kind of fault, half of them in reset; the other halves in the slow one."""
    kinds = KINDS[::-1] if other else KINDS
    plan = [f"{kind} in {VERBS[k % 2]}" for k, kind in enumerate(kinds)]
    code, out, error = trained(tmp_path, plan, "--env-processes", "1")
    assert (code, error) == (0, "")
    assert len(noted(tmp_path / "notes")) == len(plan)
    assert_told(out, plan, IN_A_PROCESS)
    last = read_metrics(tmp_path / "run")[-1]
    assert last["run/env_failures"] == len(plan)
    in_step = sum(fault.endswith(" in step") for fault in plan)
    assert in_step <= last["run/dropped_episodes"] <= in_step + 3 * len(DEADLY)
    assert last["faults/deaths"] == 0
    assert last["run/env_steps"] == 800
    assert last["updates"] > 10


@pytest.mark.slow
def test_r8_in_the_actor_what_ends_it_has_it_replaced_and_a_hang_is_named(tmp_path: Path) -> None:
    """Must show 6: by default environments live in the actor's own process."""
    lived = ("raises", "sys.exit", "nan", "inf", "interrupts", "shape", "dtype")
    ends = ("os._exit", "segfaults", "hangs")
    plan = [f"{kind} in {VERBS[1 - k % 2]}" for k, kind in enumerate([*lived, *ends])]
    code, out, error = trained(tmp_path, plan)
    assert (code, error) == (0, "")
    notes = noted(tmp_path / "notes")
    assert len(notes) == len(plan)
    assert_told(out, plan[: len(lived)], IN_THE_ACTOR)
    last = read_metrics(tmp_path / "run")[-1]
    assert last["run/env_failures"] == len([*lived, "hangs"])
    assert last["run/dropped_episodes"] == len(lived) // 2  # those in step
    assert last["run/env_steps"] == 800
    assert last["updates"] > 10
    deaths = lines(tmp_path / "run" / "faults.jsonl")
    assert [(row["part"], row["pid"]) for row in deaths] == [
        ("actor/0", note["pid"]) for note in notes[-len(ends) :]
    ]
    assert last["faults/deaths"] == last["faults/recoveries"] == len(ends)
    exited, crashed, hung = (row["why"] for row in deaths)
    assert exited == f"its process has died: {UNKNOWN_END}"
    assert re.fullmatch(
        r"its process has died: Segmentation fault in string_at \(\S+ctypes\S+, line \d+\)", crashed
    ), crashed
    assert re.match(
        rf"environment {unruly.ID}, slot [0-3], episode 0, step 3 has not returned for \d+ s, "
        f"env_deadline is {DEADLINE:g}: mend the environment, ",
        hung,
    ), hung


@pytest.mark.slow
def test_r8_more_than_ten_failures_of_all_actors_together_end_the_run(tmp_path: Path) -> None:
    """Must show 6: none of them has so many."""
    plan = ["raises in step"] * 99
    more = ("--actor-processes", "2", "--env-steps", "100000")
    code, _, error = trained(tmp_path, plan, *more, each=9)
    assert code == 1
    run = tmp_path / "run"
    line = (
        rf"recollect: actor/[01]: environment {unruly.ID}, slot [0-3], episode \d+, step 3: "
        rf"step raised OSError: the engine stopped {WHERE}; with it environments failed 11 times "
        "within 10 minutes in all parts together, and 10 are borne: mend the environment; what was "
        rf"learned lies in {run}: python -m recollect evaluate {run}\n"
    )
    assert re.fullmatch(line, error), error
    by_process = Counter(note["pid"] for note in noted(tmp_path / "notes"))
    assert len(by_process) == 2
    assert max(by_process.values()) < 11
    state = json.loads((run / "status.json").read_text())["state"]
    assert state.startswith("failed: actor/")
