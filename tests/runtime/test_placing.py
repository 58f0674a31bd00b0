"""What parts take of machines: said in words, and whether there is room for it."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.runtime import placing
from recollect.runtime.placing import DEFAULTS, KINDS, LEAST, Demand, Node, check_room, parse
from recollect.types import ConfigError


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(placing).failed == 0


def test_nothing_said_is_the_defaults() -> None:
    assert parse("") == {kind: DEFAULTS.get(kind, Demand()) for kind in KINDS}
    assert parse("  ")["learner"] == Demand(cpus=1.0)
    assert parse("")["replay"].bundle() == {"memory": placing.LEAST_BYTES}  # no processor


def test_what_is_said_of_a_kind_changes_that_alone() -> None:
    found = parse("learner:cpus=4,gpus=1 actor:node=10.0.0.2 replay:cpus=0.5,node=big actor:cpus=2")
    assert found["learner"] == Demand(4.0, 1.0)
    assert found["actor"] == Demand(2.0, 0.0, "10.0.0.2")
    assert found["replay"] == Demand(0.5, 0.0, "big")
    assert found["parameters"] == Demand()
    assert parse(placing.EXAMPLE)["actor"].node == "10.0.0.2"


def test_a_bundle_is_what_a_cluster_reads() -> None:
    """An address is a node's own resource, any other name one that it was started with."""
    assert Demand(2.0, 1.0, "10.0.0.2").bundle() == {"CPU": 2.0, "GPU": 1.0, "node:10.0.0.2": LEAST}
    assert Demand(1.0, 0.0, "fe80::1").bundle() == {"CPU": 1.0, "node:fe80::1": LEAST}
    assert Demand(1.0, 0.0, "big").bundle() == {"CPU": 1.0, "big": LEAST}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("learner", r"place 'learner': kind:what=value,\.\.\. was wanted, as in 'learner:cpus=4"),
        ("learner:", r"place 'learner:': kind:what=value"),
        ("lerner:cpus=1", r"kind of part 'lerner' is not known: did you mean learner\?, there are"),
        (":cpus=1", r"kind of part '' is not known, there are learner, actor"),
        ("actor:cpu=1", r"setting 'cpu' is not known: did you mean cpus\?, there are cpus, gpus"),
        ("actor:cpus", r"cpus has no value"),
        ("actor:cpus=", r"cpus has no value"),
        ("actor:cpus=1,", r"setting '' is not known"),
        ("actor:cpus=-1", r"cpus is '-1'"),
        ("actor:cpus=1.5", r"cpus is '1\.5', 0 or a number from .* a whole one if it is above 1"),
        ("actor:cpus=many", r"cpus is 'many'"),
        ("actor:cpus=nan", r"cpus is 'nan'"),
        ("actor:cpus=inf", r"cpus is 'inf'"),
        ("actor:cpus=0.00001", r"cpus is .0\.00001., 0 or a number from 0\.0001 was wanted"),
        ("actor:node=GPU", r"node is .GPU., an address or a resource"),
        ("learner:cpus=1,cpus=2", r"place 'learner:cpus=1,cpus=2': cpus of learner is given twice"),
        ("learner:cpus=1 actor:cpus=1 learner:cpus=2", r"'learner:cpus=2': cpus of learner is giv"),
        ("actor:gpus=10001", r"gpus is .10001., 0 or a number from 0.0001 was wanted"),
    ],
)
def test_what_cannot_be_read_is_refused(place: str, message: str) -> None:
    """F1."""
    with pytest.raises(ConfigError, match=message) as found:
        parse(place)
    assert "\n" not in str(found.value)


@given(place=st.text(alphabet="actorlen:=,. gpus0129-\n", max_size=40))
def test_any_text_is_read_or_refused_in_a_line(place: str) -> None:
    """F1."""
    found: Mapping[str, Demand] | str
    try:
        found = parse(place)
    except ConfigError as error:
        found = str(error)
    assert "\n" not in found
    assert isinstance(found, str) or set(found) == set(KINDS)


# --- Room -----------------------------------------------------------------------------------------


def fits(demands: Mapping[str, Demand], nodes: Sequence[Node]) -> bool:
    """Whether any way of putting each part on some node does: all are tried."""
    bundles = [demand.bundle() for demand in demands.values()]
    for way in itertools.product(range(len(nodes)), repeat=len(bundles)):
        used: list[dict[str, float]] = [{} for _ in nodes]
        for bundle, node in zip(bundles, way, strict=True):
            for what, amount in bundle.items():
                used[node][what] = used[node].get(what, 0.0) + amount
        if all(
            amount <= node.free.get(what, 0.0) + 1e-6
            for node, own in zip(nodes, used, strict=True)
            for what, amount in own.items()
        ):
            return True
    return not bundles


def has_room(demands: Mapping[str, Demand], nodes: Sequence[Node]) -> bool:
    try:
        check_room(demands, nodes)
    except ConfigError:
        return False
    return True


addresses = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
clusters = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 4.0]), st.sampled_from([0.0, 1.0, 2.0])),
    min_size=1,
    max_size=3,
).map(
    lambda sizes: [
        Node(address, {"CPU": cpus, "GPU": gpus, f"node:{address}": 1.0})
        for address, (cpus, gpus) in zip(addresses, sizes, strict=False)
    ]
)


def demands_of(sizes: Sequence[tuple[float, float, str]]) -> dict[str, Demand]:
    return {f"actor/{i}": Demand(*size) for i, size in enumerate(sizes)}


@given(
    sizes=st.lists(
        st.tuples(
            st.sampled_from([LEAST, 0.5, 1.0, 2.0, 3.0]),
            st.sampled_from([0.0, 0.0, 0.5, 1.0]),
            st.sampled_from(["", "", *addresses]),
        ),
        max_size=5,
    ),
    nodes=clusters,
)
def test_what_is_let_through_fits(sizes: list[tuple[float, float, str]], nodes: list[Node]) -> None:
    """And so what cannot fit is refused."""
    demands = demands_of(sizes)
    if has_room(demands, nodes):
        assert fits(demands, nodes)


@given(
    sizes=st.lists(
        st.tuples(
            st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.just(0.0), st.sampled_from(["", *addresses])
        ),
        max_size=5,
    ),
    nodes=clusters,
)
def test_what_fits_is_let_through_where_each_size_divides_the_next(
    sizes: list[tuple[float, float, str]], nodes: list[Node]
) -> None:
    """The usual: halves, one, two or four processors each, here or there."""
    demands = demands_of(sizes)
    assert has_room(demands, nodes) == fits(demands, nodes)


def test_another_order_that_would_do_by_luck_is_not_looked_for() -> None:
    """The docstring says so: the largest is put on the first node, where the others would fit."""
    nodes = [Node("a", {"CPU": 4.0}), Node("b", {"CPU": 3.0})]
    demands = demands_of([(cpus, 0.0, "") for cpus in (3, 2, 2)])
    assert fits(demands, nodes)
    assert not has_room(demands, nodes)


def test_parts_are_spread_as_far_as_they_fit_so() -> None:
    """And one that is placed again goes where most is free."""
    nodes = [Node(a, {"CPU": cpus}, a) for a, cpus in (("a", 2.0), ("b", 4.0), ("c", 2.0))]
    found = check_room(demands_of([(1, 0, ""), (2, 0, ""), (1, 0, ""), (1, 0, "")]), nodes)
    assert {name: node.id for name, node in found.items()} == {
        "actor/1": "b",
        "actor/0": "a",
        "actor/2": "c",
        "actor/3": "b",
    }
    full = [Node("a", {"CPU": 2.0}), Node("b", {"CPU": 1.0})]
    assert len(check_room(demands_of([(1, 0, ""), (0.5, 0, ""), (0.5, 0, ""), (1, 0, "")]), full))
    assert check_room({"actor/0": Demand(1.0)}, nodes)["actor/0"].id == "b"


def test_parts_that_are_bound_to_a_node_are_put_there_first() -> None:
    """The others have somewhere else to go."""
    nodes = [Node(a, {"CPU": 1.0, f"node:{a}": 1.0}) for a in addresses[:2]]
    check_room({"learner": Demand(1.0), "actor/0": Demand(1.0, 0.0, addresses[0])}, nodes)


def test_the_message_says_what_is_wanted_and_what_is_free() -> None:
    nodes = [
        Node("10.0.0.1", {"CPU": 2.0, "GPU": 1.0}),
        Node("10.0.0.2", {"CPU": 4.0}),
    ]
    demands = {"learner": Demand(2.0, 1.0), **{f"actor/{i}": Demand(1.0) for i in range(5)}}
    with pytest.raises(ConfigError) as found:
        check_room(demands, nodes)
    assert str(found.value) == (
        "there is no room for actor/4, which takes 1 CPU: all parts take 7 CPU and 1 GPU, and free "
        "is 2 CPU and 1 GPU on 10.0.0.1, 4 CPU on 10.0.0.2. Take less with place (as in "
        "'learner:cpus=4,gpus=1 actor:cpus=1,node=10.0.0.2'), fewer actor_processes, or add "
        "machines"
    )
    many = [Node(f"10.0.1.{i}", {"CPU": 0.0}) for i in range(20)]
    with pytest.raises(ConfigError, match=r"10\.0\.1\.7 and 12 more nodes\. Take less"):
        check_room({"actor/0": Demand(1.0)}, many)
    nodes = [Node("10.0.0.2", {"CPU": 4.0, "node:10.0.0.2": 1.0})]
    bound = {f"actor/{i}": Demand(2.0, 0.0, "10.0.0.2") for i in range(3)}
    with pytest.raises(
        ConfigError, match=r"no room for actor/2, which takes 2 CPU on 10\.0\.0\.2:"
    ):
        check_room(bound, nodes)


def test_what_no_machine_has_is_named() -> None:
    """F1: an address, a resource, a GPU; taking less of anything else would not help."""
    own = [{"CPU": 2.0, "memory": 1e9, f"node:{a}": 1.0, f"of{a[-1]}": 1.0} for a in addresses[:2]]
    nodes = [Node(a, free) for a, free in zip(addresses, own, strict=False)]
    check_room({"actor/0": Demand(1.0, 0.0, "10.0.0.2"), "replay": Demand(0, 0, "of1")}, nodes)
    for demand, message in (
        (
            Demand(1.0, 0.0, "10.9.9.9"),
            r"actor/0 is to be at 10\.9\.9\.9, and no machine of the cluster has that address, "
            r"there are 10\.0\.0\.1, 10\.0\.0\.2: name one",
        ),
        (
            Demand(1.0, 0.0, "big"),
            r"actor/0 is to be where 'big' is, and no machine of the cluster has that resource "
            r"free, there are of1, of2, and the addresses 10\.0\.0\.1, 10\.0\.0\.2: name one",
        ),
        (Demand(1.0, 1.0), r"actor/0 takes 1 GPU, and no machine of the cluster has one free"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_room({"actor/0": demand}, nodes)
    with pytest.raises(ConfigError, match="there are none: name"):
        check_room({"actor/0": Demand(1.0, 0.0, "10.9.9.9")}, [])
