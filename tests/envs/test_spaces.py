"""Spaces as flat dicts of arrays."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.envs.spaces import Encoder, action_spec, words
from recollect.types import ActionSpec, ArraySpec, ConfigError


def encode(space, values):
    """`values`, one for each slot, batched as Gymnasium batches them and encoded."""
    batch = concatenate(space, values, create_empty_array(space, len(values)))
    faults = {}
    encoder = Encoder(space, "Test-v0")
    encoded = encoder.encode(batch, range(len(values)), faults)
    assert not faults
    for key, array in encoded.items():
        assert array.shape == (len(values), *encoder.specs[key].shape)
        assert array.dtype == encoder.specs[key].dtype
    return encoded


@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [("float64", "float32"), ("float32", "float32"), ("float16", "float16")]
    + [(name, name) for name in ("uint8", "int8", "int64", "bool")],
)
def test_a_box_keeps_its_dtype_but_for_float64(given_dtype, dtype):
    space = spaces.Box(0, 1, (2, 3), np.dtype(given_dtype).type)
    values = [np.ones((2, 3), given_dtype), np.zeros((2, 3), given_dtype)]
    assert Encoder(space, "x").specs == {"observation": ArraySpec((2, 3), dtype)}
    np.testing.assert_array_equal(encode(space, values)["observation"], values)


def test_discrete_is_one_hot_counted_from_its_start():
    space = spaces.Discrete(3, start=-1)
    np.testing.assert_array_equal(
        encode(space, [-1, 1, 0, 1])["observation"],
        [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]],
    )


def test_multi_discrete_is_one_hots_side_by_side():
    space = spaces.MultiDiscrete([2, 3], start=[0, 5])
    np.testing.assert_array_equal(
        encode(space, [np.array([1, 5]), np.array([0, 7])])["observation"],
        [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]],
    )
    table = spaces.MultiDiscrete([[2, 3], [1, 2]])
    np.testing.assert_array_equal(
        encode(table, [np.array([[1, 2], [0, 1]])])["observation"], [[0, 1, 0, 0, 1, 1, 0, 1]]
    )


def test_multi_binary_is_float():
    space = spaces.MultiBinary((2, 2))
    row = np.array([[1, 0], [0, 1]], np.int8)
    encoded = encode(space, [row, 1 - row])["observation"]
    np.testing.assert_array_equal(encoded, [row, 1 - row])
    assert encoded.dtype == np.float32


def test_nested_dicts_and_tuples_are_flat_with_slashes():
    space = spaces.Dict(
        {
            "screen": spaces.Box(0, 255, (4, 5, 1), np.uint8),
            "body": spaces.Dict({"joint": spaces.Box(-1, 1, (3,), np.float64)}),
            "bag": spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(3)]),
        }
    )
    values = [space.sample() for _ in range(5)]
    encoded = encode(space, values)
    assert set(encoded) == {"screen", "body/joint", "bag/0", "bag/1"}
    np.testing.assert_array_equal(encoded["screen"], [v["screen"] for v in values])
    np.testing.assert_array_equal(
        encoded["body/joint"], np.float32([v["body"]["joint"] for v in values])
    )
    np.testing.assert_array_equal(encoded["bag/0"].argmax(1), [v["bag"][0] for v in values])
    np.testing.assert_array_equal(encoded["bag/1"], [v["bag"][1] for v in values])


def leaf_spaces():
    return st.one_of(
        st.integers(1, 4).map(lambda n: spaces.Box(-1, 1, (n,), np.float64)),
        st.builds(spaces.Discrete, st.integers(1, 5), start=st.integers(-3, 3)),
        st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
        st.integers(1, 4).map(spaces.MultiBinary),
    )


def nested_spaces():
    return st.recursive(
        leaf_spaces(),
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(spaces.Dict),
            st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        ),
        max_leaves=6,
    )


def slow_encode(space, value, path=()):
    """One value at a time, by the table in the module's docstring."""
    key = "/".join(path) or "observation"
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        pairs = (
            [(k, s, value[k]) for k, s in space.spaces.items()]
            if isinstance(space, spaces.Dict)
            else [(str(i), s, value[i]) for i, s in enumerate(space.spaces)]
        )
        return {k: v for n, s, x in pairs for k, v in slow_encode(s, x, (*path, n)).items()}
    if isinstance(space, spaces.Discrete):
        return {key: [float(value == space.start + i) for i in range(space.n)]}
    if isinstance(space, spaces.MultiDiscrete):
        ones = [float(x == i) for n, x in zip(space.nvec, value, strict=True) for i in range(n)]
        return {key: ones}
    return {key: np.asarray(value, np.float32).tolist()}


@given(space=nested_spaces(), count=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_any_nested_space_equals_the_slow_encoding(space, count, seed):
    space.seed(seed)
    values = [space.sample() for _ in range(count)]
    encoded = encode(space, values)
    slow = [slow_encode(space, value) for value in values]
    assert set(encoded) == set(slow[0])
    for key, array in encoded.items():
        np.testing.assert_array_equal(array, np.float32([one[key] for one in slow]))


def test_an_encoding_shares_no_memory_with_the_batch():
    space = spaces.Dict({"a": spaces.Box(0, 9, (2,), np.float32), "b": spaces.MultiBinary(2)})
    batch = create_empty_array(space, 3)
    encoded = Encoder(space, "x").encode(batch, range(3), {})
    batch["a"][:] = 7
    batch["b"][:] = 1
    assert encoded["a"].max() == 0
    assert encoded["b"].max() == 0


@pytest.mark.parametrize(
    ("space", "key", "kind"),
    [
        (spaces.Sequence(spaces.Discrete(2)), "observation", "Sequence"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2))]), "1", "Sequence"),
        (
            spaces.Dict({"a": spaces.Dict({"g": spaces.Graph(spaces.Discrete(2), None)})}),
            "a/g",
            "G",
        ),
        (spaces.OneOf([spaces.Discrete(2)]), "observation", "OneOf"),
    ],
)
def test_what_cannot_be_an_array_is_refused_by_key(space, key, kind):
    with pytest.raises(ConfigError, match=f"Odd-v0: observation '{key}' is {kind}.*wrap") as caught:
        Encoder(space, "Odd-v0")
    assert "\n" not in str(caught.value)


def test_keys_that_meet_once_joined_are_refused():
    box = spaces.Box(0, 1, (1,))
    with pytest.raises(ConfigError, match="two entries named 'a/b'"):
        Encoder(spaces.Dict({"a": spaces.Dict({"b": box}), "a/b": box}), "Odd-v0")
    with pytest.raises(ConfigError, match="nothing in it"):
        Encoder(spaces.Dict({}), "Odd-v0")


def test_values_at_fault_are_named_by_slot_key_place_and_value():
    space = spaces.Dict(
        {"m": spaces.Box(-1, 1, (2, 3), np.float64), "n": spaces.MultiDiscrete([2, 3])}
    )
    m, n = np.zeros((4, 2, 3)), np.zeros((4, 2), np.int64)
    m[1, 1, 2] = np.nan
    m[3, 0, 0] = 1e300  # does not fit float32
    n[2] = [0, 3]
    faults = {}
    encoded = Encoder(space, "x").encode({"m": m, "n": n}, [10, 11, 12, 13], faults)
    assert faults == {
        11: "observation 'm'[1, 2] is nan, a finite number was wanted",
        12: "observation 'n' is 3, a number from 0 to 2 was wanted",
        13: "observation 'm'[0, 0] is inf, a finite number was wanted",
    }
    np.testing.assert_array_equal(encoded["n"][2], [1, 0, 0, 0, 0])  # no category is no one


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"m": np.zeros((3, 2), np.float32)}, r"shape \(3, 2\), its space says \(3, 3\)"),
        ({"m": np.zeros((2, 3), np.float32)}, r"shape \(2, 3\), its space says \(3, 3\)"),
        ({"m": np.zeros((3, 3), np.complex64)}, "dtype complex64, its space says float32"),
        ({"n": np.zeros((3, 3), np.float32)}, "observation 'm' is missing"),
        (None, "observation 'm' is missing"),
    ],
)
def test_a_batch_that_does_not_fit_its_space_is_refused(batch, said):
    encoder = Encoder(spaces.Dict({"m": spaces.Box(0, 1, (3,), np.float32)}), "x")
    with pytest.raises(RuntimeError, match=said):
        encoder.encode(batch, range(3), {})


def test_one_observation_is_compared_with_its_space():
    plain = Encoder(spaces.Box(0, 255, (2,), np.uint8), "x")
    assert plain.mismatch(np.zeros(2, np.uint8)) == ""
    assert "dtype float64" in plain.mismatch(np.zeros(2))
    assert "shape (3,)" in plain.mismatch(np.zeros(3, np.uint8))
    nested = Encoder(spaces.Dict({"a": spaces.Discrete(2)}), "x")
    assert nested.mismatch({"a": 1}) == nested.mismatch({"a": np.int64(1)}) == ""
    assert "missing" in nested.mismatch({"b": 1})
    assert "dtype float64" in nested.mismatch({"a": 1.0})


def test_actions_are_discrete_from_zero_or_a_box():
    assert action_spec(spaces.Discrete(4, start=3), "x") == ActionSpec(4)
    box = spaces.Box(np.float32([[-1, -2]]), np.float32([[1, np.inf]]))
    assert action_spec(box, "x") == ActionSpec(0, (1, 2), (-1.0, -2.0), (1.0, np.inf))


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (spaces.MultiDiscrete([2, 2]), "MultiDiscrete of int64"),
        (spaces.MultiBinary(2), "MultiBinary of int8"),
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple of None"),
        (spaces.Box(0, 3, (1,), np.int64), "Box of int64"),
    ],
)
def test_other_actions_are_refused_by_name(space, kind):
    with pytest.raises(ConfigError, match=f"Odd-v0: its actions are {kind}, Discrete or a Box"):
        action_spec(space, "Odd-v0")


def test_gymnasium_batches_discrete_as_numbers():
    assert batch_space(spaces.Discrete(3), 2).shape == (2,)  # what `encode` above rests on


def test_words_are_hashed_alike_everywhere():
    """A stored run's words mean the same on any machine: these numbers are for good."""
    row = words("Go to  the\tRED ball")
    assert (row.dtype, row.shape) == (np.int16, (16,))
    assert row.tolist() == [775, 757, 79, 456, 380, *[0] * 11]
    np.testing.assert_array_equal(words("go TO the red BALL"), row)
    assert not words("").any()
    assert not words(" \n ").any()
    np.testing.assert_array_equal(words("a " * 16 + "b"), words("a " * 16))
    assert words("\ud800")[0] > 0  # half a pair is a word as well
    many = np.array([words(f"x{i}")[0] for i in range(20_000)])
    assert (many.min(), many.max()) == (1, 1000)


def test_encoded_texts_share_no_memory_with_the_batch():
    encoder = Encoder(spaces.Text(9), "x/Told-v0")
    arrays = encoder.empty(2)
    assert not encoder.put("go", arrays, 1)
    encoded = encoder.encode(encoder.nested(arrays), range(2), {})["observation"]
    assert not np.shares_memory(encoded, arrays["observation"])
    np.testing.assert_array_equal(encoded, [words(""), words("go")])
