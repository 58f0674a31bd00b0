"""Speed and learning, measured: `python -m benchmarks [NAME...] [--json]`.

A benchmark is a module here with a docstring and `run() -> Iterator[Result]`. Peers are run beside
us where they are installed, and reported as missing where not.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    """One figure; `against` says what `ratio` compares with (None where there is nothing)."""

    name: str
    value: float
    unit: str
    against: str = ""
    ratio: float | None = None

    def json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    def text(self) -> str:
        """One line for a person."""
        ratio = f"   {self.ratio:.2f} x {self.against}" if self.ratio is not None else ""
        return f"{self.name:<56} {self.value:>12,.4g} {self.unit}{ratio}"
