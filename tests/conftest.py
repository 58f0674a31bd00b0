"""What every test gets: one thread, repeatable hypothesis in CI, a place for a run folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Its asserts, too, show the values compared.
pytest.register_assert_rewrite("tests.replay.lived")

# Read by OpenMP when torch is loaded, here and in the processes a test starts: threads that spin
# on a busy machine cost a hundred times what they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No deadline: the first call of a numba kernel compiles it, and the machine may be busy.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first: at the end they would keep one of several workers alone."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Torch computes on one thread, whatever an earlier test or the shell chose."""
    torch = sys.modules.get("torch")  # not imported for tests that do without
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture
def tmp_run(tmp_path: Path) -> Path:
    """The path of a run folder that does not exist yet."""
    return tmp_path / "run"
