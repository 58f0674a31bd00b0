"""The words of a command: which there are, reading them, refusing others, and the help page."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from recollect.types import ConfigError

FLAGS, DEFAULTS = 27, 10
"""Columns of a help page for the options and for their defaults."""


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Args:
        flag: with its dashes. value: what the help page calls its value; empty: a switch.
        help: what it says.
        read: from one word to its value; argparse.ArgumentTypeError if it cannot.
        default: where it is not given; None: the attribute is not there then.
        many: it takes any number of words.
        shown: the default as the help page has it, where that differs.
        negatable: it is a setting that `--no-...` turns off.
    """

    flag: str
    value: str
    help: str
    read: Callable[[str], Any] = str
    default: Any = None
    many: bool = False
    shown: str = ""
    negatable: bool = False

    @property
    def name(self) -> str:
        """Its attribute."""
        return self.flag[2:].replace("-", "_")

    def entry(self, width: int) -> list[str]:
        """Its lines on a help page."""
        flag = f"--[no-]{self.flag[2:]}" if self.negatable else f"{self.flag} {self.value}"
        default = self.shown or ("" if self.default is None else str(self.default))
        margin = FLAGS + DEFAULTS
        texts = textwrap.wrap(self.help, max(20, width - margin))
        first = f"  {flag:{FLAGS - 2}}{default:{DEFAULTS}}"
        if texts and len(first) == margin and first[FLAGS - 1] == " " and first[-1] == " ":
            first += texts.pop(0)
        return [first.rstrip(), *(" " * margin + text for text in texts)]


HELP = Option("--help", "", "this page")


_PLAIN = "words of no option"
_NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        wanted = message.find(": expected ")
        if wanted >= 0 and "argument" in message[wanted:]:
            message = f"{message[:wanted]} needs a value"
        flag, ignored, _ = message.partition(": ignored explicit argument")
        if ignored:
            message = f"{flag} takes no value"
        raise ConfigError(message)


def parse(
    command: str,
    words: Sequence[str],
    options: Sequence[Option],
    *,
    positional: str,
    many: bool = False,
    required: str = "",
) -> dict[str, Any]:
    """Read a command's words: the value of each option that is given or has a default, by name.

    Args:
        command: its name. words: what comes after it; `_` in a flag counts as `-`.
        options: every option there is.
        positional: the name under which the words of no option are found. many: as a list.
        required: the refusal where there are none, or an empty one; empty: None is their value.
    Raises:
        ConfigError: an unknown option, with the nearest one; a value that is missing or wrong.
    """
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser._negative_number_matcher = _NEGATIVE  # argparse's own does not know -1e-4
    parser.add_argument(_PLAIN, nargs="*")
    for option in options:
        default = {} if option.default is None else {"default": option.default}
        if option.value or option.negatable:
            nargs = "+" if option.many else None
            parser.add_argument(option.flag, type=option.read, nargs=nargs, **default)
        else:
            parser.add_argument(option.flag, action="store_true")
    known, unknown = parser.parse_known_intermixed_args([_dashed(word) for word in words])
    for word in unknown:
        if word.startswith("-"):
            raise _unknown(command, word.partition("=")[0], options)
    found = vars(known)
    plain = [*found.pop(_PLAIN, []), *unknown]
    if not plain and not many:
        plain = _taken_along(found, options)
    if required and not all(plain or [""]):
        raise ConfigError(required)
    if not many and len(plain) > 1:
        raise ConfigError(f"unexpected word {plain[1]!r}: {positional} is {plain[0]!r}")
    found[positional] = plain if many else (plain[0] if plain else None)
    return found


def _taken_along(found: dict[str, Any], options: Sequence[Option]) -> list[str]:
    """The plain word that an option of many numbers took along: `--sizes 64 64 r2d2`."""
    for option in options:
        values = found.get(option.name) if option.many else None
        if values and len(values) > 1 and not re.match(r"[-+.\d]|none$", values[-1]):
            return [values.pop()]
    return []


def _unknown(command: str, flag: str, options: Sequence[Option]) -> ConfigError:
    """The error for an unknown option; it names those with these initials, or the nearest."""
    given = flag.strip("-").lower()
    names = [option.flag[2:] for option in options]
    near = [n for n in names if len(given) > 1 and given == "".join(w[0] for w in n.split("-"))]
    near = near or difflib.get_close_matches(given, names, n=1)
    hint = f"{program()} {command} --help shows what there is"
    if near:
        hint = f"did you mean {' or '.join('--' + name for name in near)}?"
    return ConfigError(f"unknown option {flag}: {hint}")


def again(verb: str, run: str | Path) -> str:
    """Another command on a run, to be pasted into a shell."""
    return f"{program()} {verb} {shlex.quote(str(run))}"


def program() -> str:
    """This command as one can type it again: `recollect`, its script's path, or through Python."""
    script = Path(sys.argv[0] if sys.argv else "")
    if script.stem != "recollect" or not script.is_file():
        return "python -m recollect"
    script = Path(os.path.abspath(script))
    found = shutil.which("recollect")
    if found and Path(found).resolve() == script.resolve():
        return "recollect"
    here = Path.cwd()
    if here in script.parents:
        return shlex.quote(("./" if here == script.parent else "") + str(script.relative_to(here)))
    return shlex.quote(str(script))


def wants_help(words: Sequence[str]) -> bool:
    """Whether the help page is asked for."""
    return "--help" in words or "-h" in words


def show_page(usage: str, about: str, groups: dict[str, Sequence[Option]]) -> None:
    """Print a help page as wide as the terminal, at most 100 columns."""
    width = min(shutil.get_terminal_size().columns, 100)
    lines = [f"usage: {program()} {usage}", "", *textwrap.wrap(about, width)]
    for number, (title, options) in enumerate(groups.items()):
        lines += ["", f"{title:{FLAGS}}{'default' if number == 0 else ''}".rstrip()]
        for option in options:
            lines += option.entry(width)
    print("\n".join(lines))


def whole(word: str) -> int:
    """A whole number; 70_000, 1e6, 100k and 1.5M are ones."""
    try:
        return int(word)
    except ValueError:
        pass
    try:
        value = float(re.sub("[mM]$", "e6", re.sub("[kK]$", "e3", word)))
    except ValueError:
        value = 0.5
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"wanted a whole number, got {word!r}")
    return int(value)


def wrapped(label: str, text: str, margin: int) -> list[str]:
    """Lines of at most 80 columns: the text from column `margin` on, the label before its first."""
    parts = textwrap.wrap(text, 80 - margin)
    return [f"{'' if number else label:{margin}}{part}" for number, part in enumerate(parts)]


def nbytes(word: str) -> int:
    """Bytes: a whole number, alone or of kB, MB, GB, TB (1000s) or KiB, MiB, GiB, TiB (1024s)."""
    found = re.fullmatch(r"([\d_.]+) ?([kKMGT])(i?)B", word.strip())
    if found is None:
        return whole(word.strip().removesuffix("B"))
    value = float(found[1]) * (1024 if found[3] else 1000) ** "_KMGT".index(found[2].upper())
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"wanted bytes, such as 4GB, got {word!r}")
    return int(value)


def number(word: str) -> float:
    """A finite number."""
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if value - value != 0:
        raise argparse.ArgumentTypeError(f"wanted a number, got {word!r}")
    return value


def _dashed(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value
