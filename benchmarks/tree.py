"""Prioritised replay of 2^20 rows: insert 50, draw 512 with weights, write 512 priorities back.

The bare tree does that without rows and weights, against TorchRL's sum tree in C++; `Rows` with a
`Prioritized` sampler and importance weights, on rows of 40 bytes, against cpprb's
`PrioritizedReplayBuffer`, which has the same work to do. Last the block store, whose rows are
episodes cut into blocks of one step and windows over them, for what that costs beside.

Rounds are interleaved: ours, then the peer's. Ratios are medians of the rounds' own. One thread;
seconds are the processor's, so that others on the machine count for less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks import Result
from recollect.maths.priorities import importance_weights
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Item
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.rows import Rows
from recollect.replay.store import Replay
from recollect.replay.sum_tree import SumTree
from recollect.replay.windows import Windows
from recollect.types import ArraySpec

CAPACITY, INSERTED, DRAWN = 1 << 20, 50, 512
EXPONENT, BETA = 0.6, 0.4
ROUNDS, CYCLES = 9, 300
CHUNK = 1 << 12
Cycle = Callable[[int], None]

rng = np.random.default_rng(0)
NEW = 0.1 + rng.random((CYCLES, INSERTED))
BACK = 0.1 + rng.random((CYCLES, DRAWN))


def tree() -> Cycle:
    """Ours."""
    ours = SumTree(CAPACITY)
    ours.set(np.arange(CAPACITY), 0.1 + rng.random(CAPACITY))
    place = 0

    def cycle(i: int) -> None:
        nonlocal place
        ours.set(np.arange(place, place + INSERTED), NEW[i])
        place = (place + INSERTED) % (CAPACITY - INSERTED)
        found, _ = ours.find_with_values(rng.random(DRAWN))
        ours.set(found, BACK[i])

    return cycle


def torchrl_tree() -> Cycle:
    """TorchRL's, in float64 as ours."""
    from torchrl._torchrl import SumSegmentTreeFp64  # type: ignore[import-not-found]

    theirs = SumSegmentTreeFp64(CAPACITY)
    theirs[np.arange(CAPACITY)] = 0.1 + rng.random(CAPACITY)
    place = 0

    def cycle(i: int) -> None:
        nonlocal place
        theirs[np.arange(place, place + INSERTED)] = NEW[i]
        place = (place + INSERTED) % (CAPACITY - INSERTED)
        total = theirs.query(0, CAPACITY)
        found = theirs.scan_lower_bound(rng.random(DRAWN) * total)
        theirs[found]
        theirs[found] = BACK[i]

    return cycle


def rows() -> Cycle:
    """Ours."""
    fields = {"observation": ArraySpec((9,)), "reward": ArraySpec(())}
    ours = Rows(fields, Prioritized(EXPONENT), CAPACITY)
    some = {name: spec.zeros(CHUNK) for name, spec in fields.items()}
    for _ in range(CAPACITY // CHUNK):
        ours.insert(some, 0.1 + rng.random(CHUNK))
    new = {name: spec.zeros(INSERTED) for name, spec in fields.items()}

    def cycle(i: int) -> None:
        ours.insert(new, NEW[i])
        batch = ours.sample(rng.random(DRAWN))
        importance_weights(torch.from_numpy(batch.probabilities), batch.size, BETA)
        ours.update_priorities(batch.uids, BACK[i])

    return cycle


def cpprb_rows() -> Cycle:
    """cpprb's."""
    from cpprb import PrioritizedReplayBuffer

    fields = {
        "observation": {"shape": 9, "dtype": np.float32},
        "reward": {"dtype": np.float32},
    }
    theirs = PrioritizedReplayBuffer(CAPACITY, fields, alpha=EXPONENT)

    def zeros(n: int) -> dict[str, np.ndarray]:
        return {"observation": np.zeros((n, 9), np.float32), "reward": np.zeros(n, np.float32)}

    for _ in range(CAPACITY // CHUNK):
        theirs.add(**zeros(CHUNK), priorities=0.1 + rng.random(CHUNK))
    new = zeros(INSERTED)

    def cycle(i: int) -> None:
        theirs.add(**new, priorities=NEW[i])
        batch = theirs.sample(DRAWN, beta=BETA)
        theirs.update_priorities(batch["indexes"], BACK[i])

    return cycle


def store() -> Cycle:
    """Ours: 50 blocks of one step and 50 windows, built where the actor would, in each cycle."""
    windows = Windows(burn_in=0, trace=1, period=1, tail=0)
    spec = BlockSpec({"observation": ArraySpec((9,))}, ArraySpec((), "int64"), 0, 1, (0,))
    steps = 1 << 15  # of so small ones, 2^20 would take minutes to insert
    ours = Replay(spec, windows, Prioritized(EXPONENT), Limiter(None, 0, 0.0), capacity_steps=steps)
    observation, action = np.zeros((2, 9), np.float32), np.zeros(1, np.int64)
    number, state = np.zeros(1, np.float32), np.zeros((1, 0), np.float32)
    uid = 0

    def insert(priorities: np.ndarray) -> None:
        nonlocal uid
        blocks, items = [], []
        for priority in priorities.tolist():
            uid += 1
            given = ({"observation": observation}, action, number, number, state, -1, 0.0)
            blocks.append(Block.build(spec, uid, 0, *given, last=True))
            items.append(Item(uid, 0, 0, 1, 0, priority, 0))
        ours.insert(blocks, items)

    for _ in range(steps // INSERTED + 1):
        insert(NEW[0])
    batch = ours.sample(rng.random(DRAWN))

    def cycle(i: int) -> None:
        nonlocal batch
        insert(NEW[i])
        batch = ours.gather(ours.draw(rng.random(DRAWN)), batch)
        importance_weights(torch.from_numpy(batch.probabilities), batch.size, BETA)
        ours.update_priorities(batch.slots, batch.uids, BACK[i])

    return cycle


def per_second(cycle: Cycle, cycles: int) -> float:
    """Cycles per second, of a few."""
    start = time.process_time()
    for i in range(cycles):
        cycle(i)
    return cycles / (time.process_time() - start)


def compare(
    name: str, ours: Callable[[], Cycle], peer: str, theirs: Callable[[], Cycle]
) -> Iterator[Result]:
    """Both, where the peer can be had."""
    cycles, found = {"ours": ours()}, {"ours": [0.0], peer: [0.0]}
    try:
        cycles[peer] = theirs()
    except (ImportError, RuntimeError, NotImplementedError, OSError) as error:
        yield Result(f"{name}: {peer} is missing ({str(error).splitlines()[0][:40]})", 0, "")
    for which, cycle in cycles.items():
        per_second(cycle, 50)
        found[which] = []
    for _ in range(ROUNDS):
        for which, cycle in cycles.items():
            found[which].append(per_second(cycle, CYCLES))
    if peer in cycles:
        yield Result(f"{name}: {peer}", statistics.median(found[peer]), "cycles/s")
        ratios = [a / b for a, b in zip(found["ours"], found[peer], strict=True)]
        ratio = statistics.median(ratios)
        yield Result(f"{name}: ours", statistics.median(found["ours"]), "cycles/s", peer, ratio)
    else:
        yield Result(f"{name}: ours", statistics.median(found["ours"]), "cycles/s")


def run() -> Iterator[Result]:
    """Tree, rows, store."""
    torch.set_num_threads(1)
    yield from compare("bare tree", tree, "TorchRL", torchrl_tree)
    yield from compare("rows, weights", rows, "cpprb", cpprb_rows)
    cycle = store()
    found = [per_second(cycle, 10) for _ in range(ROUNDS)]
    yield Result("block store, blocks of one step", statistics.median(found), "cycles/s")
