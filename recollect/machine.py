"""What the machine has to give: memory that is free, and how many threads to take."""

from __future__ import annotations

import contextlib
import ctypes
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


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu() -> bool:
    """Whether there is a GPU that CUDA uses, found out without loading torch."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def gpus() -> int | None:
    """How many there are for this process, as `gpu`; None where that cannot be told.

    Under WSL, and with AMD's, there are other files than NVIDIA's.
    """
    if any(Path(other).exists() for other in ("/dev/dxg", "/dev/kfd")):
        return None
    if not gpu():
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([word for word in visible.split(",") if word.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch compute on so many threads inside. Sums are split the same way on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Have the C library keep memory that was freed, for as long as this process lasts.

    By default it gives large arrays back to the system, which clears each page again when it hands
    it out: convolutions of a learner's batch took 1.4 to 2 times as long. Where the library is not
    glibc nothing happens.
    """
    trim_threshold, mmap_max = -1, -4  # of mallopt(3)
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
