"""Keeps learning and acting in proportion. It answers, and never blocks.

Both sides are counted in environment steps:

- inserted: unique steps of the environments. A step that several windows cover counts once.
- learned: real steps in the learned part of the windows drawn, as often as they are drawn. Prefix,
  tail and padding do not count.

So `ratio` is the *observation* replay ratio, how often a step is learned from on average. The
*sequence* ratio, windows drawn per window inserted, is less where windows overlap: R2D2 with a
window of 80 learned steps every 40 has an observation ratio of twice its sequence ratio, 1.54 and
0.77 in the paper's figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recollect.replay.reading import read, read_count
from recollect.types import Array, Metrics

_COUNTERS = dict.fromkeys(
    ("inserted", "learned", "inserted_from", "learned_from", "min_size"), ("int64", 0)
)


class NothingToDrawError(RuntimeError):
    """The shards have nothing to draw, though a moment ago they had."""


class Totals(NamedTuple):
    """What a limiter has counted, and from where its surplus counts; those of several add up."""

    inserted: int = 0
    learned: int = 0
    inserted_from: int = 0
    learned_from: int = 0
    min_size: int = 0

    @classmethod
    def of(cls, several: Sequence[Totals]) -> Totals:
        """The sum of several."""
        return cls(*map(sum, zip(*several, strict=True))) if several else cls()


class Limiter:
    """Says whether inserting and sampling are wanted, so that at least one of them always is.

    surplus = ratio * max(0, inserted - min_size) - learned: the steps that learning is behind. What
    was inserted before `min_size` is not owed, so learning does not begin with a burst.

    - sampling is wanted if `min_size` is reached, something can be sampled, and surplus >= 0;
    - inserting is wanted if `min_size` is not reached, nothing can be sampled, or
      surplus < tolerance.

    Once `min_size` is reached, and as long as something can be sampled and both sides do only what
    is wanted, -(largest sample) <= surplus <= tolerance + ratio * (largest insert).

    Args:
        ratio: steps to learn from per step inserted, > 0; None for no limit: both sides are always
            wanted once `min_size` is reached and something can be sampled.
        min_size: steps to insert before anything is sampled, >= 0.
        tolerance: learned steps that learning may be behind before inserting waits, >= 0. Room for
            the largest insert (times ratio) and the largest sample lets the two sides take turns
            without waiting for each other; with less, still one of them is always wanted.
    Attributes:
        elsewhere: what other limiters of the same replay have counted, as far as that is known; the
            answers are about all of it.
    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(self, ratio: float | None, min_size: int, tolerance: float) -> None:
        if ratio is not None and not 0.0 < ratio < math.inf:
            raise ValueError(
                f"ratio must be a finite number above 0, or None for no limit, not {ratio}"
            )
        if min_size < 0:
            raise ValueError(f"min_size must be at least 0 steps, not {min_size}")
        if not 0.0 <= tolerance < math.inf:
            raise ValueError(f"tolerance must be finite and at least 0 steps, not {tolerance}")
        self._ratio = ratio
        self._min_size = int(min_size)
        self._tolerance = float(tolerance)
        self._inserted = 0
        self._learned = 0
        # The surplus counts from here on.
        self._inserted_from = self._min_size
        self._learned_from = 0
        self.elsewhere = Totals()

    @property
    def totals(self) -> Totals:
        """What was counted here."""
        return Totals(
            self._inserted, self._learned, self._inserted_from, self._learned_from, self._min_size
        )

    @property
    def surplus(self) -> float:
        """Learned steps that learning is behind; negative where it is ahead; 0 without a ratio."""
        if self._ratio is None:
            return 0.0
        others = self.elsewhere
        inserted = self._inserted - self._inserted_from + others.inserted - others.inserted_from
        learned = self._learned - self._learned_from + others.learned - others.learned_from
        return self._ratio * max(0, inserted) - learned

    def inserted(self, steps: int) -> None:
        """Count `steps` unique environment steps that were inserted.

        Raises:
            ValueError: if `steps` is negative.
        """
        self._inserted += _counted(steps)

    def learned(self, steps: int) -> None:
        """Count `steps` real steps in the learned parts of windows that were drawn.

        Raises:
            ValueError: if `steps` is negative.
        """
        self._learned += _counted(steps)

    def unlearned(self, steps: int) -> int:
        """Take back up to `steps` that were learned, for the learner that did has gone back.

        Returns:
            How many: those counted since the surplus was last restarted at most.
        Raises:
            ValueError: if `steps` is negative.
        """
        taken = min(_counted(steps), self._learned - self._learned_from)
        self._learned -= taken
        return taken

    def wants_insert(self, can_sample: bool) -> bool:
        """Whether to insert now; `can_sample`: whether replay holds something to draw."""
        return self._ratio is None or not self._ready(can_sample) or self.surplus < self._tolerance

    def wants_sample(self, can_sample: bool) -> bool:
        """Whether to sample now; `can_sample`: whether replay holds something to draw."""
        return self._ready(can_sample) and self.surplus >= 0.0

    def restart_surplus(self) -> None:
        """Set the surplus to 0: what is behind is forgotten, as when a shard was lost."""
        self._inserted_from = max(self._min_size, self._inserted)
        self._learned_from = self._learned

    def metrics(self) -> Metrics:
        """Totals, and their quotient.

        `inserted_steps`; `learned_steps`; `surplus_steps`; `observation_replay_ratio`: steps
        learned per step inserted after the first `min_size`, 0 before.
        """
        after = self._inserted - self._min_size
        return {
            "inserted_steps": float(self._inserted),
            "learned_steps": float(self._learned),
            "surplus_steps": self.surplus,
            "observation_replay_ratio": self._learned / after if after > 0 else 0.0,
        }

    def state_dict(self) -> dict[str, Array]:
        """The counters, and the settings they were counted under: scalars."""
        return {
            "inserted": np.array(self._inserted),
            "learned": np.array(self._learned),
            "inserted_from": np.array(self._inserted_from),
            "learned_from": np.array(self._learned_from),
            "min_size": np.array(self._min_size),
            "ratio": np.array(0.0 if self._ratio is None else self._ratio),
        }

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Go on from where the limiter of this state was.

        If that one had another `ratio` or `min_size`, the totals go on and the surplus starts at 0:
        what was done under other settings is owed to neither side.

        Raises:
            ValueError: if a counter is negative, or the counters contradict each other. Nothing has
                changed then.
        """
        *numbers, saved_ratio = read(state, {**_COUNTERS, "ratio": ("float64", 0)})
        inserted, learned, inserted_from, learned_from, min_size = map(
            read_count, _COUNTERS, numbers
        )
        # The surplus counts from `min_size` on, or from where it was once restarted.
        if not (min_size <= inserted_from <= max(min_size, inserted) and learned_from <= learned):
            raise ValueError("the saved counters of the limiter do not fit: the state is damaged")
        ratio = float(saved_ratio)
        if not 0.0 <= ratio < math.inf:  # also where NaN
            raise ValueError(f"the saved ratio of the limiter is {ratio}: the state is damaged")
        self._inserted, self._learned = inserted, learned
        self._inserted_from, self._learned_from = inserted_from, learned_from
        if ratio != (self._ratio or 0.0) or min_size != self._min_size:
            self.restart_surplus()

    def _ready(self, can_sample: bool) -> bool:
        """Whether sampling is possible at all."""
        least = self._min_size + self.elsewhere.min_size
        return can_sample and self._inserted + self.elsewhere.inserted >= least


def _counted(steps: int) -> int:
    """`steps`, if it can be a count."""
    if steps < 0:
        raise ValueError(f"a number of steps cannot be negative: {steps}")
    return int(steps)
