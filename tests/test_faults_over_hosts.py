"""A training over three machines, of which one is killed and another cut off: R1, R2, R7."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recollect.run.metrics import read_metrics
from tests.commanded import status
from tests.runtime.aftermath import assert_sound
from tests.runtime.namespaces import Host, cut, kill, mend, three_hosts

pytest.importorskip("ray")

# What `docs/distributed.md` says of `ray start`.
PULSE = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}
FIND_SECONDS = 10.0


class Watched:
    """A run in its folder, as it goes on."""

    def __init__(self, run: Path, process: Any) -> None:
        self.run, self.process = run, process

    @property
    def deaths(self) -> list[dict[str, Any]]:
        """The rows of its faults.jsonl."""
        path = self.run / "faults.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def wait(self, true: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        """Until its status is so."""
        end = time.monotonic() + seconds
        while True:
            found = status(self.run) if (self.run / "status.json").exists() else {}
            if found.get("state") == "running" and true(found):
                return found
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, found
            time.sleep(0.2)


def places(found: dict[str, Any]) -> dict[str, str]:
    """Where the parts that live are."""
    return {part["name"]: part["host"] for part in found["parts"] if part["alive"]}


def strike(watched: Watched, how: Callable[[Host], None], host: Host) -> set[str]:
    """Do it to a host; wait until all that was there is elsewhere, and say how long that took."""
    there = {name for name, where in places(status(watched.run)).items() if where == host.address}
    assert there, status(watched.run)
    known = len(watched.deaths)
    how(host)
    struck = time.time()
    back: dict[str, float] = {}

    def all_back(found: dict[str, Any]) -> bool:
        back.update({row["part"]: row["down_seconds"] for row in watched.deaths[known:]})
        return back.keys() >= there and host.address not in places(found).values()

    found = watched.wait(all_back, 100)
    for name in sorted(there):
        print(f"{how.__name__} {name}: away for {back[name]:.1f} s since it was noticed; all back")
    print(f"  after {time.time() - struck:.1f} s at {found['env_steps']:,} steps")
    return there


@pytest.mark.slow
def test_a_run_over_three_hosts_learns_though_two_of_them_go(tmp_path: Path) -> None:
    """Must show 2: it spans them, goes on without those that go, and learns what it would."""
    run = tmp_path / "run"
    words = "train r2d2 --env recollect/Recall-v0 --seed 1 --runtime ray --actor-processes 2 "
    words += f"--replay-shards 2 --checkpoint-seconds 5 --run-dir {run} --address "
    with three_hosts() as hosts, hosts.cluster(cpus=3, **PULSE) as cluster:
        head, second, third = hosts.hosts
        pinned = " ".join(
            f"{k}:node={head.address}" for k in ("learner", "parameters", "evaluator")
        )
        command = [sys.executable, "-m", "recollect", *words.split(), cluster.address]
        with (tmp_path / "said").open("w") as said:
            process = cluster.start([*command, "--place", pinned], stdout=said, stderr=said)
        watched = Watched(run, process)
        found = watched.wait(lambda found: found["updates"] > 0 and bool(found["checkpoint"]), 100)
        assert set(places(found).values()) == {host.address for host in hosts.hosts}, places(found)
        killed = strike(watched, kill, second)
        assert {"actor", "replay"} <= {name.partition("/")[0] for name in killed}
        gone = strike(watched, cut, third)
        assert any(name.startswith("actor") for name in gone)
        mend(third)
        process.wait(200)
    print((tmp_path / "said").read_text())
    assert process.returncode == 0
    rows = read_metrics(run)
    print(rows[-1])
    assert_sound(run, watched.deaths)
    assert rows[-1]["final/return_mean"] >= 0.95
