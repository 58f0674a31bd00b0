"""What runs in a part's own process: the part, its turns, and what the driver asks of it.

Nothing here knows how questions travel. A worker has two threads: one takes its turns, in slices
that the driver gives, the other answers the driver between two turns; so a part that works tells
how it stands, can be saved, and can be stopped. A service has one. Every part has one more, for
what must be answered at once (`QUICK`): that it lives, whose messages it is to refuse, to stop.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recollect.envs import calls
from recollect.machine import keep_memory
from recollect.messages import FencedError, Handle
from recollect.program import Part
from recollect.runtime import pieces
from recollect.types import Array, Buffers

PAUSE_SECONDS = (0.001, 0.02)
"""Between two looks whether a turn would do something: from the least, doubled up to the most."""
BUSY_SECONDS = 10.0
"""After which who waits for a turn's end is told that it goes on."""
WARNINGS_KEPT = 32
"""Warnings of a slice that reach the driver; the others are dropped."""
QUICK = frozenset({"pulse", "fence", "stop"})
"""What a thread of its own answers."""


class BusyError(Exception):
    """A turn goes on, and the question is to be asked again."""


@dataclass(frozen=True)
class Slice:
    """What came of a slice: the part's `counts`, its turns, and how it stands.

    `busy_seconds` of `seconds` went into turns. `queue` messages of `queue_bytes` are on their way
    to others, `lost` did not arrive. `warnings` are texts, `fault` is the last of an environment.
    """

    counts: dict[str, int]
    turns: int
    seconds: float
    busy_seconds: float
    queue: int
    queue_bytes: int
    lost: int
    warnings: list[str]
    fault: str = ""


@dataclass(frozen=True)
class Setting:
    """Where a part finds itself: `folder` to work in, `paths` to import from, torch's `threads`.

    `seed` is for generators that all of a process share: an environment may draw from them.
    `env_deadline` is the seconds that one call of an environment may take.
    """

    folder: str
    paths: tuple[str, ...]
    threads: int
    seed: int
    images: bool = False
    env_deadline: float = 0.0


class Host:
    """A part of a program, and everything that is asked of it from outside.

    Args:
        part: its factory is called here.
        held: handles of what it holds, by argument.
        clients: what makes of these what the part gets, by argument.
        setting: where it finds itself.
        address: of its host, where that is not the driver's.
    """

    def __init__(
        self,
        part: Part,
        held: Mapping[str, Sequence[Handle]],
        clients: Mapping[str, Callable[[Sequence[Handle]], Any]],
        setting: Setting,
        address: str = "",
    ) -> None:
        _settle(setting, part.role.worker)
        self.name, self._role, self.address = part.name, part.role, address
        self._warned: list[str] = []
        _hear_warnings(self._warned)
        self._clients = {a: clients[a](handles) for a, handles in held.items()}
        made: Any = part.factory(**self._clients)
        self.part = made
        far = part.far
        self._server = far.server(self.part) if far and far.server else self.part
        self._lock = threading.Lock()  # held by a turn, or by who asks
        self._entrance = threading.Lock()  # held by who waits to ask: turns queue behind it
        self._holding = False
        self._stopping = False
        self._told = ""  # the last fault of an environment that a slice told of
        if part.role.long:
            self.part.interrupted = lambda: self._stopping
        self._fences: dict[str, int] = {}
        self._journal: Path | None = None
        self._pieces: dict[str, Buffers] = {}
        self._coming: dict[str, tuple[list[int], list[Array]]] = {}

    # --- What other parts ask --------------------------------------------------------------------

    def ask(self, asker: tuple[str, int], method: str, *arguments: Any) -> Any:
        """Answer another part, `asker` its name and epoch.

        Raises:
            FencedError: it was replaced.
        """
        name, epoch = asker
        if epoch < self._fences.get(name, 0):
            raise FencedError(f"{name} was replaced, and what its life {epoch} sends is refused")
        return getattr(self._server, method)(*arguments)

    def fence(self, name: str, epoch: int) -> None:
        """From now on refuse what lives of a part before `epoch` ask."""
        self._fences[name] = max(epoch, self._fences.get(name, 0))

    # --- Turns -----------------------------------------------------------------------------------

    def slice(self, seconds: float, most: Mapping[str, int] | None = None) -> Slice:
        """Take turns for so long, or until a count is no longer below what `most` names.

        Also until an environment fails: that is told at once, for what fails may soon fail worse.

        Raises:
            Exception: what a turn raised.
        """
        began = time.monotonic()
        end, pause = began + seconds, PAUSE_SECONDS[0]
        busy, turns = 0.0, 0
        while not self._stopping:
            with self._between_turns(end) as mine:
                if not mine:
                    break
                counts = self.part.counts() if most else {}
                if most and any(counts[name] >= limit for name, limit in most.items()):
                    break
                moved = self.part.ready()
                if moved and not self._role.long:
                    busy += self._turn()
                if not moved:
                    self._send()
            if moved and self._role.long:
                busy += self._turn()
            turns += moved
            now = time.monotonic()
            if now >= end or self._fault != self._told:
                break
            pause = PAUSE_SECONDS[0] if moved else min(2 * pause, PAUSE_SECONDS[1], end - now)
            if not moved:
                time.sleep(pause)
        with self._between_turns(time.monotonic() + PAUSE_SECONDS[1]) as mine:
            if mine:  # else who has the part has sent all, or will give another slice
                self._send()
        self._told = self._fault
        posts = [client.posts for client in self._clients.values()]
        return Slice(
            counts=self.part.counts(),
            turns=turns,
            seconds=time.monotonic() - began,
            busy_seconds=busy,
            queue=sum(map(len, posts)),
            queue_bytes=sum(each.nbytes for each in posts),
            lost=sum(each.lost for each in posts),
            warnings=self.warned(),
            fault=self._told,
        )

    @property
    def _fault(self) -> str:
        return getattr(self.part, "fault", "")

    def _turn(self) -> float:
        """One turn; the seconds it took."""
        begin = time.monotonic()
        if self._role.long:
            from recollect.agents.evaluating import InterruptedEvaluation

            with suppress(InterruptedEvaluation):
                self.part.step()
        else:
            self.part.step()
        return time.monotonic() - begin

    def _send(self) -> None:
        for client in self._clients.values():
            client.send()
            client.posts.look()  # who waits does not: answered, they would count as under way

    @contextmanager
    def _between_turns(self, end: float) -> Iterator[bool]:
        """With the part to oneself; False if somebody holds it until `end`."""
        with self._entrance:
            pass
        taken = self._lock.acquire(timeout=max(0.0, end - time.monotonic()))
        try:
            yield taken
        finally:
            if taken:
                self._lock.release()

    # --- What the driver asks --------------------------------------------------------------------

    def who(self) -> dict[str, Any]:
        """Its process, and its host's address: empty for this machine."""
        return {"pid": os.getpid(), "host": self.address}

    def pulse(self) -> tuple[float, str] | None:
        """That it lives; how long a call of an environment takes already, and what it is."""
        call = calls.current()
        if call is None:
            return None
        before = f" (after {self._fault})" if self._fault != self._told else ""
        return time.monotonic() - call[0], call[1] + before

    def warned(self) -> list[str]:
        """What was warned of since this was last asked; a worker's slices tell it themselves."""
        warned, self._warned[:] = self._warned[:WARNINGS_KEPT], []
        return warned

    def own(self, method: str, *arguments: Any) -> Any:
        """Call the part itself, between two turns."""
        with self._asking():
            return getattr(self.part, method)(*arguments)

    def serve(self, method: str, *arguments: Any) -> Any:
        """Call what answers the other parts, as one of them."""
        return getattr(self._server, method)(*arguments)

    def keep_journal(self, folder: str) -> None:
        """Have what answers the others keep a journal.

        Args:
            folder: below the temporary one if it is not absolute.
        """
        self._journal = _journal_folder(folder)
        self._server.keep_journal(self._journal)

    def recover(self, folder: str, page: int, anew: int) -> tuple[bool, int]:
        """Have it go on from its journal, on top of the state that was loaded; see `Shard`."""
        self._journal = _journal_folder(folder)
        return self._server.recover(self._journal, page, anew=anew)

    def begin_epoch(self, epoch: int) -> None:
        """Go on as this life of the part, where that makes a difference to it."""
        if hasattr(self.part, "begin_epoch"):
            self.own("begin_epoch", epoch)

    def hold(self) -> None:
        """Take no more turns until `release`, with all that was posted having arrived.

        A part of long turns goes on: what it has to save changes only at their end.
        """
        if not self._role.long and not self._holding:
            self._await_turn()
            self._holding = True
        for client in self._clients.values():
            client.flush()

    def release(self) -> None:
        """Take turns again."""
        if self._holding:
            self._holding = False
            self._lock.release()

    def stop(self) -> None:
        """End the slice that runs, as soon as can be."""
        self._stopping = True

    def close(self) -> None:
        """Close what the part holds: environments, a journal."""
        self._stopping = True
        if self._journal is not None:
            shutil.rmtree(self._journal, ignore_errors=True)
        if hasattr(self.part, "close"):
            self.part.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        if self._holding or self._role.long or not self._role.worker:
            yield
            return
        self._await_turn()
        try:
            yield
        finally:
            self._lock.release()

    def _await_turn(self) -> None:
        """Take the part between two turns.

        Raises:
            BusyError: the turn has not ended yet.
        """
        with self._entrance:
            if not self._lock.acquire(timeout=BUSY_SECONDS):
                raise BusyError(f"{self.name} is in a turn")

    # --- States, in pieces -----------------------------------------------------------------------

    def state(self) -> Any:
        """The part's state; `Buffers` in it stay here until `forget`, to be fetched in pieces."""
        self._pieces = {}
        with self._asking():
            return pieces.taken_out(self.part.state_dict(), "", self._pieces)

    def journaled_state(self, needed: int) -> tuple[Any, int, dict[str, tuple[int, int]]]:
        """`state`, and with it a new page of the journal, of which those below `needed` can go.

        Returns:
            The state, the page's number, and what has come of whom until then.
        """
        state = self.state()
        return state, self._server.turn_page(needed), self._server.senders()

    def pieces(self, place: str, numbers: Array) -> list[Array]:
        """The buffers of these rising numbers [n] that stand at a place of the last `state`."""
        kept = self._pieces[place]
        at = np.searchsorted(kept.numbers, numbers)
        return [kept.arrays[i] for i in at.tolist()]

    def forget(self) -> None:
        """Let go of the buffers of the last `state`."""
        self._pieces = {}

    def give(self, place: str, numbers: Array, arrays: Sequence[Array]) -> None:
        """Buffers of the state that `load` will bring, in rising order."""
        known = self._coming.setdefault(place, ([], []))
        known[0].extend(numbers.tolist())
        known[1].extend(np.array(array) for array in arrays)

    def load(self, state: Any) -> None:
        """Go on from a state, whose `Buffers` were given before; raises as the part does."""
        coming, self._coming = self._coming, {}
        with self._asking():
            self.part.load_state_dict(pieces.put_back(state, "", coming))


def _journal_folder(folder: str) -> Path:
    """Made, and ours alone."""
    path = Path(folder if os.path.isabs(folder) else os.path.join(tempfile.gettempdir(), folder))
    for each in (path.parent, path):
        each.mkdir(mode=0o700, exist_ok=True)
        about = each.lstat()
        if each.is_symlink() or about.st_uid != os.geteuid():
            raise PermissionError(f"{each} is another's: a journal cannot be kept there")
    return path


def _settle(setting: Setting, computes: bool) -> None:
    """Make this process one in which a part can live; torch is loaded for those that compute."""
    if os.path.isdir(setting.folder):
        os.chdir(setting.folder)
    sys.path[:] = [*dict.fromkeys([*sys.path, *setting.paths])]
    random.seed(setting.seed)
    np.random.seed(setting.seed % 2**32)
    if not computes:
        return
    import torch

    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    if setting.images:
        keep_memory()


def _hear_warnings(kept: list[str]) -> None:
    """Keep warnings instead of printing them where nobody looks."""

    def hear(message: Warning | str, *_: Any, **__: Any) -> None:
        if len(kept) < 2 * WARNINGS_KEPT:
            kept.append(str(message))

    warnings.simplefilter("default", RuntimeWarning)
    warnings.showwarning = hear
