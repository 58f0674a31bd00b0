"""What is wrong with a run that was struck is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recollect.agents.acting import episode_uid
from recollect.types import Buffers
from tests.runtime.aftermath import (
    check_blocks,
    check_epochs,
    check_rows,
)


def shard(*blocks: tuple[int, int], items: Any = (), contents: Any = None) -> dict[str, Any]:
    """A state with blocks (episode, index), items (episode, start), each block's own bytes."""
    serials = np.arange(len(blocks))
    contents = list(range(len(blocks))) if contents is None else contents
    return {
        "blocks": {
            "serial": serials,
            "episode": np.array([episode for episode, _ in blocks], np.int64),
            "index": np.array([index for _, index in blocks], np.int64),
        },
        "items": {
            "episode": np.array([episode for episode, _ in items], np.int64),
            "start": np.array([start for _, start in items], np.int64),
        },
        "buffers": Buffers(serials, [np.full(4, c, np.uint8) for c in contents]),
    }


def test_what_is_there_once_is_all_right() -> None:
    one = shard((1, 0), (1, 1), (2, 0), items=[(1, 0), (1, 8)])
    other = shard((3, 0), contents=[9])
    check_blocks({"replay/0": one, "replay/1": other}, distinct=True)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (shard((1, 1), contents=[9]), "a block is there twice"),
        (shard((4, 0), items=[(1, 8)], contents=[9]), "an item is there twice"),
        (shard((1, 2), contents=[9]), "an episode is in several shards"),
        (shard((4, 0), contents=[1]), "1 blocks are alike"),
    ],
)
def test_what_is_there_twice_is_found(other: dict[str, Any], why: str) -> None:
    one = shard((1, 0), (1, 1), (2, 0), items=[(1, 0), (1, 8)])
    with pytest.raises(AssertionError, match=why):
        check_blocks({"replay/0": one, "replay/1": other}, distinct=True)


def test_an_old_life_after_a_new_one_is_found() -> None:
    def lived(*epochs: int) -> dict[str, Any]:
        return {"replay": shard(*((episode_uid(e, 3, i), 0) for i, e in enumerate(epochs)))}

    check_epochs(lived(0, 0, 1, 1, 2), {3: 2})
    with pytest.raises(AssertionError, match="slot 3: epoch 2"):
        check_epochs(lived(0, 2), {3: 1})
    with pytest.raises(AssertionError, match="slot 3: an old life after a new one"):
        check_epochs(lived(0, 1, 0), {3: 2})


def test_counts_go_back_only_as_far_as_deaths_say() -> None:
    steps = [10, 30, 25, 40]
    rows = [{"env_steps": n, "updates": 2 * n, "seconds": i} for i, n in enumerate(steps)]
    deaths = [{"lost_steps": 5, "undone_updates": 3}, {"lost_steps": None, "undone_updates": 7}]
    check_rows(rows, deaths)
    with pytest.raises(AssertionError, match="updates went back by 10"):
        check_rows(rows, deaths[:1])
    with pytest.raises(AssertionError, match="env_steps went back by 5"):
        check_rows(rows, [])
    check_rows([{"faults/recoveries": n} for n in (0, 1, 2)], deaths)
    with pytest.raises(AssertionError, match="recoveries 3, 2 deaths"):
        check_rows([{"faults/recoveries": n} for n in (0, 3)], deaths)
