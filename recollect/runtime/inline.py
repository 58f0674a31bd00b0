"""The default runtime: one process, every worker in its turn, deterministic."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from recollect import states
from recollect.program import Program
from recollect.runtime import randomness
from recollect.types import Metrics

STUCK_AFTER = 3
"""Rounds in a row in which no worker is ready before the run is called stuck."""


class Inline:
    """The parts of a program as plain objects in this process.

    Args:
        program: what to run; its factories are called here, in order.
    """

    def __init__(self, program: Program) -> None:
        self.parts: dict[str, Any] = {}
        for part in program.parts:
            held = {argument: self.parts[name] for argument, name in part.holds.items()}
            self.parts[part.name] = part.factory(**held)
        self._workers = [(p.name, self.parts[p.name]) for p in program.parts if p.role.worker]
        self._turn = 0  # of whom in the list it is
        self.seconds = {name: 0.0 for name, _ in self._workers}

    def counts(self) -> Counter[str]:
        """The totals to which the workers add: env_steps, updates, episodes, ..."""
        totals: Counter[str] = Counter()
        for _, worker in self._workers:
            totals.update(worker.counts())
        return totals

    def run(self, until: Callable[[Counter[str]], bool]) -> None:
        """Give turns until `until(counts)` is true after a round.

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

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next.

        Each part's state, whose turn it is, and the random generators everybody shares, from which
        an environment or a network may draw.
        """
        return {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "turn": self._turn,
            "random": randomness.state_dict(),
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
        self._turn = turn
        # Last: putting environments back may have drawn from them.
        randomness.load_state_dict(states.part(state, "random"))

    def close(self) -> None:
        """Close what parts hold: the environments of actors and evaluator."""
        for part in self.parts.values():
            if hasattr(part, "close"):
                part.close()

    def metrics(self) -> Metrics:
        """Every part's figures as `part/figure`; of several parts of a kind, their mean."""
        gathered: dict[str, list[float]] = {}
        for name, part in self.parts.items():
            for figure, value in part.metrics().items():
                gathered.setdefault(f"{name.split('/')[0]}/{figure}", []).append(value)
        return {name: sum(values) / len(values) for name, values in gathered.items()}
