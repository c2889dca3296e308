"""BLIP-2's first stage against its golden of salesforce/LAVIS, and live against transformers."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor

from scops.connectors.qformer import QFormerSpec
from scops.core.batch import Batch, Example, Span
from scops.encoders.eva import EvaSpec
from scops.models.query_pairs import QueryPairs
from scops.objectives import COUNTS, OBJECTIVES
from scops.systems import blip2_qformer
from tests.conftest import Golden, batch_of, close, randomise
from tests.twins import come_back_bitwise

ALL = "contrastive+matching+generation"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("blip2_stage1")


@pytest.fixture(scope="module")
def spec(golden: Golden) -> blip2_qformer.Spec:
    config, bert = golden.config, golden.config["qformer"]
    tower = EvaSpec(dim=bert["encoder_width"], hidden=20, layers=1, heads=2, image=6, patch=2)  # the golden has none
    qformer = QFormerSpec(
        dim=bert["hidden_size"], hidden=bert["intermediate_size"], layers=bert["num_hidden_layers"],
        heads=bert["num_attention_heads"], queries=bert["num_query_token"], width=bert["encoder_width"],
        every=bert["cross_attention_freq"], vocab=bert["vocab_size"], context=bert["max_position_embeddings"],
    )  # fmt: skip
    return blip2_qformer.Spec(tower, qformer, replace(blip2_qformer.PAIRING, space=config["embed_dim"]), opens=1)


@pytest.fixture(scope="module")
def system(golden: Golden, spec: blip2_qformer.Spec) -> QueryPairs:
    system = randomise(blip2_qformer.build(spec))
    ours = blip2_qformer.KEYS["authors"](spec).load(golden.weights)
    missing, unexpected = system.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(path.startswith("image.encoder.") for path in missing)
    return system


def batch_with(golden: Golden, names: list[str]) -> Batch:
    """The golden's rows as the processor writes them, [DEC] first; pictures known by these names."""
    opening, rows = golden.config["bos_token_id"], []
    for ids, mask in zip(golden.inputs["input_ids"], golden.inputs["attention_mask"], strict=True):
        line = np.array([opening, *ids[mask.bool()].tolist()[1:]])
        rows.append(Example(line, np.arange(len(line)) > 0, (Span("image", 1, 0),)))
    made = batch_of(*rows)
    return replace(made, features={"image": golden.inputs["image_features"]}, digests={"image": tuple(names)})


@pytest.fixture(scope="module")
def batch(golden: Golden) -> Batch:
    return batch_with(golden, [f"picture {number}" for number in range(4)])


@pytest.fixture
def hardest(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Negatives are not drawn but the likeliest, as in the golden; which they are."""
    found: list[Tensor] = []

    def likeliest(scores_NW: Tensor, may_NW: Tensor, floor: float) -> Tensor:
        found.append(scores_NW.masked_fill(~may_NW, -torch.inf).argmax(-1))
        return found[-1]

    monkeypatch.setattr(import_module("scops.objectives.matching"), "drawn", likeliest)
    return found


@torch.no_grad()
def test_every_probe_equals_the_reference(golden: Golden, system: QueryPairs, batch: Batch) -> None:
    out, pictures = golden.outputs, system.connect(batch)["image"]
    assert close(system.qformer(pictures), out["query_output"])
    assert close(system.picture_vectors(pictures), out["image_feats"])
    texts = system.texts(*system.captions(batch))
    assert torch.equal(texts.ids_NT, golden.inputs["input_ids"])
    assert close(system.text_vectors(texts), out["text_feat"])
    assert close(system.similarities(batch) / system.temperature, out["sim_i2t"])
    assert close(system.similarities(batch).T / system.temperature, out["sim_t2i"])
    picture_R = torch.cat([torch.arange(4), out["neg_image_idx"], torch.arange(4)])
    text_R = torch.cat([torch.arange(4), torch.arange(4), out["neg_text_idx"]])
    said = system.verdicts(pictures[picture_R], texts.select(text_R))
    assert close(said, out["itm_logits"])
    assert close(system.matches(batch), out["itm_logits"][:4].softmax(-1)[:, 1])
    real = golden.inputs["attention_mask"].bool()
    assert close(system(batch)[real], out["lm_logits"][real])


@pytest.mark.parametrize("case", ["", "with_image_id."])
def test_losses_and_negatives_equal_the_reference(
    golden: Golden, system: QueryPairs, batch: Batch, hardest: list[Tensor], case: str
) -> None:
    """Pairs of one picture are told by its content; the golden names two pictures alike in its second case."""
    if case:
        batch = batch_with(golden, [f"picture {number}" for number in golden.config["image_ids"]])
    with torch.enable_grad():
        loss = OBJECTIVES[ALL](system, batch, {})
    out = golden.outputs
    assert (loss.count, loss.unit, COUNTS[ALL](batch)) == (4, "pair", 4)
    assert torch.equal(hardest[0], out[case + "neg_image_idx"])
    assert torch.equal(hardest[1], out[case + "neg_text_idx"])
    for ours, theirs in (("contrastive", "itc"), ("matching", "itm"), ("generation", "lm")):
        total, count = loss.parts[ours]
        assert close(total[None] / count, out[f"{case}loss_{theirs}"])
    assert close(loss.sum.detach()[None] / 4, out[case + "loss"])


def test_keys_round_trip_bitwise(golden: Golden, spec: blip2_qformer.Spec) -> None:
    assert come_back_bitwise(blip2_qformer.KEYS["authors"](spec), golden.weights, but="position_ids")
