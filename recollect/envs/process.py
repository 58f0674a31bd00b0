"""One environment process as its parent sees it: started, asked, found hanging or gone, killed."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from recollect.envs.shared import IDLE, VERBS, Board
from recollect.types import ConfigError, EnvError

STARTING = 60.0
"""Seconds a process may take to import what it needs, and to make each environment."""
_GLANCE = 0.25  # seconds between looks at whether a silent process is still there


class Gone(Exception):  # noqa: N818 (no error of ours)
    """A process that hangs or has ended; says how."""


class Process:
    """One worker process and the slots it steps.

    Args:
        job: what it is told first, as JSON.
        board: the shared memory. number: which row of its notes is this one's.
        rows: the slots.
        deadline: seconds that one call of an environment may take.
    """

    def __init__(
        self, job: Mapping[str, Any], board: Board, number: int, rows: slice, deadline: float
    ) -> None:
        self.rows, self.number = range(rows.start, rows.stop), number
        own = {"number": number, "first": rows.start, "slots": len(self.rows)}
        self._job = json.dumps({**job, **own}).encode() + b"\n"
        self._name, self._board, self._deadline = job["env_id"], board, deadline
        self.start()

    def start(self) -> None:
        """Start it, and come back while it is still getting ready."""
        ours, theirs = socket.socketpair()
        main = threading.current_thread() is threading.main_thread()
        # The kernel's signal at a parent's death comes at the death of the thread that started it.
        parent = os.getpid() if main else 0
        numbers = (theirs.fileno(), self._board.fd)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    f"{__package__}.worker",
                    *map(str, (*numbers, parent)),
                ],
                stdin=subprocess.PIPE,
                stdout=2,
                pass_fds=numbers,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "OMP_NUM_THREADS": "1",
                },
            )
        self._line, self._unread = ours, b""
        self._line.settimeout(self._deadline)
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)
        self._made = False
        self._owed = 0  # answers: more than one if we were interrupted while waiting
        self._board.call[self.number] = 0
        with suppress(Gone):  # `ready` finds it
            self.send(self._job)

    def ready(self) -> None:
        """Wait until its environments are made.

        Raises:
            ConfigError, EnvError: they cannot be.
        """
        if self._made:
            return
        try:
            reply = self._answer(max(STARTING, self._deadline))
        except Gone as gone:
            self.end()
            raise EnvError(
                f"environment {self._name}: the process for slots {self.rows.start} to "
                f"{self.rows.stop - 1} could not be started: {gone}"
            ) from None
        if "said" in reply:
            self.end()
            raise (ConfigError if reply["kind"] == "ConfigError" else EnvError)(reply["said"])
        self._made = True

    def send(self, message: bytes) -> None:
        """Give it an order, a line of JSON and what belongs to it.

        Raises:
            Gone: it cannot be given.
        """
        self._sent = monotonic()
        try:
            self._owed += 1
            self._line.sendall(message)
        except OSError:
            raise Gone(self._how_it_ended("its process took no orders")) from None

    def answer(self) -> dict[int, str]:
        """What went wrong in the slots, in answer to the last order.

        Raises:
            Gone: no answer came.
        """
        while self._owed > 1:
            self._answer(self._deadline)
        try:
            return {int(slot): str(what) for slot, what in self._answer(self._deadline).items()}
        except ValueError:
            raise Gone("its process answered with what is no answer") from None

    def busy_with(self) -> tuple[int | None, str]:
        """The slot and verb it noted last, (None, "") between calls."""
        slot, code = self._board.call[self.number].tolist()
        if slot not in self.rows or not 0 < code < len(VERBS):
            return None, IDLE
        return slot, VERBS[code]

    def end(self, patience: float = 0.0) -> None:
        """Kill it and all that it started, after `patience` seconds to end by itself."""
        self._line.close()
        with suppress(subprocess.TimeoutExpired):
            if patience > 0:
                self._process.wait(patience)
        _kill(self._process)

    def leave(self) -> None:
        """Ask it to close its environments and go."""
        with suppress(Gone, OSError):
            self.send(b'{"do": "close"}\n')

    def _answer(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._unread:
            self._await(deadline)
            try:
                some = self._line.recv(1 << 16)
            except OSError:
                some = b""
            if not some:
                raise Gone(self._how_it_ended("its process closed its line"))
            self._unread += some
        message, _, self._unread = self._unread.partition(b"\n")
        self._owed -= 1
        if message == b"{}":
            return {}
        try:
            reply = json.loads(message)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise Gone("its process answered with what is no answer")
        return reply

    def _await(self, deadline: float) -> None:
        """Wait for something to read; the clock starts anew with every call of an environment."""
        late = False
        while True:
            since = max(self._sent, float(self._board.began[self.number]))
            left = since + deadline - monotonic()
            wait = _GLANCE if late else min(max(left, 0), _GLANCE)
            if self._poll.poll(math.ceil(1000 * wait)):
                return
            if self._process.poll() is not None:
                if self._poll.poll(0):
                    return  # its last words
                raise Gone(self._how_it_ended(""))
            if left <= 0 and late:
                _, verb = self.busy_with()
                what = f"hung in {verb}" if verb else "its process did not answer"
                raise Gone(f"{what} for more than {deadline:g} s")
            late = left <= 0  # one more look: it may be we who were held up

    def _how_it_ended(self, otherwise: str) -> str:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return otherwise
        _, verb = self.busy_with()
        where = f" in {verb}" if verb else ""
        if code >= 0:
            return f"its process exited with code {code}{where}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"its process was killed by {name}{where}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process with its whole group, which it leads, and let go of it."""
    assert process.stdin is not None
    if process.stdin.closed:
        return  # its number may be another's by now
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
