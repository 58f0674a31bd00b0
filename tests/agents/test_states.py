"""States of a whole program: what comes back from disk, snapshots, and what a stranger wrote."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recollect import presets
from recollect.runtime.inline import Inline
from recollect.training.job import prepare
from tests.hostile_states import at, instead_of, on_disk, places, replaced

SMALL: dict[str, Any] = {
    "actors": 3,
    "refresh_period": 4,
    "burn_in": 4,
    "trace_length": 8,
    "period": 4,
    "n_step": 3,
    "replay_steps": 200,
    "min_replay_steps": 40,
    "replay_ratio": 2.0,
    "batch_size": 4,
    "target_period": 7,
    "publish_period": 2,
    "torso_sizes": (4,),
    "hidden": 4,
    "head_hidden": 4,
    "evaluation_period": 3,
    "evaluation_episodes": 2,
}
PROGRAMS: dict[str, dict[str, Any]] = {
    "PositionCartPole": {"agent": "r2d2", "env": "recollect/PositionCartPole-v0"},
    "Recall": {
        "agent": "r2d2",
        "env": "recollect/Recall-v0",
        "env_kwargs": {"delay": 3, "trials": 4},
        "keep_states": True,
        "prioritized": False,
    },
    "TMaze, whole episodes": {
        "agent": "drqn",
        "env": "recollect/TMaze-v0",
        "env_kwargs": {"length": 5},
        "sequences": "trajectories",
        "burn_in": 0,
        "n_step": 1,
    },
}
HOSTILE = [
    pytest.param("PositionCartPole", 5, id="every fifth"),
    *(pytest.param(name, 1, id=name, marks=pytest.mark.slow) for name in PROGRAMS),
]


def runtime(name: str = "PositionCartPole") -> Inline:
    asked = dict(PROGRAMS[name])
    agent, env = asked.pop("agent"), asked.pop("env")
    job = prepare(
        agent,
        env=env,
        env_kwargs=asked.pop("env_kwargs", None),
        preset="auto",
        seed=3,
        env_steps=1000,
        settings={**SMALL, **asked},
    )
    return Inline(presets.agent(agent).program(job.config, job.env, job.seed, job.network))


def rounds(program: Inline, number: int) -> None:
    left = iter(range(number + 1))
    program.run(lambda _: next(left) == number)


def cases(state: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    for path in places(state):
        for name, value in instead_of(at(state, path)).items():
            yield f"{'.'.join(map(str, path))}: {name}", path, value


@pytest.mark.filterwarnings("ignore")  # environments that cannot be put back
@pytest.mark.parametrize(("name", "stride"), HOSTILE)
def test_whatever_stands_in_a_state_it_is_refused_or_does_no_harm(
    tmp_path: Path, name: str, stride: int
) -> None:
    """C3: ValueError where it is loaded, or at worst a typed error where it is used."""
    program = runtime(name)
    rounds(program, 55)
    good = on_disk(program.state_dict(), tmp_path)
    before, accepted, harm = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, []
    program.load_state_dict(good)
    for told, path, value in [*cases(good)][::stride]:
        state = replaced(good, path, value)
        try:
            if len(path) > 2 and path[0] == "parts":  # quicker than all of them
                program.parts[path[1]].load_state_dict(state["parts"][path[1]])
            program.load_state_dict(state)
        except ValueError:
            continue
        except Exception as error:
            harm.append(f"{told}: to load it: {error!r}")
            continue
        accepted += 1
        try:
            rounds(program, 6)
            program.metrics()
        except (ValueError, RuntimeError):
            pass
        except Exception as error:
            harm.append(f"{told}: to go on: {error!r}")
    assert not harm, "\n".join(harm)
    assert accepted > 50, "figures may be any"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000, f"{grown} KiB"
