"""What must hold in the folder of a run, however often its parts were struck."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recollect.agents.acting import EPISODE_BITS, SLOT_BITS
from recollect.messages import Near
from recollect.program import kind_of
from recollect.run import checkpoint
from recollect.run.folder import RunFolder
from recollect.run.metrics import read_metrics
from recollect.training import runtimes
from recollect.training.job import Job

SLOT_MASK = (1 << SLOT_BITS) - 1


def assert_sound(run: Path, deaths: Sequence[Mapping[str, Any]], *, distinct: bool = False) -> None:
    """Assert that the last checkpoint loads and agrees with itself, and the metrics make sense.

    Args:
        deaths: the rows of the run's faults.jsonl.
        distinct: no two blocks can be alike, as where observations are drawn anew each time.
    """
    found = checkpoint.load_newest(run / "checkpoints", "last", full=True)
    assert found.state is not None
    parts = found.state["parts"]
    job = Job.from_dict(RunFolder.open(run).config())
    program = runtimes.program_of(job)
    assert set(parts) == {part.name for part in program.parts}
    for part in program.parts:
        if part.kind == "replay":
            replay: Any = part.factory()
            replay.load_state_dict(parts[part.name])
            replay.check_valid()  # the tree is that of its leaves
    shards = {name: state for name, state in parts.items() if kind_of(name) == "replay"}
    check_blocks(shards, distinct=distinct)
    slots = np.array_split(np.arange(job.config.actors), job.config.actor_processes)
    died = Counter(row["part"] for row in deaths)
    epochs = {int(slot): died[f"actor/{k}"] for k, own in enumerate(slots) for slot in own}
    check_epochs(shards, epochs)
    inserted = sum(int(state["limiter"]["inserted"]) for state in shards.values())
    assert inserted <= found.env_steps
    check_rows(read_metrics(run), deaths)


def check_blocks(shards: Mapping[str, Mapping[str, Any]], *, distinct: bool) -> None:
    """Assert that nothing was inserted twice: states of shards, by name."""
    where: dict[int, set[str]] = {}
    blocks: Counter[tuple[int, int]] = Counter()
    items: Counter[tuple[int, int]] = Counter()
    contents: Counter[bytes] = Counter()
    for name, state in shards.items():
        for uid, index in zip(state["blocks"]["episode"], state["blocks"]["index"], strict=True):
            blocks[int(uid), int(index)] += 1
            where.setdefault(int(uid), set()).add(name)
        for uid, start in zip(state["items"]["episode"], state["items"]["start"], strict=True):
            items[int(uid), int(start)] += 1
        for array in state["buffers"].arrays:
            contents[hashlib.sha256(array.tobytes()).digest()] += 1
    for what, counter in (("a block", blocks), ("an item", items)):
        twice = [each for each, times in counter.items() if times > 1]
        assert not twice, f"{what} is there twice: {twice[:5]}"
    several = {uid: names for uid, names in where.items() if len(names) > 1}
    assert not several, f"an episode is in several shards: {several}"
    if distinct:
        alike = sum(times > 1 for times in contents.values())
        assert not alike, f"{alike} blocks are alike"


def check_epochs(shards: Mapping[str, Mapping[str, Any]], most: Mapping[int, int]) -> None:
    """Assert that a slot's epochs are those of its lives, and an old one never comes after a new.

    Args:
        shards: their states, by name.
        most: how often the actor of each slot was replaced.
    """
    for name, state in shards.items():
        order = np.argsort(state["blocks"]["serial"])
        uids = state["blocks"]["episode"][order]
        slots = (uids >> EPISODE_BITS) & SLOT_MASK
        epochs = uids >> (EPISODE_BITS + SLOT_BITS)
        for slot in np.unique(slots).tolist():
            own = epochs[slots == slot]
            assert own.max() <= most[slot], f"{name}, slot {slot}: epoch {own.max()}"
            back = np.flatnonzero(np.diff(own) < 0)
            assert not back.size, f"{name}, slot {slot}: an old life after a new one: {own}"


def check_rows(rows: Sequence[Mapping[str, Any]], deaths: Sequence[Mapping[str, Any]]) -> None:
    """Assert that counts go back by no more than deaths have cost, and recoveries are counted."""
    for figure, cost in (("env_steps", "lost_steps"), ("updates", "undone_updates")):
        told = [row[figure] for row in rows if figure in row]
        back = sum(max(0, before - after) for before, after in pairwise(told))
        known = sum(row.get(cost) or 0 for row in deaths)
        assert back <= known, f"{figure} went back by {back}, {cost} are {known}"
    told = [row["faults/recoveries"] for row in rows if "faults/recoveries" in row]
    assert told == sorted(told), f"recoveries {told}"
    assert max(told, default=0) <= len(deaths), f"recoveries {told[-1]}, {len(deaths)} deaths"
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    assert seconds == sorted(seconds)


def most_lost(run: Path, actor: int) -> int:
    """Environment steps that one kill of an actor may lose: E (T + n) + U T.

    U blocks of T steps wait to be sent (as many as are sent at once, and two of each slot, as come
    in one turn), or are in messages, each of at most so many, that are not acknowledged.
    """
    job = Job.from_dict(RunFolder.open(run).config())
    program, config = runtimes.program_of(job), job.config
    shards = [part for part in program.parts if part.kind == "replay"]
    assert shards[0].far is not None
    far = shards[0].far.client([Near(part.name, None) for part in shards])
    E = len(np.array_split(np.arange(config.actors), config.actor_processes)[actor])
    T, n = config.period, config.n_step
    U = (far.posts._most + len(shards)) * (far._send_blocks + 2 * E)
    return E * (T + n) + U * T
