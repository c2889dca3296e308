"""Both ways to resize: equal shapes, levels within 2 of each other, and a normalisation that is equal to the bit."""

# C channels
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from scops.core.layout import Pixels
from scops.data.image import digest, prepare
from scops.data.resize import normalise, resizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLOSE = 0.035
"""Two levels of 255 after CLIP's normalisation are 0.030, three would be 0.045."""


def photograph(wide: int, high: int, seed: int = 0) -> Image.Image:
    """Large smooth forms and a little noise."""
    dice = np.random.default_rng(seed)
    form = Image.fromarray(dice.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((wide, high), 3)
    levels = np.asarray(form) + dice.normal(0, 4, (high, wide, 3))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def black_and_white(wide: int, high: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 2, (high, wide, 3), dtype=np.uint8) * 255)


def page(wide: int, high: int, seed: int = 0) -> Image.Image:
    """Black letters on white."""
    made = Image.new("RGB", (wide, high), "white")
    for top in range(3, high, 16):
        words = "an owl on a branch " * (wide // 90 + 1)
        ImageDraw.Draw(made).text((seed, top), words, fill="black", font=ImageFont.load_default(12))
    return made


def levels(by: str, resample: str, image: Image.Image, *sizes: tuple[int, int]) -> np.ndarray:
    way = resizer(by, resample)
    made = way.taken(image)
    for size in sizes:
        made = way.resized(made, *size)
    return way.levels(made)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", [photograph, black_and_white, page])
@pytest.mark.parametrize("seed", range(6))
def test_torch_is_within_two_levels_of_rows_first_columns_second(kind, resample: str, seed: int) -> None:
    wide, high, width, height = (int(side) for side in np.random.default_rng(seed).integers(3, 250, 4))
    image = kind(wide, high, seed)
    ours = levels("torch", resample, image, (height, width))
    passes = levels("pillow", resample, image, (high, width), (height, width))
    assert ours.shape == passes.shape == (3, height, width)
    assert ours.dtype == passes.dtype == np.uint8
    assert np.abs(ours.astype(int) - passes).max() <= 2


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(320, 180), (181, 323), (97, 100), (50, 31)])
def test_prepared_photographs_are_close_and_pillow_is_the_default(fit: str, size: tuple[int, int]) -> None:
    image, pixels = photograph(*size), Pixels(56, 56, MEAN, STD, fit=fit)
    assert pixels.resize == "pillow"
    exact, fast = prepare(image, pixels), prepare(image, replace(pixels, resize="torch"))
    assert exact.shape == fast.shape
    assert exact.dtype == fast.dtype == np.float32
    assert 0 < np.abs(exact - fast).max() <= CLOSE


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_torch_takes_pictures_of_any_size(size: tuple[int, int]) -> None:
    for fit in ("stretch", "crop", "pad"):
        made = prepare(black_and_white(*size), Pixels(9, 7 if fit == "stretch" else 9, MEAN, STD, fit, resize="torch"))
        assert made.shape == (3, 9, 7 if fit == "stretch" else 9)


def test_every_level_is_normalised_to_the_bit() -> None:
    levels_CHW = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    wanted = (levels_CHW * (1 / 255)).astype(np.float32)  # what transformers does: float64, then float32
    wanted = (wanted - np.array(MEAN, np.float32)[:, None, None]) / np.array(STD, np.float32)[:, None, None]
    made = normalise(levels_CHW, Pixels(1, 256, MEAN, STD), np.empty(levels_CHW.shape, np.float32))
    np.testing.assert_array_equal(made, wanted)


def test_ways_to_resize_have_digests_of_their_own() -> None:
    image, pixels = photograph(9, 9), Pixels(4, 4, MEAN, STD)
    assert digest(image, pixels) != digest(image, replace(pixels, resize="torch"))


def test_unknown_ways_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="pillow, torch, not 'opencv'"):
        prepare(photograph(9, 9), Pixels(4, 4, MEAN, STD, resize="opencv"))
    with pytest.raises(ValueError, match=r"torch .* cannot resize by an antialiased 'hamming' filter"):
        prepare(photograph(9, 9), Pixels(4, 4, MEAN, STD, resample="hamming", resize="torch"))


def test_pillow_needs_no_torch() -> None:
    code = (
        "import sys; from PIL import Image; from scops.core.layout import Pixels; from scops.data.image import prepare;"
        "prepare(Image.new('RGB', (9, 9)), Pixels(4, 4, (0.5,) * 3, (0.5,) * 3)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
