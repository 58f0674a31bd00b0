"""Where and in which numbers an agent computes, decided from its settings and the machine's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from recollect.agents.running import Running
from recollect.machine import processors
from recollect.types import ConfigError, EnvSpec


@dataclass(frozen=True)
class Compute:
    """A device, and whether matrices are multiplied in bfloat16 there.

    Parameters, optimiser, losses and recurrent states are float32 in any case.
    """

    device: str = "cpu"  # or "cuda"
    bfloat16: bool = False

    def autocast(self) -> Any:
        """A context in which layers compute as said."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16)


PROCESSOR = Compute()
"""The processor, in float32: what all else is compared with."""


def learner(config: Running, env_spec: EnvSpec) -> Compute:
    """What the learner computes on.

    "auto" is for images: with them a GPU pays where there is one, and bfloat16 where the machine
    multiplies in it (AMX on a processor; any GPU). Networks for a few numbers are too small.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    device = _device("device", config.device, env_spec)
    fast = env_spec.has_images and (device == "cuda" or _has_amx())
    return Compute(device, config.dtype == "bfloat16" or (config.dtype == "auto" and fast))


def actor(config: Running, env_spec: EnvSpec) -> Compute:
    """What actors compute on: in float32, so that what they keep is as exact as can be.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if config.actor_device == "auto":
        return Compute(_device("device", config.device, env_spec))
    return Compute(_device("actor_device", config.actor_device, env_spec))


def told(config: Running, env_spec: EnvSpec) -> str:
    """One line on what all this comes to."""
    learns, acts = learner(config, env_spec), actor(config, env_spec)
    number = threads(config.threads, env_spec)
    where = {"cpu": f"the processor, {number} thread{'s' * (number > 1)}", "cuda": "a GPU"}
    numbers = "bfloat16 (sums in float32)" if learns.bfloat16 else "float32"
    line = f"learning on {where[learns.device]}, in {numbers}"
    return line + f"; acting on {where[acts.device]}, in float32"


def threads(asked: int, env_spec: EnvSpec) -> int:
    """Threads that torch computes on: those `asked` for, or, where that is 0, what is right.

    The networks for a few numbers are small and an inline run's turns short: on two cores an LSTM
    of 64 units took 7 times as long on two threads as on one. Convolutions use all there are.
    """
    if asked:
        return asked
    if given := os.environ.get("OMP_NUM_THREADS"):
        return int(given) if given.isdigit() and int(given) else 1
    return processors() if env_spec.has_images else 1


def _device(name: str, wanted: str, env_spec: EnvSpec) -> str:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError(
            f"{name} is cuda and torch {torch.__version__} sees no GPU: set it to auto or cpu, or "
            "install a build of torch for this machine's GPU"
        )
    if wanted == "auto":
        return "cuda" if there and env_spec.has_images else "cpu"
    return wanted


def _has_amx() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
