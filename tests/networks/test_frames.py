"""Frames on their way into a network, against a slow obvious loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recollect.networks import frames
from recollect.networks.frames import flattened, stacked_specs
from recollect.types import ArraySpec, channels_last

IMAGES = {
    "grey": ArraySpec((7, 5), "uint8"),
    "wide": ArraySpec((5, 7), "bool"),
    "last": ArraySpec((6, 5, 3), "uint8"),
    "first": ArraySpec((3, 6, 5), "uint8"),
    "bits": ArraySpec((2, 6, 7), "bool"),
}
OTHERS = {
    "vector": ArraySpec((4,), "float32"),
    "number": ArraySpec((), "int64"),
    "bytes": ArraySpec((9,), "uint8"),
    "words": ArraySpec((6,), "int16", "text"),
}
SPECS = IMAGES | OTHERS


def drawn(steps: int, batch: int, stack: int, seed: int) -> dict[str, Tensor]:
    """What a network is given, of every kind."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for key, spec in SPECS.items():
        shape = (stack - 1 + steps, batch, *spec.shape)
        high = 2 if spec.dtype == "bool" else 256
        x = torch.randint(0, high, shape, generator=generator)
        found[key] = x.to(getattr(torch, spec.dtype))
    return found


def judged(x: Tensor, spec: ArraySpec, steps: int, stack: int) -> Tensor:
    """[T * B, ...]: planes of the oldest frame first; of what is no image, the newest row."""
    rows = []
    for t, b in itertools.product(range(steps), range(x.shape[1])):
        if not spec.image:
            rows.append(x[t + stack - 1, b])
            continue
        planes = []
        for frame in range(stack):
            image = x[t + frame, b]
            if image.dim() == 2:
                planes.append(image)
            elif spec.shape[0] <= 3:
                planes += [image[c] for c in range(spec.shape[0])]
            else:
                planes += [image[:, :, c] for c in range(spec.shape[2])]
        rows.append(torch.stack(planes))
    return torch.stack(rows)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))
def test_every_step_sees_its_stack(steps: int, batch: int, stack: int, seed: int) -> None:
    """Trap 34: the oldest frame first; what is no image comes from the newest row alone."""
    observation = drawn(steps, batch, stack, seed)
    found = flattened(observation, SPECS, stack)
    assert found.keys() == SPECS.keys()
    seen = stacked_specs(SPECS, stack)
    for key, spec in SPECS.items():
        assert torch.equal(found[key], judged(observation[key], spec, steps, stack)), key
        assert found[key].dtype is observation[key].dtype
        assert tuple(found[key].shape) == (steps * batch, *seen[key].shape)
        assert (seen[key].dtype, seen[key].kind) == (spec.dtype, spec.kind)
        if spec.image:
            assert found[key].is_contiguous(memory_format=torch.channels_last), key


def test_four_bytes_at_once_are_the_same_for_all_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the four places takes each of 256 values, among them 255 above bit 31."""
    every = torch.arange(256).repeat(4, 1).flatten()  # [1024]: any four in a row, and wrapped round
    random = torch.randint(0, 256, (1024 * 15,), generator=torch.Generator().manual_seed(1))
    x = torch.cat((every, random)).to(torch.uint8).view(64, 4, 8, 8)
    x[20:24] = 255
    specs = {"observation": ArraySpec((8, 8), "uint8")}
    fast = flattened({"observation": x}, specs, 4)["observation"]
    monkeypatch.setattr(frames, "_LITTLE", False)
    slow = flattened({"observation": x}, specs, 4)["observation"]
    assert torch.equal(fast, slow)
    assert fast.stride() == slow.stride()
    assert (fast[20 * 4] == 255).all()
    for place in range(4):
        assert len(fast[:, place].unique()) == 256


@pytest.mark.parametrize("stack", [1, 3, 4])
def test_it_does_not_matter_how_the_frames_lie_in_memory(stack: int) -> None:
    """As batch-major memory, or a part of a larger batch."""
    observation = drawn(5, 3, stack, 0)
    wanted = flattened(observation, SPECS, stack)
    turned = {k: x.transpose(0, 1).contiguous().transpose(0, 1) for k, x in observation.items()}
    cut = {k: torch.cat((x, x), 1)[:, 3:] for k, x in observation.items()}
    for other in (turned, cut):
        found = flattened(other, SPECS, stack)
        assert all(torch.equal(found[key], wanted[key]) for key in SPECS)


def test_one_grey_frame_alone_is_an_image_of_one_channel() -> None:
    """A stack of one on [H, W] is the same as on [1, H, W]."""
    x = drawn(5, 3, 1, 0)["grey"]
    grey = flattened({"grey": x}, {"grey": IMAGES["grey"]}, 1)["grey"]
    one = {"grey": ArraySpec((1, 7, 5), "uint8")}
    assert torch.equal(flattened({"grey": x[:, :, None]}, one, 1)["grey"], grey)
    assert stacked_specs(one, 1) == stacked_specs({"grey": IMAGES["grey"]}, 1) == one


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((84, 84, 3), True),
        ((7, 7, 3), True),
        ((7, 7, 64), True),
        ((64, 7, 7), False),
        ((84, 84, 1), True),
        ((3, 84, 84), False),
        ((1, 84, 84), False),
        ((4, 60, 80), False),
        ((60, 80, 4), True),
        ((84, 84), False),
    ],
)
def test_where_the_channels_stand(shape: tuple[int, ...], last: bool) -> None:
    assert channels_last(shape) == last
