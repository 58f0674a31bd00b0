"""S1: sockets that listen are found, whoever in a tree of processes has them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recollect.runtime import sockets
from recollect.runtime.sockets import (
    CannotLookError,
    Listener,
    OpenSocketError,
    born,
    listeners,
    refuse_open,
    tree,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

LISTEN = """
import socket, sys
family, address = sys.argv[1:]
one = socket.socket(getattr(socket, family))
one.bind((address, 0))
one.listen()
print(one.getsockname()[1], flush=True)
sys.stdin.read()
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


@contextmanager
def child(family: str, address: str, *, below: bool = False) -> Iterator[tuple[Any, int]]:
    """A process that listens, or, if `below`, one whose child does; and the port."""
    before = ["-c", PARENT] if below else []
    with subprocess.Popen(
        [sys.executable, *before, "-c", LISTEN, family, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline() or 0)
        finally:
            assert process.stdin is not None
            process.stdin.close()


@pytest.mark.parametrize(
    ("family", "address", "is_open"),
    [
        ("AF_INET", "127.0.0.1", False),
        ("AF_INET", "127.1.2.3", False),
        ("AF_INET", "0.0.0.0", True),
        ("AF_INET6", "::1", False),
        ("AF_INET6", "::", True),
        ("AF_INET6", "::ffff:127.0.0.1", False),
        ("AF_INET6", "::ffff:0.0.0.0", True),
    ],
)
def test_a_childs_listening_socket_is_found(family: str, address: str, is_open: bool) -> None:
    with child(family, address) as (process, port):
        found = [one for one in listeners(tree(os.getpid())) if one.pid == process.pid]
        assert [(one.port, one.open_to_others) for one in found] == [(port, is_open)]
        assert found[0].address == address
        assert found[0].process.startswith("python")


def test_a_grandchilds_socket_is_found_and_refused_by_name() -> None:
    with child("AF_INET", "0.0.0.0", below=True) as (process, port):
        below = tree(os.getpid()) - {os.getpid(), process.pid}
        assert len(below) == 1
        wanted = rf"process {below.pop()} \(python.*\) listens on 0\.0\.0\.0:{port}, where others"
        with pytest.raises(OpenSocketError, match=wanted):
            refuse_open(tree(process.pid))


def test_what_was_open_before_is_not_our_business() -> None:
    with child("AF_INET", "0.0.0.0") as (process, _):
        refuse_open([process.pid], before=listeners([process.pid]))


def test_a_socket_that_only_is_bound_or_connected_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as bound:
        bound.bind(("0.0.0.0", 0))
        with socket.create_connection(server.getsockname()):
            mine = {one.port for one in listeners([os.getpid()])}
        assert server.getsockname()[1] in mine
        assert bound.getsockname()[1] not in mine


def test_a_process_that_has_ended_has_no_socket_and_no_birth() -> None:
    with child("AF_INET", "127.0.0.1") as (process, _):
        assert born(process.pid) is not None
        assert born(process.pid) == born(process.pid) != born(os.getpid())
    assert listeners([process.pid]) == []
    assert born(process.pid) is None


def test_a_zombie_was_never_born() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert born(process.pid) is None
    process.wait()


def test_the_kernels_way_to_write_addresses_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets.sys, "byteorder", "little")
    assert sockets.readable("0100007F") == "127.0.0.1"
    assert sockets.readable("00000000000000000000000001000000") == "::1"
    assert sockets.readable("0000000000000000FFFF00000100007F") == "::ffff:127.0.0.1"
    monkeypatch.setattr(sockets.sys, "byteorder", "big")
    assert sockets.readable("7F000001") == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        *(("127.0.0.1", False), ("::1", False), ("::ffff:127.9.9.9", False)),
        *(("10.0.0.5", True), ("::ffff:10.0.0.5", True), ("fe80::1", True), ("128.0.0.1", True)),
    ],
)
def test_who_can_reach_an_address(address: str, is_open: bool) -> None:
    assert Listener(1, "one", address, 80).open_to_others == is_open


def test_a_machine_without_proc_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sockets, "PROC", tmp_path)
    with pytest.raises(CannotLookError, match="net/tcp"):
        listeners([1])
    with pytest.raises(CannotLookError, match="net/tcp"):
        tree(1)
