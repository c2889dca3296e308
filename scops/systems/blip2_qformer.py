"""BLIP-2, stage 1 (arXiv 2301.12597, section 3.2; salesforce/LAVIS, lavis/models/blip2_models/blip2_qformer.py).

A frozen tower and a Q-Former that compares pictures with texts and writes captions. What stage 2 goes on with is the Q-Former.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from scops.checkpoints.hub_bert import TRANSFORM, WORDS
from scops.checkpoints.hub_clip import OPENAI_CLIP
from scops.checkpoints.hub_eva import HUB_EVA, LAVIS_EVA, eva_config, eva_spec
from scops.checkpoints.hub_qformer import HUB_QFORMER, LAVIS_QFORMER, qformer_config, qformer_spec
from scops.checkpoints.keymap import KeyMap, Repeated, rule, same
from scops.connectors.qformer import QFormer, QFormerSpec
from scops.core.layout import Always, Layout, MediaLayout, Slot
from scops.core.pairs import Pairing
from scops.core.stage import Stage
from scops.core.template import Role, Special, Template
from scops.data.tokenizer import Tokenizer
from scops.encoders.eva import EvaSpec, EvaVit
from scops.encoders.vit import Vit, VitSpec
from scops.language.bert import BertHead
from scops.models.beside import Beside
from scops.models.decoder import MediaInput
from scops.models.pairs import PairHeads
from scops.models.query_pairs import QueryPairs
from scops.nn.temperature import FixedTemperature
from scops.systems import Origins, Published, lavis
from scops.systems.mplug_owl import squares

TITLE = (
    "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language Models (stage 1)"
)
PAPER = "arXiv 2301.12597"

PAIRING = Pairing(
    momentum=0.0, queue=0, alpha=0.0, smoothing=0.1, lm_smoothing=0.1, likeness=1.0, coldest=0.0, warmest=1e9
)
"""No shadow and no queue; the temperature is never held."""


@dataclass(frozen=True)
class Spec:
    """Args:
    writes: False where neither a head that writes nor a temperature is kept, as in transformers' folders: it only compares.
    opens: the id of [CLS], the first token of a text that is read; one that is written begins with [DEC].
    eps: of the norm behind the tower.
    """

    vision: EvaSpec | VitSpec = field(default_factory=EvaSpec)
    qformer: QFormerSpec = field(default_factory=lambda: QFormerSpec(vocab=30523))
    pairing: Pairing = PAIRING
    writes: bool = True
    opens: int = 101
    eps: float = 1e-5


CLIP_L = VitSpec(layers=23)  # without the last block and the last norm
SIZES = {
    "blip2-qformer": Spec(),
    "blip2-qformer-vitl": Spec(CLIP_L, QFormerSpec(width=1024, vocab=30523)),
    "blip2-qformer-coco": Spec(EvaSpec(image=364)),
}


def build(spec: Spec) -> QueryPairs:
    text = spec.qformer.bert
    tower = EvaVit(spec.vision) if isinstance(spec.vision, EvaSpec) else Vit(spec.vision, post_norm=nn.Identity())
    heads = PairHeads(
        spec.pairing, picture_dim=text.dim, text_dim=text.dim, words=None,
        temperature=None if spec.writes else FixedTemperature(spec.pairing.temperature),
    )  # fmt: skip
    return QueryPairs(
        MediaInput(tower, nn.LayerNorm(spec.vision.dim, spec.eps), Beside("image")),
        QFormer(spec.qformer),
        heads,
        lm_head=BertHead(text) if spec.writes else None,
        opens=spec.opens,
    )


def vocabulary(spec: Spec) -> int:
    """Also of a system without a head that writes."""
    return spec.qformer.vocab


def told_by(spec: Spec, tokenizer: Tokenizer) -> Spec:
    """No published configuration says which id opens a text."""
    return replace(spec, opens=tokenizer.id_of("[CLS]"))


# How published --------------------------------------------------------------------------------------------------------

HEADS = KeyMap(same("itm_head.{w}", "pairs.match.{w}"), same("query_tokens", "qformer.queries"))


def authors(spec: Spec) -> KeyMap:
    """Blip2Qformer."""
    tower = LAVIS_EVA if isinstance(spec.vision, EvaSpec) else OPENAI_CLIP
    cls = "Qformer.cls.predictions."
    words = rule(("Qformer.bert." + WORDS, cls + "decoder.weight"), ("qformer.words.weight",), Repeated(2))
    return KeyMap(
        tower.under("visual_encoder.", "image.encoder."),
        same("ln_vision.{w}", "image.connector.{w}"),
        words if spec.writes else (),
        rule((cls + "bias", cls + "decoder.bias"), ("lm_head.bias",), Repeated(2)),
        TRANSFORM.under("Qformer.", "lm_"),
        LAVIS_QFORMER.under("Qformer.bert.", "qformer."),
        HEADS,
        same("vision_proj.{w}", "pairs.picture.{w}"),
        same("text_proj.{w}", "pairs.text.{w}"),
        same("temp", "pairs.temperature.value"),
    )


def transformers(spec: Spec) -> KeyMap:
    """Blip2ForImageTextRetrieval, which has words outside of the Q-Former, nothing that writes, and EVA-CLIP's tower alone."""
    return KeyMap(
        HUB_EVA.under("vision_model.", "image.encoder."),
        same("vision_model.post_layernorm.{w}", "image.connector.{w}"),
        same("embeddings.word_embeddings.weight", "qformer.words.weight"),
        same("embeddings.position_embeddings.weight", "qformer.positions.weight"),
        HUB_QFORMER.under("qformer.", "qformer."),
        HEADS,
        same("vision_projection.{w}", "pairs.picture.{w}"),
        same("text_projection.{w}", "pairs.text.{w}"),
    )


KEYS = {"authors": authors, "transformers": transformers}
ADDED = ("[DEC]",)


def parts(spec: Spec) -> dict[str, tuple[Published, ...]]:
    """The frozen tower, in a file of its own: eva_vit_g.pth or clip_vit_L.pth."""
    if isinstance(spec.vision, EvaSpec):
        return {"image.encoder": (lavis.tower(spec.vision),)}
    blocks = tuple(f"transformer.resblocks.{number}" for number in range(spec.vision.layers))
    stem = ("class_embedding", "positional_embedding", "conv1", "ln_pre")
    return {"image.encoder": (Published(OPENAI_CLIP, stem + blocks),)}


ARCHS = ("blip2", "blip2_feature_extractor", "blip2_image_text_matching", "pretrain", "coco")
RETRIEVAL = "Blip2ForImageTextRetrieval"
TOWERS: dict[str, EvaSpec | VitSpec] = {"eva_clip_g": EvaSpec(), "clip_L": CLIP_L}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that a published configuration means; None when it is another system's.

    LAVIS': the `model` section of a YAML with the BERT's own configuration as `qformer`. `vision`, in place of `vit_model`, is
    ours, for towers that have no name. transformers': a config.json of its retrieval model.
    """
    if config.get("model_type") == "blip-2" and RETRIEVAL in (config.get("architectures") or ()):
        return _of_transformers(config)
    if config.get("arch") not in ARCHS or "num_query_token" not in config:
        return None
    name = config.get("vit_model", "eva_clip_g")
    if name not in TOWERS and "vision" not in config:
        raise ValueError(f"vit_model is {name!r}; BLIP-2 has {', '.join(TOWERS)}")
    told = config.get("vision", {})
    tower = (EvaSpec(**told) if name == "eva_clip_g" else VitSpec(**told)) if told else TOWERS[name]
    tower = replace(tower, image=config.get("image_size", tower.image))
    bert = config.get("qformer", {})
    qformer = _qformer({"vocab_size": 30523} | bert, config["num_query_token"], tower.dim,
                       every=config.get("cross_attention_freq", 2))  # fmt: skip
    pairing = replace(PAIRING, space=config.get("embed_dim", 256))
    return Spec(tower, qformer, pairing, eps=config.get("ln_vision_eps", 1e-5))


def _of_transformers(config: Mapping[str, Any]) -> Spec:
    vision, bert = config.get("vision_config", {}), config.get("qformer_config", {})
    tower = eva_spec(vision)
    queries, every = config.get("num_query_tokens", 32), bert.get("cross_attention_frequency", 2)
    pairing = replace(PAIRING, space=config.get("image_text_hidden_size", 256))
    qformer = _qformer(bert, queries, tower.dim, every=every)
    return Spec(tower, qformer, pairing, writes=False, eps=tower.eps)


def _qformer(bert: Mapping[str, Any], queries: int, width: int, *, every: int) -> QFormerSpec:
    if bert.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"this Q-Former has the activation {bert['hidden_act']!r}; a BERT's is 'gelu'")
    asked = {**bert, "encoder_hidden_size": width, "cross_attention_frequency": every}
    return qformer_spec(asked, queries=queries, words=30522)


def authors_config(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of` for LAVIS' form."""
    vision, qformer = spec.vision, spec.qformer
    name = "eva_clip_g" if isinstance(vision, EvaSpec) else "clip_L"
    known = replace(TOWERS[name], image=vision.image) == vision
    return {
        "arch": "blip2", "vit_model": name, "image_size": vision.image, "num_query_token": qformer.queries,
        "cross_attention_freq": qformer.every, "embed_dim": spec.pairing.space,
        "ln_vision_eps": spec.eps, "qformer": {**qformer_config(qformer), "hidden_act": "gelu"},
        **({} if known else {"vision": asdict(vision)}),
    }  # fmt: skip


def transformers_config(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of` for transformers' form."""
    assert isinstance(spec.vision, EvaSpec), "transformers has EVA-CLIP's tower alone"
    return {
        "architectures": [RETRIEVAL], "model_type": "blip-2", "num_query_tokens": spec.qformer.queries,
        "image_text_hidden_size": spec.pairing.space,
        "vision_config": {"model_type": "blip_2_vision_model", **eva_config(spec.vision)},
        "qformer_config": {
            "model_type": "blip_2_qformer", "use_qformer_text_input": True, "hidden_act": "gelu", **qformer_config(spec.qformer),
        },
    }  # fmt: skip


CONFIGS = {"authors": authors_config, "transformers": transformers_config}


# How read -------------------------------------------------------------------------------------------------------------

TEMPLATE = Template(
    {"system": Role(), "user": Role(), "assistant": Role(after=(Special("[SEP]"),))},
    start=(Special("[DEC]"),),
    stops=("[SEP]",),
)


def layout(spec: Spec) -> Layout:
    """A row is one text, [DEC] ... [SEP]; words of the user begin the caption that is written."""
    slot = Always((Slot("image", 0),))
    return Layout(TEMPLATE, {"image": MediaLayout(squares(spec.vision.image), slot)}, spec.qformer.context)


# How trained ----------------------------------------------------------------------------------------------------------

OBJECTIVE = "contrastive+matching+generation"
STAGE1 = Stage(
    "stage1", train=("image.connector", "qformer", "pairs", "lm_head"), data=("pairs",), objective=OBJECTIVE,
    steps=250_000, batch=1680, lr=1e-4, min_lr=1e-5, warmup=2_000, betas=(0.9, 0.98), weight_decay=0.05, clip=None,
    overrides={"vision": {"image": 224}},
    source="arXiv 2301.12597 section 3.4 (min_lr: LAVIS' pretrain_stage1.yaml); pairs: 129M pictures of COCO, "
    "VG, CC3M, CC12M, SBU and LAION-400M, captions of BLIP's CapFilt; texts of 32 tokens at most",
)  # fmt: skip
CODE = replace(
    STAGE1, steps=8_350, batch=1600, warmup=5_000, betas=(0.9, 0.999),
    source="LAVIS lavis/projects/blip2/train/pretrain_stage1.yaml, 100 pairs on each of 16 devices, 10 epochs; steps worked "
    "out for the 567K and 769K pairs of COCO and VG; warm-up from 1e-6",
)  # fmt: skip
LAYERS, DECAY = 39, 0.95


def decayed(lr: float) -> dict[str, float]:
    """The tower's learning rates: each block 0.95 of the one above it, the embeddings 0.95 of the first block."""
    stem = {f"image.encoder.{name}": lr * DECAY ** (LAYERS + 1) for name in ("patch", "cls", "positions")}
    return stem | {f"image.encoder.blocks.{i}": lr * DECAY ** (LAYERS - i) for i in range(LAYERS)}


COCO = Stage(
    "coco", train=("image", "qformer", "pairs", "lm_head"), data=("pairs",), objective=OBJECTIVE, steps=12_650, batch=224,
    lr=1e-5, lr_of=decayed(1e-5), warmup=1_000, weight_decay=0.05, clip=None, overrides={"vision": {"image": 364}},
    source="LAVIS lavis/projects/blip2/train/retrieval_coco_ft.yaml, 14 pairs on each of 16 devices, 5 epochs; "
    "steps worked out for COCO's 567K pairs; warm-up from 1e-8",
)  # fmt: skip
STAGES = {
    "blip2-qformer": (STAGE1,),
    "blip2-qformer-vitl": (replace(STAGE1, batch=2320),),
    "code": (CODE,),
    "blip2-qformer-coco": (COCO,),
}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' or of transformers' instead."""
    return Origins(fresh=("image", "qformer", "pairs", "lm_head"))
