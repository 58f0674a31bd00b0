"""The process in which an environment and a network are examined; `supervise` starts it.

It reads one JSON object from stdin and writes one a line: stages as they begin, signs of life,
checks as they are made. What the environment prints goes to stderr.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from typing import Any

from recollect.doctor import environment, playing, repeating, speed
from recollect.doctor.request import Request
from recollect.doctor.sheet import Sheet

ITSELF = "recollect.doctor.child"
ELSEWHERE_SECONDS = 30.0


def main() -> None:
    """Examine what stdin asks for."""
    asked = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w")  # not inherited by what the environment starts
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # says where it waits, when asked

    def say(**message: Any) -> None:
        out.write(json.dumps(message, default=str) + "\n")
        out.flush()

    if asked.pop("lived", False):
        request = Request(**asked)
        say(lived=_lived(request))
        return
    spoken = time.perf_counter()

    def alive() -> None:
        nonlocal spoken
        if time.perf_counter() - spoken > 0.2:
            spoken = time.perf_counter()
            say()

    sheet = Sheet(
        "environment",
        tell=lambda check: say(check=asdict(check)),
        begin=lambda name, silent: say(stage=name, group=sheet.group, silent=silent),
        alive=alive,
    )
    examine(Request(**asked), sheet)
    say(finished=True)
    out.flush()
    os._exit(0)  # whatever the environment left running


def examine(request: Request, sheet: Sheet) -> None:
    """All checks, onto the sheet."""
    patience = max(3.0, 2 * request.seconds)
    subject = environment.examine(request, sheet, patience)
    if subject is None:
        return
    if not sheet.failed:
        repeating.examine(request, subject, sheet, patience, _elsewhere)
        speed.examine(request, subject, sheet, patience)
    unusable = sheet.failed
    subject.close()
    if unusable:
        sheet.info(
            "the rest",
            "network, traps and memory were not examined",
            "mend what FAILs above, then ask again",
        )
        return
    from recollect.doctor import acting

    acting.examine(request, subject, sheet, patience)


def _lived(request: Request) -> list[str]:
    from recollect.envs import registry

    spec, _ = registry.describe(request.env, request.env_kwargs)
    return playing.play(playing.make(spec), request.steps, 0, request.seconds, lambda: None)


def _elsewhere(request: Request) -> list[str] | None:
    """What `playing.play` sees in another process; None if it takes too long."""
    asked = json.dumps({**asdict(request), "lived": True}).encode() + b"\n"
    try:
        done = subprocess.run(
            [sys.executable, "-m", ITSELF],
            input=asked,
            stdout=subprocess.PIPE,
            timeout=ELSEWHERE_SECONDS,
            check=True,
        )
        return json.loads(done.stdout)["lived"]
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    main()
