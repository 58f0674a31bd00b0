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

Slots that fail do so singly where `registry.make` made them: a fault of the step for that slot, or
a reset that is tried again. Those also keep a journal, from which episodes can be put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from recollect.envs import foreign
from recollect.envs.failures import LIMIT, Failures, another_seed
from recollect.envs.journal import Journal, live_again
from recollect.envs.restoring import saved_dict, saved_vector
from recollect.envs.slots import REPLAY, RESET, STEP, Faults, SlotVector, Where
from recollect.envs.spaces import Encoder, action_spec, first_action
from recollect.types import Array, EnvError, EnvSpec, NotFiniteError, Observation, VectorStep


class VectorEnv:
    """E environments stepped at once. Arrays it hands out are never changed later.

    Args:
        env: a vector environment; this object owns it from now on. One with a true `hands_over`
            gives new arrays at every step and never writes into them again: they are not copied.
        env_id: to record and to name in errors.
        kwargs: what it was made with, to record.
        max_episode_steps: the environment's time limit, to record; 0 where it has none.
        masked_reset: whether `env.reset(seed=[...], options={"reset_mask": mask})` starts episodes
            in the masked slots alone. None: yes for Gymnasium's own vector environments and
            wherever auto-reset is disabled, since nothing else could go on there.
        clock: seconds that only rise, by which failures are counted.
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
        clock: Callable[[], float] = monotonic,
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
        self._mode, self._masked = foreign.reset_mode(env, env_id, masked_reset)
        self._own = env if isinstance(env, SlotVector) else None
        self._hands_over = bool(getattr(env, "hands_over", False))
        self._mask_is_proven = self._own is not None or foreign.gymnasiums_own(env)
        self._failures = Failures(clock)
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
        self._journal = Journal(self.num_envs, env.single_action_space)
        self._afresh = False  # everything must be reset, though there is an observation
        self._where: Where = lambda slot, verb: f"slot {slot}"

    def name_slots(self, where: Where) -> None:
        """Have messages say `where(slot, verb)`: who steps the slots knows episode and step."""
        self._where = where
        if self._own:
            self._own.where = where

    @property
    def failures(self) -> int:
        """How often an environment failed: raised, hung, ended, or gave what cannot be used."""
        return self._failures.total

    @property
    def fault(self) -> str:
        """The last of these, in words; empty if there was none."""
        return self._failures.last

    def go_on_from(self, failures: int) -> None:
        """Count on from failures of environments that were here before these."""
        self._failures.total = failures

    @property
    def observation(self) -> Observation:
        """The current observation of all slots, [E, ...] by key; empty before a reset."""
        return self._last or {}

    def reset(self, seeds: Array) -> Observation:
        """Start an episode in every slot.

        Args:
            seeds: [E] integers from 0. Where the vector environment knows but one seed for all of
                it, it gets the first.
        Returns:
            The first observations, [E, ...] by key.
        Raises:
            EnvError: a slot failed too often. Before that a reset that fails is tried again with
                another seed that follows from the given one, after a warning.
            NotFiniteError: an observation is not finite, where single slots cannot be reset.
        """
        seeds = self._checked(seeds)
        self._last = None
        if self._masked:
            first = self._begin(self._all_valid, seeds, "reset")
        else:
            faults: dict[int, str] = {}
            first = self._encoded(foreign.reset_all(self._env, seeds), faults)
            self._refuse(faults, "reset")
        self._forget()
        self._last = first
        return first

    def step(self, actions: Array) -> VectorStep:
        """Take one step in every slot.

        Args:
            actions: [E] numbers from 0 for Discrete whatever its start, [E, *shape] for a Box.
                A slot that is about to reset itself (NEXT_STEP) ignores its own.
        Returns:
            What came of it; `faults` names slots that failed. One that gave what is not finite may
            be restarted (where single slots can be reset at all) or stepped on. One whose
            environment raised, ended, hung or gave what does not fit its spaces must be restarted;
            its observation means nothing.
        Raises:
            RuntimeError: before a reset, or while slots wait for `restart`.
            EnvError: failures are too many; or a vector environment made elsewhere gives what does
                not fit its spaces.
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
        # As the environment counts them, in its dtype; a copy, for it may write into it.
        given = actions.astype(self._dtype) + self._first_action
        if self._own:
            self._journal.add(given)
        self._last = None  # an error below leaves the slots apart: only a reset helps then
        try:
            batch, rewards, terminations, truncations, info = self._env.step(given)
        except Exception as error:
            error.add_note(f"while stepping {self.spec.id} x {self.num_envs}")
            raise
        one_each = partial(foreign.one_each, self.spec.id, self.num_envs)
        reward = one_each(rewards, np.float32, "reward")
        terminated = one_each(terminations, np.bool_, "terminated")
        truncated = one_each(truncations, np.bool_, "truncated")
        found: Faults = info["faults"] if self._own else Faults()
        faults = dict(found.wrong)
        observation = self._encoded(batch, faults)
        if self._own:
            self._journal.earn(rewards)
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
        if found.wrong:
            ended[[*found.wrong]] = self._waiting = True
        named: dict[int, str] = {}
        if faults:
            # First the slot it happened in, then those that were lost with it.
            slots = sorted(faults, key=lambda slot: (slot in found.innocent, slot))
            named = {slot: self._named(slot, STEP, faults[slot]) for slot in slots}
            for slot in named.keys() - found.innocent:
                self._failures.add(named[slot])
        self._ended = ended
        self._last = observation
        return VectorStep(observation, reward, terminated, truncated, valid, named, found.innocent)

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
            EnvError, NotFiniteError: as in `reset`.
            RuntimeError: before a reset; for a slot whose episode goes on, where single slots
                cannot be reset.
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
        if self._afresh:
            if not mask.all():
                raise RuntimeError(
                    f"{self.spec.id}: no episode could be put back: restart all slots at once"
                )
            return self.reset(seeds)
        faults: dict[int, str] = {}
        if self._masked:
            fresh = self._begin(mask, seeds, "restart")
            if not self._mask_is_proven:
                others = ~mask & ~self._ended
                foreign.prove_the_mask(self.spec.id, self._last, fresh, mask, others)
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

    def state_dict(self) -> dict[str, Any]:
        """The running episodes as what it takes to live them again; a snapshot."""
        state: dict[str, Any] = {
            "num_envs": self.num_envs,
            "failures": self.failures,
            "started": self._last is not None,
        }
        if self._last is not None:
            state["observation"] = {key: array.copy() for key, array in self._last.items()}
            state["ended"] = self._ended.copy()
            if self._own:
                state["journal"] = self._journal.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> dict[int, str]:
        """Put the saved episodes back, by resets with their seeds and all their actions again.

        Afterwards `observation` is the saved one, of every slot.

        Returns:
            Why, for each slot whose episode could not be put back. These must be restarted before
            the next step (all at once, where it is a vector environment made elsewhere), and so
            must those that waited for it when the state was saved.
        Raises:
            ValueError: the state is not one of so many slots and such spaces.
        """
        saved = saved_vector(state, self.num_envs, self._encoder.specs)
        reasons: dict[int, str] = {}
        if saved.observation and self._own:
            self._journal.load_state_dict(saved_dict(state, "journal"))
            reasons = live_again(
                self._own, self._journal, self._encoder, saved.observation, saved.ended
            )
        elif saved.observation:
            why = "a vector environment made elsewhere can neither save nor repeat an episode"
            reasons = dict.fromkeys(self._slots, why)
        self._forget()
        self._failures.total = saved.failures
        self._ended = saved.ended
        self._ended[[*reasons]] = True
        self._waiting = bool(self._ended.any())
        self._afresh = bool(reasons) and self._own is None
        self._last = saved.observation
        return {slot: self._named(slot, REPLAY, why) for slot, why in reasons.items()}

    def close(self) -> None:
        """Close the environments. A second call does nothing."""
        self._last = None
        self._env.close()

    def _forget(self) -> None:
        """What hangs over from steps before a reset of everything."""
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._pending = np.zeros(self.num_envs, np.bool_)
        self._waiting = self._resetting = self._afresh = False

    def _begin(self, mask: Array, seeds: Array, verb: str) -> Observation:
        """First observations in the slots of `mask`; a slot that fails is tried again."""
        seeds, given, left = seeds.copy(), seeds, mask
        for attempt in range(1, LIMIT + 2):
            # The environment may take the mask out of the options or keep it: they are its own.
            options = {"reset_mask": left.copy()}
            if self._own and attempt > 1:
                options["anew"] = left.copy()
            asked = None if verb == "reset" and attempt == 1 else options
            batch, info = self._env.reset(seed=seeds.tolist(), options=asked)
            found: Faults = info["faults"] if self._own else Faults()
            faults = dict(found.wrong)
            first = self._encoded(batch, faults)
            wrong = {slot: self._named(slot, RESET, faults[slot]) for slot in faults if left[slot]}
            if not wrong:
                self._journal.begin(mask, seeds)
                return first
            for slot in sorted(wrong.keys() - found.innocent):
                self._failures.add(wrong[slot])
                self._failures.warn(wrong[slot])
                seeds[slot] = another_seed(int(given[slot]), attempt)
            left = np.isin(self._slots, [*wrong])
        raise EnvError(
            f"{wrong[min(wrong)]}; {LIMIT + 1} seeds were tried one after the other: mend the "
            "environment, no episode can begin there"
        )

    def _checked(self, seeds: Array) -> Array:
        seeds = np.asarray(seeds)
        kept = seeds.astype(np.int64) if seeds.dtype.kind in "iu" else -np.ones(1)
        if seeds.shape != (self.num_envs,) or (kept < 0).any():
            raise ValueError(
                f"seeds are {seeds.dtype} of shape {seeds.shape}, integers from 0 of shape "
                f"({self.num_envs},) were wanted: one for each slot"
            )
        return kept

    def _encoded(
        self, batch: Any, faults: dict[int, str], slots: Sequence[int] | None = None
    ) -> Observation:
        try:
            slots = self._slots if slots is None else slots
            return self._encoder.encode(batch, slots, faults, hands_over=self._hands_over)
        except RuntimeError as error:
            raise EnvError(f"environment {self.spec.id}: {error}: mend its spaces") from error

    def _closing(
        self, first: Observation, info: Mapping[str, Any], ended: Array, faults: dict[int, str]
    ) -> Observation:
        """`first` with the closing observations from SAME_STEP's info in the slots that ended."""
        slots: list[int] = np.flatnonzero(ended).tolist()
        found: dict[int, str] = {}
        rows, whole = foreign.closing(self._env, self.spec.id, info, slots)
        if whole:  # of which only the slots that ended are meant
            closing = {key: array[slots] for key, array in self._encoded(rows, found).items()}
        else:
            closing = self._encoded(rows, found, slots)
        faults.update({slot: found[slot] for slot in slots if slot in found})
        return {key: _replaced(array, ended, closing[key]) for key, array in first.items()}

    def _named(self, slot: int, verb: str, what: str) -> str:
        return f"environment {self.spec.id}, {self._where(slot, verb)}: {what}"

    def _refuse(self, faults: Mapping[int, str], verb: str) -> None:
        if faults:
            named = self._named(min(faults), RESET, faults[min(faults)])
            raise NotFiniteError(
                f"{named} from {verb}: mend the environment, no episode can begin there"
            )


def _replaced(array: Array, mask: Array, rows: Array) -> Array:
    """A copy of `array` with `rows` where masked."""
    array = array.copy()
    array[mask] = rows
    return array
