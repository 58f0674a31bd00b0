"""How fast an environment is, alone and in a vector, and what memory it takes."""

from __future__ import annotations

import gc
import re
import time
from pathlib import Path

import numpy as np

from recollect.doctor import playing
from recollect.doctor.environment import Subject
from recollect.doctor.request import Request
from recollect.doctor.sheet import Budget, Sheet
from recollect.envs import registry
from recollect.run.progress import size

SLOTS = 8


def examine(request: Request, subject: Subject, sheet: Sheet, patience: float) -> None:
    """Steps a second, seconds of a reset, bytes of an environment."""
    sheet.group = "speed"
    if subject.env is not None:
        with sheet.stage("one environment", patience):
            _one(subject, sheet, 0.1 * request.seconds)
    with sheet.stage("slots in turn", SLOTS * patience):
        _many(subject, sheet, 0.1 * request.seconds)


def _one(subject: Subject, sheet: Sheet, seconds: float) -> None:
    env = subject.env
    assert env is not None
    chosen = [action for action, _ in zip(playing.actions(env, 0), range(64), strict=False)]
    resets, stepping, steps = [_reset_seconds(env, 0)], 0.0, 0
    for step in Budget(20_000, seconds, sheet.alive):
        begun = time.perf_counter()
        given = env.step(chosen[step % 64])
        stepping += time.perf_counter() - begun
        if given[2] or given[3]:
            resets.append(_reset_seconds(env, step))
        steps += 1
    rate, reset = steps / stepping, float(np.mean(resets))
    subject.steps_per_second = rate
    sheet.ok(
        "one environment",
        f"{round_off(rate)} steps a second; a reset takes {milliseconds(reset)}",
        {"steps_per_second": round(rate, 1), "reset_seconds": reset},
    )


def _reset_seconds(env: playing.Env, seed: int) -> float:
    begun = time.perf_counter()
    env.reset(seed=seed)
    return time.perf_counter() - begun


def _many(subject: Subject, sheet: Sheet, seconds: float) -> None:
    spec = subject.spec
    gc.collect()
    before = _resident()
    vector = registry.make(spec.id, SLOTS, dict(spec.kwargs))
    vector.reset(np.arange(SLOTS))
    each = max(0, _resident() - before) / SLOTS
    rng, turns, seed = np.random.default_rng(0), 0, SLOTS
    begun = time.perf_counter()
    for _ in Budget(20_000, seconds, sheet.alive):
        if spec.action.discrete:
            actions = rng.integers(spec.action.num_actions, size=SLOTS)
        else:
            actions = np.zeros((SLOTS, *spec.action.shape), np.float32)
        step = vector.step(actions)
        over = step.terminated | step.truncated
        over[list(step.faults)] = True
        if over.any():
            vector.restart(over, np.arange(seed, seed + SLOTS))
            seed += SLOTS
        turns += 1
    rate = SLOTS * turns / (time.perf_counter() - begun)
    vector.close()
    subject.steps_per_second = subject.steps_per_second or rate
    sheet.ok(
        "slots in turn",
        f"{round_off(rate)} steps a second over {SLOTS} slots in one process, resets included; "
        f"about {size(each)} of memory each",
        {"steps_per_second": round(rate, 1), "slots": SLOTS, "bytes_each": int(each)},
    )


def _resident() -> int:
    """Bytes of memory this process holds; 0 where the platform does not tell."""
    try:
        found = re.search(r"^VmRSS: *\t* *(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def round_off(value: float) -> str:
    """Two digits that count: `12,000`."""
    digits = max(0, len(str(int(value))) - 2)
    return f"{round(value, -digits):,.0f}" if value >= 10 else f"{value:.2g}"


def milliseconds(seconds: float) -> str:
    """`0.25 ms`, or `1.2 s`."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
