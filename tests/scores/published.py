"""The published scores beside this file: Gorila's and Ape-X's tables, and Table 4 and 3 of R2D2."""

from __future__ import annotations

import csv
from pathlib import Path

HERE = Path(__file__).parent
ATARI, DMLAB = HERE / "atari57_published.csv", HERE / "dmlab30_published.csv"


def column(path: Path, name: str) -> dict[str, float]:
    """The scores of one agent by game; games it has none of are left out."""
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return {next(iter(row.values())): float(row[name]) for row in rows if row[name]}
