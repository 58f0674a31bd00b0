"""Torsos: from one observation to a vector of features, without memory.

A torso is any `nn.Module` with an int `output_size` whose `forward` takes an observation, a flat
dict of tensors [N, ...], and returns [N, output_size]. N is T * B: torsos know nothing of time.
Images come as bytes, [N, C, H, W], the frames of a stack side by side in C (see `frames`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.types import ArraySpec, ConfigError

NATURE_LEAST = 36
"""Rows and columns below which Nature's convolutions leave nothing."""

Kind = Literal["auto", "nature", "impala", "small"]


def torso(
    observation: Mapping[str, ArraySpec], kind: Kind = "auto", sizes: tuple[int, ...] = (64,)
) -> nn.Module:
    """A torso for an observation of images, words and numbers, each array with its own part.

    Args:
        observation: key -> shape and dtype; images [C, H, W].
        kind: of the convolutions; auto: Nature's, or `Small` for images below 36 x 36.
        sizes: layers of the MLP for what is neither image nor words.
    Raises:
        ConfigError: as the parts'.
    """
    images = {key: spec for key, spec in observation.items() if spec.image}
    texts = {key: spec for key, spec in observation.items() if spec.kind == "text"}
    numbers = {k: spec for k, spec in observation.items() if k not in images and k not in texts}
    if not images and not texts:
        return MLP(observation, sizes)
    parts: list[tuple[str, nn.Module]] = []
    for key, spec in images.items():
        _, height, width = spec.shape
        chosen = (
            kind if kind != "auto" else "small" if min(height, width) < NATURE_LEAST else "nature"
        )
        parts.append((key, CONVOLUTIONS[chosen](spec.shape)))
    parts += [(key, Language()) for key in texts]
    return Parts(parts, MLP(numbers, sizes) if numbers else None)


class Parts(nn.Module):
    """Features of several arrays side by side, each from a module of its own.

    Args:
        parts: (key, module of that array alone with an `output_size`).
        rest: a torso for the arrays that are left, if any are.
    """

    def __init__(self, parts: list[tuple[str, nn.Module]], rest: nn.Module | None) -> None:
        super().__init__()
        self._keys = [key for key, _ in parts]
        self.parts = nn.ModuleList(module for _, module in parts)
        self.rest = rest
        modules = [*self.parts, *([rest] if rest is not None else [])]
        self.output_size = sum(int(module.output_size) for module in modules)

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Map key -> [N, *shape] to [N, output_size] features."""
        features = [
            part(observation[key]) for key, part in zip(self._keys, self.parts, strict=True)
        ]
        if self.rest is not None:
            features.append(self.rest(observation))
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)


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


class _FromBytes(nn.Conv2d):
    """A convolution on bytes as if they were divided by 255: its weights are, which are fewer."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] uint8 (or bool, which is not divided) to [N, C', H', W']."""
        weight = self.weight if x.dtype is torch.bool else self.weight / 255
        device = x.device.type
        fast = torch.is_autocast_enabled(device)
        x = x.to(torch.get_autocast_dtype(device) if fast else weight.dtype)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class _Convolutions(nn.Module):
    """Layers of (filters, rows and columns of each, stride), with ReLU; flattened."""

    def __init__(self, shape: tuple[int, ...], *layers: tuple[int, int, int]) -> None:
        super().__init__()
        channels, *sides = shape
        self.layers = nn.ModuleList()
        for filters, size, stride in layers:
            kind = nn.Conv2d if len(self.layers) else _FromBytes
            self.layers.append(kind(channels, filters, size, stride))
            channels, sides = filters, [(side - size) // stride + 1 for side in sides]
        self.output_size = channels * math.prod(sides)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] bytes to [N, output_size] features."""
        for layer in self.layers:
            x = layer(x).relu_()
        return x.flatten(1)


class Nature(_Convolutions):
    """32 filters of 8 x 8 by 4, 64 of 4 x 4 by 2, 64 of 3 x 3, each with ReLU; flattened.

    Args:
        shape: (C, H, W) of the image.
    Raises:
        ConfigError: an image too small.
    Source: Mnih et al. 2015; Kapturowski et al. 2019 (R2D2), section 2.3.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        _, rows, columns = shape
        if min(rows, columns) < NATURE_LEAST:
            raise ConfigError(
                f"the nature torso wants images of {NATURE_LEAST} x {NATURE_LEAST} and more, this "
                f"one is {rows} x {columns}: set torso to small"
            )
        super().__init__(shape, (32, 8, 4), (64, 4, 2), (64, 3, 1))


class Small(_Convolutions):
    """16, then 32 filters, each with ReLU; flattened.

    Of 8 x 8 by 4 and 4 x 4 by 2, the first DQN's; of 3 x 3 where an image is too small for
    Nature's convolutions.

    Args:
        shape: (C, H, W) of the image, at least 5 x 5.
    Raises:
        ConfigError: an image too small.
    Source: Mnih et al. 2013, section 4.1.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        _, rows, columns = shape
        if min(rows, columns) < 5:
            raise ConfigError(
                f"the small torso wants images of 5 x 5 and more, this one is {rows} x {columns}: "
                "let the environment give it flat, as a row of numbers"
            )
        tiny = min(rows, columns) < NATURE_LEAST
        super().__init__(shape, *([(16, 3, 1), (32, 3, 1)] if tiny else [(16, 8, 4), (32, 4, 2)]))


class Impala(nn.Module):
    """The residual network of IMPALA, 15 convolutions of 3 x 3: the torso of R2D2+.

    Three sections of 16, 32 and 32 filters: a convolution, a maximum over 3 x 3 by 2, and two
    residual blocks x + conv(relu(conv(relu(x)))); then ReLU, flattened.

    Args:
        shape: (C, H, W) of the image.
    Source: Espeholt et al. 2018, figure 3; Kapturowski et al. 2019 (R2D2), R2D2+.
    """

    FILTERS = (16, 32, 32)

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, rows, columns = shape
        self.entries, self.first, self.second = (nn.ModuleList() for _ in range(3))
        for number, filters in enumerate(self.FILTERS):
            kind = nn.Conv2d if number else _FromBytes
            self.entries.append(kind(channels, filters, 3, padding=1))
            for part in (self.first, self.second):
                part.extend(nn.Conv2d(filters, filters, 3, padding=1) for _ in range(2))
            channels, rows, columns = filters, (rows + 1) // 2, (columns + 1) // 2
        self.output_size = channels * rows * columns

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] bytes to [N, output_size] features."""
        for number, entry in enumerate(self.entries):
            x = F.max_pool2d(entry(x), 3, 2, padding=1)
            for block in (2 * number, 2 * number + 1):
                x = x + self.second[block](torch.relu(self.first[block](torch.relu(x))))
        return torch.relu(x).flatten(1)


CONVOLUTIONS: dict[str, type[nn.Module]] = {"nature": Nature, "impala": Impala, "small": Small}


class Language(nn.Module):
    """Words, hashed into buckets, to an embedding of 20 and an LSTM of 64: its output at the last.

    Source: the language module of IMPALA, which R2D2 takes over for four levels (section 2.3).
    """

    BUCKETS, EMBEDDING, HIDDEN = 1000, 20, 64

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.BUCKETS + 1, self.EMBEDDING)
        self.lstm = nn.LSTM(self.EMBEDDING, self.HIDDEN)
        self.output_size = self.HIDDEN

    def forward(self, words: Tensor) -> Tensor:
        """Map [N, L] buckets from 1, 0 where there is no word, to [N, 64]; zeros without a word."""
        y, _ = self.lstm(self.embedding(words.long().t()))  # [L, N, 64]
        count = (words != 0).sum(1)
        last = (count - 1).clamp(min=0)[None, :, None].expand(1, -1, self.HIDDEN)
        return torch.where(count[:, None] > 0, y.gather(0, last)[0], 0)
