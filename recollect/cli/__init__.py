"""The command line: `recollect train`, `resume`, `evaluate`, `score`, `plot` and the rest.

Whatever is wrong with the words is answered by one line, before torch is loaded.
"""

from __future__ import annotations

import contextlib
import os

# Before anything can load OpenMP. Threads that wait must sleep: spinning ones on busy cores cost a
# factor of 100.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from collections.abc import Sequence
from importlib import import_module

from recollect import __version__
from recollect.cli import lazy

COMMANDS = (
    *("train", "resume", "status", "evaluate", "score"),
    *("plot", "record", "inspect", "export", "doctor"),
)
HELP = """\
recollect trains agents from replayed experience gathered by many actors.

usage: {program} COMMAND ...

  train AGENT --env ID   train an agent (r2d2, drqn) on a Gymnasium environment
  resume RUN             go on with a run that was stopped or killed
  status RUN             how it stands, from another terminal
  evaluate RUN           play episodes with a trained agent and print returns
  score FILE             human-normalised scores of Atari-57 or DMLab-30
  plot RUN...            draw learning curves; of several runs mean and interval
  record RUN             play an episode into a video or a picture
  inspect RUN            what a run is, how it stands, what is in its replay
  export RUN FILE        write the weights into one file for other code
  doctor [--env ID]      say whether machine, environment and network are right

  COMMAND --help         what a command takes
  --version              which recollect this is

begin with:
  {program} train r2d2 --env recollect/PositionCartPole-v0"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code.

    0: done. 1: a file could not be read or written, an environment failed, learning diverged, or
    the run that `status` was asked about has stopped before its end.
    2: something is wrong with the words, the run or its files. 130, 143, 129: ended by SIGINT,
    SIGTERM, SIGHUP.
    Of all but the first one line on stderr says more.

    Args:
        arguments: the words after `recollect`; None: those of this process.
    """
    _open_closed_streams()
    try:
        from recollect.run import signals

        with signals.raised():
            code = _answer(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        return _refuse(str(error) or "interrupted", getattr(error, "exit_code", 130))
    except BrokenPipeError:  # whoever read our output has gone, as `head` does
        return 1
    except OSError as error:
        from recollect.run.folder import reason

        return _refuse(reason(error), 1)
    finally:
        _flush()


def _answer(words: list[str]) -> int:
    lazy.install()
    from recollect.messages import PartLostError
    from recollect.run.checkpoint import CheckpointError
    from recollect.types import ConfigError, DivergedError, EnvError

    try:
        return _command(words)
    except (ConfigError, CheckpointError) as error:
        return _refuse(str(error), 2)
    except (EnvError, DivergedError, PartLostError) as error:
        return _refuse(str(error), 1)


def _command(words: list[str]) -> int:
    from recollect.cli.words import program
    from recollect.presets import nearest

    if words[:1] == ["help"] and words[1:]:
        words = [*words[1:], "--help"]
    first = words[0] if words else "--help"
    if first in ("--help", "-h", "help"):
        print(HELP.format(program=program()))
    elif first == "--version":
        print(f"recollect {__version__}")
    elif first in COMMANDS:
        return import_module(f"recollect.cli.{first}").command(words[1:]) or 0
    elif first.startswith("-"):
        raise nearest("option", first, ("--help", "--version"))
    else:
        raise nearest("command", first, COMMANDS)
    return 0


def _open_closed_streams() -> None:
    """Where the shell closed a stream, by `>&-`, Python has None: what is written goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _refuse(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # a terminal that is gone
        print(f"recollect: {' '.join(message.split())}", file=sys.stderr)
    return code


def _flush() -> None:
    """Let what cannot be written go nowhere, or Python would end with another exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
