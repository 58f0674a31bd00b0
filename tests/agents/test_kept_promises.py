"""What actor, learner and evaluator promise each other; each test caught a fault no other did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recollect.agents import r2d2
from tests.agents import test_r2d2 as tr


def test_the_loss_is_weighted_by_importance():
    learner, replay, _ = tr.parts(
        replace(tr.CONFIG, importance_exponent=0.6, priority_exponent=0.9)
    )
    batch = tr.sample(replay)
    out = learner.gradients(batch).figures["loss"]
    q, qt, f = learner.q_values(batch)
    b = tr.CONFIG.burn_in
    y = r2d2.targets(q[1:], qt[1:], f["reward"][b:], f["discount"][b:], f["mask"][b:], tr.CONFIG)
    d = torch.where(
        f["learned"][b:], y - q[:-1].gather(-1, f["action"][b:, :, None].long())[..., 0], 0
    )
    w = (batch.size * batch.probabilities) ** -0.6
    w = w / w.max()
    assert out == pytest.approx(
        float((torch.as_tensor(w) * (d.detach() ** 2 / 2).sum(0)).mean()), rel=1e-5
    )


def test_learner_and_actor_take_etas_from_the_config():
    learner, replay, _ = tr.parts(replace(tr.CONFIG, eta=0.2))
    batch = tr.sample(replay, 32)
    stored = (batch.probabilities * replay._sampler.mass) ** (1 / 0.9)
    np.testing.assert_allclose(learner.gradients(batch).priorities, stored, rtol=1e-4, atol=1e-5)


def test_rescaling_epsilon_reaches_both_functions():
    c = replace(tr.CONFIG, n_step=1, rescaling_epsilon=0.1)
    q = torch.tensor([[[2.0]]])
    one = torch.ones(1, 1)
    y = r2d2.targets(q, q, 0 * one, one, None, c)
    assert float(y) == pytest.approx(2.0, abs=1e-4)


def test_a_step_writes_its_priorities_to_the_items_it_drew():
    learner, replay, _ = tr.parts()
    wrote, gave, make = [], [], learner.gradients
    learner.gradients = lambda batch: (gave.append((batch, make(batch))), gave[-1][1])[1]
    replay.update_priorities = lambda *a: wrote.append(a)
    learner.step()
    (slots, uids, new), (batch, gradients) = wrote[0], gave[0]
    np.testing.assert_array_equal(slots, batch.slots)
    np.testing.assert_array_equal(uids, batch.uids)
    np.testing.assert_array_equal(new, gradients.priorities)
    assert len(set(new.tolist())) > 1
