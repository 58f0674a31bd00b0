"""S2: an inline training, its evaluation and the command line need no network and ask for none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

EAR = """
import json, sys

asked = []

def listen(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        asked.append(f"{event} {arguments}")

sys.addaudithook(listen)
"""
TRAINING = """
import recollect
run = recollect.train(
    "r2d2", env="recollect/Recall-v0", env_kwargs={"delay": 2}, run_dir=sys.argv[1], seed=1,
    env_steps=500, min_replay_steps=200, evaluation_period=5, evaluation_episodes=2,
)
figures = recollect.evaluate(run, episodes=2)
print(json.dumps({"updates": run.updates, "episodes": figures["episodes"], "asked": asked}))
"""
WITHOUT_NETWORK = ["unshare", "-rn"]  # loopback included


def why_not() -> str:
    """Why a command cannot be run without a network here; empty if it can."""
    if shutil.which(WITHOUT_NETWORK[0]) is None:
        return "there is no unshare here"
    tried = subprocess.run([*WITHOUT_NETWORK, "true"], capture_output=True, check=False, timeout=60)
    return f"not permitted here: {tried.stderr.decode().strip()}" if tried.returncode else ""


@pytest.fixture(scope="module")
def without_network() -> list[str]:
    """The words before a command that take its network away."""
    if reason := why_not():
        pytest.skip(reason)
    return WITHOUT_NETWORK


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a training in a process of its own says at its end; without a network if possible."""
    before = [] if why_not() else WITHOUT_NETWORK
    folder = str(tmp_path_factory.mktemp("no_network") / "run")
    command = [*before, sys.executable, "-c", EAR + TRAINING, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_a_training_asks_for_no_connection_address_or_port(found: dict[str, Any]) -> None:
    assert found["asked"] == []


def test_a_training_works_without_a_network(
    found: dict[str, Any], without_network: list[str]
) -> None:
    assert found["updates"] > 5
    assert found["episodes"] == 2


@pytest.mark.parametrize(
    ("words", "event"),
    [
        ("socket.create_server(('127.0.0.1', 0))", "socket.bind"),
        ("socket.socket().connect_ex(('127.0.0.1', 9))", "socket.connect"),
        ("socket.getaddrinfo('127.0.0.1', 9)", "socket.getaddrinfo"),
    ],
)
def test_the_ear_hears_a_door_that_is_opened(words: str, event: str) -> None:
    script = f"{EAR}\nimport socket\n{words}\nprint(asked)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert event in done.stdout


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "r2d2", "--help"]])
def test_the_command_line_answers_without_a_network(
    words: list[str], without_network: list[str]
) -> None:
    command = [*without_network, sys.executable, "-m", "recollect", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "recollect" in done.stdout


def test_there_is_no_network_where_it_is_taken_away(without_network: list[str]) -> None:
    """Else the tests above would show nothing."""
    script = "import socket; socket.create_connection(('127.0.0.1', 9), 5)"
    done = subprocess.run(
        [*without_network, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Network is unreachable" in done.stderr
