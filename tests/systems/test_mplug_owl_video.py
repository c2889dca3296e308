"""mPLUG-Owl for videos against goldens of X-PLUG/mPLUG-Owl, mplug_owl_video."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import scops
from scops.core.batch import Example, Tiles
from scops.core.layout import WHOLE, Slot
from scops.data.messages import sample_of
from scops.model import Model
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import mplug_owl, mplug_owl_video
from tests import tiny
from tests.conftest import Golden, batch_of, close, example, randomise
from tests.data.test_documents import pdf
from tests.films import film
from tests.twins import (
    cache_of,
    cached_equals_recompute,
    come_back_bitwise,
    published,
    rows_stand_alone,
    shared_equals_recompute,
)

FULL = mplug_owl_video.SIZES["mplug-owl-llama-7b-video"]
TINY = mplug_owl_video.Spec(
    mplug_owl.VitSpec(dim=24, hidden=40, layers=2, heads=3, image=14, patch=7, eps=1e-6),
    mplug_owl.AbstractorSpec(dim=24, hidden=256, layers=2, heads=3, queries=3),
    mplug_owl.LlamaSpec(dim=24, hidden=36, layers=2, heads=4, kv_heads=2, vocab=53),
    frames=3,
)
ROOM = 4


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("owl1_video")


@pytest.fixture(scope="module")
def spec(golden: Golden) -> mplug_owl_video.Spec:
    return mplug_owl_video.spec_of(golden.config | {"model_type": "mplug-owl"})


@pytest.fixture(scope="module")
def system(golden: Golden, spec: mplug_owl_video.Spec) -> MultimodalDecoder:
    return published(mplug_owl_video, spec, golden.weights)


def frames(golden: Golden) -> Tensor:
    """(M, T, C, H, W)"""
    return golden.inputs["video_pixel_values"].transpose(1, 2)


def tiles(*counts: int) -> Tiles:
    return Tiles.of([(WHOLE,) * count for count in counts])


@torch.no_grad()
def test_pictures_pass_the_tower_and_the_abstractor_as_published(golden: Golden, system: MultimodalDecoder) -> None:
    features_IPD = system.image.encoder(golden.inputs["pixel_values"], tiles(1, 1))
    assert close(features_IPD[:, None], golden.outputs["image_vision_last_hidden_state"])
    made = system.image.connector(features_IPD, tiles(1, 1))
    assert close(made, golden.outputs["image_abstractor_last_hidden_state"])


@torch.no_grad()
def test_clips_pass_the_tower_and_the_abstractor_as_published(golden: Golden, system: MultimodalDecoder) -> None:
    features_IPD = system.image.encoder(frames(golden).flatten(0, 1), tiles(3, 3))
    assert close(features_IPD.unflatten(0, (2, 3)), golden.outputs["video_vision_last_hidden_state"])
    made = system.image.connector(features_IPD, tiles(3, 3))
    assert close(made, golden.outputs["video_abstractor_last_hidden_state"])


@torch.no_grad()
def test_the_text_with_a_clip_is_as_published(golden: Golden, system: MultimodalDecoder) -> None:
    ids = golden.inputs["video_input_ids"][0]
    (start, *_), length = torch.nonzero(ids < 0)[:, 0].tolist(), int((ids < 0).sum())
    clip = example(ids.clamp(min=0).tolist(), ((start, length, (WHOLE,) * 3),), list(frames(golden)[0]))
    assert close(system.read(batch_of(clip))[0], golden.outputs["video_inputs_embeds"])
    assert close(system(batch_of(clip)), golden.outputs["video_logits"])


@torch.no_grad()
def test_pictures_and_clips_of_any_length_are_made_together_as_alone(golden: Golden, system: MultimodalDecoder) -> None:
    clips, pictures = frames(golden), golden.inputs["pixel_values"]
    items = [pictures[:1], clips[0], clips[1, :2], pictures[1:], clips[1]]
    counts = [len(item) for item in items]
    features = system.image.encoder(torch.cat(items), tiles(*counts))
    tokens = system.image.connector(features, tiles(*counts))
    for item, made, token in zip(items, features.split(counts), tokens, strict=True):
        alone = system.image.encoder(item, tiles(len(item)))
        assert close(made, alone)
        assert close(token, system.image.connector(alone, tiles(len(item)))[0])
    assert close(tokens[1], golden.outputs["video_abstractor_last_hidden_state"][0])
    assert close(tokens[3], golden.outputs["image_abstractor_last_hidden_state"][1])


def test_keys_round_trip_bitwise(golden: Golden, spec: mplug_owl_video.Spec) -> None:
    assert come_back_bitwise(mplug_owl_video.KEYS["authors"](spec), golden.weights, but="inv_freq")


def test_full_size_has_the_published_count_and_shapes() -> None:
    with torch.device("meta"):
        full = mplug_owl_video.build(FULL)
    assert sum(p.numel() for p in full.parameters()) == 7_152_633_856
    shapes = {n: tuple(t.shape) for n, t in mplug_owl_video.KEYS["authors"](FULL).save(full.state_dict()).items()}
    layer = "vision_model.encoder.layers.23.temporal."
    assert shapes[layer + "ln.weight"] == (1024,)
    assert shapes[layer + "down_proj.weight"] == (512, 1024, 1, 1, 1)
    assert shapes[layer + "conv.weight"] == (512, 1, 3, 1, 1)
    assert shapes[layer + "up_proj.weight"] == (1024, 512, 1, 1, 1)
    assert shapes["temporal_query_tokens"] == (1, 64, 1024)
    assert shapes["abstractor.temporal_visual_fc.weight"] == (4096, 1024)
    assert shapes["query_tokens"] == (1, 64, 1024)


@pytest.mark.parametrize(("said", "built"), [(2816, 2816), (4096, 2816), (96, 256), (1000, 768)])
def test_the_abstractor_s_width_follows_the_published_rule(said: int, built: int) -> None:
    config = mplug_owl.config_of(FULL.of_pictures)
    config["visual_abstractor_config"]["intermediate_size"] = said
    spec = mplug_owl_video.spec_of(config)
    assert spec.abstractor.hidden == built
    assert mplug_owl_video.spec_of(json.loads(json.dumps(mplug_owl_video.config_of(spec)))) == spec


def test_a_width_that_the_rule_never_gives_is_refused() -> None:
    with pytest.raises(ValueError, match="only multiples of 256 for the abstractor, not 20"):
        mplug_owl_video.config_of(replace(TINY, abstractor=replace(TINY.abstractor, hidden=20)))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17, 100, 1001])
def test_frames_are_chosen_as_published(count: int) -> None:
    share = float(count - 1) / 4
    expected = np.array([int(share / 2) + int(np.round(share * number)) for number in range(4)])
    chosen = mplug_owl_video.Evenly(4)(count, 25.0)
    assert chosen == tuple(expected)
    assert all(0 <= number < count for number in chosen)


def test_pictures_and_clips_take_as_many_tokens_of_one_input() -> None:
    media = mplug_owl_video.layout(FULL).media
    assert media["video"].arrange((0.0, 1.0, 2.0, 3.0)) == (Slot("image", 65, (WHOLE,) * 4),)
    assert media["image"].tokens == media["video"].tokens == 65


def rows() -> dict[str, Example]:
    """Clips of (frames, frames ...) and pictures (1) first, last, adjacent, of several lengths, or none."""

    def one(ids: list[int], *items: tuple[int, int]) -> Example:
        spans = tuple((start, ROOM, (WHOLE,) * count) for start, count in items)
        made = example(ids, spans, [torch.randn(3, 14, 14) for _ in range(sum(count for _, count in items))])
        return replace(made, digests={})

    room = [0] * ROOM
    return {
        "clip first": one([*room, 5, 6, 7], (0, 3)),
        "clip last": one([1, 9, 8, 7, *room], (4, 2)),
        "adjacent": one([1, 3, *room, *room, 4], (2, 1), (6, 3)),
        "three": one([1, *room, 2, 3, *room, 4, *room, 8], (1, 3), (7, 1), (12, 5)),
        "none": one([1, 2, 3, 4, 5]),
        "alone": one(room, (0, 2)),
    }


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone() -> None:
    assert rows_stand_alone(randomise(mplug_owl_video.build(TINY)), rows())


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_equal_recomputing(cache: type) -> None:
    system, examples = randomise(mplug_owl_video.build(TINY)), list(rows().values())
    assert cached_equals_recompute(system, examples, cache_of(cache, len(examples)))


@torch.no_grad()
def test_the_shared_session_equals_recomputing() -> None:
    system, examples = randomise(mplug_owl_video.build(TINY)), list(rows().values())
    assert shared_equals_recompute(system, examples, tokens=300, page=3, most=4)


@torch.no_grad()
def test_every_frame_and_their_order_reach_the_text() -> None:
    system, one = randomise(mplug_owl_video.build(TINY)), rows()["clip first"]
    before = system(batch_of(one))[0, -1]
    pictures = one.media["image"]
    others = [tuple(reversed(pictures))]
    for changed in range(3):
        others.append(tuple(p if at != changed else p + 1 for at, p in enumerate(pictures)))
    for other in others:
        after = system(batch_of(replace(one, media={"image": other})))[0, -1]
        assert (after - before).abs().max() > 1e-3


# From a file to an answer ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Model:
    made = tiny.mplug_video()
    with torch.no_grad():
        for project in (made.module.image.connector.abstractor.project, made.module.image.connector.project):
            project.weight *= 30  # random pictures speak softly
    return made


def test_a_video_a_picture_and_a_document_are_asked_about(model: Model, tmp_path: Path) -> None:
    clip, report = tmp_path / "a.mp4", tmp_path / "report.pdf"
    content = film(clip, 9, size=(40, 50))
    pdf(report)
    asks = [
        ["what is this?", [clip]],
        ["what is this?", [tiny.picture(), clip]],
        ["what is this?", [report]],
        ["what is this?", [f"{report}#page=2"]],
    ]
    said = [model.chat(words, media, max_tokens=8) for words, media in asks]
    assert len(set(said)) > 1
    assert model.chat("what is this?", videos=[content], max_tokens=8) == said[0]
    assert model.chat([clip, "what is this?"], max_tokens=8) == said[0]
    typed = [{"type": "video", "video": str(clip)}, {"type": "text", "text": "what is this?"}]
    assert model.chat([{"role": "user", "content": typed}], max_tokens=8) == said[0]
    assert model.generate([[clip, "what is this?"], ["hm"], [report, "what is this?"]], max_tokens=8)[::2] == said[::2]


def test_another_clip_changes_what_is_read(model: Model, tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 9)
    film(tmp_path / "b.mp4", 9, turned=180)
    made = [model.processor(sample_of("hm", [tmp_path / name]), reply=True) for name in ("a.mp4", "b.mp4")]
    with torch.no_grad():
        first, second = (model.module(batch_of(one))[0, -1] for one in made)
    assert (first - second).abs().max() > 1e-3


def test_a_folder_says_which_of_the_two_systems_it_is_by_its_weights(model: Model, tmp_path: Path) -> None:
    """The authors' config.json is the same."""
    model.save(tmp_path / "video", "authors")
    with_pictures = tiny.mplug()
    with_pictures.save(tmp_path / "image", "authors")
    for name, kept in (("video", model), ("image", with_pictures)):
        content = json.loads((tmp_path / name / "config.json").read_text())
        del content["scops"]
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        (tmp_path / name / "processor_config.json").unlink()  # only ours tell how many frames
        back = scops.load(tmp_path / name)
        assert (back.system, type(back.spec)) == (kept.system, type(kept.spec))
        state = kept.module.state_dict()
        assert all(torch.equal(tensor, state[path]) for path, tensor in back.module.state_dict().items())
