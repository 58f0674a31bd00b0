"""Small full checkpoints, and how to spoil them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recollect.run import checkpoint, files
from recollect.run.checkpoint import Checkpoints, Saved
from recollect.run.manifest import MANIFEST
from recollect.types import Buffers


@functools.cache
def buffers(first: int, stop: int, size: int = 40, salt: int = 0) -> Buffers:
    """Numbers [first, stop), each with bytes of its own."""
    arrays = []
    for number in range(first, stop):
        array = np.random.default_rng([salt, number]).integers(0, 256, size + number % 3, np.uint8)
        array.flags.writeable = False
        arrays.append(array)
    return Buffers(np.arange(first, stop), arrays)


def state_at(env_steps: int) -> dict[str, Any]:
    """As a run of so many steps may have it: two replays, of which the oldest buffers have gone."""
    step = env_steps // 10
    return {
        "replay/0": {"buffers": buffers(4 * step, 4 * step + 10), "tree": np.arange(7.0) * step},
        "replay/1": buffers(step, 3 * step + 2, 25, salt=1),
        "rng": [2**127 + env_steps, np.array([3, env_steps], np.uint64)],
        "episode": {"return": float("nan"), "start": True, "carry": np.float32(-0.0), "id": None},
    }


def parameters_at(env_steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(env_steps)
    return {"w": rng.normal(size=(5, 7)).astype(np.float32), "n": np.array(env_steps)}


def save_full(writer: Checkpoints, env_steps: int, name: str = "last") -> Saved:
    return writer.save(
        name,
        parameters=parameters_at(env_steps),
        meta={"env_steps": env_steps},
        state=state_at(env_steps),
    )


def assert_whole(path: Path) -> int:
    """That it holds all of one state, and nothing of another; its environment steps."""
    found = checkpoint.load(path)
    assert found.meta == {"env_steps": found.env_steps}
    assert found.state is not None
    digests = checkpoint.digest(found.state), checkpoint.digest(found.parameters)
    assert digests == digests_at(found.env_steps)
    return found.env_steps


@functools.cache
def digests_at(env_steps: int) -> tuple[str, str]:
    return checkpoint.digest(state_at(env_steps)), checkpoint.digest(parameters_at(env_steps))


def flip(path: Path, bit: int) -> None:
    """One bit; a new file, as segments have other names too."""
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    replace(path, bytes(data))


def replace(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def resign(path: Path, text: bytes | None = None, **changes: Any) -> Path:
    """What a hostile writer can do: a manifest that fits, and a folder named after it.

    Args:
        path: the checkpoint; its files may have been replaced, and files left out or put in.
        text: the manifest, if it is not to be made.
        changes: of its entries.
    """
    if text is None:
        listed = json.loads((path / MANIFEST).read_bytes())
        listed["files"] = {
            file.name: {
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for file in sorted(path.iterdir())
            if file.name != MANIFEST and file.is_file() and not file.is_symlink()
        } | {name: entry for name, entry in listed["files"].items() if not (path / name).is_file()}
        listed.update(changes)
        text = json.dumps(listed).encode()
    replace(path / MANIFEST, text)
    return path.rename(path.with_name(path.name[:-16] + hashlib.sha256(text).hexdigest()[:16]))


class FaultyOs:
    """`os` for the module `files`: the `at`-th call that touches the disk fails.

    Args:
        at: 1 for the first; 0 for none.
        fail: given the call and its arguments, raises, or gives what is to be returned.
        for_good: all calls after it fail too.
    """

    CALLS = ("open", "write", "fsync", "rename", "link", "unlink", "mkdir", "rmdir", "close")

    def __init__(self, at: int, fail: Callable[..., Any], for_good: bool = False) -> None:
        self.at, self.fail, self.for_good = at, fail, for_good
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def faulty(*args: Any, **kwargs: Any) -> Any:
            call = real
            if name == "open" and not args[1] & os.O_WRONLY:
                return call(*args, **kwargs)
            self.seen.append(name)
            at = len(self.seen)
            if name == "fsync":  # counted, and not waited for: no test here cuts the power
                call = os.fstat
            if at == self.at or (self.for_good and self.at and at > self.at):
                return self.fail(call, *args, **kwargs)
            return call(*args, **kwargs)

        return faulty


def install(faulty: FaultyOs) -> None:
    """In this process from now on."""
    files.os = faulty  # type: ignore[assignment]


def uninstall() -> None:
    files.os = os
