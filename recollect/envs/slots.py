"""Environments stepped in turn, each on its own: what goes wrong in one is a fault of its slot.

A slot whose environment raised, or gave what its spaces do not allow, is closed; its next reset
makes it anew. Gymnasium's SyncVectorEnv would end with the first such environment.
"""

from __future__ import annotations

import os
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from recollect.envs import calls
from recollect.envs.spaces import Encoder
from recollect.types import Array, EnvError

MAKE, RESET, STEP, REPLAY, CLOSE = "construction", "reset", "step", "replay", "close"
Where = Callable[[int, str], str]
"""(slot, `RESET` or `STEP` or `REPLAY`) -> which slot and episode that is, as a person counts."""
LONGEST_MESSAGE = 500
"""Characters of an environment's own message that are passed on."""


@dataclass
class Faults:
    """What was wrong with which slots.

    Args:
        wrong: by slot, what happened.
        innocent: those of them that only shared a process with the one it happened in.
    """

    wrong: dict[int, str] = field(default_factory=dict)
    innocent: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Arrays:
    """Where E environments leave what a step or a reset gave."""

    observation: dict[str, Array]  # [E, ...] as the space says, by key
    reward: Array  # [E] float64
    terminated: Array  # [E] bool
    truncated: Array  # [E] bool

    @classmethod
    def empty(cls, encoder: Encoder, slots: int) -> Arrays:
        """Zeros for so many slots."""
        return cls(
            encoder.empty(slots), np.zeros(slots), np.zeros(slots, bool), np.zeros(slots, bool)
        )


class SlotVector(gym.vector.VectorEnv[Any, Any, Any]):
    """A vector environment whose slots fail, begin and are put back singly.

    `reset` follows `options["reset_mask"]`, and makes anew the environments in
    `options["anew"]` first; the info of `reset` and `step` holds "faults", a `Faults`. `where`
    says which episode a slot is in; without it, it is counted here.
    """

    where: Where | None = None

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
    ) -> None:
        self.env_id, self.num_envs = env_id, num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = observation_space
        self.single_action_space = action_space

    @abstractmethod
    def replay(
        self, slots: Sequence[int], seeds: Sequence[int], steps: Sequence[int], actions: Array
    ) -> tuple[Any, Array, Faults]:
        """Reset some slots with a seed each, and take the actions that were taken since.

        Args:
            slots: [n] which. seeds: [n]. steps: [n] how many actions each took.
            actions: [sum of steps, ...] one slot's after the other's, of any dtype that holds them.
        Returns:
            The batch of observations after it; the sums of rewards, float64 [E], added in order;
            what went wrong, also where an episode ended.
        """


class Slots(SlotVector):
    """Environments in this process.

    Args:
        make: makes one environment.
        env_id: to name.
        num_envs: E.
        first: number of the first slot, for who steps only a part of them.
        arrays: where to leave what they give, instead of own arrays.
        note: called as `note(slot, verb)` before every call of an environment, instead of
            `calls.now`.
    Raises:
        EnvError: the environments' spaces differ.
        Exception: what `make` raises.
    """

    def __init__(
        self,
        make: Callable[[], gym.Env[Any, Any]],
        env_id: str,
        num_envs: int,
        *,
        first: int = 0,
        arrays: Arrays | None = None,
        note: Callable[[int, str], None] | None = None,
    ) -> None:
        self.env_id = env_id
        self._first = first
        self._note = note or self._note_here
        self._make = make
        self._steps, self._begun = 0, [0] * num_envs  # vector steps in all, and at each reset
        self._episodes = [0] * num_envs
        with self._noting():
            self._note(first, MAKE)
            one = make()
            super().__init__(env_id, num_envs, one.observation_space, one.action_space)
            self._encoder = Encoder(one.observation_space, env_id)
            self.envs: list[gym.Env[Any, Any] | None] = [one]
            for slot in range(1, num_envs):
                self.envs.append(self._made(slot))
        self._running = [False] * num_envs
        self._arrays = arrays or Arrays.empty(self._encoder, num_envs)
        self._batch = self._encoder.nested(self._arrays.observation)

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
        mask = options.get("reset_mask", everyone)
        anew = options.get("anew", ~everyone)
        faults = Faults()
        with self._noting():
            for slot in np.flatnonzero(mask).tolist():
                if anew[slot]:
                    self._remove(slot)
                self._put(faults, slot, self._begin(slot, seed[slot]))
        return self._batch, {"faults": faults}

    def step(self, actions: Array) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """One step of every environment that was reset and did not fail since."""
        self._steps += 1
        faults, arrays = Faults(), self._arrays
        reward, terminated, truncated = arrays.reward, arrays.terminated, arrays.truncated
        with self._noting():
            for slot, running in enumerate(self._running):
                if running:
                    earned, over, cut, wrong = self._step(slot, actions[slot], STEP)
                    reward[slot], terminated[slot], truncated[slot] = earned, over, cut
                    if wrong:
                        self._put(faults, slot, wrong)
                else:
                    reward[slot] = terminated[slot] = truncated[slot] = 0
        return self._batch, reward, terminated, truncated, {"faults": faults}

    def replay(
        self, slots: Sequence[int], seeds: Sequence[int], steps: Sequence[int], actions: Array
    ) -> tuple[Any, Array, Faults]:
        """Live episodes again; see `SlotVector.replay`."""
        actions = actions.astype(self.single_action_space.dtype)
        faults, at = Faults(), 0
        with self._noting():
            for slot, seed, count in zip(slots, seeds, steps, strict=True):
                self._put(faults, slot, self._again(slot, seed, actions[at : at + count]))
                at += count
        return self._batch, self._arrays.reward, faults

    def doing(self, slot: int, verb: str) -> str:
        """In words, which call of which environment this is; see `calls.current`."""
        if self.where and verb in (STEP, RESET):
            return f"environment {self.env_id}, {self.where(slot, verb)}"
        own = slot - self._first
        episode = self._episodes[own]
        what = {
            STEP: f"step {self._steps - self._begun[own]} of episode {episode}",
            RESET: f"reset for episode {episode}",
        }.get(verb, verb)
        return f"environment {self.env_id}, slot {slot}: {what}"

    def close(self, **kwargs: Any) -> None:
        """Close the environments. One that cannot be closed does not keep others from it."""
        with self._noting():
            for slot in range(self.num_envs):
                self._remove(slot)

    def _note_here(self, slot: int, verb: str) -> None:
        calls.now = (monotonic(), self, slot, verb)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        finally:
            calls.now = None

    def _made(self, slot: int) -> gym.Env[Any, Any]:
        self._note(self._first + slot, MAKE)
        env = self._make()
        theirs = env.observation_space, env.action_space
        ours = self.single_observation_space, self.single_action_space
        for what, their, our in zip(("observation", "action"), theirs, ours, strict=True):
            if their != our:
                raise EnvError(
                    f"environment {self.env_id}, slot {self._first + slot}: its {what} space is "
                    f"{their}, slot {self._first} has {our}: give all environments the same"
                )
        return env

    def _begin(self, slot: int, seed: int | None) -> str:
        """Reset one environment, made anew if it failed; what was wrong, or an empty string."""
        self._running[slot] = False
        verb, forks = MAKE, _forks
        try:
            env = self.envs[slot]
            if env is None:
                env = self.envs[slot] = self._made(slot)
            verb = RESET
            self._episodes[slot] += 1
            self._begun[slot] = self._steps
            self._note(self._first + slot, RESET)
            given: Any = env.reset(seed=seed)
            if not isinstance(given, tuple) or len(given) != 2:
                return f"reset gave {_short(given)}, (observation, info) was wanted: mend its reset"
            wrong = self._encoder.put(given[0], self._arrays.observation, slot)
        except MemoryError:
            raise
        except calls.blamed as error:
            _leave_if_forked(forks)
            return _raised(verb, error)
        self._running[slot] = not wrong
        return _misfit(RESET, wrong)

    def _step(self, slot: int, action: Any, verb: str) -> tuple[float, bool, bool, str]:
        """Reward, flags, and what was wrong or an empty string."""
        env, forks = self.envs[slot], _forks
        assert env is not None
        self._note(self._first + slot, verb)
        try:
            given: Any = env.step(action)
            if not isinstance(given, tuple) or len(given) != 5:
                return 0.0, False, False, f"step gave {_short(given)}, " + _FIVE
            observation, reward, terminated, truncated, _ = given
            wrong = self._encoder.put(observation, self._arrays.observation, slot)
            if wrong:
                wrong = _misfit(STEP, wrong)
            if type(reward) is not float:
                earned = _number(reward)
                if earned is None:
                    wrong = wrong or f"reward is {_short(reward)}, a number{_WANTED}"
                else:
                    reward = earned
            if type(terminated) is not bool or type(truncated) is not bool:
                given_flags = {"terminated": terminated, "truncated": truncated}
                terminated, truncated = _flag(terminated), _flag(truncated)
                for (name, flag), known in zip(
                    given_flags.items(), (terminated, truncated), strict=True
                ):
                    if known is None:
                        wrong = wrong or f"{name} is {_short(flag)}, True or False{_WANTED}"
        except MemoryError:
            raise
        except calls.blamed as error:
            _leave_if_forked(forks)
            return 0.0, False, False, _raised(STEP, error)
        if wrong:
            return 0.0, False, False, wrong
        return reward, terminated, truncated, ""

    def _again(self, slot: int, seed: int, actions: Array) -> str:
        wrong = self._begin(slot, seed)
        total = 0.0
        for number, action in enumerate(actions, 1):
            if wrong:
                break
            reward, terminated, truncated, wrong = self._step(slot, action, REPLAY)
            total += reward
            if not wrong and (terminated or truncated):
                wrong = f"its episode ended at step {number}, {len(actions)} had been taken"
        self._arrays.reward[slot] = total
        self._arrays.terminated[slot] = self._arrays.truncated[slot] = False
        return wrong

    def _put(self, faults: Faults, slot: int, wrong: str) -> None:
        if wrong:
            faults.wrong[slot] = wrong
            self._remove(slot)

    def _remove(self, slot: int) -> None:
        """Close an environment for good; what it raises in that is of no use to anybody."""
        self._running[slot] = False
        env, self.envs[slot] = self.envs[slot], None
        if env is not None:
            self._note(self._first + slot, CLOSE)
            with suppress(*calls.blamed):
                env.close()


_WANTED = " was wanted (from step): mend its step"
_FIVE = "(observation, reward, terminated, truncated, info) was wanted: mend its step"


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _flag(value: Any) -> bool | None:
    """A truth value however it comes: 0 and 1, NumPy's, an array without axes."""
    if isinstance(value, np.ndarray) and not value.ndim:
        value = value.item()
    try:
        return {False: False, True: True}.get(value)
    except TypeError:
        return None


def _short(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}..."


_forks = 0
"""How often this process and those before it were forked from one another."""


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def _leave_if_forked(before: int) -> None:
    """End a process that an environment forked in its call: to train on is not its business."""
    if _forks != before:
        os._exit(1)


def _raised(verb: str, error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__, limit=-1)[-1]
    try:
        said = " ".join(str(error).split())
    except Exception as unsaid:
        said = f"and saying what, {type(unsaid).__name__}"
    if len(said) > LONGEST_MESSAGE:
        said = f"{said[:LONGEST_MESSAGE]}..."
    kind = type(error).__name__ + (f": {said}" if said else "")
    return f"{verb} raised {kind} ({where.filename}, line {where.lineno})"


def _misfit(verb: str, wrong: str) -> str:
    return f"{wrong} (from {verb}): mend its space or its {verb}" if wrong else ""
