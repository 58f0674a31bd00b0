"""Greedy evaluation: its own environments and random keys, one version at a time, only figures out.

One policy object acts in training, in evaluation and in what a user loads (trap 31).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from recollect import states
from recollect.agents.acting import tell_of_fault
from recollect.agents.policy import Policy, epsilon_greedy_actions
from recollect.envs import registry
from recollect.envs.slots import STEP
from recollect.envs.vector import VectorEnv
from recollect.maths import philox
from recollect.parameters import Parameters, Published, Version
from recollect.types import Array, EnvError, EnvSpec, Metrics

LONGEST = 27_000
"""Steps after which an episode of an evaluation is cut: half an hour of Atari at 15 a second."""


@dataclass(frozen=True)
class Episodes:
    """Undiscounted raw `returns` [N] and `lengths` [N] in environment steps."""

    returns: Array
    lengths: Array


def never() -> bool:
    """What interrupts nothing."""
    return False


def nobody(done: int, total: int, steps: int) -> None:
    """Who is told how many episodes are played, and does not listen."""


def evaluate(
    policy: Policy,
    env: VectorEnv,
    episodes: int,
    seed: int,
    epsilon: float = 0.0,
    interrupted: Callable[[], bool] = never,
    longest: int | None = None,
    told: Callable[[int, int, int], None] = nobody,
) -> Episodes:
    """Play exactly `episodes` episodes, number i from a start that depends on `seed` and i alone.

    Each slot plays its own share to the end, so long episodes count as much as short ones. Only an
    episode of `longest` steps (None: `LONGEST`) is cut there, as a greedy policy may go round in
    circles for ever. `told` is called after every step of all slots: episodes done, episodes in
    all, environment steps so far.

    Raises:
        EnvError: an environment failed, or gave something that is not finite.
        InterruptedEvaluation: `interrupted()` was true between two steps.
    """
    slots, most, done = env.num_envs, longest or LONGEST, 0
    numbers = np.arange(slots)
    playing = numbers < episodes
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    carry = policy.start(slots)
    epsilons = np.full(slots, epsilon)
    elapsed = np.zeros(slots, np.int64)
    zeros = np.zeros(slots, np.int64)

    def where(slot: int, verb: str) -> str:
        step = f", step {elapsed[slot] + 1}" if verb == STEP else ""
        return f"slot {slot}, evaluation episode {numbers[slot]}{step}"

    env.name_slots(where)
    observation = env.reset(evaluation_seeds(seed, numbers))
    while playing.any():
        if interrupted():
            raise InterruptedEvaluation
        values, state = policy(observation, carry)
        draws = philox.uniforms(
            seed, philox.Purpose.EVALUATION, zeros, numbers.astype(np.int64), zeros, elapsed
        )
        actions = epsilon_greedy_actions(values, epsilons, draws)
        step = env.step(actions)
        for slot, message in step.faults.items():
            if playing[slot]:
                raise EnvError(message)
        counted = playing & step.valid
        returns[numbers[counted]] += step.reward[counted]
        lengths[numbers[counted]] += 1
        elapsed += step.valid
        carry = policy.advance(carry, observation, state, actions, step)
        ended = ((step.terminated | step.truncated) & step.valid) | (elapsed >= most)
        ended[list(step.faults)] = True  # of slots that have played their share
        observation = step.observation
        if ended.any():
            done += int((ended & playing).sum())
            numbers = np.where(ended, numbers + slots, numbers)
            playing = numbers < episodes
            elapsed[ended] = 0
            observation = env.restart(ended, evaluation_seeds(seed, numbers))
            policy.begin(carry, ended)
        told(done, episodes, int(lengths.sum()))
    return Episodes(returns, lengths)


def evaluate_on(
    env_spec: EnvSpec,
    policy: Policy,
    episodes: int,
    seed: int,
    epsilon: float = 0.0,
    interrupted: Callable[[], bool] = never,
    longest: int | None = None,
    told: Callable[[int, int, int], None] = nobody,
    **how: Any,
) -> Episodes:
    """`evaluate` in environments that are made for it, `how` as in `registry.make`, and closed."""
    slots = min(episodes, policy.ROWS)
    with closing(registry.make(env_spec.id, slots, dict(env_spec.kwargs), **how)) as env:
        return evaluate(policy, env, episodes, seed, epsilon, interrupted, longest, told)


def evaluation_seeds(seed: int, numbers: Array) -> Array:
    """The reset seeds of the evaluation episodes with these `numbers` [N]."""
    episode = numbers.astype(np.int64)
    zeros = np.zeros_like(episode)
    return philox.seeds(seed, philox.Purpose.EVALUATION_RESET, zeros, episode, zeros)


class InterruptedEvaluation(Exception):  # noqa: N818 (nothing went wrong)
    """An evaluation was left in the middle; nothing of the evaluator has changed."""


class Evaluator:
    """Worker that evaluates the latest parameters every `period` learner updates.

    An evaluation in which an environment fails is left out, with a warning. One that takes long can
    be left: set `interrupted` to what says, between two steps, that it must be.

    Args:
        parameters: the parameter service.
        make_policy: builds a policy of the program's network.
        make_env: builds the environments, given how many.
        episodes: episodes per evaluation. period: learner updates between evaluations.
        seed: the run's; the same starts at every evaluation.
        epsilon: 0 is greedy.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        make_policy: Callable[[], Policy],
        make_env: Callable[[int], VectorEnv],
        episodes: int,
        period: int,
        seed: int,
        epsilon: float = 0.0,
    ) -> None:
        self._parameters = parameters
        self._policy = make_policy()
        self._env = make_env(min(episodes, Policy.ROWS))
        self._episodes, self._period, self._seed = episodes, period, seed
        self._epsilon = epsilon
        self._next = Version(0, period)
        self._fresh: Metrics = {}
        self._evaluations = self._failed = 0
        self._best: tuple[float, Published] | None = None
        self.interrupted: Callable[[], bool] = never

    def ready(self) -> bool:
        """Whether parameters of the next evaluation's age have been published."""
        version = self._parameters.version()
        return version is not None and version >= self._next

    def step(self) -> None:
        """Evaluate the latest parameters."""
        latest = self._parameters.latest()
        if latest is None:
            return
        updates = latest.version.updates
        due = Version(latest.version.epoch, (updates // self._period + 1) * self._period)
        self._policy.load(latest.vector)
        try:
            played = evaluate(
                self._policy, self._env, self._episodes, self._seed, self._epsilon, self.interrupted
            )
            self._next = due
        except EnvError as fault:
            self._next = due
            self._failed += 1
            tell_of_fault(
                f"the evaluation after {updates} updates is left out: {fault}", self._failed
            )
            return
        mean = float(played.returns.mean())
        self._evaluations += 1
        self._fresh = {
            "return_mean": mean,
            "return_median": float(np.median(played.returns)),
            "episode_steps_mean": float(played.lengths.mean()),
            "version_updates": float(updates),
        }
        if self._best is None or mean >= self._best[0]:
            self._best = (mean, latest)

    def best(self) -> tuple[float, Published] | None:
        """The best mean return and its parameters; of equal ones the latest."""
        return self._best

    def close(self) -> None:
        """Close the environments."""
        self._env.close()

    def state_dict(self) -> dict[str, Any]:
        """What has come of it so far, the best parameters included."""
        best = self._best and {
            "score": self._best[0],
            "version": list(self._best[1].version),
            "vector": self._best[1].vector,
        }
        return {
            "next": list(self._next),
            "evaluations": self._evaluations,
            "failed": self._failed,
            "fresh": dict(self._fresh),
            "best": best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is damaged; this evaluator is not to be used then.
        """
        self._next = Version.restored(states.member(state, "next"))
        self._evaluations = states.count(state, "evaluations")
        self._failed = states.count(state, "failed")
        fresh = states.part(state, "fresh")
        self._fresh = {str(name): states.number(fresh, name) for name in fresh}
        self._best, saved = None, states.member(state, "best")
        if saved is not None:
            vector = states.array(saved, "vector", self._policy.vector())
            vector.setflags(write=False)
            version = Version.restored(states.member(saved, "version"))
            self._best = (states.number(saved, "score"), Published(version, vector))

    def counts(self) -> dict[str, int]:
        """`evaluations` done, and `failed_evaluations` left out for a fault."""
        return {"evaluations": self._evaluations, "failed_evaluations": self._failed}

    def metrics(self) -> Metrics:
        """The last evaluation's figures, once."""
        fresh, self._fresh = self._fresh, {}
        return fresh
