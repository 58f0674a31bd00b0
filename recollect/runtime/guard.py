"""A small process that outlives ours for a moment, and ends what a cluster of our own left.

The kernel ends Ray's daemons when we are killed, and its workers follow; but two of its agents
then wait 60 s for an answer from the dead. The guard reads lines from standard input: the sessions
(numbers of the processes that lead them) in which Ray's processes live, and at a good end `done`.
If that never came, we are dead: it kills whoever is in these sessions and removes the folder.

It is run as a script of its own, by an interpreter that loads nothing else: 9 MB, asleep.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

DONE = "done"
SECONDS = 8.0
QUIET = 0.5
"""So long nobody was found: a process that was just being started would have been."""


def main() -> None:
    """`guard.py FOLDER`, told of sessions on standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lines = sys.stdin.read().split()
    if lines[-1:] == [DONE]:
        return
    sessions = {int(line) for line in lines}
    now = time.monotonic()
    last, until = now, now + SECONDS
    while now < until and now < last + QUIET:
        if found := members(sessions):
            last = now
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        now = time.monotonic()
    shutil.rmtree(sys.argv[1], ignore_errors=True)


def members(sessions: set[int]) -> list[int]:
    """The living processes of these sessions, where /proc tells."""
    found = []
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                state, _, _, session = file.read().rpartition(b")")[2].split()[:4]
                if int(session) in sessions and state not in (b"Z", b"X"):
                    found.append(int(name))
    return found


if __name__ == "__main__":
    main()
