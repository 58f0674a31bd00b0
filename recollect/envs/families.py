"""Environments whose every option is known here: Atari, VizDoom, MiniGrid; and where POPGym is.

Their ids need no module before them, and what is made of them is ours (`atari`, `doom`, `grid`):
every option has a default of its own, is checked, and is recorded with the run.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from gymnasium.envs import registration

from recollect.types import ConfigError


@dataclass(frozen=True)
class Family:
    """Environments of one package.

    Args:
        name: of the extra that installs them: `pip install 'recollect[name]'`.
        prefixes: what their ids begin with.
        package: what is imported to register them.
        ours: our module for them, with `Options` (a dataclass of every option) and `entry`; empty
            where Gymnasium's way is ours.
        elsewhere: an argument that only the package's own Gymnasium environment takes; with it,
            that is what is made.
    """

    name: str
    prefixes: tuple[str, ...]
    package: str
    ours: str = ""
    elsewhere: str = ""


FAMILIES = (
    Family("atari", ("ALE/",), "ale_py", "recollect.envs.atari", "obs_type"),
    Family("vizdoom", ("Vizdoom",), "vizdoom.gymnasium_wrapper", "recollect.envs.doom"),
    Family("minigrid", ("MiniGrid-", "BabyAI-"), "minigrid", "recollect.envs.grid"),
    Family("popgym", ("popgym-",), "popgym"),
)
_GYMNASIUMS = ("max_episode_steps", "render_mode")
"""Arguments that every single environment takes, and that are no options of its family."""


def family(env_id: str) -> Family | None:
    """The family of an id, with or without a module before it; None if we know none."""
    name = env_id.rpartition(":")[2]
    return next((known for known in FAMILIES if name.startswith(known.prefixes)), None)


def load(env_id: str) -> None:
    """Import what registers an id, if it is of a family.

    Raises:
        ConfigError: it is not installed.
    """
    known = family(env_id)
    if known is None:
        return
    # pygame greets everybody who imports it.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        importlib.import_module(known.package)
    except ImportError as error:
        raise ConfigError(
            f"environment {env_id!r} needs {error.name or known.package!r}, which is not "
            f"installed: pip install 'recollect[{known.name}]'"
        ) from error


def of_old(found: registration.EnvSpec) -> bool:
    """Whether it is an Atari game by one of its ids from before ale-py's own."""
    return str(found.entry_point).startswith("ale_py") and found.namespace is None


def respelt(name: str) -> str:
    """The id that an old or a bare name of an Atari game stands for; empty if it is none.

    >>> respelt("PongNoFrameskip-v4"), respelt("Pong-v5"), respelt("CartPole-v1")
    ('ALE/Pong-v5', 'ALE/Pong-v5', '')
    """
    try:
        load("ALE/")
    except ConfigError:
        return ""
    game = re.fullmatch(r"(?:ALE/)?(\w+?)(?:-ram)?(?:NoFrameskip|Deterministic)?(?:-v\d+)?", name)
    found = f"ALE/{game[1]}-v5" if game else ""
    return found if found in registration.registry else ""


def as_ours(
    env_id: str, found: registration.EnvSpec, kwargs: Mapping[str, object]
) -> tuple[registration.EnvSpec, dict[str, object]]:
    """What makes our form of an environment, and its arguments, complete.

    Args:
        env_id: to look its family up by and to name.
        found: what Gymnasium knows of it.
        kwargs: arguments that were given; every other option gets its default.
    Returns:
        `found` and `kwargs` as they are, where the family is none of ours.
    Raises:
        ConfigError: no such option, or a value it cannot have.
    """
    known = family(env_id)
    if known is None or not known.ours or known.elsewhere in kwargs:
        return found, dict(kwargs)
    module = importlib.import_module(known.ours)
    ours = module.entry(found)
    names = [field.name for field in fields(module.Options)]
    others = _GYMNASIUMS if ours.entry_point is not None else ()  # of which vectors take none
    for name in kwargs:
        if name not in (*names, *others):
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(names)}"
            raise ConfigError(f"environment {env_id!r} takes no argument {name!r}: {hint}")
    given: dict[str, Any] = {name: value for name, value in kwargs.items() if name in names}
    try:
        options = asdict(module.Options(**given))
    except ConfigError as error:
        raise ConfigError(f"environment {env_id!r}: {error}") from None
    rest = {name: value for name, value in kwargs.items() if name not in names}
    return ours, {**options, **rest}
