"""Torsos: from one observation to a vector of features, without memory.

A torso is any `nn.Module` with an int `output_size` whose `forward` takes an observation, a flat
dict of tensors [N, ...], and returns [N, output_size]. N is T * B: torsos know nothing of time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recollect.types import ArraySpec, ConfigError


class MLP(nn.Module):
    """All arrays flattened and put in a row, in the sorted order of their keys, then linear + ReLU.

    Numbers are used as they come: integers become floats, nothing is scaled. Weights and biases
    keep torch's own initialisation, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Args:
        observation: key -> shape and dtype of each array.
        sizes: width of each layer; none passes the row of numbers through.
    Raises:
        ConfigError: an observation without numbers, or a layer without units.
    """

    def __init__(
        self, observation: Mapping[str, ArraySpec], sizes: tuple[int, ...] = (64,)
    ) -> None:
        super().__init__()
        self._lengths = {key: math.prod(observation[key].shape) for key in sorted(observation)}
        width = sum(self._lengths.values())
        if width == 0:
            raise ConfigError(
                f"an MLP wants at least one number to look at, the observation is "
                f"{dict(observation)}: give it an array that is not empty"
            )
        if any(size < 1 for size in sizes):
            raise ConfigError(
                f"an MLP's layers want at least one unit each, sizes is {sizes}: leave out the "
                "empty layer, or give () for none"
            )
        widths = (width, *sizes)
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in itertools.pairwise(widths))
        self.output_size = widths[-1]

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Map key -> [N, *shape] to [N, output_size] features."""
        rows = [
            observation[key].reshape(-1, length).float() for key, length in self._lengths.items()
        ]  # [N, length] each
        x = rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x
