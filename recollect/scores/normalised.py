"""Human-normalised scores: 100 (x - random) / (human - random) of each game, and their aggregates.

`references` has the random and the human scores.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recollect.scores import reading
from recollect.scores.reading import Entry
from recollect.scores.references import (
    TABLES,
    VIDEO_PINBALL_RANDOM,
    Reference,
    game_of,
    references,
    table_of,
)
from recollect.types import ConfigError, shown

SCORED = "final evaluation: greedy, last parameters, the run's own environment"


def human_normalised(
    scores: Any,
    table: str = "auto",
    starts: str = "noop",
    video_pinball_random: float = VIDEO_PINBALL_RANDOM[0],
    column: str | None = None,
) -> dict[str, Any]:
    """100 (x - random) / (human - random) of each game's score x, in percent, and the aggregates.

    Args:
        scores: undiscounted raw returns by game; or a file of them (a JSON object, or CSV with a
            header); or a finished run, its folder, or several: several runs of one game count as
            their mean. Games may be spelt as in `ALE/Pong-v5`.
        table: "atari57" or "dmlab30"; "auto": the one that knows the games.
        starts: of Atari's episodes, "noop" or "human" (where 49 games have references).
        video_pinball_random: 16256.9 as measured, or 0 as in the means that Ape-X, IMPALA and R2D2
            report; with no-op starts alone.
        column: of a CSV file of several columns.
    Returns:
        `scored`, what of a run is scored, None otherwise; `table`, `starts` and `references`, whose
        they are; `games`: of each its `score`, `random`,
        `human`, `normalised` and how many `runs`; `median`, `mean` and `mean_capped` (each game at
        100 at most) of `normalised`; `above_human`, how many scores are above the human one; over
        `n` games `of` the table's; those `missing`, and those `left_out`, which have no reference
        with these starts; `means`, the mean with either random score of Video Pinball, where that
        matters.
    Raises:
        ConfigError: a score is no finite number, its game unknown or given twice, or there is none.
    Source: Mnih et al. 2015, the formula; capped mean: Espeholt et al. 2018 (IMPALA).
    """
    entries = _entries(scores, column)
    if table == "auto":
        table = table_of(entry.name for entry in entries)
    known = references(table, starts, video_pinball_random)
    given = _by_game(entries, table, averaged=_are_runs(scores))
    found = {game: given[game] for game in known if game in given}
    if not found:
        raise ConfigError(
            f"there is no score of a {TABLES[table].game} of {TABLES[table].title} that has a "
            f"reference with {starts} starts"
        )
    games = {game: _game(known[game], values) for game, values in found.items()}
    values = [game["normalised"] for game in games.values()]
    return {
        "scored": SCORED if _are_runs(scores) else None,
        "table": table,
        "starts": starts if TABLES[table].sources else None,
        "references": TABLES[table].sources.get(starts, TABLES[table].source),
        "games": games,
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "mean_capped": statistics.fmean(min(value, 100.0) for value in values),
        "above_human": sum(game["score"] > game["human"] for game in games.values()),
        "n": len(games),
        "of": len(TABLES[table].rows()),
        "missing": [game for game in TABLES[table].rows() if game not in given],
        "left_out": [game for game in given if game not in known],
        "means": _means(games) if table == "atari57" and starts == "noop" else {},
    }


def _paths(scores: Any) -> list[Path]:
    several = isinstance(scores, Sequence) and not isinstance(scores, str)
    return [Path(getattr(each, "folder", each)) for each in (scores if several else [scores])]


def _are_runs(scores: Any) -> bool:
    return not isinstance(scores, Mapping) and all(path.is_dir() for path in _paths(scores))


def _entries(scores: Any, column: str | None) -> list[Entry]:
    if isinstance(scores, Mapping):
        return reading.from_mapping(scores)
    paths = _paths(scores)
    if not _are_runs(scores):
        if len(paths) > 1:
            names = shown(" ".join(map(str, paths)))
            raise ConfigError(f"wanted one file of scores, or folders of runs, got {names}")
        return reading.from_file(paths[0], column)
    if column is not None:
        raise ConfigError("a run has no columns: leave column out")
    return reading.from_runs(paths)


def _by_game(entries: Sequence[Entry], table: str, averaged: bool) -> dict[str, list[float]]:
    """The scores of each game; several only where they are `averaged`."""
    found: dict[str, list[float]] = {}
    first: dict[str, Entry] = {}
    for entry in entries:
        try:
            game = game_of(entry.name, table)
        except ConfigError as error:
            raise ConfigError(f"{entry.where}: {error}") from error
        if game in first and not averaged:
            here, there = shown(entry.name), shown(first[game].name)
            raise ConfigError(
                f"{entry.where}: {here} is {game}, which {first[game].where} has as {there}: "
                "leave one out"
            )
        first.setdefault(game, entry)
        found.setdefault(game, []).append(entry.score)
    return found


def _game(reference: Reference, scores: list[float]) -> dict[str, float]:
    score = statistics.fmean(scores)
    return {
        "score": score,
        "random": reference.random,
        "human": reference.human,
        "normalised": _normalised(score, reference),
        "runs": len(scores),
    }


def _normalised(score: float, reference: Reference) -> float:
    return 100.0 * (score - reference.random) / (reference.human - reference.random)


def _means(games: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean with either random score of Video Pinball, by that score; empty without the game."""
    pinball = games.get("video_pinball")
    if pinball is None:
        return {}
    rest = [games[game]["normalised"] for game in games if game != "video_pinball"]
    return {
        f"{random:g}": statistics.fmean(
            [*rest, _normalised(pinball["score"], Reference(random, pinball["human"]))]
        )
        for random in VIDEO_PINBALL_RANDOM
    }
