"""A store of replay as others ask it from other processes: in arrays, and with what it has counted.

One of several stores over which a replay is spread, or the only one. Who asks knows them all: see
`far`. What must neither be lost nor taken twice is stamped; what changes the store is written to a
journal, if one is kept, before it is answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recollect.messages import EarlyError, FencedError
from recollect.replay import wire
from recollect.replay.journal import JOURNAL_BYTES, Journal, Record
from recollect.replay.limiter import Totals
from recollect.replay.store import Replay
from recollect.replay.wire import Drawn, Parcel
from recollect.types import Array


class Standing(NamedTuple):
    """How a shard stands: what it has counted, `mass` to draw from, `items`."""

    totals: Totals = Totals()
    mass: float = 0.0
    items: int = 0


class Stamp(NamedTuple):
    """Which message of whom this is; without a name it is always taken.

    Attributes:
        name: of the part that sends.
        epoch: its life.
        number: 1, 2, 3 ... of the messages of that life to this shard.
        oldest: the first of them that was not answered, and will be sent again; 0: this one.
    """

    name: str = ""
    epoch: int = 0
    number: int = 0
    oldest: int = 0


@dataclass
class _Life:
    """What came of one life of a sender: its last message, and environment steps."""

    number: int = 0
    steps: int = 0


class Shard:
    """Answers for a store."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._lives: dict[tuple[str, int], _Life] = {}
        self._epochs: dict[str, int] = {}  # of the newest life of each sender
        self._unlearned = (0, 0)  # for which life of the learner, and how many steps
        self._journal: Journal | None = None

    def look(self) -> Standing:
        """How it stands."""
        replay = self._replay
        return Standing(replay.totals, replay.mass, len(replay))

    # --- What comes in ---------------------------------------------------------------------------

    def take(self, stamp: Stamp, parcel: Parcel, items: tuple[Array, Array]) -> Standing:
        """Insert blocks and items, unless they were.

        Raises:
            FencedError: of a life that was replaced.
            EarlyError: an earlier message will be sent again, and this one must be after it.
            RuntimeError: an earlier message was left out.
            Exception: as `Replay.insert`.
        """
        if self._wanted(stamp):
            blocks = wire.unpack_blocks(self._replay.spec, parcel)
            self._replay.insert(blocks, wire.unpack_items(items))
            self._note(stamp, int(parcel.header[:, 2].sum()))
            self._write("take", [*stamp], parcel.header, *parcel.data, *items)
        return self.look()

    def drop_episode(self, stamp: Stamp, episode: int) -> None:
        """As `Replay.drop_episode`; raises as `take` does of a stamp."""
        if self._wanted(stamp):
            self._replay.drop_episode(episode)
            self._note(stamp, 0)
            self._write("drop_episode", [*stamp, episode])

    def steps_from(self, name: str, epoch: int) -> int:
        """Environment steps that were taken of this life of a part; 0 if none is known."""
        return self._lives.get((name, epoch), _Life()).steps

    def senders(self) -> dict[str, tuple[int, int]]:
        """Of each sender's newest life, by name: its epoch, and the steps taken of it."""
        return {name: (e, self.steps_from(name, e)) for name, e in self._epochs.items()}

    def _wanted(self, stamp: Stamp) -> bool:
        """Whether a message is the next one; not if it was taken."""
        name, epoch, number, oldest = Stamp(*stamp)
        if not name:
            return True
        newest = self._epochs.get(name, epoch)
        if epoch < newest:
            raise FencedError(f"{name} of epoch {epoch} was replaced: {newest} is here", name)
        life = self._lives.get((name, epoch))
        if life is not None and number <= life.number:
            return False
        oldest = oldest or number
        following = oldest if life is None else life.number + 1
        if oldest > following:
            raise RuntimeError(
                f"message {number} of {name} (epoch {epoch}) came, wanted was {following}: "
                "what was sent in between was answered, and is not here"
            )
        if number > following:
            raise EarlyError(f"message {number} of {name} came before {following}", name)
        return True

    def _note(self, stamp: Stamp, steps: int) -> None:
        """Remember that a message was taken."""
        name, epoch, number = stamp[:3]
        if name:
            life = self._lives.setdefault((name, epoch), _Life())
            life.number = number
            life.steps += steps
            self._epochs[name] = epoch

    # --- What goes out, and what comes back ------------------------------------------------------

    def draw(self, uniforms: Array) -> tuple[Drawn | None, Standing]:
        """What these numbers [n] draw, or None if there is nothing; and how it stands then."""
        if not self._replay.mass > 0:
            return None, self.look()
        draw = self._replay.draw(uniforms)
        self._write("learned", [int(draw.learned.sum())])
        return wire.pack_draw(draw), self.look()

    def update_priorities(self, slots: Array, uids: Array, priorities: Array) -> None:
        """As `Replay.update_priorities`."""
        self._replay.update_priorities(slots, uids, priorities)
        arrays = [np.asarray(x, t) for x, t in ((slots, np.int64), (uids, np.int64))]
        self._write("update_priorities", [], *arrays, np.asarray(priorities, np.float64))

    # --- Where parts died ------------------------------------------------------------------------

    def unlearned(self, steps: int, epoch: int) -> int:
        """As `Limiter.unlearned`: up to `steps` learned are owed again; how many.

        Args:
            epoch: of the learner's life that begins. For each it is done once, however often asked.
        """
        if epoch != self._unlearned[0]:
            self._unlearned = epoch, self._replay.limiter.unlearned(steps)
            self._write("unlearned", [steps, epoch])
        return self._unlearned[1]

    def restart_surplus(self) -> None:
        """As `Limiter.restart_surplus`: what learning is behind is forgotten."""
        self._replay.limiter.restart_surplus()
        self._write("restart_surplus", [])

    def abandon(self) -> None:
        """As `Replay.abandon`: what came after this state is lost, and who sent it unknown."""
        self._replay.abandon()
        self._lives, self._epochs = {}, {}
        self._write("abandon", [])

    # --- The journal -----------------------------------------------------------------------------

    def keep_journal(self, folder: Path | str, most_bytes: int = JOURNAL_BYTES) -> None:
        """Write what changes the store to `folder` from now on, beginning with page 0.

        What was there is removed. If writing fails, or takes more than `most_bytes`, the journal is
        given up until the next page, with a warning.
        """
        self._journal = Journal(Path(folder), most_bytes)
        self._journal.clear()
        self._begin_page(0)

    def turn_page(self, needed: int) -> int:
        """Begin a new page, remove those below `needed`; the state as it is now goes with it.

        Returns:
            The new page's number, which `recover` wants together with that state.
        Raises:
            RuntimeError: no journal is kept.
        """
        if self._journal is None:
            raise RuntimeError("no journal is kept: call keep_journal, or recover, before")
        self._begin_page(self._journal.number + 1)
        self._journal.forget(needed)
        return self._journal.number

    def recover(
        self,
        folder: Path | str,
        page: int,
        most_bytes: int = JOURNAL_BYTES,
        anew: int | None = None,
    ) -> tuple[bool, int]:
        """Become the shard that kept the journal in `folder`, and go on with it.

        The store has the state that went with `page`, already. Where the journal is not all there,
        nothing of it is used but what is held goes on by itself: see `abandon`. The journal begins
        with page `anew` then; None: with `page`.

        Returns:
            Whether the shard is as the other one was, and how many records were used.
        """
        journal = Journal(Path(folder), most_bytes)
        pages, used = journal.sound(page), 0
        try:
            for record in journal.records(pages):
                self._repeat(record)
                used += 1
        except Exception as error:
            # The state was another one. What is held is sound: each record changed all or nothing.
            journal.clear()
            raise RuntimeError(
                f"the journal in {folder} does not fit the state of page {page}, record {used}: "
                f"{error}. It is removed: load the state again and recover without it"
            ) from error
        self._journal = journal
        if pages:
            self._begin_page(pages[-1] + 1)
            return True, used - len(pages)
        journal.clear()
        self._replay.abandon()
        self._lives, self._epochs = {}, {}
        # It stands for the page that is lost: who recovers once more from this state abandons too.
        self._begin_page(page if anew is None else anew, abandoned=True)
        return False, 0

    def _begin_page(self, number: int, abandoned: bool = False) -> None:
        assert self._journal is not None
        lives = [[*who, life.number, life.steps] for who, life in self._lives.items()]
        header = {"does": "page", "lives": lives, "gaps": self._replay.gaps, "abandoned": abandoned}
        self._journal.begin(number, header)

    def _write(self, does: str, values: list[Any], *arrays: Array) -> None:
        if self._journal is not None:
            self._journal.append({"does": does, "values": values}, arrays)

    def _repeat(self, record: Record) -> None:
        """Do what was done; nothing is written, as no journal is kept yet."""
        header, arrays = record
        does = header["does"]
        if does == "page":
            self._open_page(header)
            return
        values = header["values"]
        if does == "take":
            parcel = Parcel(arrays[0], tuple(arrays[1:-2]))
            self.take(Stamp(*values), parcel, (arrays[-2], arrays[-1]))
        elif does == "drop_episode":
            self.drop_episode(Stamp(*values[:-1]), values[-1])
        elif does == "learned":
            self._replay.limiter.learned(*values)
        elif does == "update_priorities":
            self.update_priorities(*arrays)
        elif does == "unlearned":
            self.unlearned(*values)
        elif does == "restart_surplus":
            self.restart_surplus()
        elif does == "abandon":
            self.abandon()
        else:
            raise ValueError(f"{does!r} is not known")

    def _open_page(self, header: dict[str, Any]) -> None:
        """Know of senders, and of what is missing, what was known when the page was begun."""
        if header["abandoned"]:
            self._replay.abandon()
        self._replay.gaps = header["gaps"]
        self._lives, self._epochs = {}, {}
        for name, epoch, number, steps in header["lives"]:
            self._lives[name, epoch] = _Life(number, steps)
            self._epochs[name] = max(epoch, self._epochs.get(name, epoch))
