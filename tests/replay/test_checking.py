from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from recollect.replay.checking import check_contents
from recollect.replay.contents import FIRST, HELD, ITEMS, NEXT, STEPS, VERSION, Contents
from tests.replay.lived import UNEVEN, cut, make_episode, make_replay, make_spec, messages


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


def contents() -> Contents:
    """Two episodes: one that has ended and one that has not."""
    spec = make_spec(UNEVEN)
    found = Contents(spec, UNEVEN)
    for uid, sent in ((0, 8), (1, 6)):
        for blocks, items in list(messages(UNEVEN, cut(spec, make_episode(spec, uid, 23))))[:sent]:
            for block in blocks:
                found.append(block)
            for item in items:
                found.place(item)
    return found


def add(table: str, column: int, row: int = 1) -> Callable[[Contents], None]:
    def change(contents: Contents) -> None:
        getattr(contents, table).rows[row, column] += 1

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c, "steps", c.steps + 1), "steps are counted"),
        (lambda c: setattr(c, "nbytes", c.nbytes - 1), "bytes are counted"),
        (lambda c: setattr(c, "next_uid", 1), "uids"),
        (lambda c: setattr(c, "next_serial", 1), "serials"),
        (lambda c: c.items.free.append(0), "items and free rows"),
        (lambda c: c.episodes.pop(1), "every block in its episode"),
        (lambda c: setattr(c.episodes[1], "ended", True), "episode 1: ended"),
        (lambda c: setattr(c.episodes[1], "next_block", 99), "episode 1: blocks are counted"),
        (lambda c: setattr(c.episodes[1], "steps", 17), "episode 1: steps"),
        (lambda c: setattr(c.episodes[1], "window", 0), "item .*: windows are counted"),
        (lambda c: c.bodies.put(-1, c.bodies[0]), "no block left over"),
        (add("blocks", STEPS), "episode 0"),
        (add("blocks", NEXT), "episode 0: chain"),
        (add("blocks", ITEMS), "items per block"),
        (add("items", FIRST), "item 1: chain"),
        (add("items", HELD), "item 1: chain"),
    ],
)
def test_every_figure_that_is_wrong_is_named(
    change: Callable[[Contents], None], message: str
) -> None:
    damaged = contents()
    check_contents(damaged)
    change(damaged)
    with pytest.raises(RuntimeError, match=f"replay is damaged: .*{message}"):
        check_contents(damaged)


def test_what_an_item_carries_for_others_is_not_judged() -> None:
    carried = contents()
    add("items", VERSION)(carried)
    check_contents(carried)
