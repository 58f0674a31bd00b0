"""What it takes to live the running episodes of a vector once more: seeds and actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from recollect.envs.restoring import checked
from recollect.envs.slots import SlotVector
from recollect.envs.spaces import Encoder
from recollect.types import Array, Observation

JOURNAL_STEPS = 200_000
"""An episode longer than this cannot be put back."""


class Journal:
    """Seed, actions and sum of rewards of the running episode of each of E slots.

    All slots share the rows of one array: a slot's actions are those since the row its episode
    began at. Rows that nobody needs any longer are given up when the array is full.

    Args:
        slots: E.
        action_space: of one environment. Numbers are kept in as few bytes as they need.
    """

    def __init__(self, slots: int, action_space: gym.Space[Any]) -> None:
        dtype = np.dtype(action_space.dtype)
        if isinstance(action_space, gym.spaces.Discrete):
            first, last = int(action_space.start), int(action_space.start + action_space.n - 1)
            kinds = [np.iinfo(kind) for kind in ("u1", "i1", "i2", "i4", "i8")]
            dtype = next(kind.dtype for kind in kinds if kind.min <= first and last <= kind.max)
        self._shape = tuple(action_space.shape or ())
        self._rows = np.zeros((64, slots, *self._shape), dtype)
        self._used = 0
        self._begin = np.zeros(slots, np.int64)  # falls below 0 in an episode that is too long
        self.seeds = np.zeros(slots, np.int64)
        self.rewards = np.zeros(slots)

    def begin(self, mask: Array, seeds: Array) -> None:
        """Episodes begin in the slots of `mask` [E], by resets with `seeds` [E]."""
        self.seeds[mask] = seeds[mask]
        self.rewards[mask] = 0
        self._begin[mask] = self._used

    def add(self, actions: Array) -> None:
        """Every slot takes one of `actions` [E, ...], as the environment counts them."""
        if self._used == len(self._rows):
            self._make_room()
        self._rows[self._used] = actions
        self._used += 1

    def earn(self, rewards: Array) -> None:
        """Every slot earns one of `rewards` [E] float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            self.rewards += rewards

    def steps(self) -> Array:
        """How many actions of each slot's episode there are, int64 [E]; -1 where too many."""
        steps = self._used - self._begin
        return np.where(steps > JOURNAL_STEPS, -1, steps)

    def state_dict(self) -> dict[str, Any]:
        """Copies; `actions` [sum of steps, ...] holds one slot's after the other's."""
        steps = self.steps()
        pieces = [
            self._rows[self._used - count : self._used, slot]
            for slot, count in enumerate(steps.tolist())
            if count > 0
        ]
        none = np.zeros((0, *self._shape), self._rows.dtype)
        return {
            "seeds": self.seeds.copy(),
            "rewards": self.rewards.copy(),
            "steps": steps,
            "actions": np.concatenate([none, *pieces]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: the state is not such a one; nothing was taken over.
        """
        slots = len(self.seeds)
        seeds = checked(state, "seeds", np.int64, (slots,))
        rewards = checked(state, "rewards", np.float64, (slots,))
        steps = checked(state, "steps", np.int64, (slots,))
        if (seeds < 0).any():
            raise ValueError(f"saved seeds go down to {seeds.min()}, 0 and more were wanted")
        if (steps < -1).any() or (steps > JOURNAL_STEPS).any():
            raise ValueError(
                f"saved steps go from {steps.min()} to {steps.max()}, -1 to {JOURNAL_STEPS} were "
                "wanted"
            )
        counts = np.maximum(steps, 0)
        shape = (int(counts.sum()), *self._shape)
        actions = checked(state, "actions", self._rows.dtype, shape)
        longest = int(counts.max())
        rows = np.zeros((max(64, longest), slots, *self._shape), self._rows.dtype)
        for slot, piece in enumerate(np.split(actions, np.cumsum(counts)[:-1])):
            rows[longest - len(piece) : longest, slot] = piece
        self._rows, self._used = rows, longest
        self._begin = np.where(steps < 0, longest - JOURNAL_STEPS - 1, longest - steps)
        self.seeds, self.rewards = seeds, rewards

    def actions(self, slot: int) -> Array:
        """Those of one slot's episode, [steps, ...]."""
        return self._rows[self._begin[slot] : self._used, slot]

    def _make_room(self) -> None:
        first = max(int(self._begin.min()), self._used - JOURNAL_STEPS, 0)
        kept = self._used - first
        rows = self._rows
        if first < len(rows) // 2:
            rows = np.zeros((2 * len(rows), *rows.shape[1:]), rows.dtype)
        rows[:kept] = self._rows[first:].copy()
        self._rows, self._used = rows, kept
        self._begin -= first


def live_again(
    env: SlotVector,
    journal: Journal,
    encoder: Encoder,
    observation: Observation,
    ended: Array,
) -> dict[int, str]:
    """Put back the episodes of a journal, in the slots that have not `ended` [E].

    Args:
        env: where they are to go on.
        journal: theirs.
        encoder: of its observations.
        observation: what was seen last.
        ended: slots in which there is nothing to put back.
    Returns:
        By slot, why its episode is not what it was.
    """
    steps, seeds = journal.steps(), journal.seeds
    long = f"its episode has more than {JOURNAL_STEPS:,} steps, the most that are remembered"
    reasons = dict.fromkeys(np.flatnonzero((steps < 0) & ~ended).tolist(), long)
    slots = np.flatnonzero((steps >= 0) & ~ended).tolist()
    if not slots:
        return reasons
    actions = np.concatenate([journal.actions(slot) for slot in slots])
    batch, rewards, faults = env.replay(
        slots, seeds[slots].tolist(), steps[slots].tolist(), actions
    )
    now = encoder.encode(batch, range(len(ended)), {})
    for slot in slots:
        other = [key for key in now if now[key][slot].tobytes() != observation[key][slot].tobytes()]
        earned, wanted = rewards[slot], journal.rewards[slot]
        again = f"repeating the {steps[slot]} steps since its reset"
        if slot in faults.wrong:
            reasons[slot] = f"{again}: {faults.wrong[slot]}"
        elif other:
            reasons[slot] = f"{again} led to another observation {other[0]!r}: it does not do the "
            reasons[slot] += "same from the same seed"
        elif earned.tobytes() != wanted.tobytes():
            reasons[slot] = f"{again} earned {earned} and not {wanted}: it does not do the same "
            reasons[slot] += "from the same seed"
    return reasons
