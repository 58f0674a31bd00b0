"""Parts that are asked from elsewhere, without Ray: late on demand, or each in threads of its own.

`World` is for one thread: what happens next, of all that is on its way, is chosen, so that a test
decides about every delay, and the same choices give the same run. `Threads` is a transport of
`Remote` in which every part has its threads, as it has on Ray.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recollect.messages import DEADLINE, PartLostError, PartSilentError, Pending, unshared
from recollect.program import Part
from recollect.replay.memory import aligned_copy
from recollect.runtime.hosting import QUICK, Host, Setting


def sent(value: Any) -> Any:
    """`value` as it arrives: arrays are others, and read-only."""
    if isinstance(value, np.ndarray):
        whole = value.dtype == np.uint8 and value.ndim == 1
        copy = aligned_copy(value) if whole else np.array(value)
        copy.setflags(write=False)
        return copy
    if isinstance(value, tuple):
        several = [sent(each) for each in value]
        return type(value)(*several) if hasattr(value, "_fields") else tuple(several)
    if type(value) is list:
        return [sent(each) for each in value]
    return value


# --- One thread: every delay is chosen ------------------------------------------------------------


class World:
    """Messages on their way.

    A question first arrives, and the part answers it out of the asker's sight; then the answer
    comes. Those of one asker to one part arrive in order, answers come in any.

    Args:
        choose: which of n things happens next, in [0, n); the first is the oldest.
    Attributes:
        waited: how often somebody had to wait for an answer.
        asked: how often each method was asked.
        parts: by name.
        lives: how often each was replaced.
    """

    def __init__(self, choose: Callable[[int], int] = lambda n: 0) -> None:
        self.choose = choose
        self.waited = 0
        self.asked: Counter[str] = Counter()
        self.parts: dict[str, Any] = {}
        self.lives: Counter[str] = Counter()
        self._lost: set[str] = set()
        self._silent: set[str] = set()
        self._asked: dict[tuple[tuple[str, int], str], deque[Call]] = {}
        self._answered: list[Call] = []

    def handle(self, name: str, part: Any, asker: str = "", epoch: int = 0) -> Asks:
        """A part, as one asker has it."""
        self.parts.setdefault(name, part)
        return Asks(self, name, (asker, epoch))

    def lose(self, name: str) -> None:
        """The part dies: what was not answered never will be."""
        self._lost.add(name)
        for (_, asked), calls in self._asked.items():
            if asked == name:
                self._answered += calls
                calls.clear()

    def revive(self, name: str, part: Any) -> None:
        """Another part takes the place of this one; what was asked before is lost to the asker.

        What has not arrived never will; what has was done, though nobody hears of it.
        """
        self.lose(name)
        self._lost.discard(name)
        self._silent.discard(name)
        self.parts[name] = part
        self.lives[name] += 1

    def silence(self, name: str) -> None:
        """The part does not answer any more."""
        self._silent.add(name)

    def move(self) -> bool:
        """Let one thing happen; False if there is none."""
        ready = [
            calls
            for (_, name), calls in self._asked.items()
            if calls and name not in self._silent | self._lost
        ]
        moves = len(self._answered) + len(ready)
        if not moves:
            return False
        chosen = self.choose(moves)
        if chosen < len(self._answered):
            self._answered.pop(chosen).here = True
        else:
            call = ready[chosen - len(self._answered)].popleft()
            call.arrive()
            self._answered.append(call)
        return True

    def run(self) -> None:
        """Let everything happen that can."""
        while self.move():
            pass

    def ask(self, call: Call, asker: tuple[str, int], name: str) -> None:
        if name in self._lost:
            self._answered.append(call)
        else:
            self._asked.setdefault((asker, name), deque()).append(call)


@dataclass(eq=False)
class Call:
    """One question, and its answer when it is `here`."""

    world: World
    name: str
    method: str
    arguments: tuple[Any, ...]
    here: bool = False
    value: Any = None
    error: Exception = field(default_factory=lambda: PartLostError("it died"))
    arrived: bool = False

    def __post_init__(self) -> None:
        self.life = self.world.lives[self.name]

    def arrive(self) -> None:
        self.arrived = True
        try:
            part = self.world.parts[self.name]
            self.value = sent(unshared(getattr(part, self.method)(*sent(self.arguments))))
        except Exception as error:
            self.arrived, self.error = False, error

    @property
    def past(self) -> bool:
        """Whether it was asked of an earlier life."""
        return self.life < self.world.lives[self.name]

    def ready(self) -> bool:
        return self.here or self.past

    def result(self, seconds: float = DEADLINE) -> Any:
        self.world.waited += not self.here
        while not self.here and not self.past:
            if not self.world.move():
                raise PartSilentError(f"no answer to {self.method}")
        if self.past:
            raise PartLostError("it was replaced", self.name)
        if not self.arrived:
            raise self.error
        return self.value


class Asks:
    """A handle in a `World`."""

    near = False

    def __init__(self, world: World, name: str, asker: tuple[str, int]) -> None:
        self.name, self.asker, self._world = name, asker, world

    @property
    def life(self) -> int:
        return self._world.lives[self.name]

    def ask(self, method: str, *arguments: Any) -> Pending:
        self._world.asked[method] += 1
        call = Call(self._world, self.name, method, sent(arguments))
        self._world.ask(call, self.asker, self.name)
        return call


# --- Threads of this process ----------------------------------------------------------------------


class _Answer:
    """A `Pending` that a thread works on; `future` is ours to set when the part is lost."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()

    def ready(self) -> bool:
        return self.future.done()

    def result(self, seconds: float = DEADLINE) -> Any:
        if not wait([self.future], seconds).done:
            raise PartSilentError("it did not answer in time")
        return self.future.result()


class Threads:
    """A transport: each life of a part has a `Host` in this process and a thread, a worker two.

    Attributes:
        hosts: by name, once they are made.
        asked: how often each method of a host was asked, as (part, method).
        killed: those that the driver wanted ended, in order.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.closed = False
        self.begun: Counter[str] = Counter()  # lives, by name
        self.killed: list[str] = []
        self._pools: dict[tuple[str, bool], ThreadPoolExecutor] = {}
        self._made: dict[str, _Answer] = {}
        self._open: dict[str, set[_Answer]] = {}
        self._handles: dict[str, list[_Handle]] = {}  # by holder
        self._lost: set[str] = set()
        self._lock = threading.Lock()

    def start(self, part: Part, held: Mapping[str, Sequence[Part]], epoch: int) -> None:
        asker = (part.name, epoch)
        handles = {a: [_Handle(self, p.name, asker) for p in parts] for a, parts in held.items()}
        clients = {a: parts[0].far.client for a, parts in held.items() if parts[0].far}
        setting = Setting(os.getcwd(), (), 1, 0)
        with self._lock:
            self._lost.discard(part.name)
            self.begun[part.name] += 1
            self._open[part.name] = set()
            for turns in (False, True)[: 1 + part.role.worker]:
                self._pools[part.name, turns] = ThreadPoolExecutor(1)
        self._handles[part.name] = [handle for each in handles.values() for handle in each]

        def make() -> None:
            self.hosts[part.name] = Host(part, handles, clients, setting)

        self._made[part.name] = self.submit(part.name, make)

    def submit(
        self, name: str, call: Callable[[], Any], turns: bool = False, life: int | None = None
    ) -> _Answer:
        """Have one of the part's threads call this; None: of its present life."""
        answer = _Answer()
        with self._lock:
            if name in self._lost or life not in (None, self.begun[name]):
                answer.future.set_exception(PartLostError("it died"))
                return answer
            opened, pool = self._open[name], self._pools[name, turns]
            opened.add(answer)

        def work() -> None:
            if answer.future.done():
                return  # who died does nothing more
            found, error = None, None
            try:
                found = sent(call())
            except Exception as raised:
                error = raised
            with self._lock:
                opened.discard(answer)
                if answer.future.done():
                    return
                if error is not None:
                    answer.future.set_exception(error)
                else:
                    answer.future.set_result(found)

        with contextlib.suppress(RuntimeError):  # it was killed just now, and the answer says so
            pool.submit(work)
        return answer

    def host(self, name: str) -> Host:
        """Of a part; raises what its factory raised."""
        self._made[name].result()
        return self.hosts[name]

    def ask(self, name: str, method: str, *arguments: Any) -> Pending:
        self.asked[name, method] += 1
        given = sent(arguments)
        if method in QUICK and self._made[name].ready() and name not in self._lost:
            answer = _Answer()
            answer.future.set_result(getattr(self.host(name), method)(*given))
            return answer
        return self.submit(
            name, lambda: getattr(self.host(name), method)(*given), method == "slice"
        )

    def rewire(self, holder: str, name: str) -> None:
        for handle in self._handles[holder]:
            if handle.name == name:
                handle.begun = self.begun[name]
                handle.life += 1

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        futures = [answer.future for answer in answers if isinstance(answer, _Answer)]
        wait(futures, seconds, return_when="FIRST_COMPLETED")

    def lose(self, name: str) -> None:
        """The part dies: what was not answered never will be."""
        with self._lock:
            self._lost.add(name)
            for answer in self._open[name]:
                answer.future.set_exception(PartLostError("it died"))
            self._open[name].clear()

    def kill(self, name: str, pid: int) -> None:
        self.killed.append(name)
        self.lose(name)
        if (name, True) not in self._pools:  # a service ends what it is at, a worker may hang
            self._pools[name, False].shutdown()

    def lost(self) -> str:
        return ""

    def close(self) -> None:
        self.closed = True
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


class _Handle:
    """A part of `Threads` as others ask it."""

    near = False

    def __init__(self, transport: Threads, name: str, asker: tuple[str, int]) -> None:
        self.name, self.asker, self._transport = name, asker, transport
        self.begun, self.life = transport.begun[name], 0

    def ask(self, method: str, *arguments: Any) -> Pending:
        given, transport = sent(arguments), self._transport
        return transport.submit(
            self.name,
            lambda: unshared(transport.host(self.name).ask(self.asker, method, *given)),
            life=self.begun,
        )


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.001)
