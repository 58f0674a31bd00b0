"""The doctor finds what is wrong with environments and networks, and nothing where nothing is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from recollect.doctor import child, machine, network, supervise
from recollect.doctor.request import Request
from recollect.doctor.sheet import Budget, Check, Sheet


class Plain(gym.Env):
    """Nothing is wrong with it: noise of its own generator, an episode of 12 steps."""

    observation_space = gym.spaces.Box(-10, 10, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.seen(), float(action), self.t >= 12, False, {}

    def seen(self) -> np.ndarray:
        return self.np_random.normal(size=3).clip(-9, 9).astype(np.float32)


class Nan(Plain):
    def seen(self) -> np.ndarray:
        return super().seen() * (np.nan if self.t == 5 else 1)


class Dtype(Plain):
    observation_space = gym.spaces.Box(0, 255, (3,), np.uint8)


class Outside(Plain):
    def seen(self) -> np.ndarray:
        return super().seen() + np.float32(50)


class FourTuple(Plain):
    def step(self, action: Any) -> Any:
        return super().step(action)[:4]


class Reward(Plain):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, math.inf, *rest


class Chance(Plain):
    def seen(self) -> np.ndarray:
        return np.random.default_rng().random(3).astype(np.float32)


class Global(Plain):
    def seen(self) -> np.ndarray:
        return np.random.random(3).astype(np.float32)


class NoSeed(Plain):
    def reset(self) -> Any:  # type: ignore[override]
        self.t = 0
        return np.zeros(3, np.float32), {}


class Alias(Plain):
    def __init__(self) -> None:
        self.held = np.zeros(3, np.float32)

    def seen(self) -> np.ndarray:
        self.held[:] = super().seen()
        return self.held


class Raises(Plain):
    def step(self, action: Any) -> Any:
        if self.t == 7:
            raise KeyError("wheels")
        return super().step(action)


class Endless(Plain):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:2], False, False, {}


class Remembers(Plain):
    count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.count += 1
        return super().reset(seed=seed)

    def seen(self) -> np.ndarray:
        return np.full(3, 0.001 * self.count, np.float32)


class Continuous(Plain):
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def step(self, action: Any) -> Any:
        return super().step(action[0])


KINDS = [
    Plain, Nan, Dtype, Outside, FourTuple, Reward, Chance, Global, NoSeed, Alias, Raises, Endless,
    Remembers, Continuous,
]  # fmt: skip
for kind in KINDS:
    gym.register(f"doctor/{kind.__name__}-v0", entry_point=kind)


@pytest.fixture(autouse=True)
def _global_state() -> Any:
    """The doctor seeds the global generators, in a process of its own; here they are put back."""
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def examined(kind: type, monkeypatch: pytest.MonkeyPatch, **rest: Any) -> dict[str, Check]:
    """Checks by name, of an examination in this process; traps lose their groups."""
    monkeypatch.setattr(child, "_elsewhere", lambda request: None)
    sheet = Sheet("environment")
    request = Request(f"doctor/{kind.__name__}-v0", steps=300, seconds=1.0, **rest)
    child.examine(request, sheet)
    return {f"{check.group}, {check.name}": check for check in sheet.checks}


def faults(found: dict[str, Check]) -> dict[str, str]:
    return {name: c.status for name, c in found.items() if c.status in ("warn", "FAIL")}


def test_nothing_is_wrong_where_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examined(Plain, monkeypatch)
    assert faults(found) == {}
    for trap in (1, 5, 7, 9, 12, 31, 33):
        assert found[f"traps, trap {trap}"].status == "ok", trap
    assert found["environment, trap 18"].status == "ok"
    assert found["environment, put back"].status == "ok"
    assert found["memory, replay"].value["need"] > 0
    assert found["speed, one environment"].value["steps_per_second"] > 0


@pytest.mark.parametrize(
    ("kind", "expected", "message"),
    [
        (Nan, {"observation": "FAIL"}, "has nan at step 5 of the episode of seed 1"),
        (Dtype, {"observation": "FAIL"}, "dtype float32, its space says uint8"),
        (Outside, {"observation": "warn"}, "where 10 is the limit"),
        (FourTuple, {"step": "FAIL"}, "a tuple of 4"),
        (Reward, {"reward": "FAIL"}, "reward is inf at step 1"),
        (Chance, {"repetition": "warn"}, "differs from the first observation on"),
        (Global, {"repetition": "warn"}, "the global state of random or np.random"),
        (NoSeed, {"reset": "FAIL"}, "unexpected keyword argument 'seed'"),
        (Raises, {"step": "FAIL"}, "KeyError: 'wheels'"),
        (Endless, {"episodes": "warn"}, "no episode ended within"),
        (Remembers, {"put back": "warn"}, "earlier episodes changes later ones"),
        (Continuous, {"actions": "FAIL"}, "continuous"),
    ],
)
def test_an_environments_fault_is_found_and_no_other(
    kind: type, expected: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = examined(kind, monkeypatch)
    assert faults(found) == {f"environment, {name}": status for name, status in expected.items()}
    (name,) = expected
    check = found[f"environment, {name}"]
    assert message in check.message
    assert check.advice
    unusable = "FAIL" in expected.values()
    assert ("traps, trap 1" in found) is not unusable


def test_an_environment_that_writes_into_what_it_gave_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = examined(Alias, monkeypatch)
    assert "changes arrays it handed out" in found["environment, handed out"].message
    assert "SAME_STEP gives other" in found["environment, trap 18"].message
    assert faults(found) == {}, "here they are copied at once, and no vector is in SAME_STEP"


def test_an_unknown_environment_is_a_line_with_its_reason() -> None:
    sheet = Sheet("environment")
    child.examine(Request("CartPoel-v1"), sheet)
    (check,) = sheet.checks
    assert (check.status, check.name) == ("FAIL", "made")
    assert "did you mean 'CartPole-v1'?" in check.message


def test_replay_that_cannot_fit_is_a_fail_that_names_what_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "free", lambda: 1_000_000)
    check = examined(Plain, monkeypatch)["memory, replay"]
    assert check.status == "FAIL"
    assert check.value["steps_that_fit"] < 10_000
    assert "--replay-steps" in check.advice


# -- networks --------------------------------------------------------------------------------------


class Good(nn.Module):
    state_size = 8

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(3, 8), nn.Linear(8, 2)
        self.extra = extra or nn.Identity()

    def forward(self, observation: Any, action: Any, reward: Any, state: Any) -> Any:
        y, state = self.gru(observation["observation"], state[None])
        y = self.extra(y.flatten(0, 1)).view(y.shape)
        return self.head(y), state[0]


class Ignores(Good):
    def forward(self, observation: Any, action: Any, reward: Any, state: Any) -> Any:
        return super().forward(observation, action, reward, 0 * state)


class Foresees(Good):
    def forward(self, observation: Any, action: Any, reward: Any, state: Any) -> Any:
        values, state = super().forward(observation, action, reward, state)
        return values + values.flip(0), state


class Dead(Good):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)


class Blind(Good):
    def forward(self, observation: Any, action: Any, reward: Any, state: Any) -> Any:
        return super().forward({"observation": 0 * observation["observation"]}, 0, 0, state)


class Wild(Good):
    def forward(self, observation: Any, action: Any, reward: Any, state: Any) -> Any:
        values, state = super().forward(observation, action, reward, state)
        return values / 0, state


class Noisy(Good):
    """Remembers outside its state, and never the same."""

    calls = 0

    def forward(self, observation: Any, action: Any, reward: Any, state: Any) -> Any:
        self.calls += 1
        values, state = super().forward(observation, action, reward, state)
        return values + self.calls, state


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (Good, {}),
        (lambda: Good(nn.LayerNorm(8)), {}),
        (lambda: Good(nn.Dropout(0.2)), {"repeats": "FAIL"}),
        (lambda: Good(nn.BatchNorm1d(8)), dict.fromkeys(("buffers", "rows", "pieces"), "FAIL")),
        (Noisy, {"repeats": "FAIL"}),
        (Foresees, {"pieces": "FAIL"}),
        (Ignores, {"pieces": "FAIL", "state": "warn"}),
        (Dead, {"gradient": "warn"}),
        (Wild, {"finite": "FAIL"}),
    ],
)
def test_a_networks_fault_is_found_and_no_other(made: Any, expected: dict[str, str]) -> None:
    torch.manual_seed(0)
    sheet = Sheet("network")
    network.examine(made(), inputs(), sheet, 1.0)
    found = {c.name: c.status for c in sheet.checks if c.status in ("warn", "FAIL")}
    if "finite" in expected:  # all else follows from it
        found = {"finite": found["finite"]}
    assert found == expected


def test_inputs_that_do_not_reach_the_values_are_named() -> None:
    sheet = Sheet("network")
    network.examine(Blind(), inputs(), sheet, 1.0)
    said = {check.name: check for check in sheet.checks}
    assert "do not depend on observation" in said["inputs"].message
    assert said["trap 33"].status == "info"


def inputs() -> network.Inputs:
    draw = torch.Generator().manual_seed(1)
    observation = {"observation": torch.randn(6, 4, 3, generator=draw)}
    return observation, torch.full((6, 4), -1), torch.zeros(6, 4), torch.zeros(4, 8)


# -- the process apart -----------------------------------------------------------------------------

MODULE = """
import os, sys, time
import gymnasium as gym, numpy as np

class Base(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        print("I print as I like")
        self.t = 0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.t += 1
        self.do()
        return np.full(2, hash(str(self.t)) % 2, np.float32), 0.0, self.t == 9, False, {}
    def do(self): pass

class Hang(Base):
    def do(self): time.sleep(self.t == 4 and 1000)

class Die(Base):
    def do(self): self.t == 4 and os.abort()

class Leave(Base):
    def do(self): self.t == 4 and os._exit(3)

for kind in (Base, Hang, Die, Leave):
    gym.register(kind.__name__ + "-v0", entry_point=kind)
"""


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("Hang", "playing", "gave no sign of life for 3 s"),
        ("Die", "playing", "ended our process (signal SIGABRT)"),
        ("Leave", "playing", "ended our process (exit code 3)"),
        ("Base", "other process", "elsewhere it differs"),
    ],
)
def test_whatever_an_environment_does_the_answer_comes(
    name: str, place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apart.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    told: list[Check] = []
    found = supervise.examine(Request(f"apart:{name}-v0", steps=50, seconds=0.5), told.append)
    assert found == told
    by_name = {check.name: check for check in found if check.group == "environment"}
    assert message in by_name[place].message
    if name in ("Hang", "Die"):
        assert f"apart.py, line {20 if name == 'Hang' else 23}" in by_name[place].message
    assert by_name[place].status == ("warn" if name == "Base" else "FAIL")


# -- the machine -----------------------------------------------------------------------------------


def test_this_machine_is_examined(tmp_path: Path) -> None:
    sheet = Sheet("machine")
    machine.examine(sheet, tmp_path / "runs")
    found = {check.name: check for check in sheet.checks}
    assert {"processors", "memory", "threads", "bf16", "gpu", "extras", "disk"} <= set(found)
    assert found["disk"].status in ("ok", "warn")
    assert found["processors"].value["usable"] >= 1
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_spinning_threads_are_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    sheet = Sheet("machine")
    machine.examine(sheet, tmp_path)
    (spinning,) = (check for check in sheet.checks if check.name == "spinning")
    assert spinning.status == "warn"


def test_a_control_groups_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "free_memory", lambda: 10_000)
    assert machine.free() == 10_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("6000\n")
    assert machine.free() == 10_000
    (tmp_path / "memory.max").write_text("8000\n")
    assert machine.free() == 8000 - 6000
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.processors()[1] == 1.5


@pytest.mark.parametrize(
    ("version", "bounds", "within"),
    [
        ("1.4.0", ">=1.1,<2", True),
        ("2.0", ">=1.1,<2", False),
        ("1.0.9", ">=1.1,<2", False),
        ("2.13.0+cpu", ">=2.6", True),
        ("3.11.7", "<3.14,>=3.11", True),
        ("1.10", ">1.9", True),
        ("1.0", "==1.0.0", True),
        ("5", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, bounds: str, within: bool) -> None:
    assert machine.within(version, bounds) is within


def test_an_error_in_a_check_is_a_line() -> None:
    sheet = Sheet("group")
    with sheet.stage("dividing"):
        print(1 / 0)
    (check,) = sheet.checks
    assert (check.name, check.status) == ("dividing", "FAIL")
    assert "ZeroDivisionError" in check.message


def test_a_budget_ends_with_its_steps_or_its_seconds_after_one_step_at_least() -> None:
    signs: list[int] = []
    assert list(Budget(3, 1000, lambda: signs.append(1))) == [0, 1, 2]
    assert len(signs) == 3
    assert list(Budget(3, -1, lambda: None)) == [0]
