"""`recollect inspect`: what a run is, how it stands, and what lies in its replay."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from recollect import inspection
from recollect.cli import words
from recollect.cli.words import Option
from recollect.run.progress import size

OPTIONS = [
    Option("--no-pictures", "", "draw nothing into RUN/inspect"),
    Option("--json", "", "print one JSON object, with all that is known"),
    words.HELP,
]
MARGIN = 13
"""Columns of what a line is about."""

COLUMNS = ("least", "p10", "median", "p90", "most")


def command(given: Sequence[str]) -> None:
    """Inspect as the words after `inspect` say.

    Raises:
        ConfigError: something is wrong with them, or there is no such run.
    """
    if words.wants_help(given):
        words.show_page(
            "inspect RUN [OPTION ...]",
            "Shows what a run is and how it stands: its settings against the paper's, its "
            "progress, its checkpoints, each read through and named if it is damaged, the size "
            "of its network, and what lies in the replay of the newest full checkpoint.",
            {"what": [Option("RUN", "", "a run's folder"), *OPTIONS]},
        )
        return
    found = words.parse(
        "inspect",
        given,
        OPTIONS,
        positional="RUN",
        required="inspect needs a run: give its folder",
    )
    facts = inspection.inspect(found["RUN"], pictures=not found.get("no_pictures", False))
    if found.get("json", False):
        print(json.dumps(_plain(facts), allow_nan=False))
    else:
        print("\n".join(text(facts)))


def text(facts: dict[str, Any]) -> list[str]:
    """The lines a person reads."""
    lines = [*_about(facts), *_progress(facts["progress"]), *_checkpoints(facts["checkpoints"])]
    if facts["parameters"]:
        lines += _parameters(facts["parameters"])
    if facts["replay"]:
        lines += _replay(facts["replay"])
    elif not any(entry["full"] for entry in facts["checkpoints"]):
        lines.append(_line("replay", "no full checkpoint, so what lay in it is not known"))
    lines += [_line("picture", path) for path in facts["pictures"]]
    lines += [_line("PROBLEM", problem) for problem in facts["problems"]]
    return lines


def _line(name: str, rest: str) -> str:
    return f"{name:{MARGIN}}{rest}".rstrip()


def _about(facts: dict[str, Any]) -> list[str]:
    config, lines = facts["config"], [_line("run", facts["run"])]
    if config:
        env = config.get("env")
        name = env.get("id", "?") if isinstance(env, dict) else "?"
        kwargs = env.get("kwargs") if isinstance(env, dict) else None
        shown = f"{config.get('agent', '?')} on {name}, seed {config.get('seed', '?')}"
        lines.append(_line("agent", shown))
        if kwargs:
            lines.append(_line("", f"environment's arguments {json.dumps(kwargs)}"))
        if config.get("network"):
            lines.append(_line("network", str(config["network"])))
        steps = config.get("env_steps")
        if isinstance(steps, int):
            preset = f", preset {config['preset']}" if config.get("preset") else ""
            lines.append(_line("asked for", f"{steps:,} environment steps{preset}"))
    lines.append(_line("status", _status(facts["status"])))
    running = bool(facts["status"]) and facts["status"].get("state") == "running"
    if facts["owner"] is not None:
        lines.append(_line("", f"process {facts['owner'].get('pid', '?')} works on it"))
    elif running:
        lines.append(_line("", "but nobody works on it: it was killed; go on with:"))
        lines.append(_line("", f"  {words.again('resume', facts['run'])}"))
    changed = facts["differences"]
    if changed:
        lines.append(_line("settings", f"{len(changed)} differ from the paper's"))
        lines += [_line("", f"  {line}") for line in changed]
    return lines


def _status(status: dict[str, Any] | None) -> str:
    if status is None:
        return "cannot be read"
    if not status:
        return "none: it has not begun, or was killed at once"
    state, steps, total = (status.get(key) for key in ("state", "env_steps", "total_env_steps"))
    known = [str(state)]
    if isinstance(steps, int):
        known.append(f"{steps:,} steps" + (f" of {total:,}" if isinstance(total, int) else ""))
    if "written" in status:
        known.append(f"as of {status['written']}")
    return ", ".join(known)


def _progress(progress: dict[str, Any] | None) -> list[str]:
    if not progress:
        return [_line("progress", "cannot be read")]
    if not progress["rows"]:
        return [_line("progress", "no rows of metrics")]
    known = [
        f"{_number(progress[name])} {unit}"
        for name, unit in (
            ("env_steps", "environment steps"),
            ("updates", "updates"),
            ("seconds", "s"),
        )
        if progress[name] is not None
    ]
    lines = [_line("last row", ", ".join(known))]
    for prefix, name in (("", "speed"), ("lately_", "lately")):
        speeds = [
            f"{progress[key]:,.{0 if progress[key] >= 10 else 2}f} {unit}/s"
            for key, unit in (
                (f"{prefix}env_steps_per_second", "steps"),
                (f"{prefix}updates_per_second", "updates"),
            )
            if progress.get(key) is not None
        ]
        if speeds:
            lines.append(_line(name, ", ".join(speeds)))
    returns = [
        f"{name} {_number(progress[f'{key}_return'])}"
        for key, name in (
            ("final", "after training"),
            ("greedy", "last evaluation"),
            ("best", "best evaluation"),
            ("training", "training"),
        )
        if progress[f"{key}_return"] is not None
    ]
    return [*lines, _line("return", ", ".join(returns) or "none yet")]


def _checkpoints(checkpoints: list[dict[str, Any]]) -> list[str]:
    lines = []
    for entry in checkpoints:
        what = "full: a run can go on from it" if entry["full"] else "parameters alone"
        if entry["damage"]:
            what = f"DAMAGED: {entry['damage']}"
        steps = f"{entry['env_steps']:,} steps"
        lines.append(f"{entry['name']:6}{steps:>18}{size(entry['bytes']):>10}  {what}")
    first, *rest = lines or ["none"]
    return [_line("checkpoints", first), *(_line("", line) for line in rest)]


def _parameters(parameters: dict[str, Any]) -> list[str]:
    lines = [_line("parameters", f"{parameters['numbers']:,} numbers")]
    for layer in parameters["layers"]:
        shapes = [" x ".join(map(str, each)) for each in layer["shapes"].values() if each[1:]]
        lines.append(_line("", f"{layer['numbers']:12,}  {layer['name']:20}  {', '.join(shapes)}"))
    return lines


def _replay(replay: dict[str, Any]) -> list[str]:
    shards = f", {replay['shards']} shards together" if replay["shards"] > 1 else ""
    lines = [
        _line("replay", f"of {replay['checkpoint']}{shards}"),
        _line(
            "",
            f"{replay['items']:,} items over {replay['steps']:,} steps in {replay['blocks']:,} "
            f"blocks ({replay['waiting_blocks']:,} wait for their items), {size(replay['bytes'])}",
        ),
        _line(
            "",
            f"{replay['episodes']:,} episodes, {replay['running_episodes']:,} of them running",
        ),
    ]
    inserted, learned = replay["inserted_steps"], replay["learned_steps"]
    each = f" ({learned / inserted:.3g} times each)" if inserted else ""
    lines.append(_line("", f"{inserted:,} steps inserted so far, {learned:,} learned{each}"))
    shares = [
        f"{replay[key]:.1%} {what}"
        for key, what in (
            ("mid_episode_share", "of the items begin in mid-episode"),
            ("prefix_share", "have a burn-in"),
            ("priority_zero_share", "have priority 0"),
        )
        if replay.get(key) is not None
    ]
    if shares:
        lines.append(_line("", ", ".join(shares)))
    if replay.get("effective_items") is not None:
        lines.append(
            _line(
                "",
                f"drawn as if from {replay['effective_items']:,.0f} of {replay['items']:,} "
                f"items evenly (priority to the {replay['priority_exponent']:g})",
            )
        )
    lines.append(_line("", f"{'':28}" + "".join(f"{name:>11}" for name in COLUMNS)))
    for key, what in (
        ("age_env_steps", "age, environment steps"),
        ("lag_updates", "policy's age, updates"),
        ("priority", "priority"),
        ("episode_steps", "steps of ended episodes"),
    ):
        if replay[key]:
            row = "".join(f"{_number(replay[key][name]):>11}" for name in COLUMNS)
            lines.append(_line("", f"{what:28}{row}"))
    return lines


def _number(value: Any) -> str:
    """A number as people read it; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinities: they are null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
