"""Every worker in its turn, in one process."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from recollect.agents import r2d2
from recollect.agents.r2d2 import R2D2Config
from recollect.envs import registry
from recollect.program import Part, Program
from recollect.roles import ACTOR, LEARNER, PARAMETERS
from recollect.run.checkpoint import digest
from recollect.runtime.inline import STUCK_AFTER, Inline


class Tape:
    """A service that remembers who called it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def metrics(self) -> dict[str, float]:
        return {"calls": float(len(self.calls))}


class Worker:
    """Calls the tape each turn while the other is not more than `lead` turns behind."""

    def __init__(self, name: str, tape: Tape, most: int = 10**9) -> None:
        self.name, self.tape, self.most, self.turns = name, tape, most, 0

    def ready(self) -> bool:
        return self.turns < self.most

    def step(self) -> None:
        self.turns += 1
        self.tape.calls.append(self.name)

    def counts(self) -> dict[str, int]:
        return {"env_steps": self.turns if self.name.startswith("actor") else 0}

    def metrics(self) -> dict[str, float]:
        return {"turns": float(self.turns)}


def program(most: int = 10**9) -> Program:
    return Program(
        (
            Part("tape", PARAMETERS, Tape),
            Part("learner", LEARNER, lambda tape: Worker("learner", tape, most), {"tape": "tape"}),
            Part("actor/0", ACTOR, lambda tape: Worker("actor/0", tape, most), {"tape": "tape"}),
            Part("actor/1", ACTOR, lambda tape: Worker("actor/1", tape, most), {"tape": "tape"}),
        ),
        policy=list,
    )


def test_workers_take_turns_in_the_order_of_the_program_until_told_to_stop() -> None:
    runtime = Inline(program())
    runtime.run(lambda counts: counts["env_steps"] >= 4)
    assert runtime.parts["tape"].calls == ["learner", "actor/0", "actor/1"] * 2
    assert runtime.counts() == Counter(env_steps=4)
    runtime.run(lambda counts: counts["env_steps"] >= 4)
    assert len(runtime.parts["tape"].calls) == 6, "nothing is done once the end is reached"


def test_metrics_carry_the_kind_of_part_and_are_averaged_over_parts_of_a_kind() -> None:
    runtime = Inline(program())
    runtime.run(lambda counts: counts["env_steps"] >= 2)
    assert runtime.metrics() == {"tape/calls": 3.0, "learner/turns": 1.0, "actor/turns": 1.0}


def test_a_run_that_cannot_move_says_so() -> None:
    runtime = Inline(program(most=2))
    with pytest.raises(RuntimeError, match="cannot move: none of learner, actor/0, actor/1"):
        runtime.run(lambda counts: counts["env_steps"] >= 100)


def test_a_run_that_only_pauses_goes_on() -> None:
    """Two rounds in three nobody is ready, again and again."""

    class Pausing(Worker):
        asked = 0

        def ready(self) -> bool:
            self.asked += 1
            return self.asked % STUCK_AFTER == 0

    parts = (
        Part("tape", PARAMETERS, Tape),
        Part("actor/0", ACTOR, lambda tape: Pausing("actor/0", tape), {"tape": "tape"}),
    )
    runtime = Inline(Program(parts, policy=list))
    runtime.run(lambda counts: counts["env_steps"] >= 5)
    assert runtime.counts() == Counter(env_steps=5)


def test_the_seconds_of_each_worker_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(100)
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    runtime = Inline(program())
    runtime.run(lambda counts: counts["env_steps"] >= 6)
    assert runtime.seconds == {"learner": 3, "actor/0": 3, "actor/1": 3}, "each turn took a tick"


# --- A replay in shards ---------------------------------------------------------------------------

CONFIG = R2D2Config(
    actors=4,
    actor_processes=2,
    replay_shards=2,
    burn_in=4,
    trace_length=8,
    period=4,
    n_step=3,
    replay_steps=301,
    min_replay_steps=61,
    replay_ratio=2.0,
    batch_size=4,
    torso_sizes=(8,),
    pre_core=0,
    hidden=8,
    head_hidden=8,
    evaluation_period=0,
)


def sharded(**change: Any) -> Inline:
    env = registry.env_spec("recollect/PositionCartPole-v0")
    return Inline(r2d2.program(replace(CONFIG, **change), env, 7))


def test_a_run_with_a_replay_in_shards_is_repeated_bit_for_bit() -> None:
    """Metrics and states."""
    found = []
    for _ in range(2):
        runtime = sharded()
        runtime.run(lambda counts: counts["env_steps"] >= 400)
        metrics = {k: v for k, v in runtime.metrics().items() if not k.endswith("seconds")}
        found.append((metrics, digest(runtime.state_dict())))
        assert set(runtime.parts) >= {"replay/0", "replay/1"}
        runtime.close()
    assert found[0] == found[1]


def test_shards_share_what_is_held_and_keep_to_one_limiter() -> None:
    one, two = sharded(replay_shards=1), sharded()
    for runtime in (one, two):
        runtime.run(lambda counts: counts["env_steps"] >= 600)
    both = two.metrics("replay")
    assert both["replay/inserted_steps"] == one.metrics("replay")["replay/inserted_steps"]
    assert both["replay/steps"] > 0.7 * 301
    stores = [two.parts[f"replay/{k}"] for k in range(2)]
    assert [store._capacity_steps for store in stores] == [151, 150]
    assert [store.totals.min_size for store in stores] == [31, 30]
    owed = 2.0 * (both["replay/inserted_steps"] - 61) - both["replay/learned_steps"]
    assert -4 * 8 <= owed < 4 * 8
    assert both["replay/surplus_steps"] == owed
    for runtime in (one, two):
        runtime.close()
