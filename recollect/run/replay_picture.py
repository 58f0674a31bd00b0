"""What lies in replay, as histograms on one page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recollect.run.curves import COLOURS
from recollect.run.folder import write_atomic
from recollect.types import Array

INCHES, DOTS_PER_INCH = (10.0, 7.0), 100
BINS = 40

PANELS = {
    "age_env_steps": ("age of items", "environment steps inserted since", "items"),
    "lag_updates": ("how old the policy was", "learner updates behind the newest", "items"),
    "priority": ("priorities", "priority (absolute TD error)", "items"),
    "episode_steps": ("length of ended episodes", "environment steps", "episodes"),
}


def draw(arrays: Mapping[str, Array], out: Path, title: str) -> None:
    """Draw ages, lags, priorities and lengths into a PNG, written whole or not at all.

    Args:
        arrays: name in `PANELS` -> [N]; one that is missing or empty leaves its place empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(hspace=0.06, wspace=0.05)
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout=layout)
    FigureCanvasAgg(figure)
    for place, (name, (heading, unit, of)) in enumerate(PANELS.items(), start=1):
        axes = figure.add_subplot(2, 2, place)
        axes.set_title(heading, loc="left", fontsize=11)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#999999")
        values = arrays.get(name, np.zeros(0))
        if len(values):
            _histogram(axes, values, unit, of)
        else:
            axes.set(xticks=[], yticks=[])
            why = "draws are uniform" if name == "priority" else f"no {of} yet"
            axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color="#666666")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomic(out, image.getvalue())


def _histogram(axes: Any, values: Array, unit: str, of: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    whole = np.issubdtype(values.dtype, np.integer)
    axes.hist(values, _edges(values, whole), color=COLOURS[0], alpha=0.75)
    median = float(np.median(values))
    axes.axvline(median, color=COLOURS[1], linewidth=1.2)
    left = median < (float(values.min()) + float(values.max())) / 2
    axes.text(
        median,
        1.0,
        f" median {median:,.0f} " if median >= 1000 else f" median {median:.4g} ",
        color=COLOURS[1],
        fontsize=9,
        ha="left" if left else "right",
        va="top",
        transform=axes.get_xaxis_transform(),
    )
    axes.set_xlabel(unit, fontsize=10)
    axes.set_ylabel(of, fontsize=10)
    axes.tick_params(labelsize=9, length=0)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _edges(values: Array, whole: bool) -> Array:
    """[n + 1] edges of bins; of whole numbers each bin holds as many of them."""
    low, high = float(values.min()), float(values.max())
    if not whole:
        return np.linspace(low, high if high > low else low + 1, BINS + 1)
    width = max(1, -(-int(high - low + 1) // BINS))
    return np.arange(low, high + width + 1, width) - 0.5
