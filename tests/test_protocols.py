"""Evaluation protocols: what they set, what they leave, who cannot follow them (C-4, X-13)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

import recollect
from recollect.agents import evaluating
from recollect.protocols import FRAME_CAP, PROTOCOLS, Protocol
from tests.untrained import made


class Console(gymnasium.Env):
    """A game that goes on for ever, with the options of an Atari emulator.

    It pays 3 a step, 1 where rewards are clipped; every fifth step costs a life.
    """

    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self,
        noop_max: int = 0,
        max_num_frames_per_episode: int = 108_000,
        repeat_action_probability: float = 0.25,
        episodic_life: bool = True,
        reward_clipping: bool = True,
        full_action_space: bool = True,
        frameskip: int = 4,
    ) -> None:
        options = {name: value for name, value in locals().items() if name in TAKEN}
        self.made.append(options)
        self.options = options
        self.frameskip = frameskip

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        over = self.options["episodic_life"] and self.t == 5
        cut = self.t * self.frameskip >= self.options[FRAME_CAP]
        reward = 1.0 if self.options["reward_clipping"] else 3.0
        return np.zeros(2, np.float32), reward, over, cut, {}


TAKEN = {
    "noop_max",
    FRAME_CAP,
    "repeat_action_probability",
    "episodic_life",
    "reward_clipping",
    "full_action_space",
}
gymnasium.register("tests/Console-v0", entry_point=Console)


OWN = {"full_action_space": False, "noop_max": 7, "reward_clipping": True, FRAME_CAP: 400}
"""What the run says of its environment."""


@pytest.fixture
def console(tmp_path: Path) -> Path:
    Console.made.clear()
    return made("tests/Console-v0", "Counter", env_kwargs=OWN).save(tmp_path / "console")


def test_greedy_is_the_runs_own_environment(console: Path) -> None:
    found = recollect.evaluate(console)
    assert (found["return_mean"], found["episodes"]) == (5, 20)
    assert found["env"] == {"id": "tests/Console-v0", "kwargs": OWN}
    assert (found["protocol"], found["epsilon"]) == ("greedy", 0)
    assert (found["frame_cap"], found["step_cap"]) == (400, 27_000)
    assert found == recollect.evaluate(console, 20, 1, "last", 0.0, "greedy")


def test_a_protocol_sets_its_options_and_leaves_the_others(console: Path) -> None:
    found = recollect.evaluate(console, episodes=1, protocol="noop30-18k")
    wanted = {
        "noop_max": 30,
        FRAME_CAP: 18_000,
        "repeat_action_probability": 0.0,
        "episodic_life": False,
        "reward_clipping": False,
        "full_action_space": False,
    }
    assert Console.made[-1] == wanted
    assert found["env"]["kwargs"] == wanted
    assert found["return_mean"] == 3 * 18_000 / 4
    assert (found["protocol"], found["epsilon"], found["frame_cap"]) == ("noop30-18k", 0.05, 18_000)


def test_the_cap_is_in_frames_however_many_a_step_takes(
    console: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an hour of single frames is more steps than evaluations take otherwise."""
    monkeypatch.setattr(evaluating, "LONGEST", 7)
    brief = Protocol("brief", 3, 0.0, {FRAME_CAP: 40, "episodic_life": False})
    assert recollect.evaluate(console, protocol=brief)["return_mean"] == 10
    own = {"frameskip": 1, "episodic_life": False}
    single = made("tests/Console-v0", "Counter", env_kwargs=own).save(tmp_path / "single")
    assert recollect.evaluate(single, protocol=brief)["return_mean"] == 40
    assert recollect.evaluate(single)["return_mean"] == 7, "other protocols keep their cap"


def test_a_protocols_figures_are_replaced_by_those_that_are_asked_for(console: Path) -> None:
    brief = Protocol("brief", 3, 0.5, {FRAME_CAP: 40})
    found = recollect.evaluate(console, protocol=brief)
    assert (found["episodes"], found["epsilon"]) == (3, 0.5)
    found = recollect.evaluate(console, episodes=2, epsilon=0.0, protocol=brief)
    assert (found["episodes"], found["epsilon"], found["protocol"]) == (2, 0, "brief")


def test_an_environment_that_cannot_follow_says_so(tmp_path: Path) -> None:
    run = made("recollect/Recall-v0").save(tmp_path / "recall")
    with pytest.raises(recollect.ConfigError) as told:
        recollect.evaluate(run, protocol="noop30")
    assert str(told.value) == (
        "protocol noop30 cannot be followed: environment 'recollect/Recall-v0' takes no argument "
        "'noop_max': it takes delay, cues, trials, max_episode_steps; protocol greedy takes the "
        "run's environment as it is"
    )
    other = Protocol("wide", 2, 0.0, {"cues": 5})
    with pytest.raises(recollect.ConfigError, match="changes the observations or actions of"):
        recollect.evaluate(run, protocol=other)
    with pytest.raises(recollect.ConfigError, match="unknown protocol noop3: did you mean noop30"):
        recollect.evaluate(run, protocol="noop3")


def test_the_table() -> None:
    assert {name: (p.episodes, p.epsilon) for name, p in PROTOCOLS.items()} == {
        "greedy": (20, 0.0),
        "noop30": (30, 0.001),
        "noop30-18k": (30, 0.05),
    }
    assert not PROTOCOLS["greedy"].env_kwargs
    assert PROTOCOLS["noop30"].env_kwargs[FRAME_CAP] == 30 * 60 * 60, "half an hour at 60 a second"
    assert PROTOCOLS["noop30-18k"].env_kwargs[FRAME_CAP] == 5 * 60 * 60
