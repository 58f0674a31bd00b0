"""How a part that died comes back: from the end of one life to where others may ask the next.

By its role:

- `anew`, an actor: what its life had added to the run is what shards acknowledge to have of it;
- from a `copy` of its state, a learner or an evaluator: taken each minute, and kept here;
- from its `journal`, a shard of replay, on top of the last checkpoint;
- `told`, the parameter service: the learner publishes again.

A recovery is a generator that yields the answers it waits for, so nothing else stands still for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from recollect.messages import PartLostError
from recollect.runtime import pieces
from recollect.runtime.hosting import BusyError
from recollect.runtime.journals import Journals
from recollect.runtime.life import Asked, Known, Read, Recovery, Transport

SNAPSHOTS = 8
"""Of so many it is known what had arrived: a checkpoint that is read is one of the newest."""

Steps = dict[tuple[str, int], int]
"""By sender and epoch."""


class Recoveries:
    """Brings parts back.

    Args:
        known: what is known of every part, by name.
        transport, counts, saved: see `lives.Lives`.
        journals: of what shards write down.
        lost: told of a part's life that has ended, when a recovery finds that.
        back: told of a part that lives again, and of its counts if it is a worker.
    """

    def __init__(
        self,
        known: Mapping[str, Known],
        transport: Transport,
        counts: Callable[[str], Mapping[str, int]],
        saved: Callable[[], Mapping[str, Any] | None],
        journals: Journals,
        lost: Callable[[str, Exception, int], None],
        back: Callable[[Known, dict[str, int]], None],
    ) -> None:
        self._known, self._transport, self._counts = known, transport, counts
        self._saved, self._lost, self._back = saved, lost, back
        self._readers = ThreadPoolExecutor(1, "read")
        self.journals = journals
        self.lost_steps = 0
        """Taken by actors that died, as far as had been heard, and not arrived in replay."""
        # Steps by shard, sender and its epoch: in the snapshot that is being taken; in the last
        # ones, by number; and what a shard that came back without its journal has and does not
        # know of any more.
        self._arriving: dict[str, Steps] = {}
        self._arrived: dict[int, dict[str, Steps]] = {}
        self._forgotten: dict[str, Steps] = {}

    def arrived(self, shard: str, senders: Mapping[str, tuple[int, int]]) -> None:
        """Epoch and steps so far of all who sent to a shard, as a snapshot is taken."""
        found = dict(self._forgotten.get(shard, {}))
        for name, (epoch, steps) in senders.items():
            found[name, epoch] = found.get((name, epoch), 0) + steps
        self._arriving[shard] = found

    def snapshot(self) -> dict[str, Any]:
        """What the snapshot that was taken says of journals."""
        state = self.journals.state_dict()
        self._arrived[state["snapshot"]] = dict(self._arriving)
        self._arrived.pop(state["snapshot"] - SNAPSHOTS, None)
        return state

    def began(self, name: str, env_steps: int) -> None:
        """With how many steps of earlier lives a part's present life began."""
        self._known[name].began_with = env_steps

    def steps(self, known: Known, pid: int) -> Recovery:
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
                arrived += self._forgotten.get(shard, {}).pop((name, epoch - 1), 0)
            known.began_with = arrived
            if len(known.open) == 1:  # one that died while it came back had taken none
                death.lost_steps = max(0, counts.get("env_steps", 0) - arrived)
                self.lost_steps += death.lost_steps
            counts["env_steps"] = arrived
            if failed := sum(death.env_failures for _, death in known.open):
                counts["env_failures"] = counts.get("env_failures", 0) + failed
        known.counted = True
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
                death.undone_steps = yield from self._owe_again(shards, counts, epoch)
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

    def _owe_again(
        self, shards: Sequence[str], counts: Mapping[str, int], epoch: int
    ) -> Generator[Any, Any, int]:
        """What was learned and is not known to its life `epoch` is not learned; how many steps."""
        undone = -counts.get("learned_steps", 0)
        for shard in shards:
            standing = yield from self._surely(shard, "serve", "look")
            undone += standing.totals.learned
        left = undone = max(0, undone)
        for shard in shards:
            left -= yield from self._surely(shard, "serve", "unlearned", left, epoch)
        return undone - left

    def _from_journal(self, name: str) -> Generator[Any, Any, int]:
        """Put a shard's state back; calls that were in its journal, -1 if that cannot be used."""
        state = yield Read(self._readers.submit(self._saved))
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
        arrived = self._arrived.get(self.journals.snapshot_of(state) or 0, {}).get(name, {})
        self._forgotten[name] = {  # of those who have not been asked for since they died
            (sender, e): steps
            for (sender, e), steps in arrived.items()
            if e >= self._known[sender].epoch - 1
        }
        return -1

    def _put(self, name: str, tree: Any) -> Generator[Any, Any, None]:
        """Put a state where a part is; None: it begins with nothing."""
        if tree is not None:
            for piece in pieces.sent_ahead(tree):
                yield self._transport.ask(name, "give", *piece)
            yield self._transport.ask(name, "load", pieces.without_buffers(tree))

    def _holders(self, name: str) -> list[Known]:
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
                return (yield Asked(self._transport.ask(name, method, *arguments), known))
            except BusyError:
                yield None
            except PartLostError as error:
                self._lost(name, error, epoch)

    def close(self) -> None:
        """End what reads."""
        self._readers.shutdown(wait=False, cancel_futures=True)
