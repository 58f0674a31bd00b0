"""Images on their way into a network: single frames stacked, channels in front."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recollect.types import ArraySpec, channels_last

_PACKED = 4
_LITTLE = sys.byteorder == "little"


def stacked_specs(observation: Mapping[str, ArraySpec], stack: int) -> dict[str, ArraySpec]:
    """The observation as torsos see it: images [C * stack, H, W], all else as it is."""
    return {
        key: replace(spec, shape=_layout(spec, stack)) if spec.image else spec
        for key, spec in observation.items()
    }


def _layout(spec: ArraySpec, stack: int) -> tuple[int, ...]:
    if len(spec.shape) == 2:
        return (stack, *spec.shape)
    if channels_last(spec.shape):
        height, width, channels = spec.shape
        return (channels * stack, height, width)
    return (spec.shape[0] * stack, *spec.shape[1:])


def flattened(
    observation: Mapping[str, Tensor], specs: Mapping[str, ArraySpec], stack: int
) -> dict[str, Tensor]:
    """Observations over time in the form torsos want.

    Args:
        observation: key -> [stack - 1 + T, B, *shape]: what the network saw at step t is rows
            t .. t + stack - 1 of an image, and the last of these of anything else.
        specs: of one observation, as the environment has it.
        stack: frames seen at once.
    Returns:
        key -> [T * B, C * stack, H, W] for images, the oldest frame first, channels last in memory,
        as convolutions like them; [T * B, *shape] for all else.
    """
    found = {}
    for key, spec in specs.items():
        x = observation[key]
        if not spec.image:
            found[key] = x[stack - 1 :].flatten(0, 1)
        elif len(spec.shape) == 2:
            found[key] = _grey(x, stack)
        else:
            x = x if channels_last(spec.shape) else x.movedim(2, -1)
            steps = len(x) - stack + 1
            rows = torch.cat([x[k : k + steps] for k in range(stack)], -1) if stack > 1 else x
            images = rows.flatten(0, 1).permute(0, 3, 1, 2)
            found[key] = images.contiguous(memory_format=torch.channels_last)
    return found


def _grey(x: Tensor, stack: int) -> Tensor:
    """[stack - 1 + T, B, H, W] frames to [T * B, stack, H, W]."""
    steps, batch, height, width = len(x) - stack + 1, *x.shape[1:]
    if stack == 1:
        return x.reshape(steps * batch, 1, height, width)
    if stack == _PACKED and x.dtype is torch.uint8 and _LITTLE:
        # Four bytes side by side are one whole number: sums of these are far faster than to put
        # single bytes a stride apart.
        wide = x.to(torch.int32)
        pairs = torch.add(wide[:-1], wide[1:], alpha=1 << 8)
        wide = torch.add(pairs[:-2], pairs[2:], alpha=1 << 16)  # [T, B, H, W]
        rows = wide.contiguous().view(torch.uint8).view(steps * batch, height, width, stack)
    else:
        rows = torch.stack([x[k : k + steps] for k in range(stack)], -1).flatten(0, 1)
    return rows.permute(0, 3, 1, 2)
