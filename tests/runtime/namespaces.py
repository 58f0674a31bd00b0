"""Three machines on one: network namespaces with a switch between them, and Ray's nodes in them.

    with three_hosts() as hosts, hosts.cluster(cpus=2) as cluster:
        done = cluster.run([sys.executable, "-m", "recollect", "train", ...], timeout=200)
        process = cluster.start([...])   # the same, not waited for: subprocess.Popen

`run` and `start` work in the namespace of the head (or of `host=cluster.hosts[1]`), with the
token and a home folder of the cluster's own, and `cluster.address` is what `--address` wants. They
take the words of `subprocess.run` and `Popen`. `cut`, `mend` and `kill` do to a host what happens
to machines. The root namespace has no way in or out. A driver
wants the head's namespace: Ray finds the node to hang on by going through the machine's processes,
which the namespaces share, and prefers the head.

Where there can be no namespaces (not Linux, not root, no `ip`), `three_hosts` skips the test and
says why. All is removed at the end, also what a run that was killed left behind.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PREFIX = "recollect-test-"
TOKEN = "5ca1ab1e" * 8
STORE_BYTES = 80_000_000
PORT = 6379
NUMBERS = itertools.count()
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True)
class Host:
    """A namespace, and the address of its one network card."""

    namespace: str
    address: str

    def within(self, words: list[str]) -> list[str]:
        """The words that run a command there."""
        return [_ip(), "netns", "exec", self.namespace, *words]


@dataclass(frozen=True)
class RunningCluster:
    """A cluster of Ray with a node on each host, the first of them the head."""

    hosts: tuple[Host, ...]
    address: str
    environment: dict[str, str]

    def run(self, words: list[str], host: Host | None = None, **more: Any) -> Any:
        """Run a command to its end in the head's namespace, or another's."""
        how: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
        how |= {"timeout": 120, "env": self.environment, "cwd": ROOT, **more}
        return subprocess.run((host or self.hosts[0]).within(words), **how)

    def start(self, words: list[str], host: Host | None = None, **more: Any) -> Any:
        """Start one there; signals sent to it reach the command itself (`ip` becomes it)."""
        how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        how |= {"env": self.environment, "cwd": ROOT, **more}
        return subprocess.Popen((host or self.hosts[0]).within(words), **how)


@dataclass(frozen=True)
class Hosts:
    """Three namespaces that reach one another, and nothing else."""

    hosts: tuple[Host, ...]

    @contextlib.contextmanager
    def cluster(
        self, token: str | None = TOKEN, cpus: int = 1, only_head: bool = False, **variables: str
    ) -> Iterator[RunningCluster]:
        """`ray start` on every host, some 5 s; whatever runs on the hosts is killed at the end.

        Args:
            token: None for a cluster that lets anybody in.
            cpus: of each node.
            only_head: start no node on the other hosts.
            variables: of the environment, of the nodes and of what is run on them.
        """
        # Short and not pytest's: Unix sockets are named in it.
        folder = Path(tempfile.mkdtemp(prefix="rx-", dir="/tmp"))
        kept = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
        how = {"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or ""}
        how |= secret if token else {"RAY_AUTH_MODE": "disabled"}
        environment = {**kept, **how, "RAY_USAGE_STATS_ENABLED": "0", **variables}
        head, *others = self.hosts
        running = RunningCluster(self.hosts, f"{head.address}:{PORT}", environment)
        amounts = [f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}"]

        def begin(number: int, *where: str) -> Any:
            host = self.hosts[number]
            # A folder for each, as on machines of their own.
            own = [f"--node-ip-address={host.address}", f"--temp-dir={folder / str(number)}"]
            own.append(f'--resources={{"host{number}": 1}}')
            words = [*RAY, "start", *where, *own, *amounts]
            return running.start(words, host, stderr=subprocess.STDOUT)

        try:
            (folder / "home").mkdir()
            _all_done([begin(0, "--head", f"--port={PORT}", "--include-dashboard=false")])
            join = [] if only_head else range(1, len(others) + 1)
            _all_done([begin(number, f"--address={running.address}") for number in join])
            yield running
        finally:
            for host in self.hosts:
                _kill_all(host.namespace)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def three_hosts() -> Iterator[Hosts]:
    """Three namespaces, named after this process, with 10.77.0.1 to 10.77.0.3.

    They hang on a bridge in a fourth, so neither names nor addresses meet any of this machine's.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("network namespaces need Linux and root")
    if not _ip():
        pytest.skip("network namespaces need the command `ip`")
    _sweep()
    name = f"{PREFIX}{os.getpid()}-{next(NUMBERS)}"
    switch = f"{name}-switch"
    hosts = tuple(Host(f"{name}-{n}", f"10.77.0.{n}") for n in (1, 2, 3))
    names = [switch, *(host.namespace for host in hosts)]
    try:
        try:
            for name in names:
                _do("netns", "add", name)
                _do("-n", name, "link", "set", "lo", "up")
            _do("-n", switch, "link", "add", "bridge", "type", "bridge")
            _do("-n", switch, "link", "set", "bridge", "up")
            for number, host in enumerate(hosts):
                ends = ["name", f"port{number}", "netns", switch]
                name = host.namespace
                _do("-n", name, "link", "add", "card", "type", "veth", "peer", *ends)
                _do("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
                _do("-n", name, "addr", "add", f"{host.address}/24", "dev", "card")
                _do("-n", name, "link", "set", "card", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not to be had here: {error.stderr.strip()}")
        yield Hosts(hosts)
    finally:
        _remove(names)


def cut(host: Host) -> None:
    """Pull its cable: from now on all it sends is lost, and all that is sent to it; nobody is told.

    At the switch: the host keeps its address and its routes.
    """
    switch = f"{host.namespace.rpartition('-')[0]}-switch"
    _do("-n", switch, "link", "set", _port(host), "nomaster")


def mend(host: Host) -> None:
    """Put the cable in again."""
    switch = f"{host.namespace.rpartition('-')[0]}-switch"
    _do("-n", switch, "link", "set", _port(host), "master", "bridge")


def kill(host: Host) -> None:
    """End all its processes at once, those of its cluster's node included, by SIGKILL."""
    _kill_all(host.namespace)


def _port(host: Host) -> str:
    """Of the switch, in which the host's cable is."""
    return f"port{int(host.namespace.rpartition('-')[2]) - 1}"


def _ip() -> str:
    folders = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return shutil.which("ip", path=folders) or ""


def _do(*words: str) -> str:
    """Run `ip`; what it prints."""
    command = [_ip(), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def _all_done(processes: list[Any]) -> None:
    for process in processes:
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 0, said


def _kill_all(namespace: str) -> None:
    """Kill what runs in one of our namespaces, and wait until it is empty."""
    deadline = time.monotonic() + 20
    while pids := _do("netns", "pids", namespace).split():
        assert time.monotonic() < deadline, f"processes {pids} do not end"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)


def _remove(namespaces: list[str]) -> None:
    there = _do("netns", "list").split()
    for name in namespaces:
        if name in there:
            _kill_all(name)
            _do("netns", "delete", name)


def _sweep() -> None:
    """Remove what a process that is no more left behind."""
    found = re.findall(rf"^({PREFIX}(\d+)-\S+)", _do("netns", "list"), re.M)
    _remove([name for name, pid in found if not Path("/proc", pid).exists()])
