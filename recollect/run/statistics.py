"""What a set of returns says: mean, median, interquartile mean, and how sure the mean is.

The interval is Student's t. A percentile bootstrap was the alternative: with the three to ten
values that seeds and evaluations give it is too narrow (of three normal values it misses the mean
one time in four), and it needs random numbers. The price of the t interval: for bounded returns it
may reach beyond the bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recollect.types import Array


def summary(returns: Any) -> dict[str, Any]:
    """Statistics of the returns of finished episodes.

    Args:
        returns: [N] returns, finite, N at least 1.
    Returns:
        `return_mean`, `return_median`; `return_iqm`, the mean of what is left when a quarter of the
        values is cut off at either end; `return_ci95`, [low, high] of the mean, both NaN where
        N = 1; `episodes`, N.
    Raises:
        ValueError: if there are none, or one is not finite.
    Source: interquartile mean: Agarwal et al. 2021, "Deep RL at the edge of the statistical
        precipice", section 4.3.
    """
    from scipy.stats import trim_mean

    values = np.asarray(returns, np.float64).reshape(-1)
    if values.size == 0:
        raise ValueError("no returns to summarise: let at least one episode finish")
    if not np.isfinite(values).all():
        raise ValueError(f"returns must be finite, found {values[~np.isfinite(values)][:3]}")
    _, low, high = mean_interval(values)
    return {
        "return_mean": float(values.mean()),
        "return_median": float(np.median(values)),
        "return_iqm": float(trim_mean(values, 0.25)),
        "return_ci95": [float(low), float(high)],
        "episodes": int(values.size),
    }


def mean_interval(values: Array, confidence: float = 0.95) -> tuple[Array, Array, Array]:
    """The mean over the first axis and how sure it is: mean +- t_{N-1} s / sqrt(N).

    Args:
        values: [N, ...] independent draws, N at least 1.
        confidence: how often the interval holds the true mean, in (0, 1).
    Returns:
        mean, low, high, each [...]; low and high are NaN where N = 1: one draw tells nothing of
        its spread.
    Source: Student 1908.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, np.float64)
    count, mean = len(values), values.mean(axis=0)
    if count == 1:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stdtrit(count - 1, (1 + confidence) / 2) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return mean, mean - half, mean + half
