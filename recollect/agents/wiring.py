"""How agents that act by a Q-network are put together: actors, replay, learner, evaluator.

The factories here are called where their part will live, with handles to the parts it holds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.parameters import FarParameters, Parameters
from recollect.program import Far, Part, Program
from recollect.roles import ACTOR, EVALUATOR, LEARNER, PARAMETERS, REPLAY
from recollect.types import ConfigError, EnvSpec

if TYPE_CHECKING:
    from recollect.agents.acting import AbsoluteErrors, Actor
    from recollect.agents.evaluating import Evaluator
    from recollect.agents.policy import Policy
    from recollect.envs.vector import VectorEnv
    from recollect.messages import Handle
    from recollect.networks.recurrent_q import QNetwork
    from recollect.replay.blocks import BlockSpec
    from recollect.replay.far import FarReplay
    from recollect.replay.limiter import Limiter
    from recollect.replay.shard import Shard
    from recollect.replay.store import Replay

NetworkFactory = Callable[[], "QNetwork"]


def q_network(config: Any, env_spec: EnvSpec, seed: int, network: str = "") -> QNetwork:
    """The agent's network, its first parameters drawn from `seed` alone.

    Args:
        network: "module:name" of a user's own, called with (env_spec, config); empty: `RecurrentQ`.

    Raises:
        ConfigError: actions are not discrete, or the user's network cannot be found.
    """
    import torch

    from recollect.maths import philox
    from recollect.networks.recurrent_q import RecurrentQ

    check_actions(env_spec)
    first = int(philox.seeds(seed, philox.Purpose.INITIALISATION, 0, 0, 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(first)
        if network:
            return _made(network, env_spec, config)
        return RecurrentQ(
            env_spec.observation,
            env_spec.action.num_actions,
            torso=config.torso,
            torso_sizes=config.torso_sizes,
            frame_stack=config.frame_stack,
            pre_core=config.pre_core,
            core=config.core,
            hidden=config.hidden,
            head_hidden=config.head_hidden,
            duelling=config.duelling,
            previous_action=config.previous_action,
            previous_reward=config.previous_reward,
            forget_bias=config.forget_bias,
        )


def _made(name: str, env_spec: EnvSpec, config: Any) -> QNetwork:
    """A user's network, tried out on 3 steps of 2 sequences.

    Raises:
        ConfigError: it cannot be made, or does not do what `QNetwork` asks for.
    """
    import torch

    from recollect.networks.recurrent_q import QNetwork

    factory = load_network(name)
    wanted = f"network {name!r}: docs/own_network.md says what is wanted"
    if config.frame_stack > 1:
        wanted += f", also where frame_stack is {config.frame_stack}"
    try:
        network = factory(env_spec, config)
    except Exception as error:
        raise ConfigError(f"{wanted}; making it raised {type(error).__name__}: {error}") from error
    if not isinstance(network, QNetwork):
        raise ConfigError(f"{wanted}; {type(network).__name__} has no state_size or parameters")
    states, actions = (2, network.state_size), (3, 2, env_spec.action.num_actions)
    rows = 3 + config.frame_stack - 1
    try:
        with torch.no_grad():
            q, state = network(
                {k: torch.from_numpy(s.zeros(rows, 2)) for k, s in env_spec.observation.items()},
                torch.from_numpy(env_spec.action.none(3, 2)),
                torch.zeros(3, 2),
                torch.zeros(states),
            )
        shapes = tuple(q.shape), tuple(state.shape)
    except Exception as error:
        raise ConfigError(f"{wanted}; calling it raised {type(error).__name__}: {error}") from error
    if shapes != (actions, states):
        raise ConfigError(
            f"{wanted}; of 3 steps of 2 sequences it gave values {list(shapes[0])} and state "
            f"{list(shapes[1])} where {list(actions)} and {list(states)} were wanted"
        )
    return network


def check_actions(env_spec: EnvSpec) -> None:
    """Raise ConfigError if a Q-network cannot choose this environment's actions."""
    if not env_spec.action.discrete:
        raise ConfigError(
            f"{env_spec.id} has continuous actions (Box{env_spec.action.shape}) and this agent "
            "chooses among numbered ones (Discrete): take another environment or discretise it"
        )


def check_network(name: str) -> tuple[str, str]:
    """Module and attribute of "module:name", without importing it: it may load torch.

    Raises:
        ConfigError: a name of another form, or a module that is neither in the working directory
            nor installed.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ConfigError(f"a network is named module:name, got {name!r}")
    outermost = module.partition(".")[0]
    here = Path(outermost).is_dir() or Path(f"{outermost}.py").is_file()
    if not here and importlib.util.find_spec(outermost) is None:
        raise ConfigError(f"network {name!r}: there is no module {outermost!r} here or installed")
    return module, attribute


def load_network(name: str) -> Callable[[EnvSpec, Any], Any]:
    """The user's network "module:name", importable from here or from the working directory.

    Raises:
        ConfigError: as `check_network`, or it cannot be imported.
    """
    module, attribute = check_network(name)
    from recollect.envs import registry

    try:
        return getattr(registry.import_from_here(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"network {name!r} cannot be imported: {error}") from error


def make_policy(
    config: Any,
    make_network: NetworkFactory,
    env_spec: EnvSpec,
    first_slot: int = 0,
    slots: int = 1,
) -> Policy:
    """A policy of the agent's network, for so many slots from the first."""
    from recollect.agents import computing
    from recollect.agents.policy import Policy

    compute = computing.actor(config, env_spec)
    rows = Policy.ROWS if slots < 2 * Policy.ROWS else 2 * Policy.ROWS
    return Policy(make_network(), env_spec, first_slot, config.frame_stack, compute, rows)


def block_spec(config: Any, env_spec: EnvSpec, state_size: int) -> BlockSpec:
    """How a block of experience lies in memory."""
    from recollect.replay.blocks import BlockSpec

    windows = config.windows()
    offsets = tuple(range(config.period)) if config.keep_states else windows.state_offsets
    return BlockSpec(
        observation=env_spec.observation,
        action=env_spec.action.array,
        state_size=state_size,
        period=config.period,
        state_offsets=offsets,
        stack=config.frame_stack,
        codec=config.codec,
    )


def make_replay(config: Any, spec: BlockSpec, shard: int = 0) -> Replay:
    """The replay a config asks for: number `shard` of the stores over which it is spread."""
    from recollect.replay.prioritized import Prioritized
    from recollect.replay.store import Replay
    from recollect.replay.uniform import Uniform

    return Replay(
        spec,
        config.windows(),
        Prioritized(config.priority_exponent) if config.prioritized else Uniform(),
        _limiter(config, _share(config.min_replay_steps, config, shard)),
        **_capacity(config, shard),
    )


def far_replay(config: Any, spec: BlockSpec, shards: Sequence[Handle]) -> FarReplay:
    """The replay in other processes, or in several parts, as a part holds it."""
    from recollect.replay.far import SEND_BLOCKS, FarReplay

    room = config.replay_steps
    if config.replay_bytes:
        room = min(room, config.replay_bytes * config.period // spec.nbytes(config.period, True))
    blocks = min(SEND_BLOCKS, max(1, room // (16 * config.period * len(shards))))
    limiter = _limiter(config, 0)
    return FarReplay(shards, spec, config.windows(), limiter, send_blocks=blocks)


def serve_replay(replay: Replay) -> Shard:
    """What such a replay asks of each store."""
    from recollect.replay.shard import Shard

    return Shard(replay)


def _limiter(config: Any, min_size: int) -> Limiter:
    from recollect.replay.limiter import Limiter

    largest_sample = config.batch_size * config.trace_length
    largest_insert = config.replay_ratio * config.period * config.actors
    return Limiter(config.replay_ratio, min_size, tolerance=largest_sample + largest_insert)


def _share(whole: int, config: Any, shard: int) -> int:
    """What of a number falls to a shard; the shares add up to it."""
    each, rest = divmod(whole, config.replay_shards)
    return each + (shard < rest)


def _check_capacity(config: Any, spec: BlockSpec, env_spec: EnvSpec) -> None:
    """Raise ConfigError if replay could not hold what the slots' running episodes need at once.

    With less, blocks would go before the windows over them are made, and nothing be learned.
    """
    from recollect.replay.store import check_capacity, memory_need

    windows = config.windows()
    check_capacity(spec, windows, **_capacity(config, config.replay_shards - 1))
    # A slot's blocks wait for their window and its last errors; one turn may bring two more.
    blocks = windows.blocks + -(-config.n_step // config.period) + 2
    if windows.trajectory:
        blocks = -(-env_spec.max_episode_steps // config.period) + 2
    steps = config.actors * blocks * config.period
    steps *= min(2, config.replay_shards)  # for a while one shard can have more than its share
    for name, least in (
        ("replay_steps", steps),
        ("replay_bytes", memory_need(spec, windows, steps)),
    ):
        limit = getattr(config, name)
        if limit and least > limit:
            raise ConfigError(
                f"{name} {limit:,} is too little for {config.actors} actors: their running "
                f"episodes alone need {least:,}: raise {name} or lower actors"
            )


def _capacity(config: Any, shard: int) -> dict[str, int | None]:
    return {
        "capacity_steps": _share(config.replay_steps, config, shard),
        "capacity_bytes": _share(config.replay_bytes, config, shard) or None,
    }


def replay_bytes(config: Any, spec: BlockSpec) -> int:
    """Bytes that replay may come to take: what its steps need, or the limit where that is less."""
    from recollect.replay.store import memory_need

    need = memory_need(spec, config.windows(), config.replay_steps)
    return min(config.replay_bytes or need, need)


def make_env(config: Any, env_spec: EnvSpec, slots: int, *, seed_once: bool = False) -> VectorEnv:
    """Environments for so many slots, in this process or in supervised ones.

    `seed_once` as of `registry.make`: for acting, where an episode's own seed is worth less than
    what it costs. In an evaluation every episode has its own.
    """
    from recollect.envs import registry

    return registry.make(
        env_spec.id,
        slots,
        dict(env_spec.kwargs),
        processes=config.env_processes,
        deadline=config.env_deadline,
        seed_once=seed_once,
    )


def make_actor(
    config: Any,
    env_spec: EnvSpec,
    seed: int,
    process: int,
    make_network: NetworkFactory,
    absolute_errors: AbsoluteErrors,
    *,
    replay: Replay,
    parameters: Parameters,
) -> Actor:
    """Actor number `process` of `actor_processes`, with its share of the slots."""
    from recollect.agents.acting import Actor
    from recollect.maths import exploration

    slots = np.array_split(np.arange(config.actors), config.actor_processes)[process]
    policy = make_policy(config, make_network, env_spec, int(slots[0]), len(slots))
    ladder = exploration.epsilon_ladder(config.actors, config.epsilon_base, config.epsilon_alpha)
    return Actor(
        policy=policy,
        env=make_env(config, env_spec, len(slots), seed_once=True),
        first_slot=int(slots[0]),
        epsilons=ladder,
        replay=replay,
        parameters=parameters,
        windows=config.windows(),
        block_spec=block_spec(config, env_spec, policy.network.state_size),
        n_step=config.n_step,
        gamma=config.gamma,
        eta=config.eta,
        refresh_period=config.refresh_period,
        absolute_errors=absolute_errors,
        seed=seed,
    )


def make_learner(
    kind: Callable[..., Any],
    config: Any,
    env_spec: EnvSpec,
    seed: int,
    make_network: NetworkFactory,
    *,
    replay: Replay | FarReplay,
    parameters: Parameters | FarParameters,
) -> Any:
    """The learner of a kind, computing on what there is where it lives."""
    from recollect.agents import computing

    compute = computing.learner(config, env_spec)
    return kind(config, replay, parameters, make_network, seed, compute)


def make_evaluator(
    config: Any,
    env_spec: EnvSpec,
    seed: int,
    make_network: NetworkFactory,
    *,
    parameters: Parameters,
) -> Evaluator:
    """The greedy evaluator."""
    from recollect.agents.evaluating import Evaluator

    return Evaluator(
        parameters,
        make_policy=partial(make_policy, config, make_network, env_spec),
        make_env=partial(make_env, config, env_spec),
        episodes=config.evaluation_episodes,
        period=config.evaluation_period,
        seed=seed,
        epsilon=config.evaluation_epsilon,
    )


def q_program(
    config: Any,
    env_spec: EnvSpec,
    seed: int,
    make_network: NetworkFactory,
    make_learner: Callable[..., Any],
    absolute_errors: AbsoluteErrors,
) -> Program:
    """Parameters, replay, learner, actors, and an evaluator unless its period is 0.

    Raises:
        ConfigError: replay could not hold what the running episodes need.
    """
    spec = block_spec(config, env_spec, make_network().state_size)
    _check_capacity(config, spec, env_spec)
    numbers = range(config.replay_shards)
    shards = tuple(f"replay/{k}" for k in numbers) if len(numbers) > 1 else ("replay",)
    services: dict[str, str | tuple[str, ...]] = {
        "replay": shards if len(shards) > 1 else "replay",
        "parameters": "parameters",
    }
    far = Far(partial(far_replay, config, spec), serve_replay)
    parts = [
        Part("parameters", PARAMETERS, Parameters, far=Far(FarParameters)),
        *(
            Part(name, REPLAY, partial(make_replay, config, spec, shard), far=far)
            for shard, name in enumerate(shards)
        ),
        Part("learner", LEARNER, make_learner, services),
    ]
    for process in range(config.actor_processes):
        factory = partial(
            make_actor, config, env_spec, seed, process, make_network, absolute_errors
        )
        parts.append(Part(f"actor/{process}", ACTOR, factory, services))
    if config.evaluation_period:
        evaluator = partial(make_evaluator, config, env_spec, seed, make_network)
        parts.append(Part("evaluator", EVALUATOR, evaluator, {"parameters": "parameters"}))
    return Program(
        tuple(parts),
        policy=partial(make_policy, config, make_network, env_spec),
        replay_bytes=replay_bytes(config, spec),
    )
