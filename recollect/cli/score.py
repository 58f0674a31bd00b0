"""`recollect score`: human-normalised scores, as a table or as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from recollect.cli import words
from recollect.cli.words import Option
from recollect.scores.normalised import human_normalised
from recollect.scores.references import STARTS, TABLES, VIDEO_PINBALL_RANDOM

OPTIONS = [
    Option("--table", "NAME", f"auto or {' or '.join(TABLES)}; auto: by the games", default="auto"),
    Option("--starts", "NAME", f"Atari references: {' or '.join(STARTS)}", default=STARTS[0]),
    Option(
        "--video-pinball",
        "X",
        "its random score: 16256.9 as measured, or 0 as in the means of Ape-X and R2D2",
        words.number,
        VIDEO_PINBALL_RANDOM[0],
    ),
    Option("--column", "NAME", "of a CSV file with several columns of scores"),
    Option("--json", "", "the last line is one JSON object"),
    words.HELP,
]
WANTED = "score needs a file of scores by game, or the folders of finished runs"
MARGIN = 16


def command(given: Sequence[str]) -> None:
    """Score as the words after `score` say.

    Raises:
        ConfigError: something is wrong with them, or with a score.
    """
    if words.wants_help(given):
        words.show_page(
            "score FILE [OPTION ...]",
            "Sets raw returns against those of a random agent (0%) and a human (100%). FILE is "
            'JSON as in {"pong": 20.9, "ALE/Qbert-v5": 15000}, or CSV that begins with a line such '
            "as game,score. Instead of a file, folders of finished runs: each run's final "
            "evaluation counts, several runs of one game as their mean.",
            {"what": [Option("FILE", "", "of scores, or RUN..."), *OPTIONS]},
        )
        return
    found = words.parse("score", given, OPTIONS, positional="FILE", many=True, required=WANTED)
    files = found.pop("FILE")
    as_json, pinball = found.pop("json", False), found.pop("video_pinball")
    figures = human_normalised(files, video_pinball_random=pinball, **found)
    if as_json:
        print(json.dumps(figures, allow_nan=False))
        return
    shown = ", ".join(files) if len(files) <= 3 else f"{files[0]} and {len(files) - 1} more"
    column = f", column {found['column']}" if "column" in found else ""
    print("\n".join(summary(shown + column, figures, pinball)))


def summary(scored: str, figures: Mapping[str, Any], pinball: float) -> list[str]:
    """Lines for a person.

    Args:
        scored: where the scores are from. figures: as `human_normalised` gives them.
        pinball: Video Pinball's random score in them.
    """
    table = TABLES[figures["table"]]
    rows: list[tuple[str, ...]] = [(table.game, "score", "random", "human", "normalised")]
    for game, row in figures["games"].items():
        name = game if row["runs"] == 1 else f"{game} ({row['runs']} runs)"
        numbers = (f"{row[key]:,.{table.decimals}f}" for key in ("score", "random", "human"))
        rows.append((name, *numbers, f"{row['normalised']:,.1f}%"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{'scores':{MARGIN}}{scored}"]
    if figures["scored"]:
        lines.append(f"{'':{MARGIN}}{figures['scored']}")
    lines += [f"{'references':{MARGIN}}{table.title}: {figures['references']}", ""]
    for first, *rest in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([f"{first:{widths[0]}}", *cells]))
    n, of = figures["n"], figures["of"]
    over = f"{n} of {of} {table.game}s"
    lines += ["", f"{table.game + 's':{MARGIN}}{n} of {of}"]
    for name in table.headline:
        lines += _aggregate(name, figures, "" if n == of else f"over {over}", pinball)
    return lines + _remarks(figures)


def _aggregate(name: str, figures: Mapping[str, Any], over: str, pinball: float) -> list[str]:
    """The lines of one aggregate: of the mean two, where Video Pinball matters."""
    label, over = f"{name.replace('_', ' '):{MARGIN}}", f"   {over}" if over else ""
    if name == "above_human":
        return [f"{label}{figures[name]} of {figures['n']}"]
    lines = [f"{label}{figures[name]:,.1f}%{over}"]
    if name == "mean" and figures["means"]:
        chosen = f"{pinball:g}"
        lines[0] += f"   with video_pinball's random score {chosen}"
        lines += [
            f"{'':{MARGIN}}{mean:,.1f}%{over}   with {random}"
            for random, mean in figures["means"].items()
            if random != chosen
        ]
    return lines


def _remarks(figures: Mapping[str, Any]) -> list[str]:
    """Which games the aggregates are not over, and where they mean less than they seem to."""
    lines: list[str] = []
    for label, names in (("missing", figures["missing"]), ("no reference", figures["left_out"])):
        lines += words.wrapped(label, ", ".join(names), MARGIN)
    for name, row in figures["games"].items():
        if row["human"] < row["random"]:
            lines.append(f"{'note':{MARGIN}}{name}: human is below random, so more counts less")
    return lines
