"""What this machine cannot hold of a run on Ray is refused before anything is started."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recollect
from recollect.run.signals import Interrupted, Stop
from recollect.runtime import transport
from recollect.training import room, runtimes
from recollect.training.job import Job, prepare
from recollect.types import ActionSpec, ArraySpec, ConfigError, EnvSpec

ACTIONS = ActionSpec(3)


def job(place: str = "", address: str = "", **settings: Any) -> Job:
    env = "recollect/Recall-v0"
    given = {"runtime": "ray", "place": place, "address": address}
    return prepare("r2d2", env=env, settings=settings, **given)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "gpus", lambda: 1)
    monkeypatch.setattr(room, "free_memory", lambda: 8 * 10**9)


def test_what_is_usual_has_room() -> None:
    room.check(job())
    room.check(job("learner:gpus=1,node=127.0.0.1", replay_shards=4, actor_processes=4))


@pytest.mark.parametrize(
    ("place", "settings", "message"),
    [
        (
            "actor:node=10.0.0.9",
            {},
            "place 'node=10.0.0.9' of actor is for a cluster, and without address all parts are on "
            "this machine: leave it out, or add address HOST:PORT",
        ),
        (
            "learner:gpus=1 actor:gpus=0.5",
            {"actor_processes": 2},
            "the parts want 2 GPU (1 for learner and 1 for actor), and this machine has 1: take "
            "fewer with place, or device cpu and no gpus in place for none",
        ),
        (
            "",
            {"replay_shards": 200, "evaluation_period": 0},
            "203 parts in processes of their own need at least 40.9 GB before they hold anything, "
            "and 8.0 GB are free: lower actor_processes, which is 1, or replay_shards, which is "
            "200",
        ),
        (
            "",
            {"replay_shards": 200},
            "204 parts in processes of their own need at least 41.1 GB before they hold anything, "
            "and 8.0 GB are free: lower actor_processes, which is 1, or replay_shards, which is "
            "200",
        ),
    ],
)
def test_what_has_none_is_refused(place: str, settings: dict[str, Any], message: str) -> None:
    """F1; on a cluster it is the cluster that knows."""
    with pytest.raises(ConfigError) as found:
        room.check(job(place, **settings))
    assert str(found.value) == message
    room.check(job(place, "10.0.0.1:6379", **settings))


def test_a_gpu_that_is_not_there_is_refused_however_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for wanted in (job("learner:gpus=1"), job(device="cuda")):
        monkeypatch.setattr(room, "gpus", lambda: 0)
        with pytest.raises(ConfigError, match=r"want 1 GPU \(1 for learner\), and .* has none:"):
            room.check(wanted)
        monkeypatch.setattr(room, "gpus", lambda: None)
        room.check(wanted)


@pytest.mark.parametrize(("number", "taken"), [(0, 0.0), (1, 1.0)])
def test_what_is_left_to_the_machine_takes_a_gpu_only_where_one_is_seen(
    number: int, taken: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA_VISIBLE_DEVICES may be -1, or a container may have the driver alone."""
    monkeypatch.setattr(room, "gpu", lambda: True)
    monkeypatch.setattr(room, "gpus", lambda: number)
    images = EnvSpec("x/Doom-v0", {}, {"observation": ArraySpec((72, 96, 3), "uint8")}, ACTIONS)
    wanted = replace(job(), env=images)
    assert room.kinds(wanted)["learner"].gpus == taken
    room.check(wanted)
    assert room.kinds(replace(wanted, address="a:1"))["learner"].gpus == 0, "another machine's"


def test_it_is_refused_before_there_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a run that is to go on, which stays as it was."""
    monkeypatch.setattr(transport, "opened", lambda *_: pytest.fail("Ray was started"))
    run = tmp_path / "run"
    words: dict[str, Any] = {"env": "recollect/Recall-v0", "env_steps": 10, "run_dir": run}
    with pytest.raises(ConfigError, match="parts in processes of their own"):
        recollect.train("r2d2", runtime="ray", replay_shards=500, **words)
    assert not run.exists()
    with pytest.warns(RuntimeWarning, match="nothing will be learned"):
        recollect.train("r2d2", actor_processes=2, **words)
    before = (run / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="is for a cluster"):
        recollect.resume(run, env_steps=20, runtime="ray", place="learner:node=10.0.0.9")
    assert (run / "config.json").read_bytes() == before
    assert json.loads(before)["runtime"] == "inline"


def test_a_run_begun_on_ray_goes_on_inline_where_there_is_no_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    stored = Job.from_dict(job().as_dict())
    room.check(stored.changed(runtime="inline"))
    for wanted in (stored, job("", "10.0.0.1:6379")):
        with pytest.raises(
            ConfigError, match=r"pip install 'recollect\[ray\]', or take runtime inl"
        ):
            room.check(wanted)


def test_a_signal_before_the_start_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, stop = job(), Stop()
    program = runtimes.program_of(wanted)
    stop.requested = "SIGTERM"
    monkeypatch.setattr(transport, "opened", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(Interrupted, match="ended by SIGTERM"):
        runtimes.begun(wanted, program, stop, Path("run"), {}, lambda: None)


def test_a_signal_while_parts_start_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, stop = job(), Stop()
    monkeypatch.setattr(transport, "opened", lambda *_: None)
    monkeypatch.setattr(runtimes, "Remote", lambda *given, **_: given)
    program = runtimes.program_of(wanted)
    given: Any = runtimes.begun(wanted, program, stop, Path("run"), {}, lambda: None)
    given[-1]()
    stop.requested = "SIGTERM"
    with pytest.raises(Interrupted, match="ended by SIGTERM"):
        given[-1]()


def test_many_processes_that_are_one_are_told() -> None:
    def told(**settings: Any) -> str:
        return runtimes.told(prepare("r2d2", env="recollect/Recall-v0", settings=settings))

    assert told() == ""
    assert told(actor_processes=4, replay_shards=3) == (
        "actor_processes 4 and replay_shards 3: all in this one process, runtime ray gives each "
        "part its own"
    )
    assert told(replay_shards=2).startswith("replay_shards 2: all in this one process")
