"""Pictures per second into an encoder's numbers, whole and in tiles, and rows per second into ids.

Against transformers' Pillow processors, template and tokenizer.
"""

# T tokens, C channels
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from bench.pair import Pair, Settings, Skip, interleave, run, timed
from bench.tiled import check_tiles, idefics3, llava_next
from scops.core.layout import Layout, Pixels
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.image import decode, prepare
from scops.data.processor import Processor
from scops.data.template import jinja
from scops.data.tokenizer import Tokenizer
from scops.model import reading

FULL_HD = (1920, 1080)
CLIP = Pixels(
    224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), fit="crop", resample="bicubic"
)
SIZE = "owl-tiny"
PICTURES, ROWS, TILE = 8, 64, 448
QUESTION, ANSWER = "What does the picture show?", "This is an owl, a bird of the night that sits on a branch."
EXCHANGES = (
    ("What do owls eat?", "Most owls hunt mice; some take insects, and a few of the largest catch fish."),
    ("And when?", "At night, for the most part. They see well in little light and hear better still."),
    ("Why are they so quiet?", "The edges of their feathers are soft, so that the air makes no sound."),
)
PLACE = "<image>"


def photograph(seed: int, size: tuple[int, int] = FULL_HD) -> bytes:
    """A JPEG with large forms, small ones and some noise, as a camera's (quality 90)."""
    dice, (wide, high) = np.random.default_rng(seed), size
    levels = np.zeros((high, wide, 3), np.float32)
    for scale, strength in ((8, 90), (64, 30), (400, 12)):
        small = dice.integers(0, 256, (max(scale * high // wide, 1), scale, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC), np.float32)
        levels += (smooth / 128 - 1) * strength
    levels += dice.normal(128, 4, levels.shape)
    file = io.BytesIO()
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def peer_of(pixels: Pixels) -> CLIPImageProcessorPil:
    """transformers' processor that prepares pictures so."""
    if pixels.resample != "bicubic" or pixels.fit not in ("crop", "stretch"):
        raise ValueError(f"CLIP's processor crops or stretches with the bicubic filter, not {pixels}")
    box = {"height": pixels.height, "width": pixels.width}
    crop = {"size": {"shortest_edge": pixels.height}, "crop_size": box}
    fit = crop if pixels.fit == "crop" else {"size": box, "do_center_crop": False}
    return CLIPImageProcessorPil(image_mean=list(pixels.mean), image_std=list(pixels.std), **fit)


def theirs_of(processor: CLIPImageProcessorPil, picture: bytes | Image.Image) -> np.ndarray:
    """(C, height, width) of a file's bytes or of a picture."""
    image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    return processor(image, return_tensors="np")["pixel_values"][0]


def ours_of(picture: bytes | Image.Image, pixels: Pixels) -> np.ndarray:
    return prepare(decode(picture) if isinstance(picture, bytes) else picture, pixels)


def check_pictures(pictures: list, pixels: Pixels) -> str:
    """Every number of every picture is equal to the bit."""
    peer = peer_of(pixels)
    for at, picture in enumerate(pictures):
        mine, other = ours_of(picture, pixels), theirs_of(peer, picture)
        if mine.dtype != other.dtype or not np.array_equal(mine, other):
            raise ValueError(f"picture {at}: {mine.dtype} {mine.shape} differs from {other.dtype} {other.shape}")
    return f"{len(pictures)} pictures equal to the bit"


class Rows:
    """Conversations on both sides: scops' Processor, and transformers' chat template, tokenizer and image processor.

    The peer makes ids and pixels only; scops makes loss mask, media positions and a digest of each picture, too.
    """

    def __init__(self, layout: Layout, tokenizer: Tokenizer) -> None:
        self.processor = Processor(layout, tokenizer)
        backend = Backend.from_str(tokenizer.backend.to_str())
        self.peer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=jinja(layout.template))
        self.peer.add_tokens([AddedToken(PLACE, special=True, normalized=False)])
        media = layout.media["image"]
        self.pictures = peer_of(media.pixels)
        self.each = media.tokens

    def ours(self, sample: Sample) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """(ids_T, prepared pictures), -1 where media stand."""
        example = self.processor(sample)
        ids_T = example.ids_T.copy()
        for span in example.spans:
            ids_T[span.start : span.start + span.length] = -1
        return ids_T, tuple(example.media.get("image", ()))

    def theirs(self, sample: Sample) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """As LLaVA's processor: render, repeat each placeholder, encode."""
        messages = [{"role": turn.role, "content": [_part(part) for part in turn.parts]} for turn in sample.turns]
        text = self.peer.apply_chat_template(messages, tokenize=False).replace(PLACE, PLACE * self.each)
        ids_T = np.array(self.peer(text, add_special_tokens=False)["input_ids"])
        ids_T[ids_T == self.peer.convert_tokens_to_ids(PLACE)] = -1
        return ids_T, tuple(theirs_of(self.pictures, item.source) for item in sample.media)


def check_rows(rows: Rows, samples: list[Sample]) -> str:
    """Ids and pixels of every row are equal."""
    for sample in samples:
        (ids_T, media), (other_T, others) = rows.ours(sample), rows.theirs(sample)
        if not np.array_equal(ids_T, other_T):
            raise ValueError(f"{sample.name}: {len(ids_T)} ids {ids_T[:9]}..., theirs {len(other_T)} {other_T[:9]}...")
        if len(media) != len(others) or not all(map(np.array_equal, media, others)):
            raise ValueError(f"{sample.name}: the {len(media)} pictures differ from their {len(others)}")
    return f"ids and pixels of {len(samples)} rows equal"


def with_picture(picture: bytes, name: str) -> Sample:
    """A question about a picture, and its answer."""
    question = Turn("user", (Media("image", picture), Text(QUESTION)))
    return Sample((question, Turn("assistant", (Text(ANSWER),), learn=True)), name=name)


def of_text(name: str) -> Sample:
    turns = [(Turn("user", (Text(q),)), Turn("assistant", (Text(a),), learn=True)) for q, a in EXCHANGES]
    return Sample(tuple(turn for pair in turns for turn in pair), name=name)


def measure(settings: Settings) -> Iterator[Pair | Skip]:
    files = [photograph(seed) for seed in range(PICTURES)]
    peer, megabytes = peer_of(CLIP), sum(map(len, files)) / len(files) / 1e6
    for case, pictures in (
        (f"1080p JPEG ({megabytes:.1f} MB) to 224", files),
        ("1080p picture, open already, to 224", [decode(file) for file in files]),
    ):
        checked = check_pictures(pictures, CLIP)
        seconds = interleave(
            timed(lambda pictures=pictures: [ours_of(picture, CLIP) for picture in pictures]),
            timed(lambda pictures=pictures: [theirs_of(peer, picture) for picture in pictures]),
            settings.rounds,
        )
        yield Pair(case, "CLIPImageProcessorPil", "pictures", len(pictures), checked, seconds)
    for tiled in (llava_next(TILE, CLIP), idefics3(TILE)):
        count = len(tiled.rule(*reversed(FULL_HD)))
        for resize in ("pillow", "torch"):
            checked = check_tiles(files, tiled, resize)
            seconds = interleave(
                timed(lambda tiled=tiled, resize=resize: [tiled.ours(file, resize) for file in files]),
                timed(lambda tiled=tiled: [tiled.theirs(file) for file in files]),
                settings.rounds,
            )
            case = f"1080p JPEG to {count} tiles of {TILE} as {tiled.name}, resized by {resize}"
            yield Pair(case, type(tiled.peer).__name__, "pictures", len(files), checked, seconds)
    layout, tokenizer = reading(SIZE)
    rows = Rows(layout, tokenizer)
    small = [photograph(seed, (256, 256)) for seed in range(ROWS)]
    for case, samples in (
        ("row of a 256 x 256 JPEG, question and answer", [with_picture(file, f"row {at}") for at, file in enumerate(small)]),
        ("row of three exchanges of text", [of_text(f"row {at}") for at in range(ROWS)]),
    ):  # fmt: skip
        checked = check_rows(rows, samples)
        seconds = interleave(
            timed(lambda samples=samples: [rows.ours(sample) for sample in samples]),
            timed(lambda samples=samples: [rows.theirs(sample) for sample in samples]),
            settings.rounds,
        )
        yield Pair(case, "transformers template, tokenizer, image processor", "rows", len(samples), checked, seconds)


def _part(part: Text | Media) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": part.kind}


if __name__ == "__main__":
    run("data_path", measure, rounds=7, threads=1)
