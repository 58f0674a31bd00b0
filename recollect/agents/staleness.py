"""Delta-Q of what is replayed: how stale the recurrent states are that windows begin from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from recollect.maths import staleness
from recollect.types import Array

if TYPE_CHECKING:
    from torch import Tensor

    from recollect.replay.batch import Batch


def delta_q(learner: Any, batch: Batch) -> tuple[Array, Array]:
    """Delta-Q [B] at the first and the last learned step.

    q(h-hat) is unrolled as in learning, q(h) starts each step from the state stored with it.

    Args:
        learner: with `q_values`, `network` and `config`, as R2D2's.
        batch: from replay that keeps the state of every step (`keep_states`).
    Raises:
        RuntimeError: it does not.
    Source: Kapturowski et al. 2019, section 3.
    """
    if batch.states is None:
        raise RuntimeError("Delta-Q needs the state of every step: set keep_states to True")
    part = slice(learner.config.burn_in, len(batch.action))

    def one_step_each(x: Tensor) -> Tensor:
        return x[part].flatten(0, 1)[None]  # [1, T * B, ...]

    with torch.no_grad():
        q_hat, _, fields = learner.q_values(batch)
        q, _ = learner.network(
            {key: one_step_each(x) for key, x in fields["observation"].items()},
            one_step_each(fields["previous_action"]),
            one_step_each(fields["previous_reward"]),
            one_step_each(torch.from_numpy(batch.states))[0],
        )
        learned = fields["learned"][part]
        delta = staleness.delta_q(q_hat[:-1], q[0].unflatten(0, learned.shape), learned)
        first, last = staleness.first_and_last(delta, learned)
    return first.numpy(), last.numpy()
