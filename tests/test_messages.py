"""Messages between parts: answers that come, answers that do not, and how many are on their way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect import messages
from recollect.messages import (
    FencedError,
    Known,
    Near,
    PartLostError,
    PartSilentError,
    Posts,
    Shared,
    unless_lost,
    unshared,
)
from tests.replay.spread import Clock
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


# --- Parts that are replaced ----------------------------------------------------------------------


def keeper(world: World, posts: Posts, name: str = "echo") -> tuple[list[Any], Any]:
    """What was heard; and what sends a word that must not be lost."""
    heard: list[Any] = []
    handle = world.handle(name, Echo(), "me")

    def send(what: Any, nbytes: int = 0) -> None:
        posts.keep(handle, lambda: handle.ask("say", what), nbytes, heard.append)

    return heard, send


def test_what_was_kept_is_sent_again_in_order_before_anything_newer() -> None:
    """R2."""
    world, posts = World(), Posts()
    heard, send = keeper(world, posts)
    for i in range(3):
        send(i, 10)
    world.move()  # 0 has arrived
    world.lose("echo")
    world.run()
    assert not posts.full
    assert (len(posts), posts.nbytes, posts.lost, heard) == (2, 20, 0, [0])
    send(3, 10)
    world.revive("echo", other := Echo())
    send(4, 10)
    world.run()
    assert other.heard == [1, 2, 3, 4]
    posts.flush()
    assert (heard, len(posts), posts.nbytes) == ([0, 1, 2, 3, 4], 0, 0)
    assert (posts.sent, posts.sent_bytes, posts.lost) == (5, 50, 0), "each counts once"


def test_an_answer_behind_a_message_that_was_lost_is_not_taken_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R2: a part that comes back without what it had wants both, in order."""

    class Lost(Known):
        def result(self, seconds: float = 0.0) -> Any:
            raise PartLostError("it died")

    sent: list[int] = []
    heard: list[int] = []
    handle, posts = SimpleNamespace(name="echo", life=0), Posts(most=2)
    answers = iter([Lost(), Known(1)])

    def keep(what: int) -> None:
        def send() -> Any:
            sent.append(what)
            return next(answers, Known(what))

        posts.keep(handle, send, 0, heard.append)  # type: ignore[arg-type]

    class Replaced(Clock):
        def sleep(self, seconds: float) -> None:
            handle.life = 1

    monkeypatch.setattr(messages, "time", Replaced())
    keep(0)
    keep(1)
    assert heard == []
    keep(2)  # for which there is no room before the part is replaced
    posts.flush()
    assert (sent, heard) == ([0, 1, 2, 0, 1, 2], [0, 1, 2])


@given(
    does=st.lists(st.integers(0, 7), max_size=60),
    choices=st.lists(st.integers(0, 99), max_size=200),
)
def test_a_part_that_passes_over_repeats_has_each_message_once_and_in_order(
    does: list[int], choices: list[int]
) -> None:
    """R2: killed and replaced at any moment, with all it had; also while another one sends."""
    left = iter(choices)
    world, posts = World(lambda n: next(left, 0) % n), Posts(most=4)
    heard, send = keeper(world, posts)
    others, send_other = keeper(world, posts, "other")
    echo, sent = world.parts["echo"], [0, 0]
    for do in does:
        if do <= 1 and not posts.full:
            (send, send_other)[do](sent[do])
            sent[do] += 1
        elif do == 2:
            world.lose("echo")
        elif do == 3:
            world.revive("echo", echo)
        else:
            world.move()
        assert len(posts) <= 4
    world.revive("echo", echo)
    posts.flush()
    first = list(dict.fromkeys(echo.heard))
    assert first == heard == list(range(sent[0]))
    for i, word in enumerate(echo.heard):  # what comes again begins anew, and goes on in order
        assert word <= max(echo.heard[:i], default=-1) + 1
    assert others == list(range(sent[1]))
    assert posts.lost == 0


def test_a_message_kept_for_one_part_does_not_hold_up_the_answers_of_others() -> None:
    world, posts = World(), Posts(most=3)
    heard, send = keeper(world, posts)
    others, send_other = keeper(world, posts, "other")
    world.lose("echo")
    send("gone")
    world.run()
    for i in range(20):
        assert not posts.full
        send_other(i)
        world.run()
    posts.look()
    assert (others, heard, len(posts)) == (list(range(20)), [], 1)


def test_a_part_replaced_while_it_is_asked_gets_everything_in_order() -> None:
    """The newer message arrives first, and comes again behind the older ones."""
    world, posts, heard = World(), Posts(), []
    handle = world.handle("echo", Echo(), "me")
    other = Echo()

    def ask(what: int, replaced: bool) -> Any:
        if replaced and world.lives["echo"] == 0:
            world.revive("echo", other)
        return handle.ask("say", what)

    posts.keep(handle, lambda: ask(0, False), 0, heard.append)
    world.lose("echo")
    posts.keep(handle, lambda: ask(1, True), 0, heard.append)
    posts.flush()
    assert other.heard == [1, 0, 1], "where numbers tell that the first one came too early"
    assert heard == [0, 1]


def test_a_part_replaced_just_before_it_is_asked_gets_everything_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After it was looked whether anything older is to be sent again."""
    world, posts = World(), Posts()
    heard, send = keeper(world, posts)
    send(0)
    world.lose("echo")
    other, resend = Echo(), posts.resend

    def replaced() -> None:
        resend()
        if world.lives["echo"] == 0:
            world.revive("echo", other)

    monkeypatch.setattr(posts, "resend", replaced)
    send(1)
    posts.flush()
    assert other.heard == [1, 0, 1], "where numbers tell that the first one came too early"
    assert heard == [0, 1]


def test_a_flush_waits_until_a_part_is_replaced_or_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R5."""

    class Replacing(Clock):
        at = float("inf")

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.now >= self.at and "echo" in world._lost:
                world.revive("echo", Echo())

    clock, world, posts = Replacing(), World(), Posts(most=2)
    monkeypatch.setattr(messages, "time", clock)
    heard, send = keeper(world, posts)
    world.lose("echo")
    send(0)
    with pytest.raises(PartSilentError, match="echo died and was not replaced in time"):
        posts.flush(5.0)
    assert clock.now == pytest.approx(1005.0, abs=0.1)
    send(1)
    clock.at = clock.now + 3.0
    send(2)  # waits for room
    assert 0 < len(posts) <= 2
    posts.flush(1.0)
    assert heard == [0, 1, 2]


def test_what_was_kept_for_a_part_out_of_reach_is_sent_again_though_nobody_replaced_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A link that was cut between two parts that live: in order, and not at every look."""
    clock, world, posts = Clock(), World(), Posts()
    monkeypatch.setattr(messages, "time", clock)
    heard, send = keeper(world, posts)
    world.lose("echo")
    send(0)
    send(1)
    world.run()
    posts.look()
    world._lost.discard("echo")
    asked = world.asked["say"]
    clock.now += Posts.RETRY_SECONDS - 0.1
    posts.look()
    assert world.asked["say"] == asked
    clock.now += 0.2
    posts.look()
    assert world.asked["say"] == asked + 2
    world.run()
    posts.look()
    assert heard == [0, 1]
    assert len(posts) == 0


def test_who_is_fenced_is_told_at_every_look() -> None:
    """R7."""
    world, posts = World(), Posts()
    _, send = keeper(world, posts)
    send(FencedError("me of epoch 0 was replaced", "echo"))
    world.run()
    for look in (posts.look, posts.flush, lambda: posts.full):
        with pytest.raises(FencedError, match="was replaced"):
            look()
    assert posts.lost == 0


def test_a_question_to_a_part_that_died_has_an_answer_of_ours() -> None:
    world = World()
    handle = world.handle("echo", Echo())
    assert unless_lost(handle.ask("say", 3)) == 3
    with pytest.raises(KeyError):
        unless_lost(handle.ask("say", KeyError("bad")))
    with pytest.raises(FencedError):
        unless_lost(handle.ask("say", FencedError("go")))
    world.lose("echo")
    assert unless_lost(handle.ask("say", 3), 7) == 7
    world.revive("echo", Echo())
    world.silence("echo")
    with pytest.raises(PartSilentError):
        unless_lost(handle.ask("say", 3))
