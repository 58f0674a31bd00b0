"""Multi-step returns."""

from __future__ import annotations

import torch


def n_step_returns(
    r_t: torch.Tensor,
    discount_t: torch.Tensor,
    v_t: torch.Tensor,
    n: int,
    mask_tm1: torch.Tensor | None = None,
) -> torch.Tensor:
    """G_i = sum_{k<m} (prod_{j<k} d_{i+j}) r_{i+k} + (prod_{j<m} d_{i+j}) v_{i+m-1}.

    m = min(n, steps left): the last steps, which have fewer than n successors, bootstrap from the
    observation after the last real step. A discount of 0 stops the sum wherever it stands; a
    truncated episode has gamma there and bootstraps from its closing observation. n = 1 is the
    one-step target, n >= T the full return.

    To give every learned step its n steps, pass the tail that follows them too and cut the result;
    to shorten n at the window's end instead (as SEED RL does), leave the tail out.

    Args:
        r_t: [T, B] reward of each step.
        discount_t: [T, B] gamma, or 0 where the step terminated.
        v_t: [T, B] value of the observation *after* each step: v_t[i] follows step i.
        n: steps before the bootstrap, at least 1.
        mask_tm1: [T, B] non-zero for real steps, which are one unbroken run in each column; masked
            steps may stand before it (no prefix) and after it (padding), hold anything, NaN
            included, and are never read. None: all are real.
    Returns:
        [T, B] returns, 0 at masked steps.
    Raises:
        ValueError: n < 1, or shapes that are not one and the same [T, B] with T >= 1.
    Source: Sutton and Barto 2018, section 7.1; Horgan et al. 2018 (Ape-X), section 3, and
        Kapturowski et al. 2019 (R2D2), section 2.3. Neither paper speaks of the shortened end.
    """
    _check(r_t, discount_t, v_t, n, mask_tm1)
    if mask_tm1 is None:
        return _sums(r_t, discount_t, v_t, n)
    real = mask_tm1.bool()
    # Beyond the last real step: no reward, no discount, and its value for ever after. A constant n
    # that runs into this gives exactly the return of a shortened n.
    last = real.cumsum(0).argmax(0, keepdim=True)  # [1, B], the first maximum is the last real one
    returns = _sums(
        torch.where(real, r_t, 0),
        torch.where(real, discount_t, 1),
        torch.where(real, v_t, v_t.gather(0, last)),
        n,
    )
    return torch.where(real, returns, 0)


def _sums(r_t: torch.Tensor, d_t: torch.Tensor, v_t: torch.Tensor, n: int) -> torch.Tensor:
    """n-step returns of T real steps, by G^n_i = r_i + d_i G^{n-1}_{i+1}, G^1_i = r_i + d_i v_i."""
    steps = len(r_t)
    returns = torch.addcmul(r_t, d_t, v_t)  # [T, B]
    shortened = []  # the last return of each length: its step has no further successor
    for length in range(steps - 1, steps - min(n, steps), -1):
        shortened.append(returns[-1:])
        returns = torch.addcmul(r_t[:length], d_t[:length], returns[1:])  # [length, B]
    return torch.cat((returns, *reversed(shortened)))  # [T, B]


def _check(
    r_t: torch.Tensor,
    discount_t: torch.Tensor,
    v_t: torch.Tensor,
    n: int,
    mask_tm1: torch.Tensor | None,
) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}: 1 is the one-step target")
    shape = r_t.shape
    if len(shape) != 2 or not shape[0]:
        raise ValueError(f"r_t must be [T, B] with T >= 1, got {list(shape)}: put time first")
    for name, array in (("discount_t", discount_t), ("v_t", v_t), ("mask_tm1", mask_tm1)):
        if array is not None and array.shape != shape:
            raise ValueError(
                f"{name} must have the shape {list(shape)} of r_t, got {list(array.shape)}: "
                "one entry for each step"
            )
