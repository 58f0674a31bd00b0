"""What a random agent and a human get: the tables, and the games' names in every spelling."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

from recollect.types import ConfigError

STARTS = ("noop", "human")
VIDEO_PINBALL_RANDOM = (16256.9, 0.0)
"""What a random agent gets in Video Pinball from no-op starts: measured, and as Ape-X and R2D2 have
it, whose published means come out with 0 alone."""


class Reference(NamedTuple):
    """Undiscounted raw returns of one game."""

    random: float
    human: float


@dataclass(frozen=True)
class Table:
    """The games of a benchmark.

    Args:
        title: as a person calls it. game: what it calls a game. decimals: of its scores.
        sources: whose references they are, by starts; empty: it knows one kind of start.
        source: the same where it knows one kind.
        headline: which aggregates its papers quote.
    """

    name: str
    title: str
    game: str
    decimals: int
    headline: tuple[str, ...]
    sources: Mapping[str, str]
    source: str = ""

    def rows(self) -> dict[str, dict[str, str]]:
        """The cells of each game by column, games in the table's order."""
        return _rows(self.name)


TABLES = {
    "atari57": Table(
        "atari57",
        "Atari-57",
        "game",
        1,
        ("median", "mean", "above_human"),
        {
            "noop": "up to 30 no-ops, 108,000 frames; as DQN Zoo lists them",
            "human": "human starts, 49 games; the table of Nair et al. 2015 (Gorila)",
        },
    ),
    "dmlab30": Table(
        "dmlab30",
        "DMLab-30",
        "level",
        2,
        ("mean_capped", "median"),
        {},
        "as IMPALA's code lists them (scalable_agent, dmlab30.py)",
    ),
}


@cache
def _rows(name: str) -> dict[str, dict[str, str]]:
    text = resources.files("recollect.scores").joinpath(f"{name}.csv").read_text(encoding="utf-8")
    return {next(iter(row.values())): row for row in csv.DictReader(text.splitlines())}


def references(
    table: str, starts: str = "noop", video_pinball_random: float = VIDEO_PINBALL_RANDOM[0]
) -> dict[str, Reference]:
    """The references of every game of a table that has them, in the table's order.

    Args:
        table: a name in `TABLES`. starts: "noop" or "human"; DMLab has one kind, called "noop".
        video_pinball_random: one of `VIDEO_PINBALL_RANDOM`; with no-op starts alone.
    Raises:
        ConfigError: there are no such references.
    """
    if table not in TABLES:
        raise _nearest("table", table, TABLES)
    if starts not in STARTS:
        raise _nearest("starts", starts, STARTS)
    known = TABLES[table]
    if starts != "noop" and starts not in known.sources:
        raise ConfigError(f"{known.title} has no references for {starts} starts: leave starts out")
    if video_pinball_random not in VIDEO_PINBALL_RANDOM:
        wanted = " or ".join(f"{value:g}" for value in VIDEO_PINBALL_RANDOM)
        raise ConfigError(
            f"video pinball's random score is taken as {wanted}, got {video_pinball_random}"
        )
    prefix = "human_starts_" if starts == "human" else ""
    found = {
        game: Reference(float(row[prefix + "random"]), float(row[prefix + "human"]))
        for game, row in known.rows().items()
        if row[prefix + "random"]
    }
    if table == "atari57" and starts == "noop":
        found["video_pinball"] = found["video_pinball"]._replace(random=float(video_pinball_random))
    return found


def game_of(name: str, table: str) -> str:
    """The game that is meant: `pong`, `Pong`, `ALE/Pong-v5`, `PongNoFrameskip-v4` are `pong`.

    Raises:
        ConfigError: none is; the nearest one is named, or the table that has it.
    """
    meant = _spellings(table).get(_bare(name))
    if meant is None:
        for other, known in TABLES.items():
            if _bare(name) in _spellings(other):
                scored = TABLES[table]
                raise ConfigError(
                    f"{name} is a {known.game} of {known.title}, and scored are {scored.game}s of "
                    f"{scored.title}: put each table's scores into a file of its own"
                )
        raise _nearest(TABLES[table].game, name, TABLES[table].rows())
    return meant


def table_of(names: Iterable[str]) -> str:
    """The table that knows most of these names; Atari's where none does."""
    bare = [_bare(name) for name in names]
    return max(TABLES, key=lambda table: sum(name in _spellings(table) for name in bare))


@cache
def _spellings(table: str) -> dict[str, str]:
    found = {_bare(game): game for game in TABLES[table].rows()}
    if table == "atari57":
        found["montezumasrevenge"] = "montezuma_revenge"
    return found


def _bare(name: str) -> str:
    """Letters and digits of a name, without what says where it is from or which variant it is.

    Of DMLab's levels two are trained on as `..._train` and scored as `..._test`.
    """
    name = re.split(r"[/:]", name)[-1]
    name = re.sub(r"-v\d+$", "", name)
    name = re.sub(r"(NoFrameskip|Deterministic|_test|_train)$", "", name)
    return re.sub(r"[\W_]", "", name).lower()


def _nearest(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    from recollect.presets import nearest  # which imports torch, and is needed for errors alone

    return nearest(kind, name, known)
