"""What actor, learner and evaluator promise each other; each test caught a fault no other did."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recollect.agents import evaluating, r2d2
from recollect.agents.acting import Policy
from recollect.agents.evaluating import Evaluator, evaluate
from recollect.agents.learning import FlatParameters
from recollect.maths import philox
from recollect.parameters import Parameters, Version
from tests.agents import test_acting as ta
from tests.agents import test_evaluating as te
from tests.agents import test_r2d2 as tr
from tests.agents.clockwork import Counter


def test_item_version_is_of_the_block_its_prefix_begins_in():
    tape, config = ta.Tape(), replace(ta.CONFIG, refresh_period=1)
    actor = ta.make_actor(tape, config=config, longest=40)
    vector = FlatParameters(Counter(ta.clock_spec())).numpy()
    begun = {}
    for turn in range(200):
        actor._parameters.publish(Version(0, turn), vector)
        actor.step()
        for slot in range(4):  # a block began this turn
            if actor._slots[slot].versions:
                begun[actor._slots[slot].episode] = list(actor._slots[slot].versions)
    for i in tape.items:
        if i.episode in begun and (i.start - i.prefix) // 4 < len(begun[i.episode]):
            assert i.version == begun[i.episode][(i.start - i.prefix) // 4]
    starts = {(i.episode, i.start - i.prefix): i.version for i in tape.items}
    for (e, s), v in starts.items():  # 1 publication a turn: version moves with start
        if (e, 0) in starts:
            assert v == starts[e, 0] + s // 4 * 4


def test_every_episode_starts_elsewhere():
    for blocks in [ta.act(300, slots=slice(0, 1))]:
        keys = [int(b.observation["observation"][0, 2]) for b in blocks.blocks if b.index == 0]
        assert len(keys) > 10
        assert len(set(keys)) > 0.8 * len(keys)


def test_evaluation_starts_are_not_trainings():
    n = np.arange(50, dtype=np.int64)
    z = np.zeros_like(n)
    assert not set(evaluating.evaluation_seeds(5, n).tolist()) & set(
        philox.seeds(5, philox.Purpose.RESET, z, n, z).tolist()
    )


def scripted(means):
    parameters = Parameters()
    it = iter(means)
    policy = SimpleNamespace(loaded=[], load=lambda v: policy.loaded.append(float(v[0])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evaluating,
            "evaluate",
            lambda *a: evaluating.Episodes(np.array([next(it)]), np.array([1])),
        )
        e = Evaluator(
            parameters,
            make_policy=lambda: policy,
            make_env=lambda n: None,
            episodes=1,
            period=1,
            seed=1,
        )
        best = []
        for k in range(1, len(means) + 1):
            parameters.publish(Version(0, k), np.full(16, k, np.float32))
            e.step()
            best.append((e.best()[0], e.best()[1].version.updates))
    return policy.loaded, best


def test_best_is_the_best_and_the_latest_of_equals():
    loaded, best = scripted([3.0, 1.0, 3.0, 2.0])
    assert loaded == [1, 2, 3, 4]
    assert best == [(3.0, 1), (3.0, 1), (3.0, 3), (3.0, 3)]


def test_evaluation_epsilon_is_obeyed_and_draws_depend_on_the_episode_alone():
    def actions(slots, eps):
        env = te.env(slots)
        step, out = env.step, []
        env.step = lambda a: (out.append(a.copy()), step(a))[1]
        evaluate(Policy(Counter(te.spec()), te.spec()), env, 6, 4, eps)
        return out

    greedy, random = actions(1, 0.0), actions(1, 1.0)
    assert (np.concatenate(greedy) != np.concatenate(random)).mean() > 0.4
    env = te.env(1)
    lengths = evaluate(Policy(Counter(te.spec()), te.spec()), env, 6, 4, 1.0).lengths
    wide = np.stack(actions(6, 1.0))  # [T, 6]: one episode a slot
    at = 0
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(np.concatenate(random)[at : at + n], wide[:n, i])
        at += n


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
