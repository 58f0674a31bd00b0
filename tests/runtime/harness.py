"""A training under faults, watched from outside; at its end, what must be so however it was struck.

`Harness` runs it (see `faults`), continues what was stopped, kills at random if asked, measures
stalls and memory. `Harness.check` compares what was planned with what happened; `aftermath` has
what must hold in the run's folder.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recollect.program import kind_of
from recollect.runtime import sockets
from tests import commanded
from tests.runtime import counted
from tests.runtime.faults import DEADLY, INSIDE, Plan
from tests.test_killed import SHARED_MEMORY

LOOK_SECONDS = 0.1
SOCKET_SECONDS = 5.0
LEAVE_SECONDS = 10.0
"""Until nothing of a run that has ended may be left (R5)."""
PAGE = os.sysconf("SC_PAGE_SIZE")
OURS = "RECOLLECT_TEST_RUN"
"""Inherited by all that the training starts: so they are found, whatever their names."""


def ours(folder: Path) -> dict[int, str]:
    """The living that a training in a folder has started, and what they are called, by pid."""
    mark, found = f"{OURS}={folder}".encode(), {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                called = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(process.name)] = called.decode(errors="replace")[:200]
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; one that is not whole yet is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


@dataclass
class Stalls:
    """The longest time in which nothing moved."""

    longest: float = 0.0
    _since: float | None = None
    _seen: Any = None

    def look(self, now: float, seen: Any) -> None:
        """How far it is now; None: that is not known."""
        if seen is not None and (self._since is None or seen != self._seen):
            self._since, self._seen = now, seen
        elif self._since is not None:
            self.longest = max(self.longest, now - self._since)


@dataclass
class Memory:
    """Bytes that processes have for themselves, over time."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def look(self, now: float, pids: Iterable[int]) -> None:
        """Add a sample."""
        self.seen.append((now, sum(map(private_bytes, pids))))

    @property
    def late(self) -> float:
        """The median over the last third."""
        return float(np.median([nbytes for _, nbytes in self.seen[-(len(self.seen) // 3 + 1) :]]))


def private_bytes(pid: int) -> int:
    """Resident and not shared; 0 if it is not there."""
    with suppress(OSError):
        _, resident, shared, *_ = (Path("/proc") / str(pid) / "statm").read_text().split()
        return (int(resident) - int(shared)) * PAGE
    return 0


@dataclass(frozen=True)
class Killed:
    """What the harness killed, and what status.json said it did."""

    pid: int
    part: str
    doing: str


@dataclass
class Killer:
    """Kills the newest life of any part, at times as of a Poisson process, unless it is `calm`."""

    mean: float
    seed: int
    killed: list[Killed] = field(default_factory=list)
    calm: bool = False
    _at: float | None = None

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def look(self, now: float, lives: Mapping[str, int], doing: Mapping[str, str]) -> None:
        """Kill one of the living, by part, if it is time.

        Args:
            lives: the pid of each part's newest life, if that lives.
            doing: what the run says that each part does.
        """
        if self._at is None:
            self._at = now + self._rng.exponential(self.mean)
        if now < self._at or not lives or self.calm:
            return
        self._at = now + self._rng.exponential(self.mean)
        part = str(self._rng.choice(sorted(lives)))
        with suppress(ProcessLookupError):
            os.kill(lives[part], signal.SIGKILL)
            self.killed.append(Killed(lives[part], part, doing.get(part, "?")))


class Harness:
    """`with Harness(folder, words) as harness: harness.watch(60)`, and then `harness.check()`.

    Args:
        folder: for everything: the run is `run` in it.
        words: of the command line, without the run's folder.
        plan: the faults. mean, seed: seconds between kills at random; 0: none.
    Attributes:
        stalls, memory: as measured.
        opened: what was seen to listen where others could come in.
        paused: (part, pid) of what `pause` stopped.
    """

    def __init__(
        self,
        folder: Path,
        words: Sequence[str],
        plan: Plan | None = None,
        *,
        mean: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.folder, self.run, self.plan = folder, folder / "run", plan or Plan()
        self.words = [*words, "--run-dir", str(self.run)]
        self.stalls, self.memory = Stalls(), Memory()
        self.killer = Killer(mean, seed) if mean else None
        self.opened: list[str] = []
        self.steps = folder / "steps"
        self.paused: list[tuple[str, int]] = []
        self._continued: set[int] = set()
        self._sampled = self._looked_in = -1e9
        self.process: Any = None

    def __enter__(self) -> Harness:
        self.plan.write(self.folder)
        self.steps.mkdir()
        self._shared = set(SHARED_MEMORY.iterdir())
        environment = commanded.environment() | {
            OURS: str(self.folder),
            counted.FOLDER: str(self.steps),
        }
        how = ["-m", "tests.runtime.faults", str(self.folder), "--", *self.words]
        with open(self.folder / "said", "w") as said:
            self.process = commanded.python(how, stdout=said, stderr=said, env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        end = time.monotonic() + LEAVE_SECONDS
        while (left := ours(self.folder)) and time.monotonic() < end:
            time.sleep(0.1)
        self.left = list(left.values())
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # --- While it runs ---------------------------------------------------------------------------

    def watch(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Look on until the training ends, or until something is so; False after so many seconds.

        Where `until` is given the training must not end before.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                assert until is None or until(), f"the training ended: {self.said}"
                return True
            self._look()
            if until is not None and until():
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def pause(self, part: str, seconds: float) -> None:
        """Stop the newest life of a part for so long, from outside, whatever it does."""
        pid = self.lives[part]
        self.paused.append((part, pid))
        os.kill(pid, signal.SIGSTOP)
        try:
            self.watch(seconds, until=lambda: False)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def stop(self, seconds: float = 60.0) -> None:
        """End the training in good order."""
        self.process.send_signal(signal.SIGTERM)
        assert self.watch(seconds), f"it does not leave: {self.said}"
        assert self.process.returncode == 128 + signal.SIGTERM, self.said

    @property
    def said(self) -> str:
        """What the training printed."""
        return (self.folder / "said").read_text()

    @property
    def status(self) -> dict[str, Any]:
        """Its status file; empty before the first."""
        with suppress(FileNotFoundError):
            return commanded.status(self.run)
        return {}

    @property
    def born(self) -> list[dict[str, Any]]:
        """All lives of all parts: `part`, `pid`, `time`."""
        return lines(self.folder / "born.jsonl")

    def all_back(self, deaths: int) -> bool:
        """Whether the run has told of so many deaths, and every part lives."""
        parts = {row["part"] for row in self.born}
        told = self.status.get("parts", [])
        back = len(self.deaths) >= deaths and self.lives.keys() == parts
        return back and bool(told) and all(part["alive"] for part in told)

    @property
    def struck(self) -> list[dict[str, Any]]:
        """The faults that were injected."""
        return lines(self.folder / "struck.jsonl")

    @property
    def deaths(self) -> list[dict[str, Any]]:
        """What the run says of those of its parts that died and were replaced."""
        return lines(self.run / "faults.jsonl")

    @property
    def lives(self) -> dict[str, int]:
        """The newest life of each part, where it lives and is of this training."""
        ours = sockets.tree(self.process.pid)
        newest = {row["part"]: row["pid"] for row in self.born}
        return {part: pid for part, pid in newest.items() if pid in ours and sockets.born(pid)}

    def _look(self) -> None:
        now = time.monotonic()
        for row in self.struck:
            if row["how"] == "stop" and row["number"] not in self._continued:
                fault = self.plan.faults[row["number"]]
                if time.time() - row["time"] >= fault.seconds:
                    self._continued.add(row["number"])
                    with suppress(ProcessLookupError):
                        os.kill(row["pid"], signal.SIGCONT)
        if now - self._sampled >= 1.0:
            self._sampled = now
            status = self.status
            running = status.get("state") == "running"
            moved = (status["env_steps"], status["updates"]) if running else None
            self.stalls.look(now, moved)
            self.memory.look(now, sockets.tree(self.process.pid))
            if self.killer is not None and running:
                doing = {part["name"]: part["doing"] for part in status.get("parts", [])}
                self.killer.look(now, self.lives, doing)
        if now - self._looked_in >= SOCKET_SECONDS:
            self._looked_in = now
            with suppress(OSError):  # of a process that ends at this moment
                found = sockets.listeners(sockets.tree(self.process.pid))
                self.opened += [str(one) for one in found if one.open_to_others]

    # --- After it --------------------------------------------------------------------------------

    @property
    def kills(self) -> list[tuple[str, int]]:
        """(part, pid) of all that was made to die."""
        planned = [(row["part"], row["pid"]) for row in self.struck if row["how"] in DEADLY]
        at_random = self.killer.killed if self.killer else []
        return planned + [(killed.part, killed.pid) for killed in at_random]

    def check(self) -> None:
        """Assert that all happened as planned, and that nothing is left; after the `with`."""
        assert self.process.poll() is not None, "it is still running"
        check_struck(self.plan, self.struck)
        stopped = [(r["part"], r["pid"]) for r in self.struck if r["how"] == "stop"]
        check_deaths(self.kills, stopped + self.paused, self.deaths)
        check_gone(self.kills)
        assert self.opened == [], "others could come in"
        assert self.left == [], f"left after {LEAVE_SECONDS:g} s"
        end = time.monotonic() + LEAVE_SECONDS
        while (more := set(SHARED_MEMORY.iterdir()) - self._shared) and time.monotonic() < end:
            time.sleep(0.1)  # another run's on this machine goes by itself
        assert not more, f"shared memory is left: {more}"

    def steps_lost(self) -> int:
        """Environment steps that actors really took, beyond those that the run counts."""
        actors = {row["pid"] for row in self.born if kind_of(row["part"]) == "actor"}
        taken = counted.steps_taken(self.steps)
        return sum(n for pid, n in taken.items() if pid in actors) - self.status["env_steps"]

    def table(self) -> str:
        """What died, one line each, as the run tells of it."""
        rows = [" ".join(f"{key} {value}" for key, value in row.items()) for row in self.deaths]
        for kind in dict.fromkeys(kind_of(row["part"]) for row in self.deaths):
            own = [row["down_seconds"] for row in self.deaths if kind_of(row["part"]) == kind]
            rows.append(
                f"{kind}: away {np.median(own):.1f} s in the median, {max(own):.1f} at most"
            )
        lives = Counter(row["part"] for row in self.born)
        what = f"stall {self.stalls.longest:.1f} s, {self.memory.late / 2**20:,.0f} MiB late"
        return "\n".join([*rows, f"lives {dict(lives)}, {what}"])


def check_struck(plan: Plan, struck: Sequence[Mapping[str, Any]]) -> None:
    """Assert that each fault struck once, and its victim was in the state that was meant."""
    by_number = Counter(row["number"] for row in struck)
    twice = [str(plan.faults[n]) for n, times in by_number.items() if times > 1]
    assert not twice, f"more than once: {twice}"
    missed = [str(fault) for n, fault in enumerate(plan.faults) if n not in by_number]
    assert not missed, f"never came to it: {missed}"
    for row in struck:
        fault = plan.faults[row["number"]]
        told = (row["part"], row["state"], row["how"])
        assert told == (fault.part, fault.state, fault.how), f"{told} instead of {fault}"
        inside, within = INSIDE[fault.where], row["within"]
        there = any(
            frame.startswith(each) if each.endswith(".") else frame == each
            for each in inside
            for frame in within
        )
        assert there, f"{fault}: it was in none of {inside}, but in {within}"


def check_deaths(
    kills: Sequence[tuple[str, int]],
    stopped: Sequence[tuple[str, int]],
    deaths: Sequence[Mapping[str, Any]],
) -> None:
    """Assert that the run tells of each kill once, and of nothing else.

    Args:
        kills: (part, pid) of what was made to die. stopped: of what may have been taken for dead.
        deaths: the rows of faults.jsonl; a pid of 0: it was not known yet.
    """
    told = [(row["part"], row["pid"]) for row in deaths]
    strange = [each for each in told if each[1] and each not in {*kills, *stopped}]
    assert not strange, f"died, and nobody had killed them: {strange}"
    twice = [each for each, times in Counter(told).items() if each[1] and times > 1]
    assert not twice, f"told of twice: {twice}"
    died = Counter(part for part, pid in told if (part, pid) not in stopped)
    wanted = Counter(part for part, _ in kills)
    assert died == wanted, f"recoveries {dict(died)}, kills {dict(wanted)}"


def check_gone(kills: Iterable[tuple[str, int]]) -> None:
    """Assert that whoever was killed is dead."""
    living = [each for each in kills if sockets.born(each[1])]
    assert not living, f"still there: {living}"
