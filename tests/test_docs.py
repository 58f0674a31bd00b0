"""What the README and the docs show runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import recollect

ROOT = Path(__file__).parent.parent


def code(page: str) -> str:
    """The one Python example of a page."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return str(block)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory is the user's, and importable, as it is in a Python session."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_readme_example_trains_evaluates_saves_loads_and_acts() -> None:
    text = code("README.md")
    assert len(text.splitlines()) <= 11, "ten lines, and a blank one"
    found: dict[str, object] = {}
    exec(compile(text, "README.md", "exec"), found)
    assert found["action"] in (0, 1)
    assert Path("recall-agent").is_dir()


def test_a_network_of_ones_own() -> None:
    text = code("docs/own_network.md")
    assert len(text.splitlines()) < 40
    Path("my_network.py").write_text(text)
    run = recollect.train(
        "r2d2",
        env="recollect/Recall-v0",
        env_kwargs={"delay": 2},
        env_steps=3000,
        network="my_network:MyNetwork",
        evaluation_period=0,
        min_replay_steps=500,
    )
    assert run.updates > 10
    agent = recollect.load(run)
    assert type(agent.policy.network).__name__ == "MyNetwork"
    sys.modules.pop("my_network")


def test_an_environment_of_ones_own() -> None:
    text = code("docs/own_environment.md")
    assert len(text.splitlines()) < 40
    Path("my_env.py").write_text(text)
    run = recollect.train("r2d2", env="my_env:Echo-v0", env_steps=6000, evaluation_period=0)
    assert recollect.evaluate(run, episodes=100)["return_mean"] > 0.9
    sys.modules.pop("my_env")
