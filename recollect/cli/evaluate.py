"""`recollect evaluate`: what a trained agent gets, as text or as one JSON object."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from recollect import evaluation
from recollect.cli import words
from recollect.cli.words import Option
from recollect.presets import nearest
from recollect.protocols import FRAME_CAP, PROTOCOLS

BOTH = "both"
MARGIN = 20
SECONDS_PER_LOOK = 0.5
OPTIONS = [
    Option("--protocol", "NAME", f"how to play: {', '.join(PROTOCOLS)}", default="greedy"),
    Option("--episodes", "N", "episodes to play", words.whole, shown="protocol"),
    Option("--seed", "N", "of the episodes' starts", words.whole, 1),
    Option("--which", "NAME", "last or best parameters, or both side by side", default="last"),
    Option("--epsilon", "X", "share of random actions", words.number, shown="protocol"),
    Option("--json", "", "the last line is one JSON object"),
    words.HELP,
]


def command(given: Sequence[str]) -> None:
    """Evaluate as the words after `evaluate` say.

    Raises:
        ConfigError: something is wrong with them, or with the run.
    """
    if words.wants_help(given):
        words.show_page(
            "evaluate RUN [OPTION ...]",
            "Plays whole episodes with a trained agent, and prints their raw undiscounted returns. "
            "A protocol sets what an Atari score depends on: " + "; ".join(_described()) + ".",
            {"what": [Option("RUN", "", "a run's folder"), *OPTIONS]},
        )
        return
    found = words.parse(
        "evaluate",
        given,
        OPTIONS,
        positional="RUN",
        required="evaluate needs a run: give its folder",
    )
    run, as_json = found.pop("RUN"), found.pop("json", False)
    which = found.pop("which")
    if which not in (*evaluation.WHICH, BOTH):
        raise nearest("parameters", which, (*evaluation.WHICH, BOTH))
    if which == BOTH:  # first the best, which a run may not have
        played = {name: _play(run, name, found) for name in ("best", "last")}
    else:
        played = {which: _play(run, which, found)}
    if as_json:
        print(json.dumps(_without_nan(played if which == BOTH else played[which]), allow_nan=False))
    else:
        print("\n".join(_summary(run, [played[name] for name in sorted(played, reverse=True)])))


def _play(run: str, which: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate, and count the episodes in one line of a terminal, which is gone at the end."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return evaluation.evaluate(run, which=which, **found)
    said_at = time.monotonic()

    def tell(done: int, total: int, steps: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= SECONDS_PER_LOOK:
            said_at = time.monotonic()
            line = f"{which}: {done:,} of {total:,} episodes, {steps:,} steps"
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        return evaluation.evaluate(run, which=which, told=tell, **found)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _described() -> list[str]:
    return [
        f"{each.name}, {each.episodes} episodes, epsilon {each.epsilon:g}"
        + (f", at most {each.env_kwargs[FRAME_CAP]:,} frames" if each.env_kwargs else "")
        for each in PROTOCOLS.values()
    ]


def _summary(run: str, played: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for a person: what was played, then a column for each set of parameters."""
    first = played[0]
    protocol = PROTOCOLS[first["protocol"]]
    count = f"{first['episodes']:,} episode{'' if first['episodes'] == 1 else 's'}"
    how = "greedy" if first["epsilon"] == 0 else f"epsilon {first['epsilon']:g}"
    if first["epsilon"] != protocol.epsilon:
        how += f" instead of {protocol.epsilon:g}"
    caps = [f"{first['frame_cap']:,} frames"] if first["frame_cap"] else []
    if not protocol.env_kwargs:
        caps.append(f"{first['step_cap']:,} steps")
    lines = [
        f"run                 {run}",
        *words.wrapped("protocol", f"{protocol.name}: {protocol.source}", MARGIN),
        *_environment(first["env"]),
        f"played              {count}, {how}, seed {first['seed']}",
        f"{'':{MARGIN}}at most {' or '.join(caps)} each",
    ]
    rows: dict[str, list[str]] = {
        "parameters": [f"{each['which']}, after {each['env_steps']:,} steps" for each in played],
        "mean return": [f"{each['return_mean']:,.2f}" for each in played],
        "95% interval": [_interval(*each["return_ci95"]) for each in played],
        "median": [f"{each['return_median']:,.2f}" for each in played],
        "interquartile mean": [f"{each['return_iqm']:,.2f}" for each in played],
    }
    width = max(len(cell) for cells in rows.values() for cell in cells)
    for name, cells in rows.items():
        if any(cells):
            lines.append(
                f"{name:{MARGIN}}{'  '.join(f'{cell:{width}}' for cell in cells)}".rstrip()
            )
    return lines


def _environment(env: Mapping[str, Any]) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in env["kwargs"].items())
    return [f"environment         {env['id']}", *words.wrapped("", settings, MARGIN)]


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:,.2f} to {high:,.2f}"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: the interval of one episode is null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
