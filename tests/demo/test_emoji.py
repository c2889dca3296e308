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
    "teapot": 849, "umbrella": 879, "balloon": 417, "soccer ball": 805, "accordion": 401, "computer mouse": 673, "candle": 470,
    "hourglass done": 604, "bell pepper": 945, "pretzel": 932, "sunglasses": 837, "necktie": 906, "screwdriver": 784,
    "basketball": 430, "laptop": 620, "ambulance": 407, "violin": 889, "zebra": 340,
}  # fmt: skip
"""Emoji that are drawn much like things of ImageNet-1k look, with its class; drawn animals mostly look like toys to it."""


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
    known = [c for c in gallery.concepts if c.name in IMAGENET and NOTO in c.styles]
    best, first_five = 0, 0
    for concept in known:
        drawn = np.asarray(gallery.draw(concept, NOTO, 224), np.float32) / 255
        on_white = drawn[..., :3] * drawn[..., 3:] + (1 - drawn[..., 3:])
        pixels = torch.from_numpy((on_white - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            scores = torch.nn.functional.linear(encoder(pixels).mean(1), theirs["_fc.weight"], theirs["_fc.bias"])
        ranked = scores[0].topk(5).indices.tolist()
        best += ranked[0] == IMAGENET[concept.name]
        first_five += IMAGENET[concept.name] in ranked
    assert len(known) == len(IMAGENET)
    assert best >= 8
    assert first_five >= 14
