"""Atari games: ale-py's vector environment, stepped by threads without Python between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs import registration
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode

from recollect.machine import processors
from recollect.types import Array, ConfigError, check_ranges

_MOST = {"frameskip": 1_000, "img_height": 1_024, "img_width": 1_024, "noop_max": 100_000}
_SEEDS = 2**31 - 1


@dataclass(frozen=True)
class Options:
    """Every option of an Atari environment, by ale-py's names.

    The defaults are R2D2's: Kapturowski et al. 2019; action repeat, maximum and size are those of
    public implementations of it. Rewards are whole and raw.

    Raises:
        ConfigError: a value that cannot be.
    """

    repeat_action_probability: float = 0.0  # no sticky actions
    full_action_space: bool = True  # 18 actions, whatever the game uses
    frameskip: int = 4
    maxpool: bool = True  # of the last two frames of a step
    img_height: int = 84
    img_width: int = 84
    grayscale: bool = True  # [H, W]; else [H, W, 3]
    noop_max: int = 30  # an episode begins with 0 to so many frames of doing nothing
    max_num_frames_per_episode: int = 108_000  # 30 minutes, those first frames not counted
    episodic_life: bool = False
    life_loss_info: bool = False
    reward_clipping: bool = False
    use_fire_reset: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self,
            positive=("frameskip", "img_height", "img_width", "max_num_frames_per_episode"),
            fractions=("repeat_action_probability",),
            counts=("noop_max",),
        )
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise ConfigError(f"{name} must be at most {most:,}, got {getattr(self, name):,}")
        for name in ("episodic_life", "life_loss_info"):
            if getattr(self, name):
                raise ConfigError(
                    f"{name} is True, and lost lives cannot end anything yet (they come with "
                    "Ape-X): leave it False"
                )


def entry(found: registration.EnvSpec) -> registration.EnvSpec:
    """What makes the game that ale-py registered as `found`."""
    return registration.EnvSpec(
        found.id,
        entry_point=None,
        vector_entry_point=AtariVector,  # type: ignore[arg-type]
        kwargs={"game": found.kwargs["game"]},
    )


class AtariVector(gym.vector.VectorEnv[Any, Any, Any]):
    """E copies of a game, giving single frames.

    By default ended slots wait for a reset with `options["reset_mask"]`, which changes no other
    slot, and an episode depends on its seed alone. But ale-py loads the game anew for every seed,
    which takes 80 ms, as long as some hundred steps. With `seed_once` only
    the first episode of a slot is seeded, the next draw their no-ops from the same generator, and
    slots reset themselves inside the step that ends an episode (Gymnasium's SAME_STEP).

    Args:
        game: ale-py's name of it, such as "ms_pacman".
        num_envs: E.
        seed_once: see above.
        options: fields of `Options`.
    Raises:
        ConfigError: as of `Options`.
    """

    hands_over = True
    """Every step gives new arrays, which are written no more."""
    seeds_are_dear = True
    """`seed_once` is taken."""

    def __init__(
        self, game: str, num_envs: int, *, seed_once: bool = False, **options: Any
    ) -> None:
        from ale_py.vector_env import AtariVectorEnv

        chosen = Options(**options)
        self._env: Any = AtariVectorEnv(
            game,
            num_envs,
            stack_num=1,
            batch_size=0,
            continuous=False,
            # NEXT_STEP resets a slot only if it is stepped after its end, which nobody does here.
            autoreset_mode=AutoresetMode.SAME_STEP if seed_once else AutoresetMode.NEXT_STEP,
            num_threads=min(num_envs, processors()),
            thread_affinity_offset=-1,
            **asdict(chosen),
        )
        self.num_envs = num_envs
        mode = AutoresetMode.SAME_STEP if seed_once else AutoresetMode.DISABLED
        self.metadata = {"autoreset_mode": mode}
        stacked: Any = self._env.single_observation_space.shape
        self.single_observation_space = Box(0, 255, stacked[1:], np.uint8)
        self.single_action_space = self._env.single_action_space
        # ceil: 402 frames of 4 a step end with step 101.
        self.max_episode_steps = -(-chosen.max_num_frames_per_episode // chosen.frameskip)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Begin episodes in all slots, or in those of `options["reset_mask"]` [E] alone.

        Args:
            seed: [E], one for each slot, also for those that are not reset.
            options: see above.
        Returns:
            The observations of all slots, [E, H, W] or [E, H, W, 3] uint8, and ale-py's info.
        """
        mask: Array = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        seeds = np.asarray(seed, np.int64)[mask] & _SEEDS
        frames, info = self._env.reset(seed=seeds, options={"reset_mask": mask})
        return frames[:, 0], info

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of every game: observations as of `reset`, int32 rewards, flags, info."""
        frames, reward, terminated, truncated, info = self._env.step(actions)
        if "final_obs" in info:
            info["final_obs"] = info["final_obs"][:, 0]
        return frames[:, 0], reward, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads."""
        self._env = None
