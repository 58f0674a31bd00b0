"""What a config says reaches the parts it is meant for."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recollect.agents import acting, evaluating, policy, r2d2, wiring
from recollect.agents.learning import named_arrays
from recollect.agents.r2d2 import R2D2Config
from recollect.envs import registry
from recollect.parameters import Parameters
from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.contents import BLOCK_OVERHEAD, ITEM_OVERHEAD
from recollect.replay.episodes import Item
from recollect.replay.store import Replay, memory_need
from recollect.types import ConfigError
from tests.agents import clockwork
from tests.agents.clockwork import Counter
from tests.agents.test_acting import Tape, contents, take_turns, windows_and_priorities

CONFIG = R2D2Config(
    actors=5,
    burn_in=3,
    trace_length=8,
    period=4,
    n_step=3,
    gamma=0.9,
    refresh_period=7,
    replay_steps=160,
    min_replay_steps=8,
    replay_ratio=2.0,
    batch_size=2,
    torso_sizes=(12,),
    pre_core=9,
    hidden=6,
    head_hidden=5,
)


def spec(longest: int = 30) -> Any:
    assert clockwork.Clock
    return registry.env_spec("tests/Clock-v0", {"longest": longest})


# -- replay ----------------------------------------------------------------------------------------


def replay(config: R2D2Config) -> tuple[Replay, BlockSpec]:
    blocks = wiring.block_spec(config, spec(), 3)
    return wiring.make_replay(config, blocks), blocks


def insert(store: Replay, blocks: BlockSpec, episode: int, priority: float = 1.0) -> None:
    """A whole episode of 4 steps: one block and one window."""
    block = Block.build(
        blocks,
        episode=episode,
        index=0,
        observations={"observation": np.zeros((5, 3), np.float32)},
        actions=np.zeros(4, np.int64),
        rewards=np.zeros(4, np.float32),
        discounts=np.zeros(4, np.float32),
        states=np.zeros((len(blocks.state_offsets), 3), np.float32),
        previous_action=np.int64(-1),
        previous_reward=np.float32(0),
        last=True,
    )
    item = Item(episode, start=0, prefix=0, learned=4, tail=0, priority=priority, version=0)
    store.insert([block], [item])


def test_learning_waits_for_the_least_and_acting_for_learning() -> None:
    """Acting waits once learning is behind by a batch and by a block of every slot.

    That is by 2 x 8 learned steps and by 2 x 4 x 5; each block beyond the first 8 steps owes 2 x 4.
    """
    store, blocks = replay(replace(CONFIG, replay_steps=100))
    wants = []
    for episode in range(10):
        insert(store, blocks, episode)
        wants.append((store.wants_sample(), store.wants_insert()))
    behind = [2 * 4 * max(0, k - 2) for k in range(1, 11)]
    assert wants == [(k >= 2, behind[k - 1] < 2 * 8 + 2 * 4 * 5) for k in range(1, 11)]
    assert [insert for _, insert in wants] == [True] * 8 + [False] * 2


@pytest.mark.parametrize(
    ("settings", "chances"),
    [
        ({"priority_exponent": 0.5}, {1 / (1 + 2), 2 / (1 + 2)}),
        ({"priority_exponent": 1.0}, {1 / (1 + 4), 4 / (1 + 4)}),
        ({"prioritized": False}, {1 / 2}),
    ],
)
def test_items_are_drawn_by_priority_to_the_exponent_or_uniformly(
    settings: dict[str, Any], chances: set[float]
) -> None:
    """Two items, of priorities 1 and 4."""
    store, blocks = replay(replace(CONFIG, **settings))
    insert(store, blocks, 0, priority=1.0)
    insert(store, blocks, 1, priority=4.0)
    found = store.sample(np.linspace(0, 0.99, 20)).probabilities
    assert sorted(set(found.round(9))) == pytest.approx(sorted(chances))


@pytest.mark.parametrize(("steps", "nbytes", "held"), [(24, 0, 6), (24, 9, 6), (80, 9, 9)])
def test_capacity_is_in_steps_and_where_bytes_are_given_in_bytes_too(
    steps: int, nbytes: int, held: int
) -> None:
    """In blocks of 4 steps, each with an item."""
    _, blocks = replay(CONFIG)
    each = blocks.nbytes(4, True) + BLOCK_OVERHEAD + ITEM_OVERHEAD
    limited, _ = replay(
        replace(CONFIG, replay_steps=steps, replay_bytes=nbytes and nbytes * each + each // 2)
    )
    for episode in range(20):
        insert(limited, blocks, episode)
    assert (limited.steps, len(limited)) == (4 * held, held)


def test_blocks_carry_the_states_that_windows_need_or_all() -> None:
    blocks = wiring.block_spec(CONFIG, spec(), 11)
    assert (blocks.period, blocks.state_size) == (4, 11)
    assert blocks.state_offsets == (0, 1), "a prefix of 3 begins one step into a block of 4"
    assert blocks.observation == spec().observation
    assert blocks.action == spec().action.array
    whole = wiring.block_spec(replace(CONFIG, keep_states=True), spec(), 11)
    assert whole.state_offsets == (0, 1, 2, 3)


# -- actors ----------------------------------------------------------------------------------------


class Told:
    """What a policy is made from."""

    ROWS = 16

    def __init__(self, *told: Any) -> None:
        self.network, self.told = told[0], told


def told(
    config: R2D2Config, process: int, monkeypatch: pytest.MonkeyPatch, longest: int = 30
) -> SimpleNamespace:
    """All that `make_actor` tells the actor of this process, and its policy."""
    monkeypatch.setattr(acting, "Actor", SimpleNamespace)
    monkeypatch.setattr(policy, "Policy", Told)
    make = partial(Counter, spec(longest))
    actor: Any = wiring.make_actor(
        config, spec(longest), 3, process, make, None, replay="replay", parameters="parameters"
    )
    return actor


def test_an_actor_is_told_what_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = told(replace(CONFIG, eta=0.2), 0, monkeypatch, longest=17)
    assert (actor.n_step, actor.gamma, actor.eta, actor.refresh_period) == (3, 0.9, 0.2, 7)
    assert (actor.seed, actor.replay, actor.parameters) == (3, "replay", "parameters")
    assert actor.windows == CONFIG.windows()
    assert actor.block_spec == wiring.block_spec(CONFIG, spec(), Counter.state_size)
    assert (actor.env.spec.id, actor.env.spec.kwargs) == ("tests/Clock-v0", {"longest": 17})


def test_trap_23_the_ladder_is_by_global_slot_over_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(CONFIG, actor_processes=2, epsilon_base=0.5, epsilon_alpha=3.0)
    actors = [told(config, process, monkeypatch) for process in range(2)]
    assert [actor.first_slot for actor in actors] == [0, 3]
    assert [actor.policy.told[2] for actor in actors] == [0, 3]
    assert [actor.env.num_envs for actor in actors] == [3, 2]
    ladder = [0.5 ** (1 + 3 * i / 4) for i in range(5)]
    for actor in actors:
        np.testing.assert_allclose(actor.epsilons, ladder, err_msg="of all slots of the run")


def test_slots_spread_over_processes_change_no_bit_of_the_experience() -> None:
    """With a real network, whose rounding depends on a slot's row: see `Policy.ROWS`."""

    def experience(processes: int) -> tuple[dict[Any, bytes], dict[Any, Item]]:
        config = replace(CONFIG, actor_processes=processes)
        make = partial(wiring.q_network, config, spec(), 3)
        errors = partial(r2d2.absolute_errors, config=config)
        parameters, tape = Parameters(), Tape()
        r2d2.Learner(config, None, parameters, make, seed=3)  # publishes
        for process in range(processes):
            actor = wiring.make_actor(
                config, spec(), 3, process, make, errors, replay=tape, parameters=parameters
            )
            take_turns(actor, 60)
        return contents(tape), windows_and_priorities(tape)

    one = experience(1)
    assert len(one[0]) > 5 * 60 / 4
    assert {uid >> 32 for uid, _ in one[0]} == set(range(5)), "slots 0 to 4 of epoch 0"
    assert experience(2) == one


# -- evaluator -------------------------------------------------------------------------------------


def test_an_evaluator_is_told_what_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluator(parameters: Any, **words: Any) -> SimpleNamespace:
        return SimpleNamespace(parameters=parameters, **words)

    monkeypatch.setattr(evaluating, "Evaluator", evaluator)
    config = replace(CONFIG, evaluation_episodes=6, evaluation_period=50, evaluation_epsilon=0.125)
    made: Any = wiring.make_evaluator(
        config, spec(17), 3, partial(Counter, spec(17)), parameters="parameters"
    )
    assert (made.parameters, made.seed) == ("parameters", 3)
    assert (made.episodes, made.period, made.epsilon) == (6, 50, 0.125)
    vector = made.make_env(4)
    assert (vector.num_envs, vector.spec) == (4, spec(17))
    assert isinstance(made.make_policy().network, Counter)


# -- program ---------------------------------------------------------------------------------------


def test_a_program_has_an_actor_a_process_and_an_evaluator_if_it_has_a_period() -> None:
    services = {"replay": "replay", "parameters": "parameters"}
    program = r2d2.program(replace(CONFIG, actor_processes=2), spec(), 3)
    assert [(part.name, part.holds) for part in program.parts] == [
        ("parameters", {}),
        ("replay", {}),
        ("learner", services),
        ("actor/0", services),
        ("actor/1", services),
        ("evaluator", {"parameters": "parameters"}),
    ]
    silent = r2d2.program(replace(CONFIG, evaluation_period=0), spec(), 3)
    assert [part.name for part in silent.parts] == ["parameters", "replay", "learner", "actor/0"]


def test_a_program_is_told_the_seed_and_makes_every_network_of_it() -> None:
    program = r2d2.program(CONFIG, spec(), 3)
    made: dict[str, Any] = {}
    for part in program.parts:
        made[part.name] = part.factory(**{word: made[name] for word, name in part.holds.items()})
    expected = named_arrays(wiring.q_network(CONFIG, spec(), 3))
    for network in (made["learner"].network, made["learner"].target, program.policy().network):
        for name, array in named_arrays(network).items():
            np.testing.assert_array_equal(array, expected[name])
    assert made["learner"].seed == 3
    take_turns(made["actor/0"], CONFIG.period + 1)
    assert made["replay"].steps == 5 * 4, "a block of every slot, its errors made"
    assert made["parameters"].version() == (0, 0), "of epoch 0, before the first update"


def test_a_program_needs_the_bytes_of_its_steps_or_those_it_may_use() -> None:
    blocks = wiring.block_spec(CONFIG, spec(), 2 * CONFIG.hidden)
    need = memory_need(blocks, CONFIG.windows(), 160)
    for limit, planned in ((0, need), (10**9, need), (need - 1, need - 1)):
        made = r2d2.program(replace(CONFIG, replay_bytes=limit), spec(), 3)
        assert made.replay_bytes == planned


def test_a_replay_that_the_running_episodes_alone_would_fill_is_refused() -> None:
    """A window lies in up to 4 blocks of 4, its errors take one more, and a turn may bring two."""
    assert CONFIG.windows().blocks == 4
    least = 5 * (4 + 1 + 2) * 4
    r2d2.program(replace(CONFIG, replay_steps=least), spec(), 3)
    said = f"replay_steps {least - 1} is too little for 5 actors: .* need {least}: raise replay_st"
    with pytest.raises(ConfigError, match=said):
        r2d2.program(replace(CONFIG, replay_steps=least - 1), spec(), 3)
    blocks = wiring.block_spec(CONFIG, spec(), 2 * CONFIG.hidden)
    need = memory_need(blocks, CONFIG.windows(), least)
    r2d2.program(replace(CONFIG, replay_bytes=need), spec(), 3)
    with pytest.raises(ConfigError, match=f"replay_bytes {need - 1:,} is too little for 5 actors"):
        r2d2.program(replace(CONFIG, replay_bytes=need - 1), spec(), 3)


def test_whole_trajectories_need_room_for_the_longest_of_every_slot() -> None:
    recall = registry.env_spec("recollect/Recall-v0", {"delay": 28})  # 30 steps an episode
    whole = replace(CONFIG, sequences="trajectories", burn_in=0)
    least = 5 * (8 + 2) * 4
    r2d2.program(replace(whole, replay_steps=least), recall, 3)
    with pytest.raises(ConfigError, match=f"too little for 5 actors: .* need {least}"):
        r2d2.program(replace(whole, replay_steps=least - 1), recall, 3)


# -- network ---------------------------------------------------------------------------------------


def parameters(config: R2D2Config = CONFIG, seed: int = 3) -> dict[str, list[Any]]:
    return {k: v.tolist() for k, v in named_arrays(wiring.q_network(config, spec(), seed)).items()}


def test_the_first_parameters_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = parameters()
    assert torch.equal(torch.rand(3), expected), "nobody else's random numbers are used up"
    assert parameters() == first
    assert parameters(seed=4) != first


@pytest.mark.parametrize(
    "settings",
    [
        {"torso_sizes": (12, 12)},
        {"pre_core": 10},
        {"core": "gru"},
        {"hidden": 7},
        {"head_hidden": 6},
        {"duelling": False},
        {"previous_action": False},
        {"previous_reward": False},
        {"forget_bias": 0.0},
    ],
)
def test_each_setting_of_the_network_reaches_it(settings: dict[str, Any]) -> None:
    assert parameters(replace(CONFIG, **settings)) != parameters()


def test_numbered_actions_are_wanted() -> None:
    pendulum = registry.env_spec("Pendulum-v1")
    with pytest.raises(ConfigError, match=r"Pendulum-v1 has continuous actions \(Box\(1,\)\)"):
        wiring.q_network(CONFIG, pendulum, 3)


def test_a_network_of_ones_own_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is called with what it needs to know, its random numbers drawn from the seed alone."""
    text = (
        "import torch\n"
        "from tests.agents.clockwork import Counter\n"
        "def make(env_spec, config):\n"
        "    network = Counter(env_spec)\n"
        "    network.told = env_spec, config, torch.rand(1).item()\n"
        "    return network\n"
    )
    (tmp_path / "a_network_here.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made: Any = wiring.q_network(CONFIG, spec(), 3, "a_network_here:make")
    again: Any = wiring.q_network(CONFIG, spec(), 3, "a_network_here:make")
    assert made.told[:2] == (spec(), CONFIG)
    assert made.told == again.told
    assert sys.path.count(str(tmp_path)) == 1
    monkeypatch.delitem(sys.modules, "a_network_here")


@pytest.mark.parametrize("name", ["tests.agents.clockwork", ":Counter", "tests.agents.clockwork:"])
def test_a_network_is_named_by_module_and_name(name: str) -> None:
    with pytest.raises(ConfigError, match="a network is named module:name, got '"):
        wiring.load_network(name)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "NoneType has no state_size or parameters"),
        ("raise KeyError('x')", "making it raised KeyError: 'x'"),
        ("return Wrong(lambda s, q: q)", "calling it raised ValueError: too many values"),
        (
            "return Wrong(lambda s, q: (q[:1], s))",
            r"values \[1, 2, 3\] and state \[2, 3\] where \[3, 2, 3\] and \[2, 3\] were wanted",
        ),
        ("return Wrong(lambda s, q: (q, s[:, :1]))", r"and state \[2, 1\] where"),
    ],
)
def test_a_network_that_does_not_keep_the_contract_is_refused_before_anything_begins(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "from tests.agents.clockwork import Counter\n"
        "class Wrong(Counter):\n"
        "    def __init__(self, result):\n"
        "        super().__init__(SPEC)\n"
        "        self.result = result\n"
        "    def forward(self, *arguments):\n"
        "        q, state = super().forward(*arguments)\n"
        "        return self.result(state, q)\n"
        "def make(env_spec, config):\n"
        "    global SPEC\n"
        "    SPEC = env_spec\n"
        f"    {body}\n"
    )
    (tmp_path / "a_wrong_network.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("a_wrong_network", None)
    with pytest.raises(ConfigError, match=f"network 'a_wrong_network:make': .*{message}"):
        wiring.q_network(CONFIG, spec(), 3, "a_wrong_network:make")


def test_a_network_that_cannot_be_imported_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="network 'no_such_module:Net': there is no module 'no_"):
        wiring.load_network("no_such_module:Net")
    name = "tests.agents.clockwork:NoSuch"
    with pytest.raises(ConfigError, match=f"network '{name}' cannot be imported: .* 'NoSuch'"):
        wiring.load_network(name)


def test_every_episode_of_an_evaluation_has_its_own_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where seeds are dear the actors seed a slot once; an evaluation depends on its seed alone."""
    asked: list[bool] = []
    make = registry.make

    def made(*words: Any, **how: Any) -> Any:
        asked.append(how["seed_once"])
        return make(*words, **how)

    monkeypatch.setattr(registry, "make", made)
    program = r2d2.program(CONFIG, spec(), 3)
    parts = {part.name: part.factory for part in program.parts}
    parameters = parts["parameters"]()
    replay = parts["replay"]()
    parts["actor/0"](replay=replay, parameters=parameters).close()
    assert asked == [True]
    parts["evaluator"](parameters=parameters).close()
    assert asked == [True, False]
