"""Environments in processes of their own: the same experience, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from recollect.envs.registry import describe, make
from recollect.types import ConfigError, EnvError
from tests.envs import faulty
from tests.envs.test_faults import ACTIONS, SEEDS, SLOTS

REACH = "tests.envs.faulty:tests/Reach-v0"
pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups")


def experience(env_id, slots, steps, **kwargs):
    """All that a vector gives over some steps, as bytes."""
    rng = np.random.default_rng(0)
    said = []
    with closing(make(env_id, slots, **kwargs)) as env:
        action = env.spec.action

        def keep(observation):
            said.append({key: array.tobytes() for key, array in observation.items()})

        keep(env.reset(np.arange(slots)))
        for t in range(steps):
            if action.discrete:
                actions = rng.integers(0, action.num_actions, slots)
            else:
                actions = rng.uniform(-1, 1, (slots, *action.shape)).astype(np.float32)
            before = actions.copy()
            step = env.step(actions)
            np.testing.assert_array_equal(actions, before)
            assert not step.faults
            keep(step.observation)
            said.append(
                [a.tobytes() for a in (step.reward, step.terminated, step.truncated, step.valid)]
            )
            ended = step.terminated | step.truncated
            if ended.any():
                keep(env.restart(ended, np.arange(slots) + 100 * t))
    return said


@pytest.mark.parametrize("env_id", ["recollect/PositionCartPole-v0", REACH])
def test_processes_give_the_same_bit_for_bit_however_many_they_are(env_id):
    here = experience(env_id, 5, 120)
    for processes in (1, 2, 9):
        assert experience(env_id, 5, 120, processes=processes) == here


def workers(env):
    return [process._process for process in env._env._all]


def gone(pid):
    """Whether a process that is not our child has ended; one not yet collected has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(true, seconds=10.0):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_r8_a_hang_is_killed_within_its_deadline_and_a_second_with_all_it_started(tmp_path):
    """R8."""
    path = tmp_path / "pids"
    kwargs = {"how": "hangs", "path": str(path)}
    with closing(make(faulty.ID, SLOTS, kwargs, processes=2, deadline=1.0)) as env:
        env.reset(SEEDS)
        env.step(ACTIONS)
        env.step(ACTIONS)
        begun = time.monotonic()
        assert "hung in step for more than 1 s" in env.step(ACTIONS).faults[1]
        assert 1.0 <= time.monotonic() - begun <= 2.0
        wait_until(lambda: gone(int(path.read_text())))


def test_a_process_that_dies_between_calls_is_replaced_and_told_of():
    with closing(make(faulty.ID, 4, processes=2)) as env:
        env.reset(np.arange(4))
        victim = workers(env)[1]
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        step = env.step(np.zeros(4, int))
        name = f"environment {faulty.ID}, slot "
        said = "its process was killed by SIGKILL"
        assert step.faults == {
            2: f"{name}2: {said}",
            3: f"{name}3: lost with slot 2 of the same process: {said}",
        }
        assert env.failures == 1
        assert step.observation["observation"][:2].tolist() == [[0, 1], [1, 1]]
        env.restart(np.array([0, 0, 1, 1], bool), np.arange(4))
        assert not env.step(np.zeros(4, int)).faults


def test_a_stopped_process_is_waited_for_until_the_deadline():
    """R7: who is late only, is not at fault; who stays away, is."""
    with closing(make(faulty.ID, 2, processes=2, deadline=1.5)) as env:
        env.reset(np.arange(2))
        pid = workers(env)[0].pid
        os.kill(pid, signal.SIGSTOP)
        with subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {pid}"]):
            assert not env.step(np.zeros(2, int)).faults
        os.kill(pid, signal.SIGSTOP)
        faults = env.step(np.zeros(2, int)).faults
        assert [*faults] == [0]
        assert "slot 0: its process did not answer for more than 1.5 s" in faults[0]


def test_interrupts_do_not_reach_the_environments():
    with closing(make(faulty.ID, 2, processes=1)) as env:
        env.reset(np.arange(2))
        for number in (signal.SIGINT, signal.SIGTERM):
            os.killpg(workers(env)[0].pid, number)
        assert not env.step(np.zeros(2, int)).faults


def test_what_an_environment_prints_goes_to_standard_error(capfd):
    kwargs = {"how": "prints"}
    with closing(make(faulty.ID, SLOTS, kwargs, processes=1)) as env:
        env.reset(SEEDS)
        for _ in range(4):
            assert not env.step(ACTIONS).faults
    said = capfd.readouterr()
    assert said.out == ""
    assert '{"made": false}' in said.err


PARENT = """
import os, sys, time
import numpy as np
from recollect.envs.registry import make
env = make(sys.argv[1], 2, {"how": sys.argv[2], "path": sys.argv[3]}, processes=2)
print(*(process._process.pid for process in env._env._all), flush=True)
env.reset(np.array([7, 7]))
for _ in range(3):
    env.step(np.array([0, 0]))
print("idle", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ["", "hangs"])
def test_r5_nothing_outlives_a_parent_that_is_killed(how, tmp_path):
    """R5: also while the environments hang."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    before = set(os.listdir("/dev/shm"))
    path = tmp_path / "pids"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, faulty.ID, how, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        if how:
            wait_until(lambda: path.is_file() and len(path.read_text().split()) == 2, 20)
        else:
            assert parent.stdout.readline() == "idle\n"
        parent.kill()
    wait_until(lambda: all(map(gone, pids)))
    assert set(os.listdir("/dev/shm")) <= before


def test_closing_ends_the_processes_and_so_does_forgetting():
    env = make(faulty.ID, 2, processes=2)
    processes = workers(env)
    env.close()
    assert [process.returncode for process in processes] == [0, 0]
    env.close()
    env = make(faulty.ID, 2, processes=1)
    (process,) = workers(env)
    del env
    assert process.returncode == -signal.SIGKILL


def test_a_worker_is_light_and_has_one_thread_for_arithmetic():
    code = (
        "import os, sys, recollect.envs.worker; "
        "print('torch' in sys.modules, 'numba' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "False False\n"
    if sys.platform == "linux":
        with closing(make(faulty.ID, 1, processes=1)) as env:
            said = Path(f"/proc/{workers(env)[0].pid}/environ").read_text().split("\0")
            assert "OMP_NUM_THREADS=1" in said


def test_modules_are_imported_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "games_of_here.py").write_text(
        "import gymnasium\n"
        "from recollect.envs.memory import Recall\n"
        "gymnasium.register('Here-v0', entry_point=Recall)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with closing(make("games_of_here:Here-v0", 2, {"delay": 3}, processes=1)) as env:
        assert env.spec == make("games_of_here:Here-v0", 2, {"delay": 3}).spec
        env.reset(np.arange(2))


def test_arguments_and_ids_that_cannot_be_sent_are_refused(monkeypatch):
    monkeypatch.setattr("recollect.envs.registry.describe", lambda *_: describe(faulty.ID))
    for value in ((1, 2), np.zeros(1), faulty.Faulty):
        with pytest.raises(ConfigError, match=r"argument 'size' is \w+, and only text, numbers"):
            make(faulty.ID, 1, {"size": value}, processes=1)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"'tests/Faulty-v0' is registered.*module:Name-v0 impor"):
        make("tests/Faulty-v0", 1, processes=1)
    for wrong in ({"processes": -1}, {"processes": 1, "deadline": 0.0}):
        with pytest.raises(ValueError, match="0 or more and seconds above 0 were wanted"):
            make(faulty.ID, 1, **wrong)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "OSError: the engine stopped"),
        ("sys.exit", "its process exited with code 3 in construction"),
        ("os._exit", "its process exited with code 3 in construction"),
        ("segfaults", "its process was killed by SIGSEGV in construction"),
    ],
)
def test_environments_that_cannot_be_made_there_are_a_typed_error(how, said, monkeypatch):
    monkeypatch.setattr("recollect.envs.registry.describe", lambda *_: describe(faulty.ID))
    kwargs = {"how": how, "verb": "construction"}
    with pytest.raises(EnvError, match=said) as caught:
        make(faulty.ID, 3, kwargs, processes=2)
    assert "\n" not in str(caught.value)


def test_a_replacement_that_cannot_be_started_is_a_typed_error(tmp_path, monkeypatch):
    module = tmp_path / "games_that_go.py"
    module.write_text(
        "import gymnasium\n"
        "from tests.envs.faulty import Faulty\n"
        "gymnasium.register('Goes-v0', entry_point=Faulty)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env_id = "games_that_go:Goes-v0"
    with closing(make(env_id, 2, {"how": "os._exit"}, processes=1)) as env:
        env.reset(np.array([1, 7]))
        env.step(np.zeros(2, int))
        env.step(np.zeros(2, int))
        module.write_text("import no_such_engine\n")
        assert "exited with code 3" in env.step(np.zeros(2, int)).faults[1]
        with pytest.raises(ConfigError, match="needs 'no_such_engine', which is not installed"):
            env.restart(np.ones(2, bool), np.arange(2))


def test_a_wait_that_was_interrupted_leaves_no_answer_behind(monkeypatch):
    with closing(make(faulty.ID, 2, {"how": "raises"}, processes=2)) as env:
        env.reset(np.array([1, 7]))
        env.step(np.zeros(2, int))
        env.step(np.zeros(2, int))  # in the next, slot 1 is at fault
        process = env._env._all[1]

        def interrupt(deadline):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(process, "_await", interrupt)
            with pytest.raises(KeyboardInterrupt):
                env.step(np.array([0, 2]))
        first = env.reset(np.array([3, 4]))["observation"]
        assert first.tolist() == [[3, 0], [4, 0]]
        assert env.step(np.array([0, 2])).reward.tolist() == [-1, 1]
