"""The lives of a program's parts: who has died, and how the dead come back while others go on.

A death is known by an answer that says so, or by a `pulse` that does not come. What is left of the
part is ended, what its life still sends is refused (fenced), and another life of it begins, with an
epoch of its own, which only the driver gives. How it comes back is its role's:

- `anew`, an actor: what its life had added to the run is what shards acknowledge to have of it;
- from a `copy` of its state, a learner or an evaluator: taken each minute, and kept here;
- from its `journal`, a shard of replay, on top of the last checkpoint;
- `told`, the parameter service: the learner publishes again.

All of this happens in the driver's one thread. A recovery is a generator that yields the answers
it waits for, so nothing else stands still for it.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from recollect.envs.failures import LIMIT, WINDOW, Recent
from recollect.messages import DEADLINE, PartLostError, PartSilentError, Pending
from recollect.program import Part, Program
from recollect.runtime import pieces
from recollect.runtime.hosting import BusyError
from recollect.runtime.journals import Journals
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
GAP_SECONDS = 1.0
"""Of a time in which the driver itself stood still, what counts as silence of the parts."""
ENVIRONMENTS = ("actor", "evaluator")
"""Kinds of parts that have some."""
COPY_SECONDS = 60.0
"""Between two copies of a part's own state."""

Steps = Generator[Pending | None, Any, None]
"""A recovery: it yields an answer it waits for, or None to go on later."""


class Transport(Protocol):
    """Starts parts elsewhere and asks their hosts."""

    def start(self, part: Part, held: Mapping[str, Sequence[Part]], epoch: int) -> None:
        """Begin to make a life of a part, which holds others that were started before."""

    def ask(self, name: str, method: str, *arguments: Any) -> Pending:
        """Ask the `Host` of a part's present life.

        Of a worker one thread answers `slice`, and of any part one what is `QUICK`.
        """

    def rewire(self, holder: str, name: str) -> None:
        """Let a part know the present life of another one that it holds."""

    def no_room(self, name: str) -> str:
        """Why no machine has room for a part that was started; empty if one has."""

    def kill(self, name: str, pid: int) -> None:
        """End what may be left of a part's present life; its process, if that is known."""

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        """Return when one of these has come, or after so many seconds."""

    def lost(self) -> str:
        """Why no part can be reached or started any more; empty if they can."""

    def close(self) -> None:
        """End all parts."""


@dataclass
class Death:
    """A part that died and came back: what was lost with it, and for how long it was away.

    `epoch` is that of the life that ended, `pid` its process. `lost_steps` were taken, as far as
    had been heard, and did not arrive in replay; `undone_updates` went with a learner, and the
    `undone_steps` it learned from in them, or was about to, are owed again; of `replayed` calls a
    shard's journal had record, -1 if it could not be used. `env_failures` of environments ended it.
    """

    part: str
    kind: str
    epoch: int
    pid: int
    why: str
    down_seconds: float = 0.0
    lost_steps: int = 0
    undone_updates: int = 0
    undone_steps: int = 0
    replayed: int = 0
    env_failures: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"down_seconds": round(self.down_seconds, 3)}


@dataclass
class _Known:
    """What is known of a part."""

    part: Part
    epoch: int
    who: Mapping[str, Any] = field(default_factory=dict)
    heard: float = 0.0
    dead: str = ""
    """Why; empty while it lives."""
    no_room: str = ""
    """Why its next life has no place."""
    began_with: int = 0
    """Environment steps of its earlier lives."""
    deaths: Recent = field(default_factory=Recent)
    open: list[tuple[float, Death]] = field(default_factory=list)
    """Deaths since it lived last, and when they were noticed."""
    steps: Steps | None = None
    """Its recovery."""
    waits: Pending | None = None
    silent: float = 0.0
    """For so long there is no answer to `waits`, or to `question`."""
    looked_at: float = 0.0
    """When it was last looked whether there is room."""
    question: Pending | None = None
    asked_at: float = 0.0
    copying: Pending | None = None
    copied_at: float = -1e9
    copy: Any = None


class _TooOftenError(PartLostError):
    """A part died more often than is borne: the run ends."""


class _Read:
    """What a thread reads, as an answer to come."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def ready(self) -> bool:
        return self._future.done()

    def result(self, seconds: float = DEADLINE) -> Any:
        return self._future.result(seconds)


class _Asked:
    """What a part that lives was asked for a recovery: lost, as soon as another life of it begins.

    One that is cut off never answers.
    """

    def __init__(self, answer: Pending, known: _Known) -> None:
        self.answer, self.known, self.epoch = answer, known, known.epoch

    def ready(self) -> bool:
        return self.known.epoch != self.epoch or self.answer.ready()

    def result(self, seconds: float = DEADLINE) -> Any:
        if self.known.epoch != self.epoch:
            raise PartLostError("it was replaced", self.known.part.name)
        return self.answer.result(seconds)


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
        self._counts, self._told, self._saved = counts, back, saved
        self._known = {p.name: _Known(p, epochs.get(p.name, 0)) for p in program.parts}
        self._readers = ThreadPoolExecutor(1, "read")
        self.journals = Journals(journal)
        self.deaths: deque[Death] = deque(maxlen=1000)
        """Of those who came back, until somebody takes them."""
        self.died = self.came_back = self.lost_steps = 0
        now = time.monotonic()
        self._tended = self._looked = now
        self._failed = Recent()
        # Steps by shard, sender and its epoch: at the last snapshot; at the last that is on disk;
        # and what a shard that came back without its journal does not know of any more.
        self._arriving: dict[str, dict[tuple[str, int], int]] = {}
        self._arrived: dict[str, dict[tuple[str, int], int]] = {}
        self._forgotten: dict[tuple[str, str, int], int] = {}
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

    def away(self, name: str) -> bool:
        """Whether a part has no room anywhere, and others go on without it."""
        known = self._known[name]
        return bool(known.no_room) and known.part.role.comes_back == "anew"

    def waited_for(self) -> list[Pending]:
        """Answers of parts that recoveries wait for."""
        waits = [known.waits for known in self._known.values() if known.waits is not None]
        answers = [each.answer if isinstance(each, _Asked) else each for each in waits]
        return [each for each in answers if not isinstance(each, _Read)]

    def why_dead(self, name: str) -> str:
        """Why a part is dead, empty if it lives."""
        known = self._known[name]
        return f"{known.no_room}; it had died: {known.dead}" if known.no_room else known.dead

    def gone_for_good(self, name: str) -> bool:
        """Whether a part is dead and will not come back."""
        known = self._known[name]
        return bool(known.dead) and known.steps is None

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

    def arrived(self, shard: str, senders: Mapping[str, tuple[int, int]]) -> None:
        """Epoch and steps so far of all who sent to a shard, as a snapshot was taken."""
        self._arriving[shard] = {(name, e): steps for name, (e, steps) in senders.items()}

    def saved(self) -> None:
        """The last snapshot is on disk: those who come back do so from it."""
        self._arrived = dict(self._arriving)
        self.journals.saved()

    def began(self, name: str, env_steps: int) -> None:
        """With how many steps of earlier lives a part's present life began."""
        self._known[name].began_with = env_steps

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
        known.dead = str(error)
        often = known.deaths.add(now)
        if known.steps is not None:
            known.steps.close()
        known.steps = known.waits = known.question = known.copying = None
        if often:
            advice = ""
            if known.part.kind in ENVIRONMENTS:
                advice = ": an environment may be what ends it, give them processes of their own "
                advice += "with env_processes"
            raise _TooOftenError(
                f"{called}: {error}; that is its death number {often} within "
                f"{WINDOW / 60:g} minutes, and {LIMIT} are borne{advice}",
                name,
            ) from error
        known.epoch += 1
        known.silent, known.who, known.no_room = 0.0, {}, ""
        known.steps = self._comes_back(known, pid)

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

    def _feel(self, known: _Known, now: float, gap: float) -> None:
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
            known.heard = now
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

    def _copy(self, known: _Known, now: float) -> None:
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

    def _advance(self, known: _Known, gap: float) -> None:
        """Move a recovery on as far as it goes."""
        epoch = known.epoch
        while known.steps is not None and known.epoch == epoch:
            if known.waits is not None and not known.waits.ready():
                known.silent += gap * (
                    not isinstance(known.waits, _Read)
                )  # that is not its silence
                self._look_for_room(known)
                if known.silent > START_SECONDS:
                    why, late = f"it was not there after {START_SECONDS:g} s", known
                    if isinstance(known.waits, _Asked):
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

    def _look_for_room(self, known: _Known) -> None:
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

    def _comes_back(self, known: _Known, pid: int) -> Steps:
        """A new life of a part, from the end of the old one to where others may ask it."""
        part, name, epoch = known.part, known.part.name, known.epoch
        held = {a: [self._known[n].part for n in names] for a, names in part.held.items()}
        asked = [n for names in part.held.values() for n in names]
        shards = [n for n in asked if self._known[n].part.role.comes_back == "journal"]
        self._transport.kill(name, pid)
        for other in asked:
            yield from self._surely(other, "fence", name, epoch)
        death = known.open[-1][1]
        counts = dict(self._counts(name))
        if part.role.comes_back == "anew":
            arrived = known.began_with
            for shard in shards:
                arrived += yield from self._surely(shard, "serve", "steps_from", name, epoch - 1)
                arrived += self._forgotten.pop((shard, name, epoch - 1), 0)
            known.began_with = arrived
            if len(known.open) == 1:  # one that died while it came back had taken none
                death.lost_steps = max(0, counts.get("env_steps", 0) - arrived)
                self.lost_steps += death.lost_steps
            counts["env_steps"] = arrived
            if failed := sum(death.env_failures for _, death in known.open):
                counts["env_failures"] = counts.get("env_failures", 0) + failed
        while any(self._known[other].dead for other in asked):
            yield None  # it would hold a life that has nothing yet, and forgets what it is told
        self._transport.start(part, held, epoch)
        known.who = yield self._transport.ask(name, "who")
        role = part.role.comes_back
        if role == "anew":
            yield self._transport.ask(name, "begin_epoch", epoch)
            yield self._transport.ask(name, "own", "go_on_from", counts)
        elif role == "copy":
            if known.copy is not None:
                yield self._transport.ask(name, "load", known.copy)
            yield self._transport.ask(name, "begin_epoch", epoch)
            before = counts
            counts = yield self._transport.ask(name, "own", "counts")
            death.undone_updates = max(0, before.get("updates", 0) - counts.get("updates", 0))
            if shards:
                yield self._transport.ask(name, "own", "publish")
                death.undone_steps = yield from self._owe_again(shards, counts)
        elif role == "journal":
            death.replayed = yield from self._from_journal(name)
        for holder in self._holders(name):
            if holder.epoch:
                yield self._transport.ask(name, "fence", holder.part.name, holder.epoch)
        for holder in self._holders(name):
            self._transport.rewire(holder.part.name, name)
        self._back(known, counts)
        if role == "told":
            for learner in [k.part.name for k in self._known.values() if k.part.kind == "learner"]:
                yield from self._surely(learner, "own", "publish")

    def _back(self, known: _Known, counts: dict[str, int]) -> None:
        """It lives, and others may ask it."""
        now = known.heard = known.asked_at = time.monotonic()
        known.dead = ""
        for noticed, death in known.open:
            death.down_seconds = now - noticed
            self.deaths.append(death)
            self.came_back += 1
        known.open = []
        self._told(known.part.name, counts)

    def _owe_again(
        self, shards: Sequence[str], counts: Mapping[str, int]
    ) -> Generator[Any, Any, int]:
        """What was learned and went with a learner's life is not learned; how many steps."""
        undone = -counts.get("learned_steps", 0)
        for shard in shards:
            standing = yield from self._surely(shard, "serve", "look")
            undone += standing.totals.learned
        left = undone = max(0, undone)
        for shard in shards:
            left -= yield from self._surely(shard, "serve", "unlearned", left)
        return undone - left

    def _from_journal(self, name: str) -> Generator[Any, Any, int]:
        """Put a shard's state back; calls that were in its journal, -1 if that cannot be used."""
        state = yield _Read(self._readers.submit(self._saved))
        tree = None if state is None else state["parts"][name]
        yield from self._put(name, tree)
        complete, calls = False, -1
        if self.journals.folder:
            page, folder = self.journals.page_of(state, name), self.journals.of(name)
            how = (folder, page, self.journals.anew(name))
            try:
                complete, calls = yield self._transport.ask(name, "recover", *how)
            except RuntimeError as error:
                if isinstance(error, PartLostError):
                    raise
                yield from self._put(name, tree)  # the journal is of another state, and is removed
                complete, calls = yield self._transport.ask(name, "recover", *how)
        else:
            yield self._transport.ask(name, "serve", "abandon")
        if complete:
            return int(calls)
        self.journals.begin_anew(state, name)
        yield self._transport.ask(name, "serve", "restart_surplus")
        for other in self._known.values():
            # One that is dead restarts its own, or goes on from where it was.
            if other.part.role.comes_back == "journal" and not other.dead:
                yield from self._surely(other.part.name, "serve", "restart_surplus")
        for life, steps in self._arrived.pop(name, {}).items():
            self._forgotten[name, *life] = self._forgotten.get((name, *life), 0) + steps
        return -1

    def _put(self, name: str, tree: Any) -> Generator[Any, Any, None]:
        """Put a state where a part is; None: it begins with nothing."""
        if tree is not None:
            for piece in pieces.sent_ahead(tree):
                yield self._transport.ask(name, "give", *piece)
            yield self._transport.ask(name, "load", pieces.without_buffers(tree))

    def _holders(self, name: str) -> list[_Known]:
        """Who holds a part."""
        return [
            known
            for known in self._known.values()
            if any(name in names for names in known.part.held.values())
        ]

    def _surely(self, name: str, method: str, *arguments: Any) -> Generator[Any, Any, Any]:
        """Ask another part, which may die meanwhile, until a life of it answers."""
        known = self._known[name]
        while True:
            if known.dead:
                yield None
                continue
            epoch = known.epoch
            try:
                return (yield _Asked(self._transport.ask(name, method, *arguments), known))
            except BusyError:
                yield None
            except PartLostError as error:
                self.lost(name, error, epoch)

    def close(self) -> None:
        """End what reads."""
        self._readers.shutdown(wait=False, cancel_futures=True)


def _hang(doing: tuple[float, str], env_deadline: float) -> str:
    return (
        f"{doing[1]} has not returned for {doing[0]:.0f} s, env_deadline is {env_deadline:g}: mend "
        "the environment, or give it processes of its own with env_processes, where a hang costs "
        "no more than episodes"
    )


def _own(tree: Any) -> Any:
    """A state with arrays of our own: those that came lie in memory that others share."""
    if isinstance(tree, Mapping):
        return {key: _own(x) for key, x in tree.items()}
    return np.array(tree) if isinstance(tree, np.ndarray) else tree
