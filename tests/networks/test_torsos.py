from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recollect.networks.recurrent_q import RecurrentQ
from recollect.networks.torsos import MLP, Impala, Kind, Language, Nature, Small, torso
from recollect.types import ArraySpec, ConfigError

N = 7


def test_arrays_stand_in_the_order_of_their_keys_whatever_order_they_come_in() -> None:
    spec = {"b": ArraySpec((3,)), "a": ArraySpec((2, 2)), "c": ArraySpec((), "int64")}
    torso = MLP(spec, sizes=())
    a, b, c = torch.randn(N, 2, 2), torch.randn(N, 3), torch.arange(N)
    features = torso({"c": c, "b": b, "a": a})
    assert torso.output_size == 4 + 3 + 1
    assert torch.equal(features, torch.cat((a.flatten(1), b, c.float()[:, None]), dim=1))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool", "float32", "float64"])
def test_every_dtype_becomes_float32_unscaled(dtype: str) -> None:
    torso = MLP({"observation": ArraySpec((2,), dtype)}, sizes=())
    x = torch.tensor([[0, 1], [1, 1]], dtype=getattr(torch, dtype))
    features = torso({"observation": x})
    assert features.dtype == torch.float32
    assert features.tolist() == [[0, 1], [1, 1]]


def test_layers_are_linear_then_relu() -> None:
    torso = MLP({"observation": ArraySpec((3,))}, sizes=(5, 4))
    x = torch.randn(N, 3)
    (w0, b0), (w1, b1) = ((layer.weight, layer.bias) for layer in torso.layers)
    expected = (((x @ w0.T + b0).clamp(min=0)) @ w1.T + b1).clamp(min=0)
    assert torso.output_size == 4
    torch.testing.assert_close(torso({"observation": x}), expected)
    assert sum(p.numel() for p in torso.parameters()) == (3 * 5 + 5) + (5 * 4 + 4)


def test_no_rows_give_no_rows() -> None:
    torso = MLP({"observation": ArraySpec((3,))}, sizes=(5,))
    assert torso({"observation": torch.zeros(0, 3)}).shape == (0, 5)


@pytest.mark.parametrize("spec", [{}, {"observation": ArraySpec((0,))}])
def test_an_observation_without_numbers_is_refused(spec: dict[str, ArraySpec]) -> None:
    with pytest.raises(ConfigError, match="at least one number"):
        MLP(spec)


def test_a_layer_without_units_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one unit"):
        MLP({"observation": ArraySpec((3,))}, sizes=(4, 0))


# -- images ----------------------------------------------------------------------------------------


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("kind", [Nature, Impala, Small])
@pytest.mark.parametrize("sides", [(84, 84), (36, 36), (36, 51), (67, 43), (72, 96)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_size_that_is_said_is_the_size_that_comes(
    kind: type[torch.nn.Module], sides: tuple[int, int], channels: int
) -> None:
    torso = kind((channels, *sides))
    with torch.no_grad():
        features = torso(images(2, channels, *sides))
    assert features.shape == (2, torso.output_size)
    assert features.dtype == torch.float32
    assert (features >= 0).all()
    assert (features > 0).any()


@pytest.mark.parametrize("sides", [(5, 5), (7, 7), (5, 9), (8, 6)])
@pytest.mark.parametrize("kind", [Small, Impala])
def test_the_size_of_small_images(kind: type[torch.nn.Module], sides: tuple[int, int]) -> None:
    torso = kind((3, *sides))
    assert torso(images(2, 3, *sides)).shape == (2, torso.output_size)


@pytest.mark.parametrize(
    ("kind", "sides", "message"),
    [
        (Nature, (35, 84), "the nature torso wants images of 36 x 36 and more, this one is 35 x 8"),
        (Nature, (84, 20), "set torso to small"),
        (Small, (5, 4), "the small torso wants images of 5 x 5 and more, this one is 5 x 4"),
    ],
)
def test_an_image_too_small_is_refused(
    kind: type[torch.nn.Module], sides: tuple[int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind((3, *sides))


def test_auto_takes_natures_convolutions_where_they_fit() -> None:
    def chosen(height: int, width: int, kind: Kind = "auto") -> torch.nn.Module:
        return torso({"observation": ArraySpec((4, height, width), "uint8")}, kind).parts[0]

    assert isinstance(chosen(36, 84), Nature)
    assert isinstance(chosen(35, 84), Small)
    assert isinstance(chosen(84, 35), Small)
    assert isinstance(chosen(84, 84, "impala"), Impala)
    assert isinstance(chosen(84, 84, "small"), Small)


def test_bytes_are_divided_by_255() -> None:
    """What is divided is the weights, and it is the same to 1e-6."""
    x = images(3, 4, 84, 84)
    for module in (Nature((4, 84, 84)), Small((4, 84, 84)), Impala((4, 84, 84))):
        first = next(m for m in module.modules() if isinstance(m, torch.nn.Conv2d))
        plain = F.conv2d(x / 255, first.weight, first.bias, first.stride, first.padding)
        torch.testing.assert_close(first(x), plain, atol=1e-6, rtol=1e-5)
        others = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)][1:]
        assert all(type(m) is torch.nn.Conv2d for m in others), "features are not divided"


def test_bits_are_not_divided() -> None:
    bits = images(3, 4, 9, 9) > 127
    first = Small((4, 9, 9)).layers[0]
    plain = F.conv2d(bits.float(), first.weight, first.bias)
    torch.testing.assert_close(first(bits), plain, atol=1e-6, rtol=1e-5)


def test_the_first_convolution_learns_as_if_bytes_had_been_divided() -> None:
    x = images(3, 4, 9, 9)
    first = Small((4, 9, 9)).layers[0]
    first(x).square().sum().backward()
    found = first.weight.grad.clone()
    first.weight.grad = None
    F.conv2d(x / 255, first.weight, first.bias).square().sum().backward()
    torch.testing.assert_close(found, first.weight.grad, atol=1e-4, rtol=1e-4)


def test_bytes_lose_nothing_under_autocast() -> None:
    """Whole numbers to 256 fit bfloat16; what is rounded is weights and sums."""
    x = images(3, 4, 9, 9)
    first = Small((4, 9, 9)).layers[0]
    with torch.autocast("cpu", torch.bfloat16):
        low = first(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), first(x), atol=0.02, rtol=0.02)


def test_natures_convolutions_are_the_papers() -> None:
    """S1-4: 32 of 8 x 8 by 4, 64 of 4 x 4 by 2, 64 of 3 x 3 by 1, each with ReLU."""
    module, x = Nature((4, 84, 84)), images(2, 4, 84, 84)
    y = x / 255
    for layer, (filters, side, stride) in zip(
        module.layers, [(32, 8, 4), (64, 4, 2), (64, 3, 1)], strict=True
    ):
        assert layer.weight.shape[0] == filters
        assert layer.weight.shape[2:] == (side, side)
        y = F.conv2d(y, layer.weight, layer.bias, stride).clamp(min=0)
    torch.testing.assert_close(module(x), y.flatten(1), atol=1e-5, rtol=1e-4)
    assert module.output_size == 64 * 7 * 7


@pytest.mark.parametrize(("pre_core", "millions"), [(512, 4.36), (0, 8.13)])
def test_the_papers_network_has_the_papers_number_of_parameters(
    pre_core: int, millions: float
) -> None:
    """S1-4: four grey frames of 84 x 84 and 18 actions."""
    spec = {"observation": ArraySpec((84, 84), "uint8")}
    with torch.device("meta"):
        net = RecurrentQ(spec, 18, frame_stack=4, pre_core=pre_core)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == millions


def test_impala_is_its_figure_drawn_out_by_hand() -> None:
    """15 convolutions; a section halves, then x + conv(relu(conv(relu(x)))) twice."""
    module, x = Impala((3, 21, 30)), images(2, 3, 21, 30)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in module.modules()) == 15
    weights = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sorted(m.weight.shape[0] for m in weights) == [16] * 5 + [32] * 10

    def conv(layer: torch.nn.Conv2d, y: torch.Tensor) -> torch.Tensor:
        return F.conv2d(y, layer.weight, layer.bias, padding=1)

    y = x / 255
    for section in range(3):
        y = F.pad(conv(module.entries[section], y), (1, 1, 1, 1), value=-torch.inf)
        y = y.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
        for block in (2 * section, 2 * section + 1):
            kept = y
            y = conv(module.first[block], y.clamp(min=0))
            y = kept + conv(module.second[block], y.clamp(min=0))
    y = y.clamp(min=0)
    assert y.shape[1:] == (32, 3, 4)
    torch.testing.assert_close(module(x), y.flatten(1), atol=1e-5, rtol=1e-4)


# -- words -----------------------------------------------------------------------------------------


def words(*rows: list[int]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.int16)


def test_padding_behind_words_does_not_matter() -> None:
    module = Language()
    given = words([3, 7, 1000], [5], [9, 9])
    padded = torch.cat((given, torch.zeros(3, 4, dtype=torch.int16)), 1)
    torch.testing.assert_close(module(padded), module(given))
    for row, sentence in enumerate(([3, 7, 1000], [5], [9, 9])):
        torch.testing.assert_close(module(words(sentence))[0], module(given)[row])


def test_the_output_is_the_lstms_after_the_last_word() -> None:
    module = Language()
    assert module.embedding.weight.shape == (1001, 20)
    y, _ = module.lstm(module.embedding(torch.tensor([3, 7, 1000])))  # [3, 64]
    found = module(words([3, 7, 1000], [3, 7], [3]))
    torch.testing.assert_close(found, y.flip(0))
    assert (found[0] != found[1]).all()


def test_no_words_give_zeros() -> None:
    module = Language()
    found = module(words([0, 0], [4, 0]))
    assert (found[0] == 0).all()
    assert (found[1] != 0).all()
    assert module.output_size == found.shape[1] == 64


def test_gradient_reaches_the_embeddings_of_the_words_that_came() -> None:
    module = Language()
    module(words([3, 7], [5], [0])).square().sum().backward()
    reached = module.embedding.weight.grad.abs().sum(1) > 0
    assert reached.nonzero().flatten().tolist() == [3, 5, 7]


# -- several at once -------------------------------------------------------------------------------

MIXED = {
    "position": ArraySpec((2,)),
    "screen": ArraySpec((4, 40, 36), "uint8"),
    "map": ArraySpec((1, 6, 7), "bool"),
    "told": ArraySpec((5,), "int16", "text"),
    "health": ArraySpec((), "int64"),
}


def test_images_words_and_numbers_stand_side_by_side() -> None:
    module = torso(MIXED, "auto", ())
    given = {
        "health": torch.tensor([100, 7]),
        "told": words([3, 7, 0, 0, 0], [1000, 1, 1, 1, 1]),
        "map": images(2, 1, 6, 7) > 100,
        "screen": images(2, 4, 40, 36),
        "position": torch.randn(2, 2),
    }
    screen, bits, told = module.parts
    assert [type(part) for part in module.parts] == [Nature, Small, Language]
    numbers = torch.cat((given["health"].float()[:, None], given["position"]), 1)
    parts = [screen(given["screen"]), bits(given["map"]), told(given["told"]), numbers]
    found = module(given)
    assert found.shape == (2, module.output_size)
    torch.testing.assert_close(found, torch.cat(parts, 1))


def test_numbers_beside_an_image_go_through_the_layers_that_were_asked_for() -> None:
    module = torso(MIXED, "small", (11,))
    assert module.rest.output_size == 11
    assert isinstance(module.parts[0], Small)


@pytest.mark.parametrize("alone", ["screen", "told"])
def test_one_array_alone(alone: str) -> None:
    module = torso({alone: MIXED[alone]})
    assert module.rest is None
    assert len(module.parts) == 1


def test_an_image_network_sees_text_and_numbers_of_the_newest_row() -> None:
    """Trap 34: of a stack, only images reach back."""
    specs = {
        "screen": ArraySpec((8, 6), "uint8"),
        "told": MIXED["told"],
        "position": MIXED["position"],
    }
    net = RecurrentQ(specs, 3, frame_stack=3, pre_core=0, hidden=8, head_hidden=8)
    observation = {
        "screen": images(2 + 4, 2, 8, 6),
        "told": torch.randint(0, 1000, (2 + 4, 2, 5), dtype=torch.int16),
        "position": torch.randn(2 + 4, 2, 2),
    }
    rest = (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 2), torch.zeros(2, 16))
    q, _ = net(observation, *rest)
    for key in ("told", "position"):
        changed = {**observation, key: observation[key].clone()}
        changed[key][:2] = 1
        assert torch.equal(net(changed, *rest)[0], q)
        changed[key][2] = 1
        assert not torch.equal(net(changed, *rest)[0], q)
    changed = {**observation, "screen": observation["screen"].clone()}
    changed["screen"][0] = 0
    found = net(changed, *rest)[0]
    assert not torch.equal(found[0], q[0])


def test_one_grey_frame_is_seen_as_an_image_of_one_channel() -> None:
    """A stack of one on [H, W] equals the same network on [1, H, W]."""
    sizes = {"pre_core": 6, "hidden": 8, "head_hidden": 8}
    torch.manual_seed(1)
    grey = RecurrentQ({"observation": ArraySpec((8, 6), "uint8")}, 3, **sizes)
    torch.manual_seed(1)
    one = RecurrentQ({"observation": ArraySpec((1, 8, 6), "uint8")}, 3, **sizes)
    x = images(4, 2, 8, 6)
    rest = (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 2), torch.zeros(2, 16))
    for a, b in zip(
        grey({"observation": x}, *rest), one({"observation": x[:, :, None]}, *rest), strict=True
    ):
        assert torch.equal(a, b)
