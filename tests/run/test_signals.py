"""C7: SIGTERM, SIGINT, a second SIGINT."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from recollect.run import signals
from recollect.run.signals import Interrupted, Stop

RUN = """
import os, sys, time
from recollect.run.signals import Interrupted, Stop

def second():
    os.write(1, b"second\\n")
    {second}

with Stop(lambda: os.write(1, b"first\\n"), second) as stop:
    print("ready", flush=True)
    sys.stdin.readline()
print(stop.requested, flush=True)
sys.exit(Interrupted(stop.requested).exit_code)
"""


@pytest.fixture(autouse=True)
def not_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SECONDS_AS_ONE", 0.0)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Signals as they are where nobody, as `nohup` does, has had them ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes with which the process would have left."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(os, "write", lambda *_: 0)
    return codes


def start(second: str = "pass", **options: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN.format(second=second)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    assert says(process) == "ready"
    return process


def says(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_first_signal_is_a_request(name: str, code: int) -> None:
    process = start()
    process.send_signal(signal.Signals[name])
    assert says(process) == "first"
    out, error = process.communicate("\n")
    assert (out, error, process.returncode) == (f"{name}\n", "", code)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGINT", 130), ("SIGINT", "SIGTERM", 143)],
)
def test_the_second_signal_ends_the_process(first: str, second: str, code: int) -> None:
    process = start()
    process.send_signal(signal.Signals[first])
    assert says(process) == "first"
    time.sleep(0.3)
    process.send_signal(signal.Signals[second])
    out, error = process.communicate()
    assert (out, process.returncode) == ("second\n", code)
    assert error == f"\n{second} again: leaving at once, nothing more is saved\n"


@pytest.mark.parametrize("second", ["raise KeyError", "time.sleep(1000)", "sys.exit(7)"])
def test_last_words_that_fail_or_hang_keep_nobody(second: str) -> None:
    process = start(second)
    process.send_signal(signal.SIGINT)
    assert says(process) == "first"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_signal_that_comes_twice_within_a_moment_is_one(
    monkeypatch: pytest.MonkeyPatch, left: list[int]
) -> None:
    """Also of two kinds: a session that ends sends SIGTERM and SIGHUP together."""
    monkeypatch.setattr(signals, "SECONDS_AS_ONE", 60.0)
    with Stop() as stop:
        for name in ("SIGINT", "SIGINT", "SIGTERM"):
            signal.raise_signal(signal.Signals[name])
    assert stop.requested == "SIGINT"
    assert left == []


def test_a_terminal_that_closes_is_no_second_signal(left: list[int]) -> None:
    with Stop() as stop:
        for name in ("SIGINT", "SIGHUP", "SIGHUP"):
            signal.raise_signal(signal.Signals[name])
        assert stop.requested == "SIGINT"
        assert left == []
        signal.raise_signal(signal.SIGTERM)
    assert left == [143]


def test_an_error_of_the_first_call_is_ignored() -> None:
    def fail() -> None:
        raise OSError("No space left on device")

    with Stop(fail) as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.requested == "SIGTERM"


def test_the_former_handlers_come_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with Stop():
        during = [signal.getsignal(number) for number in numbers]
    assert [signal.getsignal(number) for number in numbers] == before
    assert not set(before) & set(during)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyError), Stop():
        raise KeyError
    assert [signal.getsignal(number) for number in numbers] == before


def test_what_nohup_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.requested is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before, during = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with Stop():
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert during == [before]


def test_a_platform_without_sighup_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGHUP")
    with Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.requested == "SIGTERM"


CHILD = """
import os, signal
from recollect.run.signals import Stop
reads, writes = os.pipe()
with Stop() as stop:
    child = os.fork()
    if child == 0:
        os.write(writes, b"ready")  # Python forgets a signal that comes within the fork itself
        signal.sigtimedwait([], 30)
        os._exit(0)
    os.read(reads, 5)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.wait()[1]), stop.requested)
"""


def test_a_forked_child_dies_of_the_first_signal() -> None:
    """An environment's process is ended by SIGTERM; the handler it inherited must not save it."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [str(-signal.SIGTERM), "None"]


def test_interrupted_is_a_keyboard_interrupt_that_knows_its_exit_code() -> None:
    with pytest.raises(KeyboardInterrupt, match="ended by SIGTERM") as raised:
        raise Interrupted("SIGTERM")
    assert isinstance(raised.value, Interrupted)
    assert (raised.value.signal_name, raised.value.exit_code) == ("SIGTERM", 128 + 15)
    assert Interrupted("SIGINT").exit_code == 128 + 2
    assert Interrupted("SIGHUP").exit_code == 128 + 1
