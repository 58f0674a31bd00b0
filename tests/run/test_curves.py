from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.run.curves import Curve, _grouped, _seed_curve, draw, load_curve, mean_curve
from recollect.run.folder import RunFolder
from recollect.run.metrics import MetricsLog
from recollect.types import ConfigError


def make_run(
    path: Path,
    points: list[tuple[int, float | None]],
    agent: str = "r2d2",
    env: Any = "X-v0",
    seed: int = 1,
    rest: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    config = {"agent": agent, "env": env, "seed": seed, "config": settings}
    run = RunFolder.create(path, config | (rest or {}))
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


def test_runs_that_differ_in_seed_and_length_alone_are_one_group(tmp_path: Path) -> None:
    a = [
        make_run(
            tmp_path / f"a{seed}",
            [],
            env={"id": "X-v0", "kwargs": {"delay": 3}},
            seed=seed,
            rest={"preset": ["auto", "small"][seed % 2], "env_steps": seed},
            burn_in=8,
        )
        for seed in range(3)
    ]
    assert _grouped(a) == ({"": a}, "r2d2, X-v0, delay=3", 1)
    assert _grouped({"mine": a, "none": []}) == ({"mine": a}, "r2d2, X-v0, delay=3", 1)


@pytest.mark.parametrize(
    ("one", "other", "names", "title"),
    [
        ({"agent": "r2d2"}, {"agent": "drqn"}, ["r2d2", "drqn"], "X-v0"),
        ({"env": "X-v0"}, {"env": {"id": "Y-v0"}}, ["X-v0", "Y-v0"], "r2d2"),
        (
            {"env": {"id": "X-v0", "kwargs": {"is_slippery": False}}},
            {"env": {"id": "X-v0", "kwargs": {}}},
            ["is_slippery=False", "default is_slippery"],
            "r2d2, X-v0",
        ),
        ({"n_step": 5, "eta": 1}, {"n_step": 3, "eta": 1}, ["n_step=5", "n_step=3"], "r2d2, X-v0"),
        ({"sizes": [7, 5]}, {"sizes": []}, ["sizes=7 5", "sizes=none"], "r2d2, X-v0"),
        (
            {"rest": {"network": "mine:Net"}},
            {"rest": {"network": ""}},
            ["network=mine:Net", "default network"],
            "r2d2, X-v0",
        ),
        # What comes with an agent is said by its name.
        ({"agent": "r2d2", "n_step": 5}, {"agent": "drqn", "n_step": 1}, ["r2d2", "drqn"], "X-v0"),
    ],
)
def test_groups_are_named_by_what_they_differ_in(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], names: list[str], title: str
) -> None:
    runs = [make_run(tmp_path / "a", [], **one), make_run(tmp_path / "b", [], **other)]
    groups, found, envs = _grouped(runs)
    assert groups == {name: [run] for name, run in zip(names, runs, strict=True)}
    assert (found, envs) == (title, 1 + ("Y-v0" in names))


def test_an_argument_is_not_missed_where_no_group_of_that_environment_has_it(
    tmp_path: Path,
) -> None:
    envs = [{"id": "X-v0", "kwargs": {"delay": delay}} for delay in (3, 7)]
    runs = [make_run(tmp_path / f"{n}", [], env=env) for n, env in enumerate([*envs, "Y-v0"])]
    assert list(_grouped(runs)[0]) == ["X-v0, delay=3", "X-v0, delay=7", "Y-v0"]


def test_long_names_are_cut_and_stay_apart(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{n}", [], **{f"setting_{letter}": n for letter in "abcdefgh"})
        for n in range(2)
    ]
    runs.append(make_run(tmp_path / "2", [], **{f"setting_{letter}": 0 for letter in "abcdefg"}))
    names = list(_grouped(runs)[0])
    assert names == [
        "setting_a=0, setting_b=0, setting_c=0, setting_d=0, ...",
        "setting_a=1, setting_b=1, setting_c=1, setting_d=1, ...",
        "setting_a=0, setting_b=0, setting_c=0, setting_d=0, ... (2)",
    ]


def test_a_folder_given_twice_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", [(1, 1.0), (2, 2.0)])
    monkeypatch.chdir(tmp_path)
    assert _grouped([run, "a", "./a/"])[0] == {"": [run]}


def legend_of(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], str, str]:
    """Legend entries, the legend's title, and what stands below the axes."""
    from matplotlib.figure import Figure

    seen: list[tuple[list[str], str, str]] = []

    def look(figure: Figure, *_: object, **__: object) -> None:
        entries, title = [], ""
        for legend in figure.legends:
            entries += [text.get_text() for text in legend.get_texts()]
            title = legend.get_title().get_text()
        seen.append((entries, title, figure.axes[0].get_xlabel()))

    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", look)
        draw(runs, runs[0].parent / "a.svg")
    return seen[0]


def test_the_legend_counts_seeds_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: list[tuple[int, float | None]] = [(1, 1.0), (2, 2.0)]
    runs = [
        make_run(tmp_path / "a", points, seed=1, n=1),
        make_run(tmp_path / "a again", points[:1], seed=1, n=1),
        make_run(tmp_path / "b", points, seed=1, n=2),
        make_run(tmp_path / "c", points, seed=2, n=2),
        make_run(tmp_path / "d", [], seed=3, n=2),
        make_run(tmp_path / "e", [], seed=1, n=3),
        make_run(tmp_path / "f", [], seed=2, n=3),
    ]
    entries, title, below = legend_of(runs, monkeypatch)
    assert entries == ["n=1, 2 runs of 1 seed", "n=2, 2 seeds (1 run without data)"]
    assert (title, below) == ("", "environment steps (2 runs without data)")
    runs = [
        make_run(tmp_path / "x", points, env="X-v0"),
        make_run(tmp_path / "y", points, env="Y-v0"),
    ]
    assert legend_of(runs, monkeypatch) == (
        ["X-v0, 1 seed", "Y-v0, 1 seed"],
        "of different environments",
        "environment steps",
    )


def test_runs_of_one_seed_do_not_cut_one_another_short() -> None:
    whole = Curve(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    broken_off = Curve(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    both = _seed_curve([whole, broken_off])
    assert both.x.tolist() == [1, 2, 3, 4]
    assert both.y.tolist() == [(1 + 3) / 2, (2 + 4) / 2, 3, 4]


@pytest.mark.parametrize("points", [0, 1, 2, 50])
def test_one_run_is_drawn_however_few_rows_it_has(tmp_path: Path, points: int) -> None:
    run = make_run(tmp_path / "a", [(10 * i, float(i)) for i in range(points)])
    draw([run], run / "curve.png")
    assert image_size(run / "curve.png") == (800, 500)


def test_many_groups_of_many_sizes_are_drawn(tmp_path: Path) -> None:
    runs = [
        make_run(
            tmp_path / f"{group}-{seed}", [(i, float(i)) for i in range(group)], seed=seed, n=group
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


def test_where_a_run_ran_makes_no_group_of_its_own(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{n}", [], seed=n, gamma=0.9, threads=n, replay_bytes=10**9 + n)
        for n in range(3)
    ]
    assert list(_grouped(runs)[0].values()) == [runs]


def test_an_environment_of_many_arguments_is_titled_by_its_name(tmp_path: Path) -> None:
    env = {"id": "X-v0", "kwargs": {f"option{n}": n for n in range(9)}}
    assert _grouped([make_run(tmp_path / "a", [], env=env)])[1] == "r2d2, X-v0"
