"""The environment by itself: can it be made, is it understood, does it keep its contract."""

from __future__ import annotations

import contextlib
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from recollect.agents import wiring
from recollect.doctor import playing
from recollect.doctor.request import Request
from recollect.doctor.sheet import Budget, Sheet, Status, said
from recollect.envs import registry
from recollect.envs.spaces import Encoder
from recollect.types import ConfigError, EnvSpec

FEW = 3
"""Of Gymnasium's own remarks that are shown."""


@dataclass
class Subject:
    """The environment that is examined, and what became known of it."""

    spec: EnvSpec
    env: playing.Env | None
    lengths: list[int] = field(default_factory=list)
    terminated: int = 0
    truncated: int = 0
    largest: float = 0.0  # absolute value in an observation
    rewards: list[float] = field(default_factory=list)
    repeatable: bool = False
    steps_per_second: float = 0.0

    def close(self) -> None:
        """Close the environment, whatever it says to that."""
        if self.env is not None:
            with contextlib.suppress(Exception):
                self.env.close()


def examine(request: Request, sheet: Sheet, patience: float) -> Subject | None:
    """Make it, look at its spaces, play it; None if it cannot be made."""
    subject: Subject | None = None
    with sheet.stage("made"):
        begun = time.perf_counter()
        spec, (observation_space, action_space) = registry.describe(request.env, request.env_kwargs)
        env = None if registry.only_vectors(spec.id, spec.kwargs) else playing.make(spec)
        seconds = time.perf_counter() - begun
        subject = Subject(spec, env)
        sheet.ok("made", f"{spec.id} was made in {seconds:.2g} s", round(seconds, 4))
        if spec.kwargs:
            options = registry.options_line(spec).partition(": ")[2]
            sheet.info("options", options, value=dict(spec.kwargs))
    if subject is None:
        return None
    with sheet.stage("spaces", patience):
        _observations(subject.spec, observation_space, sheet)
        _actions(subject.spec, action_space, request.agent, sheet)
    if subject.env is None:
        sheet.info("playing", "only a vector form is registered: single steps were not looked at")
        return subject
    with sheet.stage("playing", patience):
        _Survey(subject, sheet).play(request.steps, 0.4 * request.seconds)
    if not sheet.failed:
        with sheet.stage("gymnasium", 60 + 3 * patience):
            _gymnasiums_own(subject.spec, sheet)
    return subject


def _observations(spec: EnvSpec, space: spaces.Space[Any], sheet: Sheet) -> None:
    for key, (array, leaf) in zip(
        spec.observation, zip(spec.observation.values(), _leaves(space), strict=True), strict=True
    ):
        shape, source = list(array.shape), f"{type(leaf).__name__}"
        if isinstance(leaf, spaces.Discrete):
            source += f"({leaf.n}), one-hot"
        elif leaf.shape:
            source += f"{list(leaf.shape)} {leaf.dtype}"
        lost = ""
        if leaf.dtype == np.float64:
            lost = ": float64 is rounded"
        value = {"shape": shape, "dtype": array.dtype, "bytes": array.nbytes}
        text = f"{key}: {source} becomes {shape} {array.dtype}{lost}"
        if isinstance(leaf, (spaces.Discrete, spaces.MultiDiscrete)) and array.nbytes > 4000:
            sheet.warn(
                "observations",
                f"{text}: {array.nbytes:,} bytes a step",
                "a coordinate or two in a Box say the same in fewer numbers",
                value,
            )
        else:
            sheet.ok("observations", text, value)


def _actions(spec: EnvSpec, space: spaces.Space[Any], agent: str, sheet: Sheet) -> None:
    if spec.action.discrete:
        sheet.ok("actions", f"Discrete, {spec.action.num_actions} of them", spec.action.num_actions)
        return
    try:
        wiring.check_actions(spec)
    except ConfigError:
        sheet.fail(
            "actions",
            f"continuous ({space}), and {agent} chooses among numbered ones (Discrete)",
            "register it inside gymnasium.wrappers.DiscretizeAction, or take another environment",
        )


def _leaves(space: spaces.Space[Any]) -> Iterator[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        for part in space.spaces.values():
            yield from _leaves(part)
    elif isinstance(space, spaces.Tuple):
        for part in space.spaces:
            yield from _leaves(part)
    else:
        yield space


class _Survey:
    """Plays an environment and notes every kind of fault once, with how often it came."""

    def __init__(self, subject: Subject, sheet: Sheet) -> None:
        assert subject.env is not None
        self._subject, self._env, self._sheet = subject, subject.env, sheet
        self._faults: dict[str, tuple[Status, str, str]] = {}
        self._counts: dict[str, int] = {}
        self._encoder = Encoder(subject.env.observation_space, subject.spec.id)
        self._where = ""

    def play(self, steps: int, seconds: float) -> None:
        """Random episodes, each reset with its own seed."""
        subject, played, broken = self._subject, 0, False
        seed = 1
        chosen = playing.actions(self._env, seed)
        if not self._reset(seed):
            return self._tell(0)
        length = 0
        for _ in Budget(steps, seconds, self._sheet.alive):
            self._where = f"at step {length + 1} of the episode of seed {seed}"
            over = self._step(next(chosen))
            if over is None:
                broken = True
                break
            played, length = played + 1, length + 1
            if over:
                subject.lengths.append(length)
                length, seed = 0, seed + 1
                if not self._reset(seed):
                    broken = True
                    break
        self._tell(played)
        if not broken:
            self._episodes(played)
            self._rewards()

    def _note(self, name: str, status: Status, message: str, advice: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1
        self._faults.setdefault(name, (status, f"{message} {self._where}", advice))

    def _reset(self, seed: int) -> bool:
        self._where = f"from reset(seed={seed})"
        given: Any
        try:
            given = self._env.reset(seed=seed)
        except Exception as error:
            advice = "a reset must work at any time, with a seed or without"
            if isinstance(error, TypeError) and "seed" in str(error):
                advice = "write def reset(self, *, seed=None, options=None), and give super() seed"
            self._note("reset", "FAIL", f"reset raised {said(error)}", advice)
            return False
        if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)):
            self._note("reset", "FAIL", f"reset gave {_shape(given)}", "return observation, info")
            return False
        return self._observed(given[0])

    def _step(self, action: Any) -> bool | None:
        """Whether the episode ended; None if nothing more can be played."""
        given: Any
        try:
            given = self._env.step(action)
        except Exception as error:
            self._note("step", "FAIL", f"step({action}) raised {said(error)}", "mend its step")
            return None
        if not (isinstance(given, tuple) and len(given) == 5):
            wanted = "return observation, reward, terminated, truncated, info"
            self._note("step", "FAIL", f"step gave {_shape(given)}", wanted)
            return None
        observation, reward, terminated, truncated, info = given
        if not self._observed(observation):
            return None
        self._rewarded(reward)
        flags = {"terminated": terminated, "truncated": truncated}
        for name, flag in flags.items():
            if flag is None:
                self._note("flags", "FAIL", f"{name} is None", "say True or False")
                return None
            if not isinstance(flag, (bool, np.bool_)):
                self._note("flags", "warn", f"{name} is {flag!r}, not a bool", "say True or False")
        if not isinstance(info, dict):
            self._note("info", "warn", f"info is {_shape(info)}, not a dict", "return a dict")
        self._subject.terminated += bool(terminated)
        self._subject.truncated += bool(truncated and not terminated)
        return bool(terminated or truncated)

    def _rewarded(self, reward: Any) -> None:
        try:
            value = float(reward)
        except (TypeError, ValueError):
            self._note("reward", "FAIL", f"reward is {_shape(reward)}", "return one number")
            return
        if np.isfinite(value):
            self._subject.rewards.append(value)
        else:
            self._note(
                "reward", "FAIL", f"reward is {value}", "mend it: such an episode is dropped whole"
            )

    def _observed(self, observation: Any) -> bool:
        wrong = self._encoder.mismatch(observation)
        if wrong:
            self._note("observation", "FAIL", f"{wrong},", "mend the space, or what is returned")
            return False
        for array in playing.arrays(observation):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = array[~np.isfinite(array)].flat[0]
                advice = "mend it: such an episode is dropped whole"
                self._note("observation", "FAIL", f"the observation has {bad}", advice)
                return True
            if array.size and array.dtype.kind in "fiu":
                peak = float(np.abs(array.astype(np.float64, copy=False)).max())
                self._subject.largest = max(self._subject.largest, peak)
        if not self._env.observation_space.contains(observation):
            self._note(
                "observation",
                "warn",
                f"the observation {self._outside(observation)}",
                "harmless while it is used as it comes; but mend the space or the values",
            )
        return True

    def _outside(self, observation: Any) -> str:
        space = self._env.observation_space
        if isinstance(space, spaces.Box) and isinstance(observation, np.ndarray):
            if observation.dtype != space.dtype:
                return f"is {observation.dtype}, its space says {space.dtype},"
            for bound, over in ((space.low, observation < space.low),
                                (space.high, observation > space.high)):  # fmt: skip
                if over.any():
                    at = np.argmax(over)
                    value, limit = observation.flat[at], bound.flat[at]
                    return f"leaves its space: {value:.6g} where {limit:.6g} is the limit,"
        return "is not in its space"

    def _tell(self, played: int) -> None:
        for name, (status, message, advice) in self._faults.items():
            count = self._counts[name]
            times = f" (and {count - 1:,} times more)" if count > 1 else ""
            self._sheet.add(status, name, message + times, advice, count)
        if played and not any(status == "FAIL" for status, *_ in self._faults.values()):
            held = (
                "everything had its form and was finite" if not self._faults else "no more faults"
            )
            self._sheet.ok("playing", f"{played:,} random steps: {held}", played)

    def _episodes(self, played: int) -> None:
        subject, sheet = self._subject, self._sheet
        lengths, limit = subject.lengths, subject.spec.max_episode_steps
        value: dict[str, float] = {
            "episodes": len(lengths),
            "terminated": subject.terminated,
            "truncated": subject.truncated,
            "time_limit": limit,
        }
        stated = f"time limit {limit:,}" if limit else "no time limit"
        if not lengths:
            text = f"no episode ended within {played:,} random steps; {stated}"
            if limit:
                sheet.info("episodes", text, "to see some whole: --steps, --seconds", value)
            else:
                sheet.warn(
                    "episodes",
                    text,
                    "evaluations play whole episodes: if yours may never end, add --env-kwargs "
                    "'{\"max_episode_steps\": 1000}'",
                    value,
                )
            return
        value |= {
            "shortest": min(lengths),
            "mean": float(np.mean(lengths)),
            "longest": max(lengths),
        }
        span = f"{min(lengths):,} to {max(lengths):,} steps, {np.mean(lengths):,.0f} on average"
        if min(lengths) == max(lengths):
            span = f"all of {lengths[0]:,} steps"
        sheet.ok(
            "episodes",
            f"{len(lengths):,} episodes, {span}; {subject.terminated:,} terminated, "
            f"{subject.truncated:,} truncated; {stated}",
            value,
        )
        if len(lengths) > 4 and min(lengths) == max(lengths) > 50 and not subject.truncated:
            sheet.info(
                "time limit",
                f"every episode terminates after {lengths[0]:,} steps exactly",
                "if that is a limit on time, say truncated: the last state still has a future",
            )

    def _rewards(self) -> None:
        given = self._subject.rewards
        if not given:
            return
        low, high = min(given), max(given)
        value = {"lowest": low, "highest": high, "mean": float(np.mean(given))}
        if low == high == 0:
            advice = "if they are very rare, exploration alone may never find one"
            self._sheet.info("rewards", "all rewards of random play were 0", advice, value)
        else:
            span = f"from {low:.3g} to {high:.3g}, {value['mean']:.3g} on average"
            self._sheet.ok("rewards", span if low < high else f"always {low:.3g}", value)


def _gymnasiums_own(spec: EnvSpec, sheet: Sheet) -> None:
    """Gymnasium's own checker; what we found ourselves it may say again in its words."""
    from gymnasium.utils.env_checker import check_env

    remarks = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = playing.make(spec)
        try:
            check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
        except Exception as error:
            remarks.append(f"{type(error).__name__}: {error}")
        finally:
            env.close()
    remarks += [str(each.message) for each in caught]
    plain = [" ".join(re.sub(r"\x1b\[\d*m|WARN: ", "", text).split()) for text in remarks]
    plain = list(dict.fromkeys(plain))
    for text in plain[:FEW]:
        short = text if len(text) < 200 else text[:197] + "..."
        sheet.info("gymnasium", f"its own check says: {short}")
    if len(plain) > FEW:
        sheet.info("gymnasium", f"and {len(plain) - FEW} remarks more")
    if not plain:
        sheet.ok("gymnasium", "its own check has nothing to say")


def _shape(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array {list(value.shape)} of {value.dtype}"
    return f"{type(value).__name__} {value!r}"[:80]
