"""Vector environments of any auto-reset mode, giving one and the same experience.

| mode | what Gymnasium does when an episode ends | what is seen here |
|---|---|---|
| DISABLED | nothing, until somebody resets the slot | the closing observation, then `restart` |
| SAME_STEP | resets inside the step, closing observation in `info["final_obs"]` | the same |
| NEXT_STEP | resets in the following step, ignoring its action | the same |

Where the vector environment can reset some slots with a seed each (Gymnasium's SyncVectorEnv and
AsyncVectorEnv can in every mode), `restart` does so in every mode: every episode has its own seed,
NEXT_STEP's reset step never happens, and the three modes agree bit for bit. Where it cannot, its
own resets are followed: seeds reach the first reset only, and a NEXT_STEP reset step comes out with
`valid` False.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from recollect.envs.spaces import Encoder, action_spec, first_action
from recollect.types import (
    Array,
    ConfigError,
    EnvError,
    EnvSpec,
    NotFiniteError,
    Observation,
    VectorStep,
)


class VectorEnv:
    """E environments stepped at once. Arrays it hands out are never changed later.

    Args:
        env: a vector environment; this object owns it from now on.
        env_id: to record and to name in errors.
        kwargs: what it was made with, to record.
        max_episode_steps: the environment's time limit, to record; 0 where it has none.
        masked_reset: whether `env.reset(seed=[...], options={"reset_mask": mask})` starts episodes
            in the masked slots alone. None: yes for Gymnasium's own vector environments and
            wherever auto-reset is disabled, since nothing else could go on there.
    Raises:
        ConfigError: a space we cannot use, an auto-reset mode unstated, or one that cannot work.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        env_id: str,
        kwargs: Mapping[str, object] | None = None,
        *,
        max_episode_steps: int = 0,
        masked_reset: bool | None = None,
    ) -> None:
        self._env = env
        self.num_envs = int(env.num_envs)
        self._encoder = Encoder(env.single_observation_space, env_id)
        self.spec = EnvSpec(
            env_id,
            dict(kwargs or {}),
            self._encoder.specs,
            action_spec(env.single_action_space, env_id),
            max_episode_steps,
        )
        self._mode = _autoreset_mode(env, env_id)
        base = env.unwrapped
        gymnasiums_own = isinstance(base, (SyncVectorEnv, AsyncVectorEnv))
        if masked_reset is None:
            masked_reset = gymnasiums_own or self._mode is AutoresetMode.DISABLED
        if self._mode is AutoresetMode.DISABLED and not masked_reset:
            raise ConfigError(
                f"{env_id}: auto-reset is disabled and single slots cannot be reset, so no second "
                "episode could begin: give it an auto-reset mode, or support options['reset_mask']"
            )
        if (
            isinstance(base, AsyncVectorEnv)
            and self._mode is AutoresetMode.NEXT_STEP
            and not base.shared_memory
        ):
            # Its workers clear the pending auto-reset only where memory is shared (seen in 1.4):
            # a reset by us would be followed by a second one of theirs.
            raise ConfigError(
                f"{env_id}: AsyncVectorEnv with shared_memory=False resets twice in NEXT_STEP "
                "mode: share its memory, or choose autoreset_mode DISABLED or SAME_STEP"
            )
        self._masked = masked_reset
        self._mask_is_proven = gymnasiums_own
        self._slots = range(self.num_envs)
        self._dtype = np.dtype(env.single_action_space.dtype)
        self._first_action = first_action(env.single_action_space)
        self._action_shape = (self.num_envs, *self.spec.action.shape)
        self._all_valid = np.ones(self.num_envs, np.bool_)
        self._all_valid.setflags(write=False)
        self._last: Observation | None = None  # what was handed out last
        self._ended = np.zeros(self.num_envs, np.bool_)  # over, and not started again
        self._pending = np.zeros(self.num_envs, np.bool_)  # the next step is a reset (NEXT_STEP)
        self._waiting = self._resetting = False  # whether any of the two has a True
        self._first: Observation = {}  # SAME_STEP: first observations of the episodes begun
        self._first_faults: dict[int, str] = {}

    def reset(self, seeds: Array) -> Observation:
        """Start an episode in every slot.

        Args:
            seeds: [E] integers from 0. Where the vector environment knows but one seed for all of
                it, it gets the first.
        Returns:
            The first observations, [E, ...] by key.
        Raises:
            NotFiniteError: an observation is not finite.
            RuntimeError: one does not fit its space.
        """
        seeds = self._checked(seeds)
        self._last = None
        faults: dict[int, str] = {}
        first = self._encoded(self._reset_all(seeds), faults)
        self._refuse(faults, "reset")
        self._ended[:] = self._pending[:] = False
        self._waiting = self._resetting = False
        self._last = first
        return first

    def step(self, actions: Array) -> VectorStep:
        """Take one step in every slot.

        Args:
            actions: [E] numbers from 0 for Discrete whatever its start, [E, *shape] for a Box.
                A slot that is about to reset itself (NEXT_STEP) ignores its own.
        Returns:
            What came of it; `faults` names slots that gave what is not finite. Such a slot may be
            restarted (where single slots can be reset at all) or stepped on.
        Raises:
            RuntimeError: before a reset, while ended slots wait for `restart`, or when the
                environment gives what does not fit its spaces.
        """
        actions = np.asarray(actions)
        if self._last is None:
            raise RuntimeError(f"{self.spec.id}: step came before reset: call reset(seeds) first")
        if self._waiting:
            slots = np.flatnonzero(self._ended).tolist()
            raise RuntimeError(
                f"{self.spec.id}: the episodes of slots {slots} are over: call restart(mask, "
                "seeds) for them before the next step"
            )
        if actions.shape != self._action_shape:
            raise ValueError(
                f"actions have shape {actions.shape}, {self._action_shape} was wanted: one action "
                "for each slot"
            )
        if self._first_action:
            actions = actions + self._first_action
        self._last = None  # an error below leaves the slots apart: only a reset helps then
        try:
            batch, rewards, terminations, truncations, info = self._env.step(
                actions.astype(self._dtype, copy=False)
            )
        except Exception as error:
            error.add_note(f"while stepping {self.spec.id} x {self.num_envs}")
            raise
        reward = self._vector(rewards, np.float32, "reward")
        terminated = self._vector(terminations, np.bool_, "terminated")
        truncated = self._vector(truncations, np.bool_, "truncated")
        faults: dict[int, str] = {}
        observation = self._encoded(batch, faults)
        valid = self._all_valid
        if self._resetting:
            valid = ~self._pending
            reward[self._pending] = 0.0
            terminated[self._pending] = truncated[self._pending] = False
            self._pending[:] = self._resetting = False
        ended = terminated | truncated
        self._waiting = bool(ended.any())
        if self._waiting and self._mode is AutoresetMode.SAME_STEP:
            self._first = observation
            self._first_faults = {slot: faults.pop(slot) for slot in [*faults] if ended[slot]}
            observation = self._closing(observation, info, ended, faults)
        if not np.isfinite(reward).all():
            for slot in np.flatnonzero(~np.isfinite(reward)).tolist():
                faults.setdefault(slot, f"reward is {reward[slot]}, a finite number was wanted")
        self._ended = ended
        self._last = observation
        return VectorStep(
            observation,
            reward,
            terminated,
            truncated,
            valid,
            {slot: self._named(slot, what) for slot, what in faults.items()} if faults else {},
        )

    def restart(self, mask: Array, seeds: Array) -> Observation:
        """Start new episodes in some slots: to be called after a step in which slots ended.

        Args:
            mask: [E] bool, the slots.
            seeds: [E] integers from 0; those of other slots are not used.
        Returns:
            The current observation of all slots, [E, ...]: the first of the new episode where
            masked, elsewhere what it was. Where a NEXT_STEP environment resets itself, the closing
            observation stays until the next step.
        Raises:
            NotFiniteError: a first observation is not finite.
            RuntimeError: before a reset; for a slot whose episode goes on, where single slots
                cannot be reset; when a first observation does not fit its space.
        """
        if self._last is None:
            raise RuntimeError(f"{self.spec.id}: restart came before reset: call reset(seeds)")
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(
                f"mask is {mask.dtype} of shape {mask.shape}, bool of shape ({self.num_envs},) was "
                "wanted: one for each slot"
            )
        seeds = self._checked(seeds)
        if not mask.any():
            return self._last
        if self._masked:
            faults: dict[int, str] = {}
            fresh = self._encoded(self._reset_some(mask, seeds), faults)
            if not self._mask_is_proven:
                self._prove_the_mask(fresh, mask)
        else:
            running = np.flatnonzero(mask & ~self._ended).tolist()
            if running:
                raise RuntimeError(
                    f"{self.spec.id}: the episodes of slots {running} go on and this vector "
                    "environment cannot reset single slots: restart only those that ended, or make "
                    "a new one"
                )
            fresh, faults = self._first, self._first_faults
        if self._masked or self._mode is AutoresetMode.SAME_STEP:
            self._refuse({s: what for s, what in faults.items() if mask[s]}, "restart")
            self._last = {
                key: _replaced(array, mask, fresh[key][mask]) for key, array in self._last.items()
            }
        else:
            self._pending = self._pending | mask
            self._resetting = True
        self._ended = self._ended & ~mask
        self._waiting = bool(self._ended.any())
        return self._last

    def close(self) -> None:
        """Close the environments. A second call does nothing."""
        self._last = None
        self._env.close()

    def _checked(self, seeds: Array) -> Array:
        seeds = np.asarray(seeds)
        if seeds.shape != (self.num_envs,) or seeds.dtype.kind not in "iu" or (seeds < 0).any():
            raise ValueError(
                f"seeds are {seeds.dtype} of shape {seeds.shape}, integers from 0 of shape "
                f"({self.num_envs},) were wanted: one for each slot"
            )
        return seeds

    def _reset_all(self, seeds: Array) -> Any:
        if self._masked:
            return self._env.reset(seed=seeds.tolist())[0]
        # What a vector environment takes as a seed is not agreed on: a list, an array, one number.
        forms: list[Any] = [seeds.tolist(), seeds, int(seeds[0])]
        for form in forms[:-1]:
            try:
                return self._env.reset(seed=form)[0]
            except (TypeError, ValueError, AssertionError, gym.error.Error):
                continue
        return self._env.reset(seed=forms[-1])[0]

    def _reset_some(self, mask: Array, seeds: Array) -> Any:
        # The environment may take the mask out of the options or keep it: they are its own.
        return self._env.reset(seed=seeds.tolist(), options={"reset_mask": mask.copy()})[0]

    def _encoded(
        self, batch: Any, faults: dict[int, str], slots: Sequence[int] | None = None
    ) -> Observation:
        try:
            return self._encoder.encode(batch, self._slots if slots is None else slots, faults)
        except RuntimeError as error:
            raise EnvError(f"environment {self.spec.id}: {error}: mend its spaces") from error

    def _closing(
        self, first: Observation, info: Mapping[str, Any], ended: Array, faults: dict[int, str]
    ) -> Observation:
        """`first` with the closing observations from SAME_STEP's info in the slots that ended."""
        slots: Sequence[int] = np.flatnonzero(ended).tolist()
        final = info.get("final_obs")
        if final is None:
            raise EnvError(
                f"environment {self.spec.id}: slots {slots} ended in SAME_STEP mode without "
                "info['final_obs'], where their closing observations should be: return it there"
            )
        found: dict[int, str] = {}
        if isinstance(final, np.ndarray) and final.dtype == object:
            space = self._env.single_observation_space
            empty: Any = create_empty_array(space, len(slots))
            rows = concatenate(space, [final[slot] for slot in slots], empty)
            closing = self._encoded(rows, found, slots)
        else:  # the whole batch, of which only the slots that ended are meant
            closing = {key: array[slots] for key, array in self._encoded(final, found).items()}
        faults.update({slot: found[slot] for slot in slots if slot in found})
        return {key: _replaced(array, ended, closing[key]) for key, array in first.items()}

    def _vector(self, values: Any, dtype: Any, name: str) -> Array:
        with np.errstate(over="ignore"):  # what does not fit float32 is inf, and a fault
            array = np.array(values, dtype)  # always a copy
        if array.shape != (self.num_envs,):
            raise EnvError(
                f"environment {self.spec.id}: {name} has shape {array.shape}, ({self.num_envs},) "
                "was wanted: one for each slot"
            )
        return array

    def _prove_the_mask(self, fresh: Observation, mask: Array) -> None:
        assert self._last is not None
        others = ~mask & ~self._ended
        for key, array in self._last.items():
            if not np.array_equal(array[others], fresh[key][others], equal_nan=True):
                raise EnvError(
                    f"environment {self.spec.id}: a reset of slots {np.flatnonzero(mask).tolist()} "
                    f"alone changed observation {key!r} of others: it does not follow "
                    "options['reset_mask'], so wrap it with masked_reset=False"
                )

    def _named(self, slot: int, what: str) -> str:
        return f"environment {self.spec.id}, slot {slot}: {what}"

    def _refuse(self, faults: Mapping[int, str], verb: str) -> None:
        if faults:
            slot = min(faults)
            raise NotFiniteError(
                f"{self._named(slot, faults[slot])} from {verb}: mend the environment, no episode "
                "can begin there"
            )


def _autoreset_mode(env: gym.vector.VectorEnv[Any, Any, Any], env_id: str) -> AutoresetMode:
    stated = env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(stated)
    except ValueError:
        raise ConfigError(
            f"{env_id}: metadata['autoreset_mode'] is {stated!r}, one of "
            f"{', '.join(mode.name for mode in AutoresetMode)} was wanted: set it on the vector "
            "environment to what it does"
        ) from None


def _replaced(array: Array, mask: Array, rows: Array) -> Array:
    """A copy of `array` with `rows` where masked."""
    array = array.copy()
    array[mask] = rows
    return array
