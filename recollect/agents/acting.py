"""The actor: it makes blocks and prioritised windows of the steps it takes.

A turn is one step of all E environments of an actor, with one batched forward pass. Nothing here
knows which agent it acts for: the network gives values [E, A] and a recurrent state, and the agent
lends the function that makes absolute TD errors of them, the learner's own (trap 12).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from recollect import states
from recollect.agents.policy import Carry, Policy, epsilon_greedy_actions
from recollect.envs.slots import RESET, STEP
from recollect.envs.vector import VectorEnv
from recollect.maths import philox, priorities
from recollect.parameters import Parameters, Version
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.episodes import Item
from recollect.replay.store import Replay
from recollect.replay.windows import Windows
from recollect.types import (
    NO_ACTION,
    Array,
    ConfigError,
    DivergedError,
    Metrics,
    Observation,
    VectorStep,
)

AbsoluteErrors = Callable[[Array, Array, Array, Array], Array]
"""(values [T + 1, A], actions [T], rewards [T], discounts [T]) -> absolute TD errors [T]."""

EPOCH_BITS, SLOT_BITS, EPISODE_BITS = 15, 16, 32
"""Of an episode's uid, from its highest on."""
FAULTS_TOLD = 3
"""Of an actor's or an evaluator's: an environment can have thousands."""

_ARRAYS = (
    *("epochs", "episodes", "elapsed", "begin", "pos", "return", "lost"),
    *("actions", "rewards", "discounts"),
    *("block_states", "block_previous", "block_previous_reward"),
)
_SLOT_NUMBERS = ("episode", "blocks", "window", "errors_from", "versions_from")
_RECENT = {"slot": np.int64, "return": np.float64, "steps": np.int64}
_TOTALS = ("turns", "env_steps", "finished", "dropped", "cut_short")


def episode_uid(epoch: int, slot: int, episode: int) -> int:
    """One number for an episode, unique over a run's epochs and global slots."""
    return ((epoch << SLOT_BITS) + slot << EPISODE_BITS) + episode


def tell_of_fault(message: str, number: int) -> None:
    """Warn of an environment's fault, unless its `number`, from 1, is beyond `FAULTS_TOLD`."""
    if number > FAULTS_TOLD:
        return
    more = ". More of these are only counted" if number == FAULTS_TOLD else ""
    warnings.warn(message + more, RuntimeWarning, stacklevel=3)


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays in nested dicts, copied."""
    return {k: v.copy() if isinstance(v, np.ndarray) else _copied(v) for k, v in tree.items()}


class _Slot:
    """What one environment slot keeps of its running episode, beside the arrays of all slots."""

    def __init__(self) -> None:
        self.episode = -1
        self.forget()

    def forget(self) -> None:
        self.blocks = 0  # sent so far
        self.window = 0  # next window to send
        self.errors: list[Array] = []  # absolute TD errors from its start on, a piece each cut
        self.errors_from = 0  # step of the first of them
        self.versions: list[int] = []  # of the parameters that its blocks began with
        self.versions_from = 0  # block of the first of them


class Actor:
    """Worker: E environments as a vector, one forward pass a turn, blocks and items to replay.

    Per slot it keeps only the block in the making, the `n_step` steps before it whose TD error is
    still open, and the errors of windows not sent yet. A block is sent when it has `period` steps
    or its episode ends, a window when all it needs lies in blocks sent.

    Args:
        policy: acts; loaded from `parameters` every `refresh_period` steps of a slot.
        env: E environment slots. first_slot: global number of the first.
        epsilons: [N] of all slots of the run, by global number.
        replay, parameters: the services.
        windows, block_spec: geometry. n_step, gamma, eta: as the learner's.
        absolute_errors: the learner's TD errors on one slot's steps, both roles played by the
            acting network, whose values are at hand.
        seed, epoch: keys of every random draw.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        env: VectorEnv,
        first_slot: int,
        epsilons: Array,
        replay: Replay,
        parameters: Parameters,
        windows: Windows,
        block_spec: BlockSpec,
        n_step: int,
        gamma: float,
        eta: float,
        refresh_period: int,
        absolute_errors: AbsoluteErrors,
        seed: int,
        epoch: int = 0,
    ) -> None:
        self._policy, self._env = policy, env
        self._replay, self._parameters = replay, parameters
        self._windows, self._spec = windows, block_spec
        self._n_step, self._gamma, self._eta = n_step, gamma, eta
        self._refresh_period, self._absolute_errors = refresh_period, absolute_errors
        self._seed = seed
        slots = env.num_envs
        if first_slot + slots >= 1 << SLOT_BITS:  # the last number is for abandoned episodes
            raise ConfigError(f"actors can be {(1 << SLOT_BITS) - 1:,} at most: lower actors")
        self._slot_numbers = np.arange(first_slot, first_slot + slots, dtype=np.int64)
        self._rows = np.arange(slots)
        self._ladder = epsilons
        self._epsilons = epsilons[self._slot_numbers]
        self._slots = [_Slot() for _ in range(slots)]
        self._epochs = np.full(slots, epoch, np.int64)
        self._episodes = np.full(slots, -1, np.int64)
        self._elapsed = np.zeros(slots, np.int64)  # steps of the running episode
        self._begin = np.zeros(slots, np.int64)  # history row where the block in the making begins
        self._version: Version | None = None
        self._turns = 0
        self._env_steps = self._finished = self._dropped = self._cut_short = 0
        self._faults = 0  # of environments that were told of, or too many for that
        self._lost = np.zeros(slots, np.bool_)  # slots whose episode could not be put back
        self._return = np.zeros(slots)
        self._recent: list[tuple[int, float, int]] = []  # (slot, return, steps) since last metrics
        self._outbox: tuple[list[Block], list[Item]] = ([], [])
        self._allocate(slots)
        self._observation: Observation = {}
        self._carry = policy.start(slots)
        env.name_slots(self._where)

    def _where(self, slot: int, verb: str) -> str:
        """A slot as the run counts it, and the call that is made, for messages."""
        number, episode = self._slot_numbers[slot], int(self._episodes[slot])
        if verb == RESET:
            return f"slot {number}, reset for episode {episode + 1}"
        step = f", step {self._elapsed[slot] + 1}" if verb == STEP else ""
        return f"slot {number}, episode {episode}{step}"

    def _allocate(self, slots: int) -> None:
        period, history = self._spec.period, self._spec.period + self._n_step
        rows = self._spec.context + period + 1
        self._block_observation = {
            key: spec.zeros(slots, rows) for key, spec in self._spec.observation.items()
        }
        self._block_states = np.zeros(
            (slots, len(self._spec.state_offsets), self._spec.state_size), np.float32
        )
        self._state_row = np.full(period, -1)
        self._state_row[list(self._spec.state_offsets)] = range(len(self._spec.state_offsets))
        self._block_previous = self._spec.action.zeros(slots)
        self._block_previous_reward = np.zeros(slots, np.float32)
        # History rows: up to n_step steps whose error is open, then the block in the making.
        self._actions = self._spec.action.zeros(slots, history)
        self._rewards = np.zeros((slots, history), np.float32)
        self._discounts = np.zeros((slots, history), np.float32)
        self._values: Array | None = None  # [E, history + 1, A], once A is known
        self._pos = np.zeros(slots, np.int64)  # history row of the current step

    def ready(self) -> bool:
        """Whether replay wants experience and there are parameters to act with."""
        return self._replay.wants_insert() and self._parameters.version() is not None

    def step(self) -> None:
        """One step of every environment."""
        if not self._observation:
            self._first_reset()
        elif self._lost.any():
            self._begin_again()
        if self._turns % self._refresh_period == 0:
            self._refresh()
        self._turns += 1
        values, state = self._policy(self._observation, self._carry)
        self._require_finite(values, "values")
        self._require_finite(state, "recurrent states")
        if self._values is None:
            self._values = np.zeros(
                (len(self._rows), self._rewards.shape[1] + 1, values.shape[1]), np.float32
            )
        self._values[self._rows, self._pos] = values
        for slot in np.flatnonzero(self._pos - self._begin == self._spec.period):
            self._cut(int(slot), ended=False)
        draws = philox.uniforms(
            self._seed,
            philox.Purpose.EXPLORATION,
            self._slot_numbers,
            self._episodes,
            self._epochs,
            self._elapsed,
        )
        actions = epsilon_greedy_actions(values, self._epsilons, draws)
        step = self._env.step(actions)
        self._record(actions, step)
        self._carry = self._policy.advance(self._carry, self._observation, state, actions, step)
        self._observation = step.observation
        self._finish(step)
        blocks, items = self._outbox
        if blocks:
            self._outbox = ([], [])
            self._replay.insert(blocks, items)

    def _first_reset(self) -> None:
        everyone = np.ones(len(self._rows), bool)
        self._observation = self._env.reset(self._next_seeds(everyone))
        self._start_episodes(everyone)

    def _begin_again(self) -> None:
        """Close the episodes that could not be put back as truncated, and start others there."""
        lost = self._lost
        begun = lost & (self._elapsed > 0)
        if begun.any():
            self._close(begun, truncated=True)
        self._cut_short += int(np.count_nonzero(begun))
        self._observation = self._env.restart(lost, self._next_seeds(lost))
        self._start_episodes(lost)
        self._lost = np.zeros_like(lost)

    def _next_seeds(self, mask: Array) -> Array:
        return philox.seeds(
            self._seed,
            philox.Purpose.RESET,
            self._slot_numbers,
            self._episodes + mask,
            self._epochs,
        )

    def _start_episodes(self, mask: Array) -> None:
        self._episodes += mask
        for array in (self._elapsed, self._begin, self._pos, self._return):
            array[mask] = 0
        for slot in np.flatnonzero(mask):
            self._slots[slot].forget()
            self._slots[slot].episode = episode_uid(
                int(self._epochs[slot]), int(self._slot_numbers[slot]), int(self._episodes[slot])
            )
        self._policy.begin(self._carry, mask)

    def _refresh(self) -> None:
        newer = self._parameters.latest(self._version)
        if newer is not None:
            self._policy.load(newer.vector)
            self._version = newer.version

    def _record(self, actions: Array, step: VectorStep) -> None:
        """Write the step just taken into the history and the block in the making."""
        rows = self._rows if step.valid.all() else np.flatnonzero(step.valid)
        pos, inside = self._pos[rows], self._pos[rows] - self._begin[rows]
        context = self._spec.context
        for key, array in self._block_observation.items():
            array[rows, context + inside] = self._observation[key][rows]
        offsets = self._state_row[inside]
        kept = offsets >= 0
        if kept.any():
            self._block_states[rows[kept], offsets[kept]] = self._carry.recurrent_state[rows[kept]]
        first = rows[inside == 0]
        if first.size:
            self._block_previous[first] = self._carry.previous_action[first]
            self._block_previous_reward[first] = self._carry.previous_reward[first]
            if context:
                for key, array in self._block_observation.items():
                    array[first, :context] = self._carry.frames[key][first]
            version = self._version.updates if self._version else 0
            for slot in first:
                self._slots[slot].versions.append(version)
        self._actions[rows, pos] = actions[rows]
        self._rewards[rows, pos] = step.reward[rows]
        self._discounts[rows, pos] = np.where(step.terminated[rows], 0, self._gamma)
        self._pos[rows] += 1
        self._elapsed[rows] += 1
        self._return[rows] += step.reward[rows]
        self._env_steps += len(rows)

    def _finish(self, step: VectorStep) -> None:
        """Close the episodes that ended, drop the ones at fault, and start the next ones."""
        ended = (step.terminated | step.truncated) & step.valid
        faulty = np.zeros_like(ended)
        faulty[list(step.faults)] = True
        ended &= ~faulty
        if not (ended.any() or faulty.any()):
            return
        self._close(ended, truncated=bool((ended & ~step.terminated).any()))
        for slot in np.flatnonzero(ended):
            self._recent.append(
                (int(self._slot_numbers[slot]), float(self._return[slot]), int(self._elapsed[slot]))
            )
            self._finished += 1
        others = len(step.bystanders)
        with_it = f", with {others} more of the same process" if others else ""
        for number, message in step.faults.items():
            self._drop(number)
            if number not in step.bystanders:
                self._faults += 1
                tell_of_fault(
                    f"{message}; the episode is dropped and the slot starts another{with_it}",
                    self._faults,
                )
        over = ended | faulty
        self._observation = self._env.restart(over, self._next_seeds(over))
        self._start_episodes(over)

    def _close(self, ended: Array, *, truncated: bool) -> None:
        """Send what is left of the episodes in `ended` [E]; `truncated`: any of them bootstraps."""
        assert self._values is not None
        if truncated:
            # A truncated episode bootstraps from its closing observation: one more batched pass.
            closing, _ = self._policy(self._observation, self._carry)
            self._values[self._rows, self._pos] = np.where(
                ended[:, None], closing, self._values[self._rows, self._pos]
            )
        else:
            self._values[self._rows[ended], self._pos[ended]] = 0
        for slot in np.flatnonzero(ended):
            row = self._spec.context + self._pos[slot] - self._begin[slot]
            for key, array in self._block_observation.items():
                array[slot, row] = self._observation[key][slot]
            self._cut(int(slot), ended=True)

    def _drop(self, slot: int) -> None:
        self._dropped += 1
        kept = [b for b in self._outbox[0] if b.episode != self._slots[slot].episode]
        items = [i for i in self._outbox[1] if i.episode != self._slots[slot].episode]
        self._outbox = (kept, items)
        if self._slots[slot].blocks:
            self._replay.drop_episode(self._slots[slot].episode)

    def _cut(self, slot: int, *, ended: bool) -> None:
        """Send the block in the making, and the windows that are whole with it."""
        assert self._values is not None
        own, pos, begin = self._slots[slot], int(self._pos[slot]), int(self._begin[slot])
        length = pos - begin
        offsets = sum(1 for offset in self._spec.state_offsets if offset < length)
        block = Block.build(
            self._spec,
            episode=own.episode,
            index=own.blocks,
            observations={
                key: array[slot, : self._spec.context + length + ended]
                for key, array in self._block_observation.items()
            },
            actions=self._actions[slot, begin:pos],
            rewards=self._rewards[slot, begin:pos],
            discounts=self._discounts[slot, begin:pos],
            states=self._block_states[slot, :offsets],
            previous_action=self._block_previous[slot],
            previous_reward=self._block_previous_reward[slot],
            last=ended,
        )
        own.blocks += 1
        self._outbox[0].append(block)
        known = pos if ended else max(0, pos - self._n_step)
        if known:
            errors = self._absolute_errors(
                self._values[slot, : pos + 1],
                self._actions[slot, :pos],
                self._rewards[slot, :pos],
                self._discounts[slot, :pos],
            )
            self._require_finite(errors[:known], "TD errors")
            own.errors.append(errors[:known])
        self._send_windows(own, steps=int(self._elapsed[slot]), ended=ended)
        if not ended:
            # The open steps move to the front; their values and the current one go with them.
            for array in (self._actions, self._rewards, self._discounts):
                array[slot, : pos - known] = array[slot, known:pos].copy()
            self._values[slot, : pos - known + 1] = self._values[slot, known : pos + 1].copy()
            self._begin[slot] = self._pos[slot] = pos - known

    def _require_finite(self, array: Array, what: str) -> None:
        if not np.isfinite(array).all():
            version = self._version.updates if self._version else 0
            raise DivergedError(
                f"the acting network's {what} are not finite with the parameters after {version:,} "
                "updates: lower learning_rate, or scale rewards and observations down"
            )

    def _send_windows(self, own: _Slot, *, steps: int, ended: bool) -> None:
        errors: Array | None = None
        known = own.errors_from + sum(map(len, own.errors))
        while self._windows.ready(own.window, steps, ended):
            window = self._windows.window(own.window, steps)
            if window.start + window.learned > known:
                break  # with a shortened tail its last errors are still open
            if errors is None:
                errors = np.concatenate(own.errors)
            begin = window.start - own.errors_from
            learned = torch.from_numpy(errors[begin : begin + window.learned])
            block = (window.start - window.prefix) // self._spec.period
            priority = priorities.sequence_priority(
                learned[:, None], torch.ones(len(learned), 1, dtype=torch.bool), self._eta
            )
            self._outbox[1].append(
                Item(
                    episode=own.episode,
                    start=window.start,
                    prefix=window.prefix,
                    learned=window.learned,
                    tail=window.tail,
                    priority=float(priority),
                    version=own.versions[block - own.versions_from],
                )
            )
            own.window += 1
        if errors is not None:  # what later windows need stays, however long the episode
            start, block = own.window * self._spec.period, self._windows.oldest_block(own.window)
            own.errors = [errors[start - own.errors_from :].copy()]
            own.versions = own.versions[block - own.versions_from :]
            own.errors_from, own.versions_from = start, block

    @property
    def fault(self) -> str:
        """The last of an environment, in words; empty if there was none."""
        return self._env.fault

    def close(self) -> None:
        """Close the environments."""
        self._env.close()

    def begin_epoch(self, epoch: int) -> None:
        """Draw, and number episodes, as this life of the actor; before its first step.

        Raises:
            ValueError: it has had more lives than can be numbered.
        """
        if not 0 <= epoch < 1 << EPOCH_BITS:
            raise ValueError(f"an actor's epoch is in [0, {1 << EPOCH_BITS:,}), {epoch:,} came")
        self._epochs[:] = epoch

    def go_on_from(self, counts: Mapping[str, int]) -> None:
        """Count on from what earlier lives have added, as `counts` says; before the first step."""
        self._env_steps, self._finished = counts["env_steps"], counts["episodes"]
        self._dropped, self._cut_short = counts["dropped_episodes"], counts["cut_short_episodes"]
        self._env.go_on_from(counts["env_failures"])

    def unsent_steps(self) -> int:
        """Steps that were taken, and are in no block yet."""
        return int((self._pos - self._begin).sum())

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, the environments included; between two turns."""
        own = self._slots
        errors = [errors for slot in own for errors in slot.errors]
        return {
            "arrays": {name: getattr(self, f"_{name}").copy() for name in _ARRAYS},
            "block_observation": {k: v.copy() for k, v in self._block_observation.items()},
            "values": None if self._values is None else self._values.copy(),
            "slots": {
                **{
                    n: np.array([getattr(slot, n) for slot in own], np.int64) for n in _SLOT_NUMBERS
                },
                "errors": np.concatenate([np.zeros(0, np.float32), *errors]),
                "error_counts": np.array([sum(map(len, s.errors)) for s in own], np.int64),
                "versions": np.array([v for slot in own for v in slot.versions], np.int64),
                "version_counts": np.array([len(slot.versions) for slot in own], np.int64),
            },
            "policy": self._policy.vector(),
            "version": None if self._version is None else list(self._version),
            **{name: getattr(self, f"_{name}") for name in _TOTALS},
            "recent": {
                "slot": np.array([slot for slot, _, _ in self._recent], np.int64),
                "return": np.array([value for _, value, _ in self._recent], np.float64),
                "steps": np.array([steps for _, _, steps in self._recent], np.int64),
            },
            "observation": {key: array.copy() for key, array in self._observation.items()},
            "carry": _copied(vars(self._carry)),
            "env": self._env.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the actor of this state was; a state of counts alone: with those, from anew.

        The episode of a slot whose environment cannot be put back is closed as truncated and
        another one begins there; a warning says so.

        Raises:
            ValueError: the state is of another actor, or damaged; this one is not to be used then.
        """
        if state.keys() == self.counts().keys():
            self.go_on_from({name: states.count(state, name) for name in state})
            return
        for name in _ARRAYS:
            like = getattr(self, f"_{name}")
            setattr(self, f"_{name}", states.array(states.part(state, "arrays"), name, like))
        if (self._epochs < 0).any() or (self._epochs >= 1 << EPOCH_BITS).any():
            raise ValueError(f"an epoch is not in [0, {1 << EPOCH_BITS:,})")
        for name, least in (("begin", 0), ("pos", 0), ("elapsed", 0), ("episodes", -1)):
            if (state["arrays"][name] < least).any():
                raise ValueError(f"{name} has a number below {least}")
        if (self._pos - self._begin > self._spec.period).any() or (self._begin > self._pos).any():
            raise ValueError(f"a block in the making is longer than {self._spec.period} steps")
        if (self._begin > self._n_step).any():
            raise ValueError(f"more than {self._n_step} steps are open before a block")
        self._require_actions(self._actions, self._block_previous)
        seen = states.part(state, "block_observation")
        self._block_observation = {
            key: states.array(seen, key, own) for key, own in self._block_observation.items()
        }
        self._values = None
        if states.member(state, "values") is not None:
            steps = self._rewards.shape[1] + 1
            like = np.zeros((len(self._rows), steps, self._policy.action.num_actions), np.float32)
            self._values = states.array(state, "values", like)
        self._load_slots(states.part(state, "slots"))
        self._policy.load(states.array(state, "policy", self._policy.vector()))
        version = states.member(state, "version")
        self._version = None if version is None else Version.restored(version)
        for name in _TOTALS:
            setattr(self, f"_{name}", states.count(state, name))
        recent = states.part(state, "recent")
        columns = [states.column(recent, n, t) for n, t in _RECENT.items()]
        self._recent = list(zip(*(column.tolist() for column in columns), strict=True))
        blank = {k: spec.zeros(len(self._rows)) for k, spec in self._spec.observation.items()}
        seen = states.part(state, "observation")
        self._observation = {k: states.array(seen, k, v) for k, v in blank.items() if seen}
        carry = states.part(state, "carry")
        fields = vars(self._policy.start(len(self._rows)))
        frames = fields.pop("frames")
        self._carry = Carry(
            **{name: states.array(carry, name, v) for name, v in fields.items()},
            frames={k: states.array(states.part(carry, "frames"), k, v) for k, v in frames.items()},
        )
        self._require_actions(self._carry.previous_action)
        self._outbox = ([], [])
        unplaced = self._env.load_state_dict(states.part(state, "env"))
        if unplaced and self._observation:
            self._lost[list(unplaced)] = True
            warnings.warn(
                f"{len(unplaced)} of {len(self._rows)} environment slots cannot be put back where "
                "they were: their episodes are closed as truncated and others begin. "
                f"{unplaced[min(unplaced)]}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _require_actions(self, *arrays: Array) -> None:
        for array in arrays:
            if (array < NO_ACTION).any() or (array >= self._policy.action.num_actions).any():
                raise ValueError(f"an action is not below {self._policy.action.num_actions}")

    def _load_slots(self, state: Mapping[str, Any]) -> None:
        slots = len(self._slots)
        like = np.zeros(slots, np.int64)
        numbers = {name: states.array(state, name, like).tolist() for name in _SLOT_NUMBERS}
        pieces = {}
        for name, dtype in (("error", np.float32), ("version", np.int64)):
            counts = states.array(state, f"{name}_counts", like)
            values = states.column(state, f"{name}s", dtype)
            if (counts < 0).any() or counts.sum() != len(values):
                raise ValueError(f"{name}s are {len(values)}, {counts.sum()} were counted")
            pieces[name] = np.split(values, np.cumsum(counts)[:-1])
        making = self._pos - self._begin
        sent = (self._elapsed - making) // self._spec.period
        windows = numbers["window"]
        if min(windows) < 0:
            raise ValueError(f"windows sent are {windows}")
        for name, found, wanted in (
            ("blocks", numbers["blocks"], sent),
            ("errors_from", numbers["errors_from"], [w * self._spec.period for w in windows]),
            ("versions_from", numbers["versions_from"], map(self._windows.oldest_block, windows)),
            (
                "error_counts",
                state["error_counts"] + state["errors_from"],
                self._elapsed - self._pos,
            ),
            (
                "version_counts",
                state["version_counts"] + state["versions_from"],
                sent + (making > 0),
            ),
        ):
            if list(found) != list(wanted):
                raise ValueError(f"{name} do not fit the steps of the episodes")
        for row, slot in enumerate(self._slots):
            for name in _SLOT_NUMBERS:
                setattr(slot, name, numbers[name][row])
            slot.errors = [pieces["error"][row]] if len(pieces["error"][row]) else []
            slot.versions = pieces["version"][row].tolist()

    def counts(self) -> dict[str, int]:
        """`env_steps` taken, `episodes` finished, and what went wrong.

        `dropped_episodes` for a fault, `cut_short_episodes` where a resumed run could not put an
        environment back, `env_failures`.
        """
        return {
            "env_steps": self._env_steps,
            "episodes": self._finished,
            "dropped_episodes": self._dropped,
            "cut_short_episodes": self._cut_short,
            "env_failures": self._env.failures,
        }

    def metrics(self) -> Metrics:
        """Raw returns of episodes finished since the last call, over all slots and by rung.

        `return_mean_exploiting` and `return_mean_exploring` are those of the quarter of all slots
        of the run with the lowest and the highest epsilon, as far as they are this actor's (trap
        24: a mean over the ladder is no score).
        """
        recent, self._recent = self._recent, []
        figures: Metrics = {}
        order = np.argsort(self._ladder)
        quarter = max(1, len(order) // 4)
        groups: dict[str, set[int]] = {
            "": set(order.tolist()),
            "_exploiting": set(order[:quarter].tolist()),
            "_exploring": set(order[-quarter:].tolist()),
        }
        for name, slots in groups.items():
            returns = [value for slot, value, _ in recent if slot in slots]
            if returns:
                figures[f"return_mean{name}"] = float(np.mean(returns))
        if recent:
            figures["episode_steps_mean"] = float(np.mean([steps for _, _, steps in recent]))
        if self._version is not None:
            lag = self._parameters.lag(self._version)
            figures["lag_updates"], figures["lag_seconds"] = float(lag.updates), lag.seconds
        return figures
