"""What replay needs at a load: `python -m benchmarks.sizing` prints the table of the docs.

Bytes follow from the blocks' layout, with frames packed as those of Ms. Pac-Man are; seconds of
processors are those that `benchmarks/shards.py` measured on one machine of two cores. Every slot
makes 65 steps a second, as R2D2's actors did (66,000 frames a second of 256), and a process has 16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.shards import BATCH, BATCHES, STEPS, WINDOWS, spec_of
from recollect.replay.far import SEND_BYTES, SEND_SECONDS

PERIOD, STORED = WINDOWS.period, 4_000_000
PACKS = 52.0
"""Times to which zstd packs such frames, 40 at once."""
BUSY = 0.5
"""Of a processor, that a shard should not pass, so that questions do not wait."""
SLOTS_OF_PROCESS = 16
ROW_BYTES = 1280 + 96
"""Of a block and its item, beside its bytes: in a store; 96 of them on the wire too."""


@dataclass(frozen=True)
class Cost:
    """Seconds of processors, measured.

    A shard: `step` for each that comes, `message` for each beside that (also for a question), and
    `batch` for all shards together. A learner: `gather` for a batch.
    """

    step: float
    message: float
    batch: float
    gather: float


COSTS = {
    "zstd": Cost(step=0.9e-6, message=0.8e-3, batch=3.0e-3, gather=20e-3),
    "none": Cost(step=2.4e-6, message=0.8e-3, batch=12e-3, gather=12e-3),
}


@dataclass(frozen=True)
class Need:
    """Per second, and in bytes.

    `incoming` and `outgoing` bytes cross the wire to and from all `shards`, whose `processors` are
    of all together; `gathering` is the learner's. `stored` is memory for 4 million steps.
    """

    updates: float
    incoming: float
    outgoing: float
    stored: float
    shards: int
    processors: float
    gathering: float

    @property
    def gigabits(self) -> float:
        """Of network, both ways together, per second."""
        return 8e-9 * (self.incoming + self.outgoing)


def need(steps: float, codec: str = "zstd", processes: int = 0, ratio: float = 1.0) -> Need:
    """What replay needs where so many environment steps come in a second.

    >>> round(need(16_640).updates, 2), need(16_640).shards, round(need(16_640).gigabits, 2)
    (5.0, 1, 0.14)

    Args:
        steps: of all actors together, per second.
        codec: zstd or none.
        processes: of actors; 0: one for each 16 slots of 65 steps a second.
        ratio: updates per step as a share of R2D2's, 5 of 64 x 80 for 16,640.
    """
    cost, raw = COSTS[codec], spec_of(codec).nbytes(PERIOD, False)
    states = 4 * spec_of(codec).state_size
    block = raw if codec == "none" else states + (raw - states) / PACKS
    updates = ratio * steps * BATCHES / STEPS
    processes = processes or math.ceil(steps / 65 / SLOTS_OF_PROCESS)
    blocks = steps / PERIOD
    # A process sends when it has enough, or after a while, to every shard, but no empty messages.
    sendings = processes / SEND_SECONDS + blocks * block / SEND_BYTES

    def processors(shards: int) -> float:
        messages = min(sendings * shards, blocks) + updates * shards
        return steps * cost.step + messages * cost.message + updates * cost.batch

    shards = 1
    while processors(shards) > BUSY * shards:
        shards += 1
    return Need(
        updates=updates,
        incoming=blocks * (block + 96),
        outgoing=updates * BATCH * WINDOWS.blocks * block,
        stored=STORED / PERIOD * (block + ROW_BYTES),
        shards=shards,
        processors=processors(shards),
        gathering=updates * cost.gather,
    )


LOADS = (
    # whose, steps a second, what of it was measured
    ("a laptop, 16 slots", 1_040, "computed"),
    ("one machine, 64 slots", 4_160, "computed"),
    ("Ape-X's 360 actors, as sequences", 12_500, "computed"),
    ("**R2D2's 256 actors**", 16_640, "**replay measured**"),
    ("4 times R2D2", 66_560, "computed; measured with 2 processes"),
    ("8 times R2D2", 133_120, "computed; measured with 2 processes"),
    ("a million steps/s", 1_000_000, "computed; too much for one learner"),
)
HEAD = (
    *("load", "steps/s", "frames/s", "updates/s", "in", "out", "network, Gbit/s", "shards"),
    *("cores of shards", "cores of gathering", "memory, GB", "how known"),
)


def table() -> list[str]:
    """The loads and their needs as lines of Markdown: with zstd, and in brackets without."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for name, steps, how in LOADS:
        packed, plain = need(steps), need(steps, "none")
        figures = [
            f"{_short(getattr(packed, what))} ({_short(getattr(plain, what))})"
            for what in ("gigabits", "shards", "processors", "gathering")
        ]
        row = (
            name,
            f"{steps:,}",
            f"{4 * steps:,}",
            _short(packed.updates),
            f"{_short(packed.incoming / 1e6)} MB/s",
            f"{_short(packed.outgoing / 1e6)} MB/s",
            *figures,
            f"{_short(packed.stored / 1e9)} ({_short(plain.stored / 1e9)})",
            how,
        )
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _short(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


if __name__ == "__main__":
    print("\n".join(table()))
