"""Examining an environment in a process of its own, which is ended when it hangs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import IO, Any

from recollect.doctor.request import Request
from recollect.doctor.sheet import Check

CHILD = "recollect.doctor.child"
START_SECONDS = 120.0
"""For Python to start and load the library, on a machine that is busy."""


def examine(request: Request, tell: Callable[[Check], None] = lambda check: None) -> list[Check]:
    """All checks of an environment and its network, each handed to `tell` as soon as it is made.

    Takes at most 10 `seconds` and four minutes, whatever the environment does.
    """
    found: list[Check] = []

    def note(check: Check) -> None:
        found.append(check)
        tell(check)

    with tempfile.TemporaryFile() as errors:
        child = start(CHILD, errors)
        try:
            _listen(child, request, errors, note)
        finally:
            end(child)
    return found


def start(module: str, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """A Python running `module`, in a session of its own so that all of it can be ended."""
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started, and take it away."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _listen(
    child: subprocess.Popen[bytes],
    request: Request,
    errors: IO[bytes],
    note: Callable[[Check], None],
) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
        child.stdin.close()
    group, stage = "environment", "start"
    patience = [START_SECONDS, time.monotonic() + 240 + 10 * request.seconds]
    finished = False
    for message in _messages(child, patience):
        if message is None:
            child.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            note(
                Check(
                    group,
                    stage,
                    "FAIL",
                    f"gave no sign of life for {patience[0]:g} s and was ended{_place(errors)}",
                    "find what waits there: a step, a reset or a constructor that never returns",
                )
            )
            return
        if "check" in message:
            check = Check(**message["check"])
            note(check)
        elif "stage" in message:
            group, stage, patience[0] = message["group"], message["stage"], message["silent"]
        finished = finished or "finished" in message
    code = child.wait()
    if not finished:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = _place(errors) if code < 0 else _last_line(errors)
        note(
            Check(
                group,
                stage,
                "FAIL",
                f"ended our process ({how}){said}",
                "the environment, the network or a library of theirs crashes: run it by itself",
            )
        )


def _messages(
    child: subprocess.Popen[bytes], patience: list[float]
) -> Iterator[dict[str, Any] | None]:
    """What the child says, line by line; None where it says nothing for too long.

    Args:
        patience: seconds it may stay silent, which may change meanwhile, and when all must end.
    """
    assert child.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, min(patience[0], patience[1] - time.monotonic()))):
                yield None
                return
            piece = os.read(child.stdout.fileno(), 1 << 16)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield json.loads(line)


def _written(errors: IO[bytes]) -> list[str]:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - 8192))
    return errors.read().decode(errors="replace").strip().splitlines()


def _last_line(errors: IO[bytes]) -> str:
    lines = _written(errors)
    return f": {lines[-1].strip()[:200]}" if lines else ""


def _place(errors: IO[bytes]) -> str:
    """Where it was, from the stacks that it wrote, the innermost call first."""
    lines = _written(errors)
    begin = [place for place, line in enumerate(lines) if "(most recent call first)" in line]
    for line in lines[begin[-1] + 1 :] if begin else []:
        found = re.match(r' *File "(.*)", line (\d+) in (\w+)', line)
        if found:
            return f", in {found[3]} ({found[1]}, line {found[2]})"
    return ""
