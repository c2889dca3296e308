"""One whole pre-training step of ALBEF: losses, negatives, queues, shadow weights and gradients as the reference's."""

# N pairs, T tokens, P features per picture, D width
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scops.checkpoints.hub_bert import (
    BEHIND_WORDS,
    OUR_WORDS,
    TRANSFORM,
    WORDS,
    bert_layer,
)  # fmt: skip
from scops.checkpoints.keymap import KeyMap, Repeated, rule, same, split
from scops.core.batch import Example, Span
from scops.core.pairs import Pairing, Texts
from scops.data.collate import pad
from scops.encoders.vit import VitSpec, block
from scops.language.bert import Bert, BertHead, BertSpec, cross_block, self_block
from scops.models.beside import Beside
from scops.models.decoder import MediaInput
from scops.models.encoder_decoder import EncoderDecoder
from scops.models.pairs import PairHeads
from scops.nn.context import Context, Memory
from scops.objectives import OBJECTIVES
from scops.objectives.queue import AT, PICTURES, TEXTS
from scops.objectives.shadow import PREFIX
from tests.conftest import Golden, close


class Tower(nn.Module):
    """timm's vision transformer, for pictures of any shape."""

    def __init__(self, spec: VitSpec, patches: int):
        super().__init__()
        self.patch = nn.Conv2d(3, spec.dim, spec.patch, spec.patch)
        self.cls, self.positions = (nn.Parameter(torch.zeros(1, n, spec.dim)) for n in (1, 1 + patches))
        self.blocks = nn.ModuleList(block(spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.dim, spec.eps)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(pixels), -1, -1), patches], 1) + self.positions
        for layer in self.blocks:
            x = layer(x, Context())
        return self.norm(x)


class Encoder(nn.Module):
    def __init__(self, spec: BertSpec, alone: int):
        super().__init__()
        self.text = Bert(spec, (self_block(spec) for _ in range(alone)))
        self.fusion = nn.ModuleList(cross_block(spec, "image") for _ in range(spec.layers - alone))

    @property
    def words(self) -> Tensor:
        return self.text.embeddings.words.weight

    def read(self, ids: Tensor, real: Tensor) -> Tensor:
        ctx = Context(torch.arange(ids.shape[1]).expand_as(ids), real[:, None, None])
        return self.text.hidden(self.text.embed(ids), ctx)

    def fused(self, texts: Texts, pictures: Tensor) -> Tensor:
        memory = Memory(pictures, torch.ones(pictures.shape[:2], dtype=torch.long))
        ctx, x = Context(visible=texts.real_NT[:, None, None], memories={"image": memory}), texts.states_NTD
        for layer in self.fusion:
            x = layer(x, ctx)
        return x


def keys(alone: int, layers: int) -> KeyMap:
    """Of the model and, with `_m` taken away, of its momentum copies."""
    vit, ours, bert = "visual_encoder.blocks.{i}.", "image.encoder.blocks.{i}.", "text_encoder."
    text = [bert_layer(f"bert.encoder.layer.{n}.", f"encoder.text.blocks.{n}.") for n in range(alone)]
    fusion = [bert_layer(f"bert.encoder.layer.{n}.", f"encoder.fusion.{n - alone}.") for n in range(alone, layers)]
    words, bias = (
        ("bert." + WORDS, "cls.predictions.decoder.weight"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    )
    head = KeyMap(same(r.theirs[0], r.ours[0].replace("head.", "pairs.words.")) for r in TRANSFORM)
    return KeyMap(
        same("visual_encoder.cls_token", "image.encoder.cls"),
        same("visual_encoder.pos_embed", "image.encoder.positions"),
        same("visual_encoder.patch_embed.proj.{w}", "image.encoder.patch.{w}"),
        same("visual_encoder.norm.{w}", "image.encoder.norm.{w}"),
        same(vit + "norm1.{w}", ours + "attn.norm.{w}"),
        split(vit + "attn.qkv.{w}", [ours + f"attn.body.{n}.{{w}}" for n in "qkv"]),
        same(vit + "attn.proj.{w}", ours + "attn.body.o.{w}"),
        same(vit + "norm2.{w}", ours + "mlp.norm.{w}"),
        same(vit + "mlp.fc1.{w}", ours + "mlp.body.up.{w}"),
        same(vit + "mlp.fc2.{w}", ours + "mlp.body.down.{w}"),
        rule(tuple(bert + name for name in words), ("encoder.text." + OUR_WORDS,), Repeated(2)),
        rule(tuple(bert + name for name in bias), ("pairs.words.bias",), Repeated(2)),
        KeyMap(*text, *fusion, head, BEHIND_WORDS.under("bert.", "encoder.text.")).under(bert),
        same("vision_proj.{w}", "pairs.picture.{w}"),
        same("text_proj.{w}", "pairs.text.{w}"),
        same("itm_head.{w}", "pairs.match.{w}"),
        same("temp", "pairs.temperature.value"),
    )


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("albef")


def test_a_step_of_albef_equals_the_reference(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, text, weights = golden.config["config"], golden.config["bert"], golden.weights
    spec = BertSpec(dim=32, hidden=64, layers=4, heads=4, vocab=97, context=24)
    pairing = Pairing(
        space=numbers["embed_dim"],
        queue=numbers["queue_size"],
        momentum=numbers["momentum"],
        alpha=golden.config["alpha"],
    )
    tower = Tower(VitSpec(dim=32, hidden=128, layers=2, heads=4, patch=16, eps=1e-6, activation="gelu"), 6)
    system = EncoderDecoder(
        Encoder(spec, text["fusion_layer"]), nn.Identity(),
        pairs=PairHeads(pairing, picture_dim=32, text_dim=32, words=BertHead(spec)),
        image=MediaInput(tower, nn.Identity(), Beside("image")),
    )  # fmt: skip
    names, queues = keys(text["fusion_layer"], 4), ("image_queue", "text_queue", "queue_ptr")
    own = {k: v for k, v in weights.items() if "_m." not in k and k not in queues}
    system.load_state_dict(names.load(own))
    followed = names.load({k.replace("_m.", "."): v for k, v in weights.items() if "_m." in k})
    state = {PREFIX + path: tensor.clone() for path, tensor in (system.state_dict() | followed).items()}
    state |= {PICTURES: weights["image_queue"].T[:, None].clone(), TEXTS: weights["text_queue"].T.clone()}
    state[AT] = weights["queue_ptr"][0].clone()

    inputs, out = golden.inputs, golden.outputs

    def hardest(scores: Tensor, may: Tensor, floor: float) -> Tensor:
        return scores.softmax(-1).masked_fill(~may, 0).argmax(-1)

    monkeypatch.setattr(import_module("scops.objectives.matching"), "drawn", hardest)
    shown, labels = inputs["mlm_input_ids"], inputs["mlm_labels"]
    monkeypatch.setattr(
        import_module("scops.objectives.masked"), "mask_words", lambda ids, real, **_: (shown, labels != -100)
    )
    rows = []
    for number, (ids, mask, picture) in enumerate(
        zip(inputs["input_ids"], inputs["attention_mask"], inputs["image"], strict=True)
    ):
        line = np.array([0, *ids[mask.bool()].tolist()])  # a prompt of one token
        media = {"image": (picture.numpy(),)}
        rows.append(Example(line, line > 0, (Span("image", 0, 0),), media, {"image": (str(number),)}, reply=1))
    loss = OBJECTIVES["contrastive+matching+masked"](system, pad(rows, pad_id=0), state)
    loss.sum.div(loss.count).backward()

    assert (loss.count, loss.unit) == (4, "pair")
    for name, theirs in {"contrastive": "loss_ita", "matching": "loss_itm", "masked": "loss_mlm"}.items():
        total, count = loss.parts[name]
        assert close(total / count, out[theirs])
    assert close(state[PICTURES][:, 0].T, out["new_image_queue"])
    assert close(state[TEXTS].T, out["new_text_queue"])
    assert int(state[AT]) == int(out["new_queue_ptr"])
    assert close(
        state[PREFIX + "image.encoder.blocks.0.mlp.body.up.weight"], out["ema.visual_encoder_m.blocks.0.mlp.fc1.weight"]
    )
    assert close(state[PREFIX + "pairs.text.weight"], out["ema.text_proj_m.weight"])
    assert close(state[PREFIX + "pairs.words.bias"], out["ema.text_encoder_m.cls.predictions.bias"])
    grads = {path: p.grad for path, p in system.named_parameters()}
    assert close(grads["pairs.temperature.value"], out["grad.temp"])
    assert close(grads["pairs.picture.weight"], out["grad.vision_proj.weight"])
    assert close(grads["pairs.text.bias"], out["grad.text_proj.bias"])
    assert close(grads["pairs.match.weight"], out["grad.itm_head.weight"])
    assert close(grads["image.encoder.positions"], out["grad.visual_encoder.pos_embed"])
    qkv = torch.cat([grads[f"image.encoder.blocks.0.attn.body.{n}.weight"] for n in "qkv"])
    assert close(qkv, out["grad.visual_encoder.blocks.0.attn.qkv.weight"])
    query = "text_encoder.bert.encoder.layer.0.attention.self.query.weight"
    assert close(grads["encoder.text.blocks.0.attn.body.q.weight"], out["grad." + query])
    key = "text_encoder.bert.encoder.layer.2.crossattention.self.key.weight"
    assert close(grads["encoder.fusion.0.cross.body.k.weight"], out["grad." + key])
    assert close(grads["pairs.words.bias"], out["grad.text_encoder.cls.predictions.bias"])
