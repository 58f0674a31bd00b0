"""Environments by id: Gymnasium's, anybody's (`module:Env-v0`), and our own `recollect/Name-v0`.

Those of `families` need no module before them, and are made with every option stated.

Importing this module registers our own. Gymnasium loads no plug-ins by itself since 1.0, so outside
recollect they are had by `gymnasium.make("recollect.envs.registry:recollect/Recall-v0")`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from types import ModuleType
from typing import Any, NoReturn

import gymnasium as gym
from gymnasium.envs import registration

from recollect.envs import families
from recollect.envs.slots import Slots
from recollect.envs.spaces import Encoder, action_spec
from recollect.envs.supervise import Supervised
from recollect.envs.vector import VectorEnv
from recollect.types import ConfigError, EnvSpec

Spaces = tuple[gym.spaces.Space[Any], gym.spaces.Space[Any]]

_OURS = {  # id -> entry point and time limit (None: the environment ends its episodes itself)
    "recollect/PositionCartPole-v0": ("recollect.envs.memory:PositionCartPole", 500),
    "recollect/Recall-v0": ("recollect.envs.memory:Recall", None),
    "recollect/TMaze-v0": ("recollect.envs.memory:TMaze", None),
}


def register() -> None:
    """Make our environments known to Gymnasium; those already known are left alone."""
    for env_id, (entry_point, max_episode_steps) in _OURS.items():
        if env_id not in registration.registry:
            registration.register(
                env_id, entry_point=entry_point, max_episode_steps=max_episode_steps
            )


def env_spec(env_id: str, kwargs: Mapping[str, object] | None = None) -> EnvSpec:
    """What an agent needs to know of an environment; arguments and errors as of `describe`."""
    return describe(env_id, kwargs)[0]


def describe(env_id: str, kwargs: Mapping[str, object] | None = None) -> tuple[EnvSpec, Spaces]:
    """What an agent needs to know of an environment, and its spaces: of observations, of actions.

    Read from one that is made and closed again.

    Args:
        env_id: a registered id; without a version the newest, which the spec then names.
        kwargs: for its constructor, and `max_episode_steps` for another time limit. Those of the
            spec are complete for Atari, VizDoom and MiniGrid.
    Raises:
        ConfigError: no such id, a module or dependency missing, arguments the environment does not
            take, or a space we cannot use.
    """
    env_id, found, kwargs = _find(env_id, kwargs)
    if found.entry_point is None:
        with closing(_make_vector(env_id, found, 1, kwargs)) as vector:
            spaces = vector.single_observation_space, vector.single_action_space
            return wrap(vector, env_id, kwargs).spec, spaces
    with closing(_make_one(env_id, found, kwargs)) as env:
        spec = EnvSpec(
            env_id,
            kwargs,
            Encoder(env.observation_space, env_id).specs,
            action_spec(env.action_space, env_id),
            _time_limit(env),
        )
        return spec, (env.observation_space, env.action_space)


def only_vectors(env_id: str, kwargs: Mapping[str, object] | None = None) -> bool:
    """Whether such environments are made only as a whole vector; errors as of `describe`."""
    return _find(env_id, kwargs)[1].entry_point is None


def options_line(spec: EnvSpec) -> str:
    """One line that names every option an environment was made with; empty if there is none."""
    options = ", ".join(f"{name} {value}" for name, value in spec.kwargs.items())
    return f"{spec.id}: {options}" if options else ""


def maker(
    env_id: str, kwargs: Mapping[str, object] | None = None
) -> tuple[str, Callable[[], gym.Env[Any, Any]]]:
    """The id with its version, and what makes one such environment; errors as of `describe`."""
    env_id, found, complete = _find(env_id, kwargs)
    return env_id, lambda: _make_one(env_id, found, complete)


def make(
    env_id: str,
    num_envs: int,
    kwargs: Mapping[str, object] | None = None,
    *,
    processes: int = 0,
    deadline: float = 60.0,
    seed_once: bool = False,
) -> VectorEnv:
    """A vector of `num_envs` environments, stepped in turn in this process or in others.

    In processes of their own they may also hang, exit or crash, and give the same, bit for bit.

    An id that has only a vector entry point is made through that.

    Args:
        env_id: as in `describe`.
        num_envs: E, at least 1.
        kwargs: as in `describe`; for other processes only what JSON can say.
        processes: over how many processes the slots are spread; 0 is this process.
        deadline: seconds that one call of an environment may take in another process; it is killed
            and replaced then.
        seed_once: where a seeded reset is dear (Atari's, see `atari.AtariVector`), seed only the
            first episode of each slot.
    Raises:
        ConfigError: as in `describe`; or such an environment cannot be made in other processes.
        EnvError: environments of the same id differ, or one cannot be made in another process.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}, at least 1 was wanted")
    if processes < 0 or not 0 < deadline < math.inf:
        raise ValueError(
            f"processes is {processes} and deadline {deadline}, 0 or more and seconds above 0 were "
            "wanted"
        )
    env_id, found, kwargs = _find(env_id, kwargs)
    if processes and found.entry_point is None:
        raise ConfigError(
            f"environment {env_id!r} is made only as a whole vector, which cannot be spread over "
            "processes: set the number of environment processes to 0"
        )
    if processes:
        spec, spaces = describe(env_id, kwargs)
        apart = Supervised(env_id, kwargs, num_envs, spaces, processes, deadline)
        return VectorEnv(apart, env_id, kwargs, max_episode_steps=spec.max_episode_steps)
    if found.entry_point is None:
        dear = hasattr(found.vector_entry_point, "seeds_are_dear")
        how = {"seed_once": True} if seed_once and dear else {}
        made = _make_vector(env_id, found, num_envs, {**kwargs, **how})
        try:
            return wrap(made, env_id, kwargs)
        except ConfigError:
            made.close()
            raise

    limits: list[int] = []

    def one() -> gym.Env[Any, Any]:
        env = _make_one(env_id, found, kwargs)
        limits.append(_time_limit(env))
        return env

    vector = Slots(one, env_id, num_envs)
    return VectorEnv(vector, env_id, kwargs, max_episode_steps=limits[0])


def wrap(
    vector_env: gym.vector.VectorEnv[Any, Any, Any],
    env_id: str,
    kwargs: Mapping[str, object] | None = None,
    *,
    masked_reset: bool | None = None,
) -> VectorEnv:
    """A vector environment made elsewhere, of any auto-reset mode, as ours.

    Args:
        vector_env: owned by the result from now on.
        env_id: to record and to name in errors; it need not be registered.
        kwargs: what it was made with, to record.
        masked_reset: as in `VectorEnv`.
    Raises:
        ConfigError: a space or an auto-reset mode we cannot use.
    """
    return VectorEnv(
        vector_env,
        env_id,
        kwargs,
        max_episode_steps=_stated_limit(vector_env.unwrapped),
        masked_reset=masked_reset,
    )


def _find(
    env_id: str, kwargs: Mapping[str, object] | None
) -> tuple[str, registration.EnvSpec, dict[str, object]]:
    """The id with its version, what makes it, and its arguments, complete where we know them."""
    register()
    module, _, name = env_id.rpartition(":")
    if module:
        _import(module, env_id)
    else:
        families.load(name)
    found = registration.registry.get(name)
    if found is None:
        try:
            namespace, bare, version = registration.parse_env_id(name)
        except gym.error.Error:
            namespace, bare, version = None, name, 0
        newest = registration.find_highest_version(namespace, bare) if version is None else None
        if newest is not None:
            name = registration.get_env_id(namespace, bare, newest)
            found = registration.registry[name]
    # Old ids of Atari games are there only once something has imported ale-py: refused in any case.
    if found is None or (not module and families.of_old(found)):
        near = families.respelt(name) or _nearest(name)
        near = families.respelt(near) or near
        theirs = [key for key, spec in registration.registry.items() if _module(spec) == module]
        hint = "write module:Name-v0 to import it first"
        if module:
            hint = f"it registers {', '.join(theirs)}" if theirs else "it registers none of its own"
        if near:
            hint = f"did you mean {near!r}?"
        where = f" after importing {module!r}" if module else ""
        raise ConfigError(f"no environment {name!r} is registered{where}: {hint}")
    env_id = f"{module}:{name}" if module else name
    return env_id, *families.as_ours(env_id, found, kwargs or {})


def import_from_here(module: str) -> ModuleType:
    """Import a user's module, also from the working directory, as `python -m` would."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(module)


def _import(module: str, env_id: str) -> None:
    try:
        import_from_here(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(missing + "."):
            raise ConfigError(
                f"environment {env_id!r} names module {module!r}, which cannot be found: correct "
                "its name (without .py), install it, or go to its folder"
            ) from None
        raise ConfigError(
            f"environment {env_id!r}: module {module!r} needs {missing!r}, which is not installed: "
            "install it"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"environment {env_id!r}: importing module {module!r} raised {_said(error)}: mend it"
        ) from error


def _nearest(name: str) -> str:
    """The registered id most like `name`, with or without its namespace; empty if none is.

    Versions do not count but to choose among equals: `Nope-v0` is not like `Hopper-v0`.
    """
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(_versionless(name))

    def likeness(known: str) -> tuple[float, float, int]:
        ratios = []
        for form in (known, known.rpartition("/")[2]):
            matcher.set_seq1(_versionless(form))
            ratios.append(matcher.ratio())
        return max(ratios), ratios[0], registration.registry[known].version or 0

    best = max(registration.registry, key=likeness)
    return best if likeness(best)[0] > 0.65 else ""


def _module(spec: registration.EnvSpec) -> str:
    """The module of an environment's class."""
    entry_point = spec.entry_point
    if isinstance(entry_point, str):
        return entry_point.partition(":")[0]
    return str(getattr(entry_point, "__module__", ""))


def _versionless(name: str) -> str:
    return re.sub(r"-v\d+$", "", name.lower())


def _make_one(
    env_id: str, found: registration.EnvSpec, kwargs: Mapping[str, object]
) -> gym.Env[Any, Any]:
    arguments: dict[str, Any] = dict(kwargs)
    try:
        return gym.make(found, disable_env_checker=True, **arguments)
    except Exception as error:
        _cannot_make(env_id, found.entry_point, kwargs, error)


def _make_vector(
    env_id: str, found: registration.EnvSpec, num_envs: int, kwargs: Mapping[str, object]
) -> gym.vector.VectorEnv[Any, Any, Any]:
    arguments: dict[str, Any] = dict(kwargs)
    try:
        return gym.make_vec(found, num_envs, vectorization_mode="vector_entry_point", **arguments)
    except Exception as error:
        _cannot_make(env_id, found.vector_entry_point, kwargs, error)


def _cannot_make(
    env_id: str, entry_point: Any, kwargs: Mapping[str, object], error: Exception
) -> NoReturn:
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, TypeError) and unknown and unknown[1] in kwargs:
        known = _arguments(entry_point)
        near = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known) or 'none'}"
        raise ConfigError(
            f"environment {env_id!r} takes no argument {unknown[1]!r}: {hint}"
        ) from error
    if isinstance(error, (gym.error.DependencyNotInstalled, ImportError)):
        raise ConfigError(
            f"environment {env_id!r} needs what is not installed: {_said(error)}"
        ) from error
    if isinstance(error, (TypeError, ValueError, AssertionError)):
        raise ConfigError(
            f"environment {env_id!r} cannot be made with arguments {dict(kwargs)}: {_said(error)}: "
            "correct or remove them"
        ) from error
    error.add_note(f"while making environment {env_id!r} with arguments {dict(kwargs)}")
    raise error


def _arguments(entry_point: Any) -> list[str]:
    """What a constructor takes by name: of single ones also a time limit, of vectors no number."""
    if isinstance(entry_point, str):
        entry_point = registration.load_env_creator(entry_point)
    parameters = inspect.signature(entry_point).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [p.name for p in parameters if p.kind in kinds]
    if "num_envs" in names:
        return [name for name in names if name not in ("num_envs", "seed_once")]
    return [*names, "max_episode_steps"]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _time_limit(env: gym.Env[Any, Any]) -> int:
    """Of Gymnasium's wrapper, or what the environment itself states as `max_episode_steps`."""
    limit = env.spec.max_episode_steps if env.spec is not None else None
    stated = _stated_limit(env.unwrapped)
    return min(int(limit), stated or int(limit)) if limit else stated


def _stated_limit(env: object) -> int:
    limit = getattr(env, "max_episode_steps", 0)
    return limit if isinstance(limit, int) and limit > 0 else 0


register()
