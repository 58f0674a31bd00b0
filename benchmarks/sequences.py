"""A batch of 64 windows of 120 frames out of a store of over 4 GB, against memcpy.

Windows and frames (84 x 84, single, uint8) are R2D2's, the blocks of 40 steps those of a `Replay`.
Each round draws other windows, gathers them into the same batch in both layouts on one thread and
on two, and takes memcpy beside: as many bytes in one call, from a random place of the memory that
the blocks lie in, into the memory of the same batch. A rate counts the bytes of the batch's frames
once. Ratios are medians over the rounds, each with its own round's memcpy.

The second store packs its blocks with zstd: frames of Ms. Pac-Man, played at random, where ale_py
is installed, else squares that wander over a still background.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import Result
from recollect.replay.batch import Batch, Draw
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Item
from recollect.replay.limiter import Limiter
from recollect.replay.store import Replay
from recollect.replay.uniform import Uniform
from recollect.replay.windows import Windows
from recollect.types import Array, ArraySpec

STORE_BYTES = 4_100_000_000
PACKED_FRAMES = 40_000
EPISODE_STEPS = 4_000
WINDOWS = Windows(burn_in=40, trace=75, period=40, tail=5)
BATCH, ROUNDS = 64, 9
FRAME = (84, 84)


def make_replay(frames: Callable[[int], Array], steps: int, codec: str) -> Replay:
    """A full store: `frames(n)` gives the next n frames of one endless game."""
    spec = BlockSpec(
        {"observation": ArraySpec(FRAME, "uint8")},
        ArraySpec((), "int64"),
        512,
        WINDOWS.period,
        WINDOWS.state_offsets,
        codec=codec,
    )
    replay = Replay(
        spec, WINDOWS, Uniform(), Limiter(None, 0, 0.0), capacity_steps=steps + EPISODE_STEPS
    )
    period, uid = WINDOWS.period, 0
    while replay.steps < steps:
        window = 0
        for index in range(EPISODE_STEPS // period):
            lived = (index + 1) * period
            last = lived == EPISODE_STEPS
            block = Block.build(
                spec,
                uid,
                index,
                {"observation": frames(period + last)},
                np.zeros(period, np.int64),
                np.zeros(period, np.float32),
                np.ones(period, np.float32),
                np.zeros((len(spec.state_offsets), 512), np.float32),
                0,
                0.0,
                last,
            )
            items = []
            while WINDOWS.ready(window, lived, last):
                w = WINDOWS.window(window, lived)
                items.append(Item(uid, w.start, w.prefix, w.learned, w.tail, 1.0, 0))
                window += 1
            replay.insert([block], items)
        uid += 1
    return replay


def noise(rng: Any) -> Callable[[int], Array]:
    """Frames that no codec packs, from a stock of 256."""
    stock = rng.integers(0, 256, (256, *FRAME), np.uint8)
    return lambda n: stock[rng.integers(0, 256, n)]


def played(rng: Any) -> tuple[str, Callable[[int], Array]]:
    """What they are, and frames of a game."""
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ImportError:
        return "wandering squares (ale_py: missing)", _squares(rng)
    env = AtariVectorEnv("ms_pacman", 1, stack_num=1, img_height=84, img_width=84, num_threads=1)
    env.reset(seed=0)
    stock = np.stack([env.step(rng.integers(0, 9, 1))[0][0, 0] for _ in range(4_000)])
    env.close()
    return "Ms. Pac-Man", _in_turn(stock)


def _squares(rng: Any) -> Callable[[int], Array]:
    stock = np.repeat(rng.integers(0, 256, (1, *FRAME), np.uint8), 4_000, 0)
    for _ in range(6):
        places = np.cumsum(rng.integers(-2, 3, (4_000, 2)), 0) % 76
        for frame, (y, x) in zip(stock, places, strict=True):
            frame[y : y + 8, x : x + 8] = 255
    return _in_turn(stock)


def _in_turn(stock: Array) -> Callable[[int], Array]:
    place = 0

    def frames(n: int) -> Array:
        nonlocal place
        place += n
        return stock[np.arange(place - n, place) % len(stock)]

    return frames


def memory_of(replay: Replay) -> tuple[int, int]:
    """Where the longest stretch of memory begins that blocks lie in one after another; its end."""
    bodies = [body for body in replay._contents.bodies if body is not None]
    places = np.sort([body.address for body in bodies])
    size = max(body.nbytes for body in bodies)
    cuts = np.flatnonzero(np.diff(places) > size + (1 << 16)) + 1
    longest = max(np.split(places, cuts), key=len)
    return int(longest[0]), int(longest[-1]) + size


def interleaved(cases: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Seconds of every case in every round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(ROUNDS + 1):
        for name, case in cases.items():
            spent = case()
            if turn:
                seconds[name].append(spent)
    return seconds


def run() -> Iterator[Result]:
    """Both stores."""
    rng = np.random.default_rng(0)
    steps = STORE_BYTES // (FRAME[0] * FRAME[1])
    yield from measure("no codec", make_replay(noise(rng), steps, "none"), rng)
    name, frames = played(rng)
    replay = make_replay(frames, PACKED_FRAMES, "zstd")
    metrics = replay.metrics()
    ratio = metrics["bytes_unpacked"] / metrics["bytes"]
    yield Result(f"zstd: bytes before by after, {name}", ratio, "to 1")
    yield from measure("zstd", replay, rng)


def measure(store: str, replay: Replay, rng: Any) -> Iterator[Result]:
    """Gather in all ways, and memcpy."""

    def draw() -> Draw:
        return replay.draw(rng.random(BATCH))

    outs = {
        layout: replay.gather(draw(), batch_major=layout == "by window")
        for layout in ("by window", "by time")
    }
    nbytes = outs["by time"].observation["observation"].nbytes
    place, end = memory_of(replay)
    source = np.empty(0, np.uint8)
    if end - place < 4 * nbytes:  # of packed blocks there is no such stretch
        source = np.ones(STORE_BYTES, np.uint8)
        place, end = source.ctypes.data, source.ctypes.data + len(source)

    def copy() -> float:
        target = outs["by time"].observation["observation"].ctypes.data
        begin = int(rng.integers(place, end - nbytes))
        start = time.perf_counter()
        ctypes.memmove(target, begin, nbytes)
        return time.perf_counter() - start

    def gather(out: Batch, threads: int) -> Callable[[], float]:
        def once() -> float:
            drawn = draw()
            start = time.perf_counter()
            replay.gather(drawn, out, threads=threads)
            return time.perf_counter() - start

        return once

    cases = {"memcpy": copy}
    for layout, out in outs.items():
        for threads in (1, 2):
            cases[f"{layout}, threads {threads}"] = gather(out, threads)
    seconds = interleaved(cases)
    for name, spent in seconds.items():
        rate = nbytes / statistics.median(spent) / 1e9
        ratios = [a / b for a, b in zip(seconds["memcpy"], spent, strict=True)]
        against = ("memcpy", statistics.median(ratios)) if name != "memcpy" else ("", None)
        yield Result(f"{store}: {name}", rate, "GB/s", *against)
    wall, busy = time.perf_counter(), time.process_time()
    gather(outs["by window"], 2)()
    cores = (time.process_time() - busy) / (time.perf_counter() - wall)
    yield Result(f"{store}: cores that two threads got", cores, "cores")
