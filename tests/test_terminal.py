"""A run in a terminal that is closed, as a person closes a window."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import termios
import threading
import time
from pathlib import Path
from typing import Any

from tests import commanded
from tests.commanded import LONG, train


def in_a_terminal(words: list[str]) -> tuple[Any, int]:
    """The command, whose terminal it controls, and the terminal's other end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    code = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from recollect.cli import main; sys.exit(main())"
    )
    process = commanded.python(
        ["-c", code, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**commanded.environment(), "TERM": "xterm"},
    )
    os.close(theirs)
    return process, ours


def test_c7_closing_the_terminal_saves_and_leaves(tmp_path: Path) -> None:
    """C7: the system sends SIGHUP, and whatever is written from then on fails."""
    run = tmp_path / "run"
    process, terminal = in_a_terminal(train(run, "--env-steps", str(LONG)))
    seen: list[bytes] = []

    def read() -> None:
        while not enough.is_set():
            seen.append(os.read(terminal, 65536))

    enough = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    commanded.wait_for_checkpoint(run, process)
    time.sleep(1.0)
    enough.set()
    reader.join()
    os.close(terminal)
    assert process.wait(commanded.SECONDS_TO_LEAVE) == 128 + signal.SIGHUP
    assert b"env steps/s" in b"".join(seen), "the panel was shown"
    status = commanded.status(run)
    assert status["state"] == "preempted"
    assert status["env_steps"] == commanded.saved_steps(run)
