"""A loaded agent: what it acts by, what saving keeps, what its evaluation obeys."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import recollect
from recollect.agents.learning import named_arrays
from recollect.agents.policy import Policy
from recollect.evaluation import LoadedAgent
from tests.untrained import loaded, made


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


def adder(batch: int | None = None) -> LoadedAgent:
    job = recollect.prepare("r2d2", env="recollect/Recall-v0", env_kwargs={"cues": 10})
    return loaded(job, Policy(Adder(), job.env), batch)


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


@pytest.mark.parametrize(
    ("env", "sizes"),
    [
        ("recollect/PositionCartPole-v0", {}),
        ("tests/Shifted-v0", {}),
        ("tests/Mixed-v0", {"hidden": 17, "torso_sizes": (9, 33), "head_hidden": 5, "core": "gru"}),
        ("tests/Mixed-v0", {"pre_core": 21, "hidden": 64, "duelling": False}),
    ],
)
@settings(max_examples=8)
@given(batch=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_a_batch_is_its_rows_bit_for_bit(
    env: str, sizes: dict[str, Any], batch: int, seed: int
) -> None:
    together, alone = made(env, batch=batch, **sizes), made(env, batch=None, **sizes)
    rng = np.random.default_rng(seed)
    space = together._space
    several = batch_space(space, batch)
    several.seed(seed)
    carries = [alone.policy.start(1) for _ in range(batch)]
    for _ in range(4):
        observations = several.sample()
        rewards, starts = rng.normal(size=batch), rng.random(batch) < 0.3
        actions = together.act(observations, rewards, starts)
        assert together.values is not None
        assert (actions.shape, together.values.shape[0]) == ((batch,), batch)
        for row, single in enumerate(rows_of(observations, batch)):
            alone._carry = carries[row]
            assert alone.act(single, rewards[row], starts[row]) == actions[row]
            assert np.array_equal(alone.values, together.values[row])
            carries[row] = alone._carry
            assert np.array_equal(
                carries[row].recurrent_state[0], together._carry.recurrent_state[row]
            )


def rows_of(observations: Any, batch: int) -> list[Any]:
    """Each environment's own observation, of what a vector environment gives."""
    if isinstance(observations, dict):
        columns = {key: rows_of(each, batch) for key, each in observations.items()}
        return [{key: column[row] for key, column in columns.items()} for row in range(batch)]
    if isinstance(observations, tuple):
        return list(zip(*(rows_of(each, batch) for each in observations), strict=True))
    return list(observations)


def test_one_number_serves_a_whole_batch() -> None:
    agent, other = adder(3), adder(3)
    seen = np.zeros((3, 12), np.float32)
    assert agent.act(seen, 0.0, True).tolist() == [9, 9, 9]
    assert agent.act(seen, 2).tolist() == [9 + 2 + 1 - 10] * 3
    assert agent.act(seen, [0, 1, 2], [False, False, True]).tolist() == [2 + 2, 2 + 1 + 2, 9]
    other.act(seen)
    assert other.act(seen, np.full(3, 2.0)).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("observation", "reward", "start", "message"),
    [
        ((12,), 0.0, False, r"shape \(12,\), its space says \(3, 12\), of a batch of 3"),
        ((2, 12), 0.0, False, r"shape \(2, 12\), its space says \(3, 12\)"),
        ((3, 12), [1, 2], False, r"reward has shape \(2,\), one number or shape \(3,\)"),
        ((3, 12), [[0] * 3], False, r"reward has shape \(1, 3\)"),
        ((3, 12), [0, 0, math.inf], False, r"reward is \[0, 0, inf\] in row 2, a finite number"),
        ((3, 12), 0.0, [True], r"start has shape \(1,\), one number or shape \(3,\)"),
        ((3, 12), "much", False, r"reward is 'much', one number or shape \(3,\) was wanted"),
    ],
)
def test_what_does_not_fit_a_batch_is_refused_and_forgotten(
    observation: tuple[int, ...], reward: Any, start: Any, message: str
) -> None:
    agent, other = adder(3), adder(3)
    seen = np.zeros((3, 12), np.float32)
    for each in (agent, other):
        each.act(seen, 3.0)
    with pytest.raises(ValueError, match=message):
        agent.act(np.zeros(observation, np.float32), reward, start)
    assert agent.act(seen).tolist() == other.act(seen).tolist()


def test_a_row_that_is_not_finite_is_named() -> None:
    seen = np.zeros((3, 12), np.float32)
    seen[1, 4] = np.nan
    with pytest.raises(ValueError, match=r"row 1: observation 'observation'\[4\] is nan"):
        adder(3).act(seen)


def test_a_single_agent_takes_no_batch() -> None:
    with pytest.raises(ValueError, match=r"reward has shape \(1,\), one number was wanted"):
        adder().act(np.zeros(12, np.float32), [0.0])


def test_values_are_those_of_the_last_act() -> None:
    agent = adder()
    assert agent.values is None
    agent.act(np.zeros(12, np.float32), start=True)
    assert agent.values is not None
    assert agent.values.tolist() == [0] * 9 + [1]


def test_a_batch_of_none_is_refused(tmp_path: Path) -> None:
    folder = made("tests/Clock-v0", "Counter").save(tmp_path / "clock")
    assert recollect.load(folder, batch=4).batch == 4
    with pytest.raises(recollect.ConfigError, match="batch must be 1 or more"):
        recollect.load(folder, batch=0)


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


def test_an_export_holds_the_weights_and_says_what_they_are_of(tmp_path: Path) -> None:
    agent = made("tests/Mixed-v0", core="gru", previous_reward=False)
    path = agent.export(tmp_path / "a.safetensors")
    with safe_open(path, "np") as file:
        about = json.loads(file.metadata()["recollect"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, array in named_arrays(agent.policy.network).items():
        assert np.array_equal(weights.pop(name), array)
    assert not weights
    assert about["observation"] == {
        "box": {"shape": [2, 3], "dtype": "float32"},
        "kind": {"shape": [4], "dtype": "float32"},
        "pair/0": {"shape": [2], "dtype": "float32"},
        "pair/1": {"shape": [3], "dtype": "uint8"},
    }
    assert (about["num_actions"], about["first_action"], about["state_size"]) == (5, 0, 32)
    assert about["network"] == {
        "class": "RecurrentQ",
        "frame_stack": 1,
        "torso": "auto",
        "torso_sizes": [32],
        "pre_core": 0,
        "core": "gru",
        "hidden": 32,
        "head_hidden": 64,
        "duelling": True,
        "previous_action": True,
        "previous_reward": False,
    }
    assert about["values"] == {"rewards": "raw", "reward_scale": 0.1, "gamma": 0.99}


def test_an_export_of_ones_own_network_names_it(tmp_path: Path) -> None:
    path = made("tests/Shifted-v0", "Counter").export(tmp_path / "a.safetensors")
    with safe_open(path, "np") as file:
        about = json.loads(file.metadata()["recollect"])
    assert about["network"] == {"class": "tests.agents.clockwork:Counter"}
    assert about["first_action"] == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("there.safetensors", "is already there: name another file"),
        ("nowhere/a.safetensors", "there is no folder .*nowhere: make it first"),
        ("a.pt", "wanted a file that ends in .safetensors, got .*a.pt"),
    ],
)
def test_an_export_overwrites_nothing(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(recollect.ConfigError, match=message):
        made("tests/Shifted-v0", "Counter").export(tmp_path / name)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


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
    with pytest.raises(
        recollect.ConfigError, match=r"config.json: the stored config.json lacks seed"
    ):
        recollect.load(clock)
