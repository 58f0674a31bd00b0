"""A program: named parts and which part holds which. No placement and no transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recollect.roles import Role


@dataclass(frozen=True)
class Part:
    """One part of a program.

    Args:
        name: unique in the program, for instance `replay` or `actor/0`.
        role: how a runtime may treat it.
        factory: called once, where the part will live, with the handles in `holds`.
        holds: the factory's argument -> name of the part whose handle it gets.
    """

    name: str
    role: Role
    factory: Callable[..., object]
    holds: Mapping[str, str] = field(default_factory=dict)


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
        seen: set[str] = set()
        for part in self.parts:
            if part.name in seen:
                raise ValueError(f"two parts are named {part.name!r}: give each its own name")
            for argument, held in part.holds.items():
                if held not in seen:
                    raise ValueError(
                        f"part {part.name!r} holds {held!r} as {argument!r}, which does not stand "
                        f"before it: the parts before it are {sorted(seen)}"
                    )
            seen.add(part.name)
