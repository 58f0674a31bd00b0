"""A process that steps environments for another: `python -m recollect.envs.worker`.

It is told what to do by lines of JSON over a socket, answers each with one, and leaves what the
environments give in shared memory (`recollect.envs.supervise` has the other side). Before every
call of an environment it notes there which one, so that whoever finds it dead or hanging knows the
culprit. It ends with its parent, whatever the environments are doing.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, BinaryIO

import numpy as np

from recollect.envs import registry
from recollect.envs.shared import IDLE, VERBS, Board, layout
from recollect.envs.slots import Faults, Slots
from recollect.envs.spaces import Encoder
from recollect.types import ConfigError, EnvError

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Take part as told by the arguments: socket, shared memory, parent or 0."""
    line, memory, parent = map(int, sys.argv[1:])
    # Handlers and not SIG_IGN, which programs that an environment starts would inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # the parent decides
    _end_with(parent)
    os.dup2(2, 1)  # what environments print
    with (
        suppress(BrokenPipeError, ConnectionResetError),  # nobody wants the answer any more
        socket.socket(fileno=line) as connection,
        connection.makefile("rb") as orders,
    ):
        _serve(connection, orders, memory)


def _end_with(parent: int) -> None:
    """See to it that this process does not outlive its parent.

    The end of standard input ends it and all that it started. On Linux the kernel ends it too,
    also where an environment never lets a thread of Python run.
    """
    lifeline = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)

    def watch() -> None:
        with suppress(OSError):
            while os.read(lifeline, 1):
                pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.killpg(0, signal.SIGKILL)


def _serve(connection: socket.socket, orders: BinaryIO, memory: int) -> None:
    def answer(**said: Any) -> None:
        connection.sendall(json.dumps(said).encode() + b"\n")

    job = json.loads(orders.readline())
    number, first = job["number"], job["first"]
    own = slice(first, first + job["slots"])
    board = Board([(name, dtype, tuple(shape)) for name, dtype, shape in job["layout"]], memory)
    began, call = board.began, board.call[number]
    codes = {verb: code for code, verb in enumerate(VERBS)}

    def note(slot: int, verb: str) -> None:
        call[0], call[1] = slot, codes[verb]
        began[number] = monotonic()

    def idle() -> None:
        call[1] = codes[IDLE]

    try:
        slots = _made(job, board, own, note)
    except (ConfigError, EnvError) as error:
        return answer(kind=type(error).__name__, said=str(error))
    except Exception as error:
        notes = "".join(f"; {text}" for text in getattr(error, "__notes__", ()))
        said = " ".join(f"{type(error).__name__}: {error}{notes}".split())
        return answer(kind="EnvError", said=f"environment {job['env_id']!r}: making it: {said}")
    idle()
    answer(made=True)
    actions = board.action[own]
    while order := orders.readline():
        told = json.loads(order)
        verb = told["do"]
        if verb == "step":
            info = slots.step(actions.copy())[-1]
        elif verb == "reset":
            mask, anew = (np.isin(range(job["slots"]), told[key]) for key in ("slots", "anew"))
            info = slots.reset(seed=told["seeds"], options={"reset_mask": mask, "anew": anew})[1]
        elif verb == "replay":
            info = {"faults": _replay(slots, told, orders)}
        else:
            break
        idle()
        faults: Faults = info["faults"]
        answer(**{str(first + slot): what for slot, what in faults.wrong.items()})
    slots.close()


def _made(job: Mapping[str, Any], board: Board, own: slice, note: Any) -> Slots:
    try:
        env_id, make = registry.maker(job["env_id"], job["kwargs"])
    except ConfigError as error:
        raise ConfigError(
            f"{error}; in a process of its own an environment is known only if Gymnasium or "
            "recollect has it or module:Name-v0 imports it"
        ) from error
    count, first = job["slots"], job["first"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parent has shown them, when it read the spaces
        slots = Slots(make, env_id, count, first=first, arrays=board.rows(own), note=note)
    encoder = Encoder(slots.single_observation_space, env_id)
    fields = layout(encoder, slots.single_action_space, job["num_envs"], job["processes"])
    if json.loads(json.dumps(fields)) != job["layout"]:
        raise EnvError(
            f"environment {env_id}, slot {first}: its spaces here are not those it had where it "
            "was made first: give all environments the same"
        )
    return slots


def _replay(slots: Slots, told: Mapping[str, Any], orders: BinaryIO) -> Faults:
    shape = slots.single_action_space.shape or ()
    actions = np.frombuffer(orders.read(told["bytes"]), told["dtype"]).reshape(-1, *shape)
    return slots.replay(told["slots"], told["seeds"], told["steps"], actions)[-1]


if __name__ == "__main__":
    main()
