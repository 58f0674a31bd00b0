"""Settings that no paper has: where an agent's parts run, and in which numbers they compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recollect.types import ConfigError


@dataclass(frozen=True)
class Running:
    """What the configs of all agents share. Nothing here is of a paper.

    `dtype` is the learner's; actors compute in float32. "auto" and 0 are decided where the run is:
    see `computing`.
    """

    actor_processes: int = 1  # parts over which the slots are spread
    replay_shards: int = 1  # parts over which replay is spread, an episode in one
    env_processes: int = 0  # supervised processes for a part's environments, 0: in its own
    env_deadline: float = 60.0  # seconds that one call of an environment may take
    threads: int = 0  # that torch computes on, 0: one for numbers, all processors for images
    device: Literal["auto", "cpu", "cuda"] = "auto"  # of the learner; auto: a GPU for images
    actor_device: Literal["auto", "cpu", "cuda"] = "auto"  # of the actors; auto: the learner's
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where that is fast
    codec: Literal["none", "zstd"] = "none"  # how blocks of experience are packed, lossless

    def check_processes(self, actors: int) -> None:
        """Raise ConfigError unless so many environment slots can be spread over the processes."""
        if self.actor_processes > actors:
            raise ConfigError(
                f"actor_processes {self.actor_processes} is more than actors {actors}: each "
                "process needs a slot"
            )
