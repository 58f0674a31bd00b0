"""Trainings that stop themselves, each in a process of its own: `python -m tests.stopping`.

Reads a JSON object a line: `folder`; `train`, arguments of `recollect.train`, or null to resume;
`resume`, arguments of `recollect.resume`; `stop`, at which look at whether to stop a SIGTERM comes,
or null. A look is taken between any two rounds and between any two steps of an evaluation. Forks
for each line, and prints how many looks there were, and whether the training was stopped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch._dynamo  # what an optimiser imports, and takes a second
import torch.optim

import recollect
from recollect.agents import acting
from recollect.replay import store
from recollect.run import curves
from recollect.run.signals import Interrupted
from recollect.training.loop import Training

assert torch.optim, "these are imported once, and not in each process"
assert acting, store


def train(asked: dict[str, Any]) -> None:
    looks = 0
    must_stop = Training._must_stop

    def look(self: Training) -> bool:
        nonlocal looks
        looks += 1
        if looks == asked["stop"]:
            os.kill(os.getpid(), signal.SIGTERM)
        return must_stop(self)

    Training._must_stop = look  # type: ignore[method-assign]
    curves.draw = lambda *_, **__: None  # type: ignore[assignment]
    stopped = False
    try:
        if asked["train"] is not None:
            given = asked["train"]
            given["torso_sizes"] = tuple(given["torso_sizes"])
            recollect.train(run_dir=asked["folder"], **given)
        else:
            recollect.resume(asked["folder"], **asked["resume"])
    except Interrupted:
        stopped = True
    print(json.dumps({"looks": looks, "stopped": stopped}), flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            train(json.loads(line))
            sys.stderr.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print(json.dumps({"failed": True}), flush=True)
