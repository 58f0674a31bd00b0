"""A learner that multiplies in bfloat16, against the same one in float32."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from recollect.agents import wiring
from recollect.agents.computing import Compute
from recollect.agents.r2d2 import Learner, R2D2Config, program
from recollect.parameters import Parameters
from recollect.replay.batch import Batch
from recollect.types import ActionSpec, ArraySpec, EnvSpec

FAST, EXACT = Compute("cpu", bfloat16=True), Compute("cpu")


def spec(*shape: int) -> EnvSpec:
    return EnvSpec("tests/Own-v0", {}, {"observation": ArraySpec(shape, "uint8")}, ActionSpec(18))


def random_batch(config: R2D2Config, env: EnvSpec, size: int, paid: float = 1.0) -> Batch:
    """Random images, actions and memories; `paid`: share of steps with a reward."""
    rng = np.random.default_rng(0)
    steps, columns = config.windows().steps, config.windows().steps + 1
    rewards = np.where(rng.random((columns, size)) < paid, rng.normal(size=(columns, size)), 0)
    rewards = rewards.astype(np.float32)
    actions = rng.integers(0, 18, (columns, size))
    learned = np.zeros((steps, size), np.bool_)
    learned[config.burn_in : config.burn_in + config.trace_length] = True
    shape = (config.frame_stack - 1 + columns, size, *env.observation["observation"].shape)
    flat = np.arange(size, dtype=np.int64)
    memory = config.hidden * (2 if config.core == "lstm" else 1)
    return Batch(
        observation={"observation": rng.integers(0, 256, shape, np.uint8)},
        previous_action=actions,
        previous_reward=rewards,
        action=actions[1:],
        reward=rewards[1:],
        discount=np.full((steps, size), config.gamma, np.float32),
        mask=np.ones((steps, size), np.bool_),
        learned=learned,
        prefix=np.arange(size) % 3 > 0,
        recurrent_state=rng.normal(0, 0.1, (size, memory)).astype(np.float32),
        states=None,
        mid_episode=np.ones(size, np.bool_),
        slots=flat,
        uids=flat,
        probabilities=rng.random(size) / 100,
        size=1000,
        version=flat,
    )


def learner(config: R2D2Config, env: EnvSpec, compute: Compute) -> Learner:
    make = partial(wiring.q_network, config, env, 3)
    made = Learner(config, None, Parameters(), make, seed=3, compute=compute)  # type: ignore[arg-type]
    with torch.no_grad():  # a target that is another network
        made.target_parameters.vector.mul_(0.9)
    return made


def compared(config: R2D2Config, env: EnvSpec, **how: Any) -> tuple[Any, Any]:
    batch = random_batch(config, env, **how)
    return tuple(learner(config, env, compute).gradients(batch) for compute in (EXACT, FAST))


PAPER: dict[str, Any] = {"burn_in": 4, "trace_length": 8, "period": 4}
SIZES = {"pre_core": 32, "hidden": 32, "head_hidden": 32}
CASES = {
    "paper": (R2D2Config(**PAPER, frame_stack=4), spec(84, 84)),
    "plus": (R2D2Config(**PAPER, torso="impala", rewards="asymmetric"), spec(72, 96, 3)),
    "small": (R2D2Config(**PAPER, torso="small", **SIZES), spec(7, 7, 3)),
    "gru": (R2D2Config(**PAPER, core="gru", frame_stack=2, **SIZES), spec(40, 36)),
}


@pytest.mark.parametrize("paid", [1.0, 0.05, 0.0])
@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_priorities_are_within_two_hundredths(case: str, paid: float) -> None:
    """On the same batch; also where errors are small, as there is next to no reward."""
    exact, fast = compared(*CASES[case], size=4, paid=paid)
    for name in ("loss", "gradient_norm", "absolute_error_mean", "q_mean"):
        assert fast.figures[name] == pytest.approx(exact.figures[name], rel=0.02), name
    np.testing.assert_allclose(fast.priorities, exact.priorities, rtol=0.02)
    cosine = torch.nn.functional.cosine_similarity(fast.vector, exact.vector, dim=0)
    assert cosine > 0.998
    assert (fast.vector != exact.vector).any(), "it was computed in bfloat16"


@pytest.mark.slow
def test_the_papers_lengths_too() -> None:
    exact, fast = compared(R2D2Config(frame_stack=4), spec(84, 84), size=8, paid=0.02)
    for name in ("loss", "gradient_norm"):
        assert fast.figures[name] == pytest.approx(exact.figures[name], rel=0.02), name
    np.testing.assert_allclose(fast.priorities, exact.priorities, rtol=0.02)


@pytest.mark.parametrize("case", CASES)
def test_values_states_gradients_and_parameters_are_float32(case: str) -> None:
    config, env = CASES[case]
    batch, made = random_batch(config, env, 3), learner(*CASES[case], FAST)
    q_online, q_target, fields = made.q_values(batch)
    assert q_online.dtype == q_target.dtype == torch.float32
    assert q_online.shape == (config.windows().steps + 1 - config.burn_in, 3, 18)
    assert not q_target.requires_grad
    with FAST.autocast():
        _, state = made.network(
            fields["observation"],
            fields["previous_action"],
            fields["previous_reward"],
            fields["recurrent_state"],
        )
    assert state.dtype == torch.float32
    gradients = made.gradients(batch)
    assert gradients.vector.dtype == torch.float32
    assert gradients.priorities.dtype == np.float32
    made.apply(gradients.vector)
    assert {p.dtype for p in made.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns_in_bfloat16_with_a_burn_in_before(case: str) -> None:
    """What autocast keeps from the burn-in, which has no gradient, must not be used again."""
    made = learner(*CASES[case], FAST)
    made.gradients(random_batch(*CASES[case], 3))
    for name, p in made.network.named_parameters():
        assert p.grad is not None
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_program_learns_in_what_its_config_says_and_acts_in_float32(dtype: str) -> None:
    config = R2D2Config(**PAPER, **SIZES, torso="small", dtype=dtype, device="cpu")  # type: ignore[arg-type]
    found = program(config, spec(7, 7, 3), seed=1)
    (part,) = (part for part in found.parts if part.name == "learner")
    made = part.factory(replay=None, parameters=Parameters())
    assert made._compute == Compute("cpu", dtype == "bfloat16")
    assert not found.policy()._compute.bfloat16
