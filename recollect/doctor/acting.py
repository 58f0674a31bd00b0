"""The agent on its environment: the network, the traps, the memory, what follows from them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from recollect import presets
from recollect.agents import computing, wiring
from recollect.agents.r2d2 import R2D2Config
from recollect.doctor import memory, network, traps
from recollect.doctor.environment import Subject
from recollect.doctor.request import Request
from recollect.doctor.sheet import Budget, Sheet
from recollect.doctor.speed import milliseconds, round_off
from recollect.doctor.trained import Trained
from recollect.envs import registry
from recollect.machine import threads
from recollect.run.progress import duration

STEPS, SLOTS = 12, 4
Inputs = tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]


def examine(request: Request, subject: Subject, sheet: Sheet, patience: float) -> None:
    """Network, traps and memory, onto the sheet."""
    sheet.group = "network"
    trained: Trained | None = None
    with threads(computing.threads(0, subject.spec)):
        with sheet.stage("made", 120.0):
            config, steps = presets.resolve(request.agent, request.preset, subject.spec)
            if not isinstance(config, R2D2Config):
                sheet.info("made", f"the network of {request.agent} is not examined yet")
                return
            made = wiring.q_network(config, subject.spec, 0, request.network)
            trained = Trained(subject.spec, config, steps, made, request)
            parameters = sum(p.numel() for p in made.parameters())
            name = request.network or f"{config.core}, {config.hidden} units"
            sheet.ok(
                "made",
                f"{name}: {parameters:,} parameters, a state of {made.state_size:,} numbers",
                {"parameters": parameters, "state_size": made.state_size},
            )
        if trained is None:
            return
        inputs: Inputs | None = None
        with sheet.stage("inputs", SLOTS * patience):
            inputs = real_inputs(trained, sheet)
        if inputs is not None:
            network.examine(trained.network, inputs, sheet, patience)
        if not sheet.failed:
            _pace(trained, subject, sheet, patience)
            sheet.group = "traps"
            traps.examine(trained, subject.lengths, sheet, patience)
        sheet.group = "memory"
        memory.examine(trained, sheet)
        sheet.group = "advice"
        with sheet.stage("advice"):
            memory.advise(trained, subject, sheet)


def real_inputs(trained: Trained, sheet: Sheet) -> Inputs:
    """Observations the environment gave, with actions and rewards: [STEPS, SLOTS, ...] each.

    Where frames are stacked, zeros stand before the first observations.
    """
    spec = trained.spec
    vector = registry.make(spec.id, SLOTS, dict(spec.kwargs))
    rng, seed = np.random.default_rng(1), SLOTS
    observation = vector.reset(np.arange(SLOTS))
    action, reward = spec.action.none(SLOTS), np.zeros(SLOTS, np.float32)
    rows: list[tuple[Any, Any, Any]] = []
    for _ in Budget(STEPS, 1000, sheet.alive):
        rows.append((observation, action, reward))
        action = rng.integers(spec.action.num_actions, size=SLOTS)
        step = vector.step(action)
        observation, reward = step.observation, step.reward.copy()
        over = step.terminated | step.truncated
        if over.any():
            observation = vector.restart(over, np.arange(seed, seed + SLOTS))
            seed += SLOTS
            reward[over], action = 0, np.where(over, spec.action.none(SLOTS), action)
    vector.close()
    state = torch.zeros(SLOTS, trained.network.state_size)
    before = trained.config.frame_stack - 1
    return (
        {
            key: torch.from_numpy(
                np.concatenate([each.zeros(before, SLOTS), np.stack([row[0][key] for row in rows])])
            )
            for key, each in spec.observation.items()
        },
        torch.from_numpy(np.stack([row[1] for row in rows])),
        torch.from_numpy(np.stack([row[2] for row in rows])),
        state,
    )


def _pace(trained: Trained, subject: Subject, sheet: Sheet, patience: float) -> None:
    """What a turn of the actor's network costs against the environments it steps."""
    with sheet.stage("pace", patience):
        policy = trained.policy()
        slots = min(trained.config.actors, 64)
        carry = policy.start(slots)
        observation = {key: each.zeros(slots) for key, each in trained.spec.observation.items()}
        policy(observation, carry)
        begun, turns = time.perf_counter(), 0
        for _ in Budget(200, 0.1 * trained.request.seconds, sheet.alive):
            policy(observation, carry)
            turns += 1
        acting = (time.perf_counter() - begun) / turns
        stepping = slots / subject.steps_per_second
        least = trained.env_steps * (acting + stepping) / slots
        share = stepping / (acting + stepping)
        sheet.ok(
            "pace",
            f"acting for {slots} slot{'s' * (slots > 1)} takes {milliseconds(acting)}, stepping "
            f"them {milliseconds(stepping)} ({share:.0%} of a turn): at most "
            f"{round_off(slots / (acting + stepping))} steps a second, before "
            f"learning; the {trained.env_steps:,} steps of a run take {duration(least)} at least",
            {"acting_seconds": acting, "stepping_seconds": stepping, "slots": slots},
        )
