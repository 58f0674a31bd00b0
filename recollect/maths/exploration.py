"""Epsilon-greedy exploration, with another epsilon for every actor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def epsilon_ladder(
    num_actors: int, base: float = 0.4, alpha: float = 7.0
) -> npt.NDArray[np.float64]:
    """epsilon_i = base^(1 + alpha i / (N - 1)), i = 0 .. N - 1: constant for an actor's whole life.

    Args:
        num_actors: N, environment slots of the whole run, not of one process.
        base: the most exploring actor's epsilon, in [0, 1]; 0: nobody explores.
        alpha: how far the ladder reaches down, at least 0; 0 gives all actors `base`.
    Returns:
        [N] epsilons, falling from base to base^(1 + alpha): 0.4 to 0.00066 with the defaults.
    Raises:
        ValueError: num_actors below 1, base outside [0, 1], or alpha below 0.
    Source: Horgan et al. 2018 (Ape-X), section 4.1. The paper leaves N = 1 undefined (0 / 0); we
        give it the ladder's middle, base^(1 + alpha / 2).
    """
    if num_actors < 1:
        raise ValueError(f"num_actors must be at least 1, got {num_actors}: count the slots")
    if not 0 <= base <= 1:
        raise ValueError(f"base must be in [0, 1], got {base}: it is the largest epsilon")
    if not alpha >= 0:
        raise ValueError(f"alpha must be at least 0, got {alpha}: 0 gives all actors base")
    if num_actors == 1:
        return np.array([base ** (1 + alpha / 2)])
    return np.power(base, 1 + alpha * np.arange(num_actors) / (num_actors - 1))


def epsilon_greedy(
    values: npt.NDArray[np.float32],
    epsilon: npt.NDArray[np.float64],
    explore: npt.NDArray[np.float64],
    choice: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Actions a = floor(choice A) where explore < epsilon, else argmax_a values.

    Args:
        values: [E, A] action values.
        epsilon: [E] chance of a random action in each slot; 0 never explores, 1 always does.
        explore: [E] uniforms in [0, 1) that decide whether to explore.
        choice: [E] other uniforms in [0, 1), that choose the random action.
    Returns:
        [E] int64 actions; of equal values the first.
    Source: Horgan et al. 2018 (Ape-X), section 4.1.
    """
    # The product of A and the largest float below 1 still rounds to less than A.
    random = (choice * values.shape[-1]).astype(np.int64)
    actions: npt.NDArray[np.int64] = np.where(explore < epsilon, random, values.argmax(-1))
    return actions
