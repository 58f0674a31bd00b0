"""How often environments failed: counted, told of, and at some point too often."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable

import numpy as np

from recollect.types import EnvError

LIMIT, WINDOW = 10, 600.0
"""More failures than this within so many seconds end the run."""
TOLD = 3
"""How many failed resets are warned of."""


class Recent:
    """When something happened of late."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=LIMIT + 1)

    def add(self, now: float, number: int = 1) -> int:
        """It happened `number` times at `now`.

        Returns:
            How often lately, if the last `LIMIT` + 1 lie within `WINDOW` seconds; else 0.
        """
        self._times.extend([now] * min(number, LIMIT + 1))
        too_often = len(self._times) > LIMIT and self._times[-1] - self._times[0] <= WINDOW
        return len(self._times) if too_often else 0


class Failures:
    """The failures of a vector of environments.

    Args:
        clock: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.total = 0
        self.last = ""
        self._clock = clock
        self._recent = Recent()
        self._told = 0

    def add(self, message: str) -> None:
        """Count one.

        Raises:
            EnvError: the last `LIMIT` + 1 lie within `WINDOW` seconds.
        """
        self.total += 1
        self.last = message
        if often := self._recent.add(self._clock()):
            raise EnvError(
                f"{message}; that is failure {often} within {WINDOW / 60:g} minutes and "
                f"{LIMIT} are borne: mend the environment"
            )

    def warn(self, message: str) -> None:
        """Warn of a failed reset, unless `TOLD` have been warned of."""
        self._told += 1
        if self._told <= TOLD:
            more = ". More of these are only counted" if self._told == TOLD else ""
            warnings.warn(
                f"{message}; it is tried again with another seed{more}",
                RuntimeWarning,
                stacklevel=4,
            )


def another_seed(seed: int, attempt: int) -> int:
    """A seed in [0, 2^31) that follows from one with which a reset failed."""
    return int(np.random.SeedSequence((seed, attempt)).generate_state(1)[0]) >> 1
