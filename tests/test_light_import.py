"""`import recollect` is for scripts and shells that start at once: it loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "tensorboard", "numba", "matplotlib")

IMPORTED_BY = """
import json, sys
{statement}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def packages_loaded_by(statement: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter that ran `statement`."""
    command = [sys.executable, "-c", IMPORTED_BY.format(statement=statement)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import recollect",
        "import recollect; dir(recollect); recollect.__version__",
        "from recollect import ConfigError",
        "import recollect.__main__",
        "import recollect; recollect.human_normalised({'pong': 1})",
        "import recollect.roles, recollect.program, recollect.parameters",
    ],
)
def test_import_loads_nothing_heavy(statement: str) -> None:
    loaded = packages_loaded_by(statement)
    assert "recollect" in loaded
    assert loaded.isdisjoint(HEAVY), f"`{statement}` loaded {sorted(loaded & set(HEAVY))}"


def test_the_measure_sees_a_heavy_import() -> None:
    assert "matplotlib" in packages_loaded_by("import matplotlib")


def test_every_offered_name_is_listed() -> None:
    names = "print(set(recollect.__all__) <= set(dir(recollect)), file=sys.stderr)"
    command = [sys.executable, "-c", f"import recollect, sys; {names}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr.strip() == "True"
