"""What must hold in a simulated run, whatever happens: rows R1 to R4 and R7.

`Facts` sees all that parts are asked, and knows what nobody in the run knows.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from recollect.messages import FencedError
from recollect.parameters import Version
from recollect.replay.blocks import Block
from recollect.replay.contents import ABANDONED
from recollect.replay.episodes import Item
from recollect.replay.limiter import Totals
from recollect.replay.windows import Windows
from recollect.runtime.life import Death
from tests.replay.lived import assert_same_state, cut, make_episode, make_spec, messages

if TYPE_CHECKING:
    from tests.runtime.simulated import Answer, Life
    from tests.runtime.simulated_run import Run

WINDOWS = Windows(burn_in=0, trace=4, period=2, tail=0)
SPEC = make_spec(WINDOWS)
BATCH = 4
SEND_BLOCKS = 2
TOLERANCE = 24.0
SLOT_BITS, EPISODE_BITS = 16, 32
LONGEST_SECONDS = 600.0
"""Of a run, whose turns alone take some seconds."""


@functools.cache
def told_of(uid: int) -> tuple[int, tuple[tuple[list[Block], list[Item]], ...]]:
    """Steps of an episode, and what its actor sends, block by block."""
    steps = 1 + uid * 7919 % 9
    return steps, tuple(messages(WINDOWS, cut(SPEC, make_episode(SPEC, uid, steps))))


class Facts:
    """Watches a run.

    Attributes:
        forgetful: a shard came back without its journal: what it had is lost, and counts no more.
        died: of lives that the driver knows to have ended, by part and epoch.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.forgetful = False
        self.epochs: dict[str, int] = {}
        self.died: dict[tuple[str, int], Death] = {}
        self._taken: dict[tuple[str, str, int, int], list[tuple[int, int]]] = {}
        self._acknowledged: dict[str, set[tuple[int, int]]] = {}
        self._steps: Counter[tuple[str, int]] = Counter()  # taken, by life of who sent
        self._lost: dict[tuple[str, int], tuple[int, int]] = {}
        self._published: dict[Version, int] = {}
        self._newest: dict[int, Version] = {}  # by life of the service
        self._drawn: Counter[int] = Counter()  # steps, by epoch of the learner
        self._learned: Counter[int] = Counter()
        self._last_drawn: dict[int, tuple[int, int]] = {}
        self._written: dict[int, tuple[int, int, Answer]] = {}  # last: file, bytes, question
        self._torn: set[int] = set()
        self._counted: set[tuple[str, str, int, int]] = set()
        self._forgot: set[str] = set()

    # --- What happens ----------------------------------------------------------------------------

    def begins(self, life: Life) -> None:
        """The driver begins a life: from now on earlier ones are refused everywhere."""
        assert life.epoch > self.epochs.get(life.name, -1), "epochs rise"
        self.epochs[life.name] = life.epoch

    def asked(
        self, asker: Life | None, life: Life, call: tuple[Any, ...], value: Any, error: Any
    ) -> None:
        """A part has done what it was asked."""
        if asker is None:
            if call[0] == "recover" and error is None:
                self._recovered(life, value[0])
            return
        late = asker.epoch < max(self.epochs[asker.name], life.fences.get(asker.name, 0))
        if not self.run.given_up(life):  # those who are out of the run may talk to one another
            assert late <= isinstance(error, FencedError), f"R7: {life} listened to {asker}"
        _, _, method, *arguments = call
        if error is not None:
            return
        if method == "take":
            self._takes(asker, life, arguments[0], arguments[1].header)
        elif method == "draw" and value[0] is not None:
            self._draws(asker, life, value[0])
        elif method == "publish":
            newest = self._newest.get(id(life), arguments[0])
            self._newest[id(life)] = max(newest, arguments[0])
            service: Any = cast(Any, life.host).part
            assert service.version() == self._newest[id(life)], "R3: the newest stays"
        elif method == "fetch" and id(life) in self._newest:
            assert value[0] >= self._newest[id(life)], "R3: what is newest is never older"
            assert value[1] is None or value[1][0] == value[0]

    def answered(self, asker: Life | None, answer: Answer, arguments: Sequence[Any]) -> None:
        """An answer has come to who asked."""
        if asker is not None and answer.method == "take" and answer.error is None:
            name, epoch, number, _ = arguments[0]
            blocks = self._taken[answer.life.name, name, epoch, number]
            self._acknowledged.setdefault(answer.life.name, set()).update(blocks)

    def _takes(self, asker: Life, life: Life, stamp: Any, header: Any) -> None:
        key = (life.name, *stamp[:3])
        blocks = [(episode, index) for episode, index, *_ in header.tolist()]
        assert self._taken.setdefault(key, blocks) == blocks, "R1: two messages of one number"
        for episode, _ in blocks:
            epoch, slot = divmod(episode >> EPISODE_BITS, 1 << SLOT_BITS)
            mine = f"actor/{slot // self.run.slots}"
            assert (mine, epoch) == asker.who, "R1: no sequence is of two lives"
        if key not in self._counted:
            self._counted.add(key)
            self._steps[asker.who] += int(header[:, 2].sum())

    def _draws(self, asker: Life, life: Life, drawn: Any) -> None:
        """R2: probabilities are the leaves' shares of their sum, and the total is that."""
        assert life.host is not None
        store: Any = life.host.part
        leaves = store._sampler._tree.get(np.arange(store._sampler.capacity))
        total = leaves.sum()
        assert abs(store.mass - total) <= 1e-6 * total, "R2: the tree's total"
        np.testing.assert_allclose(drawn.probabilities, leaves[drawn.windows[0]] / total, 1e-9)
        self._drawn[asker.epoch] += int(drawn.windows[4].sum())
        self._last_drawn[id(life)] = asker.epoch, int(drawn.windows[4].sum())

    def learns(self, epoch: int, draw: Any, batch: Any) -> None:
        """R2: what fell to shards that were lost is drawn from the others, and counted so."""
        np.testing.assert_allclose(draw.shares.sum(), 1.0, 1e-9)
        assert (batch.probabilities > 0).all()
        self._learned[epoch] += int(batch.learned.sum())

    def publishes(self, version: Version, number: int) -> None:
        """R3."""
        found = self._published.setdefault(version, number)
        assert found == number or version.updates == 0, f"R3: there are two of {version}"

    def acts_on(self, before: Version | None, version: Version, number: int) -> None:
        """R3."""
        assert before is None or version > before, "R3: versions rise"
        assert self._published[version] == number, "R3: these are others"

    def written(self, file: int, nbytes: int) -> None:
        """A record went to a journal."""
        life = self.run.world.acting
        if life.last is not None:
            self._written[id(life)] = (file, nbytes, life.last)

    def dies(self, life: Life) -> None:
        """A process ends."""
        if life.host is None:
            return
        part: Any = life.host.part
        if life.part.kind == "actor":
            posts, lines = part.replay.posts, part.replay._lines
            message = (2 * SEND_BLOCKS - 1 + self.run.slots) * WINDOWS.period
            unsent = len(posts) + sum(bool(line.blocks) for line in lines)
            bound = self.run.slots * WINDOWS.period + unsent * message
            lost = part.env_steps - part.began - self._steps[life.who]
            if not self.forgetful:
                assert lost <= bound, f"R1: {lost} steps of {life} are lost, at most {bound} may be"
        if life.part.kind == "replay" and id(life) in self._written:
            self._tear(life, *self._written[id(life)])

    def _tear(self, life: Life, file: int, nbytes: int, asked: Answer) -> None:
        """Perhaps the shard died while it wrote the last record, for which it had not answered."""
        kinds = ("take", "draw", "update_priorities")
        if asked.here or asked.method not in kinds or not self.run.tears():
            return
        os.ftruncate(file, os.fstat(file).st_size - self.run.random.randint(1, nbytes))
        asked.unsaid = True
        self._torn.add(id(life))
        if asked.method == "draw":
            epoch, steps = self._last_drawn[id(life)]
            self._drawn[epoch] -= steps
        if asked.method == "take":
            stamp, parcel, _ = asked.arguments
            self._counted.discard((life.name, *stamp[:3]))
            self._steps[stamp[:2]] -= int(parcel.header[:, 2].sum())

    def _recovered(self, life: Life, complete: bool) -> None:
        """R2: what comes from a journal is what was there at death."""
        assert life.host is not None
        store: Any = life.host.part
        store.check_valid()
        if not complete:
            self.forgetful = True
            self._forgot.add(life.name)
        before = [x for x in self.run.world.all_lives if x.name == life.name and x is not life]
        old = before[-1]
        if complete and old.host and old.dead and old.whole and id(old) not in self._torn:
            assert_same_state(store.state_dict(), cast(Any, old.host.part).state_dict())
        life.whole = True

    def came_back(self, deaths: Sequence[Death]) -> None:
        """R4, and all rows: nobody dies but of what was done to it."""
        for death in deaths:
            self.died[death.part, death.epoch] = death
            lives = [x for x in self.run.world.all_lives if x.who == (death.part, death.epoch)]
            # A life that had not begun died of another part's death.
            hurt = [x for x in lives or self.run.world.all_lives if x.faults]
            assert hurt, f"R4: {lives} died of nothing that was done to it: {death.why}"

    # --- What must be so -------------------------------------------------------------------------

    def check_stores(self, living: Mapping[str, Any]) -> int:
        """R1 and R2 of the shards of these names, with their stores; steps that these hold."""
        held: set[tuple[int, int]] = set()
        steps = 0
        for name, store in living.items():
            store.check_valid()
            here: set[tuple[int, int]] = set()
            for block in filter(None, store._contents.bodies):
                steps += block.steps
                if block.episode < ABANDONED:  # others have lost their number
                    key = (block.episode, block.index)
                    assert key not in held, "R1: a block is there twice"
                    held.add(key)
                    here.add(key)
                    made = told_of(block.episode)[1][block.index][0][0]
                    assert np.array_equal(block.buffer, made.buffer), "R1: it is as it was made"
            missing = self._acknowledged.get(name, set()) - here
            # What no window can use any more goes at once.
            assert not missing or name in self._forgot, (
                f"R1: {name} does not have what was acknowledged: {missing}"
            )
        return steps

    def check_end(self, env_steps: int) -> None:
        """All parts live, and nothing is on its way."""
        lives = self.run.world.lives
        hosts: dict[str, Any] = {name: life.host for name, life in lives.items()}
        stores = {n: host.part for n, host in hosts.items() if n.startswith("replay")}
        steps = self.check_stores(stores)
        totals = Totals.of([store.totals for store in stores.values()])
        unsent = sum(h.part.unsent_steps() for n, h in hosts.items() if n.startswith("actor"))
        assert len(self.died) == len(self.run.world.all_lives) - len(lives)
        assert self.run.world.now < 1000 + LONGEST_SECONDS
        learner = hosts["learner"].part
        nothing = self._drawn[learner.epoch] - self._learned[learner.epoch]
        surplus = sum(store.limiter.surplus for store in stores.values())
        if totals.inserted >= totals.min_size and learner.updates:
            # The last answer that says what is owed may come when nobody waits for it any more.
            most = TOLERANCE + self.run.ratio * self.run.actors * (2 * SEND_BLOCKS + 2) * 4
            assert surplus <= most, "what is owed was learned"
        if self.forgetful:
            return
        assert totals.inserted == steps, "R1: what is counted is there"
        assert env_steps == steps + unsent, "R1: each step counts once"
        assert totals.learned - learner.learned_steps == nothing, "R3: each is owed once"
        if learner.updates:
            assert surplus >= -BATCH * WINDOWS.trace - nothing
        for name, life in lives.items():
            if name.startswith("actor"):
                taken = sum(hosts[n]._server.steps_from(*life.who) for n in stores)
                own = hosts[name].part
                assert own.env_steps == own.began + taken + own.unsent_steps(), f"R1: {life}"
