"""`recollect plot`: learning curves of one run, or of several with mean and interval over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recollect.cli import words
from recollect.cli.words import Option
from recollect.presets import nearest
from recollect.run import curves
from recollect.run.folder import RunFolder
from recollect.run.metrics import read_metrics
from recollect.types import ConfigError

FORMATS = (".png", ".svg", ".pdf")
OPTIONS = [
    Option("--out", "FILE", "the image: .png, .svg or .pdf"),
    Option(
        "--metric",
        "NAME",
        "a name in metrics.jsonl; the greedy return is evaluator/return_mean",
        default=curves.GREEDY,
        shown="greedy",
    ),
    words.HELP,
]


def command(given: Sequence[str]) -> None:
    """Draw as the words after `plot` say, and print where the image lies.

    Raises:
        ConfigError: something is wrong with them, or with a run.
    """
    if words.wants_help(given):
        words.show_page(
            "plot RUN... [OPTION ...]",
            "Draws learning curves. Runs that differ in nothing but the seed become one line: the "
            "mean over them, from three seeds on with its 95% interval. Without --out, one run "
            "is drawn into its own folder, several into curves.png here.",
            {"what": [Option("RUN...", "", "folders of runs"), *OPTIONS]},
        )
        return
    found = words.parse(
        "plot",
        given,
        OPTIONS,
        positional="RUN",
        many=True,
        required="plot needs a run: give its folder",
    )
    folders = [RunFolder.open(run) for run in curves.distinct(found["RUN"])]
    out = Path(found["out"]) if "out" in found else _out(folders, found["metric"])
    if out.is_dir():
        raise ConfigError(
            f"--out: {out} is a folder: name the image in it, such as {out / 'a.png'}"
        )
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out: wanted a file that ends in .png, .svg or .pdf, got {str(out)!r}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: there is no folder {out.parent}: make it first")
    _check_metric(folders, found["metric"])
    curves.draw([folder.path for folder in folders], out, found["metric"])
    print(out)


def _out(folders: Sequence[RunFolder], metric: str) -> Path:
    if len(folders) > 1:
        return Path("curves.png")
    if metric == curves.GREEDY:
        return folders[0].curve
    return folders[0].path / f"{metric.replace('/', '_')}.png"


def _check_metric(folders: Sequence[RunFolder], metric: str) -> None:
    """A metric no run has is a slip of the keys; the greedy return may just not be there yet."""
    known: set[str] = set()
    for folder in folders:
        try:
            rows = read_metrics(folder) if folder.metrics.exists() else []
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for row in rows:
            known.update(row)
    if metric not in known | {curves.GREEDY}:
        raise nearest("metric", metric, known)
