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
from functools import partial
from typing import Any, Protocol

from recollect import states
from recollect.messages import DEADLINE, PartLostError, PartSilentError, Pending
from recollect.program import Part, Program
from recollect.run.parts import PartNow, Rate
from recollect.run.state_tree import below
from recollect.runtime import pieces, randomness
from recollect.runtime.hosting import BusyError, Slice, refuse_hang
from recollect.runtime.inline import gathered
from recollect.types import Metrics

SLICE_SECONDS = 1.0
LOOK_SECONDS = 0.1
"""Between two looks at what has come, when nothing comes."""
START_SECONDS = 180.0
"""For all parts to be there: each loads torch, and may share a core with many."""
LATE_SECONDS = 3.0
"""Beyond a slice's end until the part is asked what it is doing, and from one such question to the
next: a turn that computes, or an evaluation, may take long."""
TURN_SECONDS = 1800.0
"""That a turn may take at most."""
RATES = {
    "actor": ("env_steps", "steps/s"),
    "learner": ("updates", "updates/s"),
    "replay": ("inserted_steps", "steps/s"),
}
"""What a kind of part is seen to do: a count, or a figure that counts, and its unit."""


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
    question: Pending | None = None
    asked_at: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    last: Slice | None = None


def _too_long(seconds: float) -> str:
    return f"a turn takes {seconds:.0f} s already, more than it may"


def _doing(worker: _Worker | None) -> str:
    if worker is None:
        return "serving"
    if worker.last is None or not worker.last.turns:
        return "waiting"
    return "evaluating" if worker.part.role.long else "working"


class Remote:
    """The parts of a program elsewhere, with the interface of `Inline`.

    Args:
        program: what to run.
        transport: starts the parts; from now on this object's own, and closed with it.
        env_deadline: seconds that one call of an environment may take.
        look: called again and again until all parts are there; what it raises ends them at once.
    Raises:
        PartLostError: a part could not be started in time.
    """

    def __init__(
        self,
        program: Program,
        transport: Transport,
        env_deadline: float,
        look: Callable[[], object] = lambda: None,
    ) -> None:
        self._transport, self._env_deadline = transport, env_deadline
        self._parts = {part.name: part for part in program.parts}
        self._workers = {p.name: _Worker(p) for p in program.parts if p.role.worker}
        self._additive = {part.kind: part.role.additive for part in program.parts}
        self._who: dict[str, Any] = {}
        self._figures: dict[str, Mapping[str, float]] = {}
        self._heard: dict[str, float] = {}
        self._rates: dict[str, Rate] = {}
        self._dead: dict[str, str] = {}
        self._still = 0.0  # seconds without a turn, and without a message on its way
        try:
            for part in program.parts:
                held = {a: [self._parts[n] for n in names] for a, names in part.held.items()}
                look()
                transport.start(part, held)
            self._who = self._come(look)
            self._count()
        except BaseException:
            transport.close()
            raise

    def _come(self, look: Callable[[], object]) -> dict[str, Any]:
        """Who the parts are, once all are there."""
        answers = {name: self._transport.ask(name, "who") for name in self._parts}
        found, end = {}, time.monotonic() + START_SECONDS
        for name, answer in answers.items():
            with self._noticing(name):
                while not answer.ready() and time.monotonic() < end:
                    look()
                    self._transport.wait([answer], LOOK_SECONDS)
                if not answer.ready():
                    raise PartSilentError(
                        f"it was not there after {START_SECONDS:g} s: the machine is too busy, or "
                        "what it is made of hangs, as an environment may"
                    )
                found[name] = answer.result()
                self._heard[name] = time.monotonic()
        return found

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
            RuntimeError: no worker is ready, so that the run cannot move.
            Exception: what a part raised.
        """
        while not until(self.counts()):
            for worker in self._workers.values():
                if worker.pending is None:
                    self._give(worker, most or {})
            begin = time.monotonic()
            self._hear()
            self._still += min(time.monotonic() - begin, SLICE_SECONDS)
            if self._still > DEADLINE:
                raise RuntimeError(
                    f"the run cannot move: none of {', '.join(self._workers)} was ready for "
                    f"{DEADLINE:g} s; replay says {self.metrics()}"
                )

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
        worker.given_at, worker.question, worker.promised = time.monotonic(), None, limits

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
        name = worker.part.name
        self._rate(name, found.counts)
        worker.counts, worker.last = found.counts, found
        if found.turns or found.queue:
            self._still = 0.0
        self._heard[name] = time.monotonic()
        for text in found.warnings:
            warnings.warn(f"{name}: {text}", RuntimeWarning, stacklevel=2)

    def _look_into(self, worker: _Worker) -> None:
        """Find out why a slice is late, and whether that is an error."""
        now, name = time.monotonic(), worker.part.name
        late = now - worker.given_at - SLICE_SECONDS
        if late < LATE_SECONDS:
            return
        self._still = 0.0  # it is in a turn
        if worker.question is None:
            if now - worker.asked_at >= LATE_SECONDS:
                worker.question, worker.asked_at = self._transport.ask(name, "doing"), now
        elif worker.question.ready():
            with self._noticing(name):
                doing = worker.question.result()
            worker.question, self._heard[name] = None, now
            refuse_hang(name, doing, self._env_deadline)
        elif now - worker.asked_at > DEADLINE:
            raise PartSilentError(
                f"{self._called(name)} has not answered for {now - worker.asked_at:.0f} s: it "
                "hangs, or is cut off",
                name,
            )
        if late > TURN_SECONDS and not worker.part.role.long:
            raise PartSilentError(f"{self._called(name)}: {_too_long(late)}", name)

    # --- Figures ---------------------------------------------------------------------------------

    def metrics(self, *kinds: str) -> Metrics:
        """Every part's figures as `kind/figure`, or those of some kinds; an actor's lag by name."""
        names = [name for name, part in self._parts.items() if not kinds or part.kind in kinds]
        figures = self._ask_all(names, "own", "metrics")
        found = gathered(figures, self._additive)
        for name in names:
            self._figures[name] = figures[name]
            self._rate(name, figures[name])
            if self._parts[name].kind == "actor":
                for figure in ("lag_updates", "lag_seconds"):
                    if figure in figures[name]:
                        found[f"{name}/{figure}"] = figures[name][figure]
        return found

    def parts_now(self) -> list[PartNow]:
        """How each part stands."""
        now, found = time.monotonic(), []
        for name, who in self._who.items():
            part, worker, figures = self._parts[name], self._workers.get(name), self._figures
            last = worker.last if worker else None
            rate, lag = self._rates.get(name), figures.get(name, {})
            found.append(
                PartNow(
                    name=name,
                    alive=name not in self._dead,
                    doing=f"dead: {self._dead[name]}" if name in self._dead else _doing(worker),
                    pid=who["pid"],
                    host=who["host"],
                    busy=last.busy_seconds / max(last.seconds, 1e-3) if last else None,
                    rate=rate.now if rate else None,
                    unit=RATES.get(part.kind, ("", ""))[1] if rate else "",
                    queue=last.queue if last else None,
                    queue_bytes=last.queue_bytes if last else None,
                    lag_updates=lag.get("lag_updates") if part.kind == "actor" else None,
                    lag_seconds=lag.get("lag_seconds"),
                    seen_seconds=now - self._heard[name],
                )
            )
        return found

    def _rate(self, name: str, totals: Mapping[str, float]) -> None:
        counted, _ = RATES.get(self._parts[name].kind, ("", ""))
        if counted in totals:
            self._rates.setdefault(name, Rate()).add(totals[counted], time.monotonic())

    # --- Asking ----------------------------------------------------------------------------------

    def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a method of a part, between two of its turns."""
        return self._wait_for(name, "own", method, *arguments)

    def _wait_for(self, name: str, method: str, *arguments: Any) -> Any:
        """Ask a part's host, and wait for the answer."""
        return self._ask_all([name], method, *arguments)[name]

    def _ask_all(
        self,
        names: Iterator[str] | Sequence[str] | Mapping[str, Any],
        method: str,
        *arguments: Any,
    ) -> dict[str, Any]:
        """Ask several at once; their answers by name. One in a turn is asked until it ends."""
        begin = time.monotonic()
        answers = {name: self._transport.ask(name, method, *arguments) for name in names}
        found = {}
        for name, answer in answers.items():
            with self._noticing(name):
                end = begin + DEADLINE
                while name not in found:
                    try:
                        found[name] = answer.result(max(0.0, end - time.monotonic()))
                    except BusyError:
                        if time.monotonic() - begin > TURN_SECONDS:
                            raise PartSilentError(_too_long(time.monotonic() - begin)) from None
                        answer = self._transport.ask(name, method, *arguments)
                        end = time.monotonic() + DEADLINE
                    self._heard[name] = time.monotonic()
        return found

    @contextlib.contextmanager
    def _noticing(self, name: str) -> Iterator[None]:
        """Remember who has died, and say so by name."""
        try:
            yield
        except PartLostError as error:
            name = error.part or name  # it may be another one that this one asked
            self._dead[name] = str(error)
            raise type(error)(f"{self._called(name)}: {error}", name) from error
        except Exception as error:
            error.add_note(f"(raised in {self._called(name)})")
            raise

    def _called(self, name: str) -> str:
        who = self._who.get(name)
        if not who:
            return name
        return f"{name} (process {who['pid']}{' on ' * bool(who['host'])}{who['host']})"

    def _count(self) -> None:
        for name, counts in self._ask_all(self._workers, "own", "counts").items():
            self._workers[name].counts = counts
            self._rate(name, counts)

    @contextlib.contextmanager
    def _held(self, names: Sequence[str] | Mapping[str, Any]) -> Iterator[None]:
        """With these workers between two turns, and all they posted arrived."""
        try:
            self._ask_all(names, "hold")
            yield
        finally:
            self._ask_all(names, "release")

    # --- States ----------------------------------------------------------------------------------

    def state_dict(self, on_disk: Callable[[], pieces.OnDisk] | None = None) -> dict[str, Any]:
        """Everything that decides what comes next, as `Inline` has it.

        Args:
            on_disk: gives the buffers that need not be fetched, by place.
        """
        with self._held(self._workers):
            found = self._ask_all(self._parts, "state")
            self._count()
        known = on_disk() if on_disk else {}
        parts = {}
        for name, state in found.items():
            ask = partial(self._wait_for, name)
            parts[name] = pieces.fetched(ask, state, below("/parts", name), known)
            ask("forget")
        return {"parts": parts, "turn": 0, "random": randomness.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; ValueError as `Inline`."""
        parts = states.part(state, "parts")
        if parts.keys() != self._parts.keys():
            raise ValueError(
                f"the state has parts {sorted(parts)}, those of the run are {sorted(self._parts)}"
            )
        for name in self._parts:
            ask = partial(self._wait_for, name)
            tree = pieces.given(ask, states.part(parts, name))
            try:
                ask("load", tree)
            except (ValueError, RuntimeError) as error:
                if isinstance(error, PartLostError):
                    raise
                raise ValueError(f"the state of {name}: {error}") from error
        randomness.load_state_dict(states.part(state, "random"))
        self._rates.clear()  # what was restored was not done since the start
        self._count()

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
