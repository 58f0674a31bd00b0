"""What opening and closing a cluster does to Ray and to this process.

These take the module ray as an argument and import nothing of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recollect.runtime.session import environment, replaced
from recollect.runtime.sockets import CannotLookError, born, tree

SECONDS_TO_END = 5.0
COMPLAINTS = 20


@dataclass(frozen=True)
class Node:
    """One machine of a cluster, or one that was: what it has in all, not what is free.

    Attributes:
        address: its IP address.
        cpus, gpus: as Ray counts them, which may differ from what is there.
        memory: bytes for parts.
        store: bytes of its object store, in shared memory.
        custom: what `ray start --resources` named.
    """

    id: str
    address: str
    alive: bool
    cpus: float
    gpus: float
    memory: int
    store: int
    custom: dict[str, float]


def node(entry: dict[str, Any]) -> Node:
    """What Ray says of a node, in our words."""
    given = dict(entry["Resources"])
    amounts = [given.pop(name, 0.0) for name in ("CPU", "GPU", "memory", "object_store_memory")]
    own = ("node:", "accelerator_type:")
    return Node(
        id=entry["NodeID"],
        address=entry["NodeManagerAddress"],
        alive=entry["Alive"],
        cpus=amounts[0],
        gpus=amounts[1],
        memory=int(amounts[2]),
        store=int(amounts[3]),
        custom={name: value for name, value in given.items() if not name.startswith(own)},
    )


def initialise(ray: Any, **how: Any) -> Any:
    """`ray.init`, quietly, with our signals left as they are."""
    with replaced(ray._private.utils, "set_sigterm_handler", lambda handler: None):
        context = ray.init(
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.WARNING,
            _skip_env_hook=True,
            **how,
        )
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        # Below Python's handler Ray put one that prints a trace; this puts Python's on top again.
        signal.signal(signal.SIGTERM, handler)
    return context


@contextlib.contextmanager
def token(ray: Any, text: str) -> Iterator[None]:
    """Ray in this process, and what it starts, has this token, and sends no word home."""
    raylet = ray._raylet

    def read_again() -> None:  # in this order: a thread of Ray's may ask in between
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()

    with contextlib.ExitStack() as stack:
        stack.callback(read_again)
        values = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": text, "RAY_AUTH_TOKEN_PATH": None}
        # One error is told, by us, and not all that come of it.
        values |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_IGNORE_UNHANDLED_ERRORS": "1"}
        stack.enter_context(environment(values))
        read_again()
        yield


@contextlib.contextmanager
def complaints(ray: Any) -> Iterator[deque[str]]:
    """What Ray would print on our stdout."""
    kept: deque[str] = deque(maxlen=COMPLAINTS)

    def keep(data: dict[str, Any], **_: Any) -> None:
        kept.extend(map(str, data["lines"]))

    with replaced(ray._private.worker, "print_to_stdstream", keep):
        yield kept


@contextlib.contextmanager
def ends_with_us(ray: Any, daemons: list[int]) -> Iterator[None]:
    """Shut Ray down at the end, and wait until its daemons and all below them are gone."""
    try:
        yield
    finally:
        ours = {pid: born(pid) for pid in _below(daemons)}
        begun = ray.is_initialized()  # else Ray forgets the daemons that it had started
        ray.shutdown()
        patience = time.monotonic() + (SECONDS_TO_END if begun else 0.0)
        end = patience + SECONDS_TO_END
        while left := [pid for pid, when in ours.items() if when and born(pid) == when]:
            if time.monotonic() > end:
                break
            if time.monotonic() > patience:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _below(daemons: list[int]) -> set[int]:
    """Those of the daemons that are children of ours, and all below them, if that can be told."""
    with contextlib.suppress(CannotLookError):
        living = tree(os.getpid()).intersection(daemons)
        return set().union(*map(tree, living))
    return set()
