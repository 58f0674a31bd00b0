from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.run import checkpoint, manifest, tensors
from recollect.run.checkpoint import CheckpointError, CheckpointWarning, find, load_parameters, save
from tests.run.checkpoints import flip, resign

FILES = (checkpoint.PARAMETERS, checkpoint.META, manifest.MANIFEST)


def arrays_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(5, 7)).astype(np.float32), "n": np.array(seed), "e": np.empty(0)}


def save_at(folder: Path, env_steps: int, name: str = "last", keep: int = 2) -> Path:
    return save(folder, name, arrays_of(env_steps), {"env_steps": env_steps}, keep=keep)


def assert_holds(path: Path, env_steps: int) -> None:
    arrays, meta = load_parameters(path)
    assert meta == {"env_steps": env_steps}
    assert set(arrays) == {"w", "n", "e"}
    for name, expected in arrays_of(env_steps).items():
        np.testing.assert_array_equal(arrays[name], expected)
        assert arrays[name].dtype == expected.dtype


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    arrays = {
        "network/w": np.arange(35.0).reshape(5, 7).T,  # not contiguous
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 3), np.float16),
        "mask": np.array([True, False]),
        "big endian": np.arange(3, dtype=">i4"),
        "frames": np.arange(256, dtype=np.uint8)[::-1],
    }
    meta = {"env_steps": 5, "rng": 2**127 + 1, "score": float("-inf"), "list": [1, None, "ü"]}
    found, found_meta = load_parameters(save(tmp_path, "best", arrays, meta))
    assert found_meta == meta
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].flags.writeable


@settings(deadline=None, max_examples=25)
@given(
    shapes=st.dictionaries(st.text(min_size=1), st.lists(st.integers(0, 4), max_size=3)),
    dtype=st.sampled_from(sorted(tensors.NAMES)),
)
def test_any_arrays_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]], dtype: str
) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        name: np.frombuffer(
            rng.integers(0, 2, int(np.prod(shape)) * np.dtype(dtype).itemsize, np.uint8), dtype
        ).reshape(shape)
        for name, shape in shapes.items()
        if name != "__metadata__"  # safetensors' own
    }
    found, _ = load_parameters(save(tmp_path_factory.mktemp("c"), "last", arrays, {"env_steps": 1}))
    assert {n: (a.shape, a.dtype, a.tobytes()) for n, a in found.items()} == {
        n: (a.shape, a.dtype, a.tobytes()) for n, a in arrays.items()
    }


def test_the_folder_is_named_after_its_manifest(tmp_path: Path) -> None:
    path = save_at(tmp_path, 120)
    digest = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    assert path == tmp_path / f"last-120-{digest[:16]}"
    assert sorted(os.listdir(path)) == sorted(FILES)
    listed = json.loads((path / "manifest.json").read_text())
    for name in (checkpoint.PARAMETERS, checkpoint.META):
        data = (path / name).read_bytes()
        assert listed["files"][name] == {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }


def test_the_newest_is_found_by_its_environment_steps_not_as_text(tmp_path: Path) -> None:
    save_at(tmp_path, 900, keep=9)
    newest = save_at(tmp_path, 10_000, keep=9)
    save_at(tmp_path, 8_000, keep=9)
    assert find(tmp_path) == newest


def test_of_two_saved_at_the_same_step_the_later_is_found(tmp_path: Path) -> None:
    for number in range(4):
        path = save(tmp_path, "last", {}, {"env_steps": 7, "number": number})
        assert find(tmp_path) == path
        assert load_parameters(path)[1]["number"] == number


def test_saving_the_same_twice_makes_two_checkpoints(tmp_path: Path) -> None:
    assert save_at(tmp_path, 5) != save_at(tmp_path, 5)


def test_older_ones_of_the_same_name_are_removed_beyond_keep(tmp_path: Path) -> None:
    best = save_at(tmp_path, 1, "best")
    paths = [save_at(tmp_path, step) for step in (10, 20, 30, 40)]
    assert sorted(tmp_path.iterdir()) == sorted([best, *paths[2:]])
    only = save_at(tmp_path, 50, keep=1)
    assert sorted(tmp_path.iterdir()) == sorted([best, only])


def test_a_checkpoint_of_fewer_steps_is_kept_when_it_is_new(tmp_path: Path) -> None:
    """A run resumed from before the newest checkpoint must not lose what it saves."""
    save_at(tmp_path, 30)
    save_at(tmp_path, 40)
    path = save_at(tmp_path, 20)
    assert_holds(path, 20)
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_ones_are_left_and_not_counted_among_those_kept(tmp_path: Path) -> None:
    first, second = save_at(tmp_path, 10), save_at(tmp_path, 20)
    flip(second / manifest.MANIFEST, 77)
    third = save_at(tmp_path, 30)
    assert sorted(tmp_path.iterdir()) == sorted([first, second, third])


def test_nothing_there_is_an_error_naming_what_was_wanted(tmp_path: Path) -> None:
    save_at(tmp_path, 1, "best")
    with pytest.raises(CheckpointError, match="there is no 'last' checkpoint in"):
        find(tmp_path)
    with pytest.raises(CheckpointError, match="there is no 'last' checkpoint in"):
        find(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "arrays", "meta", "keep", "message"),
    [
        ("../up", {}, {"env_steps": 1}, 2, "a checkpoint's name is of a-z"),
        ("last", {}, {"env_steps": 1}, 0, "keep must be 1 or more"),
        ("last", {}, {}, 2, "meta needs 'env_steps'"),
        ("last", {}, {"env_steps": -1}, 2, "meta needs 'env_steps'"),
        ("last", {}, {"env_steps": True}, 2, "meta needs 'env_steps'"),
        ("last", {}, {"env_steps": 1.0}, 2, "meta needs 'env_steps'"),
        ("last", {}, {"env_steps": 1, "a": [{2: 3}]}, 2, r"meta\['a'\]\[0\] has the key 2"),
        ("last", {}, {"env_steps": 1, "a": np.zeros(2)}, 2, r"meta\['a'\] is a ndarray"),
        ("last", {}, {"env_steps": 1, "a": np.int64(2)}, 2, r"meta\['a'\] is a int64"),
        ("last", {"o": np.array([{}])}, {"env_steps": 1}, 2, "array 'o' is of dtype object"),
        ("last", {"s": np.array(["a"])}, {"env_steps": 1}, 2, "array 's' is of dtype <U1"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, arrays: Any, meta: Any, keep: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "c", name, arrays, meta, keep=keep)
    assert not (tmp_path / "c").exists()


def test_a_renamed_folder_is_refused(tmp_path: Path) -> None:
    path = save_at(tmp_path, 5)
    with pytest.raises(CheckpointError, match="expected env_steps 6, found 5"):
        load_parameters(path.rename(tmp_path / path.name.replace("last-5", "last-6")))
    (tmp_path / path.name.replace("last-5", "last-6")).rename(tmp_path / "mine")
    with pytest.raises(CheckpointError, match="give it back its own if it was renamed"):
        load_parameters(tmp_path / "mine")


def test_another_format_is_refused_by_its_number(tmp_path: Path) -> None:
    """C5: a version that is not known is refused by version."""
    path = resign(save_at(tmp_path, 5), format=99)
    with pytest.raises(CheckpointError, match=r"manifest\.json: expected format 2, found 99"):
        load_parameters(path)


def test_damaged_ones_are_passed_over_loudly(tmp_path: Path) -> None:
    paths = [save_at(tmp_path, step, keep=9) for step in (10, 20, 30)]
    flip(paths[1] / checkpoint.META, 3)
    flip(paths[2] / checkpoint.PARAMETERS, 1000)
    heard: list[str] = []
    assert find(tmp_path, report=heard.append) == paths[0]
    assert len(heard) == 2
    assert heard[0].startswith("ERROR: damaged checkpoint passed over: ")
    assert paths[2].name in heard[0]
    assert "parameters.safetensors: expected SHA-256" in heard[0]
    assert paths[1].name in heard[1]
    with pytest.warns(CheckpointWarning) as warned:
        assert find(tmp_path) == paths[0]
    assert [str(warning.message) for warning in warned] == heard


def test_where_all_are_damaged_each_is_named(tmp_path: Path) -> None:
    paths = [save_at(tmp_path, step) for step in (10, 20)]
    for path in paths:
        (path / checkpoint.META).unlink()
    with pytest.raises(CheckpointError, match="can be used") as caught:
        find(tmp_path)
    assert all(path.name in str(caught.value) for path in paths)


def test_weights_load_with_safetensors_alone(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = save_at(tmp_path, 5) / checkpoint.PARAMETERS
    found = load_file(path)
    assert {name: tensor.numpy().tobytes() for name, tensor in found.items()} == {
        name: array.tobytes() for name, array in arrays_of(5).items()
    }


def test_of_several_names_the_newest_is_found(tmp_path: Path) -> None:
    save_at(tmp_path, 10, "last")
    best = save_at(tmp_path, 20, "best")
    last = save_at(tmp_path, 20, "last")  # later, at the same step
    assert find(tmp_path, "best", "last") == last
    assert find(tmp_path, "best") == best
    with pytest.raises(
        CheckpointError, match="there is no 'last' or 'best' checkpoint with a state"
    ):
        find(tmp_path, "last", "best", full=True)
