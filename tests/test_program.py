"""A program's wiring is checked where it is made."""

from __future__ import annotations

import pytest

from recollect.program import Part, Program
from recollect.roles import ACTOR, LEARNER, REPLAY, Role


def test_who_is_held_stands_before_who_holds() -> None:
    replay = Part("replay", REPLAY, list)
    learner = Part("learner", LEARNER, list, {"replay": "replay"})
    assert Program((replay, learner), policy=list).parts == (replay, learner)
    with pytest.raises(ValueError, match=r"'learner' holds 'replay'.*does not stand before it"):
        Program((learner, replay), policy=list)


def test_names_are_unique() -> None:
    part = Part("actor/0", ACTOR, list)
    with pytest.raises(ValueError, match="two parts are named 'actor/0'"):
        Program((part, part), policy=list)


def test_a_service_has_no_turns_and_says_what_may_be_posted() -> None:
    assert not REPLAY.worker
    assert "insert" in REPLAY.posted
    assert "sample" not in REPLAY.posted
    assert Role(worker=True).posted == frozenset()
