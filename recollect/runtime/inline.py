"""The default runtime: one process, every worker in its turn, deterministic."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from recollect import states
from recollect.messages import Near
from recollect.program import Part, Program, kind_of
from recollect.runtime import randomness
from recollect.types import Buffers, Metrics

STUCK_AFTER = 3
"""Rounds in a row in which no worker is ready before the run is called stuck."""


class Inline:
    """The parts of a program as plain objects in this process.

    Args:
        program: what to run; its factories are called here, in order.
    """

    def __init__(self, program: Program) -> None:
        self.parts: dict[str, Any] = {}
        named = {part.name: part for part in program.parts}
        for part in program.parts:
            held = {a: self._held([named[n] for n in names]) for a, names in part.held.items()}
            self.parts[part.name] = part.factory(**held)
        self._additive = {part.kind: part.role.additive for part in program.parts}
        self._workers = [(p.name, self.parts[p.name]) for p in program.parts if p.role.worker]
        self._long = {part.name: part.role.long for part in program.parts}
        self._turn = 0  # of whom in the list it is
        self.seconds = {name: 0.0 for name, _ in self._workers}
        self._epochs: dict[str, int] = {}  # of parts that were restarted, on another runtime

    def _held(self, parts: list[Part]) -> Any:
        """A part itself; of several over which one is spread, what makes them one."""
        first = parts[0]
        if len(parts) == 1:
            return self.parts[first.name]
        assert first.far is not None  # a program sees to it
        server = first.far.server or (lambda part: part)
        return first.far.client([Near(p.name, server(self.parts[p.name])) for p in parts])

    def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a method of a part."""
        return getattr(self.parts[name], method)(*arguments)

    def glance(self, name: str, method: str) -> Any:
        """As `ask`: here a part always answers."""
        return self.ask(name, method)

    def interrupt_with(self, interrupted: Callable[[], bool]) -> None:
        """Let turns that take long leave off where `interrupted()` says so."""
        for name, worker in self._workers:
            if self._long[name]:
                worker.interrupted = interrupted

    def counts(self) -> Counter[str]:
        """The totals to which the workers add: env_steps, updates, episodes, ..."""
        totals: Counter[str] = Counter()
        for _, worker in self._workers:
            totals.update(worker.counts())
        return totals

    def settle(self, interrupted: Callable[[], bool]) -> bool:
        """Nothing: learning has kept pace. Returns False."""
        return False

    def run(
        self, until: Callable[[Counter[str]], bool], most: Mapping[str, int] | None = None
    ) -> None:
        """Give turns until `until(counts)` is true after a round; `most` is of no use here.

        What a worker raises ends it in the middle of a round, which the next call goes on with.

        Raises:
            RuntimeError: no worker is ready, so that the run cannot move.
        """
        idle = 0
        while self._turn or not until(self.counts()):
            moved = False
            while self._turn < len(self._workers):
                name, worker = self._workers[self._turn]
                if worker.ready():
                    start = time.perf_counter()
                    worker.step()
                    self.seconds[name] += time.perf_counter() - start
                    moved = True
                self._turn += 1
            self._turn = 0
            idle = 0 if moved else idle + 1
            if idle >= STUCK_AFTER:
                names = ", ".join(name for name, _ in self._workers)
                raise RuntimeError(
                    f"the run cannot move: none of {names} is ready; replay says {self.metrics()}"
                )

    def try_state_dict(
        self, on_disk: Callable[[], Mapping[str, Buffers]] | None = None
    ) -> dict[str, Any] | None:
        """As `state_dict`: here no part keeps the others waiting."""
        return self.state_dict(on_disk)

    def state_dict(
        self, on_disk: Callable[[], Mapping[str, Buffers]] | None = None
    ) -> dict[str, Any]:
        """Everything that decides what comes next; `on_disk` is of no use here.

        Each part's state, whose turn it is, and the random generators everybody shares, from which
        an environment or a network may draw.
        """
        return {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "turn": self._turn,
            "random": randomness.state_dict(),
            "epochs": dict(self._epochs),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it does not fit or is damaged, and where; this runtime is spoilt then.
        """
        parts = states.part(state, "parts")
        if parts.keys() != self.parts.keys():
            raise ValueError(
                f"the state has parts {sorted(parts)}, those of the run are {sorted(self.parts)}"
            )
        for name, part in self.parts.items():
            try:
                part.load_state_dict(states.part(parts, name))
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"the state of {name}: {error}") from error
        turn = states.count(state, "turn")
        if turn > len(self._workers):
            raise ValueError(f"turn is {turn}, there are {len(self._workers)} workers")
        self._turn, self._epochs = turn, epochs_of(state)
        for name, epoch in self._epochs.items():
            if hasattr(self.parts.get(name), "begin_epoch"):
                self.parts[name].begin_epoch(epoch)
        # Last: putting environments back may have drawn from them.
        randomness.load_state_dict(states.part(state, "random"))

    def saved(self) -> None:
        """The last state that was taken is on disk."""

    died = 0

    @property
    def whole(self) -> bool:
        """Always: the parts stand and fall with this process."""
        return True

    def deaths(self) -> list[Any]:
        """Nobody: the parts stand and fall with this process."""
        return []

    def close(self) -> None:
        """Close what parts hold: the environments of actors and evaluator."""
        for part in self.parts.values():
            if hasattr(part, "close"):
                part.close()

    def metrics(self, *kinds: str) -> Metrics:
        """Every part's figures as `kind/figure`, or those of some kinds: see `gathered`."""
        figures = {
            name: part.metrics()
            for name, part in self.parts.items()
            if not kinds or kind_of(name) in kinds
        }
        return gathered(figures, self._additive)

    def parts_now(self) -> list[Any]:
        """Nothing: the parts stand and fall with this process."""
        return []


def epochs_of(state: Mapping[str, Any]) -> dict[str, int]:
    """How often each part was restarted anew until a state was taken, by name.

    Raises:
        ValueError: they are no counts.
    """
    found = state.get("epochs", {})  # which states of one process once had not
    if not isinstance(found, Mapping):
        raise ValueError(f"epochs are counts by part, {found!r} came")
    return {str(name): states.count(found, name) for name in found}


def gathered(
    figures: Mapping[str, Mapping[str, float]], additive: Mapping[str, Collection[str]]
) -> Metrics:
    """The figures of parts, by name, as `kind/figure`.

    Of several parts of a kind their mean, or their sum where `additive` names it for the kind.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for name, own in figures.items():
        for figure, value in own.items():
            found.setdefault((kind_of(name), figure), []).append(value)
    return {
        f"{kind}/{figure}": sum(x) / (1 if figure in additive.get(kind, ()) else len(x))
        for (kind, figure), x in found.items()
    }
