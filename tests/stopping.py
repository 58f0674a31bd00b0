"""A training in a process of its own that stops itself: `python -m tests.stopping FOLDER JSON`.

The JSON object: `train`, arguments of `recollect.train`, or null to resume; `resume`, arguments of
`recollect.resume`; `stop`, at which look at whether to stop a SIGTERM comes, or null. A look is
taken between any two rounds and between any two steps of an evaluation. Prints how many there were.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import recollect
from recollect.run.signals import Interrupted
from recollect.training.loop import Training


def main(folder: str, asked: dict[str, Any]) -> None:
    looks = 0
    must_stop = Training._must_stop

    def look(self: Training) -> bool:
        nonlocal looks
        looks += 1
        if looks == asked["stop"]:
            os.kill(os.getpid(), signal.SIGTERM)
        return must_stop(self)

    Training._must_stop = look  # type: ignore[method-assign]
    stopped = False
    try:
        if asked["train"] is not None:
            given = asked["train"]
            given["torso_sizes"] = tuple(given["torso_sizes"])
            recollect.train(run_dir=folder, **given)
        else:
            recollect.resume(folder, **asked["resume"])
    except Interrupted:
        stopped = True
    print(json.dumps({"looks": looks, "stopped": stopped}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1], json.loads(sys.argv[2]))
