from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from recollect.run.replay_picture import BINS, PANELS, _edges, draw


def test_every_panel_counts_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (kept.append(self), savefig(self, *a, **k))
    )
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "age_env_steps": rng.integers(0, 100_000, 700),
        "lag_updates": np.zeros(700, np.int64),
        "episode_steps": rng.integers(1, 30, 50),
    }
    draw(arrays, tmp_path / "a.png", "replay")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    heights = [sum(bar.get_height() for bar in axes.patches) for axes in kept[0].axes]
    assert heights == [700, 700, 0, 50]
    texts = [text.get_text() for axes in kept[0].axes for text in axes.texts]
    assert "draws are uniform" in texts
    assert len(kept[0].axes) == len(PANELS)
    draw({}, tmp_path / "a.png", "of nothing")


@pytest.mark.parametrize("values", [[5], [0, 1], [0, 39], [0, 40], [3, 1000], [-7, 123_456]])
def test_bins_of_whole_numbers_hold_equally_many(values: list[int]) -> None:
    edges = _edges(np.array(values), whole=True)
    assert edges[0] < min(values)
    assert max(values) < edges[-1]
    assert len(edges) <= BINS + 2
    widths = set(np.diff(edges).tolist())
    assert len(widths) == 1
    assert widths.pop().is_integer()


def test_bins_of_equal_numbers_have_a_width() -> None:
    assert np.diff(_edges(np.full(3, 0.25), whole=False)).min() > 0
