"""mPLUG against its reference's text encoder, fusion encoder and decoder."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scops.encoders.vit import VitSpec
from scops.language.bert import BertSpec
from scops.models.encoder_decoder import READ
from scops.nn.context import Context, Memory
from scops.ops.masks import Causal
from scops.systems import mplug
from tests.conftest import Golden, close, randomise

GOLDEN = "mplug_fusion"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(GOLDEN)


@pytest.fixture(scope="module")
def spec(golden: Golden) -> mplug.Spec:
    config, text = golden.config, golden.config["bert"]
    return mplug.Spec(
        VitSpec(dim=text["encoder_width"], hidden=20, layers=1, heads=2, image=8, patch=4),  # the golden has no tower
        mplug.FusionSpec(config["num_hidden_layers"], config["fusion_layers"], config["stride_layer"]),
        BertSpec(
            dim=text["hidden_size"], hidden=text["intermediate_size"], layers=config["text_decode_layers"],
            heads=text["num_attention_heads"], vocab=text["vocab_size"], context=text["max_position_embeddings"],
            segments=text["type_vocab_size"], eps=text["layer_norm_eps"],
        ),
        reading=config["text_encoder_layers"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def system(golden: Golden, spec: mplug.Spec) -> torch.nn.Module:
    system = randomise(mplug.build(spec))
    ours = mplug.KEYS["authors"](spec).load(golden.weights)
    missing, unexpected = system.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(path.startswith("image.encoder.") for path in missing)
    return system


@torch.no_grad()
def test_every_probe_equals_the_reference(golden: Golden, system: torch.nn.Module) -> None:
    inputs, wanted = golden.inputs, golden.outputs
    real, embeds = inputs["attention_mask"].bool(), inputs["image_embeds"]
    text = system.encoder.read(inputs["input_ids"], real)
    assert close(text, wanted["text_last_hidden_state"])
    pictures = Memory(embeds, torch.ones(embeds.shape[:2], dtype=torch.long))
    fused_image, fused_text = system.encoder.fusion(text, real, pictures)
    assert close(fused_image.features_BSD, wanted["fused_image"])
    assert close(fused_text, wanted["fused_text"])
    memory = system.encoder(inputs["input_ids"], real, {"image": pictures})
    answers, answered = inputs["answer_ids"], inputs["answer_mask"].bool()
    positions = torch.arange(answers.shape[1]).expand_as(answers)
    ctx = Context(positions, Causal(), memories={READ: memory})
    logits = system.head(system.decoder.hidden(system.embed(answers), ctx))
    assert close(logits[answered], wanted["decoder_logits"][answered])
    targets = answers.masked_fill(~answered, -100)[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
    assert close(losses.sum(1), wanted["decoder_loss"])
