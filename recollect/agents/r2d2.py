"""R2D2: recurrent double Q-learning over prioritised sequences (Kapturowski et al., ICLR 2019).

Where the paper's equations are:

| equation | function |
|---|---|
| h(x) = sign(x)(sqrt(abs(x) + 1) - 1) + eps x | `rescaling.rescale` |
| h^-1(x) | `rescaling.inverse_rescale` |
| a* = argmax_a Q(s, a; theta), value Q(s, a*; theta^-) | `value_learning.double_q_bootstrap` |
| sum_{k<n} gamma^k r_{t+k} + gamma^n v_{t+n} | `returns.n_step_returns` |
| y_t = h(that, with v = h^-1(Q(s_{t+n}, a*; theta^-))) | `targets` |
| p = eta max_i delta_i + (1 - eta) mean_i delta_i | `priorities.sequence_priority` |
| P(i) = p_i^alpha / sum_j p_j^alpha | `priorities.sampling_probabilities` |
| w_i = (N P(i))^-beta / max_j w_j | `priorities.importance_weights` |
| eps_i = 0.4^(1 + 7 i / (N - 1)) | `exploration.epsilon_ladder` |
| Delta-Q, the staleness of recurrent states | `staleness.delta_q` |
| stored state, burn-in | `unroll` |

Departures from the paper, and where it is silent:

1. A hidden layer stands between torso and LSTM (`pre_core`), as in every public code; 0: none.
2. An episode's first window has no burn-in prefix, so that its first steps are learned from too;
   a prefix is whole or absent. An episode's last window is shortened and masked, not shifted back.
3. n more steps are kept behind a window, so that its last targets are n-step targets as well
   (`n_step_tail`: "shorten" is the other reading).
4. The loss is half the squared error (`huber`: linear from there), summed over a window's learned
   steps, weighted, and averaged over the batch. The paper states no reduction.
5. Actors make priorities with the online network in both roles, from values at hand (as SEED RL).
   With `n_step_tail="shorten"` they still use all n steps.
6. Learning is held to `replay_ratio` learned steps per environment step, and parameters are
   published every `publish_period` updates: the paper's learner and actors ran freely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from recollect import states
from recollect.agents import wiring
from recollect.agents.batches import Batches, Fields, fields_of
from recollect.agents.computing import PROCESSOR, Compute
from recollect.agents.learning import FlatAdam, FlatParameters, Gradients, Skipped, clip_by_norm
from recollect.agents.running import Running
from recollect.maths import priorities, rescaling, returns, value_learning
from recollect.parameters import Parameters, Version
from recollect.program import Program
from recollect.replay.windows import Windows
from recollect.types import Array, ConfigError, EnvSpec, Metrics, check_ranges

if TYPE_CHECKING:
    from torch import Tensor

    from recollect.networks.recurrent_q import QNetwork
    from recollect.replay.batch import Batch
    from recollect.replay.store import Replay


@dataclass(frozen=True)
class R2D2Config(Running):
    """Settings of R2D2 and, by its switches, of DRQN. Defaults are the paper's unless marked.

    [Ape-X]: taken from Horgan et al. 2018, to which the paper refers. [ours]: ours.
    """

    actors: int = 256  # environment slots of the whole run; section 2.3
    epsilon_base: float = 0.4  # epsilon of the most exploring slot [Ape-X]
    epsilon_alpha: float = 7.0  # the last slot has base^(1 + alpha) [Ape-X]
    refresh_period: int = 400  # a slot's steps between two fetches of parameters; table 2

    burn_in: int = 40  # steps unrolled without learning; section 3
    trace_length: int = 80  # steps learned from, m; table 2
    period: int = 40  # steps between the starts of two windows; table 2
    n_step: int = 5  # rewards summed before the bootstrap; table 2
    n_step_tail: Literal["store", "shorten"] = "store"  # n at a window's end, or less; departure 3
    start_state: Literal["stored", "zero"] = "stored"  # where a window begins; section 3
    sequences: Literal["windows", "trajectories"] = "windows"  # trajectories: whole episodes (DRQN)

    replay_steps: int = 4_000_000  # environment steps kept; table 2
    replay_bytes: int = 0  # bytes kept at most, whatever the steps; 0: no limit [ours]
    min_replay_steps: int = 50_000  # before learning starts [Ape-X]
    replay_ratio: float = 1.5  # steps learned per environment step (paper's rates: 1.54)
    prioritized: bool = True  # False: windows are drawn uniformly
    priority_exponent: float = 0.9  # alpha: 0 draws uniformly, 1 in proportion; table 2
    importance_exponent: float = 0.6  # beta: 0 weighs all alike, 1 corrects in full; table 2
    eta: float = 0.9  # share of the maximum in a sequence's priority; section 2.3

    batch_size: int = 64  # sequences an update learns from; table 2
    learning_rate: float = 1e-4  # of Adam; table 2
    decay_steps: int = 0  # environment steps over which the rate falls to 0; 0: it stays [ours]
    adam_epsilon: float = 1e-3  # Adam's epsilon; table 2
    max_gradient_norm: float = 40.0  # longer gradients are scaled down [Ape-X]
    huber: float = 0.0  # error from which the loss grows linearly, 0: nowhere; departure 4
    gamma: float = 0.997  # discount; table 2
    target_period: int = 2500  # updates between two copies to the target network; table 2
    publish_period: int = 10  # updates between two publications [ours]
    double_q: bool = True  # False: the maximum of the target network (DRQN)
    rewards: Literal["rescaled", "clipped", "asymmetric", "raw"] = "rescaled"  # by h; `targets`
    reward_scale: float = 1.0  # factor on rewards as the learner sees them [ours]
    rescaling_epsilon: float = 1e-3  # eps of h, the rescaling; section 2.3

    frame_stack: int = 1  # images that the network sees at once; Atari: 4, section 2.3
    torso: Literal["auto", "nature", "impala", "small"] = "auto"  # for images; section 2.3
    torso_sizes: tuple[int, ...] = ()  # layers of the torso for vector observations [ours]
    pre_core: int = 512  # layer between torso and core, 0: none; departure 1
    core: Literal["lstm", "gru", "feed-forward"] = "lstm"  # what remembers
    hidden: int = 512  # units of the core; section 2.3
    head_hidden: int = 512  # units of each stream's hidden layer; section 2.3
    duelling: bool = True  # Q = V + A - mean A; section 2.3
    previous_action: bool = True  # is an input of the core; section 2.3
    previous_reward: bool = True  # is an input of the core; section 2.3
    forget_bias: float = 1.0  # the LSTM's forget gates begin with it [ours]

    evaluation_period: int = 1000  # updates between two greedy evaluations, 0: none [ours]
    evaluation_episodes: int = 10  # episodes of each evaluation [ours]
    evaluation_epsilon: float = 0.0  # share of random actions in evaluations [ours]
    keep_states: bool = False  # the recurrent state of every step is kept, for Delta-Q; section 3

    def __post_init__(self) -> None:
        check_ranges(self, _POSITIVE.split(), _FRACTIONS.split(), _COUNTS.split())
        self.check_processes(self.actors)
        if self.n_step > self.trace_length and self.sequences == "windows":
            raise ConfigError(
                f"n_step {self.n_step} is longer than trace_length {self.trace_length}: "
                "shorten n_step or lengthen the trace"
            )
        if self.sequences == "trajectories" and self.burn_in:
            raise ConfigError(
                f"burn_in {self.burn_in} with sequences=trajectories: a whole episode starts from "
                "its true state, set burn_in to 0"
            )
        self.windows()

    def windows(self) -> Windows:
        """The geometry of what is learned from."""
        if self.sequences == "trajectories":
            return Windows.trajectories(self.period)
        tail = self.n_step if self.n_step_tail == "store" else 0
        return Windows(self.burn_in, self.trace_length, self.period, tail)


_POSITIVE = (
    "actors actor_processes replay_shards refresh_period trace_length period n_step replay_steps "
    "replay_ratio batch_size learning_rate adam_epsilon max_gradient_norm target_period "
    "publish_period hidden evaluation_episodes rescaling_epsilon reward_scale env_deadline "
    "frame_stack"
)
_FRACTIONS = "epsilon_base gamma eta priority_exponent importance_exponent evaluation_epsilon"
_TOTALS = ("updates", "learned_steps", "learned_windows", "learned_windows_mid_episode")
_COUNTS = (
    "huber decay_steps epsilon_alpha burn_in replay_bytes min_replay_steps env_processes threads "
    "pre_core head_hidden evaluation_period"
)


def targets(
    q_online_t: Tensor,
    q_target_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    mask_tm1: Tensor | None,
    config: R2D2Config,
) -> Tensor:
    """y_t = h(sum_{k<n} gamma^k r_{t+k} + gamma^n h^-1(Q(s_{t+n}, a*; theta^-))).

    Args:
        q_online_t, q_target_t: [T, B, A] values of the observation after each step.
        r_t, discount_t: [T, B]. mask_tm1: [T, B] bool, real steps; None: all are.
    Returns: [T, B] targets, in the units of the network's output.
    Source: section 2.3; with other rewards than "rescaled", h is the identity: "clipped" to
        [-1, 1] (DQN), "asymmetric" (R2D2+), "raw".
    """
    chooser = q_online_t if config.double_q else q_target_t
    v_t = value_learning.double_q_bootstrap(chooser, q_target_t)
    r_t = config.reward_scale * r_t
    if config.rewards == "rescaled":
        v_t = rescaling.inverse_rescale(v_t, config.rescaling_epsilon)
    elif config.rewards == "clipped":
        r_t = r_t.clamp(-1, 1)
    elif config.rewards == "asymmetric":
        r_t = rescaling.asymmetric_clip(r_t)
    y_t = returns.n_step_returns(r_t, discount_t, v_t, config.n_step, mask_tm1)
    if config.rewards == "rescaled":
        y_t = rescaling.rescale(y_t, config.rescaling_epsilon)
    return y_t


def absolute_errors(
    values: Array, actions: Array, r_t: Array, discount_t: Array, config: R2D2Config
) -> Array:
    """Absolute TD errors [T] of one slot's steps, from its values [T + 1, A] in both roles.

    The learner's `targets` (trap 12); the last n - 1 steps are open unless the episode ended there.
    """
    q, a, r, d = (torch.from_numpy(x)[:, None] for x in (values, actions, r_t, discount_t))
    y_t = targets(q[1:], q[1:], r, d, None, config)
    q_tm1 = value_learning.action_values(q[:-1], a)
    return (y_t - q_tm1).abs()[:, 0].numpy()


def unroll(network: QNetwork, batch: dict[str, Any], burn_in: int, start: Tensor) -> Tensor:
    """Q-values [T + 1 - burn_in, B, A] of the learned steps, their tail, the closing observation.

    The first `burn_in` columns only make a state, without gradient, each network for itself; a
    window without a prefix starts from `start` [B, H] at the first learned column instead.
    Source: section 3, stored state and burn-in.
    """
    action, reward = batch["previous_action"], batch["previous_reward"]

    def columns(begin: int, end: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        # Of a stack of frames, column t sees rows t to t + stack - 1.
        observation = {
            key: x[begin : end + len(x) - len(action)] for key, x in batch["observation"].items()
        }
        return observation, action[begin:end], reward[begin:end]

    if burn_in:
        with torch.no_grad():
            _, burned = network(*columns(0, burn_in), start)
        start = torch.where(batch["prefix"][:, None], burned, start)
    q, _ = network(*columns(burn_in, len(action)), start)
    return q


class Learner:
    """Worker: one update a turn. `gradients` changes no parameter, `apply` is elementwise.

    `make_network` builds the network and is called twice: online and target. `seed` and `epoch` are
    keys of the draws from replay; `epoch` is also the published versions'. `compute`: on what.
    """

    def __init__(
        self,
        config: R2D2Config,
        replay: Replay,
        parameters: Parameters,
        make_network: Any,
        seed: int,
        compute: Compute = PROCESSOR,
        epoch: int = 0,
    ) -> None:
        self.config, self.seed, self.epoch = config, seed, epoch
        self._replay, self._parameters, self._compute = replay, parameters, compute
        self._batches = Batches(replay, config.batch_size, seed, epoch, compute)
        self.network, self.target = make_network(), make_network()
        self.online_parameters = FlatParameters(self.network, compute.device)
        self.target_parameters = FlatParameters(self.target, compute.device)
        for p in self.target.parameters():
            p.requires_grad_(False)
        self.adam = FlatAdam(self.online_parameters, config.learning_rate, config.adam_epsilon)
        self.updates = self.learned_steps = 0
        self.learned_windows = self.learned_windows_mid_episode = 0
        self.skipped = Skipped()
        self._figures: list[dict[str, float]] = []
        self.update_target()
        self.publish()

    def ready(self) -> bool:
        """Whether replay allows a batch."""
        return self._batches.ready()

    def step(self) -> None:
        """Sample, learn, write priorities back; copy to the target and publish when due."""
        if (taken := self._batches.take(self.updates + self.skipped.total)) is None:
            return
        batch, fields = taken
        gradients = self.gradients(batch, fields)
        if self.skipped.takes(gradients, batch.uids):
            return
        self.apply(gradients.vector)
        self.updates += 1
        self.learned_steps += int(batch.learned.sum())
        self.learned_windows += len(batch.slots)
        self.learned_windows_mid_episode += int(batch.mid_episode.sum())
        self._figures.append(gradients.figures)
        if self.updates % self.config.target_period == 0:
            self.update_target()
        if self.updates % self.config.publish_period == 0:
            self.publish()
        self._replay.update_priorities(batch.slots, batch.uids, gradients.priorities)

    def q_values(self, batch: Batch, fields: Fields | None = None) -> tuple[Tensor, Tensor, Fields]:
        """Online and target values [T + 1 - burn_in, B, A], and the batch's `fields` as tensors."""
        fields = fields or fields_of(batch, self._compute.device)
        start = fields["recurrent_state"]
        if self.config.start_state == "zero":
            start = torch.zeros_like(start)
        with self._compute.autocast():
            q_online = unroll(self.network, fields, self.config.burn_in, start)
            with torch.no_grad():
                q_target = unroll(self.target, fields, self.config.burn_in, start)
        return q_online, q_target, fields

    def gradients(self, batch: Batch, fields: Fields | None = None) -> Gradients:
        """Gradient [P] of the loss on a batch, clipped by norm, and its new priorities [B]."""
        config = self.config
        q_online, q_target, fields = self.q_values(batch, fields)
        action, r_t, discount_t, mask, learned = (
            fields[name][config.burn_in :]
            for name in ("action", "reward", "discount", "mask", "learned")
        )
        with torch.no_grad():
            y_t = targets(q_online[1:], q_target[1:], r_t, discount_t, mask, config)
            weights = priorities.importance_weights(
                torch.from_numpy(batch.probabilities), batch.size, config.importance_exponent
            ).to(y_t)
        q_tm1 = value_learning.action_values(q_online[:-1], action)
        errors = torch.where(learned, y_t - q_tm1, 0)
        losses = value_learning.half_squared(errors, config.huber)
        loss = (weights * losses.sum(0)).mean()
        self.online_parameters.gradient.zero_()
        loss.backward()
        norm = clip_by_norm(self.online_parameters.gradient, config.max_gradient_norm)
        errors = errors.detach().abs()
        new = priorities.sequence_priority(errors, learned, config.eta)
        figures = {
            "loss": loss.detach(),
            "gradient_norm": norm,
            "absolute_error_mean": errors.sum() / learned.sum(),
            "q_mean": torch.where(learned, q_tm1.detach(), 0).sum() / learned.sum(),
        }
        lag = float(self.updates - batch.version.mean())
        return Gradients.of(self.online_parameters.gradient, new, figures, lag_updates=lag)

    def apply(self, vector: Tensor) -> None:
        """One step of Adam along `vector` [P]; elementwise, and no target is copied."""
        left = 1.0
        if decay := self.config.decay_steps:
            left = max(0.0, 1 - self.learned_steps / (self.config.replay_ratio * decay))
        self.adam.step(vector, left)

    def update_target(self) -> None:
        """Copy the online parameters into the target network."""
        self.target_parameters.vector.copy_(self.online_parameters.vector)

    def publish(self) -> None:
        """Publish the online parameters as version (epoch, updates)."""
        self._parameters.publish(Version(self.epoch, self.updates), self.online_parameters.numpy())

    def begin_epoch(self, epoch: int) -> None:
        """Draw and publish as this life of the learner."""
        self.epoch = self._batches.epoch = epoch

    def vector(self) -> Array:
        """The online parameters [P], an array of their own."""
        return self.online_parameters.numpy()

    def begin_with(self, vector: Array) -> None:
        """Begin with other parameters [P] than the network's own."""
        self.online_parameters.load(vector)
        self.update_target()
        self.publish()

    def counts(self) -> dict[str, int]:
        """`updates`, `skipped_updates` (not finite), `learned_steps` and windows learned from."""
        return {x: getattr(self, x) for x in _TOTALS} | {"skipped_updates": self.skipped.total}

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "online": self.online_parameters.numpy(),
            "target": self.target_parameters.numpy(),
            "adam": self.adam.state_dict(),
            "skipped": self.skipped.state_dict(),
            "figures": states.columns(self._figures),
            **{name: getattr(self, name) for name in _TOTALS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; ValueError if it does not fit, and this learner is spoilt then."""
        self.online_parameters.load(states.array(state, "online", self.online_parameters.numpy()))
        self.target_parameters.load(states.array(state, "target", self.target_parameters.numpy()))
        self.adam.load_state_dict(states.part(state, "adam"))
        self.skipped.load_state_dict(states.part(state, "skipped"))
        self._figures = states.figures(state, "figures")
        self._batches.forget()
        for name in _TOTALS:
            setattr(self, name, states.count(state, name))

    def metrics(self) -> Metrics:
        """Means over the updates since the last call."""
        recent, self._figures = self._figures, []
        return Gradients.means(recent)


def program(config: R2D2Config, env_spec: EnvSpec, seed: int, network: str = "") -> Program:
    """R2D2 on an environment; `network` is a user's own, "module:name", see `wiring.q_network`.

    Raises:
        ConfigError: the environment's actions are not discrete, or the network cannot be found.
    """
    make_network = partial(wiring.q_network, config, env_spec, seed, network)
    make_learner = partial(wiring.make_learner, Learner, config, env_spec, seed, make_network)
    errors = partial(absolute_errors, config=config)
    return wiring.q_program(config, env_spec, seed, make_network, make_learner, errors)
