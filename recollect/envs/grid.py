"""MiniGrid's worlds as numbers a network can take: one-hot symbols, or pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs import registration

from recollect.types import Array, ConfigError, check_ranges

LONGEST_MISSION = 1_000


@dataclass(frozen=True)
class Options:
    """Every option of a MiniGrid environment; the tiles are as large as MiniGrid's own wrapper's.

    Raises:
        ConfigError: a value that cannot be.
    """

    view: Literal["symbols", "pixels"] = "symbols"
    mission: bool = False  # also what is to be done, in words
    tile_size: int = 8  # pixels a side of each of the 7x7 tiles

    def __post_init__(self) -> None:
        check_ranges(self, positive=("tile_size",))
        if self.tile_size > 64:
            raise ConfigError(f"tile_size must be at most 64, got {self.tile_size:,}")


def entry(found: registration.EnvSpec) -> registration.EnvSpec:
    """What makes the world that MiniGrid registered as `found`."""
    return registration.EnvSpec(
        found.id,
        entry_point=Grid,  # type: ignore[arg-type]
        max_episode_steps=found.max_episode_steps,
        kwargs={"base": found.id},
    )


class Grid(gym.Env[Any, Any]):
    """One of MiniGrid's worlds, seen as the agent sees it: the 7x7 tiles before it.

    "symbols" are one-hots of object, colour and state of each tile and of the agent's direction,
    side by side, uint8 0 or 1; "pixels" are uint8 [H, W, 3]. With `mission` an observation is a
    dict of "view" and "mission", a text.

    Args:
        base: MiniGrid's id.
        render_mode: as MiniGrid's.
        options: fields of `Options`.
    Raises:
        ConfigError: as of `Options`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's)

    def __init__(self, base: str, render_mode: str | None = None, **options: Any) -> None:
        from minigrid.core import constants

        self._options = chosen = Options(**options)
        self.render_mode = render_mode
        made: Any = gym.make(base, disable_env_checker=True, render_mode=render_mode)
        self._env = made.unwrapped
        self.max_episode_steps = int(self._env.max_steps)
        self.action_space = self._env.action_space
        tables = (constants.OBJECT_TO_IDX, constants.COLOR_TO_IDX, constants.STATE_TO_IDX)
        self._sizes = np.array([len(table) for table in tables])
        high, wide, _ = self._env.observation_space["image"].shape
        each = int(self._sizes.sum())
        tiles = np.arange(high * wide)[:, None] * each  # where each tile's one-hots begin
        self._places = tiles + np.cumsum(self._sizes) - self._sizes  # [tiles, 3]
        self._flat = high * wide * each
        if chosen.view == "pixels":
            size = chosen.tile_size
            view = spaces.Box(0, 255, (high * size, wide * size, 3), np.uint8)
        else:
            view = spaces.Box(0, 1, (self._flat + 4,), np.uint8)
        self.observation_space: spaces.Space[Any] = view
        if chosen.mission:
            self.observation_space = spaces.Dict(
                {"view": view, "mission": spaces.Text(LONGEST_MISSION)}
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the episode that follows from a seed."""
        super().reset(seed=seed)
        given, info = self._env.reset(seed=seed, options=options)
        return self._seen(given), info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one of MiniGrid's actions."""
        given, reward, terminated, truncated, info = self._env.step(action)
        return self._seen(given), float(reward), terminated, truncated, info

    def render(self) -> Any:
        """MiniGrid's picture of the whole world."""
        return self._env.render()

    def close(self) -> None:
        """Close MiniGrid's environment."""
        self._env.close()

    def _seen(self, given: dict[str, Any]) -> Any:
        view: Array
        if self._options.view == "pixels":
            view = self._env.get_pov_render(self._options.tile_size)
        else:
            tiles = given["image"].reshape(-1, 3)
            if (tiles >= self._sizes).any():
                raise ValueError(f"a tile is {tiles.max(0)}, below {self._sizes} was wanted")
            view = np.zeros(self._flat + 4, np.uint8)
            view[self._places + tiles] = 1
            view[self._flat + given["direction"]] = 1
        if not self._options.mission:
            return view
        return {"view": view, "mission": given["mission"]}
