"""Batches fetched ahead are the ones that would have been drawn, and nobody writes in them."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recollect.agents.batches import Batches, fields_of
from recollect.agents.computing import PROCESSOR, Compute
from recollect.replay.batch import Batch
from recollect.replay.store import Replay
from recollect.replay.windows import Windows
from tests.agents import test_r2d2
from tests.replay.lived import UNEVEN, assert_same_batch, filled, insert_episode, make_episode
from tests.replay.spread import Spread
from tests.runtime.faked import until

SIZE = 6
LENGTHS = [40, 3, 17, 60, 25, 9, 33, 50, 21, 70, 8, 44]


def pair(
    ahead: bool | None = True, windows: Windows = UNEVEN, stack: int = 3
) -> tuple[Batches, Replay]:
    replay, _ = filled(windows, LENGTHS, stack=stack)
    return Batches(replay, SIZE, seed=7, epoch=2, compute=PROCESSOR, ahead=ahead), replay


def counted(replay: Replay) -> list[Any]:
    """The draws from `replay` from now on."""
    drawn: list[Any] = []
    inner = replay.draw

    def draw(uniforms: Any) -> Any:
        drawn.append(inner(uniforms))
        return drawn[-1]

    replay.draw = draw  # type: ignore[method-assign]
    return drawn


def finish(batches: Batches) -> None:
    """Wait for what is fetched ahead, if anything is."""
    if batches._next is not None:
        batches._next.result()


def shares(one: Batch, other: Batch) -> bool:
    return bool(
        np.shares_memory(one.reward, other.reward)
        or np.shares_memory(one.recurrent_state, other.recurrent_state)
        or any(np.shares_memory(x, other.observation[k]) for k, x in one.observation.items())
    )


@pytest.mark.parametrize("windows", [UNEVEN, Windows.trajectories(3)])
@pytest.mark.parametrize("first", [0, 5])
def test_fetched_ahead_they_are_the_same_in_the_same_order(windows: Windows, first: int) -> None:
    """When nothing is written in between; both end where the limiter says so."""
    ahead, _ = pair(True, windows)
    plain, _ = pair(False, windows)
    taken = 0
    while plain.ready():
        assert ahead.ready()
        wanted, _ = plain.take(first + taken)
        found, fields = ahead.take(first + taken)
        assert_same_batch(found, wanted)
        for name, value in fields_of(wanted).items():
            for key, one in value.items() if isinstance(value, dict) else [("", value)]:
                assert torch.equal(fields[name][key] if key else fields[name], one)
        taken += 1
    assert not ahead.ready()
    assert taken > 1


def test_batches_of_other_numbers_epochs_and_seeds_are_others() -> None:
    def first(seed: int, epoch: int, number: int) -> tuple[int, ...]:
        replay, _ = filled(UNEVEN, LENGTHS)
        batch, _ = Batches(replay, SIZE, seed, epoch, PROCESSOR, ahead=True).take(number)
        return tuple(batch.uids.tolist())

    keys = [(7, 0, 0), (7, 0, 1), (7, 1, 0), (8, 0, 0)]
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(7, 1, 3) == first(7, 1, 3)


def test_one_is_drawn_ahead_and_no_more() -> None:
    batches, replay = pair()
    drawn = counted(replay)
    for number in range(5):
        batches.take(number)
        finish(batches)
        assert batches.ready()
        assert len(drawn) == number + 2


def test_on_a_processor_nothing_is_drawn_ahead_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    batches, replay = pair(ahead=None)
    drawn = counted(replay)
    for number in range(3):
        batches.take(number)
        assert len(drawn) == number + 1
    assert Batches(replay, SIZE, 7, 2, Compute("cuda"))._ahead


def test_nothing_is_drawn_ahead_that_the_limiter_does_not_allow() -> None:
    batches, replay = pair()
    drawn = counted(replay)
    replay.wants_sample = lambda: False  # type: ignore[method-assign]
    batches.take(0)
    assert len(drawn) == 1
    assert not batches.ready()


def test_no_batch_is_written_in_while_it_is_learned_from() -> None:
    """Two batches of arrays, in turn: the one in hand, and the one that is being fetched."""
    batches, _ = pair()
    kept = []
    for number in range(6):
        batch, fields = batches.take(number)
        before = copy.deepcopy(batch)
        assert np.shares_memory(fields["reward"].numpy(), batch.reward), "nothing is copied"
        finish(batches)  # the next one lies there, whole
        assert_same_batch(batch, before)
        assert batches._next is not None
        assert not shares(batch, batches._next.result()[0])
        kept.append(batch)
    assert shares(kept[0], kept[2])
    assert shares(kept[1], kept[5])


def test_what_is_written_after_the_draw_changes_no_batch() -> None:
    """Even where its blocks are evicted meanwhile; its write-backs are stale then (trap 26)."""
    batches, replay = pair()
    plain, _ = pair(False)
    batches.take(0)
    plain.take(0)
    replay._capacity_steps = replay.steps
    for uid in range(100, 110):
        insert_episode(replay, UNEVEN, replay._spec, make_episode(replay._spec, uid, 60))
    found, _ = batches.take(1)
    assert_same_batch(found, plain.take(1)[0])
    replay.update_priorities(found.slots, found.uids, np.ones(SIZE))
    assert replay.metrics()["stale_write_backs"] == SIZE


def test_forgotten_it_is_drawn_again_from_what_there_is_now() -> None:
    batches, replay = pair()
    batches.take(0)
    state = filled(UNEVEN, LENGTHS[::-1], stack=3)[0].state_dict()
    batches.forget()
    replay.load_state_dict(state)
    other = filled(UNEVEN, LENGTHS, stack=3)[0]
    other.load_state_dict(state)
    plain = Batches(other, SIZE, 7, 2, PROCESSOR, ahead=False)
    assert_same_batch(batches.take(1)[0], plain.take(1)[0])
    batches.forget()
    batches.forget()
    assert batches.ready()


def test_what_goes_wrong_while_fetching_is_told_where_the_batch_is_taken() -> None:
    batches, replay = pair()
    inner, threads = replay.gather, []

    def gather(draw: Any, out: Any = None) -> Any:
        threads.append(threading.current_thread())
        if len(threads) == 3:
            raise RuntimeError("a window and its blocks do not fit each other")
        return inner(draw, out)

    replay.gather = gather  # type: ignore[method-assign]
    batches.take(0)
    batches.take(1)
    with pytest.raises(RuntimeError, match="do not fit each other"):
        batches.take(2)
    assert threading.current_thread() not in threads


def test_a_replay_that_empties_after_it_was_asked_gives_no_batch() -> None:
    """It lives elsewhere; and what comes later is drawn as if nothing had been."""
    spread = Spread(2)
    for uid in (0, 1):
        spread.pair(spread.stores[uid], uid)  # type: ignore[arg-type]
    batches = Batches(spread.learner(), 4, 7, 2, PROCESSOR)
    for _ in range(3):
        assert batches.ready()
        for uid in (0, 1):
            spread.stores[uid].drop_episode(uid)
        assert batches.take(0) is None, "it was asked for, and did not come"
        assert batches.take(0) is None, "that there is nothing is known"
        assert not batches.ready()
        spread.pair(spread.stores[1], 1)  # type: ignore[arg-type]
        until(lambda: spread.world.run() or batches.ready())
    found = batches.take(0)
    assert found is not None
    assert found[0].uids.tolist() == [1 + 2 * spread.stores[1].state_dict()["items"]["uid"][0]] * 4
    finish(batches)


@pytest.mark.parametrize("sequences", ["windows", "trajectories"])
def test_a_learner_learns_the_same(sequences: str) -> None:
    """With uniform draws and nobody acting, to the last bit."""
    config = replace(
        test_r2d2.CONFIG,
        prioritized=False,
        replay_ratio=20.0,
        sequences=sequences,
        burn_in=3 * (sequences == "windows"),
    )
    found = []
    for ahead in (False, True):
        learner, replay, _ = test_r2d2.parts(config)
        learner._batches = Batches(replay, config.batch_size, 3, 0, PROCESSOR, ahead)
        for _ in range(12):
            assert learner.ready()
            learner.step()
        found.append(learner.online_parameters.numpy())
    np.testing.assert_array_equal(*found)
