"""C8: many runs in one folder at once."""

from __future__ import annotations

import json
import platform
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import commanded
from tests.commanded import LONG, saved_steps, start, train, wait_for_checkpoint

RACE = """
import json, pathlib, sys, time
go, seconds_file = map(pathlib.Path, sys.argv[1:3])
del sys.argv[1:3]
from recollect.cli import main, lazy, train, resume  # what is loaded is not what is measured
pathlib.Path(str(seconds_file) + ".ready").touch()
while not go.exists():
    time.sleep(0.001)
begin = time.monotonic()
code = main()
seconds_file.write_text(json.dumps(time.monotonic() - begin))
sys.exit(code)
"""


def race(words: list[str], run: Path, starts: int, tmp_path: Path) -> subprocess.Popen[str]:
    """All at once; the winner, which goes on. The others have been looked at."""
    go, tag = tmp_path / f"go-{words[0]}", words[0]
    files = [tmp_path / f"{tag}-{number}" for number in range(starts)]
    processes = [
        commanded.python(["-c", RACE, str(go), str(file), *words], stdout=subprocess.DEVNULL)
        for file in files
    ]
    for process, file in zip(processes, files, strict=True):
        commanded.wait_for(Path(f"{file}.ready"), process)
    go.touch()
    try:
        return winner_of(processes, files, run, tag)
    except BaseException:
        for process in processes:
            process.kill()
            process.communicate()
        raise


def winner_of(
    processes: list[subprocess.Popen[str]], files: list[Path], run: Path, tag: str
) -> subprocess.Popen[str]:
    """The one that goes on, when all others have been refused."""
    deadline = time.monotonic() + 100
    while sum(process.poll() is None for process in processes) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (winner,) = [process for process in processes if process.poll() is None]
    slowest = 0.0
    for process, file in zip(processes, files, strict=True):
        if process is winner:
            continue
        _, error = process.communicate()
        who = rf"process {winner.pid} on {re.escape(platform.node())} since 20\S+"
        held = rf"recollect: {re.escape(str(run))} is in use by {who}: wait until .*\n"
        taken = rf"recollect: {re.escape(str(run))} already holds a run: .*\n"
        assert process.returncode == 2
        # Who comes when config.json is there need not ask for the lock.
        assert re.fullmatch(held, error) or (tag == "train" and re.fullmatch(taken, error)), error
        slowest = max(slowest, json.loads(file.read_text()))
    print(f"{tag}: {len(files)} at once, the slowest refused after {slowest:.2f} s")
    return winner


def assert_one_wins(tmp_path: Path, starts: int) -> None:
    run = tmp_path / "run"
    winner = race(train(run, "--env-steps", str(LONG)), run, starts, tmp_path)
    wait_for_checkpoint(run, winner)
    winner.send_signal(signal.SIGKILL)
    winner.communicate()
    assert (run / ".owner.json").exists()  # it left no word
    words = ["resume", str(run), "--checkpoint-seconds", "0.2"]
    second = race(words, run, starts, tmp_path)
    commanded.leaves_quietly(second, run)
    commanded.resume(run, "--env-steps", str(saved_steps(run) + 200))


def test_of_four_starts_in_one_folder_one_wins(tmp_path: Path) -> None:
    assert_one_wins(tmp_path, 4)


@pytest.mark.slow
def test_of_twenty_starts_in_one_folder_one_wins(tmp_path: Path) -> None:
    assert_one_wins(tmp_path, 20)


def test_a_refusal_takes_less_than_a_second(tmp_path: Path) -> None:
    """While a run works there, `train` and `resume` are refused at once."""
    run = tmp_path / "run"
    owner = start(train(run, "--env-steps", str(LONG)))
    wait_for_checkpoint(run, owner)
    try:
        for words in (train(run), ["resume", str(run)]):
            seconds = min(refused_after(words, owner) for _ in range(3))  # others use the machine
            assert seconds < 1.0
    finally:
        commanded.leaves_quietly(owner, run)


def refused_after(words: list[str], owner: subprocess.Popen[str]) -> float:
    """Seconds from the command's beginning, when all that it imports is there."""
    code = (
        "import sys, time; from recollect.cli import main, train, resume; t = time.monotonic();"
        "code = main(); print(time.monotonic() - t); sys.exit(code)"
    )
    done = commanded.done(["-c", code, *words])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    if words[0] == "resume":
        assert f"in use by process {owner.pid} on {platform.node()} since 20" in done.stderr
    return float(done.stdout.splitlines()[-1])
