"""Parts as Ray actors: placed, started, asked and waited for.

Ray itself comes from `runtime.ray.load`; nothing is loaded before a transport is made.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recollect.envs import calls
from recollect.messages import Pending, Shared, exchanged
from recollect.program import Part
from recollect.run import watchdog
from recollect.runtime import ray as opening
from recollect.runtime.answers import Answer
from recollect.runtime.hosting import QUICK, Setting
from recollect.runtime.placing import Demand, Node, check_room
from recollect.runtime.ray import Cluster
from recollect.types import ConfigError

PLACE_SECONDS = 30.0
"""For a cluster to make room for all parts at once."""
REACHED_SECONDS = 5.0
"""For how long it is taken for known which machines can be reached."""
PRINTED_BYTES = 16 << 20
"""Of what a part prints, that is kept; more is looked for after each slice."""

MAKE_SECONDS = 60.0
"""That making an environment may take in any case: much is imported for the first, by all parts at
once."""


def forget_prints() -> None:
    """Empty the files to which this process prints, if they are large.

    Ray's own rotation goes by a pipe, in which the last words of a process that dies are lost.
    """
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            about = os.fstat(stream)
            if stat.S_ISREG(about.st_mode) and 512 * about.st_blocks > PRINTED_BYTES:
                os.ftruncate(stream, 0)


class _Handle:
    """A part as others ask it; it may be replaced, by another thread than the one that asks."""

    near = False

    def __init__(self, name: str, actor: Any, asker: tuple[str, int]) -> None:
        self.name, self.asker, self._actor = name, asker, actor
        self.life = 0

    def ask(self, method: str, *arguments: Any) -> Pending:
        # In this order: an answer that is taken for that of an earlier life is asked for again.
        life = self.life
        ref = self._actor.ask.remote(self.asker, method, *arguments)
        return Answer(ref, self.name, self, life)

    def replace(self, actor: Any) -> None:
        """From now on the part is another Ray actor."""
        self._actor = actor
        self.life += 1


class _Actor:
    """A `Host` as a Ray actor.

    What the part's factory raises is raised by the first question: an actor that dies while it is
    made tells nobody why.
    """

    def __init__(self, packed: bytes, held: Mapping[str, Sequence[_Handle]], threads: int) -> None:
        # Before torch is loaded: threads that wait must sleep.
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
        calls.blamed = (*calls.blamed, KeyboardInterrupt)  # nobody interrupts this process
        self._shared: tuple[Any, Any] = (None, None)
        self._error: Exception | None = None
        self._held = held
        try:
            with _staying():
                self._host = _hosted(packed, held)
        except Exception as error:
            self._error = error

    def ask(self, asker: tuple[str, int], method: str, *arguments: Any) -> Any:
        self._check()
        return exchanged(self._host.ask(asker, method, *arguments), Shared, self._share)

    def rewire(self, name: str, actor: Any) -> None:
        """Another part is this Ray actor now."""
        for handle in (handle for handles in self._held.values() for handle in handles):
            if handle.name == name:
                handle.replace(actor)

    def slice(self, *arguments: Any) -> Any:
        self._check()
        try:
            with _staying():
                return self._host.slice(*arguments)
        finally:
            forget_prints()

    def control(self, method: str, *arguments: Any) -> Any:
        self._check()
        with _staying():
            return getattr(self._host, method)(*arguments)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _share(self, answer: Shared) -> Any:
        """Put it into the store, once as long as it is the same."""
        if self._shared[0] is not answer.value:
            self._shared = (answer.value, opening.load().put(answer.value))
        return self._shared[1]


def _hosted(packed: bytes, held: Mapping[str, Sequence[_Handle]]) -> Any:
    """The host of a part; the process ends if making one of its environments hangs."""
    from recollect.runtime.hosting import Host

    part, clients, setting = opening.unpacked(packed)
    address = opening.load().util.get_node_ip_address()
    own = address.startswith("127.")  # of a cluster of our own
    # Nobody else can tell: what a part is asked, it answers once it is made.
    deadline = max(MAKE_SECONDS, setting.env_deadline)
    with watchdog.Watchdog(calls.current, deadline, lambda _: None, gil=False):
        return Host(part, held, clients, setting, "" if own else address)


@contextlib.contextmanager
def _staying() -> Iterator[None]:
    """What a part runs does not end its process in passing, nor is it taken for a cancelled task.

    Raises:
        RuntimeError: it wanted to.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        kind = type(error).__name__
        raise RuntimeError(f"something that it runs raised {kind} {error}".rstrip()) from error


class RayTransport:
    """Starts parts as Ray actors, all of them placed before, and asks them.

    Each has a place of its own: of several in one group, none would find another place as long as
    there is not room for all that were lost with a machine.

    Args:
        cluster: this object's own from now on.
        demands: what each part takes, by name, in the program's order.
        settings: where each finds itself, by name.
    Raises:
        ConfigError: the cluster has no room for them.
    """

    def __init__(
        self, cluster: Cluster, demands: Mapping[str, Demand], settings: Mapping[str, Setting]
    ) -> None:
        self.cluster = cluster
        self._demands, self._settings = demands, settings
        self._actors: dict[str, Any] = {}
        self._reached: tuple[float, set[str]] = (-math.inf, set())
        self._groups = _placed(demands, cluster.free())

    def start(self, part: Part, held: Mapping[str, Sequence[Part]], epoch: int) -> None:
        """Begin to make a life of a part, where there is a place for it."""
        ray = opening.load()
        clients, handles = {}, {}
        for argument, parts in held.items():
            if parts[0].far is None:
                raise ValueError(f"{parts[0].name} cannot be held from another process")
            clients[argument] = parts[0].far.client
            asker = (part.name, epoch)
            handles[argument] = [_Handle(p.name, self._actors[p.name], asker) for p in parts]
        setting, demand = self._settings[part.name], self._demands[part.name]
        # A service answers in the order it is asked. A worker takes its turns in one thread and
        # answers in another. Either has one for what must be answered at once.
        groups = {"quick": 1, "turns": 1} if part.role.worker else {"quick": 1}
        made = ray.remote(concurrency_groups=groups)(_Actor)
        if epoch:
            self._leave_lost_machine(part.name)
        place = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            self._groups[part.name]
        )
        self._actors[part.name] = made.options(
            num_cpus=demand.cpus,
            num_gpus=demand.gpus,
            memory=demand.memory or None,
            resources=demand.resources(),
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=place,
        ).remote(opening.packed((part, clients, setting)), handles, setting.threads)

    def ask(self, name: str, method: str, *arguments: Any) -> Pending:
        """Ask a part's host."""
        actor = self._actors[name]
        if method == "slice":
            turns = actor.slice.options(concurrency_group="turns")
            return Answer(turns.remote(*arguments), name, words=self.cluster.last_words)
        control = actor.control
        if method in QUICK:
            control = control.options(concurrency_group="quick")
        return Answer(control.remote(method, *arguments), name, words=self.cluster.last_words)

    def rewire(self, holder: str, name: str) -> None:
        """Let a part know the present life of another one."""
        rewire = self._actors[holder].rewire.options(concurrency_group="quick")
        rewire.remote(name, self._actors[name])

    def kill(self, name: str, pid: int) -> None:
        """End what may be left of a part's present life, also one that is stopped or hangs."""
        with contextlib.suppress(Exception):  # it may be dead already
            opening.load().kill(self._actors[name])
        self.cluster.kill(pid)

    def no_room(self, name: str) -> str:
        """Why there is no place for a part; empty if there is one, or soon will be."""
        group = self._groups[name]
        table = opening.load().util.placement_group_table(group)
        if table["state"] == "CREATED":
            return ""
        try:
            check_room({name: self._demands[name]}, self.cluster.free())
        except ConfigError as error:
            return str(error)
        return ""

    def _leave_lost_machine(self, name: str) -> None:
        """Take another place for a part whose machine cannot be reached, whatever Ray knows."""
        ray, group = opening.load(), self._groups[name]
        now = time.monotonic()
        if now - self._reached[0] > REACHED_SECONDS:
            self._reached = now, self.cluster.reached()
        reached = self._reached[1]
        if {*ray.util.placement_group_table(group)["bundles_to_node_id"].values()} <= reached:
            return
        there = [node for node in self.cluster.free() if node.id in reached]
        with contextlib.suppress(ConfigError):  # no room: Ray waits with the place that there was
            self._groups[name] = _place(
                self._demands[name], check_room({name: self._demands[name]}, there)[name]
            )
            ray.util.remove_placement_group(group)

    def lost(self) -> str:
        """Which process of Ray itself has died, without which nothing goes on; empty if none."""
        return self.cluster.lost()

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        """Wait for one of these."""
        refs = [answer.ref for answer in answers if isinstance(answer, Answer)]
        opening.load().wait(refs, timeout=seconds, fetch_local=True)

    def close(self) -> None:
        """End all parts, give their places back, and the cluster if it is our own."""
        ray = opening.load()
        if not self.lost():  # else it would be waited for
            with contextlib.suppress(Exception):  # what is gone has nothing to end
                for actor in self._actors.values():
                    ray.kill(actor)
                for group in self._groups.values():
                    ray.util.remove_placement_group(group)
        self._actors = {}
        self.cluster.close()


def opened(
    demands: Mapping[str, Demand],
    settings: Mapping[str, Setting],
    address: str,
    store_bytes: int,
) -> RayTransport:
    """A transport on a cluster: the one at `address`, or where that is empty one of our own.

    On this machine everything has room: more parts than processors share them.

    Raises:
        ConfigError: the cluster cannot be joined, or has no room.
    """
    if address:
        cluster = Cluster.join(address)
    else:
        cpus = 1 + int(sum(demand.cpus for demand in demands.values()))
        cluster = Cluster.local(cpus=cpus, object_store_bytes=store_bytes)
    try:
        return RayTransport(cluster, demands, settings)
    except BaseException:
        cluster.close()
        raise


def _placed(demands: Mapping[str, Demand], nodes: Sequence[Node]) -> dict[str, Any]:
    """A place for each, over as many nodes as can be.

    Raises:
        ConfigError: there are none, now or for `PLACE_SECONDS`.
    """
    where = check_room(demands, nodes)
    groups = {name: _place(demand, where[name]) for name, demand in demands.items()}
    end = time.monotonic() + PLACE_SECONDS
    if all(group.wait(max(0.0, end - time.monotonic())) for group in groups.values()):
        return groups
    for group in groups.values():
        opening.load().util.remove_placement_group(group)
    raise ConfigError(
        f"the cluster did not make room for {len(groups)} parts within {PLACE_SECONDS:g} s, "
        "though there seemed to be some: others use it too, look with `ray status`"
    )


def _place(demand: Demand, node: Node) -> Any:
    """A place for one part there, or elsewhere if others were quicker."""
    util = opening.load().util
    bundles, target = [demand.bundle()], node.id
    return util.placement_group(bundles, strategy="STRICT_PACK", _soft_target_node_id=target)
