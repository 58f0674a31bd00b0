"""The one file that imports Ray: clusters, and the parts that live in their processes.

A cluster of one's own (`Cluster.local`) listens on loopback alone, has a random token, tells
nobody, writes nothing into the home directory, and ends with this process, however it ends. One
that others started with `ray start` (`Cluster.join`) is used only if it has a token that is ours.
The variable RAY_ADDRESS is not consulted: an address is what a run says it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from recollect.runtime import guard, placing
from recollect.runtime.joining import admitted
from recollect.runtime.opening import Node, complaints, ends_with_us, initialise, node, token
from recollect.runtime.session import environment, private_folder, replaced
from recollect.runtime.sockets import CannotLookError, Listener, listeners, refuse_open, tree
from recollect.types import ConfigError

LOWEST, BELOW = (2, 59), (2, 61)
"""Ray's versions whose doors and signals were looked at: `Cluster.local` knows their insides."""
SMALLEST_STORE = 75 * 2**20
LAST_WORDS = 16_000  # bytes: after a stack stand the names of all modules
REACH_SECONDS = 1.0
"""For a machine of a cluster to take a call."""
NEEDED = ("gcs_server", "raylet")
"""Ray's own processes without which a cluster of one machine is none."""
OWN_CLUSTER = {
    # No worker before a part wants one: parts come with variables that it would not have.
    "RAY_prestart_worker_first_driver": "0",
    # A machine that others keep busy is not dead: five minutes without a word, not one.
    "RAY_health_check_failure_threshold": "25",
    # No record of each call: Ray's head would come to take 300 MB for the last 100,000 of them.
    "RAY_task_events_report_interval_ms": "0",
}
"""Variables of a cluster of one's own."""


class Cluster:
    """An open cluster; `with Cluster.local(cpus=2) as cluster: ...`. One at a time in a process.

    Attributes:
        address: HOST:PORT of its head.
        folder: where Ray writes, if the cluster is our own; gone once it is closed.
        complaints: the last that Ray had to say to people: of a part that died, of memory.
    """

    def __init__(self, address: str, folder: Path | None, complaints: deque[str]) -> None:
        self.address, self.folder, self.complaints = address, folder, complaints
        self._opened = contextlib.ExitStack()
        self._known: list[Listener] = []

    @classmethod
    def local(
        cls, cpus: int, object_store_bytes: int | None = None, gpus: int | None = None
    ) -> Cluster:
        """Start one for this process alone: 2 to 5 s, 290 MB and 1.5% of a core when idle.

        Args:
            cpus: how many Ray counts; nothing is bound to them.
            object_store_bytes: shared memory it may take; None for Ray's 30% of what is free.
            gpus: how many Ray counts; None for what it finds.
        Raises:
            ConfigError: Ray is not installed, in another version, or in use in this process; this
                is not its main thread.
            OpenSocketError: a process of it listens where others can reach it; it was ended.
        """
        if threading.current_thread() is not threading.main_thread():
            # Linux ends the children that are to die with us when the *thread* ends that made them.
            raise ConfigError(
                "runtime ray is for the main thread, with which the cluster on this machine ends: "
                "train there, or give the address of a cluster that is running"
            )
        if object_store_bytes is not None and object_store_bytes < SMALLEST_STORE:
            wanted = f"at least {SMALLEST_STORE:,}"
            raise ConfigError(f"object_store_bytes {object_store_bytes:,} is too few: {wanted}")
        ray = _unused()
        with contextlib.ExitStack() as opened:
            folder = opened.enter_context(private_folder())
            opened.enter_context(token(ray, secrets.token_hex(32)))
            # Ray's own switch for desktops: its addresses are 127.0.0.1, here and in its processes.
            opened.enter_context(environment({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}))
            opened.enter_context(replaced(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False))
            opened.enter_context(environment(OWN_CLUSTER))
            said = opened.enter_context(complaints(ray))
            daemons = opened.enter_context(_guarded(ray, folder))
            opened.enter_context(ends_with_us(ray, daemons))
            known = []
            with contextlib.suppress(CannotLookError):
                known = listeners(tree(os.getpid()))
            context = initialise(
                ray,
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                _temp_dir=str(folder / "r"),  # not the folder itself: Ray opens it to everybody
            )
            cluster = cls(context.address_info["gcs_address"], folder, said)
            cluster._known = known
            cluster.look_at_sockets()
            cluster._opened = opened.pop_all()
        return cluster

    @classmethod
    def join(cls, address: str) -> Cluster:
        """Join one that was started with `ray start`; a host of it has to be this one.

        Its token is RAY_AUTH_TOKEN, or in the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

        Args:
            address: HOST:PORT of its head.
        Raises:
            ConfigError: within some 2 s: nobody answers; it has no token, or one that is not ours;
                another version of Ray or Python; no host of it is this one.
        """
        ray = _unused()
        with contextlib.ExitStack() as opened:
            opened.enter_context(token(ray, admitted(address, ray.__version__)))
            services, gcs = ray._private.services, ray._raylet.GcsClient(address=address)
            try:
                services.get_node_to_connect_for_driver(gcs, timeout_seconds=1.5)
            except RuntimeError as error:
                raise ConfigError(
                    f"this machine is no host of the cluster at {address}: run "
                    f"`ray start --address={address}` here, or start the run on one of its hosts"
                ) from error
            said = opened.enter_context(complaints(ray))
            opened.callback(ray.shutdown)
            try:
                initialise(ray, address=address)
            except (ConnectionError, RuntimeError) as error:
                why = " ".join(str(error).split())
                raise ConfigError(f"the cluster at {address} cannot be joined: {why}") from error
            cluster = cls(address, None, said)
            cluster._opened = opened.pop_all()
        return cluster

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End a cluster of our own, with all its processes; leave one that was joined. Once."""
        self._opened.close()

    def nodes(self) -> list[Node]:
        """Its machines, those included that died."""
        return [node(entry) for entry in load().nodes()]

    def free(self) -> list[placing.Node]:
        """What of its living machines is free, by Ray's names."""
        free = load()._private.state.state.available_resources_per_node()
        return [
            placing.Node(node.address, free.get(node.id, {}), node.id)
            for node in self.nodes()
            if node.alive
        ]

    def reached(self) -> set[str]:
        """The ids of machines whose own Ray process can be reached from here, now.

        Ray takes a minute by default to know that one cannot.
        """
        entries = [entry for entry in load().nodes() if entry["Alive"]]
        if self.folder is not None:
            return {entry["NodeID"] for entry in entries}
        with ThreadPoolExecutor(len(entries) or 1) as several:
            doors = [(entry["NodeManagerAddress"], entry["NodeManagerPort"]) for entry in entries]
            open_ = several.map(_answers, doors)
            return {entry["NodeID"] for entry, here in zip(entries, open_, strict=True) if here}

    def look_at_sockets(self) -> None:
        """Look whether this process, or one below it, lets others in since the cluster was opened.

        `local` does; parts come later. Where nobody can tell there is a warning instead.

        Raises:
            OpenSocketError: one does, in a cluster of our own.
        """
        if self.folder is not None:
            try:
                refuse_open(tree(os.getpid()), self._known)
            except CannotLookError as error:
                warnings.warn(f"the cluster's sockets were not looked at: {error}", stacklevel=2)

    def kill(self, pid: int) -> None:
        """End a part's process in a cluster of our own, however it hangs; else nothing."""
        if self.folder is not None and pid in tree(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def lost(self) -> str:
        """Which of Ray's own processes has died, in a cluster of our own; empty if none has."""
        node = load()._private.worker._global_node
        if self.folder is None or node is None:
            return ""
        for name, _ in node.dead_processes():
            if name in NEEDED:
                return f"Ray's own process {name} has died, without which no part can be reached"
        return ""

    def last_words(self, pid: int) -> str:
        """The end of what a part's process wrote to stderr, in a cluster of our own; else empty."""
        if self.folder is not None:
            for path in self.folder.glob(f"r/session_2*/logs/worker-*-{pid}.err"):
                return path.read_bytes()[-LAST_WORDS:].decode(errors="replace").strip()
        return ""


def _answers(door: tuple[str, int]) -> bool:
    """Whether anybody listens at an address and port."""
    try:
        with socket.create_connection(door, timeout=REACH_SECONDS):
            return True
    except OSError:
        return False


def missing() -> ConfigError:
    """What is to be said where Ray is not installed."""
    return ConfigError(
        "runtime ray needs Ray, which is not installed: pip install 'recollect[ray]', or take "
        "runtime inline"
    )


def load() -> Any:
    """The module ray, if it can be used.

    Raises:
        ConfigError: it is not installed, or in another version than ours.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing() from error
    found = re.match(r"(\d+)\.(\d+)", ray.__version__)
    if not found or not LOWEST <= (int(found[1]), int(found[2])) < BELOW:
        raise ConfigError(
            f"Ray {ray.__version__} is installed and 2.59 or 2.60 wanted: "
            "pip install 'recollect[ray]'"
        )
    return ray


def _unused() -> Any:
    """Ray, if this process is not in a cluster already."""
    ray = load()
    if ray.is_initialized():
        raise ConfigError("this process uses Ray already: call ray.shutdown() first")
    return ray


@contextlib.contextmanager
def _guarded(ray: Any, folder: Path) -> Iterator[list[int]]:
    """Ray's daemons get sessions of their own, and a guard knows these, should we be killed.

    So what a terminal or a scheduler sends to our process group is for us alone. Gives the numbers
    of the daemons, also those yet to come.
    """
    words = [sys.executable, "-I", "-S", guard.__file__, str(folder)]
    streams: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    streams |= {"stdin": subprocess.PIPE, "bufsize": 0, "start_new_session": True}
    services = ray._private.services
    daemons: list[int] = []
    console_popen = services.ConsolePopen
    with subprocess.Popen(words, **streams) as process:
        assert process.stdin is not None
        told = process.stdin

        def tell(word: object) -> None:
            with contextlib.suppress(BrokenPipeError):  # somebody ended the guard
                told.write(f"{word}\n".encode())

        def popen(*args: Any, **more: Any) -> Any:
            started = console_popen(*args, start_new_session=True, **more)
            daemons.append(started.pid)
            tell(started.pid)
            return started

        with replaced(services, "ConsolePopen", popen):
            yield daemons
        tell(guard.DONE)


def packed(what: Any) -> bytes:
    """Objects for a part's process, which is trusted as this one is."""
    return load().cloudpickle.dumps(what)


def unpacked(what: bytes) -> Any:
    """What `packed` made, in that process."""
    return load().cloudpickle.loads(what)
