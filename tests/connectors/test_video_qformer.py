"""TimeChat's frames and windows against a golden of RenShuhuai-Andy/TimeChat, and against the same in plain operations."""

# M clips, I frames of all clips, P features per frame, S tokens per frame, Q tokens of a clip, D width
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from scops.connectors.qformer import QFormerSpec
from scops.connectors.video_qformer import VideoQFormer, VideoQFormerSpec, tokens_for
from scops.core.batch import Tiles
from scops.core.layout import WHOLE
from scops.systems import timechat
from tests.conftest import Golden, close, randomise
from tests.systems import lavis_twin as twin
from tests.twins import come_back_bitwise

FRAME = QFormerSpec(dim=12, hidden=20, layers=3, heads=3, queries=4, width=10, vocab=40, context=12)
VIDEO = QFormerSpec(dim=12, hidden=18, layers=2, heads=2, queries=3, width=12, every=1)
SPEC = VideoQFormerSpec(FRAME, VIDEO, frames=9, window=3, stride=2)
SPECS = {
    "windows that overlap": SPEC,
    "windows side by side": replace(SPEC, stride=3),
    "windows with gaps": replace(SPEC, window=1, stride=2),
    "one window": replace(SPEC, window=20, stride=20),
    "no windows": replace(SPEC, window=0, stride=0),
    "no sentences": replace(SPEC, frame=replace(FRAME, vocab=0)),
    "other widths": VideoQFormerSpec(
        QFormerSpec(dim=8, hidden=9, layers=2, heads=2, queries=1, width=5, every=1, vocab=17, context=6),
        QFormerSpec(dim=15, hidden=7, layers=3, heads=5, queries=2, width=8, every=2), frames=6, window=2, stride=1,
    ),
}  # fmt: skip
LENGTHS = ((5, 3), (2,), (4, 4, 1, 2, 5, 3), (6, 6, 6))
"""Of the sentences of each frame, clip by clip."""


def spec_of(golden: Golden) -> VideoQFormerSpec:
    c = golden.config
    shared = {"dim": c["hidden_size"], "hidden": c["ffn"], "heads": c["heads"]}
    context = len(golden.weights["Qformer.bert.embeddings.position_embeddings.weight"])
    frame = QFormerSpec(
        **shared, layers=c["q_layers"], queries=c["num_query"], width=c["vision_width"], vocab=c["vocab_size"],
        context=context,
    )  # fmt: skip
    video = QFormerSpec(**shared, layers=2, queries=c["num_video_query"], width=c["hidden_size"], every=1)
    return VideoQFormerSpec(frame, video, c["max_frame_pos"], c["window_size"], c["stride"])


def tiles_of(clips: Sequence[Sequence[np.ndarray]], *, told: bool = True) -> Tiles:
    words = [ids_T for clip in clips for ids_T in clip] if told else ()
    return Tiles.of([(WHOLE,) * len(clip) for clip in clips], words=words)


def clips_of(lengths: Sequence[Sequence[int]] = LENGTHS, vocab: int = 17) -> list[list[np.ndarray]]:
    draw = np.random.default_rng(3)
    return [[draw.integers(1, vocab, length) for length in clip] for clip in lengths]


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("timechat_video_encoder")


@torch.no_grad()
def test_every_probe_equals_the_reference(golden: Golden) -> None:
    connector = VideoQFormer(spec_of(golden), golden.config["llm"]).eval()
    connector.load_state_dict(timechat.CONNECTOR.load(golden.weights))
    features, ids, real = (golden.inputs[name] for name in ("frame_features", "timestamp_ids", "timestamp_mask"))
    sentences = [row[mask.bool()].numpy() for row, mask in zip(ids, real, strict=True)]
    tiles = tiles_of([sentences])
    assert close(connector.seen(features.flatten(0, 1), tiles.words), golden.outputs["frame_qformer_out"])
    made = connector(features.flatten(0, 1), tiles)
    assert close(torch.stack(made), golden.outputs["inputs_llm"])
    assert golden.outputs["atts_llm"].shape[1] == len(made[0]) == tokens_for(spec_of(golden), golden.config["T"])


def test_keys_round_trip_bitwise(golden: Golden) -> None:
    kept = {name: x for name, x in golden.weights.items() if not name.endswith("position_ids")}
    assert come_back_bitwise(timechat.CONNECTOR, kept)
    assert set(timechat.CONNECTOR.load(golden.weights)) == set(VideoQFormer(spec_of(golden), 24).state_dict())


def in_plain_operations(
    w: Mapping[str, Tensor], features_FPD: Tensor, clip: Sequence[np.ndarray], spec: VideoQFormerSpec
) -> Tensor:
    """(Q, out) of one clip: encode_videoQformer_visual of timechat.py."""
    most = max(map(len, clip))
    ids_FT = torch.tensor([[*ids_T, *[0] * (most - len(ids_T))] for ids_T in clip])
    real_FT = torch.tensor([[at < len(ids_T) for at in range(most)] for ids_T in clip])
    text = (ids_FT, real_FT) if spec.frame.vocab else ()
    features = twin.norm(w, "ln_vision", features_FPD, 1e-5)
    x = twin.qformer(twin.below(w, "Qformer.bert."), w["query_tokens"], features, spec.frame.heads, *text)
    x = x + w["video_frame_position_embedding.weight"][: len(x), None]
    firsts = range(0, len(x), spec.stride) if spec.window > 0 else [0]
    windows = [x[first : first + spec.window] if spec.window > 0 else x for first in firsts]
    video = twin.below(w, "video_Qformer.bert.")
    made = [
        twin.qformer(video, w["video_query_tokens"], part.flatten(0, 1)[None], spec.video.heads) for part in windows
    ]
    return twin.project(w, "llama_proj", torch.cat(made, 1)[0])


@torch.no_grad()
@pytest.mark.parametrize("name", SPECS)
def test_clips_of_any_length_together_equal_each_in_plain_operations(name: str) -> None:
    """Sentences of other clips, and how long they are, change nothing."""
    spec, clips = SPECS[name], clips_of()
    connector = randomise(VideoQFormer(spec, 14))
    w = timechat.CONNECTOR.save(connector.state_dict())
    counts = [len(clip) for clip in clips]
    features = torch.randn(sum(counts), 5, spec.frame.width)
    made = connector(features, tiles_of(clips, told=spec.frame.vocab > 0))
    for clip, part, tokens_QD in zip(clips, features.split(counts), made, strict=True):
        assert close(tokens_QD, in_plain_operations(w, part, clip, spec))
        assert len(tokens_QD) == tokens_for(spec, len(clip))


@torch.no_grad()
def test_padding_behind_sentences_counts_as_published() -> None:
    """A longer sentence of another frame of the clip changes what the clip becomes, though that frame's own words stay."""
    connector, features = randomise(VideoQFormer(replace(SPEC, window=1, stride=1), 14)), torch.randn(2, 5, 10)
    one, two = np.array([3, 4]), np.array([5, 6, 7, 8])
    short, long = (connector(features, tiles_of([[one, other]]))[0][:3] for other in (two[:2], two))
    assert (short - long).abs().max() > 1e-4
    assert close(short, connector(features, tiles_of([[one, two[2:]]]))[0][:3])


@torch.no_grad()
def test_every_frame_its_place_and_its_sentence_matter() -> None:
    connector, features = randomise(VideoQFormer(SPEC, 14)), torch.randn(4, 5, 10)
    clip = clips_of([(3, 3, 3, 3)])
    before = connector(features, tiles_of(clip))[0]
    others = [(features.flip(0), clip)]
    for frame in range(4):
        changed, told = features.clone(), [[ids_T.copy() for ids_T in clip[0]]]
        changed[frame] *= -1
        told[0][frame][1] = 16 - told[0][frame][1]
        others += [(changed, clip), (features, told)]
    for changed, told in others:
        assert (connector(changed, tiles_of(told))[0] - before).abs().max() > 1e-4


def test_what_does_not_fit_is_named() -> None:
    connector = randomise(VideoQFormer(SPEC, 14))
    clips = clips_of([(2,), (1,) * 10])
    with pytest.raises(ValueError, match="a clip has 10 frames, but there are positions for 9"):
        connector(torch.randn(11, 5, 10), tiles_of(clips))
    with pytest.raises(ValueError, match="asks features of width 12, but frames have 8"):
        VideoQFormerSpec(replace(FRAME, dim=8), VIDEO)
    with pytest.raises(ValueError, match="windows of 3 frames need a stride of at least 1, not 0"):
        replace(SPEC, stride=0)
    with pytest.raises(ValueError, match="text of 13 tokens came with a picture, but the Q-Former reads 12"):
        connector(torch.randn(1, 5, 10), tiles_of(clips_of([(13,)])))
