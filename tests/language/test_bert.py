"""BERT against transformers' own modules, random and tiny: an encoder, and a decoder with cross-attention."""

import pytest
import torch

from scops.checkpoints.hub_bert import HUB_BERT, HUB_BERT_HEAD, HUB_BERT_HEAD_ONCE, bert_head_keys
from scops.checkpoints.keymap import KeyMismatch
from scops.language.bert import BertSpec, Pooler, bert, bert_decoder
from scops.nn.context import Context, Memory
from scops.ops.masks import Causal
from tests.conftest import close, randomise

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 61,
    "max_position_embeddings": 24, "type_vocab_size": 3, "attn_implementation": "eager",
}  # fmt: skip
SPEC = BertSpec(dim=24, hidden=36, layers=3, heads=4, vocab=61, context=24, segments=3)
LENGTHS = torch.tensor([9, 5])
IDS = torch.randint(1, 61, (2, 9), generator=torch.Generator().manual_seed(3))
REAL = torch.arange(9) < LENGTHS[:, None]


@torch.no_grad()
def test_encoder_with_padding_and_segments_equals_transformers() -> None:
    theirs = randomise(transformers.BertModel(transformers.BertConfig(**SIZES)))
    ours, pooler = bert(SPEC), Pooler(24)
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("pooler.")}
    ours.load_state_dict(HUB_BERT.load(state))
    pooler.load_state_dict({k.removeprefix("pooler."): v for k, v in theirs.state_dict().items() if "pooler" in k})
    segments = torch.randint(0, 3, IDS.shape)
    wanted = theirs(IDS, REAL.long(), segments)
    ctx = Context(torch.arange(9).expand(2, 9), REAL[:, None, None])
    made = ours.hidden(ours.embed(IDS), ctx, segments)
    assert close(made[REAL], wanted.last_hidden_state[REAL])
    assert close(pooler(made), wanted.pooler_output)
    plain = ours.hidden(ours.embed(IDS), ctx)
    assert close(plain[REAL], theirs(IDS, REAL.long()).last_hidden_state[REAL])


def writer(width: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    config = transformers.BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    theirs = transformers.BertLMHeadModel(config)
    spec = BertSpec(**(SPEC.__dict__ | {"memory_dim": width}))
    if width != 24:  # as systems do whose pictures are wider than their words
        for layer in theirs.bert.encoder.layer:
            for name in ("key", "value"):
                setattr(layer.crossattention.self, name, torch.nn.Linear(width, 24))
    randomise(theirs)
    ours = bert_decoder(spec, "read")
    ours.load_state_dict(HUB_BERT_HEAD.load(theirs.state_dict()))
    return ours.eval(), theirs


@torch.no_grad()
@pytest.mark.parametrize("width", [24, 10])
def test_decoder_with_cross_attention_equals_transformers(width: int) -> None:
    ours, theirs = writer(width)
    features, seen = torch.randn(2, 7, width), torch.arange(7) < torch.tensor([[7], [3]])
    options = {"encoder_hidden_states": features, "encoder_attention_mask": seen.long()}
    wanted = theirs(IDS, REAL.long(), **options).logits
    ctx = Context(torch.arange(9).expand(2, 9), Causal(), memories={"read": Memory(features, seen.long())})
    assert close(ours.logits(ours.hidden(ours.embed(IDS), ctx))[REAL], wanted[REAL])


def test_published_names_come_back_bitwise() -> None:
    _, theirs = writer(24)
    state = theirs.state_dict()
    back = HUB_BERT_HEAD.save(HUB_BERT_HEAD.load(state))
    assert back.keys() == state.keys() - {"bert.embeddings.position_ids"}
    assert all(torch.equal(back[name], state[name]) for name in back)
    assert bert_head_keys(state) is HUB_BERT_HEAD
    once = {k: v for k, v in state.items() if not k.startswith("cls.predictions.decoder.")}
    assert bert_head_keys(once) is HUB_BERT_HEAD_ONCE
    again = HUB_BERT_HEAD_ONCE.load(once)
    assert all(torch.equal(tensor, HUB_BERT_HEAD.load(state)[name]) for name, tensor in again.items())
    assert HUB_BERT_HEAD_ONCE.save(again).keys() == once.keys()


def test_a_file_whose_head_is_not_its_words_is_refused() -> None:
    _, theirs = writer(24)
    state = dict(theirs.state_dict())
    state["cls.predictions.decoder.weight"] = state["cls.predictions.decoder.weight"] + 1
    with pytest.raises(KeyMismatch, match="one tied tensor"):
        HUB_BERT_HEAD.load(state)


@torch.no_grad()
def test_a_memory_without_slots_gives_nothing() -> None:
    ours = randomise(bert_decoder(SPEC, "read"))
    ctx = Context(torch.arange(9).expand(2, 9), Causal())
    hidden = []
    for slots in (0, 4):
        memory = Memory(torch.randn(2, slots, 24), torch.zeros(2, slots, dtype=torch.long))
        now = Context(ctx.positions_BT, ctx.visible, memories={"read": memory})
        hidden.append(ours.hidden(ours.embed(IDS), now))
    assert hidden[0].isfinite().all()
    assert close(*hidden)
