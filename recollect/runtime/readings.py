"""The figures of parts that are elsewhere, as last heard of, and what they are seen to do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from recollect.program import Part
from recollect.run.parts import Rate
from recollect.runtime.inline import gathered
from recollect.types import Metrics

RATES = {
    "actor": ("env_steps", "steps/s"),
    "learner": ("updates", "updates/s"),
    "replay": ("inserted_steps", "steps/s"),
}
"""What a kind of part is seen to do: a count, or a figure that counts, and its unit."""


class Readings:
    """Of all parts of a program.

    Args:
        parts: the program's.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._kinds = {part.name: part.kind for part in parts}
        self._additive = {part.kind: part.role.additive for part in parts}
        self._rates: dict[str, Rate] = {}
        self.last: dict[str, Mapping[str, float]] = {}
        """What each last said, by name."""

    def gather(self, names: Sequence[str], said: Mapping[str, Mapping[str, float]]) -> Metrics:
        """The figures of these parts as `kind/figure`; an actor's lag by its name too.

        Args:
            said: what they just said; of the others it is what they last did.
        """
        figures = {name: said.get(name, self.last.get(name, {})) for name in names}
        found = gathered(figures, self._additive)
        for name in names:
            self.last[name] = figures[name]
            self.add(name, figures[name])
            if self._kinds[name] == "actor":
                for figure in ("lag_updates", "lag_seconds"):
                    if figure in figures[name]:
                        found[f"{name}/{figure}"] = figures[name][figure]
        return found

    def add(self, name: str, totals: Mapping[str, float]) -> None:
        """A part's totals as they are now."""
        counted, _ = RATES.get(self._kinds[name], ("", ""))
        if counted in totals:
            self._rates.setdefault(name, Rate()).add(totals[counted], time.monotonic())

    def rate(self, name: str) -> tuple[float | None, str]:
        """What a part does in a second, None if that is not known, and the unit."""
        if name not in self._rates:
            return None, ""
        return self._rates[name].now, RATES[self._kinds[name]][1]

    def begin_anew(self, *names: str) -> None:
        """What these parts have done so far was not done at a rate."""
        for name in names:
            self._rates.pop(name, None)
