"""A recording is the episode that an evaluation plays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recollect import recording
from recollect.agents.evaluating import evaluate_on
from recollect.recording import record
from recollect.run.episode_picture import Played
from recollect.run.videos import frames_of
from recollect.types import ConfigError, EnvError
from tests.agents import clockwork
from tests.untrained import made

GIF = "recollect.recording.default_suffix"


@pytest.fixture(autouse=True)
def as_gif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GIF, lambda: ".gif")


def told() -> tuple[list[str], Any]:
    lines: list[str] = []
    return lines, lines.append


@pytest.mark.parametrize("env", ["tests/Clock-v0", "tests/Painted-v0"])
@pytest.mark.parametrize("epsilon", [0.0, 0.7])
def test_episodes_are_those_an_evaluation_plays(tmp_path: Path, env: str, epsilon: float) -> None:
    agent = made(env)
    recorded = record(agent, tmp_path / "a.png", episodes=5, seed=7, epsilon=epsilon)
    evaluated = evaluate_on(agent.env_spec, agent.policy, 5, 7, epsilon)
    assert len(set(evaluated.returns)) > 1
    assert [episode.episode_return for episode in recorded] == evaluated.returns.tolist()
    assert [episode.steps for episode in recorded] == evaluated.lengths.tolist()


def test_a_video_has_a_frame_before_each_step_and_one_after_the_last(tmp_path: Path) -> None:
    lines, tell = told()
    (done,) = record(made("tests/Painted-v0"), tmp_path / "a.gif", tell=tell)
    assert (done.files, done.steps, done.ended) == ((tmp_path / "a.gif",), 30, "terminated")
    frames = list(frames_of(tmp_path / "a.gif"))
    assert [int(frame[0, 0, 0]) for frame, _ in frames] == [5 * t for t in range(31)]
    assert {milliseconds for _, milliseconds in frames} == {50}, "its metadata say 20 a second"
    assert lines == []


def test_a_long_episode_is_cut_in_the_video_but_not_in_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "LONGEST_VIDEO", 10)
    lines, tell = told()
    (done,) = record(made("tests/Painted-v0"), tmp_path / "a.gif", tell=tell)
    assert done.steps == 30
    assert len(list(frames_of(tmp_path / "a.gif"))) == 11
    assert lines == ["a.gif shows the first 10 of 30 steps"]


@pytest.mark.parametrize(
    ("env", "kwargs", "why"),
    [
        ("tests/Clock-v0", {}, "its metadata name no render mode rgb_array"),
        ("tests/Painted-v0", {"breaks": "render"}, "no paint: buy some"),
        (
            "tests/Painted-v0",
            {"breaks": "shape"},
            "render gave uint8 of shape (40, 60), uint8 [height, width, 3] was wanted",
        ),
    ],
)
def test_what_cannot_be_rendered_becomes_a_picture(
    tmp_path: Path, env: str, kwargs: dict[str, Any], why: str
) -> None:
    lines, tell = told()
    (done,) = record(made(env, env_kwargs=kwargs), tmp_path / "out", tell=tell)
    assert done.files == (tmp_path / "out" / "last-123-seed1-episode0.png",)
    assert done.files[0].read_bytes().startswith(b"\x89PNG")
    assert lines == [f"{env} cannot be rendered: {why}; here is a picture instead"]


def test_a_picture_can_be_had_beside_the_video_or_alone(tmp_path: Path) -> None:
    lines, tell = told()
    agent = made("tests/Painted-v0")
    (both,) = record(agent, tmp_path / "a.gif", picture=True, tell=tell)
    assert [file.name for file in both.files] == ["a.gif", "a.png"]
    (alone,) = record(agent, tmp_path / "b.png", tell=tell)
    assert [file.name for file in alone.files] == ["b.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.png", "b.png"]
    assert lines == []


def test_several_episodes_are_numbered(tmp_path: Path) -> None:
    agent = made("tests/Painted-v0", env_kwargs={"steps": 3})
    names = [
        [file.name for episode in record(agent, out, episodes=2) for file in episode.files]
        for out in (tmp_path / "a.gif", tmp_path / "folder")
    ]
    assert names == [
        ["a-0.gif", "a-1.gif"],
        ["last-123-seed1-episode0.gif", "last-123-seed1-episode1.gif"],
    ]


def test_the_picture_is_told_what_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Played, str, str, str]] = []

    def draw(played: Played, out: Path, *texts: str) -> None:
        seen.append((played, *texts))  # type: ignore[arg-type]

    monkeypatch.setattr(recording, "draw", draw)
    agent = made("tests/Clock-v0", "Counter")
    record(agent, tmp_path / "a.png", seed=3)
    ((played, title, subtitle, unit),) = seen
    steps = len(played.actions)
    np.testing.assert_array_equal(played.rewards, np.arange(1, steps + 1))
    np.testing.assert_array_equal(played.observation["observation"][:, 0], np.arange(steps))
    counted = 1 + np.arange(steps)  # Counter's state: steps, rewards, actions seen
    assert (played.norms >= counted).all()
    np.testing.assert_array_equal(played.actions, played.values.argmax(1))
    total = steps * (steps + 1) // 2
    assert title == f"tests/Clock-v0: return {total:,} in {steps} steps ({played.ended})"
    assert subtitle == "r2d2, last parameters after 123 steps, greedy, episode 0 of seed 3"
    assert unit == "(return x 0.1)"


def test_of_many_images_a_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Played] = []
    monkeypatch.setattr(recording, "draw", lambda played, *rest: seen.append(played))
    record(made("tests/Painted-v0", env_kwargs={"steps": 200}), tmp_path / "a.png")
    ((rows,), (steps,)) = (seen[0].observation.values(), seen[0].seen_at.values())
    assert len(rows) == len(steps) <= recording.IMAGES_KEPT
    np.testing.assert_array_equal(rows[:, 0, 0, 0], steps)
    np.testing.assert_array_equal(steps, np.arange(0, 200, 8))


@pytest.mark.parametrize(
    ("config", "unit"),
    [
        ({"rewards": "raw", "reward_scale": 1.0}, "(return)"),
        ({"rewards": "raw", "reward_scale": 0.1}, "(return x 0.1)"),
        ({"rewards": "clipped", "reward_scale": 1.0}, "(clipped return)"),
        ({"rewards": "rescaled", "reward_scale": 1.0}, "(h of return)"),
        ({}, "(return)"),
    ],
)
def test_values_have_a_unit(config: dict[str, Any], unit: str) -> None:
    assert recording.values_unit(config) == unit


def test_an_environment_that_raises_is_named(tmp_path: Path) -> None:
    agent = made("tests/Painted-v0", env_kwargs={"breaks": "step"})
    with pytest.raises(EnvError, match=r"tests/Painted-v0: step raised ZeroDivisionError: by zero"):
        record(agent, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "settings", "message"),
    [
        ("a.gif", {"episodes": 0}, "episodes must be 1 or more, got 0"),
        ("a.gif", {"seed": -1}, "seed must be 0 or more"),
        ("a.gif", {"epsilon": 2.0}, r"epsilon must lie in \[0, 1\], got 2.0"),
        ("a.avi", {}, r"wanted a file that ends in .gif, .mp4 or .png, got .*a.avi"),
    ],
)
def test_words_that_make_no_sense_are_refused(
    tmp_path: Path, out: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        record(made("tests/Painted-v0"), tmp_path / out, **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_is_only_a_vector_is_played_and_pictured(tmp_path: Path) -> None:
    def vector(num_envs: int = 1) -> Any:
        return SyncVectorEnv([clockwork.Clock] * num_envs, autoreset_mode=AutoresetMode.DISABLED)

    gymnasium.register("tests/VectorClock-v0", vector_entry_point=vector)
    lines, tell = told()
    agent = made("tests/VectorClock-v0")
    (done,) = record(agent, tmp_path / "a.gif", seed=3, tell=tell)
    (single,) = record(made("tests/Clock-v0"), tmp_path / "b.png", seed=3)
    assert [file.name for file in done.files] == ["a.png"]
    assert (done.episode_return, done.steps) == (single.episode_return, single.steps)
    assert lines == [
        "tests/VectorClock-v0 cannot be rendered: it is only a vector environment; here is a "
        "picture instead"
    ]
