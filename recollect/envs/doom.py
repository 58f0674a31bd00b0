"""VizDoom's scenarios in small frames, over its native interface."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs import registration

from recollect.types import Array, ConfigError, check_ranges

MOST_ACTIONS = 1_000


@dataclass(frozen=True)
class Options:
    """Every option of a VizDoom environment.

    The size is about the 96x72 that papers use for DMLab, the frame skip Atari's; all are ours.

    Raises:
        ConfigError: a value that cannot be.
    """

    frame_skip: int = 4  # tics of 1/35 s that an action lasts
    grayscale: bool = True  # [H, W]; else [H, W, 3]
    screen: Literal["160x120", "320x240", "640x480"] = "160x120"  # what is drawn, W x H
    halved: bool = True  # each 2x2 pixels become their mean
    buttons: int = 1  # how many may be pressed at once
    variables: bool = False  # also the scenario's game variables, as a vector

    def __post_init__(self) -> None:
        check_ranges(self, positive=("frame_skip", "buttons"))
        if self.frame_skip > 1_000:
            raise ConfigError(f"frame_skip must be at most 1,000, got {self.frame_skip:,}")


def entry(found: registration.EnvSpec) -> registration.EnvSpec:
    """What makes the scenario that VizDoom registered as `found`."""
    names = {
        "scenario_config_file": "scenario",
        "doom_map": "doom_map",
        "doom_skill": "doom_skill",
    }
    kwargs = {ours: found.kwargs[name] for name, ours in names.items() if name in found.kwargs}
    return registration.EnvSpec(found.id, entry_point=Doom, kwargs=kwargs)  # type: ignore[arg-type]


class Doom(gym.Env[Any, Any]):
    """One game of VizDoom, in a process that VizDoom starts.

    Action 0 presses nothing, the next press one button each, then two, and so on. The scenario's
    time limit truncates: VizDoom itself would end the episode there and show no last frame. An
    observation is the screen uint8 [H, W] or [H, W, 3]; or a dict of "screen" and "variables".
    After a real end the last frame is shown again, for there is none.

    Args:
        scenario: its file among VizDoom's. doom_map, doom_skill: where a file has several.
        render_mode: None or "rgb_array".
        options: fields of `Options`.
    Raises:
        ConfigError: as of `Options`; more combinations of buttons than can be meant.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35 / 4}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self,
        scenario: str,
        doom_map: str = "",
        doom_skill: int = 0,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        import vizdoom

        self._options = chosen = Options(**options)
        self.render_mode = render_mode
        self._game = game = vizdoom.DoomGame()
        game.load_config(os.path.join(vizdoom.scenarios_path, scenario))
        if doom_map:
            game.set_doom_map(doom_map)
        if doom_skill:
            game.set_doom_skill(doom_skill)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_doom_config_path(os.devnull)  # it would write its settings beside us
        for buffer in ("audio", "depth", "labels", "automap", "objects_info", "sectors_info"):
            getattr(game, f"set_{buffer}_{'' if '_' in buffer else 'buffer_'}enabled")(False)
        game.set_screen_resolution(
            getattr(vizdoom.ScreenResolution, f"RES_{chosen.screen.upper()}")
        )
        kind = "GRAY8" if chosen.grayscale else "RGB24"
        game.set_screen_format(getattr(vizdoom.ScreenFormat, kind))
        limit = game.get_episode_timeout()  # in tics from an episode's first frame
        game.set_episode_timeout(0)
        self.max_episode_steps = -(-limit // chosen.frame_skip)
        try:
            with _alone():
                game.init()
        except vizdoom.FileDoesNotExistException as error:  # the bought games are not in its wheel
            raise ConfigError(f"{error}: put it there, or take another scenario") from None
        pressed = [button for button in game.get_available_buttons() if "DELTA" not in button.name]
        every = game.get_available_buttons()
        self._actions: list[list[float]] = []
        self._names: list[str] = []
        for together in range(min(chosen.buttons, len(pressed)) + 1):
            for names in combinations(pressed, together):
                self._actions.append([float(button in names) for button in every])
                self._names.append("+".join(button.name for button in names) or "NONE")
                if len(self._actions) > MOST_ACTIONS:
                    game.close()
                    raise ConfigError(
                        f"buttons {chosen.buttons} of {len(pressed)} make more than "
                        f"{MOST_ACTIONS:,} actions: lower it"
                    )
        self.action_space = spaces.Discrete(len(self._actions))
        shape = (game.get_screen_height(), game.get_screen_width(), 3)[: 2 + (kind == "RGB24")]
        if chosen.halved:
            shape = (shape[0] // 2, shape[1] // 2, *shape[2:])
        screen = spaces.Box(0, 255, shape, np.uint8)
        self.observation_space: spaces.Space[Any] = screen
        if chosen.variables:
            count = len(game.get_available_game_variables())
            vector = spaces.Box(-np.inf, np.inf, (count,), np.float32)
            self.observation_space = spaces.Dict({"screen": screen, "variables": vector})
        self._seen: Any = None
        self._drawn: Array | None = None
        self._steps = 0

    def get_action_meanings(self) -> list[str]:
        """Which buttons each action presses."""
        return self._names

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the episode that follows from a seed."""
        super().reset(seed=seed)
        self._game.set_seed(int(self.np_random.integers(2**32)))
        self._game.new_episode()
        self._steps = 0
        self._look()
        return self._seen, {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Press the buttons of an action for `frame_skip` tics."""
        options = self._options
        reward = self._game.make_action(self._actions[action], options.frame_skip)
        self._steps += 1
        terminated = self._game.is_episode_finished()
        if not terminated:
            self._look()
        over_time = 0 < self.max_episode_steps <= self._steps
        return self._seen, float(reward), terminated, over_time and not terminated, {}

    def render(self) -> Array | None:
        """What was drawn last, [H, W, 3] uint8, not halved; None before a reset."""
        drawn = self._drawn
        return np.stack([drawn] * 3, -1) if drawn is not None and drawn.ndim == 2 else drawn

    def close(self) -> None:
        """End the game's process."""
        self._game.close()

    def _look(self) -> None:
        state = self._game.get_state()
        self._drawn = state.screen_buffer
        screen = _halved(state.screen_buffer) if self._options.halved else state.screen_buffer
        self._seen = screen
        if self._options.variables:
            variables = state.game_variables
            vector = np.zeros(0) if variables is None else variables
            self._seen = {"screen": screen, "variables": np.asarray(vector, np.float32)}


def _halved(screen: Array) -> Array:
    """The mean of each 2x2 pixels, half up: [2 h, 2 w, ...] uint8 -> [h, w, ...]."""
    rows = screen[0::2].astype(np.uint16)
    rows += screen[1::2]
    mean: Array = (rows[:, 0::2] + rows[:, 1::2] + np.uint16(2)) >> 2
    return mean.astype(np.uint8)


@contextmanager
def _alone() -> Iterator[None]:
    """While a process is started that a terminal's Ctrl-C must not end, and that leaves a folder.

    It inherits which signals are held back; we ourselves end or go on as our own handlers say.
    """
    left, there = "_vizdoom", os.path.exists("_vizdoom")
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if not there:
            with suppress(OSError):
                os.rmdir(left)
