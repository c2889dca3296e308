"""A tiny system that satisfies scops.core.system.Decoder, rows for it, and a run of two stages; also a script to kill."""

# B rows, T tokens, M media items, Q tokens per item, D width
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scops.core.batch import Batch, Example, Span
from scops.core.sample import Sample, Text, Turn
from scops.core.stage import Lora, Stage
from scops.data.errors import RowError
from scops.train.loop import Result, train
from scops.train.run import Run

WIDTH, WORDS, QUERIES = 12, 23, 3


class Input(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Dropout(0.3))
        self.connector = nn.Sequential(nn.Linear(5, WIDTH), nn.Dropout(0.1))


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.q, self.up = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm, self.drop = nn.LayerNorm(WIDTH), nn.Dropout(0.2)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight


class Toy(nn.Module):
    """Running means instead of attention."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.image, self.language = Input(), Language()
        self.encoded = 0

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        if "image" in batch.features:
            return dict(batch.features)
        if "image" not in batch.media:
            return {}
        self.encoded += len(batch.media["image"].flatten(1).unique(dim=0))
        return {"image": self.image.encoder(batch.media["image"])[..., :QUERIES, 0].transpose(1, 2)}

    def connect(self, batch: Batch) -> dict[str, Tensor]:
        return {kind: self.image.connector(features) for kind, features in self.encode(batch).items()}

    def embed(self, ids: Tensor) -> Tensor:
        return self.language.embed(ids)

    def hidden(self, batch: Batch) -> Tensor:
        x_BTD = self.embed(batch.ids_BT)
        for kind, tokens in self.connect(batch).items():
            flat = x_BTD.flatten(0, 1).index_copy(0, batch.where[kind].index_R, tokens.flatten(0, 1).to(x_BTD.dtype))
            x_BTD = flat.unflatten(0, x_BTD.shape[:2])
        mean_BTD = x_BTD.cumsum(1) / torch.arange(1, x_BTD.shape[1] + 1, device=x_BTD.device)[:, None].to(x_BTD.dtype)
        lang = self.language
        return lang.norm(x_BTD + lang.up(lang.drop(lang.q(mean_BTD).relu())))

    def head(self, x: Tensor) -> Tensor:
        return self.language.head(x)

    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.hidden(batch))


class Writer:
    """Sample -> Example: as the processor does, without words."""

    overflow = "error"

    def __call__(self, sample: Sample) -> Example:
        if sample.extra is None:
            raise RowError(f"{sample.name}: broken")
        seed, picture = sample.extra
        dice = np.random.default_rng(seed)
        answer = int(dice.integers(1, 6))
        ids = np.concatenate([np.zeros(QUERIES * picture, np.int64), dice.integers(0, WORDS, answer + 1)])
        learn = np.arange(len(ids)) > QUERIES * picture
        spans = (Span("image", 0, QUERIES),) if picture else ()
        media = {"image": (dice.normal(size=(3, 4, 4)).astype(np.float32),)} if picture else {}
        return Example(ids, learn, spans, media, {"image": (f"{seed:064d}",)} if picture else {}, sample.name)

    def writing(self, template: str) -> "Writer":
        assert not template, "there is one way"
        return self


def rows(count: int, *, start: int = 0, pictures: bool = True, bad: tuple[int, ...] = ()) -> list[Sample]:
    turn = (Turn("assistant", (Text("x"),), learn=True),)
    return [
        Sample(turn, f"row {i}", extra=None if i in bad else (start + i, pictures and i % 3 != 2)) for i in range(count)
    ]


STAGES = {
    "align": Stage("align", train=("image.connector",), data=("a", "b"), objective="next_token", steps=14, batch=6,
                   lr=1e-2, warmup=3, weight_decay=0.1),
    "tune": Stage("tune", train=("image.connector",), data=("a",), lora=Lora(("language.q", "language.up"), 2, 4.0, 0.1),
                  steps=16, batch=4, lr=5e-3, schedule="linear", min_lr=1e-3),
}  # fmt: skip

DATA = {"a": rows(17), "b": rows(11, start=1000, pictures=False)}


def run(folder: Path, **words: object) -> Run:
    given = {"system": "toy", "stages": ["align", "tune"], "data": {"a": {}, "b": {}}, "output_dir": str(folder),
             "seed": 7, "save_steps": 5, "logging_steps": 1, "max_bad_share": 0.2, "device": "cpu"}  # fmt: skip
    return Run.check(given | words)


def save(module: nn.Module, folder: Path) -> None:
    save_file({k: v.contiguous() for k, v in dict(module.named_parameters()).items()}, folder / "model.safetensors")


def go(folder: Path, module: nn.Module | None = None, **words: object) -> Result:
    return train(run(folder, **words), module or Toy(), STAGES, Writer(), DATA, save=save)


if __name__ == "__main__":
    go(Path(sys.argv[1]))
