"""What the machine has to give: memory that is free, and how many threads to take."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


def free_memory() -> int | None:
    """Bytes a process can still take without swapping; None where the platform does not tell."""
    with contextlib.suppress(OSError):
        found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.M)
        if found:
            return int(found[1]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside, unless OMP_NUM_THREADS says how many.

    The networks here are mostly small, and an inline run's turns are short: on two cores an LSTM of
    64 units took 7 times as long on two threads as on one. Sums are also split the same way on
    every machine then. A large network wants more: that is what OMP_NUM_THREADS is for.
    """
    import torch

    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
