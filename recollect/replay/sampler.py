"""What replay asks of what decides which slots are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from recollect.types import Array


class Sampler(Protocol):
    """Which slots are drawn: `Prioritized` or `Uniform`."""

    @property
    def mass(self) -> float:
        """What there is to draw from; nothing can be drawn while it is 0."""

    def __len__(self) -> int:
        """Live slots."""

    def ensure(self, capacity: int) -> None:
        """Make room for slots below `capacity`."""

    def set(self, slots: Array, priorities: Array) -> None:
        """Make slots [n] live, or change their priorities [n]."""

    def remove(self, slots: Array) -> None:
        """Forget slots [n]."""

    def draw(self, uniforms: Array) -> tuple[Array, Array]:
        """Slots [n] and their probabilities [n] for uniforms [n]."""

    def slots(self) -> Array:
        """The live slots, rising."""

    def check_valid(self) -> None:
        """Raise RuntimeError if an invariant does not hold."""

    def state_dict(self) -> dict[str, Array]:
        """Everything that decides what is drawn."""

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Go on from a state."""
