"""What is seen of one environment process, and what a slot that was lost costs: no more than once.

Faults that come between two looks, which happen seldom and are made to happen here.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from recollect.envs import process as processes
from recollect.envs.process import Gone
from recollect.envs.registry import make
from recollect.envs.supervise import _end_all
from recollect.types import EnvError
from tests.envs import faulty
from tests.envs.test_faults import ACTIONS, ONE, SEEDS, SLOTS

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups")
LOST = np.array([False, False, True])


class Looks:
    """A process as it is seen: the first looks find nothing, whatever happens during them."""

    def __init__(self, process, *during):
        self._poll, self.during = process._poll, [*during]
        process._poll = self

    def poll(self, _):
        if self.during:
            self.during.pop(0)()
            return []
        return self._poll.poll(30_000)


@pytest.mark.parametrize("again", ["restart", "put back"])
def test_a_slot_lost_outside_a_step_that_began_again_is_not_at_fault(again):
    """Slot 2 goes with slot 1, whose process exits in a reset."""
    kwargs = {"how": "os._exit", "verb": "reset"}
    with closing(make(faulty.ID, SLOTS, kwargs, processes=2)) as env:
        env.reset(SEEDS + 20)
        env.step(ACTIONS)
        state = env.state_dict()
        with pytest.warns(RuntimeWarning, match="slot 1: its process exited with code 3 in reset"):
            env.restart(ONE, SEEDS)
        if again == "restart":
            env.restart(LOST, SEEDS)
        else:
            assert env.load_state_dict(state) == {}
        assert not env.step(ACTIONS).faults


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_nothing_of_the_episode_before_is_left_in_a_slot_whose_process_went(ends):
    kwargs = {} if ends == "terminated" else {"max_episode_steps": 2}
    with closing(make(faulty.ID, 1, kwargs, processes=1)) as env:
        env.reset(np.array([3]))
        step = env.step(np.array([2]))
        while not getattr(step, ends)[0]:
            step = env.step(np.array([2]))
        env.restart(np.array([True]), np.array([4]))
        (process,) = env._env._all
        os.kill(process._process.pid, signal.SIGKILL)
        step = env.step(np.array([2]))
        assert [*step.faults] == [0]
        assert [step.reward[0], step.terminated[0], step.truncated[0]] == [0, False, False]


def test_a_new_process_is_not_blamed_for_what_the_old_one_did(tmp_path, monkeypatch):
    module = tmp_path / "games_that_exit.py"
    module.write_text(
        "import gymnasium\n"
        "from tests.envs.faulty import Faulty\n"
        "gymnasium.register('Exits-v0', entry_point=Faulty)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with closing(make("games_that_exit:Exits-v0", 1, {"how": "os._exit"}, processes=1)) as env:
        env.reset(np.array([7]))
        env.step(np.zeros(1, int))
        env.step(np.zeros(1, int))
        module.write_text("import os\nos._exit(4)\n")
        assert "exited with code 3 in step" in env.step(np.zeros(1, int)).faults[0]
        with pytest.raises(EnvError, match=r"could not be started: .* exited with code 4$"):
            env.restart(np.array([True]), np.array([1]))


def test_a_trainer_that_was_itself_stopped_looks_once_more(monkeypatch):
    """It wakes up past the deadline, and its environments were stopped with it."""
    late = [0.0]
    monkeypatch.setattr(processes, "monotonic", lambda: time.monotonic() + late[0])
    with closing(make(faulty.ID, 1, processes=1, deadline=60)) as env:
        env.reset(np.array([3]))
        looks = Looks(env._env._all[0], lambda: late.append(late.pop() + 1000), lambda: None)
        assert not env.step(np.zeros(1, int)).faults
        assert not looks.during


def test_an_answer_that_came_before_the_end_counts():
    with closing(make(faulty.ID, 1, processes=1)) as env:
        env.reset(np.array([3]))
        (process,) = env._env._all

        def answers_and_dies():
            assert poll.poll(30_000)
            os.kill(process._process.pid, signal.SIGKILL)
            process._process.wait()

        poll = process._poll
        Looks(process, answers_and_dies)
        step = env.step(np.array([2]))
        assert not step.faults
        assert step.reward[0] == 1
        assert "killed by SIGKILL" in env.step(np.array([2])).faults[0]


def test_a_deadline_that_is_longer_than_a_start_may_take_holds_for_it_too(monkeypatch):
    monkeypatch.setattr(processes, "STARTING", 0.0)
    monkeypatch.setattr(processes, "_GLANCE", 0.01)
    make(faulty.ID, 1, processes=1, deadline=60).close()


def test_an_order_that_is_never_taken_ends():
    """A stopped process reads nothing, and the order is more than a socket holds."""
    with closing(make(faulty.ID, 1, processes=1, deadline=0.1)) as env:
        (process,) = env._env._all
        os.kill(process._process.pid, signal.SIGSTOP)
        rescue = threading.Timer(20, process._process.kill)  # or a failure would not end
        rescue.start()
        try:
            with pytest.raises(Gone, match="its process took no orders"):
                process.send(bytes(1 << 24))
        finally:
            rescue.cancel()
            process._process.kill()


def test_a_fork_that_exits_leaves_the_processes_alone():
    with closing(make(faulty.ID, 1, processes=1)) as env:
        env.reset(np.array([3]))
        _end_all(env._env._all, env._env._board, owner=os.getppid())
        assert not env.step(np.zeros(1, int)).faults


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_meant_for_the_run_ends_no_process_of_environments(number):
    """A terminal or a scheduler may signal all of them; the run decides when they end."""
    with closing(make(faulty.ID, SLOTS, {}, processes=1)) as env:
        env.reset(SEEDS + 20)
        os.kill(env._env._all[0]._process.pid, number)
        for _ in range(3):
            assert not env.step(ACTIONS).faults
