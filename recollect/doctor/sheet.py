"""What the doctor has to say: checks, collected on a sheet while they are made."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from recollect.types import ConfigError, EnvError

Status = Literal["ok", "info", "warn", "FAIL"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        group: under which heading it stands. name: what was looked at.
        status: FAIL: it will not work; warn: it works less well than it could.
        message: what was found. advice: what to do, where there is something.
        value: the figures behind it, as JSON knows them.
    """

    group: str
    name: str
    status: Status
    message: str
    advice: str = ""
    value: Any = None


class Sheet:
    """Collects checks and hands each on at once.

    Args:
        group: heading of the checks to come.
        tell: gets each check as it is made.
        begin: gets the name of each stage, and the seconds it may stay silent, as it begins.
        alive: to be called while a stage goes on: it does not hang.
    """

    def __init__(
        self,
        group: str,
        tell: Callable[[Check], None] = lambda check: None,
        begin: Callable[[str, float], None] = lambda name, seconds: None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.group, self._tell, self._begin, self.alive = group, tell, begin, alive
        self.checks: list[Check] = []

    def add(
        self, status: Status, name: str, message: str, advice: str = "", value: Any = None
    ) -> None:
        """Note one check."""
        message, advice = (" ".join(text.split()) for text in (message, advice))
        check = Check(self.group, name, status, message, advice, value)
        self.checks.append(check)
        self._tell(check)

    def ok(self, name: str, message: str, value: Any = None) -> None:
        """Note what is right."""
        self.add("ok", name, message, value=value)

    def info(self, name: str, message: str, advice: str = "", value: Any = None) -> None:
        """Note what is neither right nor wrong."""
        self.add("info", name, message, advice, value)

    def warn(self, name: str, message: str, advice: str, value: Any = None) -> None:
        """Note what works less well than it could."""
        self.add("warn", name, message, advice, value)

    def fail(self, name: str, message: str, advice: str, value: Any = None) -> None:
        """Note what will not work."""
        self.add("FAIL", name, message, advice, value)

    @property
    def failed(self) -> bool:
        """Whether something on the sheet will not work."""
        return any(check.status == "FAIL" for check in self.checks)

    def stage(self, name: str, silent: float = 60.0) -> _Stage:
        """A place to make checks in: an error inside becomes one that failed.

        Args:
            name: what is being looked at.
            silent: seconds without a sign of life after which it counts as hanging.
        """
        self._begin(name, silent)
        return _Stage(self, name)


class _Stage:
    def __init__(self, sheet: Sheet, name: str) -> None:
        self._sheet, self._name = sheet, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        if isinstance(error, (ConfigError, EnvError)):
            self._sheet.fail(self._name, str(error), "")
        elif isinstance(error, Exception):
            self._sheet.fail(self._name, f"raised {said(error)}", "mend what raises there")
        return isinstance(error, Exception)


def said(error: BaseException) -> str:
    """An error in one line, with the place it came from."""
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({where[-1].filename}, line {where[-1].lineno})" if where else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


class Budget:
    """Steps and seconds that a stage may take; iterating counts steps and gives signs of life."""

    def __init__(self, steps: int, seconds: float, alive: Callable[[], None]) -> None:
        self._steps, self._seconds, self._alive = steps, seconds, alive

    def __iter__(self) -> Iterator[int]:
        until = time.perf_counter() + self._seconds
        for step in range(self._steps):
            self._alive()
            if step and time.perf_counter() > until:
                return
            yield step
