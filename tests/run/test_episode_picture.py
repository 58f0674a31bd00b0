from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from recollect.run.episode_picture import Played, draw, is_image


def played(
    steps: int,
    shapes: dict[str, tuple[int, ...]],
    actions: int,
    dtype: str = "float32",
    **rest: Any,
) -> Played:
    rng = np.random.default_rng(steps)
    return Played(
        values=rng.normal(size=(steps, actions)),
        actions=rng.integers(0, actions, steps),
        rewards=rng.normal(size=steps).round(),
        norms=np.arange(steps) + 1.0,
        observation={
            key: (rng.random((min(steps, 20) if is_image(shape) else steps, *shape)) * 255).astype(
                dtype
            )
            for key, shape in shapes.items()
        },
        seen_at={
            key: np.arange(min(steps, 20) if is_image(shape) else steps)
            for key, shape in shapes.items()
        },
        ended="terminated",
        **rest,
    )


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures drawn."""
    drawn: list[Figure] = []
    savefig = Figure.savefig

    def kept(figure: Figure, *args: Any, **rest: Any) -> None:
        drawn.append(figure)
        savefig(figure, *args, **rest)

    monkeypatch.setattr(Figure, "savefig", kept)
    return drawn


@pytest.mark.parametrize(
    ("steps", "shapes", "actions", "dtype"),
    [
        (1, {"observation": (1,)}, 2, "float32"),
        (50, {"observation": (2,)}, 2, "float32"),
        (300, {"observation": (100,)}, 18, "float32"),
        (30, {"observation": (500,)}, 200, "uint8"),
        (40, {"observation": (84, 84)}, 6, "uint8"),
        (40, {"observation": (4, 84, 84)}, 6, "uint8"),
        (3, {"eye": (30, 40, 3), "touch": (4,), "ear": ()}, 4, "float32"),
    ],
)
def test_every_kind_of_episode_is_drawn(
    tmp_path: Path,
    figures: list[Figure],
    steps: int,
    shapes: dict[str, tuple[int, ...]],
    actions: int,
    dtype: str,
) -> None:
    out = tmp_path / "a.png"
    draw(played(steps, shapes, actions, dtype), out, "Name: return 3", "agent", "(return)")
    assert out.read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["Name: return 3", "agent"]
    labels = " ".join(a.get_ylabel() + " " + a.get_xlabel() for a in figure.axes)
    for wanted in ("observation" if "observation" in shapes else "eye", "action values", "chosen"):
        assert wanted in labels
    for wanted in ("reward", "norm of the", "environment step", "(return)"):
        assert wanted in labels
    inside = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= -1
        assert box.x1 <= inside.width + 1, "nothing is cut off"


def test_what_is_an_image() -> None:
    yes = [(84, 84), (210, 160, 3), (4, 84, 84), (8, 8), (1, 64, 64)]
    no = [(), (3,), (100,), (7, 100), (3, 4, 5), (84, 84, 3, 2)]
    assert [shape for shape in yes if not is_image(shape)] == []
    assert [shape for shape in no if is_image(shape)] == []


def test_an_agent_without_memory_has_no_norm(tmp_path: Path, figures: list[Figure]) -> None:
    episode = played(20, {"observation": (2,)}, 2)
    without = Played(**{**vars(episode), "norms": np.zeros(20)})
    draw(without, tmp_path / "a.png", "", "", "")
    assert not any("norm" in axes.get_ylabel() for axes in figures[0].axes)


def test_actions_go_by_their_names(tmp_path: Path, figures: list[Figure]) -> None:
    episode = played(20, {"observation": (2,)}, 2, action_names=("NOOP", "FIRE"))
    draw(episode, tmp_path / "a.png", "", "", "")
    ticks = [[t.get_text() for t in axes.get_yticklabels()] for axes in figures[0].axes]
    assert ["noop", "fire"] in ticks
