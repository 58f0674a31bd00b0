"""Faults that other implementations have, looked for in this agent on this environment.

The real actor plays the real environment into a real replay, and a real learner looks at what comes
out. Numbers are those of the project's list of traps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from recollect.agents import r2d2, wiring
from recollect.agents.learning import tensors
from recollect.doctor.sheet import Budget, Sheet
from recollect.doctor.trained import Trained
from recollect.parameters import Parameters
from recollect.replay.blocks import Block
from recollect.replay.episodes import Item
from recollect.replay.store import Replay

SLOTS, BATCH, WINDOWS = 4, 16, 4
"""Slots that play, windows in a batch, and how many windows long a slot plays at most."""
MOST_BYTES = 500_000_000
RULES = "docs/own_network.md has the rules a network must keep"


class Recorder:
    """Replay, which also keeps all that it is given."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.episodes: dict[int, list[Block]] = {}
        self.items: list[Item] = []

    def wants_insert(self) -> bool:
        """Whether steps are wanted: until the recording ends."""
        return True

    def insert(self, blocks: Sequence[Block], items: Sequence[Item]) -> None:
        """Pass on and keep."""
        self.replay.insert(blocks, items)
        for block in blocks:
            self.episodes.setdefault(block.episode, []).append(block)
        self.items += items

    def drop_episode(self, episode: int) -> None:
        """Pass on and forget."""
        self.replay.drop_episode(episode)
        self.episodes.pop(episode, None)
        self.items = [item for item in self.items if item.episode != episode]

    def finished(self) -> list[list[Block]]:
        """The blocks of each episode that ended."""
        return [blocks for blocks in self.episodes.values() if blocks[-1].last]


def examine(trained: Trained, lengths: Sequence[int], sheet: Sheet, patience: float) -> None:
    """Play a little with the real parts, and look at what they made.

    Args:
        lengths: of random episodes, in steps.
    """
    played = None
    with sheet.stage("playing", SLOTS * patience):
        played = _play(trained, lengths, sheet)
    if played is None:
        return
    config, recorder, learner = played
    if not recorder.episodes:
        sheet.info(
            "windows",
            "not even a first block was complete in the steps played: traps were not looked at",
            "give it more: --seconds 60",
        )
        return
    with sheet.stage("trap 1", patience):
        _stored_states(trained, config, recorder, sheet)
    with sheet.stage("trap 5", patience):
        _coverage(recorder, sheet)
    with sheet.stage("trap 31", patience):
        _starts(trained, recorder, sheet)
    with sheet.stage("trap 33", patience):
        _previous(recorder, sheet)
    if not recorder.items:
        sheet.info(
            "windows",
            "no window was complete in the steps played, so learning was not looked at",
            "give it more: --steps 5000 --seconds 60",
        )
        return
    batch = recorder.replay.sample(np.linspace(0, 1, BATCH, endpoint=False))
    with sheet.stage("trap 7", 4 * patience):
        _burn_in(config, learner, batch, sheet)
    with sheet.stage("trap 9", 4 * patience):
        _every_step(config, learner, batch, sheet)
    with sheet.stage("trap 12", 4 * patience):
        _priorities(config, recorder, learner, batch, sheet)


def _play(trained: Trained, lengths: Sequence[int], sheet: Sheet) -> Any:
    shorter = _shorter(trained.config, lengths)
    windows = replace(trained.config, **shorter).windows()
    longest = trained.spec.max_episode_steps or 1000 if windows.trajectory else windows.steps
    steps = min(max(trained.request.steps, SLOTS * (longest + 2)), SLOTS * WINDOWS * longest)
    config = replace(
        trained.config,
        **shorter,
        actors=SLOTS,
        actor_processes=1,
        refresh_period=1_000_000,
        replay_steps=8 * steps + 8 * SLOTS * longest,
        replay_bytes=0,
        min_replay_steps=1,
        batch_size=BATCH,
        evaluation_period=0,
    )
    spec = trained.spec
    make = partial(wiring.q_network, config, spec, 0, trained.request.network)
    blocks = wiring.block_spec(config, spec, trained.network.state_size)
    recorder = Recorder(wiring.make_replay(config, blocks))
    parameters = Parameters()
    learner = r2d2.Learner(config, recorder.replay, parameters, make, seed=0)
    actor = wiring.make_actor(
        config, spec, 0, 0, make, partial(r2d2.absolute_errors, config=config),
        replay=recorder, parameters=parameters,  # type: ignore[arg-type]
    )  # fmt: skip
    each = sum(array.nbytes for array in spec.observation.values()) + 1
    turns = min(steps // SLOTS + 1, max(longest + 2, MOST_BYTES // each // SLOTS))
    for _ in Budget(turns, 0.5 * trained.request.seconds, sheet.alive):
        actor.step()
    actor.close()
    counts = actor.counts()
    sheet.ok(
        "playing",
        f"the agent played {counts['env_steps']:,} steps, {counts['episodes']:,} whole episodes, "
        f"{len(recorder.items):,} windows"
        + (", shorter ones than in training so that they overlap" if shorter else ""),
        counts,
    )
    return config, recorder, learner


def _shorter(config: Any, lengths: Sequence[int]) -> dict[str, Any]:
    """Settings of windows short enough for random episodes to have several; none if they do."""
    typical = int(np.median(lengths)) if lengths else 0
    enough = config.burn_in + config.trace_length + config.n_step
    if config.sequences != "windows" or not lengths or typical > enough:
        return {}
    period = max(1, typical // 6)
    return {
        "period": period,
        "trace_length": 2 * period,
        "burn_in": min(config.burn_in, period),
        "n_step": min(config.n_step, period),
    }


def _lived(blocks: list[Block]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """What the network saw: [T, 1, ...] each, observations [stack - 1 + T, 1, ...]."""
    context = blocks[0].spec.context
    observation = {}
    for key, before in blocks[0].context.items():
        rows = [block.observation[key][context : context + block.steps] for block in blocks]
        observation[key] = torch.from_numpy(np.concatenate([before, *rows])[:, None])
    actions = np.concatenate([block.action for block in blocks])
    rewards = np.concatenate([block.reward for block in blocks])
    first = np.asarray(blocks[0].previous_action)[None]
    before = np.concatenate([first, actions[:-1]])[:, None]
    paid = np.concatenate([np.array([blocks[0].previous_reward], np.float32), rewards[:-1]])[
        :, None
    ]
    return observation, torch.from_numpy(before), torch.from_numpy(paid.astype(np.float32))


def _stored_states(trained: Trained, config: Any, recorder: Recorder, sheet: Sheet) -> None:
    """Every stored state equals the one recomputed from its episode's start."""
    network, period = trained.network, config.period
    if network.state_size == 0:
        sheet.info("trap 1", "no recurrent state, so none is stored")
        return
    offsets = wiring.block_spec(config, trained.spec, network.state_size).state_offsets
    worst, compared = 0.0, 0
    for blocks in list(recorder.episodes.values())[:8]:
        observation, action, reward = _lived(blocks)
        state = torch.zeros(1, network.state_size)
        states = []
        with torch.no_grad():
            for t in range(len(action)):
                sheet.alive()
                states.append(state[0].numpy())
                one = slice(t, t + 1)
                seen = {key: x[t : t + 1 + len(x) - len(action)] for key, x in observation.items()}
                _, state = network(seen, action[one], reward[one], state)
        for block in blocks:
            for row, offset in enumerate(o for o in offsets if o < block.steps):
                fresh = states[block.index * period + offset]
                scale = 1 + float(np.abs(fresh).max())
                worst = max(worst, float(np.abs(block.states[row] - fresh).max()) / scale)
                compared += 1
    if not worst <= 1e-3:
        sheet.fail(
            "trap 1",
            f"stored states differ from those recomputed from the episode's start, by {worst:.2g}",
            f"the network remembers elsewhere than in its state, or is not repeatable: {RULES}",
            worst,
        )
    else:
        sheet.ok(
            "trap 1",
            f"{compared:,} stored states equal those recomputed from the episode's start "
            f"(to {worst:.0e})",
            worst,
        )


def _coverage(recorder: Recorder, sheet: Sheet) -> None:
    """Every step of every finished episode is learned from in some window (traps 5 and 6)."""
    finished = recorder.finished()
    missed = 0
    for blocks in finished:
        learned = np.zeros(sum(block.steps for block in blocks), bool)
        for item in recorder.items:
            if item.episode == blocks[0].episode:
                learned[item.start : item.start + item.learned] = True
        missed += int((~learned).sum())
    if not finished:
        sheet.info("trap 5", "no episode was finished, so coverage was not looked at")
    elif missed:
        sheet.fail("trap 5", f"{missed:,} steps are in no window's learned part", "report this")
    else:
        sheet.ok("trap 5", f"every step of {len(finished):,} episodes is learned from")


def _starts(trained: Trained, recorder: Recorder, sheet: Sheet) -> None:
    """Two equal episodes on end give equal values: nothing is left over from the first."""
    from recollect.types import VectorStep

    for blocks in recorder.episodes.values():
        block = blocks[0]
        if (
            block.states[:1].any()
            or float(block.previous_reward)
            or np.any(block.previous_action != -1)
        ):
            sheet.fail("trap 31", "an episode begins with the memory of another", "report this")
            return
    policy = trained.policy()
    observation, action, reward = _lived(next(iter(recorder.episodes.values())))
    length = min(len(action), 30)
    carry = policy.start(1)
    episodes: list[list[np.ndarray]] = [[], []]
    none = np.zeros(1, bool)
    for values in episodes:
        policy.begin(carry, np.ones(1, bool))
        for t in range(length):
            seen = {k: x[t - len(action)].numpy() for k, x in observation.items()}
            given, state = policy(seen, carry)
            values.append(given)
            following = min(t + 1, len(action) - 1)
            step = VectorStep({}, reward[following].numpy(), none, none, ~none, {})
            carry = policy.advance(carry, seen, state, action[following].numpy(), step)
    if all(np.array_equal(a, b) for a, b in zip(*episodes, strict=True)):
        sheet.ok("trap 31", "two equal episodes on end give equal values")
    else:
        sheet.fail(
            "trap 31",
            "two equal episodes on end give other values",
            f"the network remembers elsewhere than in its state: {RULES}",
        )


def _previous(recorder: Recorder, sheet: Sheet) -> None:
    for blocks in recorder.episodes.values():
        for before, block in pairwise(blocks):
            if (
                np.any(block.previous_action != before.action[-1])
                or block.previous_reward != before.reward[-1]
            ):
                sheet.fail("trap 33", "a block has lost what was before it", "report this")
                return
    sheet.ok("trap 33", "previous action and reward travel with every block")


def _burn_in(config: Any, learner: Any, batch: Any, sheet: Sheet) -> None:
    """The gradient of what only burn-in sees is exactly 0."""
    if not config.burn_in or not batch.prefix.any():
        why = "no burn-in is set" if not config.burn_in else "no window was old enough for one"
        sheet.info("trap 7", f"{why}, so its gradient was not looked at")
        return
    names = ("observation", "previous_action", "previous_reward", "prefix")
    fields = {name: tensors(getattr(batch, name)) for name in names}
    fields["previous_reward"] = fields["previous_reward"].clone().requires_grad_(True)
    watched = [fields["previous_reward"]]
    for key, x in fields["observation"].items():
        if x.is_floating_point():
            fields["observation"][key] = x.clone().requires_grad_(True)
            watched.append(fields["observation"][key])
    start = torch.from_numpy(batch.recurrent_state).clone().requires_grad_(True)
    q = r2d2.unroll(learner.network, fields, config.burn_in, start)
    q.square().sum().backward()
    leaks = any(x.grad is not None and x.grad[: config.burn_in].any() for x in watched)
    state = start.grad
    leaks |= state is not None and bool(state[torch.from_numpy(batch.prefix)].any())
    learner.online_parameters.gradient.zero_()
    if leaks:
        sheet.fail("trap 7", "gradient flows through burn-in", "report this")
    else:
        sheet.ok("trap 7", "no gradient flows through burn-in")


class _Watched(torch.nn.Module):
    """A network whose last values keep their gradient."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.values: torch.Tensor | None = None

    def forward(self, *inputs: Any) -> Any:
        values, state = self.network(*inputs)
        if values.requires_grad:
            values.retain_grad()
            self.values = values
        return values, state


def _every_step(config: Any, learner: Any, batch: Any, sheet: Sheet) -> None:
    """The learner's own loss moves the value of every learned step, and of no other."""
    network = learner.network
    learner.network = watched = _Watched(network)
    try:
        gradients = learner.gradients(batch)
    finally:
        learner.network = network
    figures = gradients.figures
    assert watched.values is not None
    assert watched.values.grad is not None
    learned = torch.from_numpy(batch.learned[config.burn_in :])
    reached = watched.values.grad[:-1].abs().sum(-1) > 0
    if not all(map(np.isfinite, figures.values())):
        sheet.fail(
            "trap 9",
            f"the first update is not finite: {figures}",
            "scale rewards and observations down",
        )
    elif (reached & ~learned).any():
        sheet.fail("trap 9", "steps outside the learned part are trained", "report this")
    elif not reached[learned].float().mean() > 0.99:  # an error of exactly 0 moves nothing
        share = float(reached[learned].float().mean())
        sheet.fail(
            "trap 9",
            f"only {share:.0%} of the learned steps are trained",
            f"the network passes no gradient to the others: {RULES}",
        )
    else:
        norm = figures["gradient_norm"]
        sheet.ok("trap 9", f"gradient reaches every learned step; its norm is {norm:.2g}", figures)


def _priorities(config: Any, recorder: Recorder, learner: Any, batch: Any, sheet: Sheet) -> None:
    """The actor's priorities are what the learner makes of the same windows."""
    if not config.prioritized or config.start_state != "stored" or config.n_step_tail != "store":
        sheet.info("trap 12", "these settings do not keep the actor's priorities: not compared")
        return
    if len(recorder.replay) != len(recorder.items):
        sheet.info("trap 12", "too much was played to compare priorities")
        return
    exponent = config.priority_exponent
    if not exponent:
        return
    mass = float(np.sum([item.priority**exponent for item in recorder.items]))
    stored = (batch.probabilities * mass) ** (1 / exponent)
    fresh = learner.gradients(batch).priorities
    gap = float(np.max(np.abs(fresh - stored) / (np.abs(stored) + 1e-3)))
    if gap <= 1e-2:
        sheet.ok("trap 12", f"actor and learner make the same priorities (to {gap:.0e})", gap)
    else:
        sheet.fail(
            "trap 12",
            f"the actor's priorities differ from the learner's by {gap:.0%}",
            f"the network is not the same in pieces and at once: {RULES}",
            gap,
        )
