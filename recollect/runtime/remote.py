"""A program whose parts live in processes of their own: who gets turns, what came of them, states.

How parts are started and asked is the transport's business; nothing here imports ray. The driver,
which is the process of this object, only looks on: experience and parameters pass it by. Parts may
die: see `lives`.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from recollect import states
from recollect.messages import DEADLINE, PartLostError, PartSilentError, Pending
from recollect.program import Part, Program
from recollect.run.parts import PartNow
from recollect.run.state_tree import below
from recollect.runtime import pieces, randomness
from recollect.runtime.asking import TURN_SECONDS, AgainError, Asking, too_long
from recollect.runtime.hosting import Slice
from recollect.runtime.life import Death, Transport
from recollect.runtime.lives import START_SECONDS, Lives
from recollect.runtime.readings import Readings
from recollect.types import Metrics

SLICE_SECONDS = 1.0
LATE_SECONDS = 3.0
"""Beyond a slice's end after which a part is in a turn, not waiting."""


@dataclass
class _Worker:
    """What is known of a worker."""

    part: Part
    pending: Pending | None = None
    epoch: int = 0
    """Of the life that was asked."""
    given_at: float = 0.0
    promised: Mapping[str, int] = field(default_factory=dict)
    """Up to which counts the slice that runs may go."""
    counts: dict[str, int] = field(default_factory=dict)
    last: Slice | None = None


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
        epochs, saved, journal: see `Lives`.
    Raises:
        PartLostError: a part could not be started in time.
    """

    def __init__(
        self,
        program: Program,
        transport: Transport,
        env_deadline: float,
        look: Callable[[], object] = lambda: None,
        *,
        epochs: Mapping[str, int] | None = None,
        saved: Callable[[], Mapping[str, Any] | None] = lambda: None,
        journal: str = "",
    ) -> None:
        self._transport = transport
        self._parts = {part.name: part for part in program.parts}
        self._workers = {p.name: _Worker(p) for p in program.parts if p.role.worker}
        self._readings = Readings(program.parts)
        self._still = 0.0  # seconds without a turn, and without a message on its way
        self._lives = Lives(
            program,
            transport,
            env_deadline,
            epochs or {},
            self._counted,
            self._back,
            saved,
            journal,
        )
        self._recoveries = self._lives.recoveries
        self._asking = Asking(transport, self._lives)
        try:
            for part in program.parts:
                held = {a: [self._parts[n] for n in names] for a, names in part.held.items()}
                look()
                transport.start(part, held, self._lives.epoch(part.name))
            self._come(look)
            for name, epoch in self._lives.epochs.items():
                if epoch:
                    self._asking.wait_for(name, "begin_epoch", epoch)
            self._count()
        except BaseException:
            transport.close()
            raise

    def _come(self, look: Callable[[], object]) -> None:
        """Wait until all are there."""
        answers = {name: self._transport.ask(name, "who") for name in self._parts}
        end = time.monotonic() + START_SECONDS
        for name, answer in answers.items():
            with self._asking.noticing(name):
                while not answer.ready() and time.monotonic() < end:
                    look()
                    self._asking.pause([answer])
                if not answer.ready():
                    raise PartSilentError(
                        f"it was not there after {START_SECONDS:g} s: the machine is too busy, or "
                        "what it is made of hangs, as an environment may"
                    )
                self._lives.hear(name, answer.result())

    def _begin(self) -> None:
        """Once all parts have what they begin with: from here on those that die come back."""
        if self._asking.ready:
            return
        for name, part in self._parts.items():
            if part.role.comes_back == "journal" and self._recoveries.journals.folder:
                self._asking.wait_for(name, "keep_journal", self._recoveries.journals.of(name))
            if part.role.comes_back == "anew" and part.held:
                unsent = self._asking.wait_for(name, "own", "unsent_steps")
                self._recoveries.began(name, self._workers[name].counts["env_steps"] - unsent)
            if part.role.comes_back == "copy":
                self._lives.copied(name, self._asking.wait_for(name, "state"))
        self._asking.ready = True

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
            PartLostError: a part died too often, has no room, or none can be reached any more.
            EnvError: environments failed too often.
            RuntimeError: no worker is ready, so that the run cannot move.
            Exception: what a part raised.
        """
        self._begin()
        while not until(self.counts()):
            for worker in self._workers.values():
                if worker.pending is None and not self._lives.why_dead(worker.part.name):
                    self._give(worker, most or {})
            begin = time.monotonic()
            self._hear()
            self._still += min(time.monotonic() - begin, SLICE_SECONDS)
            if not self._lives.whole:
                self._still = 0.0
            if self._still > DEADLINE:
                for name in self._workers:
                    if self._lives.away(name):
                        why = self._lives.why_dead(name)
                        raise PartLostError(f"{name}: {why}; the others wait for it", name)
                raise RuntimeError(
                    f"the run cannot move: none of {', '.join(self._workers)} was ready for "
                    f"{DEADLINE:g} s; replay says {self.metrics()}"
                )

    def settle(self, interrupted: Callable[[], bool]) -> bool:
        """Let what was experienced be learned from, as far as is owed, once no more comes.

        Returns:
            Whether anything has changed; the counts may be less afterwards, where a part died.
        """
        died = -1
        while died < self._lives.died and not interrupted():  # who dies meanwhile undoes some of it
            died = self._lives.died
            self._settle(interrupted)
        return True

    def _settle(self, interrupted: Callable[[], bool]) -> None:
        actors = [name for name, worker in self._workers.items() if "env_steps" in worker.counts]
        while not interrupted() and (
            not self._lives.whole or any(self._workers[name].pending for name in actors)
        ):
            self._hear()
        with contextlib.suppress(AgainError), self._asking.held(self._present(actors)):
            pass  # what they had not sent has arrived
        for worker in self._workers.values():
            if worker.part.kind != "learner":
                continue
            turns = 1
            while turns and self._lives.whole and not interrupted():
                # What was given before all had arrived tells nothing.
                turns = worker.pending is not None
                if worker.pending is None:
                    self._give(worker, {})
                while worker.pending is not None and not interrupted():
                    self._hear()
                turns = turns or (worker.last.turns if worker.last else 0)

    def interrupt_with(self, interrupted: Callable[[], bool]) -> None:
        """Nothing: a part's turn never keeps the driver waiting."""

    def _give(self, worker: _Worker, most: Mapping[str, int]) -> None:
        limits = {}
        for name, limit in most.items():
            if name in worker.counts:
                sharing = [other for other in self._workers.values() if name in other.counts]
                left = limit - sum(
                    other.promised.get(name, other.counts[name])
                    if other.pending or not self._lives.counted(other.part.name)
                    else other.counts[name]
                    for other in sharing
                )
                if left <= 0:
                    return
                limits[name] = worker.counts[name] + -(-left // len(sharing))
        worker.pending = self._transport.ask(worker.part.name, "slice", SLICE_SECONDS, limits)
        worker.epoch = self._lives.epoch(worker.part.name)
        worker.given_at, worker.promised = time.monotonic(), limits

    def _hear(self) -> None:
        """Take what has come; wait a moment if nothing has."""
        pending = [w.pending for w in self._workers.values() if w.pending is not None]
        self._asking.pause(pending)
        for worker in self._workers.values():
            name = worker.part.name
            if worker.pending is None:
                continue
            if worker.epoch != self._lives.epoch(name):
                worker.pending = None  # of a life that ended
            elif worker.pending.ready():
                answer, worker.pending = worker.pending, None
                with contextlib.suppress(AgainError), self._asking.noticing(name, worker.epoch):
                    self._take(worker, answer.result())
            else:
                late = time.monotonic() - worker.given_at - SLICE_SECONDS
                if late > LATE_SECONDS:
                    self._still = 0.0  # it is in a turn
                if late > TURN_SECONDS and not worker.part.role.long:
                    self._lives.lost(name, PartSilentError(too_long(late), name), worker.epoch)

    def _take(self, worker: _Worker, found: Slice) -> None:
        name = worker.part.name
        self._readings.add(name, found.counts)
        failed = found.counts.get("env_failures", 0) - worker.counts.get("env_failures", 0)
        worker.counts, worker.last = found.counts, found
        if found.turns or found.queue:
            self._still = 0.0
        self._lives.hear(name)
        self._warn(name, found.warnings)
        if failed > 0:
            self._lives.env_failed(failed, f"{name}: {found.fault or 'an environment failed'}")

    def _warn(self, name: str, texts: Sequence[str]) -> None:
        for text in texts:
            warnings.warn(f"{name}: {text}", RuntimeWarning, stacklevel=3)

    # --- Those that die --------------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Whether all parts live and none is stuck, so that a state can be taken at once."""
        return self._lives.whole and not self._lives.stuck()

    def deaths(self) -> list[Death]:
        """Parts that died and came back, since this was last asked."""
        found = [*self._lives.deaths]
        self._lives.deaths.clear()
        return found

    @property
    def died(self) -> int:
        """Lives of parts that have ended."""
        return self._lives.died

    def saved(self) -> None:
        """The last state that was taken is on disk."""
        self._recoveries.journals.saved()

    def _counted(self, name: str) -> Mapping[str, int]:
        """A worker's counts, as last heard."""
        return self._workers[name].counts if name in self._workers else {}

    def _back(self, name: str, counts: dict[str, int]) -> None:
        """A part came back."""
        self._readings.begin_anew(name)
        if name in self._workers:
            worker = self._workers[name]
            worker.counts, worker.pending, worker.last = counts, None, None

    # --- Figures ---------------------------------------------------------------------------------

    def metrics(self, *kinds: str) -> Metrics:
        """Every part's figures as `kind/figure`, or those of some kinds; an actor's lag by name."""
        names = [name for name, part in self._parts.items() if not kinds or part.kind in kinds]
        living = [name for name in names if not self._lives.why_dead(name)]
        first = [name for name in living if name not in self._readings.last]
        said = self._asking.ask_all(first, "own", "metrics", whole=False)
        said |= self._asking.glance([x for x in living if x not in first], "own", "metrics")
        # Of the dead, and of who does not answer, what they last said.
        found = self._readings.gather(names, said)
        if not kinds:
            lives = self._lives
            found["faults/deaths"], found["faults/recoveries"] = lives.died, lives.came_back
            found["faults/lost_steps"] = self._recoveries.lost_steps
            services = [name for name in living if name not in self._workers]
            for name, texts in self._asking.glance(services, "warned").items():
                self._warn(name, texts)
        return found

    def parts_now(self) -> list[PartNow]:
        """How each part stands."""
        found = []
        for name, part in self._parts.items():
            worker, (rate, unit) = self._workers.get(name), self._readings.rate(name)
            who, dead = self._lives.who(name), self._lives.why_dead(name)
            last = worker.last if worker else None
            lag = self._readings.last.get(name, {})
            found.append(
                PartNow(
                    name=name,
                    alive=not dead,
                    doing=f"dead: {dead}" if dead else _doing(worker),
                    pid=who.get("pid", 0),
                    host=who.get("host", ""),
                    busy=last.busy_seconds / max(last.seconds, 1e-3) if last else None,
                    rate=rate,
                    unit=unit,
                    queue=last.queue if last else None,
                    queue_bytes=last.queue_bytes if last else None,
                    lag_updates=lag.get("lag_updates") if part.kind == "actor" else None,
                    lag_seconds=lag.get("lag_seconds"),
                    seen_seconds=self._lives.silence(name),
                )
            )
        return found

    # --- Asking ----------------------------------------------------------------------------------

    def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a method of a part, between two of its turns; of its next life, if it dies.

        Raises:
            PartLostError: it died and will not come back, or there is no room for it.
        """
        return self._asking.ask(name, method, *arguments)

    def glance(self, name: str, method: str) -> Any:
        """As `ask`; None at once if it is dead, and soon if it hangs, or is in a long turn."""
        living = [] if self._lives.why_dead(name) else [name]
        return self._asking.glance(living, "own", method).get(name)

    def _count(self) -> None:
        living = self._present(self._workers)
        for name, counts in self._asking.ask_all(living, "own", "counts").items():
            self._workers[name].counts = counts
            self._readings.add(name, counts)

    def _present(self, names: Iterable[str]) -> list[str]:
        """Those of them without which nothing goes on: all but actors without room."""
        return [name for name in names if not self._lives.away(name)]

    # --- States ----------------------------------------------------------------------------------

    def state_dict(self, on_disk: Callable[[], pieces.OnDisk] | None = None) -> dict[str, Any]:
        """Everything that decides what comes next, as `Inline` has it; once all parts live.

        Of an actor for which no machine has room it is what it had counted: it begins anew.

        Args:
            on_disk: gives the buffers that need not be fetched, by place.
        Raises:
            PartLostError: a part died and will not come back.
        """
        while True:
            for name in self._parts:
                self._asking.wait_until_lives(name)
            with contextlib.suppress(AgainError):
                return self._state_dict(on_disk)

    def try_state_dict(
        self, on_disk: Callable[[], pieces.OnDisk] | None = None
    ) -> dict[str, Any] | None:
        """As `state_dict`; None if a part is dead or stuck, for which the others would wait."""
        if self.whole:
            with contextlib.suppress(AgainError):
                return self._state_dict(on_disk, stuck=False)
        return None

    def _state_dict(
        self, on_disk: Callable[[], pieces.OnDisk] | None, stuck: bool = True
    ) -> dict[str, Any]:
        journals, present = self._recoveries.journals, self._present(self._parts)
        with self._asking.held(self._present(self._workers), stuck=stuck):
            written = [
                name
                for name, part in self._parts.items()
                if part.role.comes_back == "journal" and journals.folder and self._asking.ready
            ]
            epochs = self._lives.epochs
            others = [n for n in present if n not in written]
            found = self._asking.ask_all(others, "state", stuck=stuck)
            for name in written:
                needed = journals.needed(name)
                answer = self._asking.ask_all([name], "journaled_state", needed, stuck=stuck)
                found[name], page, senders = answer[name]
                journals.turned(name, page)
                self._recoveries.arrived(name, senders)
            self._count()
        known = on_disk() if on_disk else {}
        parts: dict[str, Any] = {}
        for name in self._parts:
            if name not in present:
                parts[name] = dict(self._workers[name].counts)
                continue
            ask = partial(self._asking.ask_life, epochs[name], name)
            parts[name] = pieces.fetched(ask, found[name], below("/parts", name), known)
            ask("forget")
            self._lives.copied(name, parts[name])
        return {
            "parts": parts,
            "turn": 0,
            "random": randomness.state_dict(),
            "epochs": self._lives.epochs,
            "journal": self._recoveries.snapshot(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; ValueError as `Inline`."""
        parts = states.part(state, "parts")
        if parts.keys() != self._parts.keys():
            raise ValueError(
                f"the state has parts {sorted(parts)}, those of the run are {sorted(self._parts)}"
            )
        for name in self._parts:
            ask = partial(self._asking.wait_for, name)
            tree = states.part(parts, name)
            for piece in pieces.sent_ahead(tree):
                ask("give", *piece)
            try:
                ask("load", pieces.without_buffers(tree))
                self._lives.copied(name, tree)
            except (ValueError, RuntimeError) as error:
                if isinstance(error, PartLostError):
                    raise
                raise ValueError(f"the state of {name}: {error}") from error
        randomness.load_state_dict(states.part(state, "random"))
        self._readings.begin_anew(*self._parts)  # what was restored was not done since the start
        self._count()

    def close(self) -> None:
        """End all parts: in good order where they live and answer, in any case soon."""
        asked = []
        for name in [name for name in self._parts if not self._lives.why_dead(name)]:
            with contextlib.suppress(PartLostError):
                self._transport.ask(name, "stop")
                asked.append(self._transport.ask(name, "close"))
        end = time.monotonic() + 5.0
        for answer in asked:
            with contextlib.suppress(Exception):
                answer.result(max(0.0, end - time.monotonic()))
        self._recoveries.close()
        self._transport.close()
