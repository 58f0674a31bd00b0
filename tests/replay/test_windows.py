from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.replay.windows import Window, Windows
from recollect.types import ConfigError


@st.composite
def geometries(draw: st.DrawFn) -> Windows:
    trace = draw(st.integers(1, 9))
    return Windows(
        burn_in=draw(st.integers(0, 11)),
        trace=trace,
        period=draw(st.integers(1, trace)),
        tail=draw(st.integers(0, 6)),
    )


def test_windows_of_an_episode_look_as_in_the_picture() -> None:
    assert Windows(burn_in=3, trace=4, period=2, tail=1).windows_of(9) == [
        Window(start=0, prefix=0, learned=4, tail=1),
        Window(start=2, prefix=0, learned=4, tail=1),
        Window(start=4, prefix=3, learned=4, tail=1),
        Window(start=6, prefix=3, learned=3, tail=0),
    ]


def test_the_papers_windows_start_every_40_steps() -> None:
    """S0-5: 80 steps, a start every 40, a prefix of 40."""
    windows = Windows(burn_in=40, trace=80, period=40, tail=5)
    found = windows.windows_of(200)
    assert [w.start for w in found] == [0, 40, 80, 120]
    assert [w.prefix for w in found] == [0, 40, 40, 40]
    assert [w.learned for w in found] == [80, 80, 80, 80]
    assert [w.tail for w in found] == [5, 5, 5, 0]
    assert windows.steps == 40 + 80 + 5
    assert windows.state_offsets == (0,)


@given(geometries(), st.integers(1, 60))
@settings(deadline=None)
def test_trap_05_every_step_of_every_episode_is_learned(windows: Windows, steps: int) -> None:
    learned = [t for w in windows.windows_of(steps) for t in range(w.start, w.start + w.learned)]
    assert set(learned) == set(range(steps))


@given(geometries(), st.integers(1, 60))
@settings(deadline=None)
def test_trap_06_a_window_at_the_episodes_start_has_no_prefix(windows: Windows, steps: int) -> None:
    first = windows.windows_of(steps)[0]
    assert (first.start, first.prefix, first.first) == (0, 0, 0)
    assert first.learned == min(windows.trace, steps)


@given(geometries(), st.integers(1, 60))
@settings(deadline=None)
def test_trap_04_nothing_is_shifted_back_and_no_window_leaves_its_episode(
    windows: Windows, steps: int
) -> None:
    found = windows.windows_of(steps)
    for k, w in enumerate(found):
        assert w.start == k * windows.period
        assert w.prefix in (0, windows.burn_in)
        assert w.prefix == windows.burn_in or w.start < windows.burn_in
        assert w.first >= 0
        assert w.learned >= 1
        assert w.stop <= steps
        assert w.learned == windows.trace or w.start + w.learned == steps
        assert w.tail == windows.tail or w.stop == steps
    assert all(w.start + w.learned < steps for w in found[:-1]), "only the last one reaches the end"
    assert found[-1].start + found[-1].learned == steps


@given(geometries(), st.integers(1, 60))
@settings(deadline=None)
def test_a_window_is_ready_once_its_observations_lie_in_blocks(
    windows: Windows, steps: int
) -> None:
    for k, w in enumerate(windows.windows_of(steps)):
        for inserted in range(0, steps + 1):
            assert windows.ready(k, inserted, ended=False) == (
                k * windows.period + windows.trace + windows.tail <= inserted - 1
            )
            if windows.ready(k, inserted, ended=False):
                assert windows.window(k, inserted) == w, "what is ready does not change"
        assert windows.ready(k, steps, ended=True)
    beyond = len(windows.windows_of(steps))
    assert not windows.exists(beyond, steps)
    assert not windows.ready(beyond, steps, ended=True)
    with pytest.raises(ValueError, match=f"has no window {beyond}"):
        windows.window(beyond, steps)


@given(geometries(), st.integers(1, 60))
@settings(deadline=None)
def test_windows_and_prefixes_begin_where_blocks_carry_states(windows: Windows, steps: int) -> None:
    offsets = {w.first % windows.period for w in windows.windows_of(steps)}
    assert offsets <= set(windows.state_offsets)
    assert set(windows.state_offsets) <= {
        w.first % windows.period for w in windows.windows_of(60 + 60)
    }


@given(geometries(), st.integers(1, 60))
@settings(deadline=None)
def test_oldest_block_is_the_least_that_later_windows_need(windows: Windows, steps: int) -> None:
    # Of an episode long enough: a block beyond what this one needs may still be kept.
    needs = [w.first // windows.period for w in windows.windows_of(steps + 100)]
    for k in range(len(windows.windows_of(steps))):
        assert windows.oldest_block(k) == min(needs[k:])


@given(geometries())
@settings(deadline=None)
def test_blocks_is_the_most_one_window_lies_in(windows: Windows) -> None:
    period = windows.period
    spans = [
        w.stop // period - w.first // period + 1 for w in windows.windows_of(100) if w.stop < 100
    ]
    assert max(spans) == windows.blocks
    ready = [
        (k * period + windows.trace + windows.tail) // period + 1 - windows.oldest_block(k)
        for k in range(40)
    ]
    assert max(ready) <= windows.blocks, "what a running episode keeps"


@given(st.integers(1, 7), st.integers(1, 60))
@settings(deadline=None)
def test_a_trajectory_is_one_window_of_the_whole_episode(period: int, steps: int) -> None:
    """S0-9: replay of the whole episode."""
    windows = Windows.trajectories(period)
    assert windows.windows_of(steps) == [Window(0, 0, steps, 0)]
    assert windows.state_offsets == (0,)
    assert not windows.ready(0, steps, ended=False)
    assert windows.ready(0, steps, ended=True)
    assert not windows.ready(1, steps, ended=True)
    assert windows.oldest_block(3) == 0
    with pytest.raises(RuntimeError, match="no fixed length"):
        _ = windows.steps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"burn_in": -1}, "burn_in must be a whole number of at least 0, not -1"),
        ({"trace": 0}, "trace must be a whole number of at least 1, not 0"),
        ({"period": 0}, "period must be a whole number of at least 1, not 0"),
        ({"tail": -1}, "tail must be a whole number of at least 0, not -1"),
        ({"tail": 0.5}, "tail must be a whole number of at least 0, not 0.5"),
        ({"period": 5}, "period 5 is longer than trace_length 4.*shorten period or raise trace_l"),
        ({"trajectory": True}, "use Windows.trajectories"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Windows(**{"burn_in": 2, "trace": 4, "period": 3, "tail": 1, **change})
