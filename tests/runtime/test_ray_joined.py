"""S1: a cluster of three nodes is joined with its token, and refused at once without."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from recollect.runtime.joining import SECONDS
from tests.runtime.namespaces import RunningCluster, three_hosts

pytest.importorskip("ray")

JOIN = """
import json, os, sys, time
from recollect.runtime.ray import Cluster, load
from recollect.types import ConfigError

class Part:
    def host(self):
        return load().util.get_node_ip_address()

begin = time.monotonic()
try:
    with Cluster.join(sys.argv[1]) as cluster:
        nodes = {node.address: [node.alive, node.cpus, node.store, node.custom]
                 for node in cluster.nodes()}
        make = load().remote(Part).options
        parts = [make(resources={name: 1}).remote() for *_, [name] in nodes.values()]
        found = load().get([part.host.remote() for part in parts], timeout=60)
        print(json.dumps({"nodes": nodes, "hosts": found}))
except ConfigError as error:
    print(json.dumps({"error": str(error), "seconds": time.monotonic() - begin}))
"""


def joined(cluster: RunningCluster, address: str = "", **variables: str) -> dict[str, Any]:
    """What a driver says that runs beside the head, with these variables of the environment."""
    words = [sys.executable, "-W", "error", "-c", JOIN, address or cluster.address]
    kept = {name: text for name, text in cluster.environment.items() if name != "PYTHONWARNINGS"}
    done = cluster.run(words, env={**kept, **variables})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def refused(said: dict[str, Any]) -> str:
    """The one line; Ray's own way takes 20 s."""
    assert said["seconds"] < 10 * SECONDS
    assert "\n" not in said["error"]
    return str(said["error"])


def test_three_nodes_are_joined_with_their_token_and_refused_at_once_without() -> None:
    """One test, for one start."""
    with three_hosts() as hosts, hosts.cluster() as cluster:
        # Also where the variable that Ray wants says otherwise: there is a token.
        said = joined(cluster, RAY_AUTH_MODE="disabled")
        wanted = {
            host.address: [True, 1.0, 80_000_000, {f"host{number}": 1.0}]
            for number, host in enumerate(cluster.hosts)
        }
        assert said["nodes"] == wanted
        assert sorted(said["hosts"]) == sorted(wanted)
        assert "has another token" in refused(joined(cluster, RAY_AUTH_TOKEN="00" * 32))
        assert "wants a token and none is set here" in refused(joined(cluster, RAY_AUTH_TOKEN=""))
        nobody = f"{cluster.hosts[1].address}:6379"
        assert f"no Ray cluster answers at {nobody}" in refused(joined(cluster, nobody))


@pytest.mark.slow  # tests/runtime/test_joining.py says it of a head that only looks like Ray's
def test_a_cluster_without_a_token_is_refused_at_once() -> None:
    with three_hosts() as hosts, hosts.cluster(token=None, only_head=True) as cluster:
        assert "lets in anybody, without a token" in refused(joined(cluster))
        assert "lets in anybody" in refused(joined(cluster, RAY_AUTH_TOKEN="00" * 32))
