"""Time-aware frames and a sliding video Q-Former (TimeChat, arXiv 2312.02051, section 3.2; RenShuhuai-Andy/TimeChat).

A Q-Former asks each frame, with a sentence that says when the frame was taken; a second one asks what came of the frames of a
window. Without sentences and windows it is Video-LLaMA's.
"""

# M clips, I frames of all clips, F frames of a window, P features per frame, S tokens per frame (queries, then words), Q tokens
# of a clip, D width
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from scops.connectors.qformer import QFormer, QFormerSpec
from scops.core.batch import Tiles, Words
from scops.nn.initialise import IntoWords
from scops.nn.tiled import Tiled


@dataclass(frozen=True)
class VideoQFormerSpec:
    """The numbers of both Q-Formers and what lies between them; the defaults are TimeChat's.

    Args:
        frame: reads sentences where it has a vocabulary.
        video: asks what comes of frames; its `width` is `frame.dim`.
        frames: positions in the table, the most of a clip.
        window: frames that are asked together, 0 for all of a clip.
        stride: from the first frame of a window to that of the next.
    """

    frame: QFormerSpec = field(default_factory=lambda: QFormerSpec(vocab=30523))
    video: QFormerSpec = field(default_factory=lambda: QFormerSpec(layers=2, every=1, width=768))
    frames: int = 96
    window: int = 32
    stride: int = 32

    def __post_init__(self) -> None:
        if self.video.width != self.frame.dim:
            raise ValueError(
                f"the video Q-Former asks features of width {self.video.width}, but frames have {self.frame.dim}"
            )
        if self.window and self.stride < 1:
            raise ValueError(f"windows of {self.window} frames need a stride of at least 1, not {self.stride}")


class VideoQFormer(Tiled):
    """project(video queries that ask frames and words of each window), windows one behind the other.

    All that leaves the first Q-Former goes on, words and the padding behind them too, as published. So sentences are padded to
    the longest of their own clip: those of another must not count.

    forward: features (I, P, D) -> of each clip (Q, out)

    Args:
        out: width of the language model.
        eps: of the norm of the features (LAVIS: `ln_vision`).
    """

    def __init__(self, spec: VideoQFormerSpec, out: int, *, eps: float = 1e-5):
        super().__init__()
        self.spec = spec
        self.norm, self.frame, self.video = (
            nn.LayerNorm(spec.frame.width, eps),
            QFormer(spec.frame),
            QFormer(spec.video),
        )
        self.positions = nn.Embedding(spec.frames, spec.frame.dim)
        self.project = IntoWords(spec.video.dim, out)

    def forward(self, features_IPD: Tensor, tiles: Tiles) -> list[Tensor]:
        most = max(tiles.count_M)
        if most > self.spec.frames:
            raise ValueError(f"a clip has {most} frames, but there are positions for {self.spec.frames}")
        clips = self.seen(features_IPD, tiles.words).split(tiles.count_M)
        placed = (
            clip_FSD[:, : self.spec.frame.queries + length] + self.positions.weight[: len(clip_FSD), None]
            for clip_FSD, length in zip(clips, longest(tiles), strict=True)
        )
        windows = [[clip_FSD[part].flatten(0, 1) for part in parts(len(clip_FSD), self.spec)] for clip_FSD in placed]
        asked = iter(self.asked([window for clip in windows for window in clip]))
        return [torch.cat([next(asked) for _ in clip]) for clip in windows]

    def seen(self, features_IPD: Tensor, words: Words | None) -> Tensor:
        """(I, S, D): what the first Q-Former makes of each frame, queries first, then words with their padding."""
        return self.frame(self.norm(features_IPD), words)

    def asked(self, windows: Sequence[Tensor]) -> list[Tensor]:
        """(Q, out) of each (F * S, D); those of equal size are asked together."""
        made: dict[int, Tensor] = {}
        for size in {len(window) for window in windows}:
            same = [number for number, window in enumerate(windows) if len(window) == size]
            tokens = self.project(self.video(torch.stack([windows[number] for number in same])))
            made |= dict(zip(same, tokens, strict=True))
        return [made[number] for number in range(len(windows))]


def longest(tiles: Tiles) -> list[int]:
    """Tokens of the longest sentence of each clip."""
    if tiles.words is None:
        return [0] * len(tiles.count_M)
    lengths = iter(tiles.words.length_I)
    return [max(next(lengths) for _ in range(count)) for count in tiles.count_M]


def parts(frames: int, spec: VideoQFormerSpec) -> list[slice]:
    """Frames of each window; the last may be shorter."""
    if not spec.window:
        return [slice(0, frames)]
    return [slice(first, first + spec.window) for first in range(0, frames, spec.stride)]


def tokens_for(spec: VideoQFormerSpec, frames: int) -> int:
    """Of a clip of so many frames."""
    return len(parts(frames, spec)) * spec.video.queries
