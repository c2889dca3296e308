"""The Q-Former and the tower in front of it against transformers, at random sizes and with every use of its text."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from scops.checkpoints.hub_eva import HUB_EVA, LAVIS_EVA
from scops.checkpoints.hub_qformer import HUB_QFORMER, HUB_QFORMER_READING, LAVIS_QFORMER
from scops.checkpoints.keymap import KeyMap, same
from scops.connectors.qformer import PICTURE, QFormer, QFormerConnector, QFormerSpec, beside, tokens_for, whole
from scops.core.batch import Tiles, Words
from scops.encoders.eva import EvaSpec, EvaVit
from scops.nn.context import Context
from scops.ops.masks import Causal
from tests.conftest import close, randomise
from tests.twins import come_back_bitwise

READS = QFormerSpec(dim=12, hidden=20, layers=3, heads=3, queries=5, width=16, every=2, vocab=31, context=9, eps=1e-7)
ASKS = QFormerSpec(dim=8, hidden=12, layers=4, heads=2, queries=3, width=10, every=3)
EYE = EvaSpec(dim=12, hidden=20, layers=2, heads=3, image=21, patch=7, eps=1e-5)
TEXTS = [np.array(ids) for ids in ([3, 4, 5], [7, 8, 9, 10, 11, 2], [1])]
INSIDE = KeyMap(same("query_tokens", "queries"))


def theirs(spec: QFormerSpec) -> tuple[type, dict]:
    numbers = {
        "vocab_size": spec.vocab or 7, "hidden_size": spec.dim, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "intermediate_size": spec.hidden, "max_position_embeddings": spec.context,
        "cross_attention_frequency": spec.every, "encoder_hidden_size": spec.width, "layer_norm_eps": spec.eps,
    }  # fmt: skip
    if spec.vocab:
        return transformers.InstructBlipQFormerModel, transformers.InstructBlipQFormerConfig(**numbers)
    return transformers.Blip2QFormerModel, transformers.Blip2QFormerConfig(**numbers)


def both(spec: QFormerSpec) -> tuple[QFormer, nn.Module]:
    kind, config = theirs(spec)
    reference = randomise(kind(config))
    ours = QFormer(spec).eval()
    queries = {"query_tokens": torch.randn(1, spec.queries, spec.dim)}
    keys = KeyMap(INSIDE, HUB_QFORMER_READING if spec.vocab else HUB_QFORMER)
    published = {k: v for k, v in reference.state_dict().items() if not k.endswith("position_ids")}
    ours.load_state_dict(keys.load(published | queries))
    assert come_back_bitwise(keys, published | queries)
    return ours, reference


@pytest.mark.parametrize("spec", [ASKS, QFormerSpec(dim=6, hidden=7, layers=1, heads=1, queries=1, width=3, every=1)])
def test_queries_alone_equal_transformers(spec: QFormerSpec) -> None:
    ours, reference = both(spec)
    features_MPD = torch.randn(3, 7, spec.width)
    asked = reference(query_embeds=ours.queries.expand(3, -1, -1), encoder_hidden_states=features_MPD)
    assert close(ours(features_MPD), asked.last_hidden_state)


def test_queries_with_text_equal_transformers_where_no_padding_is() -> None:
    ours, reference = both(READS)
    words, features_MPD = Words.of(TEXTS), torch.randn(3, 7, READS.width)
    seen_MS = torch.cat([torch.ones(3, READS.queries), words.real_IT], 1).long()
    asked = reference(
        words.ids_IT, attention_mask=seen_MS, query_embeds=ours.queries.expand(3, -1, -1),
        encoder_hidden_states=features_MPD,
    ).last_hidden_state  # fmt: skip
    real_MS = seen_MS.bool()
    assert close(ours(features_MPD, words)[real_MS], asked[real_MS])


def written(former: QFormer, features_MPD: torch.Tensor, words: Words) -> torch.Tensor:
    """(M, T, D): the text behind the queries, word by word."""
    places_MT = torch.arange(words.ids_IT.shape[1]).expand(len(words.ids_IT), -1)
    memories = beside(whole(former.before(features_MPD)), former.spec.layers)
    return former.write(former.words(words.ids_IT), Context(places_MT, Causal(), memories=memories))


def in_one_pass(former: QFormer, features_MPD: torch.Tensor, words: Words) -> torch.Tensor:
    """The same by one mask over [queries; text]: queries see no text, a word sees the queries and what stands before it."""
    queries, tokens = former.spec.queries, words.ids_IT.shape[1]
    seen_SS = torch.ones(queries + tokens, queries + tokens, dtype=torch.bool).tril()
    seen_SS[:, :queries] = True
    places_MT = torch.arange(tokens).expand(len(features_MPD), -1)
    text_MTD = former.words(words.ids_IT) + former.positions(places_MT)
    x_MSD = former.norm(torch.cat([former.queries.expand(len(features_MPD), -1, -1), text_MTD], 1))
    ctx = Context(places_MT, seen_SS[None, None], memories={PICTURE: whole(features_MPD)})
    for layer in former.blocks:
        x_MSD = layer(x_MSD, ctx)
    assert close(x_MSD[:, :queries], former(features_MPD))
    return x_MSD[:, queries:]


def test_padding_of_texts_changes_nothing() -> None:
    ours = randomise(QFormer(READS))
    features_MPD = torch.randn(3, 7, READS.width)
    together = ours(features_MPD, Words.of(TEXTS))
    read, wrote = ours.read(Words.of(TEXTS)), written(ours, features_MPD, Words.of(TEXTS))
    for at, ids_T in enumerate(TEXTS):
        alone, end = Words.of([ids_T]), READS.queries + len(ids_T)
        assert close(together[at, :end], ours(features_MPD[at : at + 1], alone)[0])
        assert close(read[at, : len(ids_T)], ours.read(alone)[0])
        assert close(wrote[at, : len(ids_T)], written(ours, features_MPD[at : at + 1], alone)[0])


def test_a_text_that_is_written_sees_the_queries_and_what_stands_before_it() -> None:
    ours = randomise(QFormer(READS))
    features_MPD, ids_T = torch.randn(1, 7, READS.width), TEXTS[1]
    made = written(ours, features_MPD, Words.of([ids_T]))
    assert close(made, in_one_pass(ours, features_MPD, Words.of([ids_T])))
    for length in range(1, len(ids_T)):
        assert close(made[:, :length], written(ours, features_MPD, Words.of([ids_T[:length]])))


def test_lavis_names_come_back_bitwise() -> None:
    """A Q-Former that reads and one that does not."""
    for spec in (READS, ASKS):
        ours = {name: torch.randn_like(x) for name, x in QFormer(spec).state_dict().items()}
        keys = KeyMap(INSIDE, LAVIS_QFORMER)
        published = keys.save(ours)
        assert all(torch.equal(x, ours[name]) for name, x in keys.load(published).items())
        assert come_back_bitwise(keys, published)
        assert ("encoder.layer.0.intermediate.dense.weight" in published) == bool(spec.vocab)
    assert "encoder.layer.0.crossattention.self.query.weight" in published


def test_the_connector_gives_its_queries_alone_with_and_without_words() -> None:
    connector = randomise(QFormerConnector(READS, 11))
    features_MPD, places = torch.randn(3, 7, READS.width), [((-1, -1),)] * 3
    plain, told = (connector(features_MPD, Tiles.of(places, words=words)) for words in ((), TEXTS))
    assert plain.shape == told.shape == (3, tokens_for(READS), 11)
    assert not torch.allclose(plain, told)


def test_words_without_a_table_and_too_many_of_them_are_named() -> None:
    features_1PD = torch.randn(1, 7, ASKS.width)
    with pytest.raises(ValueError, match="built without words"):
        QFormer(ASKS)(features_1PD, Words.of(TEXTS[:1]))
    with pytest.raises(ValueError, match="text of 10 tokens came with a picture, but the Q-Former reads 9"):
        QFormer(READS)(torch.randn(1, 7, READS.width), Words.of([np.arange(10)]))


def test_the_tower_equals_transformers_and_comes_back_bitwise() -> None:
    config = transformers.Blip2VisionConfig(
        hidden_size=EYE.dim, intermediate_size=EYE.hidden, num_hidden_layers=EYE.layers, image_size=EYE.image,
        num_attention_heads=EYE.heads, patch_size=EYE.patch, layer_norm_eps=EYE.eps,
    )  # fmt: skip
    reference = randomise(transformers.Blip2VisionModel(config))
    for layer in reference.encoder.layers:  # published towers have no bias of keys
        nn.init.zeros_(layer.self_attn.qkv.bias[EYE.dim : 2 * EYE.dim])
    published = {k: v for k, v in reference.state_dict().items() if not k.startswith("post_layernorm")}
    ours = EvaVit(EYE).eval()
    ours.load_state_dict(HUB_EVA.load(published))
    assert come_back_bitwise(HUB_EVA, published)
    pixels_MCHW = torch.randn(2, 3, EYE.image, EYE.image)
    seen_MPD = reference.post_layernorm(ours(pixels_MCHW))
    assert close(seen_MPD, reference(pixels_MCHW).last_hidden_state)
    assert come_back_bitwise(LAVIS_EVA, LAVIS_EVA.save(ours.state_dict()))


def test_the_published_sizes_have_their_counts() -> None:
    """985,952,256 without `ln_vision`: 39 of EVA-CLIP-g's 40 blocks; a Q-Former of BERT's size with words 187.5M."""
    with torch.device("meta"):
        tower, former = EvaVit(EvaSpec()), QFormer(QFormerSpec(vocab=30523))
    count = lambda module: sum(p.numel() for p in module.parameters())
    layer = 4 * 1408**2 + 3 * 1408 + 2 * 1408 * 6144 + 6144 + 1408 + 4 * 1408
    assert count(tower) == 39 * layer + 1408 * (3 * 14 * 14 + 1) + 1408 * 258
    attention, mlp, norm = 4 * (768**2 + 768), 2 * 768 * 3072 + 3072 + 768, 2 * 768
    cross = 2 * (768**2 + 768) + 2 * (1408 * 768 + 768) + norm
    table = 768 * (30523 + 512 + 32) + norm
    assert count(former) == 12 * (attention + 2 * mlp + 3 * norm) + 6 * cross + table
