"""What the doctor is asked to examine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """What is to be examined.

    Args:
        env: a registered id. env_kwargs: for its constructor.
        agent, preset, network: as of `training.prepare`.
        steps: environment steps to play at most. seconds: to play, about.
    """

    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    agent: str = "r2d2"
    preset: str = "auto"
    network: str = ""
    steps: int = 1000
    seconds: float = 5.0
