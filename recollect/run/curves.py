"""Learning curves: one run, or several with mean and interval over seeds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from recollect.run.folder import RunFolder, write_atomic
from recollect.run.metrics import read_metrics
from recollect.run.statistics import mean_interval
from recollect.types import Array

AnyPath = str | PathLike[str]

GREEDY = "evaluator/return_mean"
TRAINING = "actor/return_mean"

LABELS = {
    GREEDY: "greedy return",
    TRAINING: "training return",
    "env_steps": "environment steps",
    "frames": "frames",
    "updates": "learner updates",
    "seconds": "wall-clock time (s)",
}

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, without the yellow: told apart by the colour-blind, and in grey by lightness."""

STYLES = ("-", "--", ":", "-.")
INTERVAL_SEEDS = 3
"""Of two seeds the interval is 13 times as long as they are apart: it shows nothing."""

INCHES, DOTS_PER_INCH = (8.0, 5.0), 100  # 800 x 500


@dataclass(frozen=True)
class Curve:
    """One metric of one run: x [N] increasing, y [N], both finite; N may be 0."""

    x: Array
    y: Array


def load_curve(run: AnyPath, metric: str = GREEDY, x: str = "env_steps") -> Curve:
    """A metric of a run against another.

    Where x steps back, the run was resumed from before: what had come after is replaced.

    Raises:
        ConfigError: if the folder is not a run.
        ValueError: if its metrics.jsonl is damaged.
    """
    folder = RunFolder.open(run)
    rows = read_metrics(folder.metrics) if folder.metrics.exists() else []
    points: list[tuple[float, float]] = []
    for row in rows:
        at, value = row.get(x), row.get(metric)
        if not isinstance(at, int | float) or not isinstance(value, int | float):
            continue
        while points and points[-1][0] >= at:
            points.pop()
        points.append((float(at), float(value)))
    both = np.asarray(points, np.float64).reshape(-1, 2)
    return Curve(both[:, 0], both[:, 1])


def mean_curve(curves: Sequence[Curve]) -> tuple[Array, Array, Array, Array]:
    """Mean over seeds and its 95% interval, where every seed has been.

    Each curve is interpolated linearly at every x of any of them, from the latest first x to the
    earliest last one: a mean over fewer seeds further on would show steps that no seed took.

    Args:
        curves: none of them empty.
    Returns:
        x, mean, low, high, each [N]; N is 0 where the curves have no x in common. Of one curve: the
        curve, low and high NaN.
    """
    start = max(curve.x[0] for curve in curves)
    stop = min(curve.x[-1] for curve in curves)
    x = np.unique(np.concatenate([curve.x for curve in curves]))
    x = x[(x >= start) & (x <= stop)]
    return x, *mean_interval(np.stack([np.interp(x, curve.x, curve.y) for curve in curves]))


def draw(
    runs: Sequence[AnyPath] | Mapping[str, Sequence[AnyPath]],
    out: AnyPath,
    metric: str = GREEDY,
    x: str = "env_steps",
) -> None:
    """Draw runs into an image.

    One run: its greedy return, and faintly its training return. Several: one line a group, the mean
    over seeds, from three seeds on with its 95% interval, the seeds themselves faint behind it.

    Args:
        runs: folders of runs, grouped by what their configs say of agent, environment and label; or
            groups by name.
        out: the image; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.
        metric: what is drawn, a name in metrics.jsonl.
        x: against what: env_steps, frames, updates or seconds.
    Raises:
        ValueError: if there are no runs; ConfigError, one of these, if a folder is not a run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    groups, title = _grouped(runs)
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    folders = [folder for group in groups.values() for folder in group]
    y_label = LABELS.get(metric, metric)
    if len(folders) == 1:
        drawn = _draw_run(axes, folders[0], metric, x)
        y_label = "return" if metric == GREEDY else y_label
    else:
        drawn = _draw_groups(axes, groups, metric, x)
        largest = max(len(group) for group in groups.values())
        if largest > 1:
            interval = ", 95% interval" if largest >= INTERVAL_SEEDS else ""
            y_label += f" (mean over seeds{interval})"

    axes.set_title(title, fontsize=13, loc="left", pad=10)
    axes.set_xlabel(LABELS.get(x, x), fontsize=11)
    axes.set_ylabel(y_label, fontsize=11)
    axes.tick_params(labelsize=10, length=0)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")
    if x != "seconds":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if drawn:
        axes.legend(fontsize=10, frameon=False, loc="best")
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(
            0.5,
            0.5,
            f"no {LABELS.get(metric, metric)} in these metrics yet",
            transform=axes.transAxes,
            ha="center",
            va="center",
            fontsize=12,
            color="#666666",
        )
    image = io.BytesIO()
    figure.savefig(image, format=Path(out).suffix.lstrip(".") or "png")
    write_atomic(Path(out), image.getvalue())


def _draw_run(axes: Any, run: Path, metric: str, x: str) -> bool:
    """One run; whether there was anything to draw."""
    wanted = [(metric, COLOURS[0], 2.2, 1.0, 3)]
    if metric == GREEDY:
        wanted.append((TRAINING, "#8C8C8C", 1.2, 0.6, 2))
    drawn = False
    for name, colour, width, alpha, above in wanted:
        curve = load_curve(run, name, x)
        if len(curve.x):
            axes.plot(
                curve.x,
                curve.y,
                color=colour,
                linewidth=width,
                alpha=alpha,
                zorder=above,
                label=LABELS.get(name, name),
                marker=_marker(curve.x),
                markersize=5,
            )
            drawn = True
    return drawn


def _draw_groups(axes: Any, groups: Mapping[str, Sequence[Path]], metric: str, x: str) -> bool:
    """A line a group; whether there was anything to draw."""
    seeds_low, seeds_high = [], []
    for index, (name, runs) in enumerate(groups.items()):
        colour = COLOURS[index % len(COLOURS)]
        style = STYLES[index // len(COLOURS) % len(STYLES)]
        every = [load_curve(run, metric, x) for run in runs]
        curves = [curve for curve in every if len(curve.x)]
        label = f"{name}, " if name else ""
        label += f"{len(curves)} seed{'' if len(curves) == 1 else 's'}"
        if len(curves) < len(every):
            label += f" ({len(every) - len(curves)} without data)"
        at = mean = np.empty(0)
        if curves:
            at, mean, low, high = mean_curve(curves)
            seeds_low.append(min(curve.y.min() for curve in curves))
            seeds_high.append(max(curve.y.max() for curve in curves))
        if len(curves) > 1:
            for curve in curves:
                axes.plot(curve.x, curve.y, color=colour, linewidth=0.8, alpha=0.25)
            if len(curves) >= INTERVAL_SEEDS:
                axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            at,
            mean,
            style,
            color=colour,
            linewidth=2.2,
            label=label,
            marker=_marker(at),
            markersize=5,
        )
    if not seeds_low:
        return False
    # The scale is the seeds' own: of few, the interval reaches far beyond them.
    low_end, high_end = min(seeds_low), max(seeds_high)
    margin = 0.08 * (high_end - low_end) or 0.5
    axes.set_ylim(low_end - margin, high_end + margin)
    return True


def _marker(x: Array) -> str:
    """Few points are shown as points: one alone has no line."""
    return "o" if len(x) < 4 else ""


def _grouped(
    runs: Sequence[AnyPath] | Mapping[str, Sequence[AnyPath]],
) -> tuple[dict[str, list[Path]], str]:
    """Runs by the name of their group, and the title: what all groups have in common."""
    if isinstance(runs, Mapping):
        groups = {name: [Path(run) for run in group] for name, group in runs.items() if group}
        about = {_about(run) for group in groups.values() for run in group}
    else:
        by_about: dict[tuple[str, str, str], list[Path]] = {}
        for run in runs:
            by_about.setdefault(_about(run), []).append(Path(run))
        about = set(by_about)
        differ = [len(set(column)) > 1 for column in zip(*about, strict=True)]
        groups = {}
        for key, group in by_about.items():
            name = ", ".join(v for v, d in zip(key, differ, strict=True) if d and v)
            groups.setdefault(name or ("" if len(about) == 1 else key[0]), []).extend(group)
    if not groups:
        raise ValueError("no runs to draw: give at least one run's folder")
    columns = [set(column) for column in zip(*about, strict=True)]
    return groups, ", ".join(next(iter(c)) for c in columns if len(c) == 1 and c != {""})


def _about(run: AnyPath) -> tuple[str, str, str]:
    """Agent, environment and label, as the run's config has them; `env` is an id or has one."""
    config = RunFolder.open(run).config()
    env = config.get("env", "")
    if isinstance(env, dict):
        env = env.get("id", "")
    return str(config.get("agent", "")), str(env), str(config.get("label") or "")
