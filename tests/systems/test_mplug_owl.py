"""mPLUG-Owl against goldens of X-PLUG/mPLUG-Owl."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scops.core.batch import Batch
from scops.data.collate import pad
from scops.systems import mplug_owl
from tests.conftest import Golden, batch_of, close, example, randomise
from tests.twins import come_back_bitwise, published, rows_stand_alone


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("owl1")


@pytest.fixture(scope="module")
def spec(golden: Golden) -> mplug_owl.Spec:
    return mplug_owl.spec_of(golden.config | {"model_type": "mplug-owl"})


@pytest.fixture(scope="module")
def system(golden: Golden, spec: mplug_owl.Spec) -> torch.nn.Module:
    return published(mplug_owl, spec, golden.weights)


@pytest.fixture(scope="module")
def batch(golden: Golden) -> Batch:
    """The golden's ids, where a picture is a run of -1, as the processor would have given them."""
    pictures, rows = iter(golden.inputs["pixel_values"]), []
    length = golden.config["num_query_tokens"] + 1
    for ids, mask in zip(golden.inputs["input_ids"], golden.inputs["attention_mask"], strict=True):
        ids = ids[mask.bool()]
        starts = [t for t in range(len(ids)) if ids[t] < 0 and (t == 0 or ids[t - 1] >= 0)]
        taken = [next(pictures) for _ in starts]
        rows.append(example(ids.clamp(min=0).tolist(), tuple((t, length) for t in starts), taken))
    return pad(rows, pad_id=0, multiple=golden.inputs["input_ids"].shape[1])  # both rows end in padding


@torch.no_grad()
def test_every_probe_equals_the_reference(golden: Golden, system: torch.nn.Module, batch: Batch) -> None:
    pixels, out = golden.inputs["pixel_values"], golden.outputs
    encoder = system.image.encoder
    assert close(encoder.embed(pixels), out["vision_embeddings"])
    assert close(encoder(pixels), out["vision_last_hidden_state"])
    assert close(encoder.post_norm(encoder(pixels)[:, 0]), out["vision_pooler_output"])
    assert close(system.connect(batch)["image"], out["abstractor_last_hidden_state"])
    assert close(system.read(batch)[0], out["inputs_embeds"])
    assert close(system.masked(batch), out["logits"])
    assert close(system(batch), out["logits_no_mask"])


@torch.no_grad()
def test_loss_over_the_golden_s_labels_equals_the_reference(
    golden: Golden, system: torch.nn.Module, batch: Batch
) -> None:
    targets = golden.outputs["labels"][:, 1:]
    predicted = system(batch)[:, :-1]
    loss = torch.nn.functional.cross_entropy(predicted.flatten(0, 1), targets.flatten(), ignore_index=-100)
    assert close(loss[None], golden.outputs["loss_no_mask"])


@torch.no_grad()
def test_abstractor_alone_equals_the_reference_with_and_without_key_mask() -> None:
    golden = Golden("owl1_abstractor")
    config = golden.config["visual_abstractor_config"]
    sizes = {
        "dim": "hidden_size",
        "hidden": "intermediate_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
    }
    spec = mplug_owl.AbstractorSpec(
        **{ours: config[theirs] for ours, theirs in sizes.items()},
        queries=golden.config["num_query_tokens"], eps=config["layer_norm_eps"],
    )  # fmt: skip
    connector = mplug_owl.VisualAbstractor(spec, out=golden.config["language_hidden_size"])
    queries = golden.inputs["query_embeds"]
    weights = mplug_owl.ABSTRACTOR.load(golden.weights)
    features, mask = golden.inputs["encoder_hidden_states"], golden.inputs["encoder_attention_mask"].bool()
    for row in range(len(queries)):
        connector.load_state_dict(weights | {"queries": queries[row : row + 1]})
        made = connector(features)[row], connector(features, mask)[row]
        assert close(made[0], golden.outputs["last_hidden_state"][row])
        assert close(made[1], golden.outputs["last_hidden_state_masked"][row])
        assert close(connector.layers[0](queries, features)[row], golden.outputs["layer0_output"][row])


def test_keys_round_trip_bitwise(golden: Golden, spec: mplug_owl.Spec) -> None:
    assert come_back_bitwise(mplug_owl.KEYS["authors"](spec), golden.weights, but="inv_freq")


def test_full_size_has_the_published_count_and_names() -> None:
    spec = mplug_owl.SIZES["mplug-owl-llama-7b"]
    with torch.device("meta"):
        system = mplug_owl.build(spec)
    assert sum(p.numel() for p in system.parameters()) == 7_123_068_928
    assert sum(p.numel() for p in system.image.encoder.parameters()) == 303_179_776
    assert sum(p.numel() for p in system.image.connector.parameters()) == 81_408_000 + 65_536
    assert sum(p.numel() for p in system.language.parameters()) == 6_738_415_616
    published = mplug_owl.KEYS["authors"](spec).save(system.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    assert shapes["query_tokens"] == (1, 64, 1024)
    assert shapes["vision_model.embeddings.position_embedding"] == (1, 257, 1024)
    assert shapes["vision_model.encoder.layers.23.self_attn.query_key_value.weight"] == (3072, 1024)
    assert shapes["abstractor.encoder.layers.5.crossattention.output.mlp.w2.weight"] == (1024, 2816)
    assert shapes["abstractor.visual_fc.weight"] == (4096, 1024)
    assert shapes["abstractor.vit_eos"] == (1, 1, 4096)
    assert shapes["language_model.model.layers.31.mlp.gate_proj.weight"] == (11008, 4096)
    assert shapes["language_model.lm_head.weight"] == (32000, 4096)


TINY = mplug_owl.Spec(
    mplug_owl.VitSpec(dim=24, hidden=40, layers=2, heads=3, image=14, patch=7, eps=1e-6),
    mplug_owl.AbstractorSpec(dim=24, hidden=20, layers=2, heads=3, queries=3),
    mplug_owl.LlamaSpec(dim=24, hidden=36, layers=2, heads=4, kv_heads=2, vocab=53),
)
ROOM = 4  # tokens of one picture in TINY


def picture() -> Tensor:
    return torch.randn(3, 14, 14)


ROWS = {
    "first": ([0] * ROOM + [5, 6, 7], (0,)),
    "last": ([1, 9, 8, 7, *[0] * ROOM], (4,)),
    "adjacent": ([1, 3, *[0] * ROOM, *[0] * ROOM, 4], (2, 6)),
    "several": ([1, *[0] * ROOM, 2, 3, *[0] * ROOM, 4, *[0] * ROOM, 8], (1, 7, 12)),
    "none": ([1, 2, 3, 4, 5], ()),
    "alone": ([0] * ROOM, (0,)),
}


def rows() -> dict:
    return {
        name: example(ids, tuple((s, ROOM) for s in starts), [picture() for _ in starts])
        for name, (ids, starts) in ROWS.items()
    }


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone() -> None:
    assert rows_stand_alone(randomise(mplug_owl.build(TINY)), rows())


@torch.no_grad()
def test_adjacent_pictures_both_reach_the_text() -> None:
    system, one = randomise(mplug_owl.build(TINY)), rows()["adjacent"]
    before = system(batch_of(one))[0, -1]
    for changed in range(2):
        pictures = list(one.media["image"])
        pictures[changed] = picture().numpy()
        after = system(batch_of(replace(one, media={"image": tuple(pictures)})))[0, -1]
        assert (after - before).abs().max() > 1e-3, f"picture {changed} does not matter"
