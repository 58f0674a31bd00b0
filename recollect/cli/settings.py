"""The fields of an agent's config as options of the command line, read by tyro."""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from recollect.cli import lazy
from recollect.cli.words import Option, nbytes, whole
from recollect.types import ConfigError

GROUPS = {
    "actor_processes": "running",
    "actors": "acting",
    "burn_in": "sequences",
    "replay_steps": "replay",
    "batch_size": "learning",
    "frame_stack": "network",
    "evaluation_period": "evaluation",
    "keep_states": "studies",
}
"""The field that begins each group of a help page, and the group's title."""


def options(config: Any, paper: Any) -> dict[str, list[Option]]:
    """An option for each field of a config, by group.

    Args:
        config: its values are the defaults shown.
        paper: of the same type; its values are named where they differ.
    """
    hints, comments = get_type_hints(type(config)), _comments(type(config))
    title = "settings"
    groups: dict[str, list[Option]] = {}
    for field in fields(config):
        title = GROUPS.get(field.name, title)
        kind, value = hints[field.name], getattr(config, field.name)
        says = [" or ".join(get_args(kind))] if get_origin(kind) is Literal else []
        says += filter(None, [comments.get(field.name)])
        if value != getattr(paper, field.name):
            says.append(f"paper: {_shown(getattr(paper, field.name))}")
        option = Option(
            "--" + field.name.replace("_", "-"),
            {int: "N", float: "X"}.get(kind, "N ..." if _many(kind) else "NAME"),
            "; ".join(says),
            many=_many(kind),
            shown=_shown(value),
            negatable=kind is bool,
        )
        groups.setdefault(title, []).append(option)
    return groups


def spell_out(words: Sequence[str], config: type, others: Collection[str]) -> list[str]:
    """`words` with every form of a yes-or-no setting written as `--setting=True` or `=False`.

    Args:
        others: words that cannot be a setting's value.
    """
    hints = get_type_hints(config)
    flags = {"--" + name.replace("_", "-") for name, kind in hints.items() if kind is bool}
    spelled: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag = word.replace("_", "-")
        if flag in flags:
            given = rest and not rest[0].startswith("--") and rest[0] not in others
            spelled.append(f"{flag}={rest.pop(0) if given else True}")
        elif flag.startswith("--no-") and "--" + flag[5:] in flags:
            spelled.append(f"--{flag[5:]}=False")
        else:
            spelled.append(word)
    return spelled


def read(name: str, given: str | Sequence[str], config: type) -> Any:
    """The value of a config's field, from its word or words.

    Raises:
        ConfigError: the words are not of its type.
    """
    kind = get_type_hints(config)[name]
    words = [given] if isinstance(given, str) else list(given)
    if _many(kind) and [word.lower() for word in words] == ["none"]:
        return ()
    if kind is bool:
        words = [word.capitalize() if word.lower() in _YES_NO else word for word in words]
    if name.endswith("_bytes"):
        with contextlib.suppress(Exception):
            words = [str(nbytes(" ".join(words)))]
    if kind is int or _many(kind):
        with contextlib.suppress(Exception):  # 1e6 is a whole number too; tyro says what is none
            words = [str(whole(word)) for word in words]
    try:
        # tyro has a rule for torch.device where torch is imported, and prints what is wrong.
        with (
            lazy.hidden(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            import tyro

            value = tyro.cli(kind, args=words, config=(tyro.conf.FlagConversionOff,))
    except SystemExit:
        flag, got = "--" + name.replace("_", "-"), " ".join(words)
        wanted = "bytes, such as 4GB" if name.endswith("_bytes") else _wanted(kind)
        raise ConfigError(f"{flag}: wanted {wanted}, got {got!r}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"--{name.replace('_', '-')}: wanted a finite number, got {value}")
    return value


def as_options(message: str, config: type) -> str:
    """`message` with a config's fields named as they are typed: `n_step` is `--n-step`.

    Only those of several words: the others are words of any sentence too. Of the runtime and what
    goes with it, where it stands before a value, or as where something is said: `with place`.
    """
    names = [field.name for field in fields(config) if "_" in field.name]
    pattern = rf"(?<![\w'\"-])({'|'.join([*names, 'env_steps'])})(?![\w'\"-])"
    message = re.sub(pattern, lambda found: "--" + found[1].replace("_", "-"), message)
    return re.sub(_RUNTIME, r"--\1", message)


_RUNTIME = (
    r"(?<![\w'\"-])("
    r"runtime(?= (?:ray|inline)\b)|device(?= (?:auto|cpu|cuda)\b)|address(?= (?:['\"]|HOST:PORT))|"
    r"place(?= ['\"])|(?<=with )place|(?<=in )place|(?<=without )address)(?![\w'\"-])"
)
"""`runtime ray`, `address 'a:1'`, `place '...'`, and these after `with`, `in` and `without`."""
_YES_NO = ("true", "false")


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _many(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _wanted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if _many(kind):
        return "whole numbers, such as 64 64, or none"
    return {int: "a whole number", float: "a number", bool: "True or False"}.get(kind, "a word")


def _comments(config: type) -> dict[str, str]:
    """What the source says behind each field, those of its bases included."""
    try:
        source = "".join(inspect.getsource(kind) for kind in config.__mro__ if is_dataclass(kind))
    except OSError:  # installed without sources
        return {}
    says = re.findall(r"^    (\w+): [^#\n]*# (.*)$", source, re.MULTILINE)
    return {name: _SOURCE.sub("", text) for name, text in says}


_SOURCE = re.compile(r"(; |^)(table|section|departure) [\d.]+$| ?\[\S+\]$")
"""Where a default comes from: for who reads the source, not for who sets another."""
