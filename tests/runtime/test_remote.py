"""A program whose parts are elsewhere: counts, limits, who is named when something is wrong."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.messages import Known, PartLostError, PartSilentError, Pending
from recollect.program import Far, Part, Program
from recollect.roles import ACTOR, EVALUATOR, LEARNER, REPLAY
from recollect.runtime import asking, hosting, lives, readings, remote
from recollect.runtime.hosting import Slice
from recollect.runtime.remote import Remote
from recollect.types import DivergedError, EnvError
from tests.runtime.faked import Threads


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "SLICE_SECONDS", 0.02)
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(hosting, "_hear_warnings", lambda kept: None)
    with warnings.catch_warnings():
        yield


# --- A transport that only says what it is told to ------------------------------------------------


class Late(Known):
    """An answer that comes when `here` is set."""

    def __init__(self) -> None:
        object.__setattr__(self, "here", False)

    def ready(self) -> bool:
        return self.here  # type: ignore[attr-defined]

    def give(self, value: Any) -> None:
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "here", True)


class Failed(Known):
    """An answer that is an error."""

    def result(self, seconds: float = 0.0) -> Any:
        raise self.value


class Scripted:
    """Workers that are counts alone; a slice ends when it is chosen to, after chosen turns.

    Args:
        steps: of each worker's turn, by name.
        choose: a number in [0, n).
    """

    def __init__(self, steps: dict[str, int], choose: Callable[[int], int] = lambda n: 0) -> None:
        self.steps, self.choose = steps, choose
        self.done = dict.fromkeys(steps, 0)
        self.open: dict[str, tuple[Late, dict[str, int]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.epochs: dict[str, int] = {}
        self.closed = False

    def program(self) -> Program:
        kinds = {"actor": ACTOR, "learner": LEARNER, "replay": REPLAY}
        parts = (Part(name, kinds[name.partition("/")[0]], list) for name in self.steps)
        return Program(tuple(parts), policy=list)

    def counts(self, name: str) -> dict[str, int]:
        return {"updates" if name == "learner" else "env_steps": self.done[name]}

    def start(self, part: Part, held: Any, epoch: int) -> None:
        self.epochs[part.name] = epoch

    def rewire(self, holder: str, name: str) -> None:
        pass

    def kill(self, name: str, pid: int) -> None:
        pass

    def no_room(self, name: str) -> str:
        return ""

    def lost(self) -> str:
        return ""

    def ask(self, name: str, method: str, *arguments: Any) -> Pending:
        self.asked.append((name, method))
        if method == "slice":
            self.open[name] = (Late(), arguments[1])
            return self.open[name][0]
        if method in self.answers:
            return self.answers[method]
        if method == "state":
            return Known({})
        if method == "who":
            return Known({"pid": 77, "host": "far"})
        return Known(self.counts(name) if arguments == ("counts",) else None)

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        if self.open:
            self.end(sorted(self.open)[self.choose(len(self.open))], self.choose(4))

    def end(self, name: str, turns: int) -> None:
        """A slice ends after so many turns, or at its limit."""
        answer, limits = self.open.pop(name)
        taken = 0
        while taken < turns and not any(self.counts(name)[x] >= n for x, n in limits.items()):
            self.done[name] += self.steps[name]
            taken += 1
        told, self.warnings = self.warnings, []
        answer.give(Slice(self.counts(name), taken, 1.0, 0.25 * taken, 2, 99, 0, told))

    def close(self) -> None:
        self.closed = True


@given(
    steps=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    limits=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    choices=st.lists(st.integers(0, 99), max_size=80),
)
@settings(max_examples=150)
def test_a_limit_is_reached_and_passed_by_less_than_a_turn_of_each_worker(
    steps: list[int], limits: list[int], choices: list[int]
) -> None:
    """However unequal they are; slices that run have their promise."""
    left, dice = iter(choices), Random(0)  # in the end everybody's slice ends
    workers = {f"actor/{i}": n for i, n in enumerate(steps)}
    made = Scripted({**workers, "learner": 1}, lambda n: next(left, dice.randrange(n)) % n)
    runtime = Remote(made.program(), made, 60.0)
    limit = 0
    for more in limits:
        limit += more
        runtime.run(lambda c, n=limit: c["env_steps"] >= n, {"env_steps": limit})  # type: ignore[misc]
        done = sum(made.done[name] for name in workers)
        assert limit <= runtime.counts()["env_steps"] <= done
        # What is still running may go on to what it was promised.
        for name in sorted(made.open):
            if name != "learner":
                made.end(name, 10**6)
        assert sum(made.done[name] for name in workers) <= limit + sum(n - 1 for n in steps)


def test_who_adds_to_nothing_that_is_limited_goes_on() -> None:
    made = Scripted({"learner": 1, "actor/0": 1}, Random(0).randrange)
    runtime = Remote(made.program(), made, 60.0)
    runtime.run(lambda c: c["env_steps"] >= 9, {"env_steps": 9})
    made.asked.clear()
    more = made.done["learner"] + 20
    runtime.run(lambda c: c["updates"] >= more, {"env_steps": 9})
    slices = Counter(name for name, method in made.asked if method == "slice")
    assert slices["actor/0"] == 0
    assert slices["learner"] > 1


def test_settling_learns_what_is_owed_also_if_the_last_slice_had_nothing_to_do() -> None:
    """It was given before the actors' last steps arrived."""
    made = Scripted({"learner": 1, "actor/0": 1}, Random(0).randrange)
    runtime = Remote(made.program(), made, 60.0)
    runtime.run(lambda c: c["env_steps"] >= 3, {"env_steps": 3})
    if "learner" not in made.open:
        runtime._give(runtime._workers["learner"], {})
    made.end("learner", 0)
    owed = iter([3, 1, 0])
    made.choose = lambda n: next(owed, 0) if n == 4 else 0
    before = made.done["learner"]
    made.asked.clear()
    assert runtime.settle(lambda: False)
    assert made.done["learner"] == before + 4
    assert made.asked.index(("actor/0", "hold")) < made.asked.index(("learner", "slice"))
    assert ("actor/0", "release") in made.asked
    made.asked.clear()
    assert runtime.settle(lambda: True), "a signal came"
    assert ("learner", "slice") not in made.asked


def test_a_state_is_taken_while_all_workers_are_held() -> None:
    """C4: and they are released, also where a part cannot give its state."""
    made = Scripted({"replay": 1, "actor/0": 1, "actor/1": 1, "learner": 1})
    runtime = Remote(made.program(), made, 60.0)
    workers = ("actor/0", "actor/1", "learner")
    made.answers["state"] = Known({"x": 1})
    made.asked.clear()
    assert runtime.state_dict()["parts"] == {name: {"x": 1} for name in made.steps}
    copy = runtime._lives._known["learner"].copy
    assert copy == {"x": 1}, "a learner that dies comes back from here"
    order = [method for _, method in made.asked if method != "own"]
    assert order == ["hold"] * 3 + ["state"] * 4 + ["release"] * 3 + ["forget"] * 4
    assert {name for name, method in made.asked if method == "hold"} == set(workers)
    made.answers["state"] = Failed(KeyError("spoilt"))
    made.asked.clear()
    with pytest.raises(KeyError, match="spoilt") as found:
        runtime.state_dict()
    assert found.value.__notes__ == ["(raised in replay (process 77 on far))"]
    assert [name for name, method in made.asked if method == "release"] == list(workers)


# --- Late, silent, hanging: on a clock of our own -------------------------------------------------


class Clocked(Scripted):
    """Nothing ends, and every look takes a second."""

    def __init__(self, clock: Any) -> None:
        super().__init__({"actor/0": 1})
        self.clock = clock

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        self.clock.now += 1.0


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> tuple[Clocked, Remote]:
    clock = SimpleNamespace(now=0.0, sleep=lambda seconds: None)
    clock.monotonic = lambda: clock.now
    for module in (remote, asking, lives, readings):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(remote, "SLICE_SECONDS", 1.0)
    made = Clocked(clock)
    return made, Remote(made.program(), made, 60.0)


def any_pending(runtime: Remote) -> bool:
    return any(worker.pending is not None for worker in runtime._workers.values())


def never(_: Any) -> bool:
    return False


def test_a_turn_that_takes_long_and_answers_is_let_be(clocked: tuple[Clocked, Remote]) -> None:
    """An evaluation of many minutes, longer than any answer may take; R5: not without end."""
    made, runtime = clocked
    runtime.run(lambda _: made.clock.now > 5 * remote.DEADLINE)
    assert made.asked.count(("actor/0", "pulse")) > remote.DEADLINE
    assert made.epochs == {"actor/0": 0}
    runtime.run(lambda _: made.epochs["actor/0"] > 0)
    assert asking.TURN_SECONDS < made.clock.now < remote.TURN_SECONDS + 10
    (death,) = runtime.deaths()
    assert re.fullmatch(r"a turn takes 180\d s already, more than it may", death.why)


def test_an_evaluation_may_take_as_long_as_it_takes(clocked: tuple[Clocked, Remote]) -> None:
    made, _ = clocked
    made.answers["own"] = Known({})
    program = Program((Part("evaluator", EVALUATOR, list),), policy=list)
    runtime = Remote(program, made, 60.0)
    runtime.run(lambda _: made.clock.now > 3 * asking.TURN_SECONDS)
    assert runtime.died == 0


def test_a_turn_longer_than_any_answer_may_take_is_waited_for(
    clocked: tuple[Clocked, Remote],
) -> None:
    """A save or a row is due meanwhile; and it is not waited for without end."""
    made, runtime = clocked

    class Busy(Known):
        def result(self, seconds: float = 0.0) -> Any:
            assert seconds > 0, "each question has its own time"
            made.clock.now += 10.0
            if made.clock.now < self.value:
                raise hosting.BusyError("actor/0 is in a turn")
            return {"x": 1}

    made.answers["hold"] = Busy(3 * remote.DEADLINE)
    made.answers["state"] = Known({"x": 1})
    assert runtime.state_dict()["parts"] == {"actor/0": {"x": 1}}
    assert 3 * remote.DEADLINE <= made.clock.now < 3 * remote.DEADLINE + 20
    runtime.run(lambda _: True)
    began = made.clock.now
    made.answers["hold"] = Busy(1e9)
    made.kill = lambda name, pid: made.answers.pop("hold")  # type: ignore[method-assign]
    assert runtime.state_dict()["epochs"] == {"actor/0": 1}, "the next life is held"
    assert asking.TURN_SECONDS < made.clock.now - began < remote.TURN_SECONDS + 20
    assert re.match(r"a turn takes 18\d\d s already", runtime.deaths()[0].why)


def test_what_a_service_warns_of_is_told_with_the_rows() -> None:
    """It has no slices that would tell it: that a shard's journal was given up."""
    made = Scripted({"replay": 1, "actor/0": 1})
    runtime = Remote(made.program(), made, 60.0)
    made.answers |= {"own": Known({}), "warned": Known(["the journal is given up"])}
    runtime.metrics("replay")
    assert ("replay", "warned") not in made.asked
    with pytest.warns(RuntimeWarning, match=r"^replay: the journal is given up$"):
        runtime.metrics()
    assert ("actor/0", "warned") not in made.asked


def test_a_run_in_which_nobody_is_ready_says_so(clocked: tuple[Clocked, Remote]) -> None:
    """As inline; what takes turns, or has messages on their way, moves."""
    made, runtime = clocked
    made.answers["own"] = Known({"fill": 0.5})
    moves = [(0, 1), (1, 0), (0, 0)]

    def wait(answers: Sequence[Pending], seconds: float) -> None:
        made.clock.now += 1.0
        turns, queue = moves[0] if made.clock.now % 60 < 1 else (0, 0)
        answer, _ = made.open.pop("actor/0")
        answer.give(Slice(made.counts("actor/0"), turns, 1.0, 0.0, queue, 0, 0, []))

    made.wait = wait  # type: ignore[method-assign]
    for _ in range(2):
        begin = made.clock.now
        runtime.run(lambda _, begin=begin: made.clock.now > begin + 5 * remote.DEADLINE)  # type: ignore[misc]
        moves.pop(0)
    with pytest.raises(
        RuntimeError, match="the run cannot move: none of actor/0 was ready for 120 s"
    ):
        runtime.run(never)
    assert made.clock.now < begin + 7 * remote.DEADLINE


def test_the_time_that_the_driver_itself_was_stopped_is_not_the_runs(
    clocked: tuple[Clocked, Remote],
) -> None:
    made, runtime = clocked

    def wait(answers: Sequence[Pending], seconds: float) -> None:
        made.clock.now += 10 * remote.DEADLINE
        answer, _ = made.open.pop("actor/0")
        answer.give(Slice(made.counts("actor/0"), 0, 1.0, 0.0, 0, 0, 0, []))

    made.wait = wait  # type: ignore[method-assign]
    runtime.run(lambda _: made.clock.now > 500 * remote.DEADLINE)


def test_what_comes_late_of_a_life_that_ended_is_not_heard(
    clocked: tuple[Clocked, Remote],
) -> None:
    """R7: its steps are what shards have of it, here none; the next life's slices are its own."""
    made, runtime = clocked
    runtime.run(lambda _: True)
    runtime._give(runtime._workers["actor/0"], {})
    made.end("actor/0", 3)
    runtime._hear()
    assert runtime.counts() == Counter(env_steps=3)
    runtime._give(runtime._workers["actor/0"], {})
    made.answers["who"] = late = Late()
    runtime._lives.lost("actor/0", PartLostError("it was killed"), 0)
    made.end("actor/0", 2)
    runtime._hear()
    assert runtime.counts() == Counter(env_steps=3)
    assert not any_pending(runtime)
    end = made.clock.now + 1.2 * remote.DEADLINE
    runtime.run(lambda _: made.clock.now > end)  # one that comes back does not stand still
    late.give({"pid": 78, "host": ""})
    runtime._hear()
    assert runtime.counts() == Counter(env_steps=0)
    assert runtime.parts_now()[0].doing == "waiting"
    assert runtime.deaths()[0].lost_steps == 3


# --- Figures --------------------------------------------------------------------------------------


class Hanging(Scripted):
    """Each look takes a tenth of a second, in which one slice ends; one part answers nothing."""

    def __init__(self, clock: Any) -> None:
        turn = itertools.count()
        super().__init__({"actor/0": 1, "actor/1": 1}, lambda n: 3 if n == 4 else next(turn) % n)
        self.clock, self.hangs = clock, ""

    def ask(self, name: str, method: str, *arguments: Any) -> Pending:
        answer = super().ask(name, method, *arguments)
        if name != self.hangs:
            return Known(self.counts(name)) if arguments == ("metrics",) else answer
        self.open.pop(name, None)
        return Late()

    def start(self, part: Part, held: Any, epoch: int) -> None:
        super().start(part, held, epoch)
        self.hangs = ""

    def wait(self, answers: Sequence[Pending], seconds: float) -> None:
        self.clock.now += 0.1
        super().wait(answers, seconds)


@pytest.fixture
def hanging(
    clocked: tuple[Clocked, Remote], monkeypatch: pytest.MonkeyPatch
) -> tuple[Hanging, Remote]:
    monkeypatch.setitem(lives.PATIENCE, "elsewhere", 20.0)
    made = Hanging(clocked[0].clock)
    runtime = Remote(made.program(), made, 60.0)
    runtime.metrics()
    runtime.run(lambda counts: counts["env_steps"] >= 20)
    made.hangs = "actor/1"
    return made, runtime


@pytest.mark.parametrize(
    "look", [Remote.metrics, lambda runtime: runtime.glance("actor/1", "best")]
)
def test_the_others_go_on_while_one_hangs_and_is_asked(
    hanging: tuple[Hanging, Remote], look: Callable[[Remote], object]
) -> None:
    """R7: rows are due meanwhile, and tell of it what was known; who is late is late once."""
    made, runtime = hanging
    done, begin = made.done["actor/0"], made.clock.now

    def until(_: object) -> bool:
        look(runtime)
        return made.epochs["actor/1"] > 0

    runtime.run(until)
    seconds = made.clock.now - begin
    assert seconds < 23
    assert made.done["actor/0"] - done > 3 * (10 * seconds - 30), "all but a second or two"
    assert runtime.glance("actor/1", "counts") == {"env_steps": made.done["actor/1"]}


def test_a_state_is_not_waited_for_with_all_held_while_one_hangs(
    hanging: tuple[Hanging, Remote],
) -> None:
    """R7: not longer than it takes to see that it does; it is taken once that one is back."""
    made, runtime = hanging
    made.asked.clear()
    made.answers["state"] = Known({"x": 1})
    begin = made.clock.now
    assert runtime.whole
    assert runtime.try_state_dict() is None
    assert made.clock.now - begin < 7
    assert not runtime.whole
    made.asked.clear()
    assert runtime.try_state_dict() is None
    assert not made.asked
    state = runtime.state_dict()
    assert state["epochs"]["actor/1"] == 1
    assert 20 < made.clock.now - begin < 23
    assert runtime.whole
    assert (runtime.try_state_dict() or {})["parts"] == state["parts"]


def test_one_that_is_in_a_long_call_of_its_environment_holds_up_no_state(
    hanging: tuple[Hanging, Remote],
) -> None:
    """R8: it may hang, until its deadline."""
    made, runtime = hanging
    made.hangs, begin = "", made.clock.now
    for seconds, whole in ((9.0, True), (11.0, False), (2.0, True)):
        made.answers["pulse"] = Known((seconds, "environment 3: step 8"))
        begin = made.clock.now
        runtime.run(lambda _, begin=begin: made.clock.now > begin + 3)  # type: ignore[misc]
        assert runtime.whole is whole
        assert (runtime.try_state_dict() is not None) is whole


def test_what_one_that_died_was_promised_is_nobodys_until_it_is_counted(
    hanging: tuple[Hanging, Remote],
) -> None:
    """R1: it may have taken all of it; a limit is passed by no more than a turn of each."""
    _, runtime = hanging
    for worker in runtime._workers.values():
        worker.pending = None
    steps = runtime.counts()["env_steps"]
    here, dead = (runtime._workers[name] for name in ("actor/0", "actor/1"))
    runtime._give(dead, {"env_steps": steps + 100})
    assert dead.promised["env_steps"] == dead.counts["env_steps"] + 50
    dead.pending, runtime._lives._known["actor/1"].counted = None, False
    runtime._give(here, {"env_steps": steps + 100})
    assert here.promised["env_steps"] == here.counts["env_steps"] + 25
    here.pending, runtime._lives._known["actor/1"].counted = None, True
    runtime._give(here, {"env_steps": steps + 100})
    assert here.promised["env_steps"] == here.counts["env_steps"] + 50


def test_how_each_part_stands(clocked: tuple[Clocked, Remote]) -> None:
    made, runtime = clocked
    (part,) = runtime.parts_now()
    assert (part.name, part.alive, part.doing, part.pid) == ("actor/0", True, "waiting", 77)
    assert (part.busy, part.rate, part.queue) == (None, None, None)
    runtime.run(lambda _: True)
    runtime._give(runtime._workers["actor/0"], {})
    made.end("actor/0", 3)
    runtime._hear()
    made.clock.now += 4
    (part,) = runtime.parts_now()
    assert (part.doing, part.busy, part.rate, part.unit) == ("working", 0.75, 3.0, "steps/s")
    assert (part.queue, part.queue_bytes, part.seen_seconds) == (2, 99, 4.0)
    assert runtime.counts() == Counter(env_steps=3)


def test_warnings_of_a_part_are_given_here_with_its_name(
    clocked: tuple[Clocked, Remote],
) -> None:
    made, runtime = clocked
    made.warnings = ["an episode was dropped"]
    runtime._give(runtime._workers["actor/0"], {})
    made.end("actor/0", 1)
    with pytest.warns(RuntimeWarning, match="^actor/0: an episode was dropped$"):
        runtime._hear()


# --- Parts in threads -----------------------------------------------------------------------------


class Store:
    """A service that is told of turns, and by which life of whom."""

    def __init__(self) -> None:
        self.told = 0
        self.steps: Counter[tuple[str, int]] = Counter()

    def tell(self, number: int, name: str, epoch: int) -> None:
        self.told += number
        self.steps[name, epoch] += number == 1  # the first of the stores counts

    def steps_from(self, name: str, epoch: int) -> int:
        return self.steps[name, epoch]

    def abandon(self) -> None:
        self.steps.clear()

    def restart_surplus(self) -> None:
        pass

    def state_dict(self) -> dict[str, int]:
        return {"told": self.told}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.told = state["told"]

    def metrics(self) -> dict[str, float]:
        return {"items": float(self.told), "fill": 0.5 * self.told}


class Holds:
    """What a worker holds of stores."""

    def __init__(self, handles: Sequence[Any]) -> None:
        from recollect.messages import Posts

        self.handles, self.posts = handles, Posts()

    def tell(self) -> None:
        for k, handle in enumerate(self.handles):
            self.posts.add(handle.ask("tell", k + 1, *handle.asker))

    def send(self) -> None:
        self.posts.look()

    def flush(self) -> None:
        self.posts.flush()


class Acts:
    """A turn takes a millisecond and tells the stores of it."""

    def __init__(self, name: str, stores: Holds, error: Exception | None = None) -> None:
        self.name, self.stores, self.error, self.turns = name, stores, error, 0
        self.closed, self.epoch = False, 0
        self.began_with: dict[str, int] = {}

    def ready(self) -> bool:
        return True

    def unsent_steps(self) -> int:
        return 0

    def begin_epoch(self, epoch: int) -> None:
        assert self.turns == 0
        self.epoch = epoch

    def go_on_from(self, counts: dict[str, int]) -> None:
        self.began_with, self.turns = dict(counts), counts["env_steps"]

    def state_dict(self) -> dict[str, int]:
        return {"turns": self.turns}

    def step(self) -> None:
        time.sleep(0.001)
        self.turns += 1
        self.stores.tell()
        if self.error is not None and self.turns == 3:
            raise self.error

    def counts(self) -> dict[str, int]:
        return {"updates" if self.name == "learner" else "env_steps": self.turns}

    def metrics(self) -> dict[str, float]:
        return {"lag_updates": 3.0 + int(self.name[-1] == "1"), "turns": 1.0}

    def close(self) -> None:
        self.closed = True


def program(error: Exception | None = None) -> Program:
    held = {"stores": ("replay/0", "replay/1")}

    def acts(name: str, error: Exception | None = None) -> Callable[..., Acts]:
        return lambda stores: Acts(name, stores, error)

    return Program(
        (
            Part("replay/0", REPLAY, Store, far=Far(Holds)),
            Part("replay/1", REPLAY, Store, far=Far(Holds)),
            Part("actor/0", ACTOR, acts("actor/0"), held),
            Part("actor/1", ACTOR, acts("actor/1", error), held),
        ),
        policy=list,
    )


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.close()


def test_a_run_counts_what_its_workers_do_and_closes_them(threads: Threads) -> None:
    runtime = Remote(program(), threads, 60.0)
    assert runtime.counts() == Counter(env_steps=0)
    runtime.run(lambda c: c["env_steps"] >= 50, {"env_steps": 50})
    assert runtime.settle(lambda: False)
    assert runtime.counts()["env_steps"] == 50
    turns = [threads.hosts[f"actor/{i}"].part.turns for i in range(2)]
    assert sum(turns) == 50
    assert min(turns) > 0
    assert [runtime.ask(f"replay/{k}", "metrics")["items"] for k in range(2)] == [50.0, 100.0]
    assert runtime.metrics() == {
        "replay/items": 50.0 + 100.0,  # items of several shards add up
        "replay/fill": (25.0 + 50.0) / 2,
        "actor/lag_updates": 3.5,
        "actor/turns": 1.0,
        "actor/0/lag_updates": 3.0,
        "actor/1/lag_updates": 4.0,
        "faults/deaths": 0,
        "faults/recoveries": 0,
        "faults/lost_steps": 0,
    }
    assert set(runtime.metrics("replay")) == {"replay/items", "replay/fill"}
    assert {part.name: part.lag_updates for part in runtime.parts_now()} == {
        "replay/0": None,
        "replay/1": None,
        "actor/0": 3.0,
        "actor/1": 4.0,
    }
    assert {part.doing for part in runtime.parts_now()[:2]} == {"serving"}
    assert {part.pid for part in runtime.parts_now()} == {os.getpid()}
    runtime.close()
    assert threads.closed
    assert all(threads.hosts[f"actor/{i}"].part.closed for i in range(2))


@pytest.mark.parametrize("error", [EnvError("it exploded"), DivergedError("NaN"), KeyError("x")])
def test_what_a_part_raises_is_raised_here_as_what_it_is(
    threads: Threads, error: Exception
) -> None:
    runtime = Remote(program(error), threads, 60.0)
    with pytest.raises(type(error), match=str(error)) as found:
        runtime.run(never)
    assert found.value.__notes__ == [f"(raised in actor/1 (process {os.getpid()}))"]
    runtime.close()


def test_a_part_that_cannot_be_made_says_why_and_all_others_are_ended(threads: Threads) -> None:
    def fails(stores: Any) -> Any:
        raise EnvError("there is no such environment")

    parts = (*program().parts[:3], Part("actor/1", ACTOR, fails, {"stores": "replay/0"}))
    with pytest.raises(EnvError, match="there is no such environment"):
        Remote(Program(parts, policy=list), threads, 60.0)
    assert threads.closed


def test_a_part_that_is_not_there_in_time_is_named(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "START_SECONDS", 0.05)

    def slow(stores: Any) -> Any:
        time.sleep(0.3)
        return Acts("actor/1", stores)

    parts = (*program().parts[:3], Part("actor/1", ACTOR, slow, {"stores": "replay/0"}))
    with pytest.raises(PartSilentError, match=r"^actor/1: it was not there after 0\.05 s: "):
        Remote(Program(parts, policy=list), threads, 60.0)
    assert threads.closed


def test_a_start_that_is_interrupted_ends_at_once(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to save: nobody waits for the parts that are not there yet."""
    go_on, looks = threading.Event(), iter(range(7))

    def slow(stores: Any) -> Any:
        assert go_on.wait(60.0)
        return Acts("actor/1", stores)

    def look() -> None:
        if next(looks) == 6:  # four are before a part is begun
            go_on.set()
            raise KeyboardInterrupt

    parts = (*program().parts[:3], Part("actor/1", ACTOR, slow, {"stores": "replay/0"}))
    with pytest.raises(KeyboardInterrupt):
        Remote(Program(parts, policy=list), threads, 60.0, look)
    assert threads.closed
    assert threads.asked["actor/1", "close"] == 0


def test_after_an_interruption_no_further_part_is_started() -> None:
    made, looks = Scripted({"actor/0": 1, "actor/1": 1}), iter((False, True))
    started: list[str] = []
    made.start = lambda part, held, epoch: started.append(part.name)  # type: ignore[method-assign]

    def look() -> None:
        if next(looks):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Remote(made.program(), made, 60.0, look)
    assert started == ["actor/0"]
    assert made.closed
