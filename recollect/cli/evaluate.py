"""`recollect evaluate`: what a trained agent gets, as text or as one JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from recollect import evaluation
from recollect.cli import words
from recollect.cli.words import Option

OPTIONS = [
    Option("--episodes", "N", "episodes to play", words.whole, 20),
    Option("--seed", "N", "of the episodes' starts", words.whole, 1),
    Option("--which", "NAME", "last or best parameters", default="last"),
    Option("--epsilon", "X", "share of random actions; 0: greedy", words.number, 0.0),
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
            "Plays whole episodes with a trained agent, and prints their raw undiscounted returns.",
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
    figures = evaluation.evaluate(run, **found)
    if as_json:
        print(json.dumps(_without_nan(figures), allow_nan=False))
    else:
        print(_summary(run, figures, found["epsilon"]))


def _summary(run: str, figures: dict[str, Any], epsilon: float) -> str:
    low, high = figures["return_ci95"]
    interval = "" if math.isnan(low) else f"  (95% interval {low:,.2f} to {high:,.2f})"
    episodes = f"{figures['episodes']:,} episode{'' if figures['episodes'] == 1 else 's'}"
    how = "greedy" if epsilon == 0 else f"epsilon {epsilon:g}"
    return "\n".join(
        [
            f"run                 {run}",
            f"parameters          {figures['which']}, after {figures['env_steps']:,} steps",
            f"played              {episodes}, {how}, seed {figures['seed']}",
            f"mean return         {figures['return_mean']:,.2f}{interval}",
            f"median              {figures['return_median']:,.2f}",
            f"interquartile mean  {figures['return_iqm']:,.2f}",
        ]
    )


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: the interval of one episode is null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
