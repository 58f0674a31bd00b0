"""How the parts of a run stand is kept, read back from whatever is there, and shown."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from recollect.run import parts
from recollect.run.parts import PartNow, read, summed, troubles

WIDTHS = [40, 41, 50, 60, 70, 80, 100, 120, 200]


def actors(count: int, **more: Any) -> list[PartNow]:
    """Each with a process, a rate, a queue and lags of its own."""
    return [
        PartNow(
            f"actor/{n}",
            doing="working",
            pid=1000 + n,
            host=f"node-{n % 3}",
            busy=0.5,
            rate=10.0 + n,
            unit="steps/s",
            queue=n % 2,
            queue_bytes=1000,
            lag_updates=1.0 + n % 2,
            lag_seconds=0.5,
            **more,
        )
        for n in range(count)
    ]


OTHERS = [
    PartNow("parameters", doing="waiting", pid=11, host="node-0", queue=0),
    PartNow(
        "replay/0", doing="working", rate=812.0, unit="items/s", queue=3, queue_bytes=1_200_000
    ),
    PartNow("replay/1", doing="working", rate=810.0, unit="items/s", queue=1, queue_bytes=400_000),
    PartNow("learner", doing="working", busy=0.98, rate=5.12, unit="updates/s"),
    PartNow("evaluator", doing="evaluating", busy=1.0),
]


def shown(all_parts: Sequence[PartNow], width: int, limit: int = parts.LINES) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=True)
    with console.capture() as caught:
        console.print(parts.table(all_parts, width, limit))
    return [line.rstrip() for line in caught.get().splitlines()]


# --- Kept and read back --------------------------------------------------------------------------

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
NAMES = [field.name for field in fields(PartNow)]


def test_a_part_comes_back_as_it_was() -> None:
    wanted = [*OTHERS, *actors(2), PartNow("actor/2", False, "dead: killed by signal 9")]
    written = json.dumps([part.as_dict() for part in wanted], allow_nan=False)
    assert list(read(json.loads(written))) == wanted


def test_a_part_of_an_older_or_newer_version_is_read_as_far_as_it_goes() -> None:
    found = {"name": "actor/3", "alive": True, "mood": ["new"], "rate": 5}
    assert read([found]) == (PartNow("actor/3", rate=5),)


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), JUNK) | JUNK, max_size=4) | JUNK)
def test_whatever_is_read_back_can_be_shown(found: Any) -> None:
    """S3: the file may be damaged, or a stranger's."""
    all_parts = read(found)
    assert read([part.as_dict() for part in all_parts]) == all_parts
    json.dumps([part.as_dict() for part in all_parts], allow_nan=False)
    for width in (1, 40, 200):
        assert all(len(line) <= width for line in shown(all_parts, width) if line.isascii())
    parts.lines(all_parts)
    parts.line(all_parts)


@pytest.mark.parametrize("value", [True, "3", -1, float("nan"), float("inf"), 10**400, [1], None])
def test_a_figure_that_is_none_is_not_known(value: Any) -> None:
    (part,) = read(
        [{"name": "a", "rate": value, "queue": value, "pid": value, "seen_seconds": value}]
    )
    assert (part.rate, part.queue, part.pid, part.seen_seconds) == (None, None, 0, 0.0)


def test_what_a_terminal_would_obey_is_taken_out_and_long_texts_are_cut() -> None:
    """S3."""
    (part,) = read([{"name": "a\x1b[31m/0", "doing": "dead: \x1b]0;x\x07\n" + "x" * 500}])
    assert part.name == "a [31m/0"
    assert part.doing.startswith("dead: ]0;x xxx")
    assert len(part.doing) == parts.TEXT_LIMIT
    assert "\x1b" not in "".join(shown([replace(part, doing="dead: \x1b[31m")], 80))


# --- Sums and troubles ---------------------------------------------------------------------------


def test_a_sum_adds_rates_and_queues_and_has_the_largest_lag_of_the_living() -> None:
    some = actors(3)
    dead = PartNow("actor/3", False, "dead", rate=1e6, queue=9, lag_updates=99.0, host="node-9")
    total = summed([*some, dead])
    assert total == PartNow(
        "actor/0..3",
        doing="3 alive",
        host="3 hosts",
        busy=0.5,
        rate=10.0 + 11.0 + 12.0,
        unit="steps/s",
        queue=0 + 1 + 0,
        queue_bytes=3000,
        lag_updates=2.0,
        lag_seconds=0.5,
    )
    assert summed(some[:1]) == some[0]
    assert summed([dead, dead]) == PartNow("actor/3..3", False, "0 alive")
    assert summed([PartNow("a/x"), PartNow("a/y")]).name == "a x 2"


def test_the_dead_the_silent_and_those_far_behind_are_in_trouble() -> None:
    some = actors(6)
    some[0] = replace(some[0], alive=False)
    some[1] = replace(some[1], seen_seconds=parts.SILENT_SECONDS + 1)
    some[2] = replace(some[2], lag_updates=parts.FAR_UPDATES + 1)
    some[3] = replace(some[3], lag_seconds=parts.FAR_SECONDS + 1)
    some[4] = replace(some[4], lag_updates=parts.FAR_UPDATES - 1)
    wanted = ["dead", "silent", "far behind", "far behind", "", ""]
    assert troubles(some) == wanted
    # Where all lag by as much, none of them is behind the others.
    late = actors(5)
    assert troubles([replace(part, lag_updates=1000.0) for part in late]) == [""] * 5
    assert troubles([PartNow("learner")]) == [""]
    assert troubles([]) == []


# --- Shown ---------------------------------------------------------------------------------------


def test_the_table_at_80_columns_is_this() -> None:
    silent = replace(actors(2)[1], seen_seconds=42.0)
    behind = replace(actors(3)[2], lag_updates=512.0)
    dead = PartNow("actor/3", False, "dead: killed by signal 9", pid=7, host="node-1")
    assert shown([*OTHERS, *actors(1), silent, behind, dead], 80) == [
        "part                     busy    rate            queue    bytes     lag  lag, s",
        "parameters  waiting                                  0",
        "replay/0    working             812.0 items/s        3   1.2 MB",
        "replay/1    working             810.0 items/s        1   400 kB",
        "learner     working       98%    5.12 updates/s",
        "evaluator   evaluating   100%",
        "actor/0     working       50%    10.0 steps/s        0   1.0 kB    1.00    0.50",
        "actor/1     silent 0:42   50%    11.0 steps/s        1   1.0 kB    2.00    0.50",
        "actor/2     far behind    50%    12.0 steps/s        0   1.0 kB   512.0    0.50",
        "actor/3     dead: killed by signal 9  node-1 7",
    ]


def test_hundreds_of_actors_are_one_line_and_those_in_trouble_lines_of_their_own() -> None:
    many = actors(256)
    assert shown([*OTHERS, *many], 80)[-1] == (
        "actor/0..255  256 alive     50%  35,200 steps/s      128    2.00    0.50"
    )
    many[7] = replace(many[7], alive=False, doing="dead: the node was lost", host="", pid=0)
    many[9] = replace(many[9], seen_seconds=754.0)
    lines = shown([*OTHERS, *many], 80)
    assert len(lines) == 1 + len(OTHERS) + 3
    assert lines[-3].split()[:3] == ["actor/0..255", "255", "alive"]
    assert lines[-2] == "actor/7       dead: the node was lost"
    assert lines[-1].startswith("actor/9       silent 13 m   50%")


def test_where_many_are_in_trouble_the_rest_of_them_is_summed_up() -> None:
    many = [
        replace(part, alive=n >= 100, seen_seconds=99.0 if n < 120 else 0.0)
        for n, part in enumerate(actors(300))
    ]
    lines = shown([*OTHERS, *many], 120)
    assert len(lines) == 1 + parts.LINES
    assert lines[6].split()[:3] == ["actor/0..299", "200", "alive"]
    assert [line.split()[0] for line in lines[7:-1]] == [f"actor/{n}" for n in range(5)]
    assert lines[-1] == "actor/...     95 dead, 20 silent more"


def test_of_many_kinds_only_the_largest_are_summed_up() -> None:
    assert len(shown([*OTHERS, *actors(7)], 80)) == 1 + 12
    names = [line.split()[0] for line in shown([*OTHERS, *actors(8)], 80)[1:]]
    assert names == ["parameters", "replay/0", "replay/1", "learner", "evaluator", "actor/0..7"]
    names = [line.split()[0] for line in shown([*OTHERS, *actors(8)], 80, limit=5)[1:]]
    assert names == ["parameters", "replay/0..1", "learner", "evaluator", "actor/0..7"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 7, 300])
def test_at_any_width_nothing_is_wrapped_and_no_digit_cut(width: int, count: int) -> None:
    some = [replace(part, rate=98_765.4, queue=12_345) for part in actors(count)]
    some[0] = replace(some[0], alive=False, doing="dead: " + "why " * 30)
    lines = shown([*OTHERS, *some], width)
    assert len(lines) <= 1 + 13
    assert all(len(line) <= width for line in lines)
    assert len({len(line) for line in lines if "why" in line}) == 1
    heads = lines[0].split()
    assert heads[:2] == ["part", "rate"] or heads[:3] == ["part", "busy", "rate"]
    (learner,) = [line for line in lines if line.startswith("learner")]
    assert "5.12" in learner.split()
    if count == 7:
        assert "98,765" in lines[-1].split()


def test_columns_give_way_in_order_where_it_is_narrow() -> None:
    wide = shown([*OTHERS, *actors(3)], 200)[0].split()
    assert wide == ["part", "busy", "rate", "queue", "bytes", "lag", "lag,", "s", "where"]
    seen = [shown([*OTHERS, *actors(3)], width)[0].split() for width in range(40, 120)]
    assert seen[0] == ["part", "rate", "queue"]
    assert all(len(a) <= len(b) for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("width", WIDTHS)
def test_columns_stand_where_they_stood_whatever_the_figures(width: int) -> None:
    """No flicker: from one drawing to the next digits change, and nothing moves."""
    calm = [*OTHERS, *actors(3)]
    busy = [replace(p, rate=999_999.0, queue=99_999, busy=1.0, lag_updates=9_999.0) for p in calm]
    hurt = [
        *calm[:-1],
        replace(calm[-1], seen_seconds=3600.0),
        PartNow("actor/3", False, "dead: x"),
    ]
    assert shown(calm, width)[0] == shown(busy, width)[0] == shown(hurt, width)[0]
    ends = {match.end() for match in re.finditer("rate", shown(calm, width)[0])}
    for now in (calm, busy, hurt):
        for line in shown(now, width)[1:]:
            if not any(word in line for word in ("dead", "parameters", "evaluat")):
                assert ends <= {match.end() for match in re.finditer(r"[\d,.]+", line)}


def test_lines_for_a_pipe_are_the_whole_table() -> None:
    lines = parts.lines([*OTHERS, *actors(2)])
    assert lines == shown([*OTHERS, *actors(2)], 200)
    assert " ".join(lines[-1].split()) == (
        "actor/1 working 50% 11.0 steps/s 1 1.0 kB 2.00 0.50 node-1 1001"
    )
    assert parts.lines([]) == shown([], 80) == []


def test_the_one_line_says_what_each_kind_does_and_who_is_dead() -> None:
    dead = [PartNow(f"actor/{n}", False, f"dead: why {n}") for n in range(4, 9)]
    assert parts.line([*OTHERS, *actors(4), *dead]) == (
        "parts  9 of 14 alive   replay/0..1 1,622 items/s, queue 4   learner 5.12 updates/s   "
        "actor/0..8 46.0 steps/s, queue 2, lag 2.00   "
        "dead: actor/4 (why 4), actor/5 (why 5), actor/6 (why 6) and 2 more"
    )
    assert parts.line([PartNow("learner", False)]) == "parts  0 of 1 alive   dead: learner"


def test_a_unit_stands_only_beside_a_number() -> None:
    early = PartNow("learner", doing="waiting", unit="updates/s")
    assert "updates/s" not in "".join(parts.lines([early, actors(1)[0]]))
    assert "5.00 updates/s" in "".join(parts.lines([replace(early, rate=5.0)]))


def test_a_rate_is_not_told_of_an_instant() -> None:
    rate = parts.Rate()
    for now, total in ((0.0, 0.0), (0.05, 900.0)):
        rate.add(total, now)
        assert rate.now is None
    rate.add(2000.0, 1.0)
    assert rate.now == 2000.0
