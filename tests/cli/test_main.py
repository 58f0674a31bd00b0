from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recollect import __version__, cli

TRAIN = ["train", "r2d2", "--env", "recollect/PositionCartPole-v0"]
HINT = "python -m recollect train --help shows what there is"

WRONG = [
    # words, the whole line on stderr or its beginning and "..."
    (["trian"], "unknown command trian: did you mean train?"),
    (["--versin"], "unknown option --versin: did you mean --version?"),
    (["train"], "train needs an agent: r2d2, drqn, as in ..."),
    (["train", "r2d3"], "unknown agent r2d3: did you mean r2d2?"),
    (["train", "R2D2"], "unknown agent R2D2: did you mean r2d2?"),
    (["help", "trian"], "unknown command trian: did you mean train?"),
    ([*TRAIN, "--lr", "3"], "unknown option --lr: did you mean --learning-rate?"),
    ([*TRAIN, "--learning-rate", "-1e-4"], "--learning-rate must ..."),
    ([*TRAIN, "--gamma", "-inf"], "--gamma: wanted a finite number, got -inf"),
    (["train", "--torso-sizes", "7", "5", "r2d2"], "train needs an environment: ..."),
    ([*TRAIN, "--run-dir", "taken/note.txt/run"], "taken/note.txt is a file, and a run needs ..."),
    (["train", "r2d2"], "train needs an environment: add --env ID, ..."),
    ([*TRAIN[:3], "recollect/Recal-v0"], "no environment 'recollect/Recal-v0' is ..."),
    ([*TRAIN[:3], "nowhere.at_all:Name-v0"], "environment 'nowhere.at_all:Name-v0' ..."),
    ([*TRAIN[:3], "Pendulum-v1"], "Pendulum-v1 has continuous actions ..."),
    ([*TRAIN, "--env-kwargs", "{bad"], "--env-kwargs: wanted a JSON object, such as ..."),
    ([*TRAIN, "--env-kwargs", "[1]"], "--env-kwargs: wanted a JSON object in braces, got '[1]'"),
    ([*TRAIN, "--env-kwargs", '{"wheels": 3}'], "environment 'recollect/PositionCartPole-v0' ..."),
    ([*TRAIN, "--n-stepp", "3"], "unknown option --n-stepp: did you mean --n-step?"),
    ([*TRAIN, "--zzz", "3"], f"unknown option --zzz: {HINT}"),
    ([*TRAIN, "--n-step"], "--n-step needs a value"),
    ([*TRAIN, "--n-step", "abc"], "--n-step: wanted a whole number, got 'abc'"),
    ([*TRAIN, "--n-step", "100"], "--n-step 100 is longer than --trace-length 40: ..."),
    ([*TRAIN, "--gamma", "1.5"], "gamma must ..."),
    ([*TRAIN, "--rewards", "rescaledd"], "--rewards: wanted rescaled or clipped or ..."),
    ([*TRAIN, "--torso-sizes", "64", "x"], "--torso-sizes: wanted whole numbers, ..."),
    ([*TRAIN, "--prioritized", "maybe"], "--prioritized: wanted True or False, got 'maybe'"),
    ([*TRAIN, "--preset", "papr"], "unknown preset papr: did you mean paper?"),
    ([*TRAIN, "--seed", "-1"], "seed must be 0 or more and below 2^64, got -1"),
    ([*TRAIN, "--env-steps", "0"], "--env-steps must be 1 or more and at most 2^53, got 0"),
    (
        [*TRAIN, "--runtime", "ray", "--place", "lerner:cpus=1"],
        "--place 'lerner:cpus=1': kind of part 'lerner' is not known: did you mean learner?...",
    ),
    (
        [*TRAIN, "--runtime", "ray", "--place", "learner:cpus=1,cpus=2"],
        "--place 'learner:cpus=1,cpus=2': cpus of learner is given twice, give it once",
    ),
    (
        [*TRAIN, "--runtime", "ray", "--place", "actor:node=10.0.0.9"],
        "--place 'node=10.0.0.9' of actor is for a cluster, and without --address all parts are on "
        "this machine: leave it out, or add --address HOST:PORT",
    ),
    (
        [*TRAIN, "--runtime", "ray", "--replay-shards", "10_000"],
        "10004 parts in processes of their own need at least 2001.1 GB before they hold anything, "
        "...: lower --actor-processes, which is 1, or --replay-shards, which is 10000",
    ),
    (
        [*TRAIN, "--address", "a:1"],
        "--address 'a:1' is for --runtime ray: add --runtime ray, or leave it out",
    ),
    ([*TRAIN, "--runtime", "inlin"], "unknown runtime inlin: did you mean inline?"),
    ([*TRAIN, "--network", "nowhere:Net"], "network 'nowhere:Net': there is no module ..."),
    ([*TRAIN, "--network", "nowhere"], "a network is named module:name, got 'nowhere'"),
    ([*TRAIN, "--run-dir", "taken"], "taken is not empty (it holds note.txt), ..."),
    ([*TRAIN, "more"], "unexpected word 'more': AGENT is 'r2d2'"),
    (["status"], "status needs a run: give its folder"),
    (["status", "nothing"], "nothing is not a run: ..."),
    (["status", "empty", "--wach"], "unknown option --wach: did you mean --watch?"),
    (["evaluate"], "evaluate needs a run: give its folder"),
    (["evaluate", ""], "evaluate needs a run: give its folder"),
    (["plot", "empty", ""], "plot needs a run: give its folder"),
    (["evaluate", "."], ". is not a run: it has no config.json. It holds runs: damaged, empty"),
    (["evaluate", "nothing"], "nothing is not a run: ..."),
    (["evaluate", "empty"], "there is no 'last' or 'failed' checkpoint in empty/checkpoints"),
    (["evaluate", "empty", "--which", "bst"], "unknown parameters bst: did you mean best?"),
    (["evaluate", "empty", "--protocol", "nop30"], "unknown protocol nop30: did you mean noop30?"),
    (["evaluate", "empty", "--episodes", "0"], "episodes must be 1 or more, got 0"),
    (["evaluate", "empty", "--epsilon", "2"], "epsilon must lie in [0, 1], got 2.0"),
    (["evaluate", "empty", "--seed", "x"], "--seed: wanted a whole number, got 'x'"),
    (["evaluate", "empty", "empty"], "unexpected word 'empty': RUN is 'empty'"),
    (["evaluate", "damaged"], "damaged/config.json: expected JSON, found damage ..."),
    (["score"], "score needs a file of scores by game, or the folders of finished runs"),
    (["score", "nothing"], "there is no file or run nothing"),
    (["score", "empty"], "empty has no final evaluation: let the run end, ..."),
    (["score", "taken/note.txt"], "taken/note.txt: wanted JSON, or CSV that begins with ..."),
    (["score", "nothing", "--startss", "x"], "unknown option --startss: did you mean --starts?"),
    (["record", "nothing"], "nothing is not a run: ..."),
    (["record", "empty", "--out", "a.avi"], "wanted a file that ends in ..."),
    (["export", "empty"], "export needs a run's folder and ..."),
    (["inspect", "nothing"], "nothing is not a run: ..."),
    (["plot"], "plot needs a run: give its folder"),
    (["plot", "nothing"], "nothing is not a run: ..."),
    (["plot", "empty", "--out", "a.jpg"], "--out: wanted a file that ends in ..."),
    (["plot", "empty", "--out", "a/b.png"], "--out: there is no folder a: make it first"),
    (["plot", "empty", "--metric", "leaner/loss"], "unknown metric leaner/loss: did you mean ..."),
]  # fmt: skip

JUDGE = """
import contextlib, io, json, sys
from recollect.cli import main
heavy = ("torch._C", "numba", "matplotlib", "tensorboard", "ray")
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(json.loads(line))
    loaded = [name for name in heavy if name in sys.modules]
    print(json.dumps([code, out.getvalue(), err.getvalue(), loaded]))
"""


def write_run(folder: Path, config: str, metrics: str = "") -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    (folder / "metrics.jsonl").write_text(metrics)


def in_one_process(lines: list[list[str]], folder: Path) -> list[Any]:
    """[exit code, stdout, stderr, what was loaded by then] for each command line."""
    done = subprocess.run(
        [sys.executable, "-c", JUDGE],
        input="".join(json.dumps(words) + "\n" for words in lines),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("somewhere")
    (folder / "taken").mkdir()
    (folder / "taken" / "note.txt").write_text("mine")
    config = {
        "agent": "r2d2",
        "env": {"id": "recollect/Recall-v0", "kwargs": {}},
        "preset": "auto",
        "seed": 0,
        "env_steps": 100,
        "runtime": "inline",
        "network": "",
        "start_from": "",
        "checkpoint_seconds": 0.0,
        "keep_checkpoints": 2,
        "config": {},
    }
    write_run(folder / "damaged", "{")
    from dataclasses import asdict

    from recollect.agents.r2d2 import R2D2Config

    config["config"] = asdict(R2D2Config())
    row = '{"env_steps": 5, "learner/loss": 0.5}\n'
    write_run(folder / "empty", json.dumps(config), row)
    before = sorted(folder.rglob("*"))
    answers = in_one_process([words for words, _ in WRONG], folder)
    assert sorted(folder.rglob("*")) == before  # a refused command leaves nothing behind
    return dict(enumerate(answers))


@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda n: " ".join(WRONG[n][0]))
def test_wrong_words_are_answered_by_one_line_before_torch_is_loaded(
    number: int, refused: dict[int, Any]
) -> None:
    code, out, err, loaded = refused[number]
    wanted, beginning, _ = WRONG[number][1].partition("...")
    assert (code, out, loaded) == (2, "", [])
    assert err.count("\n") == 1
    assert err.startswith(f"recollect: {wanted}") if beginning else err == f"recollect: {wanted}\n"


def test_help_and_version_load_nothing_heavy(tmp_path: Path) -> None:
    lines = [[], ["--help"], ["--version"], ["train", "--help"], ["train", "drqn", "-h"]]
    lines += [
        ["status", "--help"],
        ["evaluate", "--help"],
        ["score", "--help"],
        ["plot", "--help"],
        ["record", "-h"],
        ["inspect", "-h"],
        ["help"],
        ["help", "train"],
    ]
    answers = in_one_process(lines, tmp_path)
    assert [(code, err, loaded) for code, _, err, loaded in answers] == [(0, "", [])] * len(lines)
    texts = [out for _, out, _, _ in answers]
    assert texts[0] == texts[1] == texts[-2]
    assert texts[-1] == texts[3]
    assert texts[2] == f"recollect {__version__}\n"
    for command in cli.COMMANDS:
        assert f"  {command} " in texts[0]


def test_every_help_page_fits_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in (["--help"], *([command, "--help"] for command in cli.COMMANDS)):
        assert cli.main(words) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_an_interrupt_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_command", interrupted)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr() == ("", "recollect: interrupted\n")


def test_a_disk_that_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(words: list[str]) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(cli, "_command", full)
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == ("recollect: metrics.jsonl: No space left on device\n")


def test_a_reader_that_leaves_is_no_error_to_talk_about() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "recollect.cli", "train", "--help"]
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    for words, code in (("--version", 0), ("help train", 0), ("trian", 2)):
        command = ["sh", "-c", f"exec {sys.executable} -m recollect {words} {closed}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code
        assert "Traceback" not in done.stdout + done.stderr
        assert code == 0 or "trian" not in done.stdout


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise() -> None:
    program = "import os, recollect.cli; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    for asked, found in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | ({"OMP_WAIT_POLICY": asked} if asked else {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.strip() == found
