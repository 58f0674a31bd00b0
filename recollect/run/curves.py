"""Learning curves: one run, or several with mean and interval over seeds."""

from __future__ import annotations

import io
import json
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
LEGEND_ROWS, LEGEND_CHARACTERS = 3, 110
"""What of a legend the image has room for: more rows make it higher."""

NAME_CHARACTERS = 60
FEW_ARGUMENTS = 2
"""An environment with more arguments than these, as Atari, is titled without them."""
NOT_OF_A_GROUP = ("seed", "preset", "env_steps")
"""What the runs of a group may differ in: a preset is where a config came from, not what it is."""
WHERE_IT_RAN = (
    "env_processes",
    "env_deadline",
    "threads",
    "device",
    "actor_device",
    "codec",
    "replay_bytes",
)
"""Settings they may differ in as well: the memory that was free is another for every run."""


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
    over seeds, from three seeds on with its 95% interval, the runs themselves faint behind it.
    Runs of one seed are one seed; a folder given twice is one run.

    Args:
        runs: folders of runs, grouped by all that their configs say but the seed and how long they
            were to be; or groups by name.
        out: the image; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.
        metric: what is drawn, a name in metrics.jsonl.
        x: against what: env_steps, frames, updates or seconds.
    Raises:
        ValueError: if there are no runs; ConfigError, one of these, if a folder is not a run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    groups, title, envs = _grouped(runs)
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    folders = [folder for group in groups.values() for folder in group]
    x_label, y_label = LABELS.get(x, x), LABELS.get(metric, metric)
    if len(folders) == 1:
        drawn = _draw_run(axes, folders[0], metric, x)
        y_label = "return" if metric == GREEDY else y_label
        if drawn:
            axes.legend(fontsize=10, frameon=False, loc="best")
    else:
        seeds, without = _draw_groups(axes, groups, metric, x)
        drawn = bool(seeds)
        if max(seeds, default=0) > 1:
            interval = ", 95% interval" if max(seeds) >= INTERVAL_SEEDS else ""
            y_label += f"\n(mean over seeds{interval})"
        if without:
            x_label += f" ({_count(without, 'run')} without data)"
        if drawn:
            _legend_below(figure, "of different environments" if envs > 1 else "")

    axes.set_title(title, fontsize=13, loc="left", pad=10)
    axes.set_xlabel(x_label, fontsize=11)
    axes.set_ylabel(y_label, fontsize=11)
    axes.tick_params(labelsize=10, length=0)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")
    if x != "seconds":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if not drawn:
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


def _draw_groups(
    axes: Any, groups: Mapping[str, Sequence[Path]], metric: str, x: str
) -> tuple[list[int], int]:
    """A line a group: how many seeds each has, and how many runs are in groups without data."""
    lows, highs, counts, without = [], [], [], 0
    for index, (name, runs) in enumerate(groups.items()):
        by_seed: dict[str, list[Curve]] = {}
        for run in runs:
            curve = load_curve(run, metric, x)
            if len(curve.x):
                by_seed.setdefault(_seed(run), []).append(curve)
        curves = [curve for of_seed in by_seed.values() for curve in of_seed]
        if not curves:
            without += len(runs)
            continue
        label = f"{name}, " if name else ""
        label += f"{_count(len(curves), 'run')} of " if len(curves) > len(by_seed) else ""
        label += _count(len(by_seed), "seed")
        if len(curves) < len(runs):
            label += f" ({_count(len(runs) - len(curves), 'run')} without data)"
        colour = COLOURS[index % len(COLOURS)]
        style = STYLES[index // len(COLOURS) % len(STYLES)]
        at, mean, low, high = mean_curve([_seed_curve(of_seed) for of_seed in by_seed.values()])
        counts.append(len(by_seed))
        lows.append(min(curve.y.min() for curve in curves))
        highs.append(max(curve.y.max() for curve in curves))
        if len(curves) > 1:
            for curve in curves:
                axes.plot(curve.x, curve.y, color=colour, linewidth=0.8, alpha=0.25)
        if len(by_seed) >= INTERVAL_SEEDS:
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
    if not counts:
        return [], without
    # The scale is the seeds' own: of few, the interval reaches far beyond them.
    low_end, high_end = min(lows), max(highs)
    margin = 0.08 * (high_end - low_end) or 0.5
    axes.set_ylim(low_end - margin, high_end + margin)
    return counts, without


def _legend_below(figure: Any, title: str) -> None:
    """The legend below the axes, where it hides nothing; a long one makes the image higher."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = max(1, min(len(labels), LEGEND_CHARACTERS // (max(map(len, labels)) + 8)))
    rows = -(-len(labels) // columns) + bool(title)
    width, height = INCHES
    figure.set_size_inches(width, height + 0.2 * max(0, rows - LEGEND_ROWS))
    figure.legend(
        handles,
        labels,
        title=title or None,
        ncols=columns,
        fontsize=10,
        title_fontsize=10,
        frameon=False,
        loc="outside lower center",
    )


def _seed_curve(curves: Sequence[Curve]) -> Curve:
    """The runs of one seed as one: at every x of any, the mean of those that have been there.

    A run that was broken off, and begun again with its seed, does not cut the new one short.
    """
    x = np.unique(np.concatenate([curve.x for curve in curves]))
    every = [np.interp(x, curve.x, curve.y, left=np.nan, right=np.nan) for curve in curves]
    return Curve(x, np.nanmean(np.stack(every), axis=0))


def _marker(x: Array) -> str:
    """Few points are shown as points: one alone has no line."""
    return "o" if len(x) < 4 else ""


def _grouped(
    runs: Sequence[AnyPath] | Mapping[str, Sequence[AnyPath]],
) -> tuple[dict[str, list[Path]], str, int]:
    """Runs by the name of their group, the title, and how many environments they are of."""
    if isinstance(runs, Mapping):
        groups = {name: distinct(group) for name, group in runs.items() if group}
        abouts = [_about(run) for group in groups.values() for run in group]
    else:
        by_about: dict[str, list[Path]] = {}
        first: dict[str, dict[str, str]] = {}
        for run in distinct(runs):
            about = _about(run)
            key = json.dumps(about, sort_keys=True)
            first.setdefault(key, about)
            by_about.setdefault(key, []).append(run)
        abouts = list(first.values())
        groups = dict(zip(_names(abouts), by_about.values(), strict=True))
    if not groups:
        raise ValueError("no runs to draw: give at least one run's folder")
    named = {"agent", "env"}
    arguments = {key for about in abouts for key in about if key.startswith("kwargs.")}
    if len(arguments) <= FEW_ARGUMENTS:
        named |= arguments
    common = [
        _part(key, value)
        for key, value in abouts[0].items()
        if key in named
        if value and all(about.get(key) == value for about in abouts)
    ]
    envs = {about.get("env") for about in abouts}
    return groups, _brief(common), len(envs)


def _names(abouts: Sequence[Mapping[str, str]]) -> list[str]:
    """A name for each group: in what it differs from the others.

    Settings count where they differ among groups of one agent, and arguments of an environment
    where they differ among groups of that one: what comes with a name is said by the name.
    """
    said: list[list[str]] = [[] for _ in abouts]
    for key in dict.fromkeys(key for about in abouts for key in about):
        whose = {"config": "agent", "kwargs": "env"}.get(key.partition(".")[0], "")
        peers: dict[str, set[str | None]] = {}
        for about in abouts:
            peers.setdefault(about.get(whose, ""), set()).add(about.get(key))
        differ = {of for of, values in peers.items() if len(values) > 1}
        for parts, about in zip(said, abouts, strict=True):
            if about.get(whose, "") in differ or (differ and key in about):
                parts.append(_part(key, about.get(key)))
    names: list[str] = []
    for parts in said:
        name = _brief(parts)
        same = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return names


def _part(key: str, value: str | None) -> str:
    """How a name says it: agents and environments by themselves, the rest with their names."""
    name = key.rpartition(".")[2]
    if not value:
        return f"default {name}"
    return value if key in ("agent", "env") else f"{name}={value}"


def _brief(parts: Sequence[str]) -> str:
    """The parts in a row, as many as have room."""
    whole = ", ".join(parts)
    if len(whole) <= NAME_CHARACTERS:
        return whole
    cut = whole[: NAME_CHARACTERS - 3]
    return (cut.rpartition(", ")[0] + ", " if ", " in cut else cut) + "..."


def _about(run: AnyPath) -> dict[str, str]:
    """What makes a run's group, flat: `agent`, `env`, `kwargs.delay`, `network`, `config.burn_in`.

    In the order in which a name says it; `env` is an id or has one.
    """
    config = RunFolder.open(run).config()
    env = config.pop("env", "")
    env = env if isinstance(env, dict) else {"id": env}
    settings = config.pop("config", {})
    about = {"agent": config.pop("agent", ""), "env": env.get("id", "")}
    for prefix, inner in (("kwargs.", env.get("kwargs")), ("", config), ("config.", settings)):
        for key, value in inner.items() if isinstance(inner, dict) else ():
            of_no_group = {"": NOT_OF_A_GROUP, "config.": WHERE_IT_RAN}.get(prefix, ())
            if key not in of_no_group:
                about[prefix + key] = value
    return {
        key: (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
        for key, value in about.items()
    }


def _seed(run: AnyPath) -> str:
    """Its seed; of a run that says none, its folder."""
    return str(RunFolder.open(run).config().get("seed", Path(run)))


def distinct(runs: Sequence[AnyPath]) -> list[Path]:
    """The folders, each once however often and by whatever path it is given."""
    folders: dict[Path, Path] = {}
    for run in runs:
        folders.setdefault(Path(run).resolve(), Path(run))
    return list(folders.values())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
