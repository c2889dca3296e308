"""EfficientNet-Lite against a plain functional recomputation from the published keys."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scops.checkpoints.hub_efficientnet import KEYS
from scops.checkpoints.packages import cached
from scops.encoders.efficientnet import LITE0, LITE2, MEAN, STD, EfficientNet, Size, Stack

TINY = Size(
    side=40,
    stem=4,
    stacks=(
        Stack(repeats=1, kernel=3, stride=1, expand=1, width=3),
        Stack(repeats=2, kernel=5, stride=2, expand=2, width=5),
        Stack(repeats=2, kernel=3, stride=2, expand=3, width=6),
    ),
    head=7,
)


def randomised(encoder: EfficientNet) -> EfficientNet:
    for name, value in encoder.state_dict().items():
        if value.is_floating_point():
            value.copy_(
                torch.rand_like(value) + 0.5 if name.endswith(("var", "norm.weight")) else torch.randn_like(value) * 0.3
            )
    return encoder.eval()


def published_forward(state: dict[str, Tensor], pixels: Tensor, size: Size) -> Tensor:
    """The slow twin: no modules, their names, batch norm written out."""

    def norm(x: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{key}.{p}"][:, None, None] for p in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 0.001).sqrt() * weight + bias

    def conv(x: Tensor, key: str, stride: int = 1) -> Tensor:
        weight = state[f"{key}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)

    x = norm(conv(pixels, "_conv_stem", 2), "_bn0").clamp(0, 6)
    strides = [stack.stride if repeat == 0 else 1 for stack in size.stacks for repeat in range(stack.repeats)]
    for index, stride in enumerate(strides):
        key, kept = f"_blocks.{index}.", x
        if key + "_expand_conv.weight" in state:
            x = norm(conv(x, key + "_expand_conv"), key + "_bn0").clamp(0, 6)
        x = norm(conv(x, key + "_depthwise_conv", stride), key + "_bn1").clamp(0, 6)
        x = norm(conv(x, key + "_project_conv"), key + "_bn2")
        x = x + kept if x.shape == kept.shape else x
    return norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (33, 47), (9, 17)])
def test_features_equal_the_functional_twin_row_by_row(height: int, width: int) -> None:
    torch.manual_seed(0)
    encoder = randomised(EfficientNet(TINY))
    pixels = torch.randn(3, 3, height, width)
    grid = published_forward(KEYS.save(encoder.state_dict()), pixels, TINY)
    rows, columns = encoder.grid(height, width)
    assert grid.shape == (3, encoder.width, rows, columns)
    cells = [grid[:, :, r, c] for r in range(rows) for c in range(columns)]
    torch.testing.assert_close(encoder(pixels), torch.stack(cells, 1))


def test_keys_round_trip_bitwise() -> None:
    ours = randomised(EfficientNet(TINY)).state_dict()
    again = KEYS.load(KEYS.save(ours))
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[key], ours[key]) for key in ours)


@pytest.mark.parametrize(("size", "published"), [(LITE0, 4_652_008), (LITE2, 6_092_072)])
def test_published_sizes_have_their_parameters(size: Size, published: int) -> None:
    with torch.device("meta"):
        encoder = EfficientNet(size)
    classifier = 1000 * (encoder.width + 1)
    assert sum(p.numel() for p in encoder.parameters()) == published - classifier
    assert encoder.cell == 32
    assert encoder.grid(224, 161) == (7, 6)


@pytest.mark.weights
@pytest.mark.parametrize(("name", "size"), [("efficientnet-lite0", LITE0), ("efficientnet-lite2", LITE2)])
def test_published_weights_load_and_equal_the_functional_twin(name: str, size: Size) -> None:
    path = cached(name)
    if path is None:
        pytest.skip(f"{name} was not fetched")
    theirs = torch.load(path, weights_only=True)
    encoder = EfficientNet(size)
    encoder.load_state_dict(KEYS.load(theirs), strict=True)
    pixels = torch.rand(1, 3, 160, 128).sub(torch.tensor(MEAN)[:, None, None]).div(torch.tensor(STD)[:, None, None])
    with torch.inference_mode():
        features = encoder.eval()(pixels)
        torch.testing.assert_close(
            features, published_forward(theirs, pixels, size).flatten(2).mT, atol=5e-5, rtol=1e-4
        )
