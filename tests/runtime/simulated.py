"""A runtime on one clock, in which a seed decides what happens next: D2 of the reliability rows.

`Simulated` is a transport of `Remote`, with real `Host`s. Every question, answer, pause and fault
is an event at a time of its own; what is under way arrives after a time drawn from the seed, the
messages of one asker to one part in order. A part that is asked works in a fibre: a thread that
runs only while everybody else stands still, so that the same seed gives the same run. An honest
transport loses nothing but what goes to or comes from a part that died or was cut off.

`python -m tests.runtime.simulated SEED` shows what happens.
"""

from __future__ import annotations

import heapq
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from recollect.messages import DEADLINE, PartLostError, PartSilentError, Pending, unshared
from recollect.parameters import Version
from recollect.program import Part
from recollect.replay import journal
from recollect.replay.shard import Stamp
from recollect.runtime.hosting import QUICK, Host, Setting
from tests.runtime.faked import sent


class StalledError(AssertionError):
    """Nothing is left that could happen, or the run does not end."""


# --- Fibres ---------------------------------------------------------------------------------------


class _Killed(BaseException):
    """Ends what runs in the process of a part that died."""


class Fibre:
    """A thread that runs while who resumed it waits, until it pauses."""

    idle: list[Fibre] = []  # noqa: RUF012 - of all worlds: a thread is dear

    def __init__(self) -> None:
        self.life: Life
        self.work: Callable[[], object]
        self.over = self.killed = False
        self.number = 0  # of the time that it runs: who wakes it means one of them
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        threading.Thread(target=self._run, daemon=True).start()

    @classmethod
    def of(cls, life: Life, work: Callable[[], object]) -> Fibre:
        fibre = cls.idle.pop() if cls.idle else cls()
        fibre.life, fibre.work, fibre.over, fibre.killed = life, work, False, False
        return fibre

    def _run(self) -> None:
        while True:
            self._go.acquire()
            try:
                if not self.killed:
                    self.work()
            except _Killed:
                pass
            self.over = True
            self._back.release()

    def resume(self) -> None:
        """Let it run until it pauses or ends."""
        self.number += 1
        self._go.release()
        self._back.acquire()
        if self.over:
            self.idle.append(self)

    def pause(self) -> None:
        """To be called by itself."""
        if not self.killed:
            self._back.release()
            self._go.acquire()
        if self.killed:
            raise _Killed


class _Waits:
    """Somebody who waits: a fibre, or None for the driver."""

    def __init__(self, fibre: Fibre | None) -> None:
        self.fibre, self.woken = fibre, False
        self.number = fibre.number if fibre else 0


class _Lock:
    """A lock among fibres."""

    def __init__(self, world: Simulated) -> None:
        self._world, self._held = world, False
        self._queue: list[_Waits] = []

    def acquire(self, timeout: float = -1.0) -> bool:
        end = self._world.now + (timeout if timeout >= 0 else 1e9)
        while self._held:
            if self._world.now >= end:
                return False
            waits = _Waits(self._world.fibre)
            self._queue.append(waits)
            self._world.pause(waits, end)
            if waits in self._queue:
                self._queue.remove(waits)
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        if self._queue:
            self._world.at(0.0, partial(self._world.wake, self._queue.pop(0)))

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


# --- Parts' processes -----------------------------------------------------------------------------


class Life:
    """A process of a part.

    Attributes:
        machine: where it is; machines can be cut off, those of other lives are others.
        dead, stopped, cut: as they say.
        host: what lives there, once it is made.
        faults: that were done to it.
    """

    def __init__(self, world: Simulated, part: Part, epoch: int, machine: str) -> None:
        self.world, self.part, self.epoch, self.machine = world, part, epoch, machine
        self.name, self.who = part.name, (part.name, epoch)
        self.dead = self.stopped = self.cut = False
        self.whole = epoch == 0  # a shard has its state
        self.last: Answer | None = None  # that it was asked
        self.host: Host | None = None
        self.error: Exception | None = None
        self.handles: list[Handle] = []
        self.faults: list[str] = []
        self.fences: dict[str, int] = {}
        self.asked: list[Answer] = []  # of it, and not answered
        self.fibres: list[Fibre] = []
        self.frozen: list[Callable[[], object]] = []  # what happens once it is no longer stopped
        self.held: list[Callable[[], object]] = []  # what arrives once it is no longer cut off
        self.early: list[Callable[[], object]] = []  # what came before it was made
        self.inbox: deque[tuple[Answer, tuple[Any, ...]]] = deque()
        self.at_work = False
        self.arrived = 0.0  # when what the driver said last arrives

    def __repr__(self) -> str:
        return f"{self.name}.{self.epoch}"

    def alive(self, then: Callable[[], object]) -> bool:
        """Whether it goes on now; else `then` is done when it does, if ever."""
        if self.stopped and not self.dead:
            self.frozen.append(then)
        return not (self.dead or self.stopped)

    def start(self, work: Callable[[], object]) -> None:
        """Begin something that may have to wait."""
        fibre = Fibre.of(self, work)
        self.fibres = [x for x in self.fibres if x.life is self and x is not fibre and not x.over]
        self.fibres.append(fibre)
        self.world.resume(fibre, fibre.number)


class Answer:
    """A `Pending` in a `Simulated` world."""

    def __init__(
        self,
        world: Simulated,
        life: Life,
        handle: Handle | None,
        method: str,
        arguments: tuple[Any, ...],
    ) -> None:
        self.world, self.life, self.handle = world, life, handle
        self.method, self.arguments = method, arguments
        self.asked_life = handle.life if handle else 0
        self.here = False
        self.unsaid = False  # the part died before it could answer
        self.value: Any = None
        self.error: Exception | None = None
        self.waiting: list[_Waits] = []

    @property
    def late(self) -> bool:
        return self.handle is not None and self.handle.life != self.asked_life

    def ready(self) -> bool:
        return self.here or self.late

    def result(self, seconds: float = DEADLINE) -> Any:
        end = self.world.now + seconds
        while not self.ready():
            if self.world.now >= end:
                raise PartSilentError(f"no answer to {self.method} in time", self.life.name)
            # As on Ray: now and then it is looked whether the part was replaced.
            self.world.wait([self], min(end - self.world.now, 0.5))
        if not self.here:
            raise PartLostError("it was replaced", self.life.name)
        if self.error is not None:
            raise self.error
        return self.value

    def come(self, value: Any = None, error: Exception | None = None) -> None:
        """What was asked is answered, unless it was."""
        if self.here:
            return
        self.here, self.value, self.error = True, value, error
        for waits in self.waiting:
            self.world.wake(waits)


class Handle:
    """A part as another one asks it."""

    near = False

    def __init__(self, world: Simulated, holder: Life, target: Life) -> None:
        self._world, self._holder, self.target = world, holder, target
        self.name, self.asker, self.life = target.name, holder.who, 0
        self.last = 0.0  # when what was last asked arrives

    def ask(self, method: str, *arguments: Any) -> Pending:
        return self._world.question(self, self._holder, method, arguments)

    def turn(self, target: Life) -> None:
        self.target = target
        self.life += 1


# --- The world ------------------------------------------------------------------------------------


class Simulated:
    """A transport whose clock and every delay are a seed's.

    Args:
        random: decides.
        folder: below it each machine has one for journals.
        cluster: whether each part has a machine of its own, which can be cut off.
        watch: is told of what happens: see `Facts`.
    Attributes:
        now: seconds.
        events: how many happened.
        log: what happened, as tuples.
        lives: the present life of each part. all_lives: of all.
        before_event: called before each event.
    """

    MOST_EVENTS = 20_000

    def __init__(self, random: Random, folder: Path, cluster: bool, watch: Any) -> None:
        self.random, self.folder, self.cluster, self.watch = random, folder, cluster, watch
        self.now, self.events = 1000.0, 0
        self.log: list[tuple[Any, ...]] = []
        self.lives: dict[str, Life] = {}
        self.all_lives: list[Life] = []
        self.fibre: Fibre | None = None
        self.acting: Life  # who does what it is asked: which of those who never wait
        self.before_event: Callable[[], object] = lambda: None
        self.closed = False
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._number = self._machines = 0

    def say(self, *what: Any) -> None:
        self.log.append((self.events, round(self.now, 6), *what))

    # --- Time ------------------------------------------------------------------------------------

    def at(self, delay: float, what: Callable[[], object]) -> None:
        """Have something happen later."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, what))

    def delay(self) -> float:
        """That something is under way: mostly little, now and then a second."""
        drawn = self.random.random()
        return 0.002 * drawn if drawn < 0.7 else 0.1 * (drawn - 0.7) + (drawn > 0.97) * drawn

    def happen(self) -> None:
        """Let the next thing happen."""
        if not self._heap:
            raise StalledError("nothing is left that could happen")
        self.events += 1
        if self.events > self.MOST_EVENTS:
            raise StalledError(f"the run has not ended after {self.events} events")
        self.before_event()
        time, _, what = heapq.heappop(self._heap)
        self.now = max(self.now, time)
        what()

    def resume(self, fibre: Fibre, number: int) -> None:
        """Let a fibre go on, unless it did so meanwhile."""
        if fibre.over or fibre.number != number:
            return
        if fibre.life.alive(partial(self.resume, fibre, number)):
            self._run(fibre)

    def _run(self, fibre: Fibre) -> None:
        before, self.fibre = self.fibre, fibre
        fibre.resume()
        self.fibre = before

    def wake(self, waits: _Waits) -> None:
        if not waits.woken:
            waits.woken = True
            if waits.fibre is not None:
                self.at(0.0, partial(self.resume, waits.fibre, waits.number))

    def pause(self, waits: _Waits, end: float) -> None:
        """Whoever runs now waits until it is woken, or until a time."""
        self.at(end - self.now, partial(self.wake, waits))
        if waits.fibre is not None:
            waits.fibre.pause()
        else:
            while not waits.woken:
                self.happen()

    def sleep(self, seconds: float) -> None:
        self.pause(_Waits(self.fibre), self.now + seconds)

    def monotonic(self) -> float:
        return self.now

    # --- Questions -------------------------------------------------------------------------------

    def question(
        self, handle: Handle, asker: Life, method: str, arguments: tuple[Any, ...]
    ) -> Answer:
        """One part asks another."""
        answer = Answer(self, handle.target, handle, method, sent(arguments))
        if asker.dead:
            return answer
        handle.target.asked.append(answer)
        handle.last = max(handle.last, self.now + self.delay())
        call = partial(self._arrive, answer, asker, ("ask", asker.who, method, *answer.arguments))
        self.at(handle.last - self.now, call)
        if method == "take" and self.random.random() < 0.05:  # it comes once more
            self.at(handle.last - self.now + self.random.choice([0.0, 0.1, 2.0]), call)
        return answer

    def ask(self, name: str, method: str, *arguments: Any) -> Answer:
        """The driver asks."""
        life = self.lives[name]
        answer = Answer(self, life, None, method, sent(arguments))
        if life.dead:
            self.at(self.delay(), partial(self._lost, answer))
            return answer
        life.asked.append(answer)
        life.arrived = max(life.arrived, self.now + self.delay())
        call = partial(self._arrive, answer, None, (method, *answer.arguments))
        self.at(life.arrived - self.now, call)
        return answer

    def _arrive(self, answer: Answer, asker: Life | None, call: tuple[Any, ...]) -> None:
        life = answer.life
        again = partial(self._arrive, answer, asker, call)
        for end in (life, asker):
            if end is not None and end.cut and not end.dead and asker is not life:
                end.held.append(again)
                return
        if life.dead:
            self.at(self.delay(), partial(self._lost, answer))
        elif life.alive(again):
            if life.host is None and life.error is None:
                life.early.append(again)
            elif life.part.role.worker and call[0] == "slice":
                life.start(partial(self._do, answer, asker, call))
            elif life.part.role.worker and call[0] not in QUICK:
                life.inbox.append((answer, call))
                if not life.at_work:
                    life.start(partial(self._work, life))
            else:
                self._do(answer, asker, call)

    def _work(self, life: Life) -> None:
        """What the thread does that answers a worker's driver."""
        life.at_work = True
        while life.inbox:
            answer, call = life.inbox.popleft()
            self._do(answer, None, call)
        life.at_work = False

    def _do(self, answer: Answer, asker: Life | None, call: tuple[Any, ...]) -> None:
        """A part does what it is asked."""
        life, (method, *arguments) = answer.life, call
        value: Any = None
        error: Exception | None = None
        if method == "fence":
            life.fences[arguments[0]] = arguments[1]
        try:
            if life.host is None:
                raise life.error or AssertionError
            self.acting, life.last = life, answer
            value = sent(unshared(getattr(life.host, method)(*arguments)))
        except Exception as raised:
            error = raised
        self.watch.asked(asker, life, call, value, error)
        self.say(str(asker or "driver"), str(life), *_briefly(call), type(error).__name__)
        self.at(self.delay(), partial(self._answered, answer, asker, value, error))

    def _answered(
        self, answer: Answer, asker: Life | None, value: Any, error: Exception | None
    ) -> None:
        life = answer.life
        if answer.here or answer.unsaid:
            return
        for end in (life, asker):
            if end is not None and end.cut and not end.dead and asker is not life:
                end.held.append(partial(self._answered, answer, asker, value, error))
                return
        life.asked.remove(answer)
        answer.come(value, error)
        self.watch.answered(asker, answer, answer.arguments)

    def _lost(self, answer: Answer) -> None:
        if answer in answer.life.asked:
            answer.life.asked.remove(answer)
        answer.come(error=PartLostError("it died", answer.life.name))

    # --- Lives -----------------------------------------------------------------------------------

    def start(self, part: Part, held: Mapping[str, Sequence[Part]], epoch: int) -> None:
        old = self.lives.get(part.name)
        machine = "here"
        if self.cluster:
            # One that was cut off, or lost with its machine, begins anew elsewhere.
            again = old is not None and not old.cut and "node" not in old.faults
            self._machines += not again
            machine = old.machine if again and old is not None else f"m{self._machines}"
        life = Life(self, part, epoch, machine)
        self.watch.begins(life)
        self.lives[part.name] = life
        self.all_lives.append(life)
        self.say("start", str(life), machine)
        handles = {a: [Handle(self, life, self.lives[p.name]) for p in x] for a, x in held.items()}
        clients = {a: parts[0].far.client for a, parts in held.items() if parts[0].far}
        life.handles = [handle for each in handles.values() for handle in each]

        def make() -> None:
            try:
                life.host = Host(part, handles, clients, Setting("", (), 1, 0), self._address(life))
            except Exception as error:
                life.error = error
            for then in life.early:
                self.at(0.0, then)

        def begin() -> None:
            if life.alive(begin):
                life.start(make)

        life.arrived = self.now + self.random.choice([0.05, 0.3, 1.0])
        self.at(life.arrived - self.now, begin)
        life.arrived += 1e-6

    def _address(self, life: Life) -> str:
        return "" if life.machine == "here" else life.machine

    def rewire(self, holder: str, name: str) -> None:
        asked, target = self.lives[holder], self.lives[name]

        def arrive() -> None:
            if asked.cut and not asked.dead:
                asked.held.append(arrive)
            elif asked.alive(arrive):
                self.say("rewire", str(asked), str(target))
                for handle in asked.handles:
                    if handle.name == name:
                        handle.turn(target)

        asked.arrived = max(asked.arrived, self.now + self.delay())
        self.at(asked.arrived - self.now, arrive)

    def kill(self, name: str, pid: int) -> None:
        """As the driver does: in vain where it is cut off, and late where it is elsewhere."""
        life = self.lives[name]
        self.say("kill", str(life))
        for answer in [x for x in life.asked if x.handle is None]:
            self._lost(answer)
        if life.cut or (life.stopped and self.cluster and self.random.random() < 0.5):
            self.at(self.random.choice([0.1, 1.0, 3.0, 20.0]), partial(self.die, life))
        else:
            self.die(life)

    def die(self, life: Life) -> None:
        """A process ends, and with it what it does and what was asked of it."""
        if life.dead:
            return
        self.say("dies", str(life))
        life.dead, life.stopped = True, False
        self.watch.dies(life)
        for fibre in life.fibres:
            if fibre.life is life and not fibre.over:
                fibre.killed = True
                self._run(fibre)
        for answer in life.asked:
            # Who asked hears of it soon; what was answered already may come before.
            self.at(self.random.choice([0.0, 0.01, 1.0]), partial(self._lost, answer))
        life.fibres, life.frozen = [], []
        self.heal(life)

    def stop(self, life: Life, seconds: float) -> None:
        """A process is stopped for so long."""
        life.stopped = True
        self.say("stops", str(life))
        self.at(seconds, partial(self.go_on, life))

    def go_on(self, life: Life) -> None:
        if life.stopped:
            self.say("goes on", str(life))
            life.stopped = False
            frozen, life.frozen = life.frozen, []
            for then in frozen:
                self.at(0.0, then)

    def cut_off(self, life: Life, seconds: float) -> None:
        """Nothing comes or goes for so long; it arrives afterwards, in order."""
        life.cut = True
        self.say("cut off", str(life))
        self.at(seconds, partial(self.heal, life))

    def heal(self, life: Life) -> None:
        if life.cut:
            self.say("there again", str(life))
        life.cut = False
        held, life.held = life.held, []
        for then in held:
            self.at(0.0, then)

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        known = [answer for answer in answers if isinstance(answer, Answer)]
        if any(answer.ready() for answer in answers):
            self.sleep(0.0)
            return
        waits = _Waits(self.fibre)
        for answer in known:
            answer.waiting.append(waits)
        try:
            self.pause(waits, self.now + seconds)
        finally:
            for answer in known:
                if waits in answer.waiting:
                    answer.waiting.remove(waits)

    def no_room(self, name: str) -> str:
        return ""

    def lost(self) -> str:
        return ""

    def close(self) -> None:
        """End what still runs."""
        self.closed = True
        for life in self.all_lives:
            self.die(life)


def _briefly(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is asked, without arrays."""
    method, *arguments = call[2:] if call[0] == "ask" else call
    first = arguments[0] if arguments else None
    return method, first if isinstance(first, str | Stamp | Version) else None


class _Now:
    """A pool of threads in which what is given is done at once."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        value = work(*arguments)
        return SimpleNamespace(done=lambda: True, result=lambda seconds=0.0: value)

    def shutdown(self, **_: object) -> None:
        pass


QUICKER: Mapping[str, Any] = {
    "runtime.hosting.PAUSE_SECONDS": (0.05, 1.0),
    "runtime.asking.LOOK_SECONDS": 0.25,
    "runtime.asking.DEADLINE": 40.0,
    "runtime.remote.DEADLINE": 40.0,
    "runtime.lives.START_SECONDS": 15.0,
    "runtime.lives.PATIENCE": {"here": 5.0, "elsewhere": 3.0},
    "runtime.lives.COPY_SECONDS": 1.5,
    "replay.asking.ASK_SECONDS": (0.05, 1.0),
}
"""Shorter times than there are: fewer events in which nothing happens."""


@contextmanager
def clocked(world: Simulated) -> Iterator[None]:
    """Inside, the library's time is the world's, and so are the locks of hosts."""

    def folder() -> str:
        path = world.folder / world.acting.machine
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    clock = SimpleNamespace(monotonic=world.monotonic, sleep=world.sleep)
    with ExitStack() as inside:
        for module in ("messages", "parameters", "replay.far", "runtime.hosting"):
            inside.enter_context(patch(f"recollect.{module}.time", clock))
        for module in ("runtime.remote", "runtime.asking", "runtime.lives", "runtime.readings"):
            inside.enter_context(patch(f"recollect.{module}.time", clock))
        locks = SimpleNamespace(Lock=partial(_Lock, world))
        inside.enter_context(patch("recollect.runtime.hosting.threading", locks))
        inside.enter_context(patch("recollect.runtime.hosting._settle", lambda *_: None))
        inside.enter_context(patch("recollect.runtime.hosting._hear_warnings", lambda _: None))
        inside.enter_context(patch("recollect.runtime.recovery.ThreadPoolExecutor", _Now))
        inside.enter_context(patch("recollect.agents.batches.ThreadPoolExecutor", _Now))
        none = SimpleNamespace(state_dict=dict)
        inside.enter_context(patch("recollect.runtime.remote.randomness", none))
        for name, value in QUICKER.items():
            inside.enter_context(patch(f"recollect.{name}", value))
        write = journal._write

        def written(file: int, buffers: Sequence[Any]) -> None:
            write(file, buffers)
            world.watch.written(file, sum(map(len, buffers)))

        inside.enter_context(patch.object(journal, "_write", written))
        inside.enter_context(patch.object(tempfile, "gettempdir", folder))
        yield


if __name__ == "__main__":
    from tests.runtime.simulated_run import show

    show([int(seed) for seed in sys.argv[1:]])
