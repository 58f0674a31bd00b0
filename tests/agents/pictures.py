"""An environment whose every frame names its episode and time, and a network that notes stacks."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import register

from recollect.networks.recurrent_q import RecurrentQ
from recollect.types import EnvSpec

HEIGHT, WIDTH, STACK = 6, 7, 4


@cache
def frame(key: int, t: int) -> np.ndarray:
    """What the episode `key` shows at step t: no byte is 0, so that none can stand for nothing."""
    image = np.random.default_rng([key, t]).integers(1, 256, (HEIGHT, WIDTH), np.uint8)
    image[0, :4] = 1 + t, 1 + key % 255, 1 + key // 255 % 255, 1 + key // 255**2
    image.setflags(write=False)
    return image


def named(image: np.ndarray) -> tuple[int, int]:
    """Key and time of a frame."""
    t, a, b, c = (int(value) - 1 for value in image[0, :4])
    return a + 255 * b + 255**2 * c, t


def wanted(key: int, t: int, stack: int = STACK) -> np.ndarray:
    """[stack, H, W] the stack at step t: zeros before the episode's first frame."""
    none = np.zeros((HEIGHT, WIDTH), np.uint8)
    return np.stack([frame(key, s) if s >= 0 else none for s in range(t - stack + 1, t + 1)])


class Pictures(gymnasium.Env):
    """Length, ending and faults are drawn from the reset's seed; the reward is 0.1 times the step.

    Args:
        longest: steps of the longest episode. faulty: share of episodes with a reward that is not
            finite at a step that is drawn.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self, longest: int = 30, faulty: float = 0.0, render_mode: str | None = None
    ) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (HEIGHT, WIDTH), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.longest, self.faulty, self.render_mode = longest, faulty, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.length = int(self.np_random.integers(1, self.longest + 1))
        self.truncates = bool(self.np_random.random() < 0.4)
        self.breaks_at = 0
        if self.np_random.random() < self.faulty:
            self.breaks_at = int(self.np_random.integers(1, self.length + 1))
        self.key = int(self.np_random.integers(255**3))
        self.t = 0
        return frame(self.key, 0), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        over = self.t == self.length
        reward = float("nan") if self.t == self.breaks_at else 0.1 * self.t
        ends = over and not self.truncates
        return frame(self.key, self.t), reward, ends, over and self.truncates, {}

    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.uint8)


register("tests/Pictures-v0", entry_point=Pictures)


class Mixed(gymnasium.ObservationWrapper):
    """The picture with its colour turned round, a map of bits, and its clock beside it."""

    def __init__(self, longest: int = 30) -> None:
        super().__init__(Pictures(longest))
        self.observation_space = gymnasium.spaces.Dict(
            {
                "screen": self.env.observation_space,
                "colour": gymnasium.spaces.Box(0, 255, (3, HEIGHT, WIDTH), np.uint8),
                "map": gymnasium.spaces.MultiBinary((HEIGHT, WIDTH)),
                "clock": gymnasium.spaces.Box(0, 1, (2,), np.float32),
            }
        )

    def observation(self, seen: np.ndarray) -> dict[str, np.ndarray]:
        _, t = named(seen)
        return {
            "screen": seen,
            "colour": np.stack([255 - seen, seen // 2, np.roll(seen, 1, 0)]),
            "map": (seen > 127).astype(np.int8),
            "clock": np.array([t / 30, t % 2], np.float32),
        }


register("tests/MixedPictures-v0", entry_point=Mixed)


class Noting(RecurrentQ):
    """Recollect's own network, which notes what it is given while it acts.

    `seen` maps (key, time) to the stacks [stack, H, W], `lived` to (state, action, reward) before.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.seen: dict[tuple[int, int], list[np.ndarray]] = {}
        self.lived: dict[tuple[int, int], tuple[np.ndarray, int, float]] = {}

    def forward(
        self,
        observation: Any,
        previous_action: torch.Tensor,
        previous_reward: torch.Tensor,
        recurrent_state: torch.Tensor,
    ) -> Any:
        if len(previous_action) == 1:
            frames = observation["observation"].numpy()
            for row in range(previous_action.shape[1]):
                if frames[-1, row].any():
                    name = named(frames[-1, row])
                    self.seen.setdefault(name, []).append(frames[:, row].copy())
                    self.lived[name] = (
                        recurrent_state[row].numpy().copy(),
                        int(previous_action[0, row]),
                        float(previous_reward[0, row]),
                    )
        return super().forward(observation, previous_action, previous_reward, recurrent_state)

    def judge(self) -> None:
        """Every stack it was given is the one that should be, bit for bit."""
        assert self.seen
        for name, stacks in self.seen.items():
            for stack in stacks:
                np.testing.assert_array_equal(stack, wanted(*name), err_msg=str(name))


def noting(env_spec: EnvSpec, config: Any) -> Noting:
    """The network, its parameters always the same."""
    torch.manual_seed(3)
    return Noting(
        env_spec.observation,
        env_spec.action.num_actions,
        frame_stack=config.frame_stack,
        pre_core=config.pre_core,
        hidden=config.hidden,
        head_hidden=config.head_hidden,
    )
