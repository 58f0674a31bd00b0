"""One played episode as a picture: what the agent saw, did, got and remembered."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recollect.run.curves import COLOURS
from recollect.run.folder import write_atomic
from recollect.types import Array, channels_last

WIDTH, DOTS_PER_INCH = 10.0, 100
LINES = len(COLOURS)
"""More channels or actions than these are shown as a map of colours, not as lines."""
CHANNELS, FRAMES = 128, 6
"""Most channels shown of an observation of numbers, most frames of one of images."""
FEW_STEPS = 100
"""Of so few, lines show each step as one."""
LEAST_SIDE = 8
"""Pixels from which on an array counts as an image."""
LINE = 1.1


@dataclass(frozen=True)
class Played:
    """An episode of T steps.

    Args:
        values: [T, A] action values. actions: [T], from 0. rewards: [T].
        norms: [T] Euclidean norm of the recurrent state after each observation.
        observation: key -> [K, ...]; `seen_at`: key -> [K] the steps they came before.
        ended: how: `terminated`, `truncated` or `cut`.
        action_names: [A], or empty.
    """

    values: Array
    actions: Array
    rewards: Array
    norms: Array
    observation: Mapping[str, Array]
    seen_at: Mapping[str, Array]
    ended: str
    action_names: Sequence[str] = ()

    @property
    def episode_return(self) -> float:
        """The sum of its rewards, undiscounted."""
        return float(self.rewards.sum())


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether an observation of this shape is shown as an image: [H, W], [H, W, C] or [C, H, W]."""
    if len(shape) == 3:
        shape = shape[:2] if channels_last(shape) else shape[1:]
    return len(shape) == 2 and min(shape) >= LEAST_SIDE


def draw(played: Played, out: Path, title: str, subtitle: str, value_label: str) -> None:
    """Draw the episode into a PNG, written whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = [key for key, rows in played.observation.items() if is_image(rows.shape[1:])]
    numbers = [key for key in played.observation if key not in images]
    panels: list[tuple[str, float]] = [(key, 1.7) for key in images]
    panels += [("numbers", 1.7)] if numbers else []
    actions = played.values.shape[1]
    panels += [("values", 1.9 if actions <= LINES else 2.4)]
    panels += [("actions", min(2.2, 0.7 + 0.12 * actions)), ("rewards", 1.0)]
    panels += [("state", 1.0)] if played.norms.any() else []
    heights = [0.45, *(height for _, height in panels)]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.6), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    _head(figure.add_subplot(grid[0]), title, subtitle)
    first: Any = None
    for number, (name, _) in enumerate(panels, start=1):
        row = grid[number]
        if name in images:
            _frames(figure, row, played.observation[name], played.seen_at[name], name)
            continue
        axes = figure.add_subplot(row, sharex=first)
        first = axes if first is None else first
        if name == "numbers":
            _numbers(figure, axes, {key: played.observation[key] for key in numbers})
        elif name == "values":
            _values(figure, axes, played, value_label)
        elif name == "actions":
            _actions(axes, played)
        elif name == "rewards":
            _bars(axes, played.rewards)
        else:
            axes.plot(played.norms, color=COLOURS[0], linewidth=LINE)
            axes.set_ylabel("norm of the\nrecurrent state")
        _plain(axes, last=name == panels[-1][0])
    first.set_xlim(-0.5, len(played.actions) - 0.5)
    figure.align_ylabels()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomic(out, image.getvalue())


def _head(axes: Any, title: str, subtitle: str) -> None:
    axes.set_axis_off()
    axes.text(0, 0.55, title, fontsize=13, transform=axes.transAxes)
    axes.text(0, 0.0, subtitle, fontsize=9, color="#666666", transform=axes.transAxes)


def _plain(axes: Any, last: bool) -> None:
    axes.tick_params(labelsize=8, length=0, labelbottom=last)
    axes.yaxis.label.set_size(9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")
    if not axes.images:
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if last:
        axes.set_xlabel("environment step", fontsize=10)


def _lines(axes: Any, columns: Array, names: Sequence[str], title: str) -> None:
    """[T, N] as N lines with a legend beside them."""
    style = "steps-mid" if len(columns) <= FEW_STEPS else "default"
    for column, name, colour in zip(columns.T, names, COLOURS, strict=False):
        axes.plot(column, color=colour, linewidth=LINE, label=name, drawstyle=style)
    axes.legend(
        title=title,
        title_fontsize=8,
        fontsize=8,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.05),
        handlelength=1.2,
    )


def _map(figure: Any, axes: Any, rows: Array, label: str, **how: Any) -> None:
    """[N, T] as a map of colours with its scale beside it."""
    image = axes.imshow(rows, aspect="auto", interpolation="nearest", **how)
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03, aspect=12)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7, length=0)
    bar.outline.set_visible(False)


def _numbers(figure: Any, axes: Any, observation: Mapping[str, Array]) -> None:
    """Observations of numbers: few channels as lines, many as a map, each on its own scale."""
    columns = [rows.reshape(len(rows), -1) for rows in observation.values()]
    together = np.concatenate(columns, axis=1, dtype=np.float64)  # [T, C]
    channels = together.shape[1]
    if channels <= LINES:
        names = [
            key if array.shape[1] == 1 else f"{key} {i}"
            for key, array in zip(observation, columns, strict=True)
            for i in range(array.shape[1])
        ]
        if len(observation) == 1:
            names = [name.removeprefix(next(iter(observation)) + " ") for name in names]
        _lines(axes, together, names, "channel")
        axes.set_ylabel("observation")
        return
    shown = together[:, :CHANNELS]
    low, high = shown.min(0), shown.max(0)
    scaled = (shown - low) / np.where(high > low, high - low, 1)
    _map(figure, axes, scaled.T, "least to most\nof each channel", cmap="Greys", vmin=0, vmax=1)
    of = f"\n(first {CHANNELS} of {channels:,})" if channels > CHANNELS else ""
    axes.set_ylabel(f"observation\nchannel{of}")


def _values(figure: Any, axes: Any, played: Played, label: str) -> None:
    names = _action_names(played)
    if len(names) <= LINES:
        _lines(axes, played.values, names, "action")
        axes.set_ylabel(f"action values\n{label}")
        return
    _map(figure, axes, played.values.T, f"action values\n{label}", cmap="viridis")
    _action_ticks(axes, names)
    axes.set_ylabel("action")


def _actions(axes: Any, played: Played) -> None:
    greedy = played.values.argmax(1) == played.actions
    steps = np.arange(len(played.actions))
    for chosen, colour, name in (
        (greedy, COLOURS[0], "greedy"),
        (~greedy, COLOURS[1], "not greedy"),
    ):
        if chosen.any():
            axes.scatter(
                steps[chosen], played.actions[chosen], s=14, marker="|", color=colour, label=name
            )
    if not greedy.all():
        axes.legend(
            fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.95), ncols=2
        )
    names = _action_names(played)
    _action_ticks(axes, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_ylabel("chosen\naction")


def _action_ticks(axes: Any, names: Sequence[str]) -> None:
    every = -(-len(names) // 20)
    axes.set_yticks(range(0, len(names), every), names[::every], fontsize=6 if names[9:] else 8)


def _action_names(played: Played) -> list[str]:
    actions = played.values.shape[1]
    if len(played.action_names) == actions:
        return [str(name).lower() for name in played.action_names]
    return [str(action) for action in range(actions)]


def _bars(axes: Any, rewards: Array) -> None:
    edges = np.arange(len(rewards) + 1) - 0.5
    axes.stairs(rewards, edges, fill=True, facecolor="#66C5AB", edgecolor="#66C5AB", linewidth=LINE)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_ylabel("reward")


def _frames(figure: Any, place: Any, rows: Array, steps: Array, key: str) -> None:
    """A few images of an episode, side by side."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(FRAMES, len(rows))).round().astype(int))
    pixels = np.stack([_pixels(rows[i]) for i in chosen])
    if pixels.dtype == np.uint8:
        low, high = 0.0, 255.0
    else:
        low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels - low) / (high - low or 1)
    for part, i, image in zip(place.subgridspec(1, FRAMES), chosen, scaled, strict=False):
        axes = figure.add_subplot(part)
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"step {steps[i]:,}", fontsize=8)
        if i == chosen[0]:
            axes.set_ylabel(key, fontsize=9)


def _pixels(image: Array) -> Array:
    """[H, W] or [H, W, 3] of an observation; of other stacks the last channel."""
    if image.ndim == 3 and image.shape[0] < image.shape[2]:
        image = np.moveaxis(image, 0, -1)
    if image.ndim == 3 and image.shape[2] != 3:
        return image[:, :, -1]
    return image
