"""Where and in which numbers: what auto decides on each kind of machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recollect.agents import computing
from recollect.agents.computing import Compute
from recollect.agents.r2d2 import R2D2Config
from recollect.types import ActionSpec, ArraySpec, ConfigError, EnvSpec

IMAGES = {
    "grey": {"observation": ArraySpec((84, 84), "uint8")},
    "bits and numbers": {"map": ArraySpec((3, 9, 9), "bool"), "health": ArraySpec(())},
}
NUMBERS = {
    "vector": {"observation": ArraySpec((4,))},
    "bytes": {"observation": ArraySpec((128,), "uint8")},
    "a table of floats": {"observation": ArraySpec((84, 84), "float32")},
    "text": {"told": ArraySpec((16,), "int16", "text")},
}


def spec(observation: dict[str, ArraySpec]) -> EnvSpec:
    return EnvSpec("tests/Own-v0", {}, observation, ActionSpec(18))


@pytest.fixture(params=[(False, False), (False, True), (True, False), (True, True)])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    """Whether there are a GPU and a processor that multiplies in bfloat16."""
    gpu, amx = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    return gpu, amx


@pytest.mark.parametrize("kind", IMAGES)
def test_auto_for_images(machine: tuple[bool, bool], kind: str) -> None:
    """A GPU where there is one; bfloat16 where the machine multiplies in it."""
    gpu, amx = machine
    env, device = spec(IMAGES[kind]), "cuda" if gpu else "cpu"
    assert computing.learner(R2D2Config(), env) == Compute(device, gpu or amx)
    assert computing.actor(R2D2Config(), env) == Compute(device, False)
    assert computing.learner(R2D2Config(device="cpu"), env) == Compute("cpu", amx)
    assert computing.actor(R2D2Config(device="cpu"), env) == Compute("cpu")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("kind", NUMBERS)
def test_auto_for_numbers_is_the_processor_in_float32(kind: str) -> None:
    assert computing.learner(R2D2Config(), spec(NUMBERS[kind])) == Compute()
    assert computing.actor(R2D2Config(), spec(NUMBERS[kind])) == Compute()


@pytest.mark.parametrize("observation", [IMAGES["grey"], NUMBERS["vector"]])
def test_what_is_asked_for_is_taken(machine: tuple[bool, bool], observation: Any) -> None:
    gpu, _ = machine
    env = spec(observation)
    for dtype, fast in (("float32", False), ("bfloat16", True)):
        assert computing.learner(R2D2Config(dtype=dtype, device="cpu"), env).bfloat16 == fast
    if gpu:
        config = R2D2Config(device="cuda", actor_device="cpu")
        assert computing.learner(config, env).device == "cuda"
        assert computing.actor(config, env) == Compute("cpu")
        assert computing.actor(R2D2Config(device="cuda"), env) == Compute("cuda")
        config = R2D2Config(device="cpu", actor_device="cuda")
        assert computing.learner(config, env).device == "cpu"
        assert computing.actor(config, env) == Compute("cuda")


def test_a_gpu_that_is_not_there_is_refused_by_the_name_of_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    env = spec(IMAGES["grey"])
    with pytest.raises(ConfigError, match=r"^device is cuda and torch .* sees no GPU: set it to "):
        computing.learner(R2D2Config(device="cuda"), env)
    with pytest.raises(ConfigError, match=r"^device is cuda"):
        computing.actor(R2D2Config(device="cuda"), env)
    config = R2D2Config(actor_device="cuda")
    with pytest.raises(ConfigError, match=r"^actor_device is cuda"):
        computing.actor(config, env)
    assert computing.learner(config, env).device == "cpu"


@pytest.mark.parametrize(
    ("asked", "said", "images", "wanted"),
    [
        (0, None, True, 6),
        (0, None, False, 1),
        (3, None, True, 3),
        (3, None, False, 3),
        (3, "2", True, 3),
        (0, "2", True, 2),
        (0, "2", False, 2),
        (0, "", True, 6),
        (0, "", False, 1),
        (0, "0", True, 1),
        (0, "4,2", True, 1),
    ],
)
def test_threads(
    monkeypatch: pytest.MonkeyPatch, asked: int, said: str | None, images: bool, wanted: int
) -> None:
    """The setting, else OMP_NUM_THREADS, else all processors for images and one for numbers."""
    monkeypatch.setattr(computing, "processors", lambda: 6)
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    env = spec(IMAGES["grey"] if images else NUMBERS["vector"])
    assert computing.threads(asked, env) == wanted


def test_a_torch_that_does_not_tell_of_amx_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert computing.learner(R2D2Config(), spec(IMAGES["grey"])) == Compute("cpu", False)


def test_autocast_is_on_where_bfloat16_is() -> None:
    x = torch.ones(3, 3)
    with Compute("cpu", True).autocast():
        assert (x @ x).dtype == torch.bfloat16
    with Compute().autocast():
        assert (x @ x).dtype == torch.float32
