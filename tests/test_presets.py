from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recollect import presets
from recollect.agents import r2d2, wiring
from recollect.agents.r2d2 import R2D2Config
from recollect.types import ActionSpec, ArraySpec, EnvSpec

MANY = [f"name_{n}" for n in range(14)]


@pytest.mark.parametrize(
    ("kind", "name", "known", "hint"),
    [
        ("agent", "R2D2", ["drqn", "r2d2"], "did you mean r2d2?"),
        ("agent", "Sam", ["b", "A"], "known: A, b"),
        ("setting", "zzz", MANY, "recollect train --help shows them all"),
        ("setting", "NAME-13", MANY, "did you mean name_13?"),
        ("metric", "zzz", MANY, f"known: {', '.join(sorted(MANY)[:12])} and 2 more"),
    ],
)
def test_an_unknown_name_is_told_the_nearest_or_where_to_look(
    kind: str, name: str, known: list[str], hint: str
) -> None:
    assert str(presets.nearest(kind, name, known)) == f"unknown {kind} {name}: {hint}"


# -- what each preset is, by kind of observation ---------------------------------------------------

ACTIONS = ActionSpec(18)
ATARI = EnvSpec("ale_py:ALE/Pong-v5", {}, {"observation": ArraySpec((84, 84), "uint8")}, ACTIONS)
COLOUR = EnvSpec("x/Doom-v0", {}, {"observation": ArraySpec((72, 96, 3), "uint8")}, ACTIONS)
TOLD = EnvSpec(
    "x/Mission-v0",
    {},
    {"image": ArraySpec((7, 7, 3), "uint8"), "mission": ArraySpec((16,), "int16", "text")},
    ACTIONS,
)
NUMBERS = EnvSpec("x/Pole-v0", {}, {"observation": ArraySpec((4,))}, ActionSpec(2))
GRID = replace(NUMBERS, id="MiniGrid-MemoryS7-v0", observation={"view": ArraySpec((984,), "uint8")})
ALL = [ATARI, COLOUR, TOLD, NUMBERS, GRID]
GB = 10**9


def config(preset: str, env: EnvSpec, steps: int | None = None) -> R2D2Config:
    return presets.resolve("r2d2", preset, env, steps)[0]


def planned(made: R2D2Config, env: EnvSpec) -> int:
    """Bytes of replay, as the program plans them."""
    return r2d2.program(made, env, seed=1).replay_bytes


def shaped(*shape: int) -> EnvSpec:
    return replace(ATARI, observation={"observation": ArraySpec(shape, "uint8")})


@pytest.mark.parametrize(
    ("env", "stack"),
    [
        (ATARI, 4),
        (COLOUR, 1),
        (TOLD, 1),
        (NUMBERS, 1),
        (shaped(84, 84, 1), 4),
        (shaped(1, 84, 84), 4),
        (shaped(4, 84, 84), 1),
    ],
)
def test_grey_images_are_seen_four_at_once(env: EnvSpec, stack: int) -> None:
    """Section 2.3: Atari's frames are stacked, DMLab's are not; one channel is grey too."""
    for preset in ("paper", "plus", "fitted"):
        assert config(preset, env).frame_stack == stack


@pytest.mark.parametrize("env", ALL)
def test_the_papers_preset_is_table_2(env: EnvSpec) -> None:
    """S0-17, S1-4: whatever the machine."""
    made, steps = presets.resolve("r2d2", "paper", env)
    assert replace(made, frame_stack=1) == R2D2Config()
    assert steps == 2_500_000_000
    assert (made.actors, made.batch_size, made.replay_steps) == (256, 64, 4_000_000)
    assert (made.burn_in, made.trace_length, made.period, made.n_step) == (40, 80, 40, 5)
    assert (made.refresh_period, made.target_period) == (400, 2500)
    assert (made.learning_rate, made.adam_epsilon, made.gamma) == (1e-4, 1e-3, 0.997)
    assert (made.priority_exponent, made.importance_exponent, made.eta) == (0.9, 0.6, 0.9)
    assert (made.pre_core, made.core, made.hidden, made.head_hidden) == (512, "lstm", 512, 512)
    assert (made.duelling, made.double_q, made.rewards) == (True, True, "rescaled")
    assert (made.previous_action, made.previous_reward) == (True, True)
    assert (made.epsilon_base, made.epsilon_alpha) == (0.4, 7.0)


def changed(made: R2D2Config, env: EnvSpec) -> set[str]:
    return {name for name, *_ in presets.differences("r2d2", made, env)}


@pytest.mark.parametrize("env", ALL)
def test_plus_is_the_papers_r2d2_plus(env: EnvSpec) -> None:
    """Section 4.1: residual torso of 15 layers, soft clipping, target period 400, batches of 32."""
    made = config("plus", env)
    assert changed(made, env) == {"torso", "rewards", "target_period", "batch_size"}
    assert (made.torso, made.rewards) == ("impala", "asymmetric")
    assert (made.target_period, made.batch_size) == (400, 32)
    network = wiring.q_network(made, COLOUR, seed=1)
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]  # type: ignore[attr-defined]
    assert len(layers) == 15


@pytest.mark.parametrize("free", [None, 2 * GB, 64 * GB])
@pytest.mark.parametrize("env", ALL)
def test_fitted_keeps_the_papers_network_and_lengths(
    env: EnvSpec, free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S0-17: what fits the machine is slots, batch, replay and how it is packed, nothing else."""
    monkeypatch.setattr(presets, "free_memory", lambda: free)
    for gpu in (False, True):
        monkeypatch.setattr(presets, "gpu", lambda gpu=gpu: gpu)
        made = config("fitted", env)
        assert changed(made, env) <= {"actors", "batch_size", "replay_bytes", "codec"}
        assert made.batch_size == (64 if gpu else 8)
        assert made.codec == ("zstd" if env is ATARI else "none")


@pytest.mark.parametrize(("processors", "actors"), [(1, 16), (2, 32), (16, 256), (64, 256)])
def test_sixteen_slots_for_each_processor(
    processors: int, actors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "processors", lambda: processors)
    assert config("fitted", ATARI).actors == actors


FREE = [GB // 2, GB, 3 * GB + 1, 7 * GB + 12345, 16 * GB, 100 * GB, 1000 * GB]


@pytest.mark.parametrize("free", [*FREE, None])
@pytest.mark.parametrize("preset", ["fitted", "small"])
@pytest.mark.parametrize("env", [ATARI, COLOUR, TOLD])
def test_replay_takes_no_more_than_its_share_of_what_is_free(
    env: EnvSpec, preset: str, free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that are planned, all in; at most the paper's steps."""
    monkeypatch.setattr(presets, "free_memory", lambda: free)
    monkeypatch.setattr(presets, "processors", lambda: 2)
    made = config(preset, env)
    assert made.replay_steps <= 4_000_000
    share = int(0.4 * (free or 8 * GB))
    assert planned(made, env) <= made.replay_bytes
    assert 0.9 * share < made.replay_bytes <= share


def test_a_machine_with_a_terabyte_has_the_papers_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "free_memory", lambda: 1000 * GB)
    assert config("fitted", ATARI).replay_steps == 4_000_000


@pytest.mark.parametrize(
    ("env", "agent", "preset"),
    [
        (ATARI, "r2d2", "fitted"),
        (COLOUR, "r2d2", "fitted"),
        (TOLD, "r2d2", "fitted"),
        (NUMBERS, "r2d2", "small"),
        (NUMBERS, "drqn", "small"),
        (ATARI, "drqn", "small"),
    ],
)
def test_auto_is_fitted_for_images(
    env: EnvSpec, agent: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "free_memory", lambda: 8 * GB)  # else it may change in between
    assert presets.resolve(agent, "auto", env) == presets.resolve(agent, preset, env)


@pytest.mark.parametrize("prefix", ["", "minigrid:"])
def test_small_has_settings_of_its_own_for_each_kind_of_observation(prefix: str) -> None:
    grid = replace(GRID, id=prefix + GRID.id)
    found = [config("small", env, 7000) for env in (NUMBERS, grid, ATARI)]
    assert [(made.gamma, made.n_step, made.hidden) for made in found] == [
        (0.99, 5, 32),
        (0.95, 5, 128),
        (0.99, 10, 256),
    ]
    assert {made.decay_steps for made in found} == {7000}, "the rate falls over the whole run"
    pixels = replace(grid, observation={"view": ArraySpec((56, 56, 3), "uint8")})
    assert config("small", pixels, 7000).torso == "small"


def test_small_is_what_was_measured() -> None:
    """docs/r2d2.md tells these figures and what came of others."""
    grid, pixels = (presets.small(env, None) for env in (GRID, ATARI))
    assert (grid[1], pixels[1]) == (500_000, 250_000)
    names = "actors epsilon_alpha replay_ratio reward_scale rewards evaluation_episodes"
    assert [getattr(grid[0], name) for name in names.split()] == [32, 2.0, 8.0, 1.0, "raw", 30]
    names = "actors epsilon_alpha replay_ratio burn_in trace_length batch_size rewards codec"
    wanted = [16, 3.0, 16.0, 4, 16, 8, "rescaled", "zstd"]
    assert [getattr(pixels[0], name) for name in names.split()] == wanted
    for env_id in ("popgym-RepeatPreviousEasy-v0", "VizdoomBasic-v1"):
        told = presets.small(replace(NUMBERS, id=env_id), None)
        assert told == presets.small(NUMBERS, None), "only MiniGrid's symbols have their own"


@pytest.mark.parametrize("env", ALL)
@pytest.mark.parametrize("preset", presets.AGENTS["r2d2"].presets)
def test_a_preset_learns_before_its_run_is_over(preset: str, env: EnvSpec) -> None:
    made, steps = presets.resolve("r2d2", preset, env)
    assert made.min_replay_steps <= min(steps / 10, made.replay_steps / 10)


@pytest.mark.parametrize("env", ALL)
@pytest.mark.parametrize("agent", presets.AGENTS)
def test_every_preset_makes_a_program(agent: str, env: EnvSpec) -> None:
    for name in presets.agent(agent).presets:
        made, steps = presets.resolve(agent, name, env, 1_000_000)
        assert steps == 1_000_000
        program = presets.agent(agent).program(made, env, 1, "")
        policy = program.policy()
        carry = policy.start(2)
        seen = {key: spec.zeros(2) for key, spec in env.observation.items()}
        values, _ = policy(seen, carry)
        assert values.shape == (2, env.action.num_actions)


def test_drqn_of_the_paper_is_not_a_duelling_double_network() -> None:
    made, steps = presets.resolve("drqn", "paper", ATARI)
    assert (made.duelling, made.double_q, made.prioritized) == (False, False, False)
    assert (made.start_state, made.burn_in, made.trace_length) == ("zero", 0, 10)
    assert steps == 10_000_000


def test_only_what_the_paper_says_can_differ_from_it() -> None:
    """Processes, shards, how blocks are packed, how often it is evaluated: these are ours."""
    given = {
        "actor_processes": 2,
        "replay_shards": 2,
        "codec": "zstd",
        "env_processes": 1,
        "env_deadline": 5.0,
        "threads": 2,
        "device": "cpu",
        "actor_device": "cpu",
        "dtype": "float32",
        "evaluation_period": 7,
        "burn_in": 8,
    }
    made = presets.with_settings(config("paper", COLOUR), given)
    assert presets.differences("r2d2", made, COLOUR) == [("burn_in", 8, 40)]
