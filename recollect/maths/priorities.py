"""Prioritised replay: a sequence's priority, its chance to be drawn, the correction for it.

Two exponents, not to be confused: `exponent` (alpha, the papers' priority exponent) shapes the
chances, `beta` (the importance-sampling exponent) the correction. R2D2 has 0.9 and 0.6, Ape-X 0.6
and 0.4.
"""

from __future__ import annotations

import math

import torch


def sequence_priority(
    td_errors: torch.Tensor, mask: torch.Tensor, eta: float = 0.9
) -> torch.Tensor:
    """Priorities p = eta max_i |delta_i| + (1 - eta) mean_i |delta_i|, over real steps only.

    With eta = 1 it is the largest error, with eta = 0 the mean. A sequence of one step, which is a
    transition, has p = |delta| for every eta.

    Args:
        td_errors: [T, B] n-step TD errors of the learned steps, as the loss sees them (rescaled).
        mask: [T, B] non-zero for real steps; what stands elsewhere, NaN included, is never read.
        eta: the maximum's share, in [0, 1].
    Returns:
        [B] priorities, 0 for a sequence without a real step.
    Raises:
        ValueError: eta outside [0, 1], or shapes that differ.
    Source: Kapturowski et al. 2019 (R2D2), section 2.3.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}: it is the maximum's share")
    if td_errors.shape != mask.shape:
        raise ValueError(
            f"mask must have the shape {list(td_errors.shape)} of td_errors, got "
            f"{list(mask.shape)}: one entry for each step"
        )
    real = mask.bool()
    errors = torch.where(real, td_errors.abs(), 0)  # [T, B]
    mean = errors.sum(0) / real.sum(0).clamp(min=1)  # [B]
    return eta * errors.amax(0) + (1 - eta) * mean


def sampling_probabilities(priorities: torch.Tensor, exponent: float) -> torch.Tensor:
    """P(i) = p_i^alpha / sum_j p_j^alpha.

    An item of priority 0 is never drawn, whatever alpha: not even at 0, where all others are alike.

    Args:
        priorities: [N] at least 0, finite, one of them positive.
        exponent: alpha: 0 is uniform, 1 proportional; below 0 prefers the small (for eviction).
    Returns:
        [N] probabilities, which add up to 1.
    Raises:
        ValueError: a priority is negative or not finite, or none is positive.
    Source: Schaul et al. 2016, equation 1.
    """
    if not bool(((priorities >= 0) & (priorities < math.inf)).all()):
        raise ValueError(
            "priorities must be finite and at least 0, got one that is not: "
            "look for a loss that diverged"
        )
    positive = priorities > 0
    if not bool(positive.any()):
        raise ValueError("one priority must be positive, got none: there is nothing to draw")
    powers = torch.where(positive, priorities**exponent, 0)
    return powers / powers.sum()


def importance_weights(probabilities: torch.Tensor, size: int, beta: float) -> torch.Tensor:
    """w_i = (1 / (N P(i)))^beta / max_j w_j, the correction for sampling by priority.

    Give it the whole batch: weights normalised over a part of it are another loss in each part.

    Args:
        probabilities: [B] chance each item had of being drawn, in (0, 1], best in float64.
        size: N, items in replay when they were drawn. It cancels; the equation is kept whole.
        beta: 0 corrects nothing, 1 corrects fully.
    Returns:
        [B] weights in (0, 1], the largest exactly 1.
    Raises:
        ValueError: beta outside [0, 1], a probability outside (0, 1], or size below 1.
    Source: Schaul et al. 2016, section 3.4.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}: 0 corrects nothing, 1 fully")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}: count the items in replay")
    least, most = torch.aminmax(probabilities)
    if not (float(least) > 0 and float(most) <= 1):
        raise ValueError(
            f"probabilities must be in (0, 1], got {float(least)} to {float(most)}: divide each "
            "item's mass by the total"
        )
    # The largest weight is that of the least probability, and N cancels. A number over a tensor
    # would be a product with its reciprocal, which is not exactly 1.
    return (least / probabilities) ** beta
