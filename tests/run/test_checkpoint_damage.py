"""C2: full checkpoints that are cut, flipped, mixed and incomplete."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from recollect.run import checkpoint
from recollect.run.checkpoint import CheckpointError, Checkpoints, NoCheckpointError
from recollect.run.manifest import MANIFEST, META, PARAMETERS, STATE, TREE
from recollect.run.segments import file_name
from tests.run.checkpoints import assert_whole, flip, replace, save_full

FILES = (PARAMETERS, META, STATE, TREE, file_name(0), file_name(1), MANIFEST)
FLIPS = 1000


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two full checkpoints of one run that share a segment; the newer has FILES."""
    writer = Checkpoints(tmp_path)
    paths = save_full(writer, 10).path, save_full(writer, 20).path
    assert sorted(os.listdir(paths[1])) == sorted(FILES)
    assert (paths[0] / file_name(0)).samefile(paths[1] / file_name(0))
    return paths


def refused(path: Path, file: str) -> str:
    """That it is, naming file, what was expected and what was found."""
    named = re.escape(str(path / file)) + ": .*expected .*, found "
    with pytest.raises(CheckpointError, match=named) as caught:
        checkpoint.load(path)
    return str(caught.value)


def falls_back(folder: Path, to: Path) -> None:
    lines: list[str] = []
    assert checkpoint.find(folder, report=lines.append, full=True) == to
    assert len(lines) == 1
    assert lines[0].startswith("ERROR: ")
    assert assert_whole(to) == 10


@pytest.mark.parametrize("file", FILES)
def test_every_cut_is_noticed(pair: tuple[Path, Path], file: str) -> None:
    whole = (pair[1] / file).read_bytes()
    for cut in np.linspace(0, len(whole) - 1, 64).astype(int):
        replace(pair[1] / file, whole[:cut])
        refused(pair[1], file)
    falls_back(pair[1].parent, pair[0])


def test_every_flipped_bit_is_noticed(pair: tuple[Path, Path]) -> None:
    """A thousand over all files, by their length."""
    original = {file: (pair[1] / file).read_bytes() for file in FILES}
    sizes = 8 * np.array([len(data) for data in original.values()])
    ends = np.cumsum(sizes)
    for bit in np.random.default_rng(4).integers(0, ends[-1], FLIPS).tolist():
        at = int(np.searchsorted(ends, bit, "right"))
        flip(pair[1] / FILES[at], bit - int(ends[at] - sizes[at]))
        refused(pair[1], FILES[at])
        replace(pair[1] / FILES[at], original[FILES[at]])
    assert assert_whole(pair[1]) == 20
    flip(pair[1] / FILES[at], 5)
    falls_back(pair[1].parent, pair[0])


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_the_other_checkpoint_is_noticed(pair: tuple[Path, Path], file: str) -> None:
    source = pair[0] / (file if file != file_name(1) else file_name(0))
    if file == file_name(0):
        source = pair[1] / file_name(1)
    replace(pair[1] / file, source.read_bytes())
    refused(pair[1], file)
    falls_back(pair[1].parent, pair[0])


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_noticed(pair: tuple[Path, Path], file: str) -> None:
    (pair[1] / file).unlink()
    assert refused(pair[1], file).endswith("expected a file, found No such file or directory")
    falls_back(pair[1].parent, pair[0])


def test_damage_to_a_segment_that_all_share_leaves_the_weights(pair: tuple[Path, Path]) -> None:
    """Links have one copy on disk: no state can be used, every one is named."""
    shared = pair[1] / file_name(0)
    data = bytearray(shared.read_bytes())
    data[-1] ^= 1
    shared.write_bytes(data)  # in place
    with pytest.raises(CheckpointError, match="can be used") as caught:
        checkpoint.find(shared.parent.parent)
    assert str(caught.value).count("expected SHA-256") == 2
    assert checkpoint.find(shared.parent.parent, parameters_only=True) == pair[1]
    assert checkpoint.load_parameters(pair[1])[1] == {"env_steps": 20}


def test_parameters_are_loaded_whatever_became_of_the_state(pair: tuple[Path, Path]) -> None:
    for file in (STATE, TREE, file_name(0), file_name(1)):
        (pair[1] / file).unlink()
    assert checkpoint.find(pair[1].parent, parameters_only=True) == pair[1]
    assert checkpoint.load_parameters(pair[1])[1] == {"env_steps": 20}


def test_a_newer_one_without_a_state_is_not_damaged(pair: tuple[Path, Path]) -> None:
    lines: list[str] = []
    folder = pair[1].parent
    newest = checkpoint.save(folder, "last", {}, {"env_steps": 30}, keep=3)
    assert checkpoint.find(folder, report=lines.append, full=True) == pair[1]
    assert checkpoint.load_newest(folder, report=lines.append, full=True).env_steps == 20
    assert checkpoint.find(folder, report=lines.append) == newest
    assert lines == []
    shutil.rmtree(pair[0])
    shutil.rmtree(pair[1])
    with pytest.raises(NoCheckpointError, match="no 'last' checkpoint with a state"):
        checkpoint.find(folder, full=True)
