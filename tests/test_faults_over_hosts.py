"""A training over three machines, of which one is killed and another cut off: R1, R2, R7."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recollect.program import kind_of
from recollect.run.metrics import read_metrics
from tests.commanded import status
from tests.runtime.aftermath import assert_sound
from tests.runtime.namespaces import Host, cut, kill, mend, parts_on, three_hosts

pytest.importorskip("ray")


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

    @property
    def places(self) -> dict[str, str]:
        """Where the parts that live are."""
        found = status(self.run)["parts"]
        return {part["name"]: part["host"] for part in found if part["alive"]}

    def wait(self, true: Callable[[], bool], seconds: float = 100) -> None:
        """Until something is so, while the run goes on."""
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, "the run has ended"
            assert time.monotonic() < end, self.deaths
            time.sleep(0.1)

    def learns(self) -> bool:
        """Whether it does, and could be gone on with."""
        if not (self.run / "status.json").exists():
            return False
        found = status(self.run)
        return found["updates"] > 0 and bool(found["checkpoint"])


def strike(watched: Watched, how: Callable[[Host], None], host: Host) -> set[str]:
    """Do it to a host; when all that was there is elsewhere, print how long that took."""
    watched.wait(lambda: len(watched.places) == len(status(watched.run)["parts"]))
    there = {name for name, where in watched.places.items() if where == host.address}
    known, steps = len(watched.deaths), status(watched.run)["env_steps"]
    how(host)
    struck, back = time.monotonic(), set[str]()

    def all_back() -> bool:
        for row in watched.deaths[known:]:
            if row["part"] not in back:
                back.add(row["part"])
                after, down = time.monotonic() - struck, row["down_seconds"]
                print(f"{how.__name__} {row['part']}: found within {after - down:.1f} s, ", end="")
                print(f"back after another {down:.1f} s, {row['lost_steps']} steps lost")
        return back >= there and host.address not in watched.places.values()

    watched.wait(all_back)
    print(f"at {steps:,} steps; there were {', '.join(sorted(there))}")
    return there


@pytest.mark.slow
def test_a_run_over_three_hosts_learns_though_two_of_them_go(tmp_path: Path) -> None:
    """Must show 2: it goes on without them, nothing is there twice, it learns what it would.

    With Ray as it is by default: it knows after a minute that a node is cut off. When the link is
    mended before that, the old lives are there still, and go on as far as they are let.
    """
    run = tmp_path / "run"
    words = "train r2d2 --env recollect/Recall-v0 --seed 1 --runtime ray --actor-processes 2 "
    words += f"--replay-shards 2 --env-steps 100000 --checkpoint-seconds 5 --run-dir {run}"
    with three_hosts() as hosts, hosts.cluster(cpus=3) as cluster:
        head, second, third = hosts.hosts
        pins = [f"{kind}:node={head.address}" for kind in ("learner", "parameters", "evaluator")]
        command = [sys.executable, "-m", "recollect", *words.split(), "--address", cluster.address]
        with (tmp_path / "said").open("w") as said:
            command += ["--place", " ".join(pins)]
            process = cluster.start(command, stdout=said, stderr=said)
        watched = Watched(run, process)
        watched.wait(watched.learns)
        assert set(watched.places.values()) == {host.address for host in hosts.hosts}
        killed = strike(watched, kill, second)
        assert {"actor", "replay"} <= {kind_of(name) for name in killed}
        gone = strike(watched, cut, third)
        assert "actor" in {kind_of(name) for name in gone}
        assert len(parts_on(third)) == len(gone)  # they live, where nobody hears them
        mend(third)
        mended = time.monotonic()
        watched.wait(lambda: not parts_on(third))
        print(f"what was left is gone {time.monotonic() - mended:.1f} s after the link was mended")
        process.wait(200)
    print((tmp_path / "said").read_text())
    assert process.returncode == 0
    assert {row["part"] for row in watched.deaths} == killed | gone
    assert_sound(run, watched.deaths)
    assert read_metrics(run)[-1]["final/return_mean"] >= 0.95
