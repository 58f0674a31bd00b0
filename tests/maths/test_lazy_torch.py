"""The equations can be imported while torch is only promised, not loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import recollect.maths

MODULES = ["rescaling", "returns", "value_learning", "priorities", "exploration", "staleness"]


@pytest.mark.parametrize("module", MODULES)
def test_import_touches_nothing_of_torch(module: str) -> None:
    """A torch without a single attribute is enough to import each module."""
    program = (
        "import sys, types\n"
        "sys.modules['torch'] = types.ModuleType('torch')\n"
        f"import recollect.maths.{module}\n"
        "assert 'numba' not in sys.modules\n"
    )
    root = str(Path(next(iter(recollect.maths.__path__))).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
