"""A real program, in one process and over several: the same states, whoever saved them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.agents import r2d2
from recollect.agents.r2d2 import R2D2Config
from recollect.envs import registry
from recollect.program import Program
from recollect.replay.far import FarReplay
from recollect.run import checkpoint, parts
from recollect.run.checkpoint import Checkpoints, digest
from recollect.run.segments import file_name
from recollect.runtime import asking, hosting, pieces, remote
from recollect.runtime.inline import Inline
from recollect.runtime.remote import Remote
from recollect.types import Buffers
from tests.runtime.faked import Threads

CONFIG = R2D2Config(
    actors=4,
    actor_processes=2,
    replay_shards=2,
    refresh_period=4,
    burn_in=4,
    trace_length=8,
    period=4,
    n_step=3,
    replay_steps=400,
    min_replay_steps=60,
    replay_ratio=2.0,
    batch_size=4,
    target_period=7,
    publish_period=2,
    torso_sizes=(8,),
    pre_core=0,
    hidden=8,
    head_hidden=8,
    evaluation_period=20,
    evaluation_episodes=2,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "SLICE_SECONDS", 0.05)
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1500)  # two or three blocks
    monkeypatch.setattr(hosting, "_hear_warnings", lambda kept: None)
    with warnings.catch_warnings():
        yield


def program(config: R2D2Config = CONFIG, seed: int = 5) -> Program:
    return r2d2.program(config, registry.env_spec("recollect/PositionCartPole-v0"), seed)


@pytest.fixture
def spread() -> Iterator[tuple[Remote, Threads]]:
    transport = Threads()
    runtime = Remote(program(), transport, 60.0)
    yield runtime, transport
    runtime.close()


def run_to(runtime: Inline | Remote, env_steps: int) -> None:
    runtime.run(lambda c: c["env_steps"] >= env_steps, {"env_steps": env_steps})


def test_a_run_over_processes_learns_in_proportion_and_keeps_all(
    spread: tuple[Remote, Threads],
) -> None:
    """The replay ratio is the config's, over both shards; no step is lost or counted twice."""
    runtime, transport = spread
    run_to(runtime, 600)
    assert runtime.settle(lambda: False)
    counts, metrics = runtime.counts(), runtime.metrics()
    assert 600 <= counts["env_steps"] < 600 + 2 * 2
    assert counts["updates"] > 20
    inserted = metrics["replay/inserted_steps"]
    # What is in the making at the end was not sent: less than two blocks of each slot, and n steps.
    assert counts["env_steps"] - 4 * (2 * 4 + 3) <= inserted <= counts["env_steps"]
    owed = 2.0 * (inserted - 60) - metrics["replay/learned_steps"]
    assert -2 * 4 * 8 <= owed < 4 * 8, "the batch that is drawn ahead, and one more"
    assert metrics["replay/learned_steps"] - counts["learned_steps"] <= 4 * 8
    for k in range(2):
        store = transport.hosts[f"replay/{k}"].part
        store.check_valid()
        assert store.steps <= 200
        assert store.metrics()["inserted_steps"] > 100
    for name in ("late_items", "abandoned_blocks", "dropped_episodes"):
        assert metrics[f"replay/{name}"] == 0
    for i in range(2):
        held = transport.hosts[f"actor/{i}"]._clients["replay"]
        assert isinstance(held, FarReplay)
        assert not any(line.blocks or line.items for line in held._lines)
        assert metrics[f"actor/{i}/lag_updates"] >= 0
    assert metrics["parameters/published"] >= counts["updates"] // 2
    assert all(part.alive for part in runtime.parts_now())


def test_a_state_of_one_process_goes_on_over_several_and_back(
    spread: tuple[Remote, Threads], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts' states are equal, bit for bit; then each goes on."""
    monkeypatch.setattr(parts, "LEAST_RATE_SECONDS", 1e-9)
    inline = Inline(program())
    run_to(inline, 300)
    state = inline.state_dict()
    runtime, _ = spread
    runtime.load_state_dict(state)
    assert runtime.counts() == inline.counts()
    rates = [part.rate for part in runtime.parts_now()]
    assert not any(rates), "what was restored was not done just now"
    again = runtime.state_dict()
    journal = again.pop("journal")
    assert again.keys() == state.keys()
    assert digest(again) == digest({**state, "turn": 0, "epochs": dict.fromkeys(state["parts"], 0)})
    assert journal["pages"] == {}
    run_to(runtime, 400)
    runtime.settle(lambda: False)
    later = runtime.state_dict()
    del later["journal"]
    counts = runtime.counts()
    assert counts["updates"] > inline.counts()["updates"]
    other = Inline(program())
    other.load_state_dict(later)
    assert other.counts() == counts
    assert digest(other.state_dict()) == digest(later)
    run_to(other, 500)
    assert other.counts()["updates"] > counts["updates"]
    for runtime_ in (inline, other):
        runtime_.close()


def test_a_state_that_does_not_fit_is_refused_by_name(spread: tuple[Remote, Threads]) -> None:
    inline = Inline(program())
    state = inline.state_dict()
    runtime, _ = spread
    parts = dict(state["parts"])
    parts["learner"] = {**parts["learner"], "updates": -1}
    for loads in (runtime, inline):
        with pytest.raises(ValueError, match=r"the state of learner: updates is -1"):
            loads.load_state_dict({**state, "parts": parts})
        with pytest.raises(ValueError, match=r"the state has parts \[.*'replay'\], those of the"):
            loads.load_state_dict({**state, "parts": {"replay": {}}} | {"turn": 0})
    inline.close()


# --- Buffers that are on disk ---------------------------------------------------------------------


class Fetched:
    """Which buffers are fetched from hosts."""

    def __init__(self, transport: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
        self.numbers: dict[str, list[int]] = {}
        self.calls = 0
        for name, host in transport.hosts.items():
            monkeypatch.setattr(host, "pieces", self._counting(name, host.pieces))

    def _counting(self, name: str, pieces: Any) -> Any:
        def counting(place: str, numbers: np.ndarray) -> Any:
            self.calls += 1
            self.numbers.setdefault(name, []).extend(numbers.tolist())
            return pieces(place, numbers)

        return counting

    def taken(self) -> dict[str, list[int]]:
        found, self.numbers = self.numbers, {}
        return found


def buffers(state: Any, shard: int) -> Buffers:
    found = state["parts"][f"replay/{shard}"]["buffers"]
    assert isinstance(found, Buffers)
    return found


def save(writer: Checkpoints, state: Any, env_steps: int) -> Path:
    return writer.save("last", parameters={}, meta={"env_steps": env_steps}, state=state).path


def test_buffers_on_disk_are_not_fetched_again(
    spread: tuple[Remote, Threads], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint costs the experience since the last one, also on the way to the driver."""
    runtime, transport = spread
    run_to(runtime, 450)  # the first blocks have gone: numbers and places differ
    fetched = Fetched(transport, monkeypatch)
    writer = Checkpoints(tmp_path / "checkpoints")
    one = runtime.state_dict(writer.on_disk)
    first = fetched.taken()
    for k in range(2):
        assert first[f"replay/{k}"] == buffers(one, k).numbers.tolist()
    assert fetched.calls > 4, "in pieces"
    save(writer, one, 450)
    run_to(runtime, 550)
    two = runtime.state_dict(writer.on_disk)
    second = fetched.taken()
    for k in range(2):
        new = set(buffers(two, k).numbers) - set(buffers(one, k).numbers)
        assert set(second[f"replay/{k}"]) == new
        assert 0 < len(new) < len(buffers(two, k).numbers)
    path = save(writer, two, 550)
    saved = checkpoint.load(path).state
    assert saved is not None
    assert digest(saved) == digest(two)
    whole = runtime.state_dict()
    third = fetched.taken()
    for k in range(2):
        assert third[f"replay/{k}"] == buffers(whole, k).numbers.tolist()
        found, wanted = buffers(two, k), buffers(whole, k)
        assert found.numbers[0] > 0
        held = dict(zip(wanted.numbers.tolist(), wanted.arrays, strict=True))
        # Slices that were given go on after `run`: what is compared is what both have.
        both = held.keys() & set(found.numbers.tolist())
        assert both
        for number, array in zip(found.numbers.tolist(), found.arrays, strict=True):
            np.testing.assert_array_equal(array, held.get(number, array))
    other = Inline(program())
    other.load_state_dict(saved)
    other.close()


def test_a_state_taken_while_all_are_at_work_is_of_one_moment(
    spread: tuple[Remote, Threads],
) -> None:
    """C4: a block that an actor has sent is in replay, and is not sent again."""
    runtime, _ = spread
    for k in range(4):
        run_to(runtime, 100 * (k + 1))
        runtime.run(lambda c: any_pending(runtime), {"env_steps": 10**6})
        state = runtime.state_dict()
        other = Inline(program())
        other.load_state_dict(state)
        run_to(other, other.counts()["env_steps"] + 60)
        metrics = other.metrics()
        assert metrics["replay/late_items"] == metrics["replay/abandoned_blocks"] == 0
        other.close()


def any_pending(runtime: Remote) -> bool:
    return any(worker.pending is not None for worker in runtime._workers.values())


def test_a_segment_that_vanished_is_fetched_and_written_again(
    spread: tuple[Remote, Threads], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, transport = spread
    run_to(runtime, 150)
    writer = Checkpoints(tmp_path / "checkpoints")
    path = save(writer, runtime.state_dict(writer.on_disk), 150)
    (path / file_name(0)).unlink()
    fetched = Fetched(transport, monkeypatch)
    state = runtime.state_dict(writer.on_disk)
    assert fetched.taken()["replay/1"] == buffers(state, 1).numbers.tolist()
    again = checkpoint.load(save(writer, state, 151)).state
    assert again is not None
    assert digest(again) == digest(state)
