"""Delta-Q: how far a stored recurrent state has drifted from what the network would compute now."""

from __future__ import annotations

import torch


def delta_q(q_unrolled: torch.Tensor, q_stored: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """|| q(h^_{t+i}) - q(h_{t+i}) ||_2 / | max_{a,j} q(h^_{t+j})_a |.

    Both by the same current parameters: h^ is unrolled by them from the sequence's start state,
    h is the state the actor stored at that step. Scaling all values changes nothing.

    Args:
        q_unrolled: [T, B, A] values from the unrolled states h^.
        q_stored: [T, B, A] values from the stored states h.
        mask: [T, B] non-zero for real steps; what stands elsewhere, NaN included, is never read.
    Returns:
        [T, B] discrepancies, 0 at masked steps. Where the largest unrolled value of a sequence is
        exactly 0 the paper's ratio is undefined; we leave the difference undivided, which is finite
        and 0 where the values agree (a network whose last layer is still zero).
    Raises:
        ValueError: shapes that do not fit.
    Source: Kapturowski et al. 2019 (R2D2), section 3.
    """
    if q_unrolled.shape != q_stored.shape or q_unrolled.shape[:-1] != mask.shape:
        raise ValueError(
            "q_unrolled and q_stored must be [T, B, A] and mask [T, B], got "
            f"{list(q_unrolled.shape)}, {list(q_stored.shape)} and {list(mask.shape)}"
        )
    real = mask.bool()
    difference = torch.linalg.vector_norm(q_unrolled - q_stored, dim=-1)  # [T, B]
    largest = torch.where(real, q_unrolled.amax(-1), -torch.inf).amax(0).abs()  # [B]
    return torch.where(real, difference / torch.where(largest == 0, 1, largest), 0)


def first_and_last(delta: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A sequence's values at its first and its last real step, where the paper reports Delta-Q.

    Args:
        delta: [T, B] one value for each step.
        mask: [T, B] non-zero for the steps that are learned from: with a burn-in of l steps before
            m learned ones the first is step l, the last step l + m - 1.
    Returns:
        [B] the first ones, [B] the last ones; 0 for a sequence without a real step.
    Source: Kapturowski et al. 2019 (R2D2), section 3, i = l and i = l + m - 1.
    """
    real = mask.bool()
    values = torch.where(real, delta, 0)
    first = real.byte().argmax(0, keepdim=True)  # [1, B]; argmax gives the first of equals
    last = real.cumsum(0).argmax(0, keepdim=True)  # [1, B]
    return values.gather(0, first).squeeze(0), values.gather(0, last).squeeze(0)
