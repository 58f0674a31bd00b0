from __future__ import annotations

import copy

import pytest

from tests.replay.lived import UNEVEN, cut, make_episode, make_replay, make_spec


def test_check_valid_finds_a_seam_that_does_not_fit() -> None:
    """Trap 33 where it would arise: in the actor."""
    spec = make_spec(UNEVEN)
    episode = make_episode(spec, 0, 9)
    wrong = copy.deepcopy(episode)
    wrong.action[2] += 1
    replay = make_replay(UNEVEN, spec)
    replay.insert([cut(spec, episode)[0], *cut(spec, wrong)[1:]], [])
    with pytest.raises(RuntimeError, match="episode 0, block 1: previous action"):
        replay.check_valid()
