"""What is to be trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from recollect.agents import wiring
from recollect.agents.r2d2 import R2D2Config
from recollect.doctor.request import Request
from recollect.types import EnvSpec


@dataclass
class Trained:
    """What is to be trained: the settings on this environment and the network they make."""

    spec: EnvSpec
    config: R2D2Config
    env_steps: int  # of a run
    network: Any
    request: Request

    def policy(self) -> Any:
        """A policy with a network of its own."""
        make = partial(wiring.q_network, self.config, self.spec, 0, self.request.network)
        return wiring.make_policy(self.config, make, self.spec)
