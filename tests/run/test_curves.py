from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.run.curves import Curve, _grouped, draw, load_curve, mean_curve
from recollect.run.folder import RunFolder
from recollect.run.metrics import MetricsLog
from recollect.types import ConfigError


def make_run(
    path: Path,
    points: list[tuple[int, float | None]],
    agent: str = "r2d2",
    env: Any = "X-v0",
    label: str | None = None,
) -> Path:
    config = {"agent": agent, "env": env, "seed": 1} | ({"label": label} if label else {})
    run = RunFolder.create(path, config)
    with MetricsLog(run, tensorboard=False) as log:
        for step, value in points:
            log.write({"env_steps": step, "seconds": step / 10, "actor/return_mean": 1.0})
            log.write({"env_steps": step, "evaluator/return_mean": value})
    return run.path


def image_size(path: Path) -> tuple[int, int]:
    import matplotlib.image

    height, width = matplotlib.image.imread(path).shape[:2]
    return width, height


def test_a_curve_has_the_rows_that_have_both_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [(10, 1.0), (20, None), (30, 3.0)])
    curve = load_curve(run)
    assert curve.x.tolist() == [10, 30]
    assert curve.y.tolist() == [1.0, 3.0]
    assert load_curve(run, "actor/return_mean", "seconds").x.tolist() == [1.0, 2.0, 3.0]
    assert load_curve(run, "nothing/of_the_kind").x.shape == (0,)


def test_what_came_after_the_step_a_run_was_resumed_from_is_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [(10, 1.0), (20, 2.0), (30, 3.0), (20, 7.0), (40, 8.0)])
    curve = load_curve(run)
    assert curve.x.tolist() == [10, 20, 40]
    assert curve.y.tolist() == [1.0, 7.0, 8.0]


def test_a_run_without_metrics_has_an_empty_curve(tmp_path: Path) -> None:
    assert load_curve(RunFolder.create(tmp_path / "a", {})).x.shape == (0,)


def test_a_mean_curve_ends_where_the_first_seed_ends() -> None:
    one = Curve(np.array([0.0, 10.0, 20.0, 30.0]), np.array([0.0, 10.0, 20.0, 30.0]))
    two = Curve(np.array([5.0, 25.0]), np.array([10.0, 50.0]))  # twice as good
    x, mean, low, high = mean_curve([one, two])
    assert x.tolist() == [5, 10, 20, 25]
    assert mean.tolist() == [7.5, 15, 30, 37.5]
    assert (low < mean).all()
    np.testing.assert_allclose(high - mean, mean - low)


def test_a_mean_curve_of_one_is_the_curve() -> None:
    x, mean, low, _ = mean_curve([Curve(np.array([1.0, 3.0]), np.array([5.0, 7.0]))])
    assert (x.tolist(), mean.tolist()) == ([1, 3], [5, 7])
    assert np.isnan(low).all()


def test_a_mean_curve_of_seeds_that_never_meet_is_empty() -> None:
    apart = [Curve(np.array([x]), np.array([1.0])) for x in (1.0, 2.0)]
    assert [len(column) for column in mean_curve(apart)] == [0, 0, 0, 0]


def test_runs_are_grouped_by_agent_environment_and_label(tmp_path: Path) -> None:
    a = [make_run(tmp_path / f"a{i}", [], env={"id": "X-v0", "kwargs": {}}) for i in range(3)]
    b = [make_run(tmp_path / f"b{i}", [], agent="drqn") for i in range(2)]
    assert _grouped([*a, *b]) == ({"r2d2": a, "drqn": b}, "X-v0")
    assert _grouped(a) == ({"": a}, "r2d2, X-v0")
    c = make_run(tmp_path / "c", [], label="zero state")
    assert _grouped([a[0], c]) == ({"r2d2": [a[0]], "zero state": [c]}, "r2d2, X-v0")
    assert _grouped({"mine": a, "none": []}) == ({"mine": a}, "r2d2, X-v0")


@pytest.mark.parametrize("points", [0, 1, 2, 50])
def test_one_run_is_drawn_however_few_rows_it_has(tmp_path: Path, points: int) -> None:
    run = make_run(tmp_path / "a", [(10 * i, float(i)) for i in range(points)])
    draw([run], run / "curve.png")
    assert image_size(run / "curve.png") == (800, 500)


def test_many_groups_of_many_sizes_are_drawn(tmp_path: Path) -> None:
    runs = [
        make_run(
            tmp_path / f"{group}-{seed}", [(i, float(i)) for i in range(group)], label=f"{group}"
        )
        for group in range(9)
        for seed in range(group % 4 + 1)
    ]
    draw(runs, tmp_path / "all.png")
    assert image_size(tmp_path / "all.png") == (800, 500)
    draw(runs, tmp_path / "all.svg", metric="actor/return_mean", x="seconds")
    assert (tmp_path / "all.svg").read_text().startswith("<?xml")


def test_seeds_that_never_meet_and_constant_returns_are_drawn(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(i), [(10 * i, 5.0)]) for i in range(3)]
    draw(runs, tmp_path / "apart.png")
    assert image_size(tmp_path / "apart.png") == (800, 500)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no runs to draw"):
        draw([], tmp_path / "a.png")
    with pytest.raises(ValueError, match="no runs to draw"):
        draw({}, tmp_path / "a.png")
    with pytest.raises(ConfigError, match="is not a run"):
        draw([tmp_path / "nothing"], tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_a_drawing_that_fails_leaves_the_old_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "a", [(1, 1.0), (2, 2.0)])
    draw([run], tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        draw([run], tmp_path / "a.png", x="seconds")
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a", "a.png"]


def test_drawing_needs_no_display_and_leaves_no_global_state(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [(1, 1.0), (2, 2.0)])
    code = (
        "import sys; from recollect.run.curves import draw; draw(sys.argv[1:2], sys.argv[2]); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(run), str(tmp_path / "a.png")]
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False"
