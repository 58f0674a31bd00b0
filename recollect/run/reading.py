"""Reading checkpoints, which may be damaged or a stranger's. What they are: `checkpoint`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from recollect.run import files, manifest, segments, state_tree, strict_json, tensors
from recollect.run.damage import (
    CheckpointError,
    CheckpointWarning,
    NoCheckpointError,
    Report,
    expect,
)
from recollect.run.manifest import META, PARAMETERS, STATE, TREE, Found, Manifest
from recollect.types import Array

Weights = tuple[dict[str, Array], dict[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """What `load` found. The buffers in `state` are parts of mapped files, read-only."""

    path: Path
    name: str
    env_steps: int
    meta: dict[str, Any]
    parameters: dict[str, Array]
    state: dict[str, Any] | None


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a folder, every byte of it verified.

    Raises:
        CheckpointError: if anything is missing, damaged, too large, or of another format.
    """
    return read_listed(Path(path), manifest.read(Path(path)), True)


def load_parameters(path: str | os.PathLike[str]) -> Weights:
    """Parameters and meta of the checkpoint in a folder, verified; its state is not looked at.

    Raises:
        CheckpointError: as `load`.
    """
    return _weights(Path(path), manifest.read(Path(path)))


def find(
    folder: str | os.PathLike[str],
    *names: str,
    report: Report | None = None,
    full: bool = False,
    parameters_only: bool = False,
) -> Path:
    """The newest checkpoint that verifies, by environment steps and then by order of saving.

    Args:
        folder: where a run's checkpoints lie.
        names: of which kinds: `last`, `best`; `last` if none is given.
        report: told of each damaged one passed over, in a line that begins with ERROR; by default
            a CheckpointWarning is given.
        full: only those with a state.
        parameters_only: verify what `load_parameters` reads, and nothing else.
    Raises:
        NoCheckpointError: if there is none.
        CheckpointError: if none verifies; each is named with its damage.
    """

    def verified(found: Found, listed: Manifest) -> Path:
        _ = (
            _weights(found.path, listed)
            if parameters_only
            else read_listed(found.path, listed, True)
        )
        return found.path

    return _newest(Path(folder), names, report, full, verified)


def load_newest(
    folder: str | os.PathLike[str],
    *names: str,
    report: Report | None = None,
    full: bool = False,
) -> Checkpoint:
    """`load(find(...))`, reading every file once instead of twice."""
    return _newest(
        Path(folder),
        names,
        report,
        full,
        lambda found, listed: read_listed(found.path, listed, True),
    )


def _weights(path: Path, listed: Manifest) -> Weights:
    data = files.read_verified(path / PARAMETERS, listed.files[PARAMETERS])
    parameters = tensors.parse(data, path / PARAMETERS)
    meta = _json(path / META, listed)
    expect(path / META, "env_steps", listed.env_steps, meta.get("env_steps"))
    return parameters, meta


def read_state(path: Path, listed: Manifest) -> tuple[segments.Held, state_tree.Flat]:
    """The state of a full one; its buffers apart, as their files are not read yet."""
    arrays = tensors.parse(files.read_verified(path / STATE, listed.files[STATE]), path / STATE)
    tree = _json(path / TREE, listed)
    places = list(state_tree.places(tree))
    held = segments.find(path, listed.segments, places, arrays, path / STATE)
    return held, state_tree.Flat(tree, arrays)


def read_listed(path: Path, listed: Manifest, hashed: segments.Hashed) -> Checkpoint:
    """As `load`; `hashed` says which segments to read through."""
    parameters, meta = _weights(path, listed)
    state = None
    if listed.full:
        held, flat = read_state(path, listed)
        flat = replace(flat, buffers=segments.open_all(held, hashed))
        state = state_tree.rebuild(flat, path / TREE)
    return Checkpoint(path, listed.name, listed.env_steps, meta, parameters, state)


def _json(path: Path, listed: Manifest) -> dict[str, Any]:
    data = files.read_verified(path, listed.files[path.name])
    try:
        return strict_json.parse(data.tobytes(), path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _newest(
    folder: Path,
    names: tuple[str, ...],
    report: Report | None,
    full: bool,
    read: Callable[[Found, Manifest], T],
) -> T:
    """What `read` makes of the newest it does not refuse."""
    names = names or ("last",)
    damages = []
    for found in manifest.scan(folder, names):
        if found.manifest and full and not found.manifest.full:
            continue
        try:
            if found.manifest is None:
                raise CheckpointError(found.damage)
            result = read(found, found.manifest)
        except CheckpointError as error:
            damages.append(str(error))
            continue
        for damage in damages:
            tell(
                f"ERROR: damaged checkpoint passed over: {damage}; going back to {found.path}",
                report,
            )
        return result
    kind = " or ".join(map(repr, names)) + (" checkpoint with a state" if full else " checkpoint")
    if damages:
        listed = "\n  ".join(damages)
        raise CheckpointError(f"no {kind} in {folder} can be used:\n  {listed}")
    raise NoCheckpointError(f"there is no {kind} in {folder}")


def tell(message: str, report: Report | None) -> None:
    """Report, or warn where there is nobody to report to."""
    if report is None:
        warnings.warn(message, CheckpointWarning, stacklevel=3)
    else:
        report(message)
