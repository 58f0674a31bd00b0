"""A run in a `Simulated` world: small parts, and faults by seed."""

from __future__ import annotations

import functools
import hashlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np

from recollect.messages import Posts
from recollect.parameters import FarParameters, Parameters, Version
from recollect.program import Far, Part, Program
from recollect.replay.blocks import Block
from recollect.replay.episodes import Item
from recollect.replay.far import FarReplay
from recollect.replay.limiter import Limiter, NothingToDrawError
from recollect.replay.prioritized import Prioritized
from recollect.replay.shard import Shard
from recollect.replay.store import Replay
from recollect.roles import ACTOR, LEARNER, PARAMETERS, REPLAY
from recollect.runtime.remote import Remote
from tests.runtime.simulated import Life, Simulated, clocked
from tests.runtime.simulated_facts import (
    BATCH,
    EPISODE_BITS,
    SEND_BLOCKS,
    SLOT_BITS,
    SPEC,
    TOLERANCE,
    WINDOWS,
    Facts,
    told_of,
)

MIN_SIZE = 8
STEPS = 40
ON_THE_WAY = 8
ENDLESS_EVENTS = 800


class _EnoughError(Exception):
    """So many events have happened."""


# --- Small parts ----------------------------------------------------------------------------------


class Acts:
    """An actor of E slots, whose episodes are told by their uid alone."""

    def __init__(self, run: Run, number: int, replay: FarReplay, parameters: FarParameters) -> None:
        self.run, self.number, self.replay, self.parameters = run, number, replay, parameters
        self.epoch = self.env_steps = self.began = self.turns = 0
        self.episodes = [-1] * run.slots
        self.elapsed = [0] * run.slots
        self.uids = [0] * run.slots
        self.version: Version | None = None

    def ready(self) -> bool:
        return self.replay.wants_insert() and self.parameters.version() is not None

    def step(self) -> None:
        self.run.world.sleep(self.run.random.uniform(0.005, 0.1))
        if self.turns % 2 == 0:
            found = self.parameters.latest(self.version)
            if found is not None:
                self.run.facts.acts_on(self.version, found.version, int(found.vector[0]))
                self.version = found.version
        self.turns += 1
        blocks: list[Block] = []
        items: list[Item] = []
        for slot in range(self.run.slots):
            if self.elapsed[slot] == 0:
                self.episodes[slot] += 1
                place = (self.epoch << SLOT_BITS) + self.number * self.run.slots + slot
                self.uids[slot] = (place << EPISODE_BITS) + self.episodes[slot]
            steps, sends = told_of(self.uids[slot])
            self.elapsed[slot] += 1
            self.env_steps += 1
            ended = self.elapsed[slot] == steps
            if ended or self.elapsed[slot] % WINDOWS.period == 0:
                block, item = sends[(self.elapsed[slot] - 1) // WINDOWS.period]
                blocks += block
                items += item
            if ended:
                self.elapsed[slot] = 0
        if blocks:
            self.replay.insert(blocks, items)

    def counts(self) -> dict[str, int]:
        return {"env_steps": self.env_steps, "episodes": sum(self.episodes)}

    def metrics(self) -> dict[str, float]:
        return {}

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def go_on_from(self, counts: Mapping[str, int]) -> None:
        self.env_steps = self.began = counts["env_steps"]

    def unsent_steps(self) -> int:
        return sum(elapsed % WINDOWS.period for elapsed in self.elapsed)

    def state_dict(self) -> dict[str, Any]:
        return {"env_steps": self.env_steps}


class Learns:
    """A learner whose parameters are a number that stands for all that it has learned."""

    def __init__(self, run: Run, replay: FarReplay, parameters: FarParameters) -> None:
        self.run, self.replay, self.parameters = run, replay, parameters
        self.epoch = self.updates = self.learned_steps = self.chain = 0
        self.publish()

    def ready(self) -> bool:
        return self.replay.wants_sample()

    def step(self) -> None:
        uniforms = np.random.default_rng([self.epoch, self.updates]).random(BATCH)
        try:
            draw = self.replay.draw(uniforms)
            self.run.world.sleep(self.run.random.uniform(0.0, 0.05))
            batch = self.replay.gather(draw)
        except NothingToDrawError:
            return
        self.run.facts.learns(self.epoch, draw, batch)
        self.updates += 1
        self.learned_steps += int(batch.learned.sum())
        self.chain = (self.chain * 31 + self.updates + 7 * self.epoch) % 65521
        if self.updates % 2 == 0:
            self.publish()
        self.replay.update_priorities(batch.slots, batch.uids, 1.0 + batch.uids % 5)

    def publish(self) -> None:
        version = Version(self.epoch, self.updates)
        self.run.facts.publishes(version, self.chain)
        self.parameters.publish(version, np.array([self.chain], np.float32))

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def counts(self) -> dict[str, int]:
        return {"updates": self.updates, "learned_steps": self.learned_steps}

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "learned_steps": self.learned_steps, "chain": self.chain}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


# --- The run --------------------------------------------------------------------------------------


class Run:
    """A run with faults, all of it decided by a seed.

    Args:
        seed: decides.
        folder: for journals.
        endless: faults never end, and only what must hold at any time is looked at.
    """

    def __init__(self, seed: int, folder: Path, endless: bool = False) -> None:
        self.seed, self.endless = seed, endless
        self.random = random = Random(seed)
        self.shards, self.actors = random.choice([1, 2, 2, 3]), random.choice([1, 2, 2, 3])
        self.slots, self.ratio = random.choice([1, 2]), random.choice([0.5, 1.0])
        self.facts = Facts(self)
        self.world = Simulated(random, folder, random.random() < 0.5, self.facts)
        self.world.before_event = self._look
        self.left = 10**9 if endless else random.choice([0, 1, 1, 2, 3, 4, 6])
        self.following = random.randrange(20, 400)
        self.disk: Any = None
        self.due = 0.0  # the next save
        self.saving = False
        self.moments: set[str] = set()
        self.remote: Remote

    def program(self) -> Program:
        names = tuple(f"replay/{k}" for k in range(self.shards))
        least = [MIN_SIZE // self.shards + (k < MIN_SIZE % self.shards) for k in range(self.shards)]

        def store(k: int) -> Replay:
            limiter = Limiter(self.ratio, least[k], TOLERANCE)
            return Replay(SPEC, WINDOWS, Prioritized(1.0), limiter, capacity_steps=10**6)

        def client(handles: Sequence[Any]) -> FarReplay:
            limiter = Limiter(self.ratio, 0, TOLERANCE)
            posts = Posts(most=ON_THE_WAY)
            return FarReplay(handles, SPEC, WINDOWS, limiter, posts, SEND_BLOCKS)

        held = {"replay": names, "parameters": "parameters"}
        make = functools.partial
        far = Far(client, Shard)
        return Program(
            (
                Part("parameters", PARAMETERS, Parameters, far=Far(FarParameters)),
                *(Part(name, REPLAY, make(store, k), far=far) for k, name in enumerate(names)),
                Part("learner", LEARNER, make(Learns, self), held),
                *(Part(f"actor/{i}", ACTOR, make(Acts, self, i), held) for i in range(self.actors)),
            ),
            policy=list,
        )

    # --- Faults ----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Do something bad, if it is time for it."""
        world, random = self.world, self.random
        if self.endless and world.events >= ENDLESS_EVENTS and self.left:
            raise _EnoughError
        if world.events < self.following or not self.left or not self._ready:
            return
        names = sorted(world.lives)
        dead = [name for name in names if self.remote._lives.why_dead(name)]
        name = random.choice(dead if dead and random.random() < 0.4 else names)
        what = random.choice(["kill", "kill", "stop"] + ["cut", "node"] * world.cluster)
        life = world.lives[name]
        if life.dead or life.stopped or life.cut:
            return
        self.moments.add("recovery" if dead else "save" if self.saving else "turn")
        self.left -= 1
        self.following = world.events + random.choice([1, 3, 10, 30, 100])
        self._hurt(name, what)

    def _hurt(self, name: str, what: str) -> None:
        """Do this to a part."""
        world, life = self.world, self.world.lives[name]
        life.faults.append(what)
        seconds = self.random.choice([0.1, 1.0, 3.5, 4.5, 5.5, 10.0, 30.0])
        if what in ("kill", "node"):
            world.die(life)
        elif what == "stop":
            world.stop(life, seconds)
        else:
            world.cut_off(life, seconds)

    def given_up(self, life: Life) -> bool:
        """Whether the driver knows that a life has ended."""
        return self._ready and self.remote._lives.epoch(life.name) > life.epoch

    @property
    def _ready(self) -> bool:
        """Whether the run has begun: until then who dies ends it."""
        return hasattr(self, "remote") and self.remote._asking.ready

    def tears(self) -> bool:
        """Whether a shard dies while it writes the last record."""
        return self.random.random() < 0.5

    # --- Its course ------------------------------------------------------------------------------

    def go(self) -> None:
        """To the end."""
        with clocked(self.world), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.remote = Remote(
                self.program(), self.world, 60.0, saved=lambda: self.disk, journal="journal"
            )
            try:
                self._train()
                self._end()
            except _EnoughError:
                self._stop_anywhere()
            finally:
                self.left = 0
                self.world.close()

    def _train(self) -> None:
        """As `training.loop` does, and once the faults are over until all have come back."""
        remote, world = self.remote, self.world
        self.due = world.now + self.random.uniform(0.2, 4.0)
        while True:
            if not self._enough(remote.counts()):
                remote.run(
                    lambda counts: self._enough(counts) or world.now >= self.due,
                    {"env_steps": self.steps},
                )
                self.facts.came_back(remote.deaths())
                if world.now >= self.due:
                    self.due = world.now + self.random.uniform(1.0, 8.0)
                    self._save()
                continue
            remote.settle(lambda: False)
            self.facts.came_back(remote.deaths())
            if self._enough(remote.counts()) and not self.left:
                return
            self.left = 0

    def _enough(self, counts: Mapping[str, int]) -> bool:
        """Whether all steps were taken; once no more faults come, and everybody is well."""
        return counts["env_steps"] >= self.steps and (self.left > 0 or self._whole)

    @property
    def steps(self) -> int:
        """To be taken."""
        return 10**6 if self.endless else STEPS

    @property
    def _whole(self) -> bool:
        """Whether all parts live, and are known to."""
        hurt = any(x.dead or x.stopped or x.cut for x in self.world.lives.values())
        return self.remote._lives.whole and not hurt

    def _save(self) -> None:
        self.world.say("save")
        self.saving = True
        state = self.remote.state_dict()
        self.saving = False
        if self.random.random() < 0.8:  # else the disk was full
            self.disk = state
            self.remote.saved()

    def _end(self) -> None:
        metrics = self.remote.metrics()
        self.facts.came_back(self.remote.deaths())
        assert metrics["faults/deaths"] == metrics["faults/recoveries"] == len(self.facts.died)
        self.facts.check_end(self.remote.counts()["env_steps"])
        self.remote.close()

    def _stop_anywhere(self) -> None:
        self.facts.came_back(self.remote.deaths())
        living = {
            name: life.host.part
            for name, life in self.world.lives.items()
            if name.startswith("replay") and life.host and not self.remote._lives.why_dead(name)
        }
        self.facts.check_stores(living)

    def digest(self) -> str:
        return hashlib.sha256(repr(self.world.log).encode()).hexdigest()


def done(run: Run) -> Run:
    """A run that is over; what does not hold is raised, with the seed and the event."""
    try:
        # Of deaths that are borne, so that faults may go on.
        with patch("recollect.envs.failures.LIMIT", 10**6 if run.endless else 20):
            run.go()
    except BaseException as error:
        error.add_note(f"(seed {run.seed}, event {run.world.events}, second {run.world.now:.3f})")
        error.run = run  # type: ignore[attr-defined]
        raise
    return run


def simulate(seed: int, endless: bool = False) -> Run:
    """`done` with the run of a seed."""
    with tempfile.TemporaryDirectory() as folder:
        return done(Run(seed, Path(folder), endless))


def show(seeds: Sequence[int]) -> None:
    """Print the log of seeds."""
    for seed in seeds:
        try:
            run = simulate(seed)
        except BaseException as error:
            run = error.run  # type: ignore[attr-defined]
            for line in run.world.log:
                print(*line)
            raise
        for line in run.world.log:
            print(*line)
        print("seed", seed, "ended after", run.world.events, "events; digest", run.digest())
