"""Whether an environment repeats: what seeds fix, and whether an episode can be put back."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recollect.doctor import playing
from recollect.doctor.environment import Subject
from recollect.doctor.request import Request
from recollect.doctor.sheet import Budget, Sheet
from recollect.envs import registry
from recollect.types import EnvSpec

MOST = 300
"""Steps of one repetition."""
SHARE = 0.06
"""Of the seconds, for one repetition."""


def examine(
    request: Request,
    subject: Subject,
    sheet: Sheet,
    patience: float,
    elsewhere: Callable[[Request], list[str] | None],
) -> None:
    """What repeats and what does not; `elsewhere` plays in another process."""
    if subject.env is None:
        return
    steps, seconds = min(request.steps, MOST), SHARE * request.seconds
    with sheet.stage("repetition", patience):
        first = _fresh(subject.spec, steps, seconds, sheet, chance=1)
        _same_seed(request, subject, first, sheet, patience, elsewhere)
    with sheet.stage("other seed", patience):
        env = playing.make(subject.spec)
        other = playing.play(env, len(first), 1000, seconds, sheet.alive)
        env.close()
        if other[0] == first[0]:
            sheet.info(
                "seeds",
                "another seed begins with the same observation"
                + (", and all that follows is the same" if other[:20] == first[:20] else ""),
            )
        else:
            sheet.ok("seeds", "another seed gives another episode")
    restored = False
    with sheet.stage("put back", patience):
        restored = _put_back(subject, sheet, seconds)
    with sheet.stage("handed out", patience):
        _handed_out(subject, sheet, seconds)
    if subject.repeatable and restored:
        with sheet.stage("trap 18", 2 * patience):
            _modes(subject.spec, sheet, seconds)


def _fresh(spec: EnvSpec, steps: int, seconds: float, sheet: Sheet, chance: int) -> list[str]:
    """What a new environment gives, with the global generators at a known place."""
    np.random.seed(chance)
    random.seed(chance)
    env = playing.make(spec)
    lived = playing.play(env, steps, 0, seconds, sheet.alive)
    env.close()
    return lived


def _same_seed(
    request: Request,
    subject: Subject,
    first: list[str],
    sheet: Sheet,
    patience: float,
    elsewhere: Callable[[Request], list[str] | None],
) -> None:
    steps, seconds = len(first), SHARE * request.seconds
    again = _fresh(subject.spec, steps, seconds, sheet, chance=1)
    other = _fresh(subject.spec, steps, seconds, sheet, chance=2)
    consequence = "runs cannot be repeated, nor resumed exactly"
    draw = "draw every random number from self.np_random, and call super().reset(seed=seed)"
    place = playing.difference(first, again)
    if place is not None:
        sheet.warn(
            "repetition",
            f"same seed and actions, yet it differs {_at(place)}: {consequence}",
            draw,
        )
        return
    place = playing.difference(first, other)
    if place is not None:
        sheet.warn(
            "repetition",
            "it draws from the global state of random or np.random (with another one it differs "
            f"{_at(place)}): {consequence}",
            draw,
        )
        return
    subject.repeatable = True
    sheet.ok("repetition", "same seed and actions give the same experience, bit for bit")
    with sheet.stage("other process", 60 + patience):
        there = elsewhere(replace(request, steps=steps, seconds=seconds))
        if there is None:
            sheet.info("other process", "it could not be repeated in another process in time")
            return
        place = playing.difference(first, there)
        if place is None:
            sheet.ok("other process", "the same once more in another process")
        else:
            subject.repeatable = False
            sheet.warn(
                "other process",
                f"elsewhere it differs {_at(place)}: {consequence}",
                "look for hash(), sets, time, process ids or addresses in its decisions",
            )


def _at(place: int) -> str:
    return "from the first observation on" if place == 0 else f"from event {place} on"


def _put_back(subject: Subject, sheet: Sheet, seconds: float) -> bool:
    """A running episode, brought back in a new environment by its seed and actions."""
    used = playing.make(subject.spec)
    used.reset(seed=7)
    chosen = playing.actions(used, 7)
    for _ in range(3):
        sheet.alive()
        if any(used.step(next(chosen))[2:4]):
            used.reset(seed=8)
    episode = playing.play(used, 40, 9, seconds, sheet.alive)  # resets in mid-episode
    used.close()
    fresh = playing.make(subject.spec)
    again = playing.play(fresh, 40, 9, seconds, sheet.alive)
    fresh.close()
    place = playing.difference(episode, again)
    if place is None:
        sheet.ok(
            "put back",
            "a running episode can be put back by its seed and actions, and a reset in "
            "mid-episode begins anew",
        )
    elif not subject.repeatable:
        sheet.info("put back", "a running episode cannot be put back: resumed runs begin new ones")
    else:
        sheet.warn(
            "put back",
            "what happened in earlier episodes changes later ones: a running episode cannot be "
            "put back, so resumed runs begin new ones",
            "reset everything in reset; keep nothing across episodes but what the seed gives",
        )
    return place is None


def _handed_out(subject: Subject, sheet: Sheet, seconds: float) -> None:
    """Does it write into arrays it gave away, or read from them?"""
    env = playing.make(subject.spec)
    held, _ = env.reset(seed=3)
    chosen = playing.actions(env, 3)
    changed = False
    for _ in range(5):
        sheet.alive()
        before = copy.deepcopy(held)
        observation, _, terminated, truncated, _ = env.step(next(chosen))
        changed = changed or playing.word(before) != playing.word(held)
        held = observation
        if terminated or truncated:
            held, _ = env.reset(seed=3)
    reads = subject.repeatable and _reads(env, sheet)
    env.close()
    what = " and ".join(["changes"] * changed + ["reads back"] * reads)
    if what:
        sheet.info(
            "handed out",
            f"it {what} arrays it handed out: harmless here, where they are copied at once",
            "return a copy, for others who keep observations",
        )
    else:
        sheet.ok("handed out", "arrays it handed out are left alone")


def _reads(env: playing.Env, sheet: Sheet) -> bool:
    """Whether an observation that we write over changes what comes next."""
    words = []
    for spoil in (False, False, True):
        sheet.alive()
        observation, _ = env.reset(seed=4)
        for array in playing.arrays(observation) if spoil else []:
            if array.flags.writeable:
                array[...] = 0
        words.append(playing.word(env.step(next(playing.actions(env, 4)))[:2]))
    return words[0] == words[1] != words[2]


def _modes(spec: EnvSpec, sheet: Sheet, seconds: float) -> None:
    """The three auto-reset modes of Gymnasium give one and the same experience."""
    length, allowed = 60, 4 * seconds
    lived: dict[str, list[str]] = {}
    for mode in AutoresetMode:
        vector: Any = SyncVectorEnv([partial(playing.make, spec)] * 2, autoreset_mode=mode)
        ours = registry.wrap(vector, spec.id, dict(spec.kwargs))
        rng = np.random.default_rng(0)
        words, seed = [playing.word(ours.reset(np.array([1, 2])))], 3
        turns = 0
        for _ in Budget(length, allowed, sheet.alive):
            turns += 1
            if spec.action.discrete:
                actions = rng.integers(spec.action.num_actions, size=2)
            else:
                actions = np.stack([vector.single_action_space.sample() * 0] * 2)
            step = ours.step(actions)
            over = step.terminated | step.truncated
            words.append(
                playing.word((step.observation, step.reward, step.terminated, step.truncated))
            )
            if over.any():
                words.append(playing.word(ours.restart(over, np.array([seed, seed + 1]))))
                seed += 2
        ours.close()
        length, allowed = turns, 1000.0  # the other modes play as many
        lived[mode.name] = words
    differ = [name for name, words in lived.items() if words != lived["DISABLED"]]
    if differ:
        sheet.info(
            "trap 18",
            f"auto-reset {' and '.join(differ)} gives other experience than DISABLED, which runs "
            "use: this matters in a vector of your own only",
            "return copies of observations, and begin every episode from its seed alone",
        )
    else:
        sheet.ok("trap 18", "closing observations are kept, alike in every auto-reset mode")
