"""Who listens: the TCP sockets of a process and of all that it started, read from Linux's /proc.

A socket that listens on an address of this machine alone (127.0.0.0/8, ::1) can be reached by the
machine's own users; any other one by whoever reaches the machine.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recollect.types import ConfigError

PROC = Path("/proc")
LISTENING = "0A"  # TCP_LISTEN in the kernel's tables


class CannotLookError(OSError):
    """Here nobody can tell which sockets a process has."""


class OpenSocketError(ConfigError):
    """One of our processes listens where others can reach it."""


@dataclass(frozen=True, order=True)
class Listener:
    """Process `pid`, called `process`, listens on TCP `address`, `port`."""

    pid: int
    process: str
    address: str
    port: int

    @property
    def open_to_others(self) -> bool:
        """Whether another machine can reach it, as far as the address says."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
        return not (mapped or address).is_loopback

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"process {self.pid} ({self.process}) listens on {host}:{self.port}"


def listeners(pids: Iterable[int]) -> list[Listener]:
    """The listening TCP sockets of these processes, each in its own network namespace.

    A process that has ended meanwhile has none.

    Raises:
        CannotLookError: there is no /proc, or a process is not ours to look into.
    """
    _need_proc()
    tables: dict[str, dict[str, tuple[str, int]]] = {}
    found = set()
    for pid in pids:
        try:
            network = os.readlink(PROC / str(pid) / "ns" / "net")
            held = set(_sockets(pid))
            if network not in tables:
                tables[network] = dict(_listening(pid))
            name = (PROC / str(pid) / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError as error:
            raise CannotLookError(f"process {pid} is another user's: {error}") from error
        listening = tables[network]
        found |= {Listener(pid, name, *listening[inode]) for inode in held & listening.keys()}
    return sorted(found)


def tree(pid: int) -> set[int]:
    """A process and all that descend from it, as far as their parents live.

    One whose parent died belongs to init and is not found: Ray's daemons are children of the
    driver, its workers of the raylet, and these end soon after their parent.

    Raises:
        CannotLookError: there is no /proc.
    """
    _need_proc()
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = int(_stat(int(folder.name))[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, waiting = set(), [pid]
    while waiting:
        one = waiting.pop()
        found.add(one)
        waiting += children.get(one, [])
    return found


def born(pid: int) -> str | None:
    """When a process began, in the kernel's own count; None if it is not there, or only its name.

    A number that is used again has another time, so (number, time) names a process for good.
    """
    with contextlib.suppress(OSError):
        fields = _stat(pid)
        return None if fields[0] in "ZX" else fields[19]
    return None


def refuse_open(pids: Iterable[int], before: Iterable[Listener] = ()) -> None:
    """Raise if one of these processes listens where others can reach it.

    Args:
        before: sockets that are not of our making, and none of our business.
    Raises:
        OpenSocketError: naming the process, the address and the port.
        CannotLookError: as `listeners`.
    """
    for listener in listeners(pids):
        if listener.open_to_others and listener not in before:
            raise OpenSocketError(
                f"{listener}, where others can reach it: wanted 127.0.0.1 alone; "
                "run it in one process (--runtime inline) and please report this"
            )


def _need_proc() -> None:
    if not (PROC / "self" / "net" / "tcp").exists():
        raise CannotLookError(f"{sys.platform} has no {PROC}/PID/net/tcp to see open sockets in")


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may hold anything: state, parent, ..."""
    return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _sockets(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets."""
    for path in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(path)
            if target.startswith("socket:["):
                yield target[len("socket:[") : -1]


def _listening(pid: int) -> Iterator[tuple[str, tuple[str, int]]]:
    """(inode, (address, port)) of what listens in a process's network namespace."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # tcp6: a kernel without IPv6
            lines = (PROC / str(pid) / "net" / table).read_text().splitlines()[1:]
            for fields in map(str.split, lines):
                if fields[3] == LISTENING:
                    address, _, port = fields[1].partition(":")
                    yield fields[9], (readable(address), int(port, 16))


def readable(address: str) -> str:
    """An address as the kernel's tables have it, words of 32 bits in the machine's order.

    `0100007F` is 127.0.0.1 on a little-endian machine.
    """
    raw = bytes.fromhex(address)
    words = [raw[at : at + 4] for at in range(0, len(raw), 4)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    found = ipaddress.ip_address(b"".join(words))
    mapped = getattr(found, "ipv4_mapped", None)
    return f"::ffff:{mapped}" if mapped else str(found)
