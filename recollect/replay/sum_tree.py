"""A 16-ary sum tree: draw leaves in proportion to their values.

The tree is one float64 array of groups of 16 entries, level after level, the root first and the
leaves last. A group holds the children of one entry of the level above and fills two cache lines,
at whose boundary the array begins, so that a level costs a draw one visit to memory. An entry is
recomputed from its 16 children whenever one of them changes, always in the same order of additions,
and never adjusted by a difference: the tree is a function of its leaves, bit for bit, and cannot
drift from them.

The kernels take a batch level by level rather than leaf by leaf: the waits for memory of its
members overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from recollect.replay.memory import aligned_zeros
from recollect.replay.reading import read
from recollect.types import Array

LARGEST_VALUE = 1e300
LARGEST_CAPACITY = 10**8  # times LARGEST_VALUE is finite, and so is every sum

_GROUP = 16  # entries; the kernels say 16, and 4 for the bits of it
_FLOATS = types.Array(types.float64, 1, "C")
_INTS = types.Array(types.int64, 1, "C")
# Read-only in the signature takes both kinds: arrays that came over a wire often are.
_GIVEN_FLOATS = types.Array(types.float64, 1, "C", readonly=True)
_GIVEN_INTS = types.Array(types.int64, 1, "C", readonly=True)


@njit([types.float64(_FLOATS, types.int64)], cache=True, nogil=True, inline="always")
def _group_sum(tree, start):  # type: ignore[no-untyped-def]
    """Sum of the group at `start`, in pairs that lie a vector register apart."""
    a0 = tree[start] + tree[start + 8]
    a1 = tree[start + 1] + tree[start + 9]
    a2 = tree[start + 2] + tree[start + 10]
    a3 = tree[start + 3] + tree[start + 11]
    a4 = tree[start + 4] + tree[start + 12]
    a5 = tree[start + 5] + tree[start + 13]
    a6 = tree[start + 6] + tree[start + 14]
    a7 = tree[start + 7] + tree[start + 15]
    return ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7))


@njit([types.void(_FLOATS, _INTS, _INTS, types.int64)], cache=True, nogil=True)
def _rebuild(tree, starts, widths, levels):  # type: ignore[no-untyped-def]
    """Recompute every entry of the uppermost `levels`."""
    for level in range(levels - 1, -1, -1):
        for entry in range(widths[level]):
            tree[starts[level] + entry] = _group_sum(tree, starts[level + 1] + entry * 16)


@njit(
    [types.int64(_FLOATS, _INTS, _INTS, _GIVEN_INTS, _GIVEN_FLOATS)],
    cache=True,
    nogil=True,
)
def _set(tree, starts, widths, leaves, values):  # type: ignore[no-untyped-def]
    """Write the leaves, recompute all above them. -1, or the place of the first bad argument."""
    n = leaves.shape[0]
    depth = widths.shape[0] - 1
    for i in range(n):
        if not (0 <= leaves[i] < widths[depth] and 0.0 <= values[i] <= LARGEST_VALUE):
            return i
    entries = np.empty(n, np.int64)
    for i in range(n):
        tree[starts[depth] + leaves[i]] = values[i]
        entries[i] = leaves[i]
    for level in range(depth - 1, -1, -1):
        if widths[level] <= n:  # most entries have changed, here and above
            _rebuild(tree, starts, widths, level + 1)
            break
        kept = 0
        for i in range(n):
            entry = entries[i] >> 4
            if kept > 0 and entries[kept - 1] == entry:  # new items lie side by side
                continue
            tree[starts[level] + entry] = _group_sum(tree, starts[level + 1] + entry * 16)
            entries[kept] = entry
            kept += 1
        n = kept
    return -1


@intrinsic
def _descend(typing_context, group, target):  # type: ignore[no-untyped-def]
    """How many cumulated sums of the group at an address are not above the target; the last such.

    Two vectors of eight, cumulated in three steps each: that takes half the time of any loop.
    """
    given = types.Tuple((types.int64, types.float64))
    number, index = ir.DoubleType(), ir.IntType(32)
    eight = ir.VectorType(number, 8)

    def lanes(places):  # type: ignore[no-untyped-def]
        return ir.Constant(ir.VectorType(index, len(places)), list(places))

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        address = builder.inttoptr(arguments[0], eight.as_pointer())
        zeros, unset = ir.Constant(eight, [0.0] * 8), ir.Constant(eight, ir.Undefined)
        halves = []
        for half in range(2):
            sums = builder.load(builder.gep(address, [index(half)]))
            sums.align = 64
            for step in (1, 2, 4):
                shifted = lanes([8 + j - step if j >= step else 0 for j in range(8)])
                sums = builder.fadd(sums, builder.shuffle_vector(zeros, sums, shifted))
            halves.append(sums)
        first_half = builder.shuffle_vector(halves[0], unset, lanes([7] * 8))
        halves[1] = builder.fadd(halves[1], first_half)
        targets = builder.insert_element(unset, arguments[1], index(0))
        targets = builder.shuffle_vector(targets, unset, lanes([0] * 8))
        passed = [builder.fcmp_ordered("<=", sums, targets) for sums in halves]
        bits = builder.bitcast(builder.shuffle_vector(*passed, lanes(range(16))), ir.IntType(16))
        bits = builder.zext(bits, ir.IntType(64))
        count = builder.call(builder.module.declare_intrinsic("llvm.ctpop", [bits.type]), [bits])
        room = cgutils.alloca_once(builder, ir.ArrayType(number, 17))
        builder.store(number(0.0), builder.gep(room, [index(0), index(0)]))
        for place, sums in zip((1, 9), halves, strict=True):
            to = builder.gep(room, [index(0), index(place)])
            builder.store(sums, builder.bitcast(to, eight.as_pointer())).align = 8
        last = builder.load(builder.gep(room, [count.type(0), count]))
        return context.make_tuple(builder, given, [count, last])

    return given(types.int64, types.float64), generate


_step_down: Any = _descend  # as compiled code calls it: (address of a group, target)


@njit([types.int64(_FLOATS, _INTS, _GIVEN_FLOATS, _INTS, _FLOATS)], cache=True, nogil=True)
def _find(tree, starts, uniforms, entries, values):  # type: ignore[no-untyped-def]
    """Write the leaves found to `entries`, and theirs to `values`.

    Returns:
        -1, or the place of the first bad argument.
    """
    n = uniforms.shape[0]
    begin = tree.ctypes.data
    targets = np.empty(n + 1, np.float64)
    for i in range(n):
        if not 0.0 <= uniforms[i] < 1.0:
            return i
        targets[i] = uniforms[i] * tree[0]
        entries[i] = 0
        values[i] = tree[0]
    depth = starts.shape[0] - 1
    for level in range(1, depth + 1):
        if level == depth:
            # The leaves seldom fit a cache. Asking for all the lines first, which needs no answer
            # to go on, is faster by a quarter; the sum is kept so that the loop is.
            touched = 0.0
            for i in range(n):
                start = starts[level] + entries[i] * 16
                touched += tree[start] + tree[start + 8]
            targets[n] = touched
        for i in range(n):
            start = starts[level] + entries[i] * 16
            child, passed = _step_down(begin + start * 8, targets[i])
            value = tree[start + min(child, 15)]
            if child > 15 or value == 0.0:
                # Rounding has put the target at the far end, or beside the entry it is in.
                child = min(child, 15)
                while child > 0 and tree[start + child] == 0.0:
                    child -= 1
                while tree[start + child] == 0.0:
                    child += 1
                value = tree[start + child]
                targets[i] = value
            else:
                targets[i] -= passed
            entries[i] = entries[i] * 16 + child
            values[i] = value
    return -1


class SumTree:
    """`capacity` leaves of value >= 0, all 0 at first, drawn in proportion to their values.

    It is not locked: whoever shares it between threads takes turns.

    Args:
        capacity: number of leaves, 1 to LARGEST_CAPACITY.
    Raises:
        ValueError: if `capacity` is outside that range.
    """

    def __init__(self, capacity: int) -> None:
        self._lay_out(capacity)

    def _lay_out(self, capacity: int) -> None:
        """A tree of zeros."""
        if not 1 <= capacity <= LARGEST_CAPACITY:
            raise ValueError(f"capacity must be in [1, {LARGEST_CAPACITY}] leaves, not {capacity}")
        widths = [capacity]
        while widths[0] > 1:
            widths.insert(0, -(-widths[0] // _GROUP))
        padded = [-(-width // _GROUP) * _GROUP for width in widths]
        ends = np.cumsum(padded)
        self._capacity = capacity
        self._widths = np.array(widths, np.int64)
        self._starts = ends - padded
        self._tree = aligned_zeros(8 * int(ends[-1]), 8 * _GROUP).view(np.float64)
        first = int(self._starts[-1])
        self._leaves = self._tree[first : first + capacity]  # a view

    @property
    def capacity(self) -> int:
        """Number of leaves."""
        return self._capacity

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self._tree[0])

    def set(self, leaves: Array, values: Array) -> None:
        """Give leaves [n] the values [n]; of a leaf given twice, the last value stays.

        Raises:
            ValueError: if a leaf is outside [0, capacity), or a value is not in
                [0, LARGEST_VALUE]. Nothing has changed then.
        """
        leaves, values = _integers(leaves), _floats("values", values)
        if leaves.shape != values.shape:
            raise ValueError(
                f"each leaf takes one value: {len(leaves)} leaves came with {len(values)} values"
            )
        bad = _set(self._tree, self._starts, self._widths, leaves, values)
        if bad >= 0:
            self._check_leaf(int(leaves[bad]))
            raise ValueError(
                f"a value must be in [0, {LARGEST_VALUE}]: leaf {leaves[bad]} was given "
                f"{values[bad]}"
            )

    def get(self, leaves: Array) -> Array:
        """Values [n] of leaves [n].

        Raises:
            ValueError: if a leaf is outside [0, capacity).
        """
        leaves = _integers(leaves)
        if leaves.size:
            self._check_leaf(int(leaves.min()))
            self._check_leaf(int(leaves.max()))
        values: Array = self._leaves[leaves]
        return values

    def find(self, uniforms: Array) -> Array:
        """Leaves [n] at the fractions `uniforms` [n] of the total, counted from leaf 0 up.

        With u uniform in [0, 1), P(leaf) = value / total. A leaf of value 0 is never found.

        Raises:
            ValueError: if a uniform is outside [0, 1).
            RuntimeError: if all leaves are 0.
        """
        return self.find_with_values(uniforms)[0]

    def find_with_values(self, uniforms: Array) -> tuple[Array, Array]:
        """What `find` gives, and the values [n] of these leaves: `get` would visit them again.

        Raises:
            ValueError, RuntimeError: as `find`.
        """
        uniforms = _floats("uniforms", uniforms)
        if not self._tree[0] > 0.0:
            raise RuntimeError("nothing to find: all leaves are 0; set one first")
        found, values = np.empty(uniforms.shape, np.int64), np.empty(uniforms.shape, np.float64)
        bad = _find(self._tree, self._starts, uniforms, found, values)
        if bad >= 0:
            raise ValueError(f"a uniform must be in [0, 1), not {uniforms[bad]}")
        return found, values

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` leaves; those there keep their values, the new ones are 0.

        Raises:
            ValueError: if `capacity` is less than it was, or more than LARGEST_CAPACITY.
        """
        if capacity < self._capacity:
            raise ValueError(
                f"a tree of {self._capacity} leaves cannot grow to {capacity}: it never shrinks"
            )
        if capacity > self._capacity:
            self._refill(capacity, self._leaves)

    def rebuild(self) -> None:
        """Recompute everything from the leaves."""
        _rebuild(self._tree, self._starts, self._widths, len(self._widths) - 1)

    def check_valid(self) -> None:
        """Compare the tree with its rebuild, bit for bit, and its total with the sum of the leaves.

        Raises:
            RuntimeError: if they differ, the total by more than 1e-6 of it.
        """
        fresh = SumTree(self._capacity)
        fresh._refill(self._capacity, self._leaves)
        differ = np.flatnonzero(fresh._tree.view(np.int64) != self._tree.view(np.int64))
        if differ.size:
            place = int(differ[0])
            raise RuntimeError(
                f"{differ.size} entries of the sum tree differ from their recomputation, the first "
                f"at {place}: {self._tree[place]} instead of {fresh._tree[place]}; call rebuild()"
            )
        exact = math.fsum(self._leaves)
        if not math.isclose(self.total, exact, rel_tol=1e-6):
            raise RuntimeError(
                f"the sum tree's total is {self.total}, its leaves add up to {exact}"
            )

    def state_dict(self) -> dict[str, Array]:
        """`leaves`: [capacity] float64."""
        return {"leaves": self._leaves.copy()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Become the tree whose state this was, of its capacity.

        Raises:
            ValueError: if the leaves are no [capacity] float64 in [0, LARGEST_VALUE], or more than
                LARGEST_CAPACITY. Nothing has changed then.
        """
        (leaves,) = read(state, {"leaves": ("float64", 1)})
        if not np.all((leaves >= 0.0) & (leaves <= LARGEST_VALUE)):  # also where NaN
            raise ValueError(f"a saved leaf is not in [0, {LARGEST_VALUE}]: the state is damaged")
        self._refill(len(leaves), leaves)

    def _refill(self, capacity: int, leaves: Array) -> None:
        """Become a tree of `capacity` leaves of which the first are `leaves`."""
        self._lay_out(capacity)
        self._leaves[: len(leaves)] = leaves
        self.rebuild()

    def _check_leaf(self, leaf: int) -> None:
        if not 0 <= leaf < self._capacity:
            raise ValueError(f"leaf {leaf} is outside [0, {self._capacity}); grow the tree first")


def _integers(leaves: Array) -> Array:
    """`leaves` as the kernels want them."""
    given = np.asarray(leaves)
    if given.ndim != 1 or (given.dtype.kind not in "iu" and given.size):
        raise ValueError(f"leaves must be integers [n], not {given.dtype} {list(given.shape)}")
    return np.ascontiguousarray(given, np.int64)


def _floats(name: str, numbers: Array) -> Array:
    """`numbers` as the kernels want them."""
    given = np.asarray(numbers)
    if given.ndim != 1 or given.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be numbers [n], not {given.dtype} {list(given.shape)}")
    return np.ascontiguousarray(given, np.float64)
