"""Imports point down: the floors of the house, read from every file's imports.

All imports count, also those inside functions and under TYPE_CHECKING, and so does a string that
is the name of one of our modules, for that is how modules are imported lazily.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    **dict.fromkeys(
        ("types", "states", "machine", "messages", "roles", "program", "parameters", "maths"), 0
    ),
    **dict.fromkeys(("replay", "networks", "envs"), 1),
    "agents": 2,
    **dict.fromkeys(("presets", "protocols", "run"), 3),
    "runtime": 4,
    **dict.fromkeys(("training", "evaluation", "recording", "inspection", "doctor", "scores"), 5),
    "studies": 6,
    "cli": 7,
    "__main__": 8,
}
LIBRARY = "recollect"
"""The front door: hands out what stands on floor 5 or below, so it counts as floor 5."""

WORDS = {"types", "states", "machine", "messages", "roles", "program", "parameters"}
"""What all speak: these may import one another, and `maths` may import them."""

SHARED = {
    *("acting", "policy", "learning", "evaluating", "staleness", "wiring"),
    *("batches", "computing", "running"),
}
"""What the agents share; every other name in `agents` is one agent."""


class Import(NamedTuple):
    """Line `line` asks for `module`, one of ours or `ray`."""

    line: int
    module: str


def modules_of(root: Path) -> dict[str, str]:
    """Dotted name -> source of every file of the library."""
    sources = {}
    for path in sorted((root / LIBRARY).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources


def public_name(module: str) -> str:
    """The name a module is imported by: a package's, for its `__init__`."""
    return module.removesuffix(".__init__")


def imports_of(module: str, source: str, known: set[str]) -> Iterator[Import]:
    """Imports of our own modules (as far as they are `known`, else as written) and of ray."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source, filename=module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            names = [from_import(base, alias.name, known) for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            names = [name] if re.fullmatch(r"\w+(\.\w+)+", name) and name in known else []
        else:
            continue
        for name in names:
            if name.partition(".")[0] in (LIBRARY, "ray"):
                yield Import(node.lineno, name)


def from_import(base: str, name: str, known: set[str]) -> str:
    """The module that `from base import name` asks for."""
    if base == LIBRARY and (name in FLOORS or name == "__version__"):
        return f"{base}.{name}"
    return f"{base}.{name}" if f"{base}.{name}" in known else base


def house(module: str) -> str:
    """The package or single file a module belongs to: `maths`, `training`; `recollect` itself."""
    parts = public_name(module).split(".")
    return parts[1] if len(parts) > 1 else LIBRARY


def floor(module: str) -> int | None:
    """The floor a module stands on, None if it has none."""
    return 5 if house(module) == LIBRARY else FLOORS.get(house(module))


def complaint(module: str, target: str) -> str | None:
    """Why `module` may not import `target`; None if it may."""
    if target.partition(".")[0] == "ray":
        allowed = f"{module}.".startswith(f"{LIBRARY}.runtime.ray.")
        return None if allowed else "only runtime/ray.py imports ray"
    mine, theirs = house(module), house(target)
    if theirs == "__version__" or public_name(module) == target:
        return None
    here, there = floor(module), floor(target)
    if here is None or there is None:
        stranger = mine if here is None else theirs
        return f"{stranger} stands on no floor: give it one in tests/test_floors.py"
    if mine == theirs:
        return other_agent(module, target) if mine == "agents" else None
    if there > here:
        return f"floor {here} ({mine}) imports floor {there} ({theirs}): imports point down"
    words = theirs in WORDS and (mine in WORDS or mine == "maths")
    if there == here and not words and mine != LIBRARY:
        return f"floor {here} ({mine}) imports floor {there} ({theirs}): sideways"
    return None


def other_agent(module: str, target: str) -> str | None:
    """Why one file of `agents` may not import another; None if it may."""
    mine, theirs = (public_name(name).split(".")[2:3] for name in (module, target))
    if mine == theirs or not theirs or theirs[0] in SHARED:
        return None
    return f"floor 2 (agents) imports floor 2 (agents): {theirs[0]} is another agent"


def cycle(edges: Mapping[str, set[str]]) -> list[str] | None:
    """Modules that import each other in a ring, the first one repeated at the end; else None."""
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str] | None:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in finished:
            return None
        for target in sorted(edges.get(module, ())):
            if ring := visit(target, [*trail, module]):
                return ring
        finished.add(module)
        return None

    rings = (visit(module, []) for module in sorted(edges))
    return next(filter(None, rings), None)


def faults(sources: Mapping[str, str]) -> list[str]:
    """One line for each import that does not point down, and for a cycle."""
    known = {public_name(module) for module in sources}
    found = []
    edges: dict[str, set[str]] = {}
    for module, source in sources.items():
        path = module.replace(".", "/") + ".py"
        for line, target in imports_of(module, source, known):
            if why := complaint(module, target):
                found.append(f"{path}:{line}: {why} (imports {target})")
            elif house(module) == house(target) or {house(module), house(target)} <= WORDS:
                edges.setdefault(public_name(module), set()).add(target)
    for module in edges:
        edges[module].discard(module)
    if ring := cycle(edges):
        floors = f"floor {floor(ring[0])}"
        found.append(f"{ring[0].replace('.', '/')}.py: {floors}: a cycle, {' -> '.join(ring)}")
    return found


def test_every_import_points_down() -> None:
    sources = modules_of(ROOT)
    assert f"{LIBRARY}.types" in sources
    found = faults(sources)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("maths.returns", "from recollect.replay import blocks", "floor 0 (maths) imports floor 1"),
        ("maths.returns", "def f():\n  import recollect.agents.r2d2", "returns.py:2: floor 0"),
        (
            "types",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from recollect import maths",
            "types.py:3: floor 0 (types) imports floor 0 (maths): sideways",
        ),
        ("replay.blocks", "from recollect.envs.vector import VectorEnv", "(envs): sideways"),
        ("replay.blocks", "from ..networks import q", "floor 1 (networks): sideways"),
        ("replay.__init__", "from ..agents import r2d2", "floor 1 (replay) imports floor 2"),
        ("presets", "from recollect.run.folder import RunFolder", "floor 3 (run): sideways"),
        ("run.folder", "from recollect import presets", "floor 3 (presets): sideways"),
        ("training", "from . import evaluation", "floor 5 (evaluation): sideways"),
        ("runtime.inline", "from recollect.training import train", "imports floor 5 (training)"),
        ("runtime.inline", "from recollect import train", "floor 4 (runtime) imports floor 5"),
        ("training", "import recollect", "floor 5 (recollect): sideways"),
        ("__init__", "HOMES = {'study': 'recollect.studies'}", "imports floor 6 (studies)"),
        ("agents.apex_dqn", "from recollect.agents import r2d2", "r2d2 is another agent"),
        ("agents.acting", "from .r2d2 import Learner", "r2d2 is another agent"),
        ("agents.mb_mpo.rounds", "from recollect.agents.r2d2 import x", "r2d2 is another agent"),
        ("agents.r2d2", "import ray", "only runtime/ray.py imports ray"),
        ("runtime.inline", "from ray.util import queue", "only runtime/ray.py imports ray"),
        ("attic", "import recollect.types", "attic stands on no floor"),
        ("cli.train", "import recollect.attic", "attic stands on no floor"),
    ],
)
def test_a_planted_fault_is_found(module: str, source: str, message: str) -> None:
    rest = dict.fromkeys(("types", "studies.__init__", "agents.r2d2", "maths.__init__"), "")
    house_of_one = {f"{LIBRARY}.{name}": text for name, text in {**rest, module: source}.items()}
    (found,) = faults(house_of_one)
    assert message in found
    assert f"recollect/{module.replace('.', '/')}.py:" in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("maths.returns", "from recollect.types import Array\nfrom . import rescaling"),
        ("program", "from recollect.roles import Role"),
        ("agents.r2d2", "from recollect.agents import acting, wiring\nimport recollect.maths.x"),
        ("agents.mb_mpo.rounds", "from recollect.agents.mb_mpo import tasks\nfrom . import tasks"),
        ("agents.r2d2", "from recollect import __version__"),
        ("runtime.ray", "import ray\nfrom ray.util import queue"),
        ("runtime.inline", "text = 'recollect.studies is a module, and ray is a package'"),
        ("__init__", "from recollect.training import train\nfrom recollect.types import Array"),
        ("cli.__init__", "from recollect.cli import train\nimport recollect"),
    ],
)
def test_what_points_down_is_let_through(module: str, source: str) -> None:
    rest = dict.fromkeys(("agents.acting", "agents.wiring", "studies.__init__", "cli.train"), "")
    house_of_one = {f"{LIBRARY}.{name}": text for name, text in {**rest, module: source}.items()}
    assert faults(house_of_one) == []


@pytest.mark.parametrize(
    "ring",
    [
        {"types": "import recollect.roles", "roles": "def f():\n  from recollect import types"},
        {"run.a": "from . import b", "run.b": "from .c import x", "run.c": "from .a import y"},
        {"agents.acting": "from .learning import x", "agents.learning": "from . import acting"},
        {"cli.__init__": "from recollect.cli import a", "cli.a": "from recollect.cli import main"},
    ],
)
def test_a_cycle_is_found(ring: dict[str, str]) -> None:
    (found,) = faults({f"{LIBRARY}.{name}": text for name, text in ring.items()})
    assert "a cycle" in found
    assert found.count(" -> ") == len(ring)
