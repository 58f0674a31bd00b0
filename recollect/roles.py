"""The roles of a program's parts, as protocols, and which calls may be posted without waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from recollect.types import Metrics


@dataclass(frozen=True)
class Role:
    """How a runtime may treat a part.

    Args:
        worker: True if the part has `ready()` and `step()` and wants turns of its own; False if it
            only answers calls (a service).
        posted: names of methods a caller may fire without waiting: they return None, keep their
            order per caller, and may be applied late.
        long: a turn may take minutes, and leaves off where its `interrupted()` says so.
        additive: figures of which several parts of a kind have a sum; of the others, a mean.
        comes_back: how one that died is made again: `anew`, with nothing but what it added to the
            run's totals; from a `copy` of its state, taken now and then; from its `journal`, on top
            of the last checkpoint; or empty, `told` again by who fills it.
    """

    worker: bool
    posted: frozenset[str] = frozenset()
    long: bool = False
    additive: frozenset[str] = frozenset()
    comes_back: Literal["anew", "copy", "journal", "told"] = "copy"


_SUMS = (
    *("items", "steps", "bytes", "bytes_unpacked", "blocks", "waiting_blocks", "episodes"),
    *("evicted_items", "late_items", "abandoned_blocks", "dropped_episodes", "stale_write_backs"),
    *("inserted_steps", "learned_steps", "surplus_steps"),
)

REPLAY = Role(
    worker=False,
    posted=frozenset({"insert", "update_priorities", "drop_episode"}),
    additive=frozenset(_SUMS),
    comes_back="journal",
)
PARAMETERS = Role(worker=False, posted=frozenset({"publish"}), comes_back="told")
ACTOR = Role(worker=True, comes_back="anew")
LEARNER = Role(worker=True)
EVALUATOR = Role(worker=True, long=True)


@runtime_checkable
class Service(Protocol):
    """A part that answers calls."""

    def metrics(self) -> Metrics:
        """Figures since the last call, by name; names carry their unit."""


@runtime_checkable
class Worker(Protocol):
    """A part that takes turns. `step` is bounded work and never waits for another part."""

    def ready(self) -> bool:
        """Whether a turn would do something now."""

    def step(self) -> None:
        """Take one turn."""

    def counts(self) -> dict[str, int]:
        """What this part has added to the run's totals, such as `env_steps` or `updates`."""

    def metrics(self) -> Metrics:
        """Figures since the last call, by name; names carry their unit."""
