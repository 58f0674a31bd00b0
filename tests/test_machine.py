from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recollect import machine


def test_free_memory_is_less_than_there_is() -> None:
    free = machine.free_memory()
    assert free is not None
    assert 0 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_free_memory_counts_what_the_system_would_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "MemTotal:  900 kB\nMemFree:   100 kB\nMemAvailable:    700 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert machine.free_memory() == 700 * 1024


def test_free_memory_without_proc_is_the_free_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_AVPHYS_PAGES": 7}.__getitem__)
    assert machine.free_memory() == 7 * 4096


def test_free_memory_is_unknown_where_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> int:
        raise ValueError

    monkeypatch.setattr(Path, "read_text", lambda _: "MemTotal: 5 kB\n")
    monkeypatch.setattr(os, "sysconf", refused)
    assert machine.free_memory() is None


@pytest.mark.parametrize(
    ("files", "visible", "number"),
    [
        ([], None, 0),
        (["nvidia0"], None, 0),  # a driver that is not running
        (["nvidiactl", "nvidia0", "nvidia11", "nvidia-uvm"], None, 2),
        (["nvidiactl", "nvidia0", "nvidia1"], "1", 1),
        (["nvidiactl", "nvidia0", "nvidia1"], "-1", 0),
        (["nvidiactl", "nvidia0"], "", 0),
        (["dxg"], None, None),
        (["kfd"], None, None),
    ],
)
def test_gpus_are_counted_where_they_can_be(
    files: list[str],
    visible: str | None,
    number: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / path[5:])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == number


def test_threads_are_as_many_inside_as_said_and_as_before_after() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with machine.threads(3):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_memory_that_was_freed_is_kept() -> None:
    """In a process of its own, since it lasts: a large array comes from where one was before."""
    program = (
        "import numpy as np; from recollect import machine; machine.keep_memory()\n"
        "at = lambda: np.ones(10**8, np.uint8).ctypes.data\n"
        "print(len({at() for _ in range(5)}), resource.getrusage(0).ru_minflt)"
    ).replace("import numpy", "import resource, numpy")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    places, faults = map(int, done.stdout.split())
    assert places == 1
    assert faults < 3 * 10**8 // 4096, "pages are not fetched anew each time"
