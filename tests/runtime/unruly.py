"""An environment that does wrong what a plan says, one thing after the other, in any process."""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium

from tests.cli.moody import Moody

ID = "tests.runtime.unruly:tests/Unruly-v0"


class Unruly(Moody):
    """Moody, in turn.

    Args:
        plan: such as ["raises in reset", "hangs in step"]: kinds of `moody`, or "interrupts".
        folder: where it is noted, in a file for each, that a thing was done: whoever makes the
            file does it. each: how many of them one process does at most.
    """

    def __init__(self, plan: Sequence[str] = (), folder: str = "", each: int = 99) -> None:
        super().__init__()
        self.plan, self.folder, self.each = plan, Path(folder), each

    def _seen(self, verb: str) -> Any:
        done = noted(self.folder) if self.plan else []
        own = sum(note["pid"] == os.getpid() for note in done)
        if self.t in (0, 3) and len(done) < len(self.plan) and own < self.each:
            how, _, where = self.plan[len(done)].partition(" in ")
            if where == verb and self._mine(len(done)):
                self.how = how
                return self._misbehave()
        return super()._seen(verb)

    def _mine(self, number: int) -> bool:
        note = json.dumps({"pid": os.getpid(), "time": time.time()})
        with suppress(FileExistsError):
            (self.folder / f"{number}.part{os.getpid()}").write_text(note)
            os.link(self.folder / f"{number}.part{os.getpid()}", self.folder / f"{number}.json")
            return True
        return False

    def _misbehave(self) -> Any:
        how, self.how = self.how, ""
        if how == "segfaults":  # in this thread
            ctypes.string_at(0)
        if how == "interrupts":
            raise KeyboardInterrupt
        self.how = how
        try:
            return super()._misbehave()
        finally:
            self.how = ""


def noted(folder: Path) -> list[dict[str, Any]]:
    """What was done: the process and the time, in order."""
    files = sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
    return [json.loads(path.read_text()) for path in files]


gymnasium.register("tests/Unruly-v0", entry_point=Unruly)
