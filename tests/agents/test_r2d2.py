"""R2D2's learner: targets, what gradient reaches what, priorities, the paper's switches."""

from __future__ import annotations

import ast
import importlib
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recollect.agents import r2d2, wiring
from recollect.agents.learning import tensors
from recollect.agents.r2d2 import Learner, R2D2Config
from recollect.agents.staleness import delta_q
from recollect.envs import registry
from recollect.maths import philox, rescaling
from recollect.parameters import Parameters
from recollect.replay.batch import Batch
from recollect.replay.store import Replay
from recollect.replay.windows import Windows
from recollect.types import ConfigError, DivergedError
from tests.agents import clockwork
from tests.agents.clockwork import Counter

CONFIG = R2D2Config(
    actors=5,
    burn_in=3,
    trace_length=8,
    period=4,
    n_step=3,
    gamma=0.9,
    refresh_period=10_000,
    replay_steps=4000,
    min_replay_steps=1,
    replay_ratio=2.0,
    batch_size=7,
    torso_sizes=(12,),
    pre_core=0,
    hidden=6,
    head_hidden=5,
    target_period=4,
    publish_period=2,
    learning_rate=1e-2,
    evaluation_period=0,
)


def spec(longest: int = 30) -> Any:
    assert clockwork.Clock
    return registry.env_spec("tests/Clock-v0", {"longest": longest})


def parts(config: R2D2Config = CONFIG, *, network: Any = None, steps: int = 200) -> Any:
    """A learner and a replay that an actor has filled, wired as the program wires them."""
    env_spec = spec()
    make = network or partial(wiring.q_network, config, env_spec, 3)
    parameters = Parameters()
    replay = wiring.make_replay(config, wiring.block_spec(config, env_spec, make().state_size))
    learner = Learner(config, replay, parameters, make, seed=3)
    errors = partial(r2d2.absolute_errors, config=config)
    actor = wiring.make_actor(
        config, env_spec, 3, 0, make, errors, replay=replay, parameters=parameters
    )
    for _ in range(steps):
        actor.step()
    return learner, replay, actor


def sample(replay: Replay, count: int = 16, seed: int = 0) -> Batch:
    return replay.sample(np.random.default_rng(seed).random(count))


# -- targets ---------------------------------------------------------------------------------------


def test_s0_7_target_by_hand_with_a_termination_inside_n() -> None:
    """y = h(r0 + gamma r1 + gamma^2 h^-1(Q)) and, where the episode ends first, h of the sum."""
    config = replace(CONFIG, n_step=2, gamma=0.5)
    q_online = torch.tensor([[1.0, 3.0], [2.0, 0.0], [5.0, 6.0]])[:, None]
    q_target = torch.tensor([[7.0, 0.4], [0.3, 9.0], [9.0, 0.2]])[:, None]
    r_t = torch.tensor([1.0, 10.0, 100.0])[:, None]
    discount_t = torch.tensor([0.5, 0.5, 0.0])[:, None]
    y = r2d2.targets(q_online, q_target, r_t, discount_t, None, config)[:, 0]
    h, inverse = rescaling.rescale, rescaling.inverse_rescale
    bootstrap = inverse(torch.tensor(0.3))  # the online network prefers action 0 there
    torch.testing.assert_close(y[0], h(1 + 0.5 * 10 + 0.25 * bootstrap))
    torch.testing.assert_close(y[1], h(torch.tensor(10 + 0.5 * 100)))
    torch.testing.assert_close(y[2], h(torch.tensor(100.0)))


def test_switches_of_the_target() -> None:
    """X-2: clipped and raw rewards; DRQN's maximum of the target network instead of double Q."""
    q_online = torch.tensor([[[1.0, 3.0]]])
    q_target = torch.tensor([[[7.0, 2.0]]])
    discount_t = torch.tensor([[0.5]])

    def target(reward: float = 50.0, **switches: Any) -> float:
        config = replace(CONFIG, n_step=1, **switches)
        r_t = torch.tensor([[reward]])
        return float(r2d2.targets(q_online, q_target, r_t, discount_t, None, config))

    assert target(rewards="raw") == 50 + 0.5 * 2
    assert target(rewards="clipped") == 1 + 0.5 * 2
    assert target(-50.0, rewards="clipped") == -1 + 0.5 * 2
    tanh_1 = (math.e**2 - 1) / (math.e**2 + 1)
    assert target(5.0, rewards="asymmetric") == pytest.approx(5 * tanh_1 + 0.5 * 2)
    assert target(-5.0, rewards="asymmetric") == pytest.approx(-0.3 * 5 * tanh_1 + 0.5 * 2)
    assert target(rewards="raw", double_q=False) == 50 + 0.5 * 7
    assert target(rewards="raw", reward_scale=0.1) == 0.1 * 50 + 0.5 * 2
    assert target(rewards="clipped", reward_scale=0.01) == 0.5 + 0.5 * 2


def test_rescaling_epsilon_reaches_h_and_its_inverse() -> None:
    config = replace(CONFIG, n_step=1, rescaling_epsilon=0.1)
    q, one = torch.tensor([[[2.0]]]), torch.ones(1, 1)
    y = r2d2.targets(q, q, 5 * one, 0.5 * one, None, config)
    bootstrap = rescaling.inverse_rescale(2 * one, 0.1)
    torch.testing.assert_close(y, rescaling.rescale(5 + 0.5 * bootstrap, 0.1))


def test_the_mask_reaches_the_returns() -> None:
    """Of three steps the last is padding: the second bootstraps from the observation after it."""
    config = replace(CONFIG, n_step=2, rewards="raw")
    q = torch.tensor([3.0, 5.0, 700.0])[:, None, None]
    r_t, discount_t = torch.tensor([[1.0], [2.0], [400.0]]), torch.full((3, 1), 0.5)
    mask = torch.tensor([[True], [True], [False]])
    y = r2d2.targets(q, q, r_t, discount_t, mask, config)[:, 0]
    assert y.tolist() == [1 + 0.5 * 2 + 0.25 * 5, 2 + 0.5 * 5, 0]


def test_trap_21_clipping_and_rescaling_are_one_switch_and_cannot_both_be_on() -> None:
    assert R2D2Config().rewards == "rescaled"
    assert {f for f in R2D2Config.__dataclass_fields__ if "clip" in f} == set()


# -- unroll, burn-in and what gradient reaches -----------------------------------------------------


def test_trap_07_no_gradient_flows_through_burn_in() -> None:
    """S0-12: an input that only burn-in sees gets a gradient of exactly 0, learned ones do not."""
    learner, replay, _ = parts()
    batch = sample(replay, 16)
    assert batch.prefix.any()
    assert not batch.prefix.all()
    names = ["observation", "previous_action", "previous_reward", "prefix"]
    fields = {n: tensors(getattr(batch, n)) for n in names}
    fields["observation"]["observation"].requires_grad_(True)
    start = torch.from_numpy(batch.recurrent_state).requires_grad_(True)
    q = r2d2.unroll(learner.network, fields, CONFIG.burn_in, start)
    q.square().sum().backward()
    gradient = fields["observation"]["observation"].grad
    assert gradient is not None
    assert start.grad is not None
    assert (gradient[: CONFIG.burn_in] == 0).all()
    assert (gradient[CONFIG.burn_in :].abs().sum((1, 2)) > 0).all()
    assert (start.grad[torch.from_numpy(batch.prefix)] == 0).all()


def test_trap_08_and_trap_30_each_network_burns_in_for_itself() -> None:
    """Target values of a batch do not depend on the online parameters, nor reverse."""
    learner, replay, _ = parts()
    batch = sample(replay)
    q_online, q_target, _ = learner.q_values(batch)
    with torch.no_grad():
        learner.online_parameters.vector.mul_(1.5)
    changed_online, same_target, _ = learner.q_values(batch)
    assert not torch.equal(changed_online, q_online)
    torch.testing.assert_close(same_target, q_target, rtol=0, atol=0)
    with torch.no_grad():
        learner.target_parameters.vector.mul_(0.5)
    same_online, changed_target, _ = learner.q_values(batch)
    torch.testing.assert_close(same_online, changed_online, rtol=0, atol=0)
    assert not torch.equal(changed_target, q_target)


def test_trap_09_every_learned_step_is_trained() -> None:
    """The gradient with respect to Q(s, a) is not 0 at learned steps, and 0 at all others."""
    learner, replay, _ = parts()
    batch = sample(replay, 9)
    seen = {}
    inner = r2d2.value_learning.action_values

    def watch(q: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        chosen = inner(q, a)
        if chosen.requires_grad:
            chosen.retain_grad()
            seen["q"] = chosen
        return chosen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(r2d2.value_learning, "action_values", watch)
        gradients = learner.gradients(batch)
    learned = batch.learned[CONFIG.burn_in :]
    reached = seen["q"].grad.numpy() != 0
    np.testing.assert_array_equal(reached, learned)
    assert gradients.priorities.shape == (9,)


def test_zero_start_state_ignores_what_is_stored() -> None:
    """S0-9: DRQN's first strategy."""
    stored, replay, _ = parts()
    zero = Learner(
        replace(CONFIG, start_state="zero"),
        replay,
        Parameters(),
        partial(wiring.q_network, CONFIG, spec(), 3),
        seed=3,
    )
    batch = sample(replay)
    assert batch.mid_episode.any()
    a, b = stored.q_values(batch)[0], zero.q_values(batch)[0]
    middle = torch.from_numpy(batch.mid_episode)
    torch.testing.assert_close(a[:, ~middle], b[:, ~middle], rtol=0, atol=0)
    assert (a[0, middle] != b[0, middle]).any(1).all()


# -- memory from actor through replay to learner ---------------------------------------------------


@pytest.mark.parametrize(
    ("burn_in", "trace_length", "period"), [(3, 8, 4), (4, 8, 4), (0, 8, 4), (8, 8, 8), (5, 12, 3)]
)
def test_trap_01_a_counting_memory_arrives_in_the_learner_as_the_step_number(
    burn_in: int, trace_length: int, period: int
) -> None:
    """Traps 1 to 6 and 33 end to end: from the stored state the counter says step t + 1."""
    config = replace(CONFIG, burn_in=burn_in, trace_length=trace_length, period=period)
    make = partial(Counter, spec())
    learner, replay, _ = parts(config, network=make)
    batch = sample(replay, 64)
    assert batch.mid_episode.mean() > 0.2
    clock = batch.observation["observation"][..., 0]
    names = ["observation", "previous_action", "previous_reward", "prefix"]
    fields = {n: tensors(getattr(batch, n)) for n in names}
    start = torch.from_numpy(batch.recurrent_state)
    with torch.no_grad():
        q = r2d2.unroll(learner.network, fields, burn_in, start)
    for b in range(64):
        real = int(batch.mask[burn_in:, b].sum())
        t = clock[burn_in : burn_in + real + 1, b]
        np.testing.assert_array_equal(np.diff(t), 1)
        # After observation t the memory holds: t + 1 steps, rewards 1 .. t, and the actions taken.
        sums = q[: real + 1, b, 0].numpy() - 0.01 * t - 0.5 * (t + 1) + 0.25 * t * (t + 1) / 2
        actions = sums / 0.125
        np.testing.assert_allclose(actions, np.round(actions), atol=0.05)
        taken = batch.action[burn_in : burn_in + real, b]
        np.testing.assert_allclose(np.diff(actions), taken, atol=0.05)


def test_trap_12_actor_and_learner_give_the_same_priority() -> None:
    """S3-8: same parameters in both roles and no refresh inside the window: equal to 1e-4."""
    for config in (
        CONFIG,
        replace(CONFIG, n_step=1),
        replace(CONFIG, rewards="clipped"),
        replace(CONFIG, burn_in=0),
        replace(CONFIG, priority_exponent=0.5),
        replace(CONFIG, eta=0.2),
        replace(CONFIG, sequences="trajectories", burn_in=0),
    ):
        learner, replay, _ = parts(config)
        batch = sample(replay, 32)
        exponent = config.priority_exponent
        total = replay._sampler.mass
        stored = (batch.probabilities * total) ** (1 / exponent)
        fresh = learner.gradients(batch).priorities
        np.testing.assert_allclose(fresh, stored, rtol=1e-4, atol=1e-5)


def test_trap_14_exponents_are_the_papers() -> None:
    assert (R2D2Config().priority_exponent, R2D2Config().importance_exponent) == (0.9, 0.6)


def test_trap_17_padding_changes_nothing() -> None:
    """Noise in every masked cell leaves loss, gradient and priorities as they are, bit for bit."""
    learner, replay, _ = parts()
    batch = sample(replay, 24)
    assert not batch.mask.all()
    clean = learner.gradients(batch)
    reference = clean.vector.clone()
    rng = np.random.default_rng(1)
    padded = ~batch.mask
    reward, discount = batch.reward.copy(), batch.discount.copy()
    reward[padded] = rng.normal(size=padded.sum())
    discount[padded] = rng.random(padded.sum())
    noisy = learner.gradients(replace_batch(batch, reward=reward, discount=discount))
    np.testing.assert_array_equal(noisy.priorities, clean.priorities)
    assert torch.equal(noisy.vector, reference)
    assert noisy.figures == clean.figures


def test_observations_behind_an_episodes_end_change_nothing() -> None:
    learner, replay, _ = parts()
    batch = sample(replay, 24)
    clean = learner.gradients(batch)
    reference = clean.vector.clone()
    observation = batch.observation["observation"].copy()
    for b in range(24):
        last = np.flatnonzero(batch.mask[:, b])[-1] + 1
        observation[last + 1 :, b] = 7
    noisy = learner.gradients(replace_batch(batch, observation={"observation": observation}))
    np.testing.assert_allclose(noisy.priorities, clean.priorities, rtol=1e-6)
    torch.testing.assert_close(noisy.vector, reference)


def replace_batch(batch: Batch, **fields: Any) -> Batch:
    return replace(batch, **fields)


# -- the learner's bookkeeping ---------------------------------------------------------------------


def test_gradients_change_no_parameter_and_apply_copies_no_target() -> None:
    learner, replay, _ = parts()
    online = learner.online_parameters.numpy()
    target = learner.target_parameters.numpy()
    gradients = learner.gradients(sample(replay))
    np.testing.assert_array_equal(learner.online_parameters.numpy(), online)
    learner.apply(gradients.vector)
    assert (learner.online_parameters.numpy() != online).any()
    np.testing.assert_array_equal(learner.target_parameters.numpy(), target)


def test_apply_is_adam_elementwise() -> None:
    """One step from zero moments: theta - lr g / (|g| + eps), along whatever vector is given."""
    learner, _, _ = parts(steps=0)
    before = learner.online_parameters.numpy()
    given = np.linspace(-1e-2, 1e-2, len(before), dtype=np.float32)
    learner.apply(torch.from_numpy(given))
    expected = before - CONFIG.learning_rate * given / (abs(given) + CONFIG.adam_epsilon)
    np.testing.assert_allclose(learner.online_parameters.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("huber", [0.0, 0.3])
def test_gradient_is_that_of_the_loss_by_finite_differences(huber: float) -> None:
    """The loss is summed over a window, weighted by importance and averaged over the batch."""
    learner, replay, _ = parts(replace(CONFIG, max_gradient_norm=1e9, huber=huber))
    batch = sample(replay, 5)
    gradients = learner.gradients(batch)
    vector = gradients.vector.clone().double().numpy()
    flat = learner.online_parameters.vector
    rng = np.random.default_rng(0)
    direction = torch.from_numpy(rng.normal(size=flat.shape).astype(np.float32))
    direction *= torch.from_numpy((vector != 0).astype(np.float32))

    def loss(step: float) -> float:
        # The target must stay what it was: only Q(s, a) moves.
        with torch.no_grad():
            flat.add_(step * direction)
            q, _, _ = learner.q_values(batch)
            flat.sub_(step * direction)
            chosen = q[:-1].gather(-1, action[..., None])[..., 0]
            errors = torch.where(learned, y - chosen, 0).double()
            size = errors.abs()
            line = huber * (size - huber / 2)
            losses = torch.where(size < huber, errors**2 / 2, line) if huber else errors**2 / 2
            return float((weights * losses.sum(0)).mean())

    with torch.no_grad():
        q_online, q_target, fields = learner.q_values(batch)
        action, learned = (fields[n][CONFIG.burn_in :] for n in ("action", "learned"))
        r, d, m = (fields[n][CONFIG.burn_in :] for n in ("reward", "discount", "mask"))
        y = r2d2.targets(q_online[1:], q_target[1:], r, d, m, CONFIG)
        raw = (batch.size * batch.probabilities) ** -CONFIG.importance_exponent
        weights = torch.from_numpy(raw / raw.max())
    assert gradients.figures["loss"] == pytest.approx(loss(0.0), rel=1e-5)
    assert len(set(weights.tolist())) > 1
    numeric = (loss(1e-3) - loss(-1e-3)) / 2e-3
    assert numeric == pytest.approx(float(vector @ direction.double().numpy()), rel=2e-2)


def test_the_rate_falls_linearly_to_nothing() -> None:
    """It is 0 when `decay_steps` environment steps are learned from, `replay_ratio` times each."""
    config = replace(CONFIG, decay_steps=150)
    learner, _, _ = parts(config)
    rates, expected = [], []
    while learner.learned_steps < config.replay_ratio * 150:
        expected.append(1 - learner.learned_steps / (config.replay_ratio * 150))
        learner.step()
        rates.append(learner.adam._adam.param_groups[0]["lr"] / CONFIG.learning_rate)
    assert rates == pytest.approx(expected)
    assert rates[0] == 1
    assert len(rates) > 3
    before = learner.online_parameters.numpy()
    learner.step()
    np.testing.assert_array_equal(learner.online_parameters.numpy(), before)


def test_norm_is_clipped_and_the_norm_before_is_reported() -> None:
    learner, replay, _ = parts(replace(CONFIG, max_gradient_norm=1e-3))
    gradients = learner.gradients(sample(replay))
    assert gradients.figures["gradient_norm"] > 1e-3
    assert float(gradients.vector.norm()) == pytest.approx(1e-3, rel=1e-4)


def test_target_is_copied_and_parameters_published_when_due() -> None:
    """S2-12: with target_period 4 and publish_period 2."""
    learner, _, _ = parts()
    for update in range(1, 9):
        assert learner.ready()
        learner.step()
        assert learner.updates == update
        copied = np.array_equal(
            learner.target_parameters.numpy(), learner.online_parameters.numpy()
        )
        assert copied == (update % 4 == 0)
        assert learner._parameters.version().updates == update // 2 * 2


def test_trap_26_priorities_come_back_to_the_items_drawn() -> None:
    learner, replay, _ = parts()
    batch = sample(replay, 7)
    expected = learner.gradients(batch).priorities
    replay.update_priorities(batch.slots, batch.uids, expected)
    again = replay.draw(np.random.default_rng(1).random(200))
    written = dict(zip(batch.slots.tolist(), expected.tolist(), strict=True))
    mass = replay._sampler.mass
    seen = 0
    for slot, probability in zip(again.slots.tolist(), again.probabilities, strict=True):
        if slot in written:
            wanted = written[slot] ** CONFIG.priority_exponent / mass
            assert probability == pytest.approx(wanted, rel=1e-5)
            seen += 1
    assert seen > 3


def test_an_update_that_is_not_finite_is_skipped_and_counted() -> None:
    learner, replay, _ = parts()
    before = learner.online_parameters.numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(r2d2, "clip_by_norm", lambda vector, largest: torch.tensor(float("nan")))
        learner.step()
    assert (learner.updates, learner.skipped.total) == (0, 1)
    np.testing.assert_array_equal(learner.online_parameters.numpy(), before)
    learner.step()
    assert learner.updates == 1
    assert replay.metrics()


def test_ten_updates_on_end_that_are_not_finite_end_the_run() -> None:
    learner, _, _ = parts()
    learner.skipped.on_end = 9
    learner.step()
    assert learner.skipped.on_end == 0, "one that is finite begins the count anew"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(r2d2, "clip_by_norm", lambda vector, largest: torch.tensor(float("inf")))
        for _ in range(9):
            learner.step()
        with pytest.raises(DivergedError, match=r"10 updates on end .* 'gradient_norm': inf"):
            learner.step()
    assert learner.counts()["skipped_updates"] == 10


def watched(learner: Learner) -> list[tuple[Batch, Any]]:
    """The batches a learner takes from now on, each with the gradients it made of it."""
    seen: list[tuple[Batch, Any]] = []
    make = learner.gradients

    def gradients(batch: Batch, fields: Any = None) -> Any:
        made = make(batch, fields)
        seen.append((batch, replace(made, vector=made.vector.clone())))
        return made

    learner.gradients = gradients  # type: ignore[method-assign]
    return seen


def test_a_step_writes_its_priorities_to_the_items_it_drew() -> None:
    learner, replay, _ = parts()
    seen, written = watched(learner), []
    replay.update_priorities = lambda *call: written.append(call)
    learner.step()
    [(batch, gradients)], [(slots, uids, priorities)] = seen, written
    np.testing.assert_array_equal(slots, batch.slots)
    np.testing.assert_array_equal(uids, batch.uids)
    np.testing.assert_array_equal(priorities, gradients.priorities)
    assert len(set(priorities)) > 1


def test_counts_are_those_of_the_batches_learned_from() -> None:
    learner, _, _ = parts()
    seen = watched(learner)
    for _ in range(3):
        learner.step()
    batches = [batch for batch, _ in seen]
    learned = sum(batch.learned.sum() for batch in batches)
    mid_episode = sum(batch.mid_episode.sum() for batch in batches)
    assert 0 < mid_episode < 3 * 7 < learned < 3 * 7 * 8
    assert learner.counts() == {
        "updates": 3,
        "skipped_updates": 0,
        "learned_steps": learned,
        "learned_windows": 3 * 7,
        "learned_windows_mid_episode": mid_episode,
    }


def test_metrics_are_means_over_the_updates_since_the_last_call() -> None:
    learner, _, _ = parts()
    assert learner.metrics() == {}
    seen = watched(learner)
    for _ in range(3):
        learner.step()
    figures = learner.metrics()
    assert learner.metrics() == {}
    for name in ("loss", "gradient_norm", "absolute_error_mean", "q_mean"):
        assert figures[name] == pytest.approx(np.mean([g.figures[name] for _, g in seen]))
    assert figures["lag_updates"] == (0 + 1 + 2) / 3, "all steps were taken with version 0"
    later = replace_batch(seen[0][0], version=np.array([1] * 6 + [3]))
    assert learner.gradients(later).figures["lag_updates"] == pytest.approx(3 - (6 + 3) / 7)


def test_figures_are_means_over_learned_steps() -> None:
    learner, replay, _ = parts()
    batch = sample(replay, 9)
    batch = replace_batch(
        batch, reward=batch.reward * np.resize([1, -1], 9)
    )  # errors of both signs
    q = learner.q_values(batch)[0][:-1].detach().numpy()
    learned, action = (x[CONFIG.burn_in :] for x in (batch.learned, batch.action))
    chosen = np.take_along_axis(q, action[..., None], -1)[..., 0]
    gradients = learner.gradients(batch)
    assert gradients.figures["q_mean"] == pytest.approx(chosen[learned].mean(), rel=1e-4)
    # Of eta max + (1 - eta) mean, with the eta 0 of another learner, only the mean is left.
    mean_only = Learner(
        replace(CONFIG, eta=0.0),
        replay,
        Parameters(),
        partial(wiring.q_network, CONFIG, spec(), 3),
        seed=3,
    )
    means = mean_only.gradients(batch).priorities
    expected = (means * learned.sum(0)).sum() / learned.sum()
    assert gradients.figures["absolute_error_mean"] == pytest.approx(expected, rel=1e-4)


def test_items_are_drawn_by_numbers_of_the_seed_the_epoch_and_the_update() -> None:
    numbers = np.arange(CONFIG.batch_size)
    for epoch in (0, 2):
        _, replay, _ = parts()
        make = partial(wiring.q_network, CONFIG, spec(), 3)
        learner = Learner(CONFIG, replay, Parameters(), make, seed=11, epoch=epoch)
        asked, draw = [], replay.sample
        replay.sample = lambda uniforms, asked=asked, draw=draw: (
            asked.append(uniforms) or draw(uniforms)
        )
        learner.skipped.total = 5  # none of these draws is made again
        for _ in range(3):
            learner.step()
        for update, uniforms in enumerate(asked, start=5):
            expected = philox.uniforms(11, philox.Purpose.SAMPLING, numbers, 0, epoch, update)
            np.testing.assert_array_equal(uniforms, expected[:, 0])


def test_a_learner_begins_with_one_network_in_both_roles_and_publishes_it() -> None:
    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter(spec()))
        with torch.no_grad():
            made[-1].weight.fill_(len(made))  # another one each time
        return made[-1]

    parameters = Parameters()
    learner = Learner(CONFIG, None, parameters, make, seed=3, epoch=4)
    latest = parameters.latest()
    assert latest.vector[0] == 1
    assert latest.version == (4, 0)
    np.testing.assert_array_equal(latest.vector, learner.online_parameters.numpy())
    np.testing.assert_array_equal(latest.vector, learner.target_parameters.numpy())


def test_same_seed_same_updates() -> None:
    def after() -> np.ndarray:
        learner, _, _ = parts()
        for _ in range(6):
            learner.step()
        return learner.online_parameters.numpy()

    np.testing.assert_array_equal(after(), after())


# -- Delta-Q ---------------------------------------------------------------------------------------


def test_s0_14_delta_q_is_zero_for_fresh_states_and_not_for_stale_or_zero_ones() -> None:
    """S0-15 to S0-17: with the acting parameters unchanged, stored states leave no discrepancy."""
    config = replace(CONFIG, keep_states=True)
    learner, replay, _ = parts(config)
    batch = sample(replay, 32)
    assert batch.states is not None
    first, last = delta_q(learner, batch)
    np.testing.assert_allclose(first, 0, atol=1e-5)
    np.testing.assert_allclose(last, 0, atol=1e-5)
    with torch.no_grad():
        learner.online_parameters.vector.mul_(1.5)
    first, last = delta_q(learner, batch)
    assert first.max() > 1e-4, "burned in with other parameters than those that stored the states"
    zero = Learner(
        replace(config, start_state="zero", burn_in=3),
        replay,
        Parameters(),
        partial(wiring.q_network, config, spec(), 3),
        seed=3,
    )
    first, last = delta_q(zero, batch)
    middle = batch.mid_episode
    assert first[middle].max() > 1e-4
    assert (first[~middle] < 1e-5).all()


def test_delta_q_without_states_says_what_to_set() -> None:
    learner, replay, _ = parts()
    with pytest.raises(RuntimeError, match="keep_states"):
        delta_q(learner, sample(replay))


# -- config ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_step": 9}, "n_step 9 is longer than trace_length 8"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"batch_size": 0}, "batch_size must be above 0"),
        ({"burn_in": -1}, "burn_in must be 0 or more"),
        ({"sequences": "trajectories"}, "set burn_in to 0"),
        ({"actor_processes": 6}, "actor_processes 6 is more than actors 5"),
        ({"period": 9}, "period"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **settings)


def test_a_slot_to_each_process_is_enough() -> None:
    assert replace(CONFIG, actors=5, actor_processes=5).actor_processes == 5


def test_windows_are_those_of_the_settings() -> None:
    assert CONFIG.windows() == Windows(burn_in=3, trace=8, period=4, tail=3)
    shortened = replace(CONFIG, n_step_tail="shorten")
    assert shortened.windows() == Windows(burn_in=3, trace=8, period=4, tail=0)
    whole = replace(CONFIG, sequences="trajectories", burn_in=0, n_step=9)
    assert whole.windows() == Windows.trajectories(4), "however long n_step is"


def test_paper_defaults() -> None:
    """C-3, S0-4, S0-5, S1-9, S2-8, S2-12: section 2.3 and table 2 of the paper."""
    c = R2D2Config()
    assert (c.actors, c.n_step, c.trace_length, c.burn_in, c.period) == (256, 5, 80, 40, 40)
    assert (c.replay_steps, c.batch_size) == (4_000_000, 64)
    assert (c.target_period, c.refresh_period) == (2500, 400)
    assert (c.learning_rate, c.adam_epsilon, c.gamma, c.eta) == (1e-4, 1e-3, 0.997, 0.9)
    assert (c.hidden, c.head_hidden, c.core, c.duelling) == (512, 512, "lstm", True)
    assert (c.previous_action, c.previous_reward, c.double_q) == (True, True, True)
    assert (c.start_state, c.prioritized, c.huber, c.decay_steps) == ("stored", True, 0, 0)


def test_defaults_that_the_paper_takes_from_ape_x() -> None:
    c = R2D2Config()
    assert (c.epsilon_base, c.epsilon_alpha) == (0.4, 7)
    assert (c.min_replay_steps, c.max_gradient_norm) == (50_000, 40)


def test_trap_15_the_epsilon_of_rescaling_is_a_thousandth() -> None:
    assert R2D2Config().rescaling_epsilon == 1e-3


def test_the_file_can_be_read_in_one_sitting_and_its_table_is_true() -> None:
    """Must show 6: under 400 lines of 100 columns; every function its table names exists."""
    text = Path(r2d2.__file__).read_text()
    lines = text.splitlines()
    assert len(lines) < 400
    assert max(map(len, lines)) <= 100
    table = [line for line in ast.get_docstring(ast.parse(text)).splitlines() if line[:1] == "|"]
    named = [cell for line in table[2:] for cell in line.split("|")[-2].split("`")[1::2]]
    assert len(named) >= 9
    for name in named:
        *home, function = name.split(".")
        owner = importlib.import_module(".".join(["recollect.maths", *home])) if home else r2d2
        assert callable(getattr(owner, function)), name
