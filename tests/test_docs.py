"""What the README and the docs show runs as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recollect
from benchmarks import sizing
from recollect import cli
from recollect.protocols import FRAME_CAP, PROTOCOLS
from tests.untrained import made

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
    command("record run --out shown.png")
    assert Path("shown.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluation_by_a_protocol_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code("docs/evaluation.md"), "docs/evaluation.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_page_on_evaluation_has_every_protocol_and_what_score_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs/evaluation.md").read_text()
    for name, protocol in PROTOCOLS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}`")]
        assert f"| {protocol.episodes} | {protocol.epsilon:g} |" in row
        assert not protocol.env_kwargs or f"| {protocol.env_kwargs[FRAME_CAP]:,} |" in row
    shown = [line[4:] for line in page.partition("    $ recollect score")[2].splitlines()[1:]]
    scores = {"pong": 20.9, "qbert": 15000, "video_pinball": 50000}
    Path("scores.json").write_text(json.dumps(scores))
    assert cli.main(["score", "scores.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cut = shown.index("                ...")
    assert shown[:cut] == lines[:cut]


def test_the_page_on_many_machines_has_the_table_of_what_replay_needs() -> None:
    assert "\n".join(sizing.table()) in (ROOT / "docs/distributed.md").read_text()


def test_what_replay_needs_follows_from_its_blocks() -> None:
    plain, packed = sizing.need(16_640, "none"), sizing.need(16_640)
    block = 43 * 84 * 84  # 40 frames, and the 3 before them
    assert plain.incoming == pytest.approx(416 * block, rel=0.02)
    assert plain.outgoing == pytest.approx(5 * 64 * 4 * block, rel=0.02), (
        "a window lies in 4 blocks"
    )
    assert packed.incoming == pytest.approx(4.13e6, rel=0.05), "as was measured"
    assert sizing.need(33_280).gigabits == pytest.approx(2 * packed.gigabits)
    assert sizing.need(16_640, ratio=0.5).outgoing == packed.outgoing / 2
    for steps in (1_000, 100_000, 1_000_000):
        found = sizing.need(steps)
        assert found.processors <= sizing.BUSY * found.shards


ALONE = """
import json, sys
sys.modules["recollect"] = None  # importing it fails from here on
import numpy as np
from plain_agent import PlainAgent

agent, out = PlainAgent("agent.safetensors"), []
for step in json.load(open("episode.json")):
    observation = {key: np.array(rows, np.float32) for key, rows in step["observation"].items()}
    action = agent.act(observation, step["reward"], step["start"])
    out.append([action, agent.values[0].tolist()])
print(json.dumps([out, agent.about]))
"""


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("recollect/PositionCartPole-v0", {}),
        ("tests/Shifted-v0", {"pre_core": 7, "hidden": 5, "head_hidden": 3, "torso_sizes": ()}),
    ],
)
def test_an_exported_agent_acts_without_recollect(env: str, settings: dict[str, Any]) -> None:
    agent = made(env, **settings)
    agent.export("agent.safetensors")
    Path("plain_agent.py").write_text(code("docs/export.md"))
    rng = np.random.default_rng(3)
    steps, expected = [], []
    for t in range(40):
        observation = rng.normal(size=2).astype(np.float32)
        reward, start = float(np.float32(rng.normal())), t in (0, 25)
        expected.append([agent.act(observation, reward, start), agent.values])
        rows = {"observation": observation.tolist()}
        steps.append({"observation": rows, "reward": reward, "start": start})
    Path("episode.json").write_text(json.dumps(steps))
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found, about = json.loads(done.stdout)
    assert [action for action, _ in found] == [action for action, _ in expected]
    values = np.array([row for _, row in found])
    np.testing.assert_allclose(values, np.array([row for _, row in expected]), atol=1e-6)
    assert values.std(0).min() > 1e-3, "an episode in which the values change"
    assert about["env"]["id"] == env
    assert (about["format"], about["env_steps"], about["which"]) == (1, 123, "last")
