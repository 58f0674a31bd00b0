"""What a run is, how it stands, what lies in its replay; what is damaged is named, not hidden."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recollect import presets
from recollect.run import checkpoint
from recollect.run.folder import RunFolder, reason
from recollect.run.metrics import read_metrics
from recollect.run.replay_picture import draw
from recollect.run.standing import status_and_owner
from recollect.types import ActionSpec, Array, Buffers, ConfigError, EnvSpec

GREEDY, TRAINING, FINAL = "evaluator/return_mean", "actor/return_mean", "final/return_mean"
DAMAGE = (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError)
"""What reading a state raises whose arrays are not those they should be."""
LATELY = 0.1
"""Share of the rows, the newest, that say how fast a run is lately."""

_CHECKPOINT = re.compile(r"([a-z][a-z0-9_]*)-([0-9]{1,18})-[0-9a-f]{16}")


def inspect(run: Any, *, pictures: bool = True) -> dict[str, Any]:
    """All that a run's folder tells, as JSON can hold it.

    Every file of every checkpoint is read through.

    Args:
        run: a run, or its folder.
        pictures: draw what lies in replay into `inspect/` in the folder.
    Returns:
        `run`; `config`, as config.json has it; `differences` from the paper's settings, a line
        each; `status`, as status.json has it; `progress`, see `describe_progress`; `checkpoints`,
        newest first: name, path, env_steps, bytes, full (a run can go on from it) and damage;
        `parameters` of the newest, see `describe_parameters`; `replay` of the newest full one, see
        `describe_replay`; `pictures` written; `problems`, a line each. What cannot be read, or is
        not there, is None.
    Raises:
        ConfigError: no such run.
        OSError: a picture could not be written.
    """
    folder = RunFolder.open(Path(getattr(run, "folder", run)))
    problems: list[str] = []
    found: dict[str, Any] = {"run": str(folder.path), "config": {}, "differences": []}
    try:
        found["config"] = folder.config()
        found["differences"] = _differences(found["config"])
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(_said(folder.config_path, error))
    found["status"] = found["owner"] = None
    try:
        found["status"], found["owner"] = status_and_owner(folder)
    except (OSError, ValueError) as error:
        problems.append(_said(folder.status_path, error))
    found["progress"] = None
    try:
        rows = read_metrics(folder.metrics) if folder.metrics.exists() else []
        found["progress"] = describe_progress(rows)
    except (OSError, ValueError) as error:
        problems.append(_said(folder.metrics, error))
    listed, read = _checkpoints(folder.checkpoints)
    found["checkpoints"] = listed
    found["parameters"] = describe_parameters(read["parameters"]) if read else None
    found["replay"], found["pictures"] = None, []
    if read.get("state") is not None:
        try:
            shards = _shards(read["state"]["parts"])
            updates = read["meta"].get("updates")
            found["replay"] = {
                "checkpoint": read["path"].name,
                **describe_replay(shards, updates),
            }
            if pictures:
                out = folder.path / "inspect" / "replay.png"
                out.parent.mkdir(exist_ok=True)
                draw(replay_arrays(shards, updates), out, f"replay of {read['path'].name}")
                found["pictures"].append(str(out))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(_said(read["path"], error))
    found["problems"] = problems
    return found


def describe_progress(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far a run is and how fast, from its rows of metrics.

    Returns:
        `rows`, and of the last one `env_steps`, `updates`, `seconds`; `env_steps_per_second` and
        `updates_per_second`, of the newest tenth of the rows also with `lately_` before;
        `greedy_return`, `training_return`, `final_return`: the last there is; `best_return`, the
        largest greedy one. What is not known is None.
    """
    last = rows[-1] if rows else {}
    # Of turns alone: the rows of a run's end tell of an evaluation, in which no steps are taken.
    turns = list(rows)
    while len(turns) > 1 and turns[-1].get("env_steps") == turns[-2].get("env_steps"):
        turns.pop()
    found: dict[str, Any] = {"rows": len(rows)}
    for name in ("env_steps", "updates", "seconds"):
        found[name] = last.get(name)
    spans = {"": {"seconds": 0, "env_steps": 0, "updates": 0}}
    if len(turns) > 1:
        spans["lately_"] = turns[-1 - max(1, int(len(turns) * LATELY))]
    for prefix, since in spans.items():
        for name in ("env_steps", "updates"):
            found[f"{prefix}{name}_per_second"] = _rate(since, turns[-1] if turns else {}, name)
    for key, name in (("greedy", GREEDY), ("training", TRAINING), ("final", FINAL)):
        found[f"{key}_return"] = next(reversed(_numbers(rows, name)), None)
    found["best_return"] = max(_numbers(rows, GREEDY), default=None)
    return found


def describe_parameters(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """`numbers` in all, and `layers`: name, numbers, and the shapes of its arrays by name."""
    layers: dict[str, dict[str, list[int]]] = {}
    for name, array in arrays.items():
        layer, _, own = name.rpartition(".")
        layers.setdefault(layer or own, {})[own] = list(array.shape)
    listed = [
        {
            "name": layer,
            "numbers": sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()),
            "shapes": shapes,
        }
        for layer, shapes in layers.items()
    ]
    return {"numbers": sum(int(array.size) for array in arrays.values()), "layers": listed}


def describe_replay(
    shards: Sequence[Mapping[str, Any]], updates: int | None = None
) -> dict[str, Any]:
    """What lies in replay, from the `Replay.state_dict()` of each of its shards, all together.

    Args:
        shards: likewise, one or more; nothing in them is trusted.
        updates: the learner's, where they are known; None: the newest version that acted.
    Returns:
        Counts: `shards`, `items`, `blocks`, `waiting_blocks` (that no item covers), `episodes`,
        `running_episodes`, `steps`, `bytes` as replay counts them, `inserted_steps`,
        `learned_steps`, and replay's own `counters`. Shares of items: `mid_episode_share` (windows
        that do not begin an episode), `prefix_share` (with a burn-in). Distributions, each `least`,
        `p10`, `median`, `p90`, `most`, `mean`, or None of nothing: `age_env_steps` (steps inserted
        after an item's last block), `lag_updates` (behind the newest parameters), `priority` (None
        where draws are uniform), `episode_steps` (of ended episodes). Of priorities also
        `priority_exponent`, `priority_zero_share`, and `effective_items`: (sum P)^2 / sum P^2, how
        many items would be drawn as unevenly if these were drawn evenly.
    Raises:
        ValueError: the state is damaged.
    """
    from recollect.replay.contents import BLOCK_OVERHEAD, ITEM_OVERHEAD  # loads numba

    arrays = replay_arrays(shards, updates)
    try:
        found: dict[str, Any] = {"shards": len(shards)} | _added(map(_counts, shards))
        counters = [{name: int(n) for name, n in state["counters"].items()} for state in shards]
        ended = len(arrays["episode_steps"])
        found |= {
            "waiting_blocks": int(arrays["waiting"].sum()),
            "running_episodes": found["episodes"] - ended,
            "bytes": found["bytes"]
            + found["blocks"] * BLOCK_OVERHEAD
            + found["items"] * ITEM_OVERHEAD,
            "counters": _added(counters),
        }
        for name, column in (("mid_episode_share", "start"), ("prefix_share", "prefix")):
            found[name] = _share(np.concatenate([s["items"][column] for s in shards]) > 0)
        for name in ("age_env_steps", "lag_updates", "priority", "episode_steps"):
            found[name] = distribution(arrays[name]) if name in arrays else None
        if "priority" in arrays:
            masses = arrays["mass"]
            found["priority_exponent"] = float(shards[0]["sampler"]["exponent"])
            found["priority_zero_share"] = _share(masses == 0)
            square = float((masses**2).sum())
            found["effective_items"] = float(masses.sum()) ** 2 / square if square else 0.0
        return found
    except DAMAGE as error:
        raise _damaged(error) from error


def _counts(state: Mapping[str, Any]) -> dict[str, int]:
    """Of one shard."""
    items, blocks, limiter = state["items"], state["blocks"], state["limiter"]
    return {
        "items": len(items["uid"]),
        "blocks": len(blocks["steps"]),
        "episodes": len(np.unique(blocks["episode"])),
        "steps": int(np.sum(blocks["steps"])),
        "bytes": sum(array.nbytes for array in _buffers(state["buffers"])),
        "inserted_steps": int(limiter["inserted"]),
        "learned_steps": int(limiter["learned"]),
    }


def _added(several: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of counts, by name."""
    total: Counter[str] = Counter()
    for counts in several:
        total.update(counts)
    return dict(total)


def replay_arrays(
    shards: Sequence[Mapping[str, Any]], updates: int | None = None
) -> dict[str, Array]:
    """What `describe_replay` sums up, by name; arguments as there.

    A shard does not know when the others' blocks came: with several, its items' ages in its own
    steps are stretched to the steps of all, of which each takes an even share.

    Returns:
        [items] `age_env_steps`, `lag_updates`, and where draws go by priority `priority` and
        `mass`, which is it to its exponent; [ended episodes] `episode_steps`; [blocks] bool
        `waiting`.
    Raises:
        ValueError: the state is damaged.
    """
    try:
        each = [_arrays(state) for state in shards]
        found = {name: np.concatenate([arrays[name] for arrays in each]) for name in each[0]}
        if len(shards) > 1:
            inserted = [max(1, int(state["limiter"]["inserted"])) for state in shards]
            own = np.repeat(inserted, [len(arrays["age_env_steps"]) for arrays in each])
            found["age_env_steps"] = np.rint(found["age_env_steps"] * (sum(inserted) / own))
        versions = found.pop("version")
        found["lag_updates"] = max(updates or 0, int(versions.max(initial=0))) - versions
        return found
    except DAMAGE as error:
        raise _damaged(error) from error


def _arrays(state: Mapping[str, Any]) -> dict[str, Array]:
    """Of one shard; [items] `version` stands for the lag."""
    items = {name: np.asarray(column) for name, column in state["items"].items()}
    blocks = {name: np.asarray(column, np.int64) for name, column in state["blocks"].items()}
    ended, steps, index = blocks["last"] != 0, blocks["steps"], blocks["index"]
    # All but an episode's last block have a whole period of steps.
    period = int(steps[~ended].max() if (~ended).any() else steps.max(initial=1))
    # Blocks by episode and time, and the place where an episode's block 0 would be.
    order = np.lexsort((index, blocks["episode"]))
    episodes, begins = np.unique(blocks["episode"][order], return_index=True)
    origin = begins - index[order][begins]
    mine = np.searchsorted(episodes, items["episode"])
    if (mine >= len(episodes)).any() or (episodes[mine] != items["episode"]).any():
        raise ValueError("an item's episode has no blocks")
    stop = items["start"] + items["learned"] + items["tail"]
    first = origin[mine] + (items["start"] - items["prefix"]) // period
    last = origin[mine] + (stop - 1) // period
    if (first < begins[mine]).any() or (last >= np.append(begins, len(order))[mine + 1]).any():
        raise ValueError("an item's blocks are not there")
    covers = np.zeros(len(order) + 1, np.int64)
    np.add.at(covers, first, 1)
    np.add.at(covers, last + 1, -1)
    waiting = np.empty(len(order), bool)
    waiting[order] = np.cumsum(covers[:-1]) == 0
    by_time = np.argsort(blocks["serial"])
    later = np.empty(len(steps), np.int64)  # steps inserted after each block
    later[by_time] = steps.sum() - np.cumsum(steps[by_time])
    found = {
        "age_env_steps": later[order[last]],
        "version": np.asarray(items["version"], np.int64),
        "episode_steps": index[ended] * period + steps[ended],
        "waiting": waiting,
    }
    sampler = state["sampler"]
    if "values" in sampler:
        found["mass"] = np.asarray(sampler["values"], np.float64)[items["row"]]
        exponent = float(sampler["exponent"])
        found["priority"] = found["mass"] ** (1 / exponent) if exponent else found["mass"]
    return found


def distribution(values: Array) -> dict[str, float] | None:
    """`least`, `p10`, `median`, `p90`, `most` and `mean` of [N]; None if N is 0."""
    if not len(values):
        return None
    names = ("least", "p10", "median", "p90", "most")
    quantiles = np.quantile(values, (0, 0.1, 0.5, 0.9, 1)).tolist()
    return {**dict(zip(names, quantiles, strict=True)), "mean": float(values.mean())}


def _differences(config: dict[str, Any]) -> list[str]:
    name = config["agent"]
    settings = presets.from_dict(presets.agent(name).config, config["config"])
    # Of the environment only the name: a stranger's run must not have its modules imported.
    env = EnvSpec(str(config["env"]["id"]), {}, {}, ActionSpec(1))
    found = presets.differences(name, settings, env)
    return [
        f"{field} = {value} (paper: {published})"
        for field, value, published in found
        if field != "frame_stack"  # the paper's goes by the observation
    ]


def _checkpoints(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every checkpoint, newest first, and what was read of the newest sound one, full if any is."""
    listed: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    for path in sorted(folder.iterdir() if folder.is_dir() else (), key=_age, reverse=True):
        named = _CHECKPOINT.fullmatch(path.name)
        if named is None:
            continue
        entry: dict[str, Any] = {"name": named[1], "path": str(path), "env_steps": int(named[2])}
        entry |= {"bytes": _bytes(path), "full": False, "damage": None}
        try:
            read = _read(path)
            entry["full"] = read["state"] is not None
            if not best or (entry["full"] and best["state"] is None):
                best = read
        except (checkpoint.CheckpointError, OSError) as error:
            entry["damage"] = reason(error)
        listed.append(entry)
    return listed, best


def _read(path: Path) -> dict[str, Any]:
    read = checkpoint.load(path)
    return {
        "path": path,
        "parameters": read.parameters,
        "meta": read.meta,
        "state": read.state,
    }


def _age(path: Path) -> tuple[int, float]:
    named = _CHECKPOINT.fullmatch(path.name)
    return (int(named[2]) if named else -1, path.lstat().st_mtime)


def _bytes(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.iterdir()) if path.is_dir() else 0


def _shards(parts: Mapping[str, Any]) -> list[Any]:
    """The states of replay's parts: `replay`, or `replay/0` and those after it."""
    if "replay" in parts:
        return [parts["replay"]]
    number = sum(name.startswith("replay/") for name in parts)
    return [parts[f"replay/{k}"] for k in range(max(1, number))]


def _buffers(buffers: Any) -> Iterable[Array]:
    return buffers.arrays if isinstance(buffers, Buffers) else buffers.values()


def _numbers(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if isinstance(row.get(name), int | float)]


def _rate(since: Mapping[str, Any], last: Mapping[str, Any], name: str) -> float | None:
    """`name` a second between two rows, if both say so."""
    numbers = [row.get(key) for row in (since, last) for key in ("seconds", name)]
    if not all(isinstance(number, int | float) for number in numbers):
        return None
    seconds_before, before, seconds, after = (float(number or 0) for number in numbers)
    return (after - before) / (seconds - seconds_before) if seconds > seconds_before else None


def _share(mask: Array) -> float | None:
    return float(mask.mean()) if len(mask) else None


def _damaged(error: Exception) -> ValueError:
    what = str(error) if isinstance(error, ValueError) else repr(error)
    return ValueError(f"the saved replay is damaged: {what}")


def _said(path: Path, error: Exception) -> str:
    """One line that names the file."""
    what = reason(error) if isinstance(error, ValueError | OSError) else f"it lacks {error}"
    return what if str(path) in what else f"{path}: {what}"
