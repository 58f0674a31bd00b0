from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from recollect.run import machine


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


@pytest.mark.parametrize(("asked", "inside"), [(None, 1), ("2", 2)])
def test_one_thread_unless_the_user_says_otherwise(
    asked: str | None, inside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with machine.one_thread():
            found = torch.get_num_threads()
        assert (found, torch.get_num_threads()) == (inside, 2)
    finally:
        torch.set_num_threads(before)
