"""C3: reads every hostile checkpoint with an audit hook armed.

`python -m tests.run.hostile_reader FOLDER` makes them there and prints a line of JSON for each:
what came of it, seconds, bytes of memory, what the hook saw. The first line proves that it sees.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recollect.run import checkpoint
from recollect.run.checkpoint import Checkpoints
from tests.run.checkpoints import save_full
from tests.run.hostile import MARKER, Bomb, Spoil, corpus, torch_file

WATCHED = (
    *("pickle.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork"),
    *("pty.", "ctypes.", "socket.", "exec", "compile", "import", "marshal.", "code.__new__"),
    *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod"),
)
armed: list[list[str]] = []
"""Where the hook writes; nowhere, while it is empty."""


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if armed and event.startswith(WATCHED):
        armed[-1].append(f"{event} {arguments[:2]!r}"[:200])
    if armed and event == "open" and str(roots[-1]) not in str(arguments[0]):
        armed[-1].append(f"open {arguments[0]!r}")


baseline = [0]
"""Bytes held before anything hostile was read."""

roots: list[Path] = []
"""The folder of the checkpoint being read: nothing else may be opened."""


def seen(act: Callable[[], object]) -> list[str]:
    """What the hook sees while `act` runs."""
    armed.append([])
    try:
        act()
    finally:
        events = armed.pop()
    return events


def memory(of: str) -> int:
    """Bytes: VmRSS, what is held now, or VmHWM, the most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{of}:")[1].split()[0])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def attempt(path: Path) -> dict[str, Any]:
    """Read one, in every way there is. `seconds` are of the processor, of the slower way.

    One that waited would take none: for that there is a limit on this whole process.
    """
    outcome: list[str] = []
    seconds: list[float] = []

    def read() -> None:
        for how in (checkpoint.load, lambda p: checkpoint.find(p.parent)):
            started = time.process_time()
            try:
                how(path)
                outcome.append("loaded")
            except checkpoint.CheckpointError as error:
                outcome.append(f"CheckpointError: {error}"[:600])
            except Exception as error:
                outcome.append(repr(error)[:600])
            seconds.append(time.process_time() - started)
        try:
            checkpoint.load_parameters(path)
        except checkpoint.CheckpointError:
            pass
        except Exception as error:
            outcome.append(repr(error)[:600])

    largest = max((file.lstat().st_size for file in path.parent.rglob("*")), default=0)
    forget_peak()
    roots.append(path.parent)
    events = seen(read)
    return {
        "outcome": outcome,
        "seconds": max(seconds),
        "memory": memory("VmHWM") - baseline[-1],
        "size": largest,
        "events": events,
        "marker": (path.parent / MARKER).exists(),
    }


def made(name: str, spoil: Spoil, good: Path, folder: Path) -> Path:
    """A case, made in a child so that this process never held what is in it."""
    place = folder / f"case-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    child = os.fork()
    if child == 0:
        path = spoil(shutil.copytree(good, place / good.name))
        (place / "path").write_text(path.name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
    return place / (place / "path").read_text()


def main(folder: Path) -> None:
    sys.addaudithook(hook)
    good = save_full(Checkpoints(folder / "good"), 10).path
    roots.append(folder)
    cases = dict(corpus())
    torch_file(good)  # its imports, in case they change anything
    warm = next(iter(cases))
    attempt(made("first", cases[warm], good, folder))  # so that nothing is imported later
    baseline.append(memory("VmRSS"))
    bomb = Bomb(folder / "proof")
    proof = {
        "unpickled": seen(lambda: pickle.loads(pickle.dumps(bomb))),
        "started": seen(lambda: subprocess.run(["true"], check=True)),
        "imported": seen(lambda: __import__("colorsys")),
        "opened": seen(lambda: Path("/etc/passwd").read_bytes()),
        "good": attempt(good),
    }
    print(json.dumps(proof), flush=True)
    for name, spoil in cases.items():
        path = made(name, spoil, good, folder)
        print(json.dumps({"name": name, **attempt(path)}), flush=True)
        shutil.rmtree(path.parent)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
