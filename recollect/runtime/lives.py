"""The lives of a program's parts: who has died, and who is to come back while others go on.

A death is known by an answer that says so, or by a `pulse` that does not come. What is left of the
part is ended, what its life still sends is refused (fenced), and another life of it begins, with an
epoch of its own, which only the driver gives. How it comes back: see `recovery`.

All of this happens in the driver's one thread.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from recollect.envs.failures import LIMIT, WINDOW, Recent
from recollect.messages import PartLostError, PartSilentError, Pending
from recollect.program import Program
from recollect.runtime.hosting import BusyError
from recollect.runtime.journals import Journals
from recollect.runtime.life import Asked, Death, Known, Read, Transport
from recollect.runtime.recovery import Recoveries
from recollect.types import EnvError

START_SECONDS = 180.0
"""For a part to be there: it loads torch, and may share a core with many."""
ROOM_SECONDS = 10.0
"""For a part to be there, before it is looked for room; and between two such looks."""
PULSE_SECONDS = 1.0
"""Between two looks whether a part lives."""
PATIENCE = {"here": 20.0, "elsewhere": 5.0}
"""Seconds without a pulse until a part is taken for dead. On this machine there is no link that
could be cut, and a busy machine is not dead."""
STUCK_SECONDS = {"silent": 4.0, "calling": 10.0}
"""Without a pulse, or in a call of an environment, after which others do not wait for a part."""
GAP_SECONDS = 1.0
"""Of a time in which the driver itself stood still, what counts as silence of the parts."""
ENVIRONMENTS = ("actor", "evaluator")
"""Kinds of parts that have some."""
COPY_SECONDS = 60.0
"""Between two copies of a part's own state."""


class _TooOftenError(PartLostError):
    """A part died more often than is borne: the run ends."""


class Lives:
    """Finds who has died and brings them back.

    Args:
        program: whose parts they are. transport: starts and asks them.
        env_deadline: seconds that one call of an environment may take.
        epochs: of lives that ended in an earlier attempt of the run, by name.
        counts: what a worker had added to the run's totals when it was last heard.
        back: told of a part that came back, and of its counts if it is a worker.
        saved: reads the state of the last checkpoint, in a thread; None if there is none.
        journal: folder for what shards write down; empty: they write nothing.
    """

    def __init__(
        self,
        program: Program,
        transport: Transport,
        env_deadline: float,
        epochs: Mapping[str, int],
        counts: Callable[[str], Mapping[str, int]],
        back: Callable[[str, dict[str, int]], object],
        saved: Callable[[], Mapping[str, Any] | None],
        journal: str,
    ) -> None:
        self._transport, self._env_deadline = transport, env_deadline
        self._told = back
        self._known = {p.name: Known(p, epochs.get(p.name, 0)) for p in program.parts}
        self.recoveries = Recoveries(
            self._known, transport, counts, saved, Journals(journal), self.lost, self._back
        )
        self.deaths: deque[Death] = deque(maxlen=1000)
        """Of those who came back, until somebody takes them."""
        self.died = self.came_back = 0
        now = time.monotonic()
        self._tended = self._looked = now
        self._failed = Recent()
        for known in self._known.values():
            known.heard = known.asked_at = now

    # --- What is known ---------------------------------------------------------------------------

    @property
    def epochs(self) -> dict[str, int]:
        """Of the present lives."""
        return {name: known.epoch for name, known in self._known.items()}

    @property
    def whole(self) -> bool:
        """Whether all parts live, but for those that nobody waits for."""
        return not any(known.dead and not self.away(name) for name, known in self._known.items())

    def stuck(self) -> str:
        """Which part hangs, or is about to be taken for dead; empty if none does."""
        for name, known in self._known.items():
            if not known.dead and (
                known.silent > STUCK_SECONDS["silent"] or known.calling > STUCK_SECONDS["calling"]
            ):
                return f"{name} is stuck"
        return ""

    def away(self, name: str) -> bool:
        """Whether a part has no room anywhere, and others go on without it."""
        known = self._known[name]
        return bool(known.no_room) and known.part.role.comes_back == "anew"

    def waited_for(self) -> list[Pending]:
        """Answers of parts that recoveries wait for."""
        waits = [known.waits for known in self._known.values() if known.waits is not None]
        answers = [each.answer if isinstance(each, Asked) else each for each in waits]
        return [each for each in answers if not isinstance(each, Read)]

    def why_dead(self, name: str) -> str:
        """Why a part is dead, empty if it lives."""
        known = self._known[name]
        return f"{known.no_room}; it had died: {known.dead}" if known.no_room else known.dead

    def gone_for_good(self, name: str) -> bool:
        """Whether a part is dead and will not come back."""
        known = self._known[name]
        return bool(known.dead) and known.steps is None

    def counted(self, name: str) -> bool:
        """Whether a part lives, or no more can be heard of that its earlier lives have done."""
        return self._known[name].counted

    def epoch(self, name: str) -> int:
        """Of a part's present life."""
        return self._known[name].epoch

    def who(self, name: str) -> Mapping[str, Any]:
        """The process and host of a part; empty where they are not known."""
        return self._known[name].who

    def silence(self, name: str) -> float:
        """Seconds since a part was heard."""
        return time.monotonic() - self._known[name].heard

    def called(self, name: str) -> str:
        """A part's name, with its process."""
        who = self._known[name].who
        if not who:
            return name
        return f"{name} (process {who['pid']}{' on ' * bool(who['host'])}{who['host']})"

    def hear(self, name: str, who: Mapping[str, Any] | None = None) -> None:
        """A part was heard, and who it is."""
        known = self._known[name]
        known.heard, known.who = time.monotonic(), who or known.who

    # --- Deaths ----------------------------------------------------------------------------------

    def lost(self, name: str, error: Exception, epoch: int) -> None:
        """An answer of a part's life `epoch` says that it is dead.

        Raises:
            PartLostError: it died too often.
        """
        known = self._known[name]
        if epoch != known.epoch or self.gone_for_good(name):
            return  # an earlier life: that is known
        now = time.monotonic()
        self.died += 1
        pid = int(known.who.get("pid", 0))
        called = self.called(name)
        death = Death(name, known.part.kind, epoch, pid, str(error))
        death.env_failures = int(isinstance(error, EnvError))
        known.open.append((now, death))
        known.dead, known.counted = str(error), False
        often = known.deaths.add(now)
        if known.steps is not None:
            known.steps.close()
        known.steps = known.waits = known.question = known.copying = None
        if often:
            advice = ""
            if known.part.kind in ENVIRONMENTS:
                advice = ": an environment may be what ends it, give them processes of their own "
                advice += "with --env-processes"
            raise _TooOftenError(
                f"{called}: {error}; that is its death number {often} within "
                f"{WINDOW / 60:g} minutes, and {LIMIT} are borne{advice}",
                name,
            ) from error
        known.epoch += 1
        known.silent, known.calling, known.who, known.no_room = 0.0, 0.0, {}, ""
        known.steps = self.recoveries.steps(known, pid)

    def env_failed(self, number: int, message: str) -> None:
        """So many failures of environments were heard of.

        Raises:
            EnvError: there are too many in a short time, over all parts.
        """
        if often := self._failed.add(time.monotonic(), number):
            raise EnvError(
                f"{message}; with it environments failed {often} times within "
                f"{WINDOW / 60:g} minutes in all parts together, and {LIMIT} are borne: mend the "
                "environment"
            )

    # --- The driver's loop -----------------------------------------------------------------------

    def tend(self) -> None:
        """Look who lives, move recoveries on, and take copies.

        Raises:
            PartLostError: a part died too often, or none can be reached any more.
        """
        now = time.monotonic()
        gap = min(now - self._tended, GAP_SECONDS)
        self._tended = now
        if now - self._looked >= PULSE_SECONDS:
            self._looked = now
            if why := self._transport.lost():
                raise PartLostError(why)
        for known in self._known.values():
            if known.steps is not None:
                self._advance(known, gap)
            elif not known.dead:
                self._feel(known, now, gap)
            if not known.dead and known.part.role.comes_back == "copy":
                self._copy(known, now)

    def _feel(self, known: Known, now: float, gap: float) -> None:
        """Look after a part's pulse."""
        name, epoch = known.part.name, known.epoch
        if known.question is None:
            if now - known.asked_at >= PULSE_SECONDS:
                known.asked_at, known.silent = now, 0.0
                known.question = self._transport.ask(name, "pulse")
        elif known.question.ready():
            answer, known.question = known.question, None
            try:
                doing = answer.result()
            except PartLostError as error:
                self.lost(name, error, epoch)
                return
            known.heard, known.calling = now, doing[0] if doing is not None else 0.0
            if doing is not None and doing[0] > self._env_deadline:
                hang = _hang(doing, self._env_deadline)
                self.env_failed(1, f"{name}: {hang}")
                self.lost(name, EnvError(hang), epoch)
        else:
            known.silent += gap
            patience = PATIENCE["elsewhere" if known.who.get("host") else "here"]
            if known.silent > patience:
                why = f"it has not answered for {known.silent:.0f} s: it hangs, or is cut off"
                self.lost(name, PartSilentError(why, name), epoch)

    def _copy(self, known: Known, now: float) -> None:
        """Have a copy of a part's own state, not older than a minute."""
        if known.copying is None:
            if now - known.copied_at >= COPY_SECONDS:
                known.copied_at = now
                known.copying = self._transport.ask(known.part.name, "state")
        elif known.copying.ready():
            answer, known.copying = known.copying, None
            try:
                known.copy = _own(answer.result())
            except BusyError:
                known.copied_at = -1e9
            except PartLostError as error:
                self.lost(known.part.name, error, known.epoch)

    def copied(self, name: str, state: Any) -> None:
        """The state of a part, as it was just taken for other reasons or put there."""
        known = self._known[name]
        if known.part.role.comes_back == "copy":
            known.copied_at, known.copy = time.monotonic(), _own(state)

    # --- How they come back ----------------------------------------------------------------------

    def _advance(self, known: Known, gap: float) -> None:
        """Move a recovery on as far as it goes."""
        epoch = known.epoch
        while known.steps is not None and known.epoch == epoch:
            if known.waits is not None and not known.waits.ready():
                known.silent += gap * (not isinstance(known.waits, Read))  # that is not its silence
                self._look_for_room(known)
                if known.silent > START_SECONDS:
                    why, late = f"it was not there after {START_SECONDS:g} s", known
                    if isinstance(known.waits, Asked):
                        why = f"it did not answer in {START_SECONDS:g} s"
                        late = known.waits.known
                    self.lost(late.part.name, PartSilentError(why), late.epoch)
                return
            send: Callable[[], Pending | None] = partial(known.steps.send, None)
            if known.waits is not None:
                try:
                    send = partial(known.steps.send, known.waits.result())
                except Exception as error:
                    send = partial(known.steps.throw, error)
            known.silent, known.waits, known.no_room = 0.0, None, ""
            try:
                waits = send()
            except StopIteration:
                known.steps = None
                return
            except _TooOftenError:  # of a part that was asked
                raise
            except PartLostError as error:
                self.lost(known.part.name, error, epoch)
                return
            except EnvError as error:  # as it was made anew
                self.env_failed(1, f"{known.part.name}: {error}")
                self.lost(known.part.name, error, epoch)
                return
            except Exception as error:
                error.add_note(f"(raised in {known.part.name}, which was begun once more)")
                raise
            if known.epoch == epoch:
                known.waits = waits
            if waits is None:
                return

    def _look_for_room(self, known: Known) -> None:
        """Of a part that does not come; without an actor the others go on until there is some.

        Raises:
            PartLostError: without it they cannot, and there was none for `START_SECONDS`.
        """
        now = time.monotonic()
        if min(known.silent, now - known.looked_at) < ROOM_SECONDS:
            return
        known.looked_at, before = now, known.no_room
        known.no_room = self._transport.no_room(known.part.name)
        if self.away(known.part.name):
            known.silent = 0.0
            if not before:
                warnings.warn(
                    f"{known.part.name} died ({known.dead}), and {known.no_room}. The others go on "
                    "without it, until there is room",
                    RuntimeWarning,
                    stacklevel=2,
                )
        elif known.no_room and known.silent > START_SECONDS - ROOM_SECONDS:
            known.steps = known.waits = None
            raise PartLostError(
                f"{known.part.name}: {known.dead}; and for {known.silent:.0f} s it could not be "
                f"replaced: {known.no_room}",
                known.part.name,
            )

    def _back(self, known: Known, counts: dict[str, int]) -> None:
        """It lives, and others may ask it."""
        now = known.heard = known.asked_at = time.monotonic()
        known.dead = ""
        for noticed, death in known.open:
            death.down_seconds = now - noticed
            self.deaths.append(death)
            self.came_back += 1
        known.open = []
        self._told(known.part.name, counts)


def _hang(doing: tuple[float, str], env_deadline: float) -> str:
    return (
        f"{doing[1]} has not returned for {doing[0]:.0f} s, env_deadline is {env_deadline:g}: mend "
        "the environment, or give it processes of its own with --env-processes, where a hang costs "
        "no more than episodes"
    )


def _own(tree: Any) -> Any:
    """A state with arrays of our own: those that came lie in memory that others share."""
    if isinstance(tree, Mapping):
        return {key: _own(x) for key, x in tree.items()}
    return np.array(tree) if isinstance(tree, np.ndarray) else tree
