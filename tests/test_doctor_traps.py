"""Each trap the doctor looks for is found where it is planted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recollect.agents import r2d2, wiring
from recollect.agents.r2d2 import R2D2Config
from recollect.doctor import network as promises
from recollect.doctor import traps
from recollect.doctor.acting import real_inputs
from recollect.doctor.request import Request
from recollect.doctor.sheet import Check, Sheet
from recollect.doctor.trained import Trained
from recollect.envs import registry
from recollect.replay.blocks import Block
from tests.agents import pictures

CONFIG = R2D2Config(
    burn_in=3,
    trace_length=8,
    period=4,
    n_step=3,
    torso_sizes=(8,),
    pre_core=0,
    hidden=6,
    head_hidden=5,
)


@pytest.fixture
def trained() -> Trained:
    spec = registry.env_spec("recollect/Recall-v0")
    network = wiring.q_network(CONFIG, spec, 0)
    return Trained(spec, CONFIG, 1000, network, Request(spec.id, seconds=1000.0))


def looked_at(trained: Trained) -> dict[str, Check]:
    sheet = Sheet("traps")
    traps.examine(trained, [32], sheet, 1.0)
    return {check.name: check for check in sheet.checks}


def failed(trained: Trained) -> set[str]:
    return {name for name, check in looked_at(trained).items() if check.status == "FAIL"}


def change_blocks(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let the actor's blocks be built with some of their fields changed."""
    build = Block.build.__func__  # type: ignore[attr-defined]

    def changed(cls: type, spec: Any, **fields: Any) -> Block:
        for name, change in changes.items():
            fields[name] = change(fields[name], fields["index"])
        return build(cls, spec, **fields)

    monkeypatch.setattr(Block, "build", classmethod(changed))


def test_nothing_is_found_where_nothing_is(trained: Trained) -> None:
    found = looked_at(trained)
    assert {check.status for check in found.values()} == {"ok"}
    assert set(found) == {"playing", *(f"trap {n}" for n in (1, 5, 7, 9, 12, 31, 33))}


def test_nothing_is_found_where_frames_are_stacked() -> None:
    """And the network keeps its promises on stacks that the environment gave."""
    assert pictures.Pictures
    spec = registry.env_spec("tests/Pictures-v0")
    config = replace(CONFIG, frame_stack=4)
    network = wiring.q_network(config, spec, 0)
    stacked = Trained(spec, config, 1000, network, Request(spec.id, seconds=1000.0))
    assert {check.status for check in looked_at(stacked).values()} == {"ok"}
    sheet = Sheet("network")
    promises.examine(network, real_inputs(stacked, sheet), sheet, 10.0)
    assert {check.status for check in sheet.checks} == {"ok"}
    assert len(sheet.checks) == 7


def test_trap_01_a_state_from_another_time(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_blocks(monkeypatch, states=lambda states, index: states + np.float32(0.1 * (index > 0)))
    assert "trap 1" in failed(trained)


def test_trap_05_steps_never_learned_from(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = traps.Recorder.insert

    def forgetful(self: traps.Recorder, blocks: Any, items: Any) -> None:
        insert(self, blocks, items)
        self.items = [item for item in self.items if item.start or item.prefix]

    monkeypatch.setattr(traps.Recorder, "insert", forgetful)
    assert "trap 5" in failed(trained)


def test_trap_07_gradient_through_burn_in(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(network: Any, batch: Any, burn_in: int, start: Any) -> Any:
        inputs = (batch["observation"], batch["previous_action"], batch["previous_reward"])
        return network(*inputs, start)[0][burn_in:]

    monkeypatch.setattr(r2d2, "unroll", leaking)
    assert "trap 7" in failed(trained)


def test_trap_09_only_the_last_step_trained(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = r2d2.value_learning.action_values

    def last_only(q: Any, action: Any) -> Any:
        values = chosen(q, action)
        return torch.cat([values[:-1].detach(), values[-1:]])

    monkeypatch.setattr(r2d2.value_learning, "action_values", last_only)
    assert "trap 9" in failed(trained)


def test_trap_12_another_priority_in_the_actor(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = r2d2.absolute_errors
    monkeypatch.setattr(r2d2, "absolute_errors", lambda *args, **kw: 1.1 * errors(*args, **kw))
    assert failed(trained) == {"trap 12"}


def test_trap_31_memory_left_from_the_episode_before(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(trained.policy())
    monkeypatch.setattr(kind, "begin", lambda self, carry, mask: None)
    assert "trap 31" in failed(trained)


def test_trap_33_a_block_that_lost_what_was_before_it(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_blocks(monkeypatch, previous_reward=lambda reward, index: reward + np.float32(index > 0))
    assert "trap 33" in failed(trained)


def test_windows_are_shortened_where_random_episodes_are_short() -> None:
    assert traps._shorter(CONFIG, [100]) == {}
    shorter = replace(CONFIG, **traps._shorter(CONFIG, [12]))
    assert (shorter.period, shorter.trace_length, shorter.burn_in, shorter.n_step) == (2, 4, 2, 2)
    assert traps._shorter(CONFIG, []) == {}
    assert replace(CONFIG, **traps._shorter(CONFIG, [1])).trace_length == 2
