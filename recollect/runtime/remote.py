"""A program whose parts live in processes of their own: who gets turns, what came of them, states.

How parts are started and asked is the transport's business; nothing here imports ray. The driver,
which is the process of this object, only looks on: experience and parameters pass it by.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from recollect import states
from recollect.messages import DEADLINE, PartLostError, PartSilentError, Pending
from recollect.program import Part, Program
from recollect.run.parts import PartNow
from recollect.run.state_tree import below
from recollect.runtime import randomness
from recollect.runtime.hosting import Elsewhere, Slice
from recollect.runtime.inline import gathered
from recollect.types import Array, Buffers, EnvError, Metrics

SLICE_SECONDS = 1.0
LOOK_SECONDS = 0.1
"""Between two looks at what has come, when nothing comes."""
START_SECONDS = 180.0
"""For all parts to be there: each loads torch, and may share a core with many."""
LATE_SECONDS = 15.0
"""Beyond its end until a slice is looked into; a turn that computes may take longer."""
TURN_SECONDS = 1800.0
"""That a turn may take at most."""
PIECE_BYTES = 32 << 20
"""Of a state's buffers, that travel at once."""
RATES = {"actor": ("env_steps", "steps/s"), "learner": ("updates", "updates/s")}
"""What a kind of worker is seen to do."""

OnDisk = Mapping[str, Buffers]
"""Buffers that a state's writer has already, by place."""


class Transport(Protocol):
    """Starts parts elsewhere and asks their hosts."""

    def start(self, part: Part, held: Mapping[str, Sequence[Part]]) -> None:
        """Begin to make a part, which holds others that were started before."""

    def ask(self, name: str, method: str, *arguments: Any) -> Pending:
        """Ask a part's `Host`; of a worker, `slice` in one thread and all else in another."""

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        """Return when one of these has come, or after so many seconds."""

    def close(self) -> None:
        """End all parts."""


@dataclass
class _Worker:
    """What is known of a worker."""

    part: Part
    pending: Pending | None = None
    given_at: float = 0.0
    promised: Mapping[str, int] = field(default_factory=dict)
    """Up to which counts the slice that runs may go."""
    late: Pending | None = None
    late_at: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    last: Slice | None = None
    rate: float | None = None
    heard_at: float = 0.0


class Remote:
    """The parts of a program elsewhere, with the interface of `Inline`.

    Args:
        program: what to run.
        transport: starts the parts; from now on this object's own, and closed with it.
        env_deadline: seconds that one call of an environment may take.
    Raises:
        PartLostError: a part could not be started in time.
    """

    def __init__(self, program: Program, transport: Transport, env_deadline: float) -> None:
        self._transport, self._env_deadline = transport, env_deadline
        self._parts = {part.name: part for part in program.parts}
        self._workers = {p.name: _Worker(p) for p in program.parts if p.role.worker}
        self._additive = {part.kind: part.role.additive for part in program.parts}
        self._lags: dict[str, Mapping[str, float]] = {}
        self._seen: dict[str, float] = {}
        self._dead: dict[str, str] = {}
        try:
            for part in program.parts:
                held = {a: [self._parts[n] for n in names] for a, names in part.held.items()}
                transport.start(part, held)
            self._who = self._ask_all(self._parts, "who", seconds=START_SECONDS)
            self._count()
        except BaseException:
            transport.close()
            raise

    # --- Turns -----------------------------------------------------------------------------------

    def counts(self) -> Counter[str]:
        """The totals to which the workers add, as last heard of."""
        totals: Counter[str] = Counter()
        for worker in self._workers.values():
            totals.update(worker.counts)
        return totals

    def run(
        self, until: Callable[[Counter[str]], bool], most: Mapping[str, int] | None = None
    ) -> None:
        """Give slices until `until(counts)`; what was given goes on meanwhile and after.

        Args:
            until: asked several times a second.
            most: totals that are not to be passed; those who add to one share what is left.
        Raises:
            PartLostError: a part died, or does not answer.
            EnvError: an environment hangs.
            Exception: what a part raised.
        """
        while not until(self.counts()):
            for worker in self._workers.values():
                if worker.pending is None:
                    self._give(worker, most or {})
            self._hear()

    def settle(self, interrupted: Callable[[], bool]) -> bool:
        """Let what was experienced be learned from, as far as is owed, once no more comes.

        Returns:
            Whether anything has changed.
        """
        actors = [name for name, worker in self._workers.items() if "env_steps" in worker.counts]
        while any(self._workers[name].pending for name in actors) and not interrupted():
            self._hear()
        with self._held(actors):
            pass  # what they had not sent has arrived
        for worker in self._workers.values():
            if worker.part.kind != "learner":
                continue
            turns = 1
            while turns and not interrupted():
                # What was given before all had arrived tells nothing.
                turns = worker.pending is not None
                if worker.pending is None:
                    self._give(worker, {})
                while worker.pending is not None and not interrupted():
                    self._hear()
                turns = turns or (worker.last.turns if worker.last else 0)
        return True

    def interrupt_with(self, interrupted: Callable[[], bool]) -> None:
        """Nothing: a part's turn never keeps the driver waiting."""

    def _give(self, worker: _Worker, most: Mapping[str, int]) -> None:
        limits = {}
        for name, limit in most.items():
            if name in worker.counts:
                sharing = [other for other in self._workers.values() if name in other.counts]
                left = limit - sum(
                    other.promised.get(name, other.counts[name])
                    if other.pending
                    else other.counts[name]
                    for other in sharing
                )
                if left <= 0:
                    return
                limits[name] = worker.counts[name] + -(-left // len(sharing))
        worker.pending = self._transport.ask(worker.part.name, "slice", SLICE_SECONDS, limits)
        worker.given_at, worker.late, worker.promised = time.monotonic(), None, limits

    def _hear(self) -> None:
        """Take what has come; wait a moment if nothing has."""
        pending = [w.pending for w in self._workers.values() if w.pending is not None]
        if pending:
            self._transport.wait(pending, LOOK_SECONDS)
        else:
            time.sleep(LOOK_SECONDS)
        for worker in self._workers.values():
            if worker.pending is not None and worker.pending.ready():
                answer, worker.pending = worker.pending, None
                with self._noticing(worker.part.name):
                    self._take(worker, answer.result())
            elif worker.pending is not None:
                self._look_into(worker)

    def _take(self, worker: _Worker, found: Slice) -> None:
        name, _ = RATES.get(worker.part.kind, ("", ""))
        if name:
            done = found.counts[name] - worker.counts.get(name, 0)
            now = done / max(found.seconds, 1e-3)
            worker.rate = now if worker.rate is None else 0.8 * worker.rate + 0.2 * now
        worker.counts, worker.last, worker.heard_at = found.counts, found, time.monotonic()
        for text in found.warnings:
            warnings.warn(f"{worker.part.name}: {text}", RuntimeWarning, stacklevel=2)

    def _look_into(self, worker: _Worker) -> None:
        """Find out why a slice is late, and whether that is an error."""
        late = time.monotonic() - worker.given_at - SLICE_SECONDS
        if late < LATE_SECONDS:
            return
        name = worker.part.name
        if worker.late is None:
            worker.late, worker.late_at = self._transport.ask(name, "doing"), time.monotonic()
        elif worker.late.ready():
            with self._noticing(name):
                doing = worker.late.result()
            worker.late = None
            if doing is not None and doing[0] > self._env_deadline:
                raise EnvError(
                    f"{name}: {doing[1]} has not returned for {doing[0]:.0f} s, env_deadline is "
                    f"{self._env_deadline:g}: mend the environment, or give it processes of its "
                    "own with env_processes, where a hang costs no more than episodes"
                )
        silent = worker.late is not None and time.monotonic() - worker.late_at > DEADLINE
        if silent or late > TURN_SECONDS:
            raise PartSilentError(
                f"{self._called(name)} has not answered for {late:.0f} s: it hangs, or is cut off"
            )

    # --- Figures ---------------------------------------------------------------------------------

    def metrics(self, *kinds: str) -> Metrics:
        """Every part's figures as `kind/figure`, or those of some kinds; an actor's lag by name."""
        names = [name for name, part in self._parts.items() if not kinds or part.kind in kinds]
        figures = self._ask_all(names, "own", "metrics")
        found = gathered(figures, self._additive)
        for name in names:
            if self._parts[name].kind == "actor":
                self._lags[name] = figures[name]
                for figure in ("lag_updates", "lag_seconds"):
                    if figure in figures[name]:
                        found[f"{name}/{figure}"] = figures[name][figure]
        return found

    def parts_now(self) -> list[PartNow]:
        """How each part stands."""
        now, found = time.monotonic(), []
        for name, who in self._who.items():
            worker, lag = self._workers.get(name), self._lags.get(name, {})
            last = worker.last if worker else None
            busy = last.busy_seconds / max(last.seconds, 1e-3) if last else None
            doing = "serving" if worker is None else "working" if busy else "waiting"
            found.append(
                PartNow(
                    name=name,
                    alive=name not in self._dead,
                    doing=f"dead: {self._dead[name]}" if name in self._dead else doing,
                    pid=who["pid"],
                    host=who["host"],
                    busy=busy,
                    rate=worker.rate if worker else None,
                    unit=RATES.get(self._parts[name].kind, ("", ""))[1],
                    queue=last.queue if last else None,
                    queue_bytes=last.queue_bytes if last else None,
                    lag_updates=lag.get("lag_updates"),
                    lag_seconds=lag.get("lag_seconds"),
                    seen_seconds=now - worker.heard_at if worker and worker.heard_at else 0.0,
                )
            )
        return found

    # --- Asking ----------------------------------------------------------------------------------

    def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a method of a part, between two of its turns."""
        with self._noticing(name):
            return self._transport.ask(name, "own", method, *arguments).result()

    def _ask_all(
        self,
        names: Iterator[str] | Sequence[str] | Mapping[str, Any],
        method: str,
        *arguments: Any,
        seconds: float = DEADLINE,
    ) -> dict[str, Any]:
        """Ask several at once; their answers by name."""
        end = time.monotonic() + seconds
        answers = {name: self._transport.ask(name, method, *arguments) for name in names}
        found = {}
        for name, answer in answers.items():
            with self._noticing(name):
                found[name] = answer.result(max(0.0, end - time.monotonic()))
        return found

    @contextlib.contextmanager
    def _noticing(self, name: str) -> Iterator[None]:
        """Remember who has died, and say so by name."""
        try:
            yield
        except PartLostError as error:
            self._dead[name] = str(error)
            raise type(error)(f"{self._called(name)}: {error}") from error

    def _called(self, name: str) -> str:
        who = getattr(self, "_who", {}).get(name)
        return f"{name} (process {who['pid']} on {who['host']})" if who else name

    def _count(self) -> None:
        for name, counts in self._ask_all(self._workers, "own", "counts").items():
            self._workers[name].counts = counts

    @contextlib.contextmanager
    def _held(self, names: Sequence[str] | Mapping[str, Any]) -> Iterator[None]:
        """With these workers between two turns, and all they posted arrived."""
        try:
            self._ask_all(names, "hold")
            yield
        finally:
            self._ask_all(names, "release")

    # --- States ----------------------------------------------------------------------------------

    def state_dict(self, on_disk: OnDisk | None = None) -> dict[str, Any]:
        """Everything that decides what comes next, as `Inline` has it.

        Args:
            on_disk: buffers that need not be fetched, by place.
        """
        with self._held(self._workers):
            found = self._ask_all(self._parts, "state")
            self._count()
        parts = {}
        for name, state in found.items():
            parts[name] = self._fetched(name, state, "", below("/parts", name), on_disk or {})
            self._transport.ask(name, "forget")
        return {"parts": parts, "turn": 0, "random": randomness.state_dict()}

    def _fetched(self, name: str, tree: Any, place: str, above: str, on_disk: OnDisk) -> Any:
        """A part's state with the buffers that stayed behind."""
        if isinstance(tree, Mapping):
            return {
                key: self._fetched(name, x, below(place, key), above, on_disk)
                for key, x in tree.items()
            }
        if not isinstance(tree, Elsewhere):
            return tree
        known = on_disk.get(above + place, Buffers(np.empty(0, np.int64), []))
        at = np.searchsorted(known.numbers, tree.numbers)
        inside = at < len(known.numbers)
        inside[inside] = known.numbers[at[inside]] == tree.numbers[inside]
        missing = tree.numbers[~inside]
        news: list[Array] = []
        first = 0
        size = 1  # more, once it is known how large they are
        while first < len(missing):
            wanted = missing[first : first + size]
            with self._noticing(name):
                came = self._transport.ask(name, "pieces", place, wanted).result()
            news += came
            first += len(wanted)
            mean = sum(map(len, came)) / len(came)
            size = max(1, int(PIECE_BYTES / max(1.0, mean)))
        return Buffers(tree.numbers, _Both(known.arrays, at, news, inside))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; ValueError as `Inline`."""
        parts = states.part(state, "parts")
        if parts.keys() != self._parts.keys():
            raise ValueError(
                f"the state has parts {sorted(parts)}, those of the run are {sorted(self._parts)}"
            )
        for name in self._parts:
            tree = self._given(name, states.part(parts, name), "")
            try:
                with self._noticing(name):
                    self._transport.ask(name, "load", tree).result()
            except (ValueError, RuntimeError) as error:
                if isinstance(error, PartLostError):
                    raise
                raise ValueError(f"the state of {name}: {error}") from error
        randomness.load_state_dict(states.part(state, "random"))
        self._count()

    def _given(self, name: str, tree: Any, place: str) -> Any:
        """A part's state without its buffers, which were sent ahead."""
        if isinstance(tree, Mapping):
            return {key: self._given(name, x, below(place, key)) for key, x in tree.items()}
        if not isinstance(tree, Buffers):
            return tree
        first = 0
        while first < len(tree.numbers):
            group: list[Array] = []
            nbytes = 0
            while first + len(group) < len(tree.numbers) and nbytes < PIECE_BYTES:
                group.append(tree.arrays[first + len(group)])
                nbytes += len(group[-1])
            numbers = tree.numbers[first : first + len(group)]
            with self._noticing(name):
                self._transport.ask(name, "give", place, numbers, group).result()
            first += len(group)
        return Elsewhere(tree.numbers)

    def close(self) -> None:
        """End all parts: in good order where they answer, in any case soon."""
        asked = []
        for name in self._parts:
            with contextlib.suppress(PartLostError):
                self._transport.ask(name, "stop")
                asked.append(self._transport.ask(name, "close"))
        end = time.monotonic() + 5.0
        for answer in asked:
            with contextlib.suppress(Exception):
                answer.result(max(0.0, end - time.monotonic()))
        self._transport.close()


class _Both(Sequence[Array]):
    """Buffers, of which some lie on disk and the others were fetched: cut when asked for."""

    def __init__(self, known: Sequence[Array], at: Array, news: list[Array], inside: Array) -> None:
        self._known, self._at, self._news, self._inside = known, at, news, inside
        self._rank = np.cumsum(~inside) - 1  # among what was fetched

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if self._inside[at]:
            return self._known[int(self._at[at])]
        return self._news[int(self._rank[at])]
