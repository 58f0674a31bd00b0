"""What an environment of this process is doing now, for whoever watches that nothing hangs.

One record for the whole process, written without a lock around every call of an environment that
is stepped here: a tuple replaces another, so a reader in another thread sees one or the other.
"""

from __future__ import annotations

from typing import Protocol


class Describes(Protocol):
    """What can say in words which call was begun."""

    def doing(self, slot: int, verb: str) -> str:
        """The call `verb` of environment `slot`: who it is, and where in its episode."""
        ...


now: tuple[float, Describes, int, str] | None = None
"""(`time.monotonic()` when the call began, whose it is, slot, verb); None outside such a call."""


blamed: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""What is the environment's fault if its call raises it: KeyboardInterrupt is not, where a person
can interrupt this process."""


def current() -> tuple[float, str] | None:
    """When the call that runs now began (`time.monotonic()`) and what it is, or None.

    The text, such as "environment CartPole-v1, slot 3: step 41 of episode 7", is made only here.
    """
    call = now
    if call is None:
        return None
    began, vector, slot, verb = call
    return began, vector.doing(slot, verb)
