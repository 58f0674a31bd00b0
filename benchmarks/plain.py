"""A plain PyTorch R2D2 step: what one writes first, with nothing of recollect in it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Nature's convolutions, 512, LSTM 512, duelling heads of 512."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.actions = actions
        self.torso = nn.Sequential(
            *(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()),
        )
        self.lstm = nn.LSTM(512 + actions + 1, 512)
        self.value = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1))
        self.advantage = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, actions))

    def forward(self, stacks: Tensor, action: Tensor, reward: Tensor, state: Any) -> Any:
        """Unroll over [T, B] steps."""
        T, B = action.shape
        x = self.torso(stacks.flatten(0, 1).float() / 255).view(T, B, -1)
        one_hot = nn.functional.one_hot(action, self.actions).float()
        y, state = self.lstm(torch.cat([x, one_hot, reward[..., None]], -1), state)
        a = self.advantage(y)
        return self.value(y) + a - a.mean(-1, keepdim=True), state


def h(x: Tensor) -> Tensor:
    """The rescaling."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + 1e-3 * x


def inverse_h(x: Tensor) -> Tensor:
    """Its inverse."""
    return x.sign() * ((((1 + 4e-3 * (x.abs() + 1 + 1e-3)).sqrt() - 1) / 2e-3) ** 2 - 1)


class Step:
    """One update of 40 + 80 steps and 5 more for the targets."""

    def __init__(self, actions: int) -> None:
        self.net = Net(actions)
        self.target = copy.deepcopy(self.net)
        self.adam = torch.optim.Adam(self.net.parameters(), 1e-4, eps=1e-3)

    def __call__(self, frames: Tensor, action: Tensor, reward: Tensor, weights: Tensor) -> Tensor:
        """Learn from frames [T + 4, B, 84, 84], action and reward [T + 1, B]; priorities [B]."""
        stacks = torch.stack([frames[k : k + len(action)] for k in range(4)], 2)
        zero = torch.zeros(1, action.shape[1], 512)
        q = []
        for net in (self.net, self.target):
            with torch.no_grad():
                _, state = net(stacks[:40], action[:40], reward[:40], (zero, zero))
            with torch.set_grad_enabled(net is self.net):
                q.append(net(stacks[40:], action[40:], reward[40:], state)[0])
        with torch.no_grad():
            chosen = inverse_h(q[1].gather(2, q[0].argmax(2, keepdim=True))[5:-1, :, 0])
            y = 0.997**5 * chosen + sum(0.997**k * reward[41 + k : 121 + k] for k in range(5))
        errors = h(y) - q[0][:80].gather(2, action[41:121, :, None])[..., 0]
        self.adam.zero_grad()
        (weights * 0.5 * errors.pow(2).sum(0)).mean().backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 40)
        self.adam.step()
        errors = errors.detach().abs()
        return 0.9 * errors.max(0).values + 0.1 * errors.mean(0)
