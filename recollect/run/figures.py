"""Where a run stands, in figures: the latest of each, its speeds, the time gone and left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

GREEDY = "evaluator/return_mean"
TRAINING = "actor/return_mean"
LAG = "actor/lag_updates"
FILL = "replay/fill"
BYTES = "replay/bytes"

GONE = (
    "The time gone is what the run has worked for the steps it has: of all its attempts, without "
    "their starts and without what a kill undid."
)
"""What the display and `recollect status` call so: `seconds` of the rows and of status.json."""

RATE_SECONDS = 30.0
"""Speeds are taken over this long, so that they neither jump nor lag far behind."""


@dataclass(frozen=True)
class Figures:
    """What is shown; None is not known yet. Rates are per second, `fill` and `done` in [0, 1]."""

    env_steps: int
    total_env_steps: int
    done: float
    elapsed_seconds: float
    left_seconds: float | None
    greedy_return: float | None
    best_return: float | None
    training_return: float | None
    env_steps_per_second: float | None
    updates_per_second: float | None
    fill: float | None
    replay_bytes: float | None
    lag_updates: float | None
    learning: bool = True  # no update yet: replay is being filled


class Tracker:
    """Rows in, figures out: the latest value of each metric, and speeds over the last while.

    What is left is told by the speed since learning began.
    """

    def __init__(
        self,
        total_env_steps: int,
        clock: Callable[[], float],
        stands: Mapping[str, Any] | None = None,
    ) -> None:
        self._total, self._clock, self._began = total_env_steps, clock, clock()
        self._latest: Mapping[str, Any] = dict(stands or {})
        # The run's seconds, and when by the clock it had them; None: its clock stands still.
        self._gone: tuple[float, float | None] = (float(self._latest.get("seconds", 0.0)), None)
        self._best: float | None = None
        self._recent: deque[tuple[float, float, float]] = deque()
        self._since: tuple[float, int] | None = None  # since when it learns
        self._mean_rate: float | None = None
        self._rates: tuple[float | None, float | None] = (None, None)

    def start(self) -> None:
        """The run's clock goes on from where it stood, and so do its speeds."""
        seconds, row = self._gone[0], self._latest
        self._gone = (seconds, self._clock())
        if "env_steps" in row:
            self._since = (seconds, row["env_steps"])
            self._recent.append((*self._since, row.get("updates", 0)))

    def stop(self, seconds: float) -> None:
        """The run's clock stands still."""
        self._gone = (seconds, None)

    def changes(self, row: Mapping[str, Any]) -> bool:
        """Whether steps or updates of a row are not the latest."""
        return any(row[name] != self._latest.get(name) for name in ("env_steps", "updates"))

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row."""
        known = {name: value for name, value in row.items() if value is not None}
        if not self._learning() and known.get("updates"):
            self._recent.clear()  # how fast acting alone was tells nothing of what is left
            self._rates = (None, None)
            self._since = None
        self._undo(known)
        # A new mapping, put in place at once: the panel is drawn from another thread.
        self._latest = {**self._latest, **known}
        greedy = known.get(GREEDY)
        if greedy is not None and (self._best is None or greedy > self._best):
            self._best = greedy
        at = self._clock()
        now = float(known.get("seconds", at - self._began))
        self._gone = (now, at)
        self._recent.append((now, known["env_steps"], self._latest.get("updates", 0)))
        self._since = self._since or (now, known["env_steps"])
        while len(self._recent) > 2 and self._recent[1][0] <= now - RATE_SECONDS:
            self._recent.popleft()
        then, steps, updates = self._recent[0]
        if now > then:
            span = now - then
            self._rates = (
                (known["env_steps"] - steps) / span,
                (self._latest.get("updates", 0) - updates) / span,
            )
        began, first = self._since
        # Of all of the time: while it evaluates it takes no steps, and is not slower for that.
        learns = self._learning() and now > began
        self._mean_rate = (known["env_steps"] - first) / (now - began) if learns else None

    def _undo(self, row: Mapping[str, Any]) -> None:
        """What went with a part that died is not known any more: it is done again, at a speed."""
        steps, updates = (
            max(0, self._latest.get(name, 0) - row.get(name, self._latest.get(name, 0)))
            for name in ("env_steps", "updates")
        )
        if steps or updates:
            self._recent = deque((t, s - steps, u - updates) for t, s, u in self._recent)
            self._since = self._since and (self._since[0], self._since[1] - steps)

    def _learning(self) -> bool:
        return bool(self._latest.get("updates", 1))

    def figures(self) -> Figures:
        """How it stands now."""
        row = self._latest
        env_steps = int(row.get("env_steps", 0))
        (steps_rate, updates_rate), mean_rate = self._rates, self._mean_rate
        left = max(0, self._total - env_steps)
        gone, at = self._gone
        return Figures(
            env_steps=env_steps,
            total_env_steps=self._total,
            done=min(1.0, env_steps / self._total) if self._total else 1.0,
            elapsed_seconds=gone if at is None else gone + self._clock() - at,
            left_seconds=left / mean_rate if left and mean_rate else None,
            greedy_return=row.get(GREEDY),
            best_return=self._best,
            training_return=row.get(TRAINING),
            env_steps_per_second=steps_rate,
            updates_per_second=updates_rate if "updates" in row else None,
            fill=row.get(FILL),
            replay_bytes=row.get(BYTES),
            lag_updates=row.get(LAG),
            learning=self._learning(),
        )
