"""S1, R5: a cluster of one's own lets nobody in, is quiet, and leaves nothing, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recollect.runtime.ray import Cluster, load
from recollect.runtime.sockets import OpenSocketError, born, listeners, tree
from recollect.runtime.transport import forget_prints
from recollect.types import ConfigError
from tests import commanded

pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

STORE = 80_000_000
SHARED_MEMORY = Path("/dev/shm")

DRIVER = f"""
import json, os, signal, sys, time
from recollect.runtime.ray import Cluster, load
from recollect.runtime.sockets import born, tree

class Part:
    def number(self):
        return os.getpid()

heard = []
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), lambda number, _: heard.append(int(number)))
with Cluster.local(1, {STORE}) as cluster:
    ray = load()
    part = ray.remote(Part).remote()
    number = ray.get(part.number.remote())
    held = ray.put(bytes(10_000_000))
    pids = {{pid: born(pid) for pid in tree(os.getpid())}}
    print(json.dumps({{"folder": str(cluster.folder), "pids": pids, "part": number}}), flush=True)
    while len(heard) < 3:
        time.sleep(0.05)
    time.sleep(0.5)
    print(ray.get(part.number.remote(), timeout=10) == number, sorted(heard))
"""

OPEN_DOORS = f"""
import os, tempfile
from recollect.runtime import ray as runtime
from recollect.runtime.sockets import OpenSocketError, tree

inner, folders = runtime.replaced, []

def all_but_the_switch(owner, name, value):
    return inner(owner, name, getattr(owner, name) if name == "ENABLE_RAY_CLUSTER" else value)

runtime.replaced = all_but_the_switch
make = tempfile.mkdtemp
tempfile.mkdtemp = lambda **how: folders.append(make(**how)) or folders[-1]
try:
    runtime.Cluster.local(1, {STORE})
except OpenSocketError as error:
    print(error)
print([folder for folder in folders if os.path.exists(folder)], len(tree(os.getpid())))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home folder of all that these tests start."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # nobody's: not consulted
        yield home


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    """One that all the tests here share."""
    with Cluster.local(2, STORE) as cluster:
        yield cluster


class Part:
    """What a user's class may be: it never heard of Ray."""

    def number(self) -> int:
        return os.getpid()

    def variables(self) -> dict[str, str]:
        return dict(os.environ)

    def tell(self, megabytes: int) -> None:
        for _ in range(megabytes << 10):
            print(1023 * "x", flush=True)
        forget_prints()

    def end(self) -> None:
        print("the last words", file=sys.stderr, flush=True)
        os._exit(3)


def part() -> Any:
    return load().remote(num_cpus=0.1)(Part).remote()


def gone(pids: dict[int, str], seconds: float = 10) -> bool:
    """Whether all these processes have ended, within R5's seconds."""
    deadline = time.monotonic() + seconds
    while any(born(pid) == when for pid, when in pids.items()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_every_socket_of_the_tree_is_on_loopback(cluster: Cluster) -> None:
    """S1."""
    one = part()  # Ray ends it when nobody holds it any more
    mine = load().get(one.number.remote())
    processes = tree(os.getpid())
    assert mine in processes
    found = listeners(processes)
    assert {"gcs_server", "raylet"} <= {listener.process for listener in found}
    assert mine in {listener.pid for listener in found}
    assert [str(listener) for listener in found if listener.open_to_others] == []
    assert cluster.address.startswith("127.0.0.1:")


def test_what_is_printed_fills_no_disk(cluster: Cluster) -> None:
    """An environment that tells of every step: a part looks after its prints between slices."""
    one = part()
    pid = load().get(one.number.remote())
    for _ in range(3):
        load().get(one.tell.remote(9))
    assert cluster.folder is not None
    logs = list(cluster.folder.glob(f"r/session_2*/logs/worker-*-{pid}.out*"))
    assert 1 << 20 < sum(512 * path.stat().st_blocks for path in logs) < 17 << 20


def test_a_part_that_opens_a_door_is_named(cluster: Cluster) -> None:
    """S1."""
    cluster.look_at_sockets()
    command = "import socket, sys; s = socket.create_server(('', 0)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(OpenSocketError, match=rf"process {process.pid} .*0\.0\.0\.0:\d+"):
            cluster.look_at_sockets()
        process.kill()
    cluster.look_at_sockets()


def test_a_random_token_is_on_and_nothing_is_sent_home(cluster: Cluster) -> None:
    """S1, S2."""
    one = part()
    variables = load().get(one.variables.remote())
    assert variables["RAY_AUTH_MODE"] == "token"
    assert len(variables["RAY_AUTH_TOKEN"]) == 64
    assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
    ours = {"RAY_AUTH_TOKEN": variables["RAY_AUTH_TOKEN"]}
    words = [sys.executable, "-c", "from recollect.runtime.joining import knock\n"]
    words[-1] += "import os, sys\n"
    words[-1] += "print(knock(sys.argv[1], os.environ.get('RAY_AUTH_TOKEN')).kind)"
    kept = {name: text for name, text in commanded.environment().items() if name[:4] != "RAY_"}
    said = [
        subprocess.run(
            [*words, cluster.address], env={**kept, **more}, capture_output=True, text=True
        ).stdout.strip()
        for more in ({}, {"RAY_AUTH_TOKEN": "00" * 32}, ours)
    ]
    assert said == ["refused", "refused", "let in"]


def test_nothing_is_written_into_the_home_folder(cluster: Cluster, home: Path) -> None:
    assert list(home.iterdir()) == []


def test_the_nodes_are_told(cluster: Cluster) -> None:
    (node,) = cluster.nodes()
    assert (node.address, node.alive, node.cpus, node.store) == ("127.0.0.1", True, 2.0, STORE)
    assert node.memory > 0
    assert node.custom == {}


def test_what_a_part_wrote_before_it_crashed_can_be_read(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    ray = load()
    one = part()
    number = ray.get(one.number.remote())
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(one.end.remote(), timeout=30)
    assert "the last words" in cluster.last_words(number)
    deadline = time.monotonic() + 20
    while not any(str(number) in words for words in cluster.complaints):
        assert time.monotonic() < deadline, cluster.complaints
        time.sleep(0.05)
    assert capfd.readouterr() == ("", "")


def test_one_cluster_at_a_time(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="uses Ray already"):
        Cluster.local(1, STORE)
    assert cluster.nodes()[0].alive


def test_another_version_of_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = load()
    for version in ("2.58.9", "2.61.0", "3.0.0.dev0", "unknown"):
        monkeypatch.setattr(ray, "__version__", version)
        with pytest.raises(ConfigError, match=rf"Ray {version} is installed and 2.59 or 2.60"):
            load()


def test_a_missing_ray_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'recollect\[ray\]'"):
        load()


def test_a_store_that_ray_would_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1,000 is too few: at least 78,643,200"):
        Cluster.local(1, 1_000)


def started(home: Path) -> tuple[Any, dict[str, Any]]:
    """A driver in a session of its own, with a cluster; what it said."""
    process = commanded.python(["-W", "error", "-c", DRIVER], start_new_session=True)
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate())
    said = json.loads(line)
    said["pids"] = {int(pid): when for pid, when in said["pids"].items()}
    assert len(said["pids"]) > 5
    return process, said


def test_signals_to_the_whole_group_are_the_drivers_alone_and_the_end_is_quiet(home: Path) -> None:
    """Control-C in a terminal, a scheduler's SIGTERM, a terminal that is closed."""
    process, said = started(home)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.killpg(process.pid, number)
    out, error = process.communicate(timeout=60)
    assert (out, error) == ("True [1, 2, 15]\n", "")
    assert process.returncode == 0
    assert gone(said["pids"], 1)
    assert not Path(said["folder"]).exists()


def test_a_driver_that_is_killed_leaves_nothing(home: Path) -> None:
    """R5."""
    shared = set(SHARED_MEMORY.iterdir())
    process, said = started(home)
    process.kill()
    process.communicate()
    assert gone(said["pids"])
    left = {path for path in SHARED_MEMORY.iterdir() if "plasma" in path.name} - shared
    assert left == set()
    deadline = time.monotonic() + 10
    while Path(said["folder"]).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_cluster_that_lets_others_in_is_ended(home: Path) -> None:
    """S1. Ray as it is without its switch for desktops."""
    # The cluster that these tests share set the switch for all that this process starts.
    switch = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    variables = {k: v for k, v in commanded.environment().items() if k != switch}
    process = commanded.python(["-W", "error", "-c", OPEN_DOORS], env=variables)
    out, error = process.communicate(timeout=60)
    assert re.fullmatch(r"process \d+ \(.+\) listens on .+:\d+, where .*\n\[\] 1\n", out), (
        out,
        error,
    )
    assert error == ""
