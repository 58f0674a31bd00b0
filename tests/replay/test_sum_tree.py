from __future__ import annotations

import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from recollect.replay.sum_tree import LARGEST_CAPACITY, LARGEST_VALUE, SumTree
from recollect.types import Array

# One leaf, a group and its neighbours, two and three levels, and some that fill none.
CAPACITIES = [1, 2, 7, 15, 16, 17, 35, 255, 256, 257, 700, 4097]
JUST_BELOW_1 = math.nextafter(1.0, 0.0)


def tree_of(values: Array | list[float]) -> SumTree:
    tree = SumTree(len(values))
    tree.set(np.arange(len(values)), np.asarray(values, np.float64))
    return tree


def find_slowly(values: Array, uniform: float) -> int:
    """The first leaf whose cumulated sum is above the target; the last not 0 if none is."""
    target = uniform * math.fsum(values)
    cumulated = 0.0
    for leaf, value in enumerate(values):
        cumulated += value
        if cumulated > target:
            return leaf
    return int(np.flatnonzero(values)[-1])


def test_leaves_are_found_in_proportion_to_their_values() -> None:
    tree = tree_of([1.0, 0.0, 3.0, 4.0])
    assert tree.total == 1.0 + 3.0 + 4.0
    found = tree.find(np.array([0.0, 0.124, 0.125, 0.49, 0.5, 0.99]))
    assert found.tolist() == [0, 0, 2, 2, 3, 3]
    assert tree.get(np.array([2, 1, 2])).tolist() == [3.0, 0.0, 3.0]


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_find_agrees_with_a_slow_loop_over_whole_numbers(capacity: int) -> None:
    # Whole numbers and a total that is a power of 2 leave nothing to rounding.
    rng = np.random.default_rng(capacity)
    values = rng.integers(0, 4, capacity).astype(np.float64)
    total = 2.0 ** math.ceil(math.log2(values.sum() + 1))
    values[-1] += total - values.sum()
    uniforms = rng.integers(0, int(total), 200) / total
    found = tree_of(values).find(uniforms)
    assert found.tolist() == [find_slowly(values, uniform) for uniform in uniforms]


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_every_unit_of_mass_finds_its_own_leaf(capacity: int) -> None:
    values = np.random.default_rng(capacity).integers(0, 5, capacity).astype(np.float64)
    values[capacity // 2] = 3
    units = np.arange(int(values.sum()))
    found = tree_of(values).find((units + 0.5) / values.sum())
    assert np.array_equal(np.bincount(found, minlength=capacity), values)


def test_draws_follow_the_distribution() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(700) ** 3
    values[rng.random(700) < 0.2] = 0.0
    draws = 200_000
    counts = np.bincount(tree_of(values).find(rng.random(draws)), minlength=700)
    expected = draws * values / values.sum()
    assert not counts[values == 0.0].any()
    often = expected > 5
    chi_square = np.sum((counts[often] - expected[often]) ** 2 / expected[often])
    freedom = np.count_nonzero(often)
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_the_last_of_repeated_leaves_wins(capacity: int) -> None:
    tree = SumTree(capacity)
    tree.set(np.full(3, capacity - 1), np.array([5.0, 9.0, 2.0]))
    assert tree.get(np.array([capacity - 1])) == 2.0
    assert tree.total == 2.0
    tree.check_valid()


def test_a_tree_is_a_function_of_its_leaves_whatever_was_written_before() -> None:
    """R2: equal to the rebuild bit for bit; the total does not drift."""
    rng = np.random.default_rng(3)
    worn = SumTree(1000)
    for n in rng.integers(1, 300, 200):  # few leaves go up one by one, many by the level
        worn.set(rng.integers(0, 1000, n), rng.random(n) * 10.0 ** rng.integers(-200, 200, n))
        worn.check_valid()
    last = rng.random(1000)
    worn.set(np.arange(1000), last)
    uniforms = rng.random(500)
    assert worn.total == tree_of(last).total
    assert np.array_equal(worn.find(uniforms), tree_of(last).find(uniforms))
    assert math.isclose(worn.total, math.fsum(last), rel_tol=1e-14)


numbers = st.one_of(
    st.just(0.0),
    st.floats(0.0, LARGEST_VALUE, allow_subnormal=True),
    st.sampled_from([5e-324, 1e-310, 1e-300, 1.0, math.nextafter(1.0, 0.0), 1 / 3, 1e300]),
)
fractions = st.one_of(
    st.floats(0.0, 1.0, exclude_max=True), st.sampled_from([0.0, 5e-324, JUST_BELOW_1])
)


@settings(deadline=None, max_examples=300)
@given(
    values=st.lists(numbers, min_size=1, max_size=40),
    spread=st.sampled_from([1, 5, 17]),
    uniforms=st.lists(fractions, min_size=1, max_size=20),
)
def test_a_leaf_of_value_zero_is_never_found(
    values: list[float], spread: int, uniforms: list[float]
) -> None:
    leaves = np.arange(len(values)) * spread
    tree = SumTree(len(values) * spread)
    tree.set(leaves, np.array(values))
    if not any(values):
        with pytest.raises(RuntimeError, match="all leaves are 0"):
            tree.find(np.array(uniforms))
        return
    assert np.all(tree.get(tree.find(np.array(uniforms))) > 0.0)


def test_rounding_never_ends_in_a_zero_leaf() -> None:
    rng = np.random.default_rng(1)
    closest = np.array([0.0, 5e-324, 0.5, JUST_BELOW_1, math.nextafter(JUST_BELOW_1, 0.0)])
    for trial in range(400):
        values = rng.random(rng.integers(1, 300)) * 10.0 ** rng.integers(-300, 299)
        values[rng.random(len(values)) < 0.7] = 0.0
        values[rng.integers(len(values))] = 10.0 ** rng.integers(-323, 300)
        if trial % 2:
            values[-(len(values) // 2) :] = 0.0
            values[0] = 1 / 3
        # Fractions on the very edges between leaves, where rounding decides.
        edges = np.cumsum(values) / values.sum()
        uniforms = np.r_[closest, np.minimum(np.r_[edges, np.nextafter(edges, 0.0)], JUST_BELOW_1)]
        tree = tree_of(values)
        found = tree.find(uniforms)
        assert np.all(tree.get(found) > 0.0)


def test_just_below_one_finds_the_last_leaf_that_is_not_zero() -> None:
    for last in (0, 1, 15, 16, 299, 511):
        values = np.zeros(512)
        values[: last + 1] = 0.1
        assert tree_of(values).find(np.array([JUST_BELOW_1])).tolist() == [last]


def test_rounding_at_an_upper_level_stays_at_the_far_end() -> None:
    rng = np.random.default_rng(4)
    for capacity in rng.integers(17, 5000, 200):
        tree = tree_of(0.5 + rng.random(capacity))  # far more than rounding, the last leaf too
        assert tree.find(np.array([JUST_BELOW_1])).tolist() == [capacity - 1]


def test_denormal_leaves_alone_can_be_found() -> None:
    values = np.zeros(20)
    values[[3, 18]] = 5e-324
    found = tree_of(values).find(np.array([0.0, 0.2, 0.8, JUST_BELOW_1]))
    assert found.tolist() == [3, 3, 18, 18]


def test_a_full_range_of_values_has_a_finite_total() -> None:
    tree = SumTree(300)
    tree.set(np.arange(300), np.full(300, LARGEST_VALUE))
    assert math.isclose(tree.total, 300 * LARGEST_VALUE)
    assert math.isfinite(LARGEST_CAPACITY * LARGEST_VALUE)
    tree.check_valid()


@pytest.mark.parametrize("value", [-1.0, -5e-324, math.nan, math.inf, -math.inf, 2 * LARGEST_VALUE])
def test_a_bad_value_is_named_with_its_leaf_and_changes_nothing(value: float) -> None:
    tree = tree_of([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"leaf 2 was given") as caught:
        tree.set(np.array([0, 2]), np.array([7.0, value]))
    assert str(value) in str(caught.value)
    assert tree.get(np.arange(3)).tolist() == [1.0, 2.0, 3.0]
    tree.check_valid()


@pytest.mark.parametrize("leaf", [-1, 3, 2**40])
def test_a_leaf_out_of_range_is_refused_and_changes_nothing(leaf: int) -> None:
    tree = tree_of([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=rf"leaf {leaf} is outside \[0, 3\)"):
        tree.set(np.array([0, leaf]), np.array([7.0, 7.0]))
    with pytest.raises(ValueError, match=rf"leaf {leaf} is outside"):
        tree.get(np.array([0, leaf]))
    assert tree.get(np.arange(3)).tolist() == [1.0, 2.0, 3.0]


def test_arguments_of_the_wrong_kind_are_refused() -> None:
    tree = tree_of([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="leaves must be integers"):
        tree.set(np.array([0.5]), np.array([1.0]))
    with pytest.raises(ValueError, match="leaves must be integers"):
        tree.get(np.array([[0]]))
    with pytest.raises(ValueError, match="2 leaves came with 1 values"):
        tree.set(np.array([0, 1]), np.array([1.0]))
    with pytest.raises(ValueError, match="uniforms must be numbers"):
        tree.find(np.array(["a"]))


@pytest.mark.parametrize("uniform", [-1e-9, 1.0, math.nan, math.inf])
def test_a_uniform_outside_its_range_is_refused(uniform: float) -> None:
    with pytest.raises(ValueError, match=r"uniform must be in \[0, 1\)"):
        tree_of([1.0, 2.0]).find(np.array([0.5, uniform]))


@pytest.mark.parametrize("capacity", [0, -3, LARGEST_CAPACITY + 1])
def test_a_capacity_out_of_range_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity must be in"):
        SumTree(capacity)


@pytest.mark.parametrize("capacity", [1, 2, 16, 17, 300, 5000])
def test_leaves_are_found_with_their_values(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    tree = SumTree(capacity)
    tree.set(np.arange(capacity), np.floor(rng.random(capacity) * 3) + (capacity < 3))
    uniforms = np.append(rng.random(200), [0.0, np.nextafter(1.0, 0.0)])
    leaves, values = tree.find_with_values(uniforms)
    np.testing.assert_array_equal(leaves, tree.find(uniforms), strict=True)
    np.testing.assert_array_equal(values, tree.get(leaves), strict=True)


def test_nothing_can_be_found_in_an_empty_tree() -> None:
    with pytest.raises(RuntimeError, match="all leaves are 0"):
        SumTree(5).find(np.array([0.5]))


def test_empty_batches_are_no_work() -> None:
    tree = tree_of([1.0, 2.0, 3.0])
    tree.set(np.array([], np.int64), np.array([]))
    assert tree.find(np.array([])).tolist() == []
    assert tree.get(np.array([], np.int64)).tolist() == []


def test_arguments_may_be_read_only_or_strided_or_narrow() -> None:
    leaves, values, uniforms = np.array([2, 0, 1]), np.array([3.0, 1.0, 2.0]), np.array([0.99])
    for array in (leaves, values, uniforms):
        array.setflags(write=False)
    tree = SumTree(3)
    tree.set(leaves, values)
    assert tree.find(uniforms).tolist() == [2]
    tree.set(np.array([0, 9, 2], np.int32)[::2], np.array([4, 9, 5], np.float32)[::2])
    assert tree.get(np.arange(3)).tolist() == [4.0, 2.0, 5.0]


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("more", [0, 1, 16, 5000])
def test_growing_keeps_the_leaves(capacity: int, more: int) -> None:
    values = np.random.default_rng(0).random(capacity)
    tree = tree_of(values)
    tree.grow(capacity + more)
    assert tree.capacity == capacity + more
    assert np.array_equal(tree.get(np.arange(capacity + more)), np.r_[values, np.zeros(more)])
    tree.check_valid()
    tree.set(np.array([capacity + more - 1]), np.array([1e9]))
    assert tree.find(np.array([0.9])).tolist() == [capacity + more - 1]


def test_a_tree_never_shrinks() -> None:
    tree = SumTree(20)
    with pytest.raises(ValueError, match="20 leaves cannot grow to 19"):
        tree.grow(19)


def test_a_stale_entry_is_noticed_and_rebuilt() -> None:
    """R2: the check is not satisfied by less than every bit."""
    tree = tree_of(np.random.default_rng(0).random(700))
    sound = tree.total
    for place in (0, 16, 33):  # the root, and an entry of each level below it
        tree._tree[place] = math.nextafter(tree._tree[place], math.inf)
        with pytest.raises(RuntimeError, match="differ from their recomputation"):
            tree.check_valid()
        tree.rebuild()
        tree.check_valid()
    assert tree.total == sound
    tree._leaves[5] += 1.0
    with pytest.raises(RuntimeError, match="differ from their recomputation"):
        tree.check_valid()


def test_mass_in_the_padding_is_noticed() -> None:
    tree = tree_of([1.0, 2.0, 3.0])
    tree._tree[int(tree._starts[-1]) + 3] = 1.0
    tree.rebuild()
    with pytest.raises(RuntimeError, match="differ from their recomputation"):
        tree.check_valid()


def test_a_restored_tree_goes_on_identically() -> None:
    rng = np.random.default_rng(0)
    tree = tree_of(rng.random(700))
    state = tree.state_dict()
    restored = SumTree(3)
    restored.load_state_dict(state)
    for one in (tree, restored):
        one.set(np.array([5, 600]), np.array([2.0, 3.0]))
    uniforms = rng.random(300)
    assert restored.capacity == 700
    assert restored.total == tree.total
    assert np.array_equal(restored.find(uniforms), tree.find(uniforms))
    assert state["leaves"][600] != 3.0  # the state is a copy


@pytest.mark.parametrize(
    "leaves",
    [
        np.array([1.0, math.nan]),
        np.array([1.0, -1.0]),
        np.array([math.inf]),
        np.array([]),
        np.ones((2, 3)),
        np.array(["1.0"]),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(leaves: Array) -> None:
    tree = tree_of([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"leaf|leaves"):
        tree.load_state_dict({"leaves": leaves})
    assert tree.get(np.arange(3)).tolist() == [1.0, 2.0, 3.0]
    tree.check_valid()


def test_groups_begin_at_cache_lines() -> None:
    for capacity in CAPACITIES:
        tree = SumTree(capacity)
        assert tree._tree.ctypes.data % 128 == 0
        assert not np.any(tree._starts % 16)


def test_the_kernels_leave_other_threads_running() -> None:
    tree = tree_of(np.ones(2**16))
    uniforms = np.random.default_rng(0).random(2_000_000)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (tree.find(uniforms), done.set()))
    thread.start()
    turns = 0
    while not done.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 3  # with the lock held there would be none before the end


class Machine(RuleBasedStateMachine):
    """Against a plain list."""

    @initialize(capacity=st.integers(1, 40))
    def begin(self, capacity: int) -> None:
        self.tree = SumTree(capacity)
        self.model = [0.0] * capacity

    @rule(data=st.data(), writes=st.integers(0, 50))
    def write(self, data: st.DataObject, writes: int) -> None:
        places = st.integers(0, len(self.model) - 1)
        leaves = data.draw(st.lists(places, min_size=writes, max_size=writes))
        values = data.draw(st.lists(numbers, min_size=writes, max_size=writes))
        self.tree.set(np.array(leaves, np.int64), np.array(values))
        for leaf, value in zip(leaves, values, strict=True):
            self.model[leaf] = value

    @rule(more=st.integers(0, 300))
    def grow(self, more: int) -> None:
        capacity = min(len(self.model) + more, 1000)
        self.tree.grow(capacity)
        self.model += [0.0] * (capacity - len(self.model))

    @rule()
    def save_and_load(self) -> None:
        state = self.tree.state_dict()
        self.tree = SumTree(1)
        self.tree.load_state_dict(state)

    @rule(uniform=fractions)
    def find(self, uniform: float) -> None:
        if any(self.model):
            leaf = int(self.tree.find(np.array([uniform]))[0])
            assert self.model[leaf] > 0.0
            total = math.fsum(self.model)
            before = math.fsum(self.model[:leaf])
            rounding = 1e-13 * total + 1e-323
            assert before - rounding <= uniform * total <= before + self.model[leaf] + rounding

    @invariant()
    def agrees(self) -> None:
        self.tree.check_valid()
        assert self.tree.get(np.arange(len(self.model))).tolist() == self.model
        assert math.isclose(self.tree.total, math.fsum(self.model), rel_tol=1e-12)


Machine.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=20)
TestAgainstAList = Machine.TestCase


def test_another_process_finds_the_same_leaves() -> None:
    """C4: the order of additions is fixed, so a resumed run draws the same items."""
    script = (
        "import numpy as np; from recollect.replay.sum_tree import SumTree\n"
        "rng = np.random.default_rng(5); tree = SumTree(5000)\n"
        "tree.set(np.arange(5000), rng.random(5000))\n"
        "print(tree.total.hex(), tree.find(rng.random(1000)).sum())"
    )
    run = [sys.executable, "-c", script]
    out = subprocess.run(run, capture_output=True, text=True, check=True, env=dict(os.environ))
    rng = np.random.default_rng(5)
    tree = tree_of(rng.random(5000))
    assert out.stdout.split() == [tree.total.hex(), str(tree.find(rng.random(1000)).sum())]
