"""What a connector may know besides features: words of its own with each picture, and how much of a grid shows the picture."""

# I prepared pictures, P features per picture, Q tokens per item, D width
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from scops.core.batch import Example, Span, Tiles
from scops.core.layout import Layout, MediaLayout, Pixels, Slot, TurnText
from scops.core.sample import Media, Sample, Text, Turn
from scops.core.template import Role, Template, Written
from scops.data.collate import pad
from scops.data.processor import Processor
from scops.data.tokenizer import Tokenizer
from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.models.encoded import items_of
from scops.nn.cache import FixedCache, GrowingCache
from scops.nn.tiled import Tiled
from tests import tiny
from tests.conftest import batch_of, close, randomise
from tests.twins import cache_of, cached_equals_recompute, rows_stand_alone, shared_equals_recompute

WIDTH, SIDE = 12, 2
LANGUAGE = LlamaSpec(dim=WIDTH, hidden=20, layers=2, heads=2, kv_heads=1, vocab=60)


class Eye(nn.Module):
    """Four features of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, WIDTH, 2, 2)

    def forward(self, pixels_ICHW: Tensor) -> Tensor:
        return self.look(pixels_ICHW).flatten(2).transpose(1, 2)


class Reading(Tiled):
    """Features of an extent, each plus the mean of the words read with its picture: as many tokens as the extent has."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(400, WIDTH)

    def forward(self, features_IPD: Tensor, tiles: Tiles) -> list[Tensor]:
        if tiles.words is not None:
            real_IT1 = tiles.words.real_IT[..., None]
            told_ID = (self.words(tiles.words.ids_IT) * real_IT1).sum(1) / real_IT1.sum(1)
            features_IPD = features_IPD + told_ID[:, None]
        sizes = [extent or (SIDE, SIDE) for extent in tiles.extent_M]
        grids = features_IPD.unflatten(1, (SIDE, SIDE))
        return [grid[:rows, :columns].flatten(0, 1) for grid, (rows, columns) in zip(grids, sizes, strict=True)]


@pytest.fixture
def system() -> MultimodalDecoder:
    return randomise(MultimodalDecoder(llama(LANGUAGE), image=MediaInput(Eye(), Reading(), Inline())))


def row(ids: list[int], *pictures: tuple[int, tuple[int, int], list[int]]) -> Example:
    """Pictures as (start, extent, words)."""
    spans = tuple(Span("image", at, rows * columns, extent=(rows, columns)) for at, (rows, columns), _ in pictures)
    made = Example(np.array(ids), np.zeros(len(ids), np.bool_), spans)
    if not pictures:
        return made
    media = tuple(torch.randn(3, 4, 4).numpy() for _ in pictures)
    words = tuple(np.array(told) for *_, told in pictures)
    return Example(made.ids_T, made.learn_T, spans, {"image": media}, words={"image": words})


def rows() -> dict[str, Example]:
    return {
        "whole first": row([0, 0, 0, 0, 5, 6], (0, (2, 2), [7, 8, 9])),
        "two, adjacent and last": row([4, 0, 0, 0], (1, (1, 2), [3]), (3, (1, 1), [11, 12])),
        "none": row([4, 9, 2]),
    }


def test_items_of_unequal_length_with_words_stand_alone(system: MultimodalDecoder) -> None:
    assert rows_stand_alone(system, rows())


@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_equal_recomputing(system: MultimodalDecoder, cache: type) -> None:
    examples = list(rows().values())
    assert cached_equals_recompute(system, examples, cache_of(cache, len(examples)))


def test_paged_sessions_equal_recomputing(system: MultimodalDecoder) -> None:
    assert shared_equals_recompute(system, list(rows().values()), tokens=96, page=3, most=2)


def test_another_word_or_extent_is_another_item(system: MultimodalDecoder) -> None:
    (one,) = items_of(first := rows()["whole first"])
    pixels = first.media["image"][0]

    def digest(extent: tuple[int, int], words: list[int]) -> str:
        span = Span("image", 0, 4, extent=extent)
        return items_of(Example(first.ids_T, first.learn_T, (span,), {"image": (pixels,)},
                                words={"image": (np.array(words),)}))[0].digest  # fmt: skip

    assert digest((2, 2), [7, 8, 9]) == one.digest
    assert len({one.digest, digest((2, 2), [7, 8]), digest((1, 2), [7, 8, 9])}) == 3


def test_the_layout_and_a_connector_that_disagree_are_named(system: MultimodalDecoder) -> None:
    one = rows()["whole first"]
    short = Example(one.ids_T, one.learn_T, (Span("image", 0, 4, extent=(1, 2)),), one.media, words=one.words)
    with pytest.raises(ValueError, match=r"room for 4 media tokens \(1 items\), but the connector made 2 = 2"):
        system(batch_of(short))


def test_words_for_some_pictures_of_a_batch_are_refused() -> None:
    told, untold = rows()["whole first"], row([0, 0, 0, 0], (0, (2, 2), [1]))
    untold = Example(untold.ids_T, untold.learn_T, untold.spans, untold.media)
    with pytest.raises(ValueError, match="1 of 2 pictures of 'image' come with words"):
        pad([told, untold], pad_id=0)


# Written ---------------------------------------------------------------------------------------------------------------

PIXELS = Pixels(4, 4, (0.5,) * 3, (0.5,) * 3)
ROLE = Role(between=(Written(" "),), after=(Written("\n"),))
LAYOUT = Layout(
    Template({"system": ROLE, "user": ROLE, "assistant": ROLE}),
    {"image": MediaLayout(PIXELS, lambda cut: (Slot("image", 4, words=TurnText()),))},
)


def picture() -> Media:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return Media("image", file.getvalue())


def asked() -> Sample:
    again = Turn("user", (picture(), Text("an owl?")))
    return Sample(
        (Turn("user", (picture(), Text("what is"), picture(), Text("this?"))), Turn("assistant", (Text("a"),)), again)
    )


def reading() -> Tokenizer:
    tokenizer = tiny.tokenizer()
    tokenizer.beside = tiny.bert_tokenizer()
    return tokenizer


def test_a_picture_is_read_with_the_text_of_its_turn() -> None:
    tokenizer = reading()
    told = Processor(LAYOUT, tokenizer)(asked(), reply=True).words["image"]
    inner = tokenizer.beside
    assert inner is not None
    first, second = "what is\nthis?", "an owl?"
    assert [inner.decode(ids_T.tolist()) for ids_T in told] == [first, first, second]
    assert all((ids_T[0], ids_T[-1]) == (inner.bos_id, inner.eos_id) for ids_T in told)


def test_without_the_connectors_tokenizer_it_is_named() -> None:
    with pytest.raises(ValueError, match="qformer_tokenizer"):
        Processor(LAYOUT, tiny.tokenizer())(asked(), reply=True)


def test_the_connectors_tokenizer_is_saved_beside(tmp_path: Path) -> None:
    tokenizer = reading()
    tokenizer.save(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path)
    assert np.array_equal(loaded.encode_beside("an owl?"), tokenizer.encode_beside("an owl?"))


def test_words_fit_the_pictures_of_a_slot() -> None:
    with pytest.raises(ValueError, match="1 pictures has words for 2"):
        Slot("image", 4, words=("one", "two"))


def test_batches_carry_words_to_the_device() -> None:
    batch = batch_of(*rows().values()).to("meta")
    words = batch.tiles["image"].words
    assert words is not None
    assert words.ids_IT.is_meta
    assert close(torch.tensor(words.ids_IT.shape, dtype=torch.float32), torch.tensor([3.0, 3.0]))
