"""What replay, batches and parameters take of memory, and the settings that follow."""

from __future__ import annotations

import math

from recollect.agents import wiring
from recollect.agents.r2d2 import R2D2Config
from recollect.doctor import machine
from recollect.doctor.environment import Subject
from recollect.doctor.sheet import Sheet
from recollect.doctor.trained import Trained
from recollect.presets import SHARE_OF_MEMORY
from recollect.replay.store import memory_need
from recollect.run.progress import size


def examine(trained: Trained, sheet: Sheet) -> None:
    """Bytes of a step, of the replay, of a batch and of the parameters."""
    config = trained.config
    with sheet.stage("replay"):
        windows = config.windows()
        spec = wiring.block_spec(config, trained.spec, trained.network.state_size)
        block = memory_need(spec, windows, config.period)
        step = block / config.period
        observation = sum(x.nbytes for x in trained.spec.observation.values())
        states = 4 * spec.state_size * len(spec.state_offsets) / config.period
        sheet.ok(
            "a step",
            f"{step:,.0f} bytes in replay: observation {observation / step:.0%}, states "
            f"{states / step:.0%}, the rest actions, rewards and bookkeeping",
            {"bytes": step, "observation": observation, "states": states},
        )
        need = wiring.replay_bytes(config, spec)
        free = machine.free()
        if free is None:
            sheet.info("replay", f"needs {size(need)}; what is free cannot be told here")
        else:
            _fit(config, need, free, int(SHARE_OF_MEMORY * free / step), sheet)
        if not windows.trajectory:
            cells = windows.steps * config.batch_size
            batch = (cells + config.batch_size) * (observation + 12) + cells * 14
            sheet.ok(
                "a batch",
                f"{size(batch)}: {config.batch_size} windows of {windows.steps} steps",
                batch,
            )
        parameters = sum(p.numel() for p in trained.network.parameters())
        total = 4 * parameters * 6  # online, target, gradient, two of Adam, published
        sheet.ok("parameters", f"{size(4 * parameters)}, {size(total)} with all copies", total)


def _fit(config: R2D2Config, need: int, free: int, fits: int, sheet: Sheet) -> None:
    value = {"need": need, "free": free, "steps_that_fit": fits}
    least = "at most " if config.replay_bytes else ""
    text = f"{config.replay_steps:,} steps need {least}{size(need)} of {size(free)} that are free"
    smaller = f"add --replay-steps {_round_down(fits)}, which takes {SHARE_OF_MEMORY:.0%} of them"
    if need > free:
        sheet.fail("replay", text, smaller, value)
    elif need > 0.8 * free:
        sheet.warn("replay", text, smaller, value)
    else:
        sheet.ok("replay", f"{text}; {_round_down(fits):,} would fit well", value)


def _round_down(value: int) -> int:
    digits = max(0, int(math.log10(max(1, value))) - 1)
    return value // 10**digits * 10**digits


def advise(trained: Trained, subject: Subject, sheet: Sheet) -> None:
    """Settings that follow from what was found."""
    config, spec = trained.config, trained.spec
    images = [key for key, array in spec.observation.items() if array.like_an_image]
    if images and not trained.request.network:
        sheet.warn(
            "images",
            f"{', '.join(images)}: an image, but not of bytes: the network takes it as a row of "
            "numbers",
            "let the environment give bytes (uint8, 0 to 255): these go through convolutions",
        )
    elif not trained.request.network and not spec.has_images and subject.largest > 100:
        sheet.info(
            "scale",
            f"observations reach {subject.largest:,.0f}, and the network takes them as they come",
            "scale them to about 1 in the environment: small networks learn faster then",
        )
    longest = max(subject.lengths, default=0)
    if longest and longest <= config.burn_in:
        sheet.info(
            "burn-in",
            f"random episodes last at most {longest} steps, and burn-in is {config.burn_in}: "
            "it is only used once episodes grow longer",
        )
    cores = machine.processors()[0]
    if cores > 1:
        sheet.info(
            "processors",
            f"a run uses one of {cores} processors: other seeds can run on the others meanwhile",
        )
