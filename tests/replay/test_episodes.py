from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.replay.lived import (
    UNEVEN,
    assert_contents,
    assert_same_state,
    cut,
    make_episode,
    make_item,
    make_replay,
    make_spec,
)


def refusals() -> dict[str, tuple[Any, Any, type[Exception], str]]:
    windows = UNEVEN
    spec = make_spec(windows)
    blocks = cut(spec, make_episode(spec, 0, 14))
    other = cut(make_spec(windows, stack=2), make_episode(make_spec(windows, stack=2), 7, 3))
    first = make_item(0, windows.window(0, 14))
    second = make_item(0, windows.window(1, 14))
    return {
        "layout": (other, [], ValueError, "a block laid out as .* was wanted"),
        "gap": ([blocks[4]], [], RuntimeError, "block 4 of episode 0 came, wanted was block 3"),
        "again": ([blocks[2]], [], RuntimeError, "block 2 of episode 0 came, wanted was block 3"),
        "after the end": (
            [*blocks[3:], blocks[4]], [], RuntimeError, "wanted was none, as it has ended",
        ),
        "item first": ([], [make_item(5, windows.window(0, 9))], RuntimeError, "blocks before it"),
        "early": ([], [second], RuntimeError, "wanted was window 0"),
        "unfinished": (
            [blocks[3]], [first, second, make_item(0, windows.window(2, 14))],
            RuntimeError, "window 2 of episode 0 came after 12 steps",
        ),
        "twice": ([blocks[3]], [first, first], RuntimeError, "wanted was window 1"),
        "no such window": (
            blocks[3:],
            [make_item(0, w) for w in (*windows.windows_of(14), windows.window(4, 99))],
            RuntimeError, "window 4 of episode 0 came after 14 steps",
        ),
        "shape": ([], [replace(first, learned=5)], ValueError, "window 0 of episode 0 is Window"),
        "place": ([], [replace(first, start=1)], ValueError, "window 0 of episode 0 is Window"),
        "nan": ([], [replace(first, priority=float("nan"))], ValueError, "must be in .0, 1e.100"),
        "inf": ([], [replace(first, priority=float("inf"))], ValueError, "must be in .0, 1e.100"),
        "huge": ([], [replace(first, priority=1e200)], ValueError, "has priority 1e.200"),
        "negative": ([], [replace(first, priority=-1.0)], ValueError, "has priority -1.0"),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(refusals()))
def test_what_is_out_of_order_or_no_window_is_refused_and_nothing_changes(name: str) -> None:
    """R9: no priority that is not finite comes in."""
    blocks, items, error, message = refusals()[name]
    spec = make_spec(UNEVEN)
    episode = make_episode(spec, 0, 14)
    replay = make_replay(UNEVEN, spec)
    replay.insert(cut(spec, episode)[:3], [])
    before = replay.state_dict()
    with pytest.raises(error, match=message):
        replay.insert(blocks, items)
    assert_same_state(replay.state_dict(), before)
    replay.check_valid()
    replay.insert(cut(spec, episode)[3:], [make_item(0, w, 1, 100 + k) for k, w in enumerate(
        UNEVEN.windows_of(14))])  # fmt: skip
    assert_contents(replay, UNEVEN, spec, {0: episode})
