"""What Ray says of a death, in a sentence."""

from __future__ import annotations

import pytest

from recollect.runtime import answers


@pytest.mark.parametrize(
    ("rays", "ours"),
    [
        (
            "The actor died unexpectedly before finishing this task.\n\tclass_name: _Actor "
            "The actor is dead because its worker process has died. Worker exit type: X. Worker "
            "exit detail: Worker unexpectedly exits with a connection error code 2. End of file. "
            "Some common causes include: (1) the process was killed by SIGKILL by OOM killer",
            "its process has died: killed from outside, out of memory, or ended by what it ran",
        ),
        (
            "The actor is dead because its worker process has died. Worker exit type: USER_ERROR "
            "Worker exit detail: Task was killed due to the node running low on memory. More.",
            "its process has died: Task was killed due to the node running low on memory",
        ),
        (
            "The actor e8f8 is unavailable: The actor is temporarily unavailable: RpcError: "
            "RPC error: failed to connect to all addresses rpc_code: 14. The task may or may not "
            "have been executed on the actor.",
            "it cannot be reached: Ray's own process on its machine has died, or it is cut off",
        ),
        ("The actor died because its node has died.", "its node has died or is cut off"),
        ("something\n  else " + 300 * "x", "something else " + 185 * "x"),
    ],
)
def test_a_death_is_told_without_rays_numbers(rays: str, ours: str) -> None:
    assert answers.why_lost(RuntimeError(rays)) == ours
