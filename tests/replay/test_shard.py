"""A shard takes each message once, in order, whoever of a sender's lives it comes from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recollect.messages import EarlyError, FencedError
from recollect.replay import wire
from recollect.replay.limiter import Limiter
from recollect.replay.prioritized import Prioritized
from recollect.replay.shard import Shard, Stamp
from recollect.replay.store import Replay
from tests.replay.lived import cut, make_episode, make_spec, messages
from tests.replay.spread import PAIRS

SPEC = make_spec(PAIRS)


def make_shard() -> Shard:
    return Shard(Replay(SPEC, PAIRS, Prioritized(1.0), Limiter(1.0, 0, 50.0), capacity_steps=1000))


def parcels(uid: int, steps: int = 2) -> list[tuple[Any, Any]]:
    """An episode, as arguments of `take`."""
    blocks = cut(SPEC, make_episode(SPEC, uid, steps))
    return [
        (wire.pack_blocks(found), wire.pack_items(items))
        for found, items in messages(PAIRS, blocks)
    ]


def take(shard: Shard, stamp: tuple[Any, ...], uid: int) -> int:
    """Items, once an episode of one item was taken."""
    ((parcel, items),) = parcels(uid)
    return shard.take(Stamp(*stamp), parcel, items).items


def test_a_message_that_comes_twice_is_taken_once() -> None:
    """R1: and answered as if it was taken."""
    shard = make_shard()
    assert take(shard, ("actor/0", 0, 1), 1) == 1
    assert take(shard, ("actor/0", 0, 1), 1) == 1
    assert take(shard, ("actor/0", 0, 2), 2) == 2
    assert take(shard, ("actor/0", 0, 1), 1) == 2
    assert take(shard, ("actor/1", 0, 1), 3) == 3, "the numbers are each sender's own"
    shard.drop_episode(Stamp("actor/0", 0, 3), 2)
    take(shard, ("actor/0", 0, 4), 2)
    shard.drop_episode(Stamp("actor/0", 0, 3), 2)
    assert shard.look().items == 3, "an old drop does not drop what came later"
    assert shard.look().totals.inserted == 8


def test_without_a_name_everything_is_taken() -> None:
    shard = make_shard()
    for uid in range(3):
        assert take(shard, ("", 0, 0), uid) == uid + 1


def test_a_number_left_out_is_an_error_or_too_early() -> None:
    shard = make_shard()
    assert take(shard, ("actor/0", 0, 5), 1) == 1, "nothing of this life is known: it may begin"
    with pytest.raises(RuntimeError, match="came, wanted was 6: what was sent"):
        take(shard, ("actor/0", 0, 7), 2)
    with pytest.raises(EarlyError, match="message 7 of actor/0 came before 6"):
        take(shard, ("actor/0", 0, 7, 6), 2)
    assert take(shard, ("actor/0", 0, 6), 2) == 2
    with pytest.raises(EarlyError):
        take(shard, ("actor/1", 0, 3, 2), 3)
    assert take(shard, ("actor/1", 0, 2, 2), 3) == 3
    assert shard.look().items == 3


def test_a_new_life_counts_anew_and_the_old_one_is_fenced() -> None:
    """R7."""
    shard = make_shard()
    take(shard, ("actor/0", 0, 1), 1)
    take(shard, ("actor/0", 0, 2), 2)
    assert take(shard, ("actor/0", 2, 1), 3) == 3
    for number in (1, 3):
        with pytest.raises(FencedError, match="actor/0 of epoch 0 was replaced: 2 is here"):
            take(shard, ("actor/0", 0, number), 4)
        with pytest.raises(FencedError):
            shard.drop_episode(Stamp("actor/0", 1, number), 1)
    assert shard.look().items == 3
    lives = [shard.steps_from("actor/0", epoch) for epoch in range(4)]
    assert lives == [4, 0, 2, 0]
    assert shard.steps_from("actor/1", 0) == 0


def test_what_is_refused_may_come_again_under_its_number() -> None:
    shard = make_shard()
    ((parcel, items),) = parcels(1)
    with pytest.raises(ValueError, match="priority"):
        shard.take(Stamp("a", 0, 1), parcel, (items[0], np.array([-1.0])))
    assert shard.steps_from("a", 0) == 0
    assert take(shard, ("a", 0, 1), 1) == 1


def test_what_was_learned_is_owed_again_as_far_as_it_counts() -> None:
    shard = make_shard()
    for uid in range(8):
        take(shard, ("a", 0, uid + 1), uid)
    shard.draw(np.full(3, 0.5))
    shard.restart_surplus()
    shard.draw(np.full(5, 0.5))
    assert shard.look().totals.learned == 16
    assert shard.unlearned(4, 1) == 4
    assert shard.unlearned(4, 1) == 4
    assert shard.look().totals.learned == 12, "asked twice for one life, done once"
    assert shard.unlearned(100, 2) == 6, "what was before the surplus began anew is not owed"
    assert shard.look().totals.learned == 6
    with pytest.raises(ValueError, match="negative"):
        shard.unlearned(-1, 3)
