"""Reading action values: of the action taken, and of the action to bootstrap from."""

from __future__ import annotations

import torch


def action_values(q: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Q(s, a): from all actions' values, that of the action taken.

    Args:
        q: [..., A] action values.
        a: [...] int64 actions in [0, A); "no action" (-1) is none of them.
    Returns:
        [...] the chosen values.
    Source: Mnih et al. 2015 (DQN).
    """
    return q.gather(-1, a.unsqueeze(-1)).squeeze(-1)  # [..., A], [..., 1] -> [...]


def double_q_bootstrap(q_online_t: torch.Tensor, q_target_t: torch.Tensor) -> torch.Tensor:
    """Q(s', argmax_a Q(s', a; theta); theta^-): the online network chooses, the target judges.

    With the online values in both places this is max_a Q(s', a), ordinary Q-learning.

    Args:
        q_online_t: [..., A] values by the online network theta.
        q_target_t: [..., A] values of the same observations by the target network theta^-.
    Returns:
        [...] the target's values of the online network's best actions (of equals the first).
    Source: van Hasselt et al. 2016; Kapturowski et al. 2019 (R2D2), section 2.3.
    """
    return action_values(q_target_t, q_online_t.argmax(-1))


def half_squared(errors: torch.Tensor, huber: float = 0.0) -> torch.Tensor:
    """The loss of each error: d^2 / 2 where |d| <= huber, huber (|d| - huber / 2) beyond.

    Args:
        errors: [...] differences d, of any sign.
        huber: where the parabola becomes a line; 0: nowhere, l = d^2 / 2 throughout.
    Returns:
        [...] losses of at least 0.
    Source: Horgan et al. 2018, section 3.1 (half squared); Mnih et al. 2015 clip the error at 1,
        which is huber = 1.
    """
    if not huber:
        return 0.5 * errors.square()
    size = errors.abs()
    inside = size.clamp(max=huber)
    return inside * (size - 0.5 * inside)
