"""The emoji gallery as its packages make it."""

import numpy as np
import pytest
import torch

from scops.checkpoints.hub_efficientnet import KEYS
from scops.checkpoints.packages import cached
from scops.demo.concepts import Gallery
from scops.demo.emoji import FLUENT, NOTO, SOURCES, TWEMOJI, emoji
from scops.demo.score import right
from scops.demo.wording import KINDS, at_answer, chinese_answer, name_answer
from scops.encoders.efficientnet import LITE0, MEAN, STD, EfficientNet

pytestmark = pytest.mark.weights

IMAGENET = {
    "lion": 291, "tiger": 292, "zebra": 340, "giant panda": 388, "scorpion": 71, "snail": 113, "hamster": 333, "koala": 105,
    "teapot": 849, "violin": 889, "accordion": 401, "umbrella": 879, "banana": 954, "pineapple": 953, "strawberry": 949,
    "lemon": 951, "broccoli": 937, "pizza": 963, "castle": 483, "saxophone": 776, "scorpius": 71, "cucumber": 943,
}  # fmt: skip
"""Names that emojibase and ImageNet-1k share, with ImageNet's class."""


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    missing = [name for name in SOURCES.values() if cached(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} were not fetched")
    return emoji()


def test_every_concept_has_a_name_of_its_own_a_known_kind_and_a_style_to_train_on(gallery: Gallery) -> None:
    assert len(gallery.concepts) == 1652
    assert len({c.name for c in gallery.concepts}) == len({c.code for c in gallery.concepts}) == 1652
    assert {c.kind for c in gallery.concepts} <= set(KINDS)
    assert all(gallery.styles_of(c) and c.chinese for c in gallery.concepts)
    assert 0.08 < len(gallery.held) / len(gallery.concepts) < 0.12
    owl = next(c for c in gallery.concepts if c.code == "1f989")
    assert (owl.name, owl.kind, owl.chinese, owl.styles) == ("owl", "animal-bird", "猫头鹰", (NOTO, FLUENT, TWEMOJI))
    assert "wise" in owl.tags


def test_every_name_is_read_back_from_its_sentences(gallery: Gallery) -> None:
    for concept in gallery.concepts:
        assert right("name", concept.name, name_answer(concept.name)), concept
        assert right("at", concept.name, at_answer(concept.name)), concept
        assert right("chinese", concept.chinese, chinese_answer(concept.chinese)), concept


def test_drawings_show_something_at_the_size_asked_for(gallery: Gallery) -> None:
    for concept in gallery.concepts[::97]:
        for style in concept.styles:
            drawn = np.asarray(gallery.draw(concept, style, 33))
            assert drawn.shape == (33, 33, 4)
            assert drawn[..., 3].mean() > 10, (concept.name, style)


def test_skin_tones_and_country_flags_are_left_out(gallery: Gallery) -> None:
    codes = {part for concept in gallery.concepts for part in concept.code.split("-")}
    assert not codes & {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff", "1f1e6"}


def test_published_weights_classify_drawings_that_imagenet_knows(gallery: Gallery) -> None:
    """Sees through a wrong preprocessing, channel order or padding, which the functional twin would share."""
    path = cached("efficientnet-lite0")
    if path is None:
        pytest.skip("efficientnet-lite0 was not fetched")
    theirs = torch.load(path, weights_only=True)
    encoder = EfficientNet(LITE0).eval()
    encoder.load_state_dict(KEYS.load(theirs))
    known = [c for c in gallery.concepts if c.name in IMAGENET and FLUENT in c.styles]
    right_ones, first_five = 0, 0
    for concept in known:
        drawn = gallery.draw(concept, FLUENT, 224)
        flat = np.asarray(drawn, np.float32) / 255
        pixels = flat[..., :3] * flat[..., 3:] + (1 - flat[..., 3:])
        normal = torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            classes = torch.nn.functional.linear(encoder(normal).mean(1), theirs["_fc.weight"], theirs["_fc.bias"])
        best = classes[0].topk(5).indices.tolist()
        right_ones += best[0] == IMAGENET[concept.name]
        first_five += IMAGENET[concept.name] in best
    print(right_ones, first_five, len(known))
    assert len(known) >= 15
    assert right_ones >= 0.5 * len(known)
    assert first_five >= 0.7 * len(known)
