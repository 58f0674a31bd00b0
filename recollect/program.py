"""A program: named parts and which part holds which. No placement and no transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recollect.messages import Handle
from recollect.roles import Role


def kind_of(name: str) -> str:
    """A part's name without its number: several parts of a kind differ in that alone."""
    return name.partition("/")[0]


@dataclass(frozen=True)
class Far:
    """How a service is held by parts that cannot hold the object itself.

    Args:
        client: makes what a holder gets, with the part's own interface, of handles: of one part, or
            of the several over which it is spread.
        server: makes what the handles ask of the part; None: they ask the part itself.
    """

    client: Callable[[Sequence[Handle]], Any]
    server: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Part:
    """One part of a program.

    Args:
        name: unique in the program, for instance `replay` or `actor/0`.
        role: how a runtime may treat it.
        factory: called once, where the part will live, with what it holds.
        holds: the factory's argument -> name of the part that it gets, or the names of the several
            over which one is spread.
        far: how it is held from elsewhere; None: it is not.
    """

    name: str
    role: Role
    factory: Callable[..., object]
    holds: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    far: Far | None = None

    @property
    def kind(self) -> str:
        """See `kind_of`."""
        return kind_of(self.name)

    @property
    def held(self) -> dict[str, tuple[str, ...]]:
        """The names behind each argument."""
        return {a: (n,) if isinstance(n, str) else tuple(n) for a, n in self.holds.items()}


@dataclass(frozen=True)
class Program:
    """Parts in an order in which they can be built: who is held stands before who holds.

    `policy` builds what acts with the published parameters: evaluation and export use it.
    `replay_bytes` is what a full replay needs in memory.

    Raises:
        ValueError: two parts of one name, or a part that holds one that does not stand before it.
    """

    parts: tuple[Part, ...]
    policy: Callable[[], Any]
    replay_bytes: int = 0

    def __post_init__(self) -> None:
        seen: dict[str, Part] = {}
        for part in self.parts:
            if part.name in seen:
                raise ValueError(f"two parts are named {part.name!r}: give each its own name")
            for argument, names in part.held.items():
                for held in names:
                    if held not in seen:
                        raise ValueError(
                            f"part {part.name!r} holds {held!r} as {argument!r}, which does not "
                            f"stand before it: the parts before it are {sorted(seen)}"
                        )
                if len(names) > 1 and seen[names[0]].far is None:
                    raise ValueError(
                        f"part {part.name!r} holds {names} as one {argument!r}, and "
                        f"{names[0]!r} does not say how: give it a `far`"
                    )
            seen[part.name] = part
