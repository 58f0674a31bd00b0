"""What the README and the docs show runs as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import recollect

ROOT = Path(__file__).parent.parent


def code(page: str) -> str:
    """The one Python example of a page."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return str(block)


def command(words: str) -> str:
    """What the installed command prints, run where the user is."""
    script = Path(sys.executable).with_name("recollect")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [script, *words.split()], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    words = "--network my_network:MyNetwork --env-steps 3000 --min-replay-steps 500"
    command(f"train r2d2 --env recollect/Recall-v0 {words} --evaluation-period 0 --run-dir run")
    agent = recollect.load("run")
    assert agent.meta["updates"] > 10
    assert type(agent.policy.network).__name__ == "MyNetwork"
    sys.modules.pop("my_network")


def test_an_environment_of_ones_own() -> None:
    text = code("docs/own_environment.md")
    assert len(text.splitlines()) < 40
    Path("my_env.py").write_text(text)
    words = "--env-steps 6000 --evaluation-period 0 --run-dir run"
    command(f"train r2d2 --env my_env:Echo-v0 {words}")
    figures = json.loads(command("evaluate run --episodes 100 --json").splitlines()[-1])
    assert figures["return_mean"] > 0.9
