"""Episodes as videos, or as pictures of what the agent saw, did and remembered.

Episode i of seed s is the one `recollect evaluate` plays with that seed: from the same start, with
the same random actions if there are any.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recollect.envs import registry
from recollect.envs.vector import VectorEnv
from recollect.machine import threads
from recollect.run.episode_picture import Played, draw, is_image
from recollect.run.videos import SUFFIXES, Video, default_suffix
from recollect.types import (
    Array,
    ConfigError,
    EnvError,
    EnvSpec,
    NotFiniteError,
    VectorStep,
    channels_last,
)

LONGEST_VIDEO = 1_500
"""Steps a video shows; the episode is played on."""
FRAMES_PER_SECOND = 30.0
"""Where an environment does not say."""
ATARI_FRAMES_PER_SECOND = 60.0
"""Of the console; a step takes `frameskip` of them."""
IMAGES_KEPT = 32
SMALLEST_VIDEO = 240
"""Rows, to which what an agent sees is enlarged."""

Tell = Callable[[str], None]


class Agent(Protocol):
    """What is played by: `evaluation.LoadedAgent`."""

    policy: Any
    env_spec: EnvSpec
    config: dict[str, Any]
    which: str
    env_steps: int


@dataclass(frozen=True)
class Recorded:
    """One recorded episode: `files` written, its undiscounted return, and its steps."""

    number: int
    files: tuple[Path, ...]
    episode_return: float
    steps: int
    ended: str


def record(
    agent: Agent,
    out: Path,
    *,
    episodes: int = 1,
    seed: int = 1,
    epsilon: float = 0.0,
    picture: bool = False,
    tell: Tell = print,
) -> list[Recorded]:
    """Play episodes and write each into a video, or into a picture where nothing can be rendered.

    Args:
        agent: that plays. out: a file that ends in .gif, .mp4 or .png (a picture alone), with
            `-i` before that for episode i if there are several; or a folder, for files named after
            parameters, seed and episode.
        episodes: 1 or more. seed: of their starts. epsilon: share of random actions.
        picture: write the picture beside the video.
        tell: is told of what could not be had.
    Raises:
        ConfigError: a setting out of its range; an MP4 that nothing can write.
        EnvError: the environment raised, or gave what is not finite.
    """
    check(out, episodes, seed, epsilon)
    (out.parent if out.suffix else out).mkdir(parents=True, exist_ok=True)
    recorded = []
    with closing(_Stage(agent.env_spec, tell, renders=out.suffix != ".png")) as stage, threads(1):
        for number in range(episodes):
            file = _file(agent, out, seed, number, episodes)
            video = Video(file, stage.frames_per_second) if stage.renders else None
            played = _play(agent.policy, stage, number, seed, epsilon, video)
            files = []
            if video is not None:
                video.save()
                files.append(video.path)
                if len(played.actions) > LONGEST_VIDEO:
                    tell(
                        f"{video.path.name} shows the first {LONGEST_VIDEO:,} of "
                        f"{len(played.actions):,} steps"
                    )
            if picture or video is None:
                files.append(file.with_suffix(".png"))
                draw(
                    played,
                    files[-1],
                    f"{agent.env_spec.id.rpartition(':')[2]}: return "
                    f"{played.episode_return:,.6g} in {len(played.actions):,} steps "
                    f"({played.ended})",
                    f"{_who(agent)}, {how(epsilon)}, episode {number} of seed {seed}",
                    values_unit(agent.config.get("config", {})),
                )
            recorded.append(
                Recorded(
                    number, tuple(files), played.episode_return, len(played.actions), played.ended
                )
            )
    return recorded


def check(out: Path, episodes: int, seed: int, epsilon: float) -> None:
    """Raise ConfigError unless `record` can be asked for this."""
    if episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}")
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be 0 or more and below 2^64, got {seed}")
    if not 0 <= epsilon <= 1:
        raise ConfigError(f"epsilon must lie in [0, 1], got {epsilon}")
    if out.suffix and out.suffix not in (*SUFFIXES, ".png"):
        raise ConfigError(f"wanted a file that ends in .gif, .mp4 or .png, got {str(out)!r}")
    if out.suffix in SUFFIXES:
        Video(out, FRAMES_PER_SECOND)  # says if it cannot be


def how(epsilon: float) -> str:
    """How actions were chosen, in words."""
    return "greedy" if epsilon == 0 else f"epsilon {epsilon:g}"


def values_unit(config: Mapping[str, Any]) -> str:
    """In what the action values of an agent are counted."""
    scale = config.get("reward_scale", 1.0)
    rewards = "clipped return" if config.get("rewards") == "clipped" else "return"
    scaled = rewards if scale == 1 else f"{rewards} x {scale:g}"
    return f"(h of {scaled})" if config.get("rewards") == "rescaled" else f"({scaled})"


def _who(agent: Agent) -> str:
    name = agent.config.get("agent", "agent")
    return f"{name}, {agent.which} parameters after {agent.env_steps:,} steps"


def _file(agent: Agent, out: Path, seed: int, number: int, episodes: int) -> Path:
    """The file of one episode; of a picture alone or of its video."""
    if not out.suffix:
        stem = f"{agent.which}-{agent.env_steps}-seed{seed}-episode{number}"
        return out / f"{stem}{default_suffix()}"
    return out if episodes == 1 else out.with_stem(f"{out.stem}-{number}")


class _Stage:
    """One environment to play in, which renders if it can; `tell` hears why if it cannot.

    Attributes:
        env: with one slot. renders: whether `frame` gives frames, at `frames_per_second`.
        action_names: the environment's, or empty.
    """

    def __init__(self, spec: EnvSpec, tell: Tell, renders: bool) -> None:
        # No window, and no greeting on our output.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        self.frames_per_second = FRAMES_PER_SECOND
        self.action_names: tuple[str, ...] = ()
        self.renders = False
        self._spec = spec
        images = [key for key, each in spec.observation.items() if each.image]
        self._image = images[0] if images else None
        self._single: gym.Env[Any, Any] | None = None
        if registry.only_vectors(spec.id, spec.kwargs):
            self.env = registry.make(spec.id, 1, dict(spec.kwargs))
            self.renders = renders and self._image is not None
            frames = spec.kwargs.get("frameskip")
            if isinstance(frames, int):
                self.frames_per_second = ATARI_FRAMES_PER_SECOND / frames
            if self.renders:
                tell(f"{spec.id} cannot be rendered: the video shows what the agent sees")
            elif renders:
                self._tell_why(tell, "it is only a vector environment")
            return
        self._single = _make(spec)
        stated = self._single.metadata
        names = getattr(self._single.unwrapped, "get_action_meanings", tuple)
        self.action_names = tuple(names())
        self.frames_per_second = float(stated.get("render_fps") or FRAMES_PER_SECOND)
        if renders:
            why = self._try_to_render()
            self.renders = not why
            if why:
                self._tell_why(tell, why)
        self.env = self._vector()

    def _tell_why(self, tell: Tell, why: str) -> None:
        tell(f"{self._spec.id} cannot be rendered: {why}; here is a picture instead")

    def _try_to_render(self) -> str:
        """Why not; empty if it does, and `_single` renders from then on."""
        assert self._single is not None
        if "rgb_array" not in (self._single.metadata.get("render_modes") or ()):
            return "its metadata name no render mode rgb_array"
        rendering = None
        try:
            rendering = _make(self._spec, render_mode="rgb_array")
            rendering.reset(seed=0)
            frame = rendering.render()
            wrong = _frame_fault(frame)
        except Exception as error:  # of any kind: it is the environment's own code
            wrong = " ".join(str(error).split()) or type(error).__name__
        if wrong:
            if rendering is not None:
                rendering.close()
            return wrong
        self._single.close()
        self._single = rendering
        return ""

    def _vector(self) -> VectorEnv:
        single = self._single
        assert single is not None
        vector: Any = SyncVectorEnv([lambda: single], autoreset_mode=AutoresetMode.DISABLED)
        return registry.wrap(vector, self._spec.id, self._spec.kwargs)

    def frame(self) -> Array:
        """What it looks like now, [H, W, 3] uint8."""
        if self._single is None:
            assert self._image is not None
            return _enlarged(self.env.observation[self._image][0])
        frame: Any = self._single.render()
        wrong = _frame_fault(frame)
        if wrong:
            raise EnvError(f"environment {self._spec.id}: {wrong}")
        return np.asarray(frame)

    def close(self) -> None:
        self.env.close()


def _make(spec: EnvSpec, **more: Any) -> gym.Env[Any, Any]:
    return registry.maker(spec.id, {**spec.kwargs, **more})[1]()


def _enlarged(image: Array) -> Array:
    """[H, W], [H, W, C] or [C, H, W] as [H', W', 3], each pixel several wide, to be looked at."""
    if image.ndim == 3 and not channels_last(image.shape):
        image = np.moveaxis(image, 0, 2)
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    times = max(1, -(-SMALLEST_VIDEO // image.shape[0]))
    return image.astype(np.uint8).repeat(times, 0).repeat(times, 1)


def _frame_fault(frame: Any) -> str:
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,):
        return ""
    what = f"{frame.dtype} of shape {frame.shape}" if isinstance(frame, np.ndarray) else "no array"
    return f"render gave {what}, uint8 [height, width, 3] was wanted"


class _Seen:
    """Observations of one key: all of them, or of images every so many, evenly spread."""

    def __init__(self, images: bool) -> None:
        self._images = images
        self._every, self._count = 1, 0
        self.rows: list[Array] = []

    def add(self, row: Array) -> None:
        if self._count % self._every == 0:
            self.rows.append(row)
            if self._images and len(self.rows) > IMAGES_KEPT:
                self.rows, self._every = self.rows[::2], 2 * self._every
        self._count += 1

    def steps(self) -> Array:
        return np.arange(len(self.rows)) * self._every


def _play(
    policy: Any, stage: _Stage, number: int, seed: int, epsilon: float, video: Video | None
) -> Played:
    """One episode, as `evaluating.evaluate` plays it."""
    from recollect.agents.evaluating import LONGEST, evaluation_seeds
    from recollect.agents.policy import epsilon_greedy_actions
    from recollect.maths import philox

    env, zero = stage.env, np.zeros(1, np.int64)
    numbers = np.array([number])
    observation = env.reset(evaluation_seeds(seed, numbers))
    carry = policy.start(1)
    seen = {key: _Seen(is_image(spec.shape)) for key, spec in env.spec.observation.items()}
    rows: list[tuple[Array, int, float, float]] = []
    ended = "cut"
    while len(rows) < LONGEST:
        if video is not None and len(rows) <= LONGEST_VIDEO:
            video.add(stage.frame())
        for key, kept in seen.items():
            kept.add(observation[key][0])
        values, state = policy(observation, carry)
        elapsed = np.array([len(rows)], np.int64)
        draws = philox.uniforms(seed, philox.Purpose.EVALUATION, zero, numbers, zero, elapsed)
        actions = epsilon_greedy_actions(values, np.full(1, epsilon), draws)
        step = _step(env, actions)
        if step.faults:
            raise NotFiniteError(f"episode {number}, step {len(rows)}: {step.faults[0]}")
        norm = float(np.linalg.norm(state[0]))
        rows.append((values[0], int(actions[0]), float(step.reward[0]), norm))
        carry = policy.advance(carry, observation, state, actions, step)
        observation = step.observation
        if step.terminated[0] or step.truncated[0]:
            ended = "terminated" if step.terminated[0] else "truncated"
            break
    if video is not None and len(rows) <= LONGEST_VIDEO:
        video.add(stage.frame())
    all_values, all_actions, rewards, norms = zip(*rows, strict=True)
    return Played(
        values=np.stack(all_values),
        actions=np.array(all_actions),
        rewards=np.array(rewards),
        norms=np.array(norms),
        observation={key: np.stack(kept.rows) for key, kept in seen.items()},
        seen_at={key: kept.steps() for key, kept in seen.items()},
        ended=ended,
        action_names=stage.action_names,
    )


def _step(env: VectorEnv, actions: Array) -> VectorStep:
    try:
        return env.step(actions)
    except EnvError:
        raise
    except Exception as error:
        raise EnvError(
            f"environment {env.spec.id}: step raised {type(error).__name__}: {error}"
        ) from error
