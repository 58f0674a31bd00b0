"""A loaded agent: what it acts by, what saving keeps, what its evaluation obeys."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import recollect
from recollect import presets
from recollect.agents.learning import named_arrays
from recollect.agents.policy import Policy
from recollect.envs import registry
from recollect.evaluation import LoadedAgent
from tests.agents import clockwork

assert clockwork.Clock, "importing it registers the environments used here"
META = {"which": "last", "env_steps": 123, "updates": 45, "score": None}


class Adder(torch.nn.Module):
    """Of ten actions, takes previous action + previous reward + steps remembered, modulo 10."""

    state_size = 1

    def forward(
        self,
        observation: dict[str, torch.Tensor],
        previous_action: torch.Tensor,
        previous_reward: torch.Tensor,
        recurrent_state: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        [action], [reward], seen = previous_action, previous_reward, recurrent_state[:, 0]
        taken = (action + reward + seen).long() % 10
        return torch.nn.functional.one_hot(taken, 10).float()[None], recurrent_state + 1


def loaded(job: Any, policy: Policy) -> LoadedAgent:
    env, spaces = registry.describe(job.env.id, job.env.kwargs)
    return LoadedAgent(policy, env, spaces, job.as_dict(), META)


def adder() -> LoadedAgent:
    job = recollect.prepare("r2d2", env="recollect/Recall-v0", env_kwargs={"cues": 10})
    return loaded(job, Policy(Adder(), job.env))


def made(env: str, network: str) -> LoadedAgent:
    """An agent that nobody trained."""
    job = recollect.prepare("r2d2", env=env, network=f"tests.agents.clockwork:{network}")
    program = presets.agent(job.agent).program(job.config, job.env, job.seed, job.network)
    return loaded(job, program.policy())


def test_an_agent_acts_by_its_previous_action_the_reward_and_its_memory() -> None:
    agent, seen = adder(), np.zeros(12, np.float32)
    assert agent.act(seen, start=True) == -1 + 0 + 0 + 10, "no action is -1"
    assert agent.act(seen) == 9 + 0 + 1 - 10
    assert agent.act(seen, 3.0) == 0 + 3 + 2
    assert agent.act(seen, 1.0) == 5 + 1 + 3
    assert agent.act(seen, 4.0, start=True) == -1 + 0 + 0 + 10, "a start forgets all before"
    assert agent.act(seen, 2.0) == 9 + 2 + 1 - 10


def test_actions_are_the_environments_own_numbers() -> None:
    """Discrete(2, start=3): its actions are 3 and 4."""

    class Shifted(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
        action_space = gymnasium.spaces.Discrete(2, start=3)

    if "tests/Shifted-v0" not in gymnasium.registry:
        gymnasium.register("tests/Shifted-v0", entry_point=Shifted, max_episode_steps=5)
    agent = made("tests/Shifted-v0", "Counter")
    nothing = np.zeros(2, np.float32)
    assert agent.act(nothing, 100.0) == 3, "Counter's values fall where it has seen much"
    assert agent.act(nothing, start=True) == 4


def test_a_reward_that_is_not_finite_is_refused_and_forgotten() -> None:
    agent, other = adder(), adder()
    seen = np.zeros(12, np.float32)
    with pytest.raises(ValueError, match="reward is nan"):
        agent.act(seen, math.nan)
    assert agent.act(seen) == other.act(seen)


def test_an_agent_is_at_an_episodes_start_when_it_is_loaded() -> None:
    seen = np.zeros(12, np.float32)
    assert adder().act(seen) == adder().act(seen, start=True)


def test_an_observation_that_does_not_fit_is_refused() -> None:
    agent = adder()
    with pytest.raises(ValueError, match=r"shape \(7,\), its space says \(12,\)"):
        agent.act(np.zeros(7, np.float32))
    with pytest.raises(ValueError, match="nan"):
        agent.act(np.full(12, np.nan, np.float32))


def test_what_is_saved_is_the_agent_and_what_is_known_of_it(tmp_path: Path) -> None:
    agent = made("tests/Clock-v0", "Counter")
    with torch.no_grad():
        agent.policy.network.weight.fill_(0.75)
    again = recollect.load(agent.save(tmp_path / "saved"))
    assert (again.which, again.env_steps, again.meta["updates"]) == ("last", 123, 45)
    assert again.env_spec == agent.env_spec
    assert again.config == json.loads(json.dumps(agent.config)), "but for tuples, which are lists"
    assert named_arrays(again.policy.network)["weight"].tolist() == [0.75] * 3
    twice = recollect.load(again.save(tmp_path / "twice"))
    assert twice.meta == again.meta
    with pytest.raises(recollect.ConfigError):
        agent.save(tmp_path / "saved")


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    return made("tests/Clock-v0", "Counter").save(tmp_path / "clock")


def test_evaluation_depends_on_its_seed_alone(clock: Path) -> None:
    first = recollect.evaluate(clock, episodes=9, seed=1)
    assert recollect.evaluate(clock, episodes=9) == first
    other = recollect.evaluate(clock, episodes=9, seed=2)
    assert other["return_mean"] != first["return_mean"]
    assert (first["seed"], other["seed"]) == (1, 2)
    assert (first["episodes"], first["env_steps"], first["which"]) == (9, 123, "last")


def test_evaluation_is_greedy_or_as_random_as_it_is_told(tmp_path: Path) -> None:
    """Payday pays each action's number, and this network always takes action 2."""
    run = made("tests/Payday-v0", "Constant").save(tmp_path / "payday")
    assert recollect.evaluate(run)["return_mean"] == 2
    means = [recollect.evaluate(run, 200, epsilon=e)["return_mean"] for e in (0.5, 1.0)]
    assert means == pytest.approx([(2 + 1) / 2, 1], abs=0.2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"episodes": 0}, "episodes must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more and below"),
        ({"seed": 2**64}, "seed must be 0 or more and below"),
        ({"epsilon": -0.1}, r"epsilon must lie in \[0, 1\], got -0.1"),
        ({"epsilon": 1.1}, r"epsilon must lie in \[0, 1\], got 1.1"),
        ({"which": "lasst"}, "did you mean last"),
    ],
)
def test_words_that_make_no_sense_are_refused(
    clock: Path, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(recollect.ConfigError, match=message):
        recollect.evaluate(clock, **words)


def test_a_damaged_or_unfitting_folder_is_refused_by_name(clock: Path) -> None:
    path = clock / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"network": "tests.agents.clockwork:Constant"}))
    with pytest.raises(recollect.ConfigError, match=r"parameters do not fit .*'taken'"):
        recollect.load(clock)
    del config["seed"]
    path.write_text(json.dumps(config))
    with pytest.raises(recollect.ConfigError, match=r"config.json is damaged: KeyError\('seed'\)"):
        recollect.load(clock)
