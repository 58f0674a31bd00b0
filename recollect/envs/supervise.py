"""Environments in processes of their own, which may hang, exit or crash without harm to others.

Each process steps some of the slots; all of them work at the same time. One that does not answer
in time, or is gone, is killed with all that it started and replaced, and its slots are at fault:
the one it was busy with for what happened, the others because they went with it.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from time import monotonic
from typing import Any

import gymnasium as gym
import numpy as np

from recollect.envs.process import Gone, Process
from recollect.envs.shared import Board, Field, layout
from recollect.envs.slots import Faults, SlotVector
from recollect.envs.spaces import Encoder
from recollect.types import Array, ConfigError

_CLOSING = 5.0  # seconds to end by themselves
_STEP = b'{"do": "step"}\n'


class Supervised(SlotVector):
    """Environments spread over processes; bit for bit what `Slots` gives.

    Args:
        env_id, kwargs: what to make. num_envs: E.
        spaces: of one environment's observations and actions.
        processes: how many; never more than slots.
        deadline: seconds that one call of an environment may take.
    Raises:
        ConfigError: an argument cannot be sent to another process, or what making one raises.
        EnvError: an environment cannot be made there.
    """

    def __init__(
        self,
        env_id: str,
        kwargs: Mapping[str, object],
        num_envs: int,
        spaces: tuple[gym.Space[Any], gym.Space[Any]],
        processes: int,
        deadline: float,
    ) -> None:
        super().__init__(env_id, num_envs, *spaces)
        processes = min(processes, num_envs)
        encoder = Encoder(spaces[0], env_id)
        fields: list[Field] = layout(encoder, spaces[1], num_envs, processes)
        job = {
            "env_id": env_id,
            "kwargs": _sendable(env_id, kwargs),
            "num_envs": num_envs,
            "processes": processes,
            "layout": fields,
        }
        self._board = Board(fields)
        self._arrays = self._board.arrays
        self._batch = encoder.nested(self._arrays.observation)
        self._lost: dict[int, str] = {}  # slots that went with a process outside a step
        self._all: list[Process] = []
        ends = [num_envs * number // processes for number in range(processes + 1)]
        try:
            for number, (first, end) in enumerate(pairwise(ends)):
                self._all.append(Process(job, self._board, number, slice(first, end), deadline))
            for process in self._all:
                process.ready()
        except BaseException:
            self.close()
            raise
        weakref.finalize(self, _end_all, self._all, self._board, os.getpid())

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; see `SlotVector`."""
        options = options or {}
        assert isinstance(seed, Sequence)
        everyone = np.ones(self.num_envs, bool)
        mask: Array = options.get("reset_mask", everyone)
        anew: Array = options.get("anew", ~everyone)
        if mask.all():
            self._lost.clear()
        orders = {}
        for process in self._all:
            slots = [slot for slot in process.rows if mask[slot]]
            if slots:
                first = process.rows.start
                orders[process] = _line(
                    do="reset",
                    slots=[slot - first for slot in slots],
                    anew=[slot - first for slot in slots if anew[slot]],
                    seeds=[seed[slot] for slot in process.rows],
                )
        faults = self._give(orders)
        for slot in np.flatnonzero(mask).tolist():
            self._lost.pop(slot, None)
        self._keep_lost(faults, mask)
        return self._batch, {"faults": faults}

    def step(self, actions: Array) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """One step of every environment that was reset and did not fail since."""
        self._board.action[:] = actions
        faults = self._give(dict.fromkeys(self._all, _STEP))
        for slot, what in self._lost.items():
            faults.wrong[slot] = what
            faults.innocent.add(slot)
        self._lost.clear()
        arrays = self._arrays
        return (
            self._batch,
            arrays.reward,
            arrays.terminated,
            arrays.truncated,
            {"faults": faults},
        )

    def replay(
        self, slots: Sequence[int], seeds: Sequence[int], steps: Sequence[int], actions: Array
    ) -> tuple[Any, Array, Faults]:
        """Live episodes again, in all processes at once; see `SlotVector.replay`."""
        self._lost.clear()
        pieces = np.split(actions, np.cumsum(steps)[:-1])
        orders = {}
        for process in self._all:
            own = [i for i, slot in enumerate(slots) if slot in process.rows]
            if own:
                payload = b"".join(pieces[i].tobytes() for i in own)
                order = _line(
                    do="replay",
                    slots=[slots[i] - process.rows.start for i in own],
                    seeds=[seeds[i] for i in own],
                    steps=[steps[i] for i in own],
                    dtype=actions.dtype.str,
                    bytes=len(payload),
                )
                orders[process] = order + payload
        return self._batch, self._arrays.reward, self._give(orders)

    def close(self, **kwargs: Any) -> None:
        """Close the environments and end their processes, kindly at first."""
        for process in self._all:
            process.leave()
        until = monotonic() + _CLOSING
        for process in self._all:
            process.end(until - monotonic())
        self._all.clear()
        self._board.close()

    def _give(self, orders: Mapping[Process, bytes]) -> Faults:
        """Send orders to processes at the same time, and gather what went wrong."""
        faults = Faults()
        gone: dict[Process, Gone] = {}
        for process, order in orders.items():
            process.ready()
            try:
                process.send(order)
            except Gone as how:
                gone[process] = how
        for process in [process for process in orders if process not in gone]:
            try:
                faults.wrong.update(process.answer())
            except Gone as how:
                gone[process] = how
        for process, ending in gone.items():
            self._replace(process, str(ending), faults)
        return faults

    def _replace(self, process: Process, how: str, faults: Faults) -> None:
        culprit = process.busy_with()[0]
        if culprit is None:  # between calls: somebody must count for it
            culprit = process.rows.start
        for slot in process.rows:
            faults.wrong[slot] = how
            if slot != culprit:
                faults.wrong[slot] = f"lost with slot {culprit} of the same process: {how}"
                faults.innocent.add(slot)
        rows = slice(process.rows.start, process.rows.stop)
        for array in (self._arrays.reward, self._arrays.terminated, self._arrays.truncated):
            array[rows] = 0
        process.end()
        process.start()

    def _keep_lost(self, faults: Faults, mask: Iterable[bool]) -> None:
        for slot, masked in enumerate(mask):
            if not masked and slot in faults.wrong:
                self._lost[slot] = faults.wrong.pop(slot)
                faults.innocent.discard(slot)


def _line(**order: Any) -> bytes:
    return json.dumps(order).encode() + b"\n"


def _sendable(env_id: str, kwargs: Mapping[str, object]) -> dict[str, object]:
    for name, value in kwargs.items():
        try:
            same = json.loads(json.dumps(value)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ConfigError(
                f"environment {env_id!r}: argument {name!r} is {type(value).__name__}, and only "
                "text, numbers, lists and dicts of them can be sent to environment processes: "
                "give it as one of these, or have the environments in this process"
            )
    return dict(kwargs)


def _end_all(processes: Iterable[Process], board: Board, owner: int) -> None:
    if os.getpid() == owner:  # and no fork of it
        for process in processes:
            process.end()
        board.close()
