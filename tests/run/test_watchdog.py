"""R8: an environment that hangs in our own process."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from recollect.run.watchdog import Watchdog

HANG = """
import ctypes, os, sys, threading, time
from recollect.run.watchdog import Watchdog

since = time.monotonic()

def on_hang(text):
    os.write(1, text.encode() + b"\\n")
    {on_hang}

def current():
    return (since, "environment X, slot 3: step 41 of episode 7")

def step():
    {step}

with Watchdog(current, {deadline}, on_hang, gil={gil}, advice="mend it"):
    print("ready", flush=True)
    step()
print("came back")
"""

SAID = "environment X, slot 3: step 41 of episode 7 has not come back for 0.4 s"


def start(
    step: str = "time.sleep(1000)", on_hang: str = "pass", deadline: float = 0.4, gil: bool = False
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            HANG.format(step=step, on_hang=on_hang, deadline=deadline, gil=gil),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it said on stdout and stderr."""
    try:
        return process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("gil", [False, True])
def test_a_call_that_does_not_come_back_is_named_and_ends_the_process(gil: bool) -> None:
    """R8."""
    process = start(gil=gil)
    out, error = end(process)
    assert out == f"ready\n{SAID}\n"
    line = HANG.splitlines().index("    {step}") + 1
    assert error == f"recollect: {SAID} (<string>, line {line}): the run ends here: mend it\n"
    assert process.returncode == 1


def test_a_call_that_keeps_pythons_lock_ends_the_process() -> None:
    """R8: no thread of ours runs; the system's timer ends it, and shows where."""
    process = start("ctypes.PyDLL(None).sleep(1000)", gil=True)
    out, error = end(process)
    assert out == "ready\n"
    assert re.search(r"Timeout \(0:00:05\.4.*in step", error, re.DOTALL), error
    assert process.returncode == 1


@pytest.mark.parametrize("on_hang", ["raise KeyError", "sys.exit(7)"])
def test_last_words_that_fail_keep_nobody(on_hang: str) -> None:
    process = start(on_hang=on_hang)
    assert end(process)[0] == f"ready\n{SAID}\n"
    assert process.returncode == 1


@pytest.mark.slow
def test_last_words_that_hang_keep_nobody() -> None:
    process = start(on_hang="time.sleep(1000)", gil=True)
    out, error = end(process)
    assert (out, process.returncode) == (f"ready\n{SAID}\n", 1)
    assert "Timeout" not in error


def test_calls_that_come_back_are_left_in_peace() -> None:
    """Also if there are many and all together they last longer."""
    process = start(
        "global since\n"
        "    for _ in range(20):\n"
        "        since = time.monotonic()\n"
        "        time.sleep(0.1)",
        deadline=1.0,
        gil=True,
    )
    assert end(process) == ("ready\ncame back\n", "")
    assert process.returncode == 0


def test_time_for_which_the_process_was_stopped_does_not_count() -> None:
    process = start("while time.monotonic() < since + 4.5: time.sleep(0.01)", deadline=3.0)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    process.send_signal(signal.SIGCONT)
    assert end(process) == ("came back\n", "")


def test_no_deadline_no_watchdog() -> None:
    before = threading.active_count()
    with Watchdog(lambda: None, 0, print):
        assert threading.active_count() == before


def test_nothing_is_left_of_a_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[str] = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda *_, **__: armed.append("armed")
    )
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: armed.append("off"))
    looked = threading.Event()
    before = threading.active_count()
    watchdog = Watchdog(lambda: looked.set(), 0.04, print)  # type: ignore[arg-type, func-returns-value]
    for _ in range(2):
        looked.clear()
        with watchdog:
            assert looked.wait(60)
        assert threading.active_count() == before
        assert set(armed) == {"armed", "off"}
        assert armed[-1] == "off"


def test_a_look_that_fails_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    looked = []

    def current() -> None:
        looked.append(1)
        raise RuntimeError("dictionary changed size during iteration")

    with Watchdog(current, 0.04, print, gil=False):
        while len(looked) < 10:
            time.sleep(0.01)
    assert codes == []
