"""Replay on Ray alone: R2D2's load of 256 actors in, its batches out, in 1, 2 and 4 shards.

Feeders stand for actors: they hand in blocks of 40 steps of Ms. Pac-Man (single frames of 84 x 84,
the three before them, and the state of an LSTM of 512 units), 16,640 steps a second in all, with
items and priorities. A drainer stands for the learner: five times a second it takes a batch of 64
windows of 40 + 80 steps (and 5 for the n-step returns), fetched one ahead as a learner on a GPU
would, and writes 64 priorities back. Parts, transport, messages and stores are the library's own.
Nothing is computed with: what is left is what replay costs.

Seconds of processors are those of /proc, after a warm-up in which the stores fill and begin to
evict. "built" is a run whose feeders also build and pack every block, which is work of actors.
`record(..., pids=print)` says which process is which part, for a profiler.

Ape-X's load (12,500 transitions a second in, 19 batches of 512 out) waits for transitions.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks import Result
from benchmarks.processes import processor_seconds
from recollect.messages import Handle
from recollect.program import Far, Part, Program
from recollect.replay.batch import Batch
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Item
from recollect.replay.far import FarDraw, FarReplay
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.shard import Shard
from recollect.replay.store import Replay
from recollect.replay.windows import Windows
from recollect.replay.wire import Drawn
from recollect.roles import ACTOR, LEARNER, REPLAY
from recollect.types import Array, ArraySpec, Metrics

STEPS, BATCHES, BATCH = 16_640, 5.0, 64
"""Per second, per second, windows: R2D2 with 256 actors, Kapturowski et al. 2019."""
SLOTS, FEEDERS, DRAWN_FROM = 256, 2, 100_000
WINDOWS = Windows(burn_in=40, trace=80, period=40, tail=5)
EPISODE_BLOCKS, STOCK = 50, 4_000
WARM_SECONDS, SECONDS = 8.0, 15.0
CASES = (
    # shards, codec, built, times the load: of steps and of batches
    (1, "zstd", False, 1, 1),
    (2, "zstd", False, 1, 1),
    (4, "zstd", False, 1, 1),
    (1, "zstd", True, 1, 1),
    (1, "none", False, 1, 1),
    (2, "none", False, 1, 1),
    (1, "none", False, 3, 1),
    (1, "none", False, 3, 3),
    (1, "zstd", False, 8, 1),
    (1, "zstd", False, 8, 8),
)


def spec_of(codec: str) -> BlockSpec:
    """R2D2's blocks on Atari."""
    return BlockSpec(
        {"observation": ArraySpec((84, 84), "uint8")},
        ArraySpec((), "int64"),
        2 * 512,
        WINDOWS.period,
        WINDOWS.state_offsets,
        stack=4,
        codec=codec,
    )


class Watched(FarReplay):
    """Counts what comes, and how long it takes from the question to the batch."""

    def __init__(self, codec: str, shards: Sequence[Handle]) -> None:
        super().__init__(shards, spec_of(codec), WINDOWS, Limiter(None, 0, 0.0))
        self.latency: list[float] = []
        self.came = self.came_raw = 0
        self._asked_at: dict[int, float] = {}

    def draw(self, uniforms: Array) -> FarDraw:
        """As `FarReplay`."""
        begin = time.perf_counter()
        draw = super().draw(uniforms)
        self._asked_at[id(draw)] = begin
        return draw

    def gather(self, draw: FarDraw, out: Batch | None = None, **how: Any) -> Batch:
        """As `FarReplay`."""
        batch = super().gather(draw, out, **how)
        self.latency.append(time.perf_counter() - self._asked_at.pop(id(draw)))
        for drawn in (each for part in draw.parts for each in part if isinstance(each, Drawn)):
            self.came += drawn.parcel.nbytes
            for _, _, steps, last, _ in drawn.parcel.header.tolist():
                self.came_raw += self._spec.nbytes(steps, bool(last))
        return batch


class Feeder:
    """Hands in blocks of its slots at a rate."""

    def __init__(
        self, number: int, codec: str, built: bool, rate: float, *, replay: Watched
    ) -> None:
        from benchmarks.sequences import played

        self._replay, self._spec, self._built = replay, spec_of(codec), built
        self._rng = np.random.default_rng(number)
        self._stock = played(np.random.default_rng(0))[1](STOCK)
        self._states = self._rng.normal(size=(64, 1, 1024)).astype(np.float32)
        self._slots = range(number, SLOTS, FEEDERS)
        self._pause = SLOTS / rate
        self._blocks, self._due, self._next = 0, 0.0, 0.0
        self._ready_made = [self._build(0, i, False) for i in range(256 if not built else 0)]

    def _build(self, uid: int, index: int, last: bool) -> Block:
        period, context = WINDOWS.period, self._spec.context
        place = int(self._rng.integers(0, STOCK - period - context - 1))
        return Block.build(
            self._spec,
            uid,
            index,
            {"observation": self._stock[place : place + context + period + last]},
            self._rng.integers(0, 9, period),
            np.zeros(period, np.float32),
            np.full(period, 0.997, np.float32),
            self._states[int(self._rng.integers(64))],
            0,
            0.0,
            last,
        )

    def ready(self) -> bool:
        """Whether blocks are wanted."""
        return self._replay.wants_insert()

    def step(self) -> None:
        """Sleep for as long as a turn of all slots takes, and hand in the blocks that end in it."""
        now = time.monotonic()
        self._next = max(self._next, now - 0.1) + self._pause  # more is not made up for
        time.sleep(max(0.0, self._next - now))
        self._due += len(self._slots) / WINDOWS.period
        blocks: list[Block] = []
        items: list[Item] = []
        while self._due >= 1:
            self._due -= 1
            slot = self._slots[self._blocks % len(self._slots)]
            first = slot % EPISODE_BLOCKS  # as if the slot's first episode had begun earlier
            episode, place = divmod(first + self._blocks // len(self._slots), EPISODE_BLOCKS)
            index, last = place - (0 if episode else first), place == EPISODE_BLOCKS - 1
            uid = (slot << 32) + episode
            blocks.append(self._block(uid, index, last))
            items += self._items(uid, (index + 1) * WINDOWS.period, last)
            self._blocks += 1
        if blocks:
            self._replay.insert(blocks, items)

    def _block(self, uid: int, index: int, last: bool) -> Block:
        if self._built or last:
            return self._build(uid, index, last)
        made = self._ready_made[self._blocks % len(self._ready_made)]
        return Block(self._spec, uid, index, made.steps, False, made.buffer)

    def _items(self, uid: int, steps: int, ended: bool) -> list[Item]:
        """The windows that these steps complete: those of fewer steps were there before."""
        found, before = [], steps - WINDOWS.period
        for k in range(max(0, before // WINDOWS.period - 4), steps // WINDOWS.period + 1):
            if WINDOWS.ready(k, steps, ended) and not (before and WINDOWS.ready(k, before, False)):
                w = WINDOWS.window(k, steps)
                priority = float(self._rng.random())
                found.append(Item(uid, w.start, w.prefix, w.learned, w.tail, priority, 0))
        return found

    def counts(self) -> dict[str, int]:
        """Steps."""
        return {"env_steps": self._blocks * WINDOWS.period}

    def metrics(self) -> Metrics:
        """Totals, and when they were so."""
        return {
            "at": time.monotonic(),
            "steps": float(self._blocks * WINDOWS.period),
            "bytes": float(self._replay.posts.sent_bytes),
            "raw_bytes": float(self._replay.raw_bytes),
            "messages": float(self._replay.posts.sent),
        }


class Drainer:
    """Takes batches at a rate and writes priorities back."""

    def __init__(self, rate: float, *, replay: Watched) -> None:
        from recollect.agents.batches import Batches
        from recollect.agents.computing import PROCESSOR

        self._replay, self._rate = replay, rate
        self._batches = Batches(replay, BATCH, 0, 0, PROCESSOR)
        self._rng = np.random.default_rng(0)
        self._taken, self._due = 0, 0.0

    def ready(self) -> bool:
        """Whether a batch is due, and may be drawn."""
        return time.monotonic() >= self._due and self._batches.ready()

    def step(self) -> None:
        """Take a batch."""
        now = time.monotonic()
        # What is late by more than a batch is not made up for.
        self._due = max(self._due, now - 1 / self._rate) + 1 / self._rate
        taken = self._batches.take(self._taken)
        if taken is None:
            return
        batch, _ = taken
        self._replay.update_priorities(batch.slots, batch.uids, self._rng.random(BATCH))
        self._taken += 1

    def counts(self) -> dict[str, int]:
        """Batches."""
        return {"updates": self._taken}

    def metrics(self) -> Metrics:
        """Totals, and when they were so; of the latency what came since the last call."""
        latency, self._replay.latency = self._replay.latency, []
        return {
            "at": time.monotonic(),
            "batches": float(self._taken),
            "bytes": float(self._replay.came),
            "raw_bytes": float(self._replay.came_raw),
            "messages": float(self._replay.posts.sent),
            "latency": statistics.median(latency or [0.0]),
            "latency_most": max(latency or [0.0]),
        }


def make_store(codec: str, shards: int) -> Replay:
    """One shard."""
    return Replay(
        spec_of(codec),
        WINDOWS,
        Prioritized(0.9),
        Limiter(None, 10_000 // shards, 0.0),
        capacity_steps=DRAWN_FROM // shards,
    )


def program(shards: int, codec: str, built: bool, steps: float, batches: float) -> Program:
    """Feeders, shards and a drainer."""
    far = Far(partial(Watched, codec), Shard)
    names = tuple(f"replay/{k}" for k in range(shards))
    stores = [Part(name, REPLAY, partial(make_store, codec, shards), far=far) for name in names]
    held: dict[str, str | tuple[str, ...]] = {"replay": names}
    return Program(
        (
            *stores,
            Part("learner", LEARNER, partial(Drainer, batches), held),
            *(
                Part(f"actor/{i}", ACTOR, partial(Feeder, i, codec, built, steps), held)
                for i in range(FEEDERS)
            ),
        ),
        policy=lambda: None,
    )


@dataclass
class Record:
    """What was seen of a case, per second; `cores` by kind of process."""

    steps: float = 0.0
    batches: float = 0.0
    latency: float = 0.0
    latency_most: float = 0.0
    bytes_in: float = 0.0
    raw_in: float = 0.0
    messages_in: float = 0.0
    bytes_out: float = 0.0
    raw_out: float = 0.0
    cores: dict[str, float] = field(default_factory=dict)


def record(
    shards: int,
    codec: str,
    built: bool,
    steps: float = STEPS,
    batches: float = BATCHES,
    seconds: float = SECONDS,
    pids: Callable[[dict[str, int]], object] | None = None,
) -> Record:
    """Run a case; `pids` is told which process each part is in once it is warm."""
    from recollect.runtime import placing, transport
    from recollect.runtime.hosting import Setting
    from recollect.runtime.remote import Remote

    made = program(shards, codec, built, steps, batches)
    demands = {part.name: placing.Demand() for part in made.parts}
    settings = {
        part.name: Setting(os.getcwd(), tuple(sys.path), 1, i) for i, part in enumerate(made.parts)
    }
    runtime = Remote(made, transport.opened(demands, settings, "", 2_000_000_000), 60.0)
    try:
        who = {part.pid: part.name.partition("/")[0] for part in runtime.parts_now()}
        _for(runtime, WARM_SECONDS)
        if pids is not None:
            pids({part.name: part.pid for part in runtime.parts_now()})
        before, cpu = _seen(runtime, made), _processor_seconds(who)
        begin = time.monotonic()
        _for(runtime, seconds)
        after, cpu_after = _seen(runtime, made), _processor_seconds(who)
        wall = time.monotonic() - begin
    finally:
        runtime.close()
    found = Record(cores={kind: (cpu_after[kind] - cpu[kind]) / wall for kind in cpu})
    for name, now in after.items():
        rates = {key: (now[key] - before[name][key]) / (now["at"] - before[name]["at"])
                 for key in now if key not in ("at", "latency", "latency_most")}  # fmt: skip
        if name == "learner":
            found.batches, found.bytes_out = rates["batches"], rates["bytes"]
            found.raw_out = rates["raw_bytes"]
            found.latency, found.latency_most = now["latency"], now["latency_most"]
        else:
            found.steps += rates["steps"]
            found.bytes_in += rates["bytes"]
            found.raw_in += rates["raw_bytes"]
            found.messages_in += rates["messages"]
    return found


def _for(runtime: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    runtime.run(lambda counts: time.monotonic() >= end)


def _seen(runtime: Any, made: Program) -> dict[str, Metrics]:
    return {p.name: runtime.ask(p.name, "metrics") for p in made.parts if p.role.worker}


def _processor_seconds(who: dict[int, str]) -> dict[str, float]:
    """Of all processes so far, by kind; those that are no part's are Ray's own, or the driver."""
    from recollect.runtime.sockets import tree

    found = dict.fromkeys(("actor", "replay", "learner", "driver", "Ray"), 0.0)
    for pid in tree(os.getpid()):
        kind = "driver" if pid == os.getpid() else who.get(pid, "Ray")
        found[kind] += processor_seconds(pid) or 0.0
    return found


def run() -> Iterator[Result]:
    """All cases."""
    for shards, codec, built, more, oftener in CASES:
        steps, batches = more * STEPS, oftener * BATCHES
        found = record(shards, codec, built, steps, batches)
        times = "" if more == oftener == 1 else f", {more:g} x steps, {oftener:g} x batches"
        name = f"{shards} shard{'s' * (shards > 1)}, {codec}{', built' * built}{times}: "
        wanted = "what is wanted"
        yield Result(name + "steps in", found.steps, "/s", wanted, found.steps / steps)
        yield Result(name + "batches out", found.batches, "/s", wanted, found.batches / batches)
        for kind, cores in found.cores.items():
            yield Result(name + f"processors, {kind}", cores, "cores")
        for way, packed, raw in (
            ("in", found.bytes_in, found.raw_in),
            ("out", found.bytes_out, found.raw_out),
        ):
            yield Result(
                name + f"bytes {way}", packed / 1e6, "MB/s", "unpacked", packed / max(raw, 1)
            )
        yield Result(name + "messages in", found.messages_in, "/s")
        yield Result(name + "a batch, asked to gathered", found.latency * 1e3, "ms")
        yield Result(name + "the slowest", found.latency_most * 1e3, "ms")
