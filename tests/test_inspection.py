"""What is told of a run and of its replay is what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recollect
from recollect import inspection
from recollect.inspection import describe_parameters, describe_progress, describe_replay
from recollect.replay.contents import EPISODE, LAST, LEARNED, SERIAL, START, STEPS, TAIL, UID
from recollect.replay.prioritized import Prioritized
from recollect.replay.store import Replay
from recollect.replay.windows import Windows
from recollect.run import checkpoint
from recollect.run.folder import RunFolder
from recollect.types import Buffers, ConfigError
from tests.replay.lived import UNEVEN, cut, make_episode, make_replay, make_spec, messages
from tests.untrained import made


def lived(windows: Windows, sampler: Any, capacity: int, turns: int, seed: int = 0) -> Replay:
    """A replay into which three actors' episodes came, in turn, cut off in the midst of some."""
    spec = make_spec(windows)
    rng = np.random.default_rng(seed)
    replay = make_replay(windows, spec, sampler, capacity_steps=capacity)
    uids = iter(range(1, 10_000))

    def episodes() -> Iterator[Any]:
        while True:
            episode = make_episode(spec, next(uids), int(rng.integers(1, 40)))
            priority = lambda k: float(rng.choice([0.0, 1.0, 4.0]))  # noqa: E731
            yield from messages(windows, cut(spec, episode), priority)

    slots = [episodes() for _ in range(3)]
    for turn in range(turns):
        replay.insert(*next(slots[turn % 3]))
    replay.check_valid()
    return replay


def ages(replay: Replay) -> dict[int, int]:
    """uid -> steps of all blocks that came after the item's last one, one item at a time."""
    contents = replay._contents
    blocks = contents.blocks.rows[contents.blocks.ages()]
    found = {}
    for slot in contents.items.ages():
        item = contents.items.rows[slot]
        stop = item[START] + item[LEARNED] + item[TAIL]
        rows = contents.episodes[int(item[EPISODE])].rows
        reached = contents.episodes[int(item[EPISODE])].first * contents.spec.period
        for row in rows:
            reached += contents.blocks.rows[row, STEPS]
            if reached >= stop:
                break
        mine = contents.blocks.rows[row, SERIAL]
        found[int(item[UID])] = int(blocks[blocks[:, SERIAL] > mine][:, STEPS].sum())
    return found


@pytest.mark.parametrize("windows", [UNEVEN, Windows(4, 8, 4, 3), Windows.trajectories(5)])
@pytest.mark.parametrize(("capacity", "turns"), [(150, 5), (150, 200), (10_000, 90)])
def test_replay_is_described_as_it_counts_itself(
    windows: Windows, capacity: int, turns: int
) -> None:
    replay = lived(windows, Prioritized(0.5), capacity, turns)
    state = replay.state_dict()
    found, own = describe_replay([state]), replay.metrics()
    for name in ("items", "blocks", "waiting_blocks", "episodes", "steps", "bytes"):
        assert found[name] == own[name], name
    assert found["inserted_steps"] == own["inserted_steps"]
    assert found["counters"]["evicted_items"] == own["evicted_items"]
    arrays = inspection.replay_arrays([state])
    uids = state["items"]["uid"].tolist()
    assert dict(zip(uids, arrays["age_env_steps"].tolist(), strict=True)) == ages(replay)
    contents = replay._contents
    ended = [e.steps for e in contents.episodes.values() if e.ended]
    assert sorted(arrays["episode_steps"].tolist()) == sorted(ended)
    assert found["running_episodes"] == len(contents.episodes) - len(ended)
    assert LAST, "the last column says whether a block ends its episode"


def test_shares_lags_and_priorities_are_the_items_own() -> None:
    replay = lived(UNEVEN, Prioritized(0.5), 200, 150)
    state = replay.state_dict()
    items = state["items"]
    found = describe_replay([state], updates=1000)
    start, prefix, version = items["start"], items["prefix"], items["version"]
    assert found["mid_episode_share"] == sum(s > 0 for s in start) / len(start)
    assert found["prefix_share"] == sum(p > 0 for p in prefix) / len(prefix)
    assert found["lag_updates"]["least"] == 1000 - max(version)
    assert found["lag_updates"]["most"] == 1000 - min(version)
    assert describe_replay([state])["lag_updates"]["least"] == 0
    drawn = inspection.replay_arrays([state])["priority"]
    assert set(drawn.tolist()) == {0.0, 1.0, 4.0}
    zeros = drawn.tolist().count(0.0) / len(drawn)
    assert found["priority_zero_share"] == zeros
    assert (found["priority"]["least"], found["priority"]["most"]) == (0.0, 4.0)
    masses = np.sqrt(drawn)
    assert found["effective_items"] == pytest.approx(sum(masses) ** 2 / sum(masses**2))
    assert found["priority_exponent"] == 0.5
    json.dumps(found, allow_nan=False)


def test_buffers_may_be_of_either_form() -> None:
    state = lived(UNEVEN, None, 200, 50).state_dict()
    wanted = describe_replay([state])
    if not isinstance(state["buffers"], Buffers):
        numbers = np.array(sorted(map(int, state["buffers"])), np.int64)
        arrays = [state["buffers"][str(number)] for number in numbers]
        state["buffers"] = Buffers(numbers, arrays)
    assert describe_replay([state]) == wanted
    assert wanted["priority"] is None


def test_shards_are_described_together() -> None:
    """Counts are added, what is told of items is told of those of all."""
    states = [lived(UNEVEN, Prioritized(0.5), 200, n, n).state_dict() for n in (60, 90, 150)]
    found, each = describe_replay(states, 1000), [describe_replay([s], 1000) for s in states]
    for name in ("items", "blocks", "waiting_blocks", "episodes", "running_episodes", "steps"):
        assert found[name] == sum(one[name] for one in each), name
    for name in ("bytes", "inserted_steps", "learned_steps"):
        assert found[name] == sum(one[name] for one in each), name
    assert found["counters"]["evicted_items"] == sum(s["counters"]["evicted_items"] for s in states)
    starts = [start for state in states for start in state["items"]["start"]]
    assert found["mid_episode_share"] == sum(s > 0 for s in starts) / len(starts)
    all_of, arrays = (
        inspection.replay_arrays(states),
        [inspection.replay_arrays([s]) for s in states],
    )
    assert all_of["priority"].tolist() == [p for one in arrays for p in one["priority"].tolist()]
    masses = np.sqrt(all_of["priority"])
    assert found["effective_items"] == pytest.approx(sum(masses) ** 2 / sum(masses**2))
    versions = [version for state in states for version in state["items"]["version"]]
    assert found["lag_updates"]["least"] == 1000 - max(versions)
    assert describe_replay(states)["lag_updates"]["least"] == 0, "behind the newest of all"
    for one, state in zip(arrays, states, strict=True):  # by its share of what was inserted
        ratio = found["inserted_steps"] / state["limiter"]["inserted"]
        one["age_env_steps"] = np.rint(one["age_env_steps"] * ratio)
    ages = np.concatenate([one["age_env_steps"] for one in arrays])
    assert all_of["age_env_steps"].tolist() == ages.tolist()


def test_an_empty_replay_has_no_distributions() -> None:
    found = describe_replay([make_replay(UNEVEN, sampler=Prioritized(0.5)).state_dict()])
    assert (found["items"], found["blocks"], found["effective_items"]) == (0, 0, 0)
    for name in ("age_env_steps", "lag_updates", "priority", "episode_steps"):
        assert found[name] is None
    assert found["mid_episode_share"] is None


def test_a_damaged_state_is_a_value_error() -> None:
    state = lived(UNEVEN, Prioritized(0.5), 200, 60).state_dict()
    rng = np.random.default_rng(1)
    refused: list[str] = []
    for part in ("items", "blocks", "sampler", "limiter", "counters", "buffers"):
        changes: list[Any] = [{k: v for k, v in state.items() if k != part}]
        changes += [{**state, part: value} for value in (None, 3, "text", [], {})]
        columns = state[part] if isinstance(state[part], dict) else {}
        for name, column in list(columns.items())[:12]:
            wrong: list[Any] = [None, "text", np.zeros(3), np.full(2, 2**62), np.array(-1)]
            if isinstance(column, np.ndarray) and column.ndim:
                wide = column.astype(np.float64 if column.dtype.kind == "f" else np.int64)
                wrong += [column[:-1], column[::-1], wide + 2**40, -1 - wide]
                wrong += [rng.integers(-(2**62), 2**62, column.shape)]
            changes += [{**state, part: {**columns, name: value}} for value in wrong]
        for changed in changes:
            try:
                with np.errstate(all="ignore"):
                    json.dumps(describe_replay([changed]))
            except ValueError as error:
                refused.append(str(error))
    assert len(refused) > 50
    assert [line for line in refused if not line.startswith("the saved replay is damaged")] == []


ROWS = [
    {"env_steps": 100 * i, "updates": 10 * i, "seconds": 2.0 * i, "actor/return_mean": float(i)}
    for i in range(1, 21)
]


def test_progress_is_read_from_the_rows() -> None:
    rows: list[dict[str, Any]] = [dict(row) for row in ROWS]
    rows[4]["evaluator/return_mean"] = 50.0
    rows[9]["evaluator/return_mean"] = 40.0
    rows[-1] |= {"seconds": 41.0, "actor/return_mean": None}
    found = describe_progress(rows)
    assert found == {
        "rows": 20,
        "env_steps": 2000,
        "updates": 200,
        "seconds": 41.0,
        "env_steps_per_second": 2000 / 41,
        "updates_per_second": 200 / 41,
        "lately_env_steps_per_second": 200 / (41 - 36),
        "lately_updates_per_second": 20 / (41 - 36),
        "greedy_return": 40.0,
        "best_return": 50.0,
        "training_return": 19.0,
        "final_return": None,
    }


def test_of_no_rows_or_strange_ones_little_is_known() -> None:
    assert describe_progress([])["env_steps"] is None
    assert describe_progress([{"env_steps": 5}])["env_steps_per_second"] is None
    strange = [{"env_steps": "many", "seconds": [1]}, {"env_steps": 3, "seconds": 0}]
    assert describe_progress(strange)["env_steps_per_second"] is None


def test_parameters_are_counted_by_layer() -> None:
    arrays = {"a.weight": np.zeros((3, 5)), "a.bias": np.zeros(3), "b.c.weight": np.zeros((2, 3))}
    found = describe_parameters({**arrays, "scale": np.zeros(())})
    assert found["numbers"] == 15 + 3 + 6 + 1
    assert [(each["name"], each["numbers"]) for each in found["layers"]] == [
        ("a", 18),
        ("b.c", 6),
        ("scale", 1),
    ]
    assert found["layers"][0]["shapes"] == {"weight": [3, 5], "bias": [3]}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(made("tests/Clock-v0").save(tmp_path / "run"))
    folder.write_status({"state": "finished", "env_steps": 2000})
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def test_a_run_without_a_full_checkpoint_is_described(run: RunFolder) -> None:
    found = inspection.inspect(run)
    assert found["problems"] == []
    assert found["status"] == {"state": "finished", "env_steps": 2000}
    assert found["progress"]["env_steps"] == 2000
    assert "burn_in = 8 (paper: 40)" in found["differences"]
    (only,) = found["checkpoints"]
    assert (only["name"], only["env_steps"], only["full"], only["damage"]) == (
        "last",
        123,
        False,
        None,
    )
    assert only["bytes"] == sum(file.stat().st_size for file in Path(only["path"]).iterdir())
    assert found["parameters"]["numbers"] > 1000
    assert (found["replay"], found["pictures"]) == (None, [])
    json.dumps(found, allow_nan=False)


def test_what_is_damaged_is_named_and_the_rest_is_shown(run: RunFolder) -> None:
    newer = checkpoint.save(
        run.checkpoints, "last", {"a.weight": np.zeros(3, np.float32)}, {"env_steps": 500}
    )
    (hurt,) = newer.glob("*.safetensors")
    data = bytearray(hurt.read_bytes())
    data[-1] ^= 1
    hurt.write_bytes(data)
    run.status_path.write_text("{half")
    run.metrics.write_text('{"env_steps": 1}\nnot json\n{"env_steps": 2}\n')
    found = inspection.inspect(run)
    first, second = found["checkpoints"]
    assert (first["env_steps"], second["env_steps"], second["damage"]) == (500, 123, None)
    assert str(hurt) in first["damage"]
    assert found["parameters"]["numbers"] > 1000, "of the newest sound one"
    assert (found["status"], found["progress"]) == (None, None)
    assert [problem.partition(",")[0].partition(":")[0] for problem in found["problems"]] == [
        str(run.status_path),
        str(run.metrics),
    ]
    assert "not json" not in str(found["config"])
    run.config_path.write_text('{"agent": "r2d2"}')
    found = inspection.inspect(run)
    assert found["problems"][0] == f"{run.config_path}: it lacks 'config'"
    assert found["config"] == {"agent": "r2d2"}
    run.config_path.write_text("[1]")
    assert "expected a JSON object" in inspection.inspect(run)["problems"][0]


def test_the_replay_of_the_newest_full_checkpoint_is_described_and_drawn(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = lived(UNEVEN, Prioritized(0.5), 200, 60).state_dict()
    parts = {"replay": state}
    monkeypatch.setattr(
        inspection,
        "_read",
        lambda path: {
            "path": path,
            "parameters": {},
            "meta": {"updates": 500},
            "state": {"parts": parts},
        },
    )
    found = inspection.inspect(run)
    name = Path(found["checkpoints"][0]["path"]).name
    assert found["checkpoints"][0]["full"]
    assert found["replay"] == {"checkpoint": name, **describe_replay([state], 500)}
    (picture,) = found["pictures"]
    assert picture == str(run.path / "inspect" / "replay.png")
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    Path(picture).unlink()
    assert inspection.inspect(run, pictures=False)["pictures"] == []
    assert not Path(picture).exists()
    shards = [lived(UNEVEN, Prioritized(0.5), 200, n, n).state_dict() for n in range(60, 71)]
    parts.clear()
    parts.update({f"replay/{k}": shards[k] for k in sorted(range(11), key=str)})
    found = inspection.inspect(run)
    assert found["replay"] == {"checkpoint": name, **describe_replay(shards, 500)}
    assert (len(found["pictures"]), found["problems"]) == (1, [])
    parts["replay"] = state
    del state["items"]
    found = inspection.inspect(run)
    assert found["replay"] is None
    (problem,) = found["problems"]
    assert problem.endswith("the saved replay is damaged: KeyError('items')")


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run"):
        inspection.inspect(tmp_path / "nothing")


def test_nothing_that_a_run_names_is_imported(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SECURITY.md: a stranger's run can be looked at before it is trusted."""
    (tmp_path / "planted.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.chdir(tmp_path)
    config = run.config()
    config["env"] = {"id": "planted:Trap-v0", "kwargs": {}}
    run.write_config({**config, "network": "planted:Network"})
    assert inspection.inspect(run)["problems"] == []
    with pytest.raises(SystemExit, match="it ran"):
        recollect.load(run)


def test_speeds_are_of_turns_and_not_of_the_evaluation_at_the_end() -> None:
    """A run with few rows took no steps between its last two: not 0 a second, lately."""
    last = {**ROWS[1], "seconds": 100.0, "final/return_mean": 3.0}
    found = describe_progress([*ROWS[:2], last])
    assert found["env_steps_per_second"] == found["lately_env_steps_per_second"] == 50.0
    assert "lately_env_steps_per_second" not in describe_progress([ROWS[1], last])
    assert describe_progress([*ROWS[:2], *[last] * 30])["lately_env_steps_per_second"] == 50.0
