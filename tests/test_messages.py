"""Messages between parts: answers that come, answers that do not, and how many are on their way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect import messages
from recollect.messages import Known, Near, PartLostError, PartSilentError, Posts, Shared, unshared
from tests.runtime.faked import World


class Echo:
    """Answers what it is asked."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def say(self, what: Any) -> Any:
        self.heard.append(what)
        if isinstance(what, Exception):
            raise what
        return what


def posts_to(world: World, **limits: int) -> tuple[Posts, list[Any], Any]:
    """Posts; what was heard of them; and what sends a word of so many bytes."""
    posts, heard = Posts(**limits), []
    handle = world.handle("echo", Echo())

    def send(what: Any, nbytes: int = 0) -> None:
        posts.add(handle.ask("say", what), nbytes, heard.append)

    return posts, heard, send


def test_a_part_of_this_process_answers_before_the_question_returns() -> None:
    near = Near("echo", Echo())
    assert near.near
    assert near.ask("say", 3) == Known(3)
    assert near.ask("say", (1, Shared("large"))).result() == (1, "large")
    with pytest.raises(ValueError, match="wrong"):
        near.ask("say", ValueError("wrong"))


def test_what_is_shared_is_taken_out_of_plain_tuples_alone() -> None:
    assert unshared(Shared(5)) == 5
    assert unshared((Shared(1), (2, Shared(3)), [Shared(4)])) == (1, (2, 3), [Shared(4)])


def test_posts_are_full_at_their_number_and_who_looks_first_never_waits() -> None:
    """M2."""
    world = World()
    posts, heard, send = posts_to(world, most=3)
    for i in range(3):
        assert not posts.full
        send(i)
    assert posts.full
    assert (len(posts), heard, world.waited) == (3, [], 0)
    send(3)
    assert world.waited == 1, "a fourth has to wait until there was room for it"
    assert len(posts) == 3
    world.run()
    assert not posts.full
    assert (len(posts), heard, posts.sent) == (0, [0, 1, 2, 3], 4)


def test_posts_are_full_at_their_bytes() -> None:
    world = World()
    posts, heard, send = posts_to(world, most=100, most_bytes=1000)
    send(0, 999)
    assert not posts.full
    send(1, 5000)  # however large: there was room
    assert (posts.full, posts.nbytes, world.waited) == (True, 5999, 0)
    send(2, 1)
    assert world.waited > 0
    assert (heard, posts.nbytes) == ([0, 1], 1), "both had to go to make room"
    posts.flush()
    assert (posts.nbytes, posts.sent_bytes) == (0, 6000)


@given(
    choices=st.lists(st.integers(0, 99), max_size=60),
    sizes=st.lists(st.integers(0, 40), max_size=30),
    most=st.integers(1, 5),
    most_bytes=st.integers(1, 100),
)
def test_posts_stay_bounded_and_are_heard_in_order_however_late_answers_come(
    choices: list[int], sizes: list[int], most: int, most_bytes: int
) -> None:
    """M2: never more than `most` messages, nor more bytes than the limit and one message."""
    left = iter(choices)
    world = World(lambda n: next(left, 0) % n)
    posts, heard, send = posts_to(world, most=most, most_bytes=most_bytes)
    for i, nbytes in enumerate(sizes):
        before = world.waited
        wait = posts.full
        send(i, nbytes)
        assert wait or world.waited == before, "there was room"
        assert len(posts) <= most
        assert posts.nbytes < most_bytes + max(sizes)
        assert heard == list(range(len(heard)))
        for _ in range(next(left, 0) % 4):
            world.move()
    posts.flush()
    assert heard == list(range(len(sizes)))
    assert (posts.nbytes, len(posts), posts.sent_bytes) == (0, 0, sum(sizes))


def test_what_a_part_raises_is_raised_again_at_every_look() -> None:
    world = World()
    posts, heard, send = posts_to(world)
    send(0)
    send(KeyError("bad"))
    send(2)
    world.run()
    for look in (posts.look, posts.flush, lambda: posts.full):
        with pytest.raises(KeyError, match="bad"):
            look()
    assert heard == [0]
    assert len(posts) == 2


def test_messages_lost_with_their_part_are_counted_and_not_heard() -> None:
    world = World()
    posts, heard, send = posts_to(world)
    send(0, 10)
    world.run()
    send(1, 10)
    send(2, 10)
    world.lose("echo")
    send(3, 10)
    posts.flush()
    assert (posts.lost, heard, len(posts), posts.nbytes) == (3, [0], 0, 0)


def test_a_flush_ends_at_its_deadline_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: all of them share one deadline."""
    now = [100.0]
    monkeypatch.setattr(messages.time, "monotonic", lambda: now[0])
    waits: list[float] = []

    class Slow:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def ready(self) -> bool:
            return False

        def result(self, seconds: float) -> str:
            waits.append(seconds)
            now[0] += min(self.seconds, seconds)
            if self.seconds > seconds:
                raise PartSilentError("not in time")
            return "late"

    posts = Posts()
    for seconds in (2, 2, 2):
        posts.add(Slow(seconds))
    with pytest.raises(PartSilentError, match="not in time"):
        posts.flush(5.0)
    assert waits == [5.0, 3.0, 1.0]
    assert len(posts) == 1
    assert posts.lost == 0


def test_a_silent_part_is_a_lost_one_too() -> None:
    assert issubclass(PartSilentError, PartLostError)
    world = World()
    posts, _, send = posts_to(world)
    send(0)
    world.silence("echo")
    with pytest.raises(PartSilentError):
        posts.flush()
    assert len(posts) == 1, "it may come yet"
