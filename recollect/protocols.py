"""Evaluation protocols by name: what a quoted score is a score of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FRAME_CAP = "max_num_frames_per_episode"
"""What environments call their cap on the frames of an episode: ale-py's word."""


@dataclass(frozen=True)
class Protocol:
    """How trained agents are evaluated.

    Args:
        name: by which it is quoted.
        env_kwargs: what it sets of an environment's arguments, whatever the run set; the rest stays
            the run's. An environment that does not take one of them cannot follow it.
        episodes: how many. epsilon: share of random actions.
        source: whose it is.
    """

    name: str
    episodes: int
    epsilon: float
    env_kwargs: Mapping[str, object] = field(default_factory=dict)
    source: str = ""


_RAW_ATARI = {
    "noop_max": 30,
    "repeat_action_probability": 0.0,
    "episodic_life": False,
    "reward_clipping": False,
}

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("greedy", 20, 0.0, source="the run's own environment, no exploration"),
        Protocol(
            "noop30",
            30,
            0.001,
            {**_RAW_ATARI, FRAME_CAP: 108_000},
            "R2D2 (Kapturowski et al. 2019): up to 30 no-ops, 30 minutes, raw returns; epsilon as "
            "SEED RL has it; the paper does not say how many episodes",
        ),
        Protocol(
            "noop30-18k",
            30,
            0.05,
            {**_RAW_ATARI, FRAME_CAP: 18_000},
            "Gorila (Nair et al. 2015): up to 30 no-ops, 5 minutes, 30 episodes",
        ),
    )
}
