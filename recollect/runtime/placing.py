"""What the parts of a program take of machines: processors, GPUs, and which node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recollect import presets
from recollect.types import ConfigError

LEAST = 0.001
"""Of a named resource, that a part takes which is to be where it is."""
SMALLEST = 0.0001
"""A cluster counts in these."""
NO_NODES = ("CPU", "GPU", "memory", "object_store_memory")
"""What every node has cannot say which one is meant."""
LEAST_BYTES = 1 << 20
"""Of memory, that a part takes which takes nothing else: a place must be of something."""
KINDS = ("learner", "actor", "replay", "parameters", "evaluator")
EXAMPLE = "learner:cpus=4,gpus=1 actor:cpus=1,node=10.0.0.2"


@dataclass(frozen=True)
class Demand:
    """What one part takes: `cpus`, `gpus`, and a `node` by its address or a resource it has."""

    cpus: float = 0.0
    gpus: float = 0.0
    node: str = ""

    def resources(self) -> dict[str, float]:
        """Beside processors and GPUs: what only the node has that is meant."""
        if not self.node:
            return {}
        return {f"node:{self.node}" if self.by_address else self.node: LEAST}

    @property
    def by_address(self) -> bool:
        """Whether `node` is an address, and no resource's name."""
        return self.node.replace(".", "").isdigit() or ":" in self.node

    def bundle(self) -> dict[str, float]:
        """All of it, as a cluster reads it."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return {what: x for what, x in amounts.items() if x} | self.resources()

    @property
    def memory(self) -> int:
        """Bytes, of a part that takes no processor and no GPU."""
        return 0 if self.cpus or self.gpus else LEAST_BYTES


@dataclass(frozen=True)
class Node:
    """One machine of a cluster, its `id` there, and what is `free`, by the cluster's names."""

    address: str
    free: Mapping[str, float]
    id: str = ""


DEFAULTS = {"learner": Demand(cpus=1.0), "actor": Demand(cpus=1.0)}
"""All others take none: a replay shard of a large run may be given a processor."""


def parse(place: str) -> dict[str, Demand]:
    """What each kind of part takes, by kind, with what `place` says of it.

    >>> parse("actor:cpus=2,node=10.0.0.2")["actor"]
    Demand(cpus=2.0, gpus=0.0, node='10.0.0.2')

    Args:
        place: for kinds, apart by spaces, `kind:what=value,...` with cpus, gpus and node.
    Raises:
        ConfigError: anything else.
    """
    found = {kind: DEFAULTS.get(kind, Demand()) for kind in KINDS}
    said: set[tuple[str, str]] = set()
    for word in place.split():
        kind, colon, rest = word.partition(":")
        if not colon or not rest:
            raise ConfigError(f"place {word!r}: kind:what=value,... was wanted, as in {EXAMPLE!r}")
        if kind not in KINDS:
            raise _unknown(f"place {word!r}: kind of part", kind, KINDS)
        for setting in rest.split(","):
            name, _, value = setting.partition("=")
            if name not in ("cpus", "gpus", "node"):
                raise _unknown(f"place {word!r}: setting", name, ("cpus", "gpus", "node"))
            if not value:
                raise ConfigError(f"place {word!r}: {name} has no value, as in {EXAMPLE!r}")
            if name == "node" and value in NO_NODES:
                raise ConfigError(
                    f"place {word!r}: node is {value!r}, an address or a resource of the cluster's "
                    "own was wanted"
                )
            if (kind, name) in said:
                raise ConfigError(f"place {word!r}: {name} of {kind} is given twice, give it once")
            said.add((kind, name))
            given: Any = value if name == "node" else _amount(word, name, value)
            found[kind] = replace(found[kind], **{name: given})
    return found


def _amount(word: str, name: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    if not 0 <= amount <= 10_000 or (amount > 1 and amount % 1) or 0 < amount < SMALLEST:
        raise ConfigError(
            f"place {word!r}: {name} is {value!r}, 0 or a number from {SMALLEST:g} "
            "was wanted, a whole one if it is above 1"
        )
    return amount


def _unknown(what: str, name: str, known: Sequence[str]) -> ConfigError:
    near = presets.closest(name, known)
    hint = f": did you mean {near}?" if near else ""
    return ConfigError(f"{what} {name!r} is not known{hint}, there are {', '.join(known)}")


def check_room(demands: Mapping[str, Demand], nodes: Sequence[Node]) -> dict[str, Node]:
    """Where each part can be; ConfigError, saying what is wanted and what is there, if it cannot.

    Parts that are bound to a node come first, then the largest. Each is put where the fewest are,
    of these where most processors are free; or, if all do not fit so, on the first node that has
    room. Where they do not fit so either, another order might do by luck, and is not looked for.
    """
    order = sorted(
        demands, key=lambda name: (not demands[name].node, -demands[name].gpus, -demands[name].cpus)
    )
    for name in order:
        _check_named(name, demands[name], nodes)
    found: dict[str, Node] = {}
    for spread in (True, False):
        found = _fitted({name: demands[name].bundle() for name in order}, nodes, spread)
        if len(found) == len(order):
            return found
    name = order[len(found)]
    several = f"all parts take {_total(demands)}, and " * (len(order) > 1)
    raise ConfigError(
        f"there is no room for {name}, which takes {_said(demands[name])}: "
        f"{several}free is {_free(nodes)}. Take less with place (as in "
        f"{EXAMPLE!r}), fewer actor_processes, or add machines"
    )


def _fitted(
    bundles: Mapping[str, Mapping[str, float]], nodes: Sequence[Node], spread: bool
) -> dict[str, Node]:
    """Nodes for parts in their order, up to the first for which there is none."""
    free, parts = [dict(node.free) for node in nodes], [0] * len(nodes)
    found: dict[str, Node] = {}
    for name, bundle in bundles.items():
        fits = [
            k
            for k, own in enumerate(free)
            if all(own.get(what, 0.0) >= amount - 1e-9 for what, amount in bundle.items())
        ]
        if not fits:
            break
        k = fits[0]
        if spread:
            k = min(fits, key=lambda k: (parts[k], -free[k].get("CPU", 0.0)))
        for what, amount in bundle.items():
            free[k][what] -= amount
        parts[k] += 1
        found[name] = nodes[k]
    return found


def _check_named(name: str, demand: Demand, nodes: Sequence[Node]) -> None:
    """Raise ConfigError where a part wants what no machine has: a node, or a GPU."""
    addresses = ", ".join(node.address for node in nodes[:8]) + " ..." * (len(nodes) > 8)
    if demand.by_address and all(node.address != demand.node for node in nodes):
        raise ConfigError(
            f"{name} is to be at {demand.node}, and no machine of the cluster has that address, "
            f"there are {addresses or 'none'}: name one of these with place"
        )
    if demand.node and not demand.by_address and not any(demand.node in x.free for x in nodes):
        named = {what for node in nodes for what in node.free if ":" not in what} - {*NO_NODES}
        raise ConfigError(
            f"{name} is to be where {demand.node!r} is, and no machine of the cluster has that "
            f"resource free, there are {', '.join(sorted(named)) or 'none'}, and the addresses "
            f"{addresses or 'none'}: name one of these with place, or `ray start` a machine with "
            f"--resources"
        )
    if demand.gpus and not any(node.free.get("GPU") for node in nodes):
        raise ConfigError(
            f"{name} takes {demand.gpus:g} GPU, and no machine of the cluster has one free: take "
            "none with place, and device cpu, or add a machine that has"
        )


def _said(demand: Demand) -> str:
    amounts = {"CPU": demand.cpus, "GPU": demand.gpus}
    taken = " and ".join(f"{amount:g} {what}" for what, amount in amounts.items() if amount)
    return (taken or "next to nothing") + f" on {demand.node}" * bool(demand.node)


def _total(demands: Mapping[str, Demand]) -> str:
    cpus = sum(demand.cpus for demand in demands.values())
    gpus = sum(demand.gpus for demand in demands.values())
    return f"{cpus:.4g} CPU" + (f" and {gpus:g} GPU" if gpus else "")


def _free(nodes: Sequence[Node]) -> str:
    shown = [
        f"{node.free.get('CPU', 0):g} CPU"
        + (f" and {node.free['GPU']:g} GPU" if node.free.get("GPU") else "")
        + f" on {node.address}"
        for node in nodes[:8]
    ]
    more = f" and {len(nodes) - 8} more nodes" if len(nodes) > 8 else ""
    return (", ".join(shown) or "nothing") + more
