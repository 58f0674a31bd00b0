"""The default runtime: one process, every worker in its turn, deterministic."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from recollect.program import Program
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
        self.seconds = {name: 0.0 for name, _ in self._workers}

    def counts(self) -> Counter[str]:
        """The totals to which the workers add: env_steps, updates, episodes, ..."""
        totals: Counter[str] = Counter()
        for _, worker in self._workers:
            totals.update(worker.counts())
        return totals

    def run(self, until: Callable[[Counter[str]], bool]) -> None:
        """Give turns until `until(counts)` is true after a round.

        Raises:
            RuntimeError: no worker is ready, so that the run cannot move.
        """
        idle = 0
        while not until(self.counts()):
            moved = False
            for name, worker in self._workers:
                if worker.ready():
                    start = time.perf_counter()
                    worker.step()
                    self.seconds[name] += time.perf_counter() - start
                    moved = True
            idle = 0 if moved else idle + 1
            if idle >= STUCK_AFTER:
                names = ", ".join(name for name, _ in self._workers)
                raise RuntimeError(
                    f"the run cannot move: none of {names} is ready; replay says {self.metrics()}"
                )

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
