"""Memory that environment processes share with the process that started them.

It has no name anywhere, only a file descriptor that is handed on, so nothing is left behind
however its users end.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

import gymnasium as gym
import numpy as np

from recollect.envs.slots import CLOSE, MAKE, REPLAY, RESET, STEP, Arrays
from recollect.envs.spaces import Encoder
from recollect.types import Array

IDLE = ""
VERBS = (IDLE, MAKE, RESET, STEP, REPLAY, CLOSE)
_ALIGNMENT = 64

Field = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape of one array."""


def layout(
    encoder: Encoder, action_space: gym.Space[Any], slots: int, processes: int
) -> list[Field]:
    """The arrays in the memory of E = `slots` environments in so many processes."""
    observation = encoder.empty(1).items()
    action = np.dtype(action_space.dtype)
    return [
        *((f"observation/{k}", v.dtype.str, (slots, *v.shape[1:])) for k, v in observation),
        ("reward", "<f8", (slots,)),
        ("terminated", "|b1", (slots,)),
        ("truncated", "|b1", (slots,)),
        ("action", action.str, (slots, *(action_space.shape or ()))),
        ("began", "<f8", (processes,)),  # time.monotonic() of the environment call under way
        ("call", "<i8", (processes, 2)),  # its slot, and its verb in VERBS
    ]


class Board:
    """The arrays of a layout in memory behind a file descriptor.

    Args:
        fields: as `layout` gives them.
        fd: of memory that exists; None makes some. It is kept open until `close`.
    """

    def __init__(self, fields: list[Field], fd: int | None = None) -> None:
        places, size = [], 0
        for _, dtype, shape in fields:
            places.append(size)
            nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            size += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        self.fd = _unnamed(size) if fd is None else fd
        memory = mmap.mmap(self.fd, size)  # lives as long as an array over it
        arrays: dict[str, Array] = {
            name: np.ndarray(shape, dtype, memory, place)
            for (name, dtype, shape), place in zip(fields, places, strict=True)
        }
        self.action, self.began, self.call = arrays["action"], arrays["began"], arrays["call"]
        self.arrays = Arrays(
            {
                name.removeprefix("observation/"): array
                for name, array in arrays.items()
                if name.startswith("observation/")
            },
            arrays["reward"],
            arrays["terminated"],
            arrays["truncated"],
        )

    def rows(self, rows: slice) -> Arrays:
        """The arrays of some slots alone."""
        whole = self.arrays
        return Arrays(
            {key: array[rows] for key, array in whole.observation.items()},
            whole.reward[rows],
            whole.terminated[rows],
            whole.truncated[rows],
        )

    def close(self) -> None:
        """Give up the file descriptor; the arrays stay."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _unnamed(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("recollect-envs")
    else:
        with tempfile.TemporaryFile() as file:  # unlinked from its beginning
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
