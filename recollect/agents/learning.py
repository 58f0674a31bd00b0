"""What learners share: one flat vector of parameters, its gradient, and batches as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recollect import states
from recollect.types import Array, DivergedError

if TYPE_CHECKING:
    from torch import Tensor

    from recollect.networks.recurrent_q import QNetwork

ALIGNMENT = 16
"""Floats at a multiple of which each parameter starts (64 bytes: what matrix kernels like best)."""


class FlatParameters:
    """A network's parameters laid into one vector [P], and their gradient into another.

    The network keeps working on views, so that clipping, an optimiser's step, publishing and
    cutting into shards are each one operation on a vector. Gaps between parameters stay zero.
    """

    def __init__(self, network: QNetwork, device: str = "cpu") -> None:
        if isinstance(network, torch.nn.Module):
            network.to(device)
        parameters = list(network.parameters())
        starts, total = [], 0
        for p in parameters:
            starts.append(total)
            total += -(-p.numel() // ALIGNMENT) * ALIGNMENT
        device = device
        self.vector: Tensor = torch.zeros(total, device=device)
        self.gradient: Tensor = torch.zeros(total, device=device)
        for p, start in zip(parameters, starts, strict=True):
            view = self.vector[start : start + p.numel()].view_as(p)
            view.copy_(p.detach())
            p.data = view
            if p.requires_grad:
                p.grad = self.gradient[start : start + p.numel()].view_as(p)

    def load(self, vector: Array) -> None:
        """Overwrite the parameters with `vector` [P].

        Raises:
            ValueError: a vector of another length, as from a network of another size.
        """
        if vector.shape != tuple(self.vector.shape):
            raise ValueError(
                f"these parameters have {vector.size} numbers and the network wants "
                f"{self.vector.numel()}: it was built with other sizes"
            )
        self.vector.copy_(torch.from_numpy(np.array(vector, np.float32)))

    def numpy(self) -> Array:
        """The parameters as an array [P] of its own."""
        return self.vector.detach().cpu().numpy().copy()


@dataclass(frozen=True)
class Gradients:
    """What `gradients` gives: the whole vector [P], clipped, and what else the batch told.

    `priorities` [B] are raw (before any exponent). `figures` are metrics of this one update.
    """

    vector: Tensor
    priorities: Array
    figures: dict[str, float]

    @classmethod
    def of(
        cls, vector: Tensor, priorities: Tensor, figures: Mapping[str, Tensor], **known: float
    ) -> Gradients:
        """From what lies on a device: all but the vector comes from there in one copy."""
        numbers = torch.cat([torch.stack([*figures.values()]), priorities]).cpu()
        named = dict(zip(figures, numbers[: len(figures)].tolist(), strict=True))
        return cls(vector, numbers[len(figures) :].numpy(), named | known)

    @staticmethod
    def means(figures: list[dict[str, float]]) -> dict[str, float]:
        """Means of the figures of some updates; nothing of none."""
        return {k: float(np.mean([f[k] for f in figures])) for k in figures[0]} if figures else {}


class FlatAdam:
    """Adam on one vector of parameters [P], elementwise."""

    def __init__(self, parameters: FlatParameters, learning_rate: float, epsilon: float) -> None:
        self._learning_rate = learning_rate
        self._flat = torch.nn.Parameter(parameters.vector)
        self._adam = torch.optim.Adam([self._flat], lr=learning_rate, eps=epsilon, fused=True)

    def step(self, gradient: Tensor, rate: float = 1.0) -> None:
        """One step along `gradient` [P] with the learning rate times `rate`."""
        self._flat.grad = gradient
        self._adam.param_groups[0]["lr"] = self._learning_rate * rate
        self._adam.step()

    def state_dict(self) -> dict[str, Array]:
        """Steps taken and both moments [P]; empty before the first step."""
        own = self._adam.state.get(self._flat, {})
        return {name: value.detach().cpu().numpy().copy() for name, value in own.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; ValueError, and nothing changed, if it does not fit."""
        loaded = {}
        if state:
            moment, step = np.zeros(self._flat.shape, np.float32), np.zeros((), np.float32)
            likes = {"step": step, "exp_avg": moment, "exp_avg_sq": moment}
            for name, like in likes.items():
                own = torch.from_numpy(states.array(state, name, like))
                loaded[name] = own.to(self._flat.device)
        self._adam.state[self._flat] = loaded


class Skipped:
    """Updates left out because something in them was not finite: `total`, and how many on end."""

    LARGEST_RUN = 10

    def __init__(self) -> None:
        self.total = self.on_end = 0

    def state_dict(self) -> dict[str, int]:
        """Both counts."""
        return {"total": self.total, "on_end": self.on_end}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; ValueError, and nothing changed, if it is damaged."""
        self.total, self.on_end = states.count(state, "total"), states.count(state, "on_end")

    def takes(self, gradients: Gradients, items: Array) -> bool:
        """Whether this update, made of `items` [B] (uids), is left out, and counted.

        Raises:
            DivergedError: it is the tenth on end; it names the items at fault.
        """
        figures = gradients.figures
        if np.isfinite(figures["loss"] + figures["gradient_norm"] + gradients.priorities.sum()):
            self.on_end = 0
            return False
        self.total, self.on_end = self.total + 1, self.on_end + 1
        if self.on_end == self.LARGEST_RUN:
            bad = items[~np.isfinite(gradients.priorities)]
            listed = ", ".join(map(str, bad[:8].tolist())) + (", ..." if len(bad) > 8 else "")
            raise DivergedError(
                f"{self.on_end} updates on end had a loss, gradient or priority that is not finite "
                f"({figures}; in the last one {len(bad)} of {len(items)} items are at fault"
                f"{': ' * bool(listed)}{listed}): lower learning_rate, or scale rewards and "
                "observations down"
            )
        return True


def clip_by_norm(vector: Tensor, largest: float) -> Tensor:
    """Scale `vector` in place so that its Euclidean norm is at most `largest`; that before."""
    norm = vector.norm()
    vector.mul_((largest / norm).clamp(max=1.0))
    return norm


def tensors(value: Any, device: str = "cpu") -> Any:
    """Arrays as tensors, through dicts; shared with the array's memory where the device allows."""
    if isinstance(value, Mapping):
        return {key: tensors(each, device) for key, each in value.items()}
    return torch.from_numpy(value).to(device, non_blocking=True)


def named_arrays(network: QNetwork) -> dict[str, Array]:
    """A network's parameters by name, as arrays of their own: what a checkpoint holds."""
    return {name: p.detach().cpu().numpy().copy() for name, p in network.named_parameters()}


def load_named_arrays(network: QNetwork, arrays: dict[str, Array]) -> None:
    """Overwrite a network's parameters with those of `named_arrays`, in place.

    Raises:
        ValueError: a parameter is missing, left over, or of another shape; it is named.
    """
    parameters = dict(network.named_parameters())
    for name in sorted(parameters.keys() | arrays.keys()):
        wanted = tuple(parameters[name].shape) if name in parameters else "nothing of that name"
        came = arrays[name].shape if name in arrays else "nothing"
        if wanted != came:
            raise ValueError(f"parameter {name!r}: the network wants {wanted}, there is {came}")
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(torch.from_numpy(np.array(arrays[name])))
