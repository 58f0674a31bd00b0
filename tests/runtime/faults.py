"""Faults that strike the parts of a training from within, in a state that was chosen before.

A part injects its own fault, so that it is in that state when it is struck, and says so first. The
training is a process of its own: `python -m tests.runtime.faults FOLDER -- train r2d2 ...` wraps
the factories of the program's parts and then does what the words say. FOLDER has `plan.json`; each
life of a part adds a line to `born.jsonl`, each fault one to `struck.jsonl`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recollect.program import Program, kind_of

STATES = {
    "actor": ("reset", "step", "send", "idle"),
    "replay": ("insert", "sample", "update", "save"),
    "learner": ("forward", "backward", "publish", "save"),
    "parameters": ("publish", "pull"),
    "evaluator": ("step",),
}
HOWS = ("kill", "stop", "delay", "exit", "hang")
DEADLY = ("kill", "exit", "hang")
"""What ends a life for certain; a part that is stopped may be taken for dead, or not."""

INSIDE: dict[str, tuple[str, ...]] = {
    "actor.reset": (
        "acting._first_reset",
        "acting._begin_again",
        "acting._finish",
        "acting.begin_epoch",
    ),
    "actor.step": ("acting.step",),
    "actor.send": ("far.",),
    "actor.idle": ("hosting.",),
    "replay.insert": ("shard.take", "journal."),
    "replay.sample": ("shard.draw",),
    "replay.update": ("shard.update_priorities", "journal."),
    "replay.save": ("hosting.",),
    "learner.forward": ("r2d2.gradients",),
    "learner.backward": ("_tensor.backward",),
    "learner.publish": ("r2d2.step", "hosting.own"),
    "learner.save": ("hosting.",),
    "parameters.publish": ("hosting.ask",),
    "parameters.pull": ("hosting.ask",),
    "evaluator.step": ("evaluating.evaluate",),
}
"""By kind and state: of these one must be on the stack of who is struck; "file." is any of it."""

REACH = {
    "actor.reset": 390,
    "actor.step": 10_000,
    "actor.send": 620,
    "actor.idle": 3_000,
    "replay.insert": 620,
    "replay.sample": 4_400,
    "replay.update": 4_400,
    "replay.save": 10,
    "learner.forward": 4_400,
    "learner.backward": 4_400,
    "learner.publish": 4_400,
    "learner.save": 10,
    "parameters.publish": 4_400,
    "parameters.pull": 2_500,
    "evaluator.step": 7_000,
}
"""How often a part is in a state while two actors and two shards learn PositionCartPole, with a
checkpoint every 10 s: counted in a rehearsal, for which `Plan` has `count`."""


@dataclass(frozen=True)
class Fault:
    """What happens to a part the `at`-th time that one of its lives is in a state.

    `how`: kill (SIGKILL to itself), stop (SIGSTOP; the harness continues it after `seconds`), delay
    (sleeps so long), exit (os._exit), hang (sleeps for ever). `late`: at the end of what the state
    is, not at its beginning.
    """

    part: str
    state: str
    how: str
    at: int
    seconds: float = 0.0
    late: bool = False

    def __post_init__(self) -> None:
        kind = kind_of(self.part)
        if self.state not in STATES.get(kind, ()):
            raise ValueError(f"{self.part} has no state {self.state!r}: it has {STATES.get(kind)}")
        if self.how not in HOWS or self.at < 1:
            raise ValueError(f"{self.how!r} at {self.at}: wanted one of {HOWS}, at 1 or later")

    @property
    def where(self) -> str:
        """Kind and state."""
        return f"{kind_of(self.part)}.{self.state}"

    def __str__(self) -> str:
        moment = "end" if self.late else "beginning"
        return f"{self.how} {self.part} at the {moment} of {self.state} number {self.at}"


@dataclass(frozen=True)
class Plan:
    """Faults, numbered in this order; `count`: all states are counted, as a rehearsal wants it."""

    faults: tuple[Fault, ...] = ()
    count: bool = False

    @classmethod
    def drawn(
        cls,
        seed: int,
        number: int,
        parts: Sequence[str],
        *,
        hows: Sequence[str] = ("kill",),
        seconds: float = 5.0,
        reach: Mapping[str, int] | None = None,
    ) -> Plan:
        """So many faults, evenly over the kinds of these parts, their states, and the run's length.

        Args:
            hows: taken in turn.
            seconds: of those that stop and delay.
            reach: how often a part is in each `kind.state` in the run; what it lacks is as `REACH`.
        """
        rng = np.random.default_rng(seed)
        reach = {**REACH, **(reach or {})}
        kinds = list(dict.fromkeys(map(kind_of, parts)))
        own = {kind: [p for p in parts if kind_of(p) == kind] for kind in kinds}
        states = {kind: list(rng.permutation(STATES[kind])) for kind in kinds}
        when = (rng.permutation(number) + rng.uniform(size=number)) / max(1, number)
        faults = []
        for i in range(number):
            kind, round_ = kinds[i % len(kinds)], i // len(kinds)
            state = str(states[kind][round_ % len(states[kind])])
            part = own[kind][round_ % len(own[kind])]
            # Not in the last fifth: what is struck there might not be missed before the end.
            at = 1 + int(reach[f"{kind}.{state}"] * (0.05 + 0.75 * when[i]))
            late = bool(rng.integers(2))
            faults.append(Fault(part, state, hows[i % len(hows)], at, seconds, late))
        return cls(tuple(faults))

    def write(self, folder: Path) -> None:
        """Where the parts look for it."""
        folder.mkdir(parents=True, exist_ok=True)
        told = {"faults": [dataclasses.asdict(f) for f in self.faults], "count": self.count}
        (folder / "plan.json").write_text(json.dumps(told))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """What `write` wrote."""
        told = json.loads((folder / "plan.json").read_text())
        return cls(tuple(Fault(**fault) for fault in told["faults"]), told["count"])


def tell(path: Path, **what: Any) -> None:
    """Add a line, whole whoever else writes."""
    line = (json.dumps({**what, "pid": os.getpid(), "time": time.time()}) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def stack() -> list[str]:
    """`file.function` of all that runs in this thread, but for this file; the innermost first."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename != __file__:
            found.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return found


@dataclass
class Striker:
    """Counts how often a part is in each state, over all of its lives, and strikes when it is due.

    Args:
        folder: of the plan. part: its name.
        faults: of this part, by their numbers in the plan.
        count: whether states are counted that have no fault.
    """

    folder: Path
    part: str
    faults: Mapping[int, Fault]
    count: bool = False
    _files: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wants(self, state: str) -> bool:
        """Whether anything is to be done in a state."""
        return self.count or any(fault.state == state for fault in self.faults.values())

    def around(self, owner: Any, method: str, state: str) -> None:
        """A method that is a state, from its beginning to its end."""
        if not self.wants(state):
            return
        inner = getattr(owner, method)

        def hooked(*arguments: Any, **more: Any) -> Any:
            due = self.entered(state)
            self.strike(due, late=False)
            found = inner(*arguments, **more)
            self.strike(due, late=True)
            return found

        setattr(owner, method, hooked)

    def come(self, state: str) -> None:
        """A state without length."""
        due = self.entered(state)
        self.strike(due, late=False)
        self.strike(due, late=True)

    def entered(self, state: str) -> dict[int, Fault]:
        """What is due, now that a state is entered once more; the file's length is the count."""
        with self._lock:
            if state not in self._files:
                path = self.folder / f"{self.part.replace('/', '-')}.{state}.count"
                how = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._files[state] = os.open(path, how, 0o600)
            os.write(self._files[state], b".")
            times = os.lseek(self._files[state], 0, os.SEEK_CUR)
        return {n: f for n, f in self.faults.items() if f.state == state and times >= f.at}

    def strike(self, due: Mapping[int, Fault], *, late: bool) -> None:
        """Strike with what is due at this end of the state, and was not done before in any life."""
        for number, fault in due.items():
            if fault.late != late:
                continue
            marker = self.folder / f"fault-{number}"
            try:
                os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                continue
            told = {"number": number, "part": self.part, "state": fault.state, "how": fault.how}
            tell(self.folder / "struck.jsonl", **told, within=stack())
            do(fault)


def do(fault: Fault) -> None:
    """To this process."""
    if fault.how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.01)  # another thread may be the first to stop
        return
    elif fault.how == "exit":
        os._exit(3)
    elif fault.how == "delay":
        time.sleep(fault.seconds)
        return
    while True:
        time.sleep(60)


# --- The states of each kind of part -------------------------------------------------------------


def hook(kind: str, part: Any, striker: Striker) -> None:
    """Tell the striker of a part's states."""
    if kind == "actor":
        striker.around(part._env, "reset", "reset")
        striker.around(part._env, "restart", "reset")
        striker.around(part._env, "step", "step")
        if hasattr(part._replay, "posts"):
            striker.around(part._replay.posts, "keep", "send")
        if striker.wants("idle"):
            part.ready = Idle(part.ready, striker)
    elif kind == "replay":
        part.state_dict = Checked(part)
        for method, state in (
            ("insert", "insert"),
            ("draw", "sample"),
            ("update_priorities", "update"),
            ("state_dict", "save"),
        ):
            striker.around(part, method, state)
    elif kind == "learner":
        striker.around(part, "q_values", "forward")
        striker.around(part, "publish", "publish")
        striker.around(part, "state_dict", "save")
        if striker.wants("backward"):
            first = next(p for p in part.network.parameters() if p.requires_grad)
            first.register_hook(lambda gradient: striker.come("backward"))
    elif kind == "parameters":
        striker.around(part, "publish", "publish")
        striker.around(part, "fetch", "pull")
    elif kind == "evaluator":
        striker.around(part._env, "step", "step")


@dataclass
class Idle:
    """`ready` of a part that is idle where it says no."""

    inner: Callable[[], bool]
    striker: Striker

    def __call__(self) -> bool:
        found = self.inner()
        if not found:
            self.striker.come("idle")
        return found


class Checked:
    """`state_dict` of a store that works every figure out again before it is saved (R2)."""

    def __init__(self, replay: Any) -> None:
        self._replay, self._inner = replay, replay.state_dict

    def __call__(self) -> Any:
        self._replay.check_valid()
        return self._inner()


@dataclass(frozen=True)
class Struck:
    """A factory whose part strikes itself."""

    part: str
    folder: str
    factory: Callable[..., Any]

    def __call__(self, **held: Any) -> Any:
        folder = Path(self.folder)
        tell(folder / "born.jsonl", part=self.part)
        made = self.factory(**held)
        plan = Plan.read(folder)
        mine = {n: fault for n, fault in enumerate(plan.faults) if fault.part == self.part}
        hook(kind_of(self.part), made, Striker(folder, self.part, mine, plan.count))
        return made


def struck(program: Program, folder: str) -> Program:
    """The program whose parts strike themselves as planned in a folder."""
    parts = tuple(
        dataclasses.replace(part, factory=Struck(part.name, folder, part.factory))
        for part in program.parts
    )
    return dataclasses.replace(program, parts=parts)


def main(folder: str, words: list[str]) -> int:
    """Do what the words say, with faults."""
    from recollect import cli
    from recollect.training import runtimes

    inner = runtimes.program_of
    runtimes.program_of = lambda job: struck(inner(job), folder)
    return cli.main(words)


if __name__ == "__main__":
    from tests.runtime import faults  # by this name its classes are found elsewhere

    sys.exit(faults.main(sys.argv[1], sys.argv[3:]))
