from __future__ import annotations

import builtins
import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.run import checkpoint, manifest, tensors
from recollect.run.checkpoint import CheckpointError, CheckpointWarning, find, load_parameters, save

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


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def resign(path: Path, **changes: Any) -> Path:
    """What a hostile writer can do: change the manifest and name the folder after it."""
    listed = json.loads((path / manifest.MANIFEST).read_text())
    listed.update(changes)
    for name in (checkpoint.PARAMETERS, checkpoint.META):
        if "files" not in changes and (path / name).is_file():
            data = (path / name).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            listed["files"][name] = {"bytes": len(data), "sha256": digest}
    text = json.dumps(listed).encode()
    (path / manifest.MANIFEST).write_bytes(text)
    name = path.name[:-16] + hashlib.sha256(text).hexdigest()[:16]
    return path.rename(path.with_name(name))


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


# Damage (C2)


@pytest.mark.parametrize("file", FILES)
def test_every_flipped_bit_is_noticed(tmp_path: Path, file: str) -> None:
    """C2: random bit flips in every file, each refused with the file's name."""
    path = save_at(tmp_path, 5)
    original = (path / file).read_bytes()
    for bit in np.random.default_rng(4).integers(0, 8 * len(original), 200):
        flip(path / file, int(bit))
        with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
            load_parameters(path)
        (path / file).write_bytes(original)
    assert_holds(path, 5)


@pytest.mark.parametrize("file", FILES)
def test_every_cut_is_noticed(tmp_path: Path, file: str) -> None:
    """C2: each file cut at 64 points."""
    path = save_at(tmp_path, 5)
    original = (path / file).read_bytes()
    for cut in np.linspace(0, len(original) - 1, 64).astype(int):
        (path / file).write_bytes(original[:cut])
        with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
            load_parameters(path)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_and_a_link_in_its_place_are_refused(tmp_path: Path, file: str) -> None:
    path = save_at(tmp_path, 5)
    (path / file).rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{file}: expected a file, found No such file"):
        load_parameters(path)
    (path / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{file}: expected a regular file, found a link"):
        load_parameters(path)


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_checkpoint_is_refused(tmp_path: Path, file: str) -> None:
    """C2: files mixed between two checkpoints."""
    one, two = save_at(tmp_path, 5), save_at(tmp_path, 6)
    shutil.copy(one / file, two / file)
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        load_parameters(two)


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
    with pytest.raises(CheckpointError, match=r"manifest\.json: expected format 1, found 99"):
        load_parameters(path)


def test_damaged_ones_are_passed_over_loudly(tmp_path: Path) -> None:
    paths = [save_at(tmp_path, step, keep=9) for step in (10, 20, 30)]
    flip(paths[1] / checkpoint.META, 3)
    flip(paths[2] / checkpoint.PARAMETERS, 1000)
    heard: list[str] = []
    assert find(tmp_path, report=heard.append) == paths[0]
    assert len(heard) == 2
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


# Hostility (C3)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**63], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}},
        {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}},
        {"a": {"dtype": "C64", "shape": [], "data_offsets": [0, 8]}},
        [],
    ],
)
def test_hostile_arrays_are_refused(tmp_path: Path, header: Any) -> None:
    """C3: shapes, types and offsets that lie."""
    path = save_at(tmp_path, 5)
    text = json.dumps(header).encode()
    body = len(text).to_bytes(8, "little") + text + bytes(8 if "C64" in str(header) else 4)
    (path / checkpoint.PARAMETERS).write_bytes(body)
    with pytest.raises(CheckpointError, match=r"parameters\.safetensors: "):
        load_parameters(resign(path))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 20 << 20])
def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path, length: int) -> None:
    path = save_at(tmp_path, 5)
    (path / checkpoint.PARAMETERS).write_bytes(length.to_bytes(8, "little") + b"{")
    with pytest.raises(CheckpointError, match="expected a header of at most"):
        load_parameters(resign(path))


@pytest.mark.parametrize("text", [b"[" * 200_000, b"[]", b"", b'{"a": ' * 100_000])
def test_hostile_meta_is_refused(tmp_path: Path, text: bytes) -> None:
    path = save_at(tmp_path, 5)
    (path / checkpoint.META).write_bytes(text)
    with pytest.raises(CheckpointError, match=r"meta\.json: expected"):
        load_parameters(resign(path))


@pytest.mark.parametrize("name", ["../meta.json", "/etc/hostname", "a/b", ".", "..", "", "a\0b"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    path = save_at(tmp_path, 5)
    files = json.loads((path / manifest.MANIFEST).read_text())["files"]
    files[name] = {"bytes": 1, "sha256": "0" * 64}
    with pytest.raises(CheckpointError, match="expected plain file names"):
        load_parameters(resign(path, files=files))


@pytest.mark.parametrize(
    "changes",
    [
        {"files": 3},
        {"files": {}},
        {"files": {checkpoint.PARAMETERS: 1, checkpoint.META: 2}},
        {"files": {checkpoint.PARAMETERS: {"bytes": "9"}, checkpoint.META: {}}},
        {"number": "one"},
        {"name": ["last"]},
        {"env_steps": None},
    ],
)
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"manifest\.json: expected"):
        load_parameters(resign(save_at(tmp_path, 5), **changes))


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[()]]:
        return (pytest.fail, ())


def test_nothing_is_unpickled_under_any_name(tmp_path: Path) -> None:
    """C3: an audit hook sees no `pickle.find_class` and no process started."""
    events: list[str] = []
    watched = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
    listening = True

    def hook(event: str, _: Any) -> None:
        if listening and event in watched:
            events.append(event)

    sys.addaudithook(hook)
    bomb = pickle.dumps(Bomb())
    for file in FILES:
        path = save_at(tmp_path, 5)
        (path / "extra.pkl").write_bytes(bomb)
        (path / file).write_bytes(bomb)
        with pytest.raises(CheckpointError):
            load_parameters(path)
        if file != manifest.MANIFEST:
            with pytest.raises(CheckpointError):
                load_parameters(resign(path))
    listening = False
    assert events == []


# Failure during a save (C1)

CALLS = ((os, "fsync"), (os, "rename"), (os, "open"), (os, "mkdir"), (builtins, "open"))


def failing(
    monkeypatch: pytest.MonkeyPatch, at: int, for_good: bool, fail: Callable[[], None]
) -> list[str]:
    """Make the `at`-th of CALLS fail, and those after it too if `for_good`; returns the calls."""
    seen: list[str] = []

    def wrap(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            if len(seen) == at or (for_good and len(seen) > at):
                fail()
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    for module, name in CALLS:
        wrap(module, name)
    return seen


def disk_full() -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.filterwarnings("ignore::recollect.run.checkpoint.CheckpointWarning")  # of pruning
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
def test_a_save_that_fails_anywhere_leaves_the_old_or_the_new(
    tmp_path: Path, for_good: bool
) -> None:
    """C1: the k-th call fails, for every k, until a save gets through."""
    outcomes = set()
    for at in range(1, 100):
        folder = tmp_path / str(at)
        save_at(folder, 10)
        save_at(folder, 20)
        error: Exception | None = None
        with pytest.MonkeyPatch.context() as patch:
            seen = failing(patch, at, for_good, disk_full)
            try:
                save_at(folder, 30)
            except (OSError, CheckpointError) as raised:
                error = raised
        if len(seen) < at:
            assert error is None
            break
        found = find(folder, report=lambda damage: pytest.fail(damage))
        step = load_parameters(found)[1]["env_steps"]
        assert_holds(found, step)
        outcomes.add((step, error is None))
        assert step in (20, 30)
        assert step == 30 or error is not None
        save_at(folder, 40)  # the next save cleans up
        assert_holds(find(folder), 40)
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    else:
        pytest.fail("no save got through")
    assert {(20, False), (30, False)} <= outcomes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_save_that_is_killed_anywhere_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """C1: the process dies at the k-th call, for every k, until a save gets through."""
    save_at(tmp_path / "warm", 1)  # imports done before the fork
    steps = set()
    for at in range(1, 100):
        folder = tmp_path / str(at)
        save_at(folder, 20)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with pytest.MonkeyPatch.context() as patch:
                    failing(patch, at, False, lambda: os._exit(9))
                    save_at(folder, 30)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        found = find(folder, report=lambda damage: pytest.fail(damage))
        steps.add(load_parameters(found)[1]["env_steps"])
        assert_holds(found, load_parameters(found)[1]["env_steps"])
        if code == 0:
            break
        save_at(folder, 40)
        assert_holds(find(folder), 40)
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    else:
        pytest.fail("no save got through")
    assert steps == {20, 30}


def test_a_disk_that_does_not_take_the_arrays_is_an_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6: the caller of a save on a full disk sees OSError, whoever wrote."""
    import safetensors.numpy
    from safetensors import SafetensorError

    def fail(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    save_at(tmp_path, 10)
    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match=r"parameters\.safetensors: .*No space left"):
        save_at(tmp_path, 20)
    assert_holds(find(tmp_path), 10)


def test_a_new_checkpoint_that_does_not_read_back_removes_no_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [save_at(tmp_path, step) for step in (10, 20)]
    rename = os.rename

    def rotten(source: Path, target: Path) -> None:
        flip(source / checkpoint.PARAMETERS, 999)
        rename(source, target)

    monkeypatch.setattr(os, "rename", rotten)
    with pytest.raises(CheckpointError, match="expected SHA-256"):
        save_at(tmp_path, 30)
    monkeypatch.undo()
    for path in old:
        verify(path)


def test_an_old_one_that_cannot_be_removed_is_a_warning_not_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_at(tmp_path, 10)
    rename = os.rename

    def keeps_the_old(source: Path, target: Path) -> None:
        if "last-10" in str(source):
            raise OSError(1, "Operation not permitted")
        rename(source, target)

    monkeypatch.setattr(os, "rename", keeps_the_old)
    with pytest.warns(CheckpointWarning, match="last-10-.* could not be removed"):
        path = save_at(tmp_path, 20, keep=1)
    assert find(tmp_path) == path
