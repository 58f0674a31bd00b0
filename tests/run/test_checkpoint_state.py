"""The state tree: what is taken apart comes together again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.run import checkpoint, state_tree, strict_json, tensors
from recollect.run.checkpoint import Checkpoints, digest
from recollect.types import Buffers
from tests.run.checkpoints import buffers


def arrays() -> st.SearchStrategy[Any]:
    def build(dtype: str, shape: list[int], seed: int, scalar: bool) -> Any:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        top = 2 if dtype == "bool" else 256
        data = np.random.default_rng(seed).integers(0, top, size, np.uint8)
        array = data.view(dtype).reshape(shape)
        return array[()] if scalar and not shape else array

    return st.builds(
        build,
        st.sampled_from(sorted(tensors.NAMES)),
        st.lists(st.integers(0, 3), max_size=3),
        st.integers(0, 99),
        st.booleans(),
    )


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | arrays()
    | st.builds(buffers, st.integers(-9, 9).map(abs), st.integers(10, 14))
)  # fmt: skip
TREES = st.dictionaries(
    st.text(),
    st.recursive(
        LEAVES,
        lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4),
    ),
    max_size=5,
)


def assert_same(found: Any, expected: Any) -> None:
    """Types, shapes and bits, by comparing piece by piece."""
    if isinstance(expected, Buffers):
        np.testing.assert_array_equal(found.numbers, expected.numbers)
        assert [a.tobytes() for a in found.arrays] == [a.tobytes() for a in expected.arrays]
        assert all(array.dtype == np.uint8 for array in found.arrays)
        assert not any(array.flags.writeable for array in found.arrays)
        return
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, inner in expected.items():
            assert_same(found[key], inner)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray | np.generic):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    else:
        assert repr(found) == repr(expected)


@settings(deadline=None, max_examples=60)
@given(state=TREES)
def test_any_state_comes_back(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    writer = Checkpoints(tmp_path_factory.mktemp("c"))
    path = writer.save("last", parameters={}, meta={"env_steps": 1}, state=state).path
    found = checkpoint.load(path).state
    assert_same(found, state)
    assert digest(found or {}) == digest(state)


def test_keys_that_look_like_paths_or_marks_are_keys(tmp_path: Path) -> None:
    one = np.array
    state = {
        "a/b": {"c": one(1)}, "a": {"b/c": one(2), "b": {"c": one(3)}}, "a~1b": one(4),
        "~0": one(5), "$": {"$": "array"}, "$$": one(6), "": {"": one(7)}, "/": one(8),
        "0": [one(9)], "..": "../..",
    }  # fmt: skip
    path = (
        Checkpoints(tmp_path).save("last", parameters={}, meta={"env_steps": 1}, state=state).path
    )
    assert_same(checkpoint.load(path).state, state)


def test_the_digest_differs_where_anything_does() -> None:
    def with_(**changes: Any) -> dict[str, Any]:
        return {"a": np.zeros(2), "b": buffers(0, 3), "c": 1, **changes}

    arrays = list(buffers(0, 3).arrays)
    others = [
        with_(a=np.zeros((2, 1))), with_(a=np.zeros(2, np.int64)), with_(a=-np.zeros(2)),
        with_(a=[0.0, 0.0]), with_(b=buffers(0, 3, salt=1)), with_(b=buffers(0, 2)),
        with_(b=Buffers(np.array([0, 1, 3]), arrays)), with_(c=1.0), with_(c=True), with_(c="1"),
        with_(c=np.int64(1)), with_(c=np.array(1)), with_(d=None), with_(c=np.int32(1)),
        with_(b=Buffers(np.arange(3), [np.concatenate(arrays[:2]), arrays[2], arrays[2][:0]])),
    ]  # fmt: skip
    assert len({digest(state) for state in [with_(), *others]}) == 1 + len(others)
    assert digest(with_()) == digest({"c": 1, "b": buffers(0, 3), "a": np.zeros(2)})
    assert digest({"a": np.arange(6).reshape(2, 3).T}) == digest(
        {"a": np.arange(6).reshape(2, 3).T.copy()}
    )


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {1: 2}}, "/a has the key 1: keys must be text"),
        ({"a": [0, object()]}, "/a/1 is a object, and a state holds"),
        ({"a": {2}}, "/a is a set"),
        ({"a": b"x"}, "/a is a bytes"),
        ({"a": np.array(["x"])}, "array '/a' is of dtype <U1"),
        ({"a": np.str_("x")}, "array '/a' is of dtype <U1"),
        ({"a": np.array([{}])}, "array '/a' is of dtype object"),
        ({"a": 10**1001}, "a whole number of 1,002 digits"),
        ({"a": "\ud800"}, "state: expected JSON"),
        ({"a": "x" * (strict_json.BYTES_LIMIT + 1)}, "belongs among the arrays"),
        ({"a": Buffers(np.array([1, 1]), [np.zeros(1, np.uint8)] * 2)}, "/a: .*must rise"),
        ({"a": Buffers(np.array([1]), [])}, r"/a: wanted numbers \[0\] int64"),
        ({"a": Buffers(np.array([1.0]), [np.zeros(1, np.uint8)])}, r"got \[1\] float64"),
    ],
)
def test_what_cannot_be_held_is_refused_before_anything_is_written(
    tmp_path: Path, state: Any, message: str
) -> None:
    writer = Checkpoints(tmp_path / "c")
    for act in (writer.save, writer.start):
        with pytest.raises(ValueError, match=message):
            act("last", parameters={}, meta={"env_steps": 1}, state=state)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "array",
    [np.zeros(3), np.zeros((2, 3), np.uint8), np.zeros(6, np.uint8)[::2], [1, 2], None],
)
def test_a_buffer_that_is_no_array_of_bytes_is_refused(tmp_path: Path, array: Any) -> None:
    good = np.zeros(3, np.uint8)
    writer = Checkpoints(tmp_path)
    for arrays in ([good, array, good], [array]):
        with pytest.raises(ValueError, match="a buffer is not an array"):
            writer.save(
                "last",
                parameters={},
                meta={"env_steps": 1},
                state={"b": Buffers(np.arange(len(arrays)), arrays)},
            )
    assert not list(tmp_path.iterdir())


def test_a_deep_state_is_refused_not_overflown() -> None:
    state: dict[str, Any] = {}
    for _ in range(5000):
        state = {"a": state}
    with pytest.raises(ValueError, match="nested deeper than"):
        state_tree.flatten(state)
    with pytest.raises(ValueError, match="nested deeper than"):
        strict_json.dumps(state, "meta")


@pytest.mark.parametrize("size", [0, 1, 5, 1 << 20])
def test_pieces_are_all_bytes_in_order_and_large_arrays_are_not_copied(size: int) -> None:
    sizes = [3, size, 0, size, (4 << 20) + 5, 7, 0]
    arrays = [np.full(n, i, np.uint8) for i, n in enumerate(sizes)]
    pieces = list(state_tree.joined(arrays, state_tree.lengths(arrays)))
    assert b"".join(bytes(piece) for piece in pieces) == b"".join(a.tobytes() for a in arrays)
    assert any(np.shares_memory(p, arrays[4]) for p in pieces if isinstance(p, np.ndarray))
