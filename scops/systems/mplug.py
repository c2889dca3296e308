"""mPLUG (arXiv 2205.12005; alibaba/AliceMind, mPLUG): CLIP tower and text encoder -> skip-connected fusion -> decoder."""

# M pictures, P features per picture, D width
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from scops.checkpoints.hub_bert import (
    BEHIND_WORDS,
    HUB_BERT,
    HUB_BERT_HEAD,
    OUR_WORDS,
    WORDS,
    bert_attention,
    bert_feed_forward,
    bert_layer,
)  # fmt: skip
from scops.checkpoints.hub_clip import OPENAI_CLIP
from scops.checkpoints.keymap import KeyMap, Repeated, Rule, dropped, rule, same
from scops.core.layout import Always, Layout, MediaLayout, Pixels, Slot
from scops.core.pairs import Pairing
from scops.core.stage import Stage
from scops.core.template import Role, Special, Template
from scops.encoders.skip_fusion import Fusion, FusionSpec, SkipFusionEncoder
from scops.encoders.vit import Vit, VitSpec
from scops.language.bert import BertHead, BertSpec, bert, bert_decoder
from scops.models.beside import Beside
from scops.models.decoder import MediaInput
from scops.models.encoder_decoder import READ, EncoderDecoder
from scops.models.pairs import PairHeads
from scops.systems import Origins

TITLE = "mPLUG: Effective and Efficient Vision-Language Learning by Cross-modal Skip-connections"
PAPER = "arXiv 2205.12005"


@dataclass(frozen=True)
class Spec:
    """Args:
    text: of all three text stacks; its layers are the decoder's.
    reading: layers of the text encoder.
    pairing: of the heads that compare pictures with texts; None for a model that only writes, as those tuned for VQA.
    """

    vision: VitSpec
    fusion: FusionSpec = field(default_factory=FusionSpec)
    text: BertSpec = field(default_factory=BertSpec)
    reading: int = 6
    pairing: Pairing | None = field(default_factory=Pairing)


CLIP_B16 = VitSpec(dim=768, hidden=3072, layers=12, heads=12, image=256, patch=16)
CLIP_L14 = VitSpec(image=224)
SPREAD = "bilinear"
"""AliceMind mPLUG/models/vit.py resize_pos_embed, from pre-training to what follows it."""
SIZES = {"mplug-base": Spec(CLIP_B16, FusionSpec(stride=3)), "mplug-large": Spec(CLIP_L14)}


def build(spec: Spec) -> EncoderDecoder:
    text, heads = bert(replace(spec.text, layers=spec.reading)), None
    narrow = nn.Identity() if spec.vision.dim == spec.text.dim else Narrowed(spec.vision.dim, spec.text)
    if spec.pairing:
        dim = spec.text.dim
        heads = PairHeads(spec.pairing, picture_dim=dim, text_dim=dim, words=BertHead(spec.text))
    return EncoderDecoder(
        SkipFusionEncoder(text, Fusion(spec.fusion, spec.text)),
        bert_decoder(spec.text, READ),
        pairs=heads,
        image=MediaInput(Vit(spec.vision), narrow, Beside("image")),
    )


class Narrowed(nn.Module):
    """norm(project(x)), where the tower is wider than the text."""

    def __init__(self, dim: int, text: BertSpec):
        super().__init__()
        self.project, self.norm = nn.Linear(dim, text.dim), nn.LayerNorm(text.dim, 1e-12)

    def forward(self, x_MPD: Tensor) -> Tensor:
        return self.norm(self.project(x_MPD))


# How published --------------------------------------------------------------------------------------------------------

CLIP_REST = "CLIP's text side, which mPLUG owns and never reads; a file of CLIP has it"
CLIP_UNREAD = KeyMap(
    dropped("visual.proj", "the projection that `skip_last_layer` skips"),
    *(dropped(name, CLIP_REST) for name in ("positional_embedding", "text_projection", "logit_scale")),
    *(dropped(name, CLIP_REST) for name in ("token_embedding.weight", "ln_final.{w}")),
    *(dropped("transformer.resblocks.{i}." + name, CLIP_REST) for name in ("{part}.{w}", "{part}.{layer}.{w}")),
)


def authors(spec: Spec) -> KeyMap:
    """MPLUG of mPLUG/models/model_vqa_mplug.py; the heads are named as in model_retrieval_mplug.py and FusionForMaskedLM."""
    keys = KeyMap(
        OPENAI_CLIP.under("visual_encoder.visual.", "image.encoder."),
        CLIP_UNREAD.under("visual_encoder."),
        same("visn_fc.{w}", "image.connector.project.{w}"),
        same("visn_layer_norm.{w}", "image.connector.norm.{w}"),
        HUB_BERT.under("text_encoder.", "encoder.text."),
        _fusion(spec).under("fusion_encoder."),
        HUB_BERT_HEAD.under("text_decoder.", "decoder."),
        same("temp", "pairs.temperature.value"),
        same("vision_proj.{w}", "pairs.picture.{w}"),
        same("text_proj.{w}", "pairs.text.{w}"),
        same("itm_head.{w}", "pairs.match.{w}"),
    )
    shadows = {first + "_m" + dot + rest for r in keys for first, dot, rest in (t.partition(".") for t in r.theirs)}
    queues = ("image_queue", "text_queue", "idx_queue", "queue_ptr")
    return KeyMap(
        keys, *(dropped(name, "of a training run: its shadow weights and queues") for name in (*queues, *shadows))
    )


def _fusion(spec: Spec) -> KeyMap:
    """Layer by layer: those before the live ones, and of a joint one the cross-attention, are not used."""
    dead, fusion = spec.fusion.layers - min(spec.fusion.live, spec.fusion.layers), "encoder.fusion."
    rules: list[Rule | Iterable[Rule]] = []
    for number in range(spec.fusion.layers):
        theirs, ours = f"encoder.layer.{number}.", f"{fusion}blocks.{number - dead}."
        if number < dead:
            rules.append(bert_layer(theirs, f"{fusion}unused.blocks.{number}."))
        elif spec.fusion.is_joint(number - dead):
            rules.append(bert_attention(theirs + "attention.", ours + "attn."))
            rules.append(bert_attention(theirs + "crossattention.", f"{fusion}unused.cross.{number - dead}."))
            rules.append(bert_feed_forward(theirs, ours))
        else:
            rules.append(bert_layer(theirs, ours))
    words, bias = (WORDS, "cls.predictions.decoder.weight"), ("cls.predictions.bias", "cls.predictions.decoder.bias")
    if spec.pairing:  # the head that fills in masks is tied to words that nothing else reads
        rules.append(rule(words, (fusion + OUR_WORDS,), Repeated(2)))
        rules.append(rule(bias, ("pairs.words.bias",), Repeated(2)))
        rules.append(same("cls.predictions.transform.dense.{w}", "pairs.words.transform.{w}"))
        rules.append(same("cls.predictions.transform.LayerNorm.{w}", "pairs.words.norm.{w}"))
    else:
        rules.append(same(WORDS, fusion + OUR_WORDS))
    return KeyMap(*rules, BEHIND_WORDS.under(ours=fusion))


KEYS = {"authors": authors}
TOWERS = {"ViT-B-16": CLIP_B16, "ViT-L-14": CLIP_L14}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that the authors' two files mean, read as one: configs/config_bert*.json and the YAML of a task.

    `embed_dim` stands in the YAML of models that compare pictures with texts only; `vision`, in place of `clip_name`, is ours,
    for towers that have no name. None when it is another system's.
    """
    if not {"text_encoder_layers", "fusion_layers", "stride_layer"} <= set(config):
        return None
    name = config.get("clip_name", "")
    if name not in TOWERS and "vision" not in config:
        raise ValueError(f"clip_name is {name!r}; mPLUG has {', '.join(TOWERS)}")
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"this mPLUG has the activation {config['hidden_act']!r}; its text stacks have 'gelu'")
    tower = replace(TOWERS.get(name) or VitSpec(**config["vision"]), image=config["image_res"])
    if config.get("vision_width", tower.dim) != tower.dim:
        raise ValueError(f"vision_width is {config['vision_width']}, but {name or 'the tower'} is {tower.dim} wide")
    text = BertSpec(
        dim=config["hidden_size"], hidden=config["intermediate_size"], layers=config["text_decode_layers"],
        heads=config["num_attention_heads"], vocab=config["vocab_size"], context=config["max_position_embeddings"],
        segments=config["type_vocab_size"], eps=config["layer_norm_eps"],
    )  # fmt: skip
    if config.get("encoder_width", text.dim) != text.dim:
        raise ValueError(
            f"encoder_width is {config['encoder_width']}, but pictures are brought to {text.dim}, as text is"
        )
    fusion = FusionSpec(config["num_hidden_layers"], config["fusion_layers"], config["stride_layer"])
    pairing = None if "embed_dim" not in config else Pairing(
        space=config["embed_dim"], temperature=config["temp"], momentum=config["momentum"], queue=config["queue_size"],
        alpha=config["alpha"], masked=config.get("mlm_probability", 0.15),
    )  # fmt: skip
    return Spec(tower, fusion, text, config["text_encoder_layers"], pairing)


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`."""
    text, fusion, pairing = spec.text, spec.fusion, spec.pairing
    names = [name for name, tower in TOWERS.items() if replace(tower, image=spec.vision.image) == spec.vision]
    config = {
        "architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_act": "gelu", "pad_token_id": 0,
        "hidden_size": text.dim, "intermediate_size": text.hidden, "num_attention_heads": text.heads,
        "vocab_size": text.vocab, "max_position_embeddings": text.context, "type_vocab_size": text.segments,
        "layer_norm_eps": text.eps, "encoder_width": text.dim, "num_hidden_layers": fusion.layers,
        "fusion_layers": fusion.live, "stride_layer": fusion.stride, "text_encoder_layers": spec.reading,
        "text_decode_layers": text.layers, "image_res": spec.vision.image, "vision_width": spec.vision.dim,
        **({"clip_name": names[0]} if names else {"vision": asdict(spec.vision)}),
    }  # fmt: skip
    if pairing is None:
        return config
    return config | {
        "embed_dim": pairing.space, "temp": pairing.temperature, "momentum": pairing.momentum,
        "queue_size": pairing.queue, "alpha": pairing.alpha, "mlm_probability": pairing.masked,
    }  # fmt: skip


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------

END = (Special("[SEP]"),)
TEMPLATE = Template(
    {
        "system": Role(after=END),
        "user": Role(after=END),
        "assistant": Role(before=(Special("[CLS]"),), after=END),  # the decoder's own beginning
    },
    start=(Special("[CLS]"),),
    stops=("[SEP]",),
)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def layout(spec: Spec) -> Layout:
    side = spec.vision.image
    pixels = Pixels(side, side, CLIP_MEAN, CLIP_STD, fit="stretch", resample="bicubic")
    return Layout(TEMPLATE, {"image": MediaLayout(pixels, Always((Slot("image", 0),)))}, spec.text.context)


# How trained ----------------------------------------------------------------------------------------------------------

READING = ("image", "encoder.text", "encoder.fusion.blocks")
PRETRAIN = Stage(
    "pretrain", train=(*READING, "encoder.fusion.embeddings.words", "pairs", "decoder"), data=("pairs",),
    objective="contrastive+matching+masked+prefix_lm", steps=1_649_000, batch=256, lr=1e-4,
    lr_of={"image.encoder": 1e-5}, min_lr=1e-6, warmup=2_000, weight_decay=0.02, overrides={"vision": {"image": 256}},
    source="AliceMind mPLUG/configs/pretrain_mplug_base.yaml: 30 epochs; steps worked out for the 14.07M "
    "pictures of its README (COCO, VG, SBU, CC3M, CC12M); warm-up of 20 x 100 steps",
)  # fmt: skip
PRETRAIN_LARGE = replace(
    PRETRAIN, steps=3_298_000, batch=128, lr=5e-5, lr_of={"image.encoder": 5e-6}, min_lr=2e-6,
    overrides={"vision": {"image": 224}}, source=PRETRAIN.source.replace("base.yaml", "large.yaml"),
)  # fmt: skip
VQA = Stage(
    "vqa", train=(*READING, "decoder"), data=("vqa",), objective="whole_reply", steps=20_570, batch=256, lr=3e-5,
    lr_of={"image.encoder": 5e-6}, min_lr=1e-6, warmup=400, weight_decay=0.02, overrides={"vision": {"image": 336}},
    source="AliceMind mPLUG/configs/vqa_mplug_large.yaml: 8 epochs; steps worked out for the 658,111 questions "
    "of VQA v2 train and val, Visual Genome's come on top; warm-up of 4 x 100 steps",
)  # fmt: skip
VQA_BASE = replace(
    VQA,
    steps=41_130,
    batch=128,
    overrides={"vision": {"image": 384}},
    source=VQA.source.replace("large.yaml", "base.yaml"),
)
STAGES = {"mplug-base": (PRETRAIN, VQA_BASE), "mplug-large": (PRETRAIN_LARGE, VQA)}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "encoder", "decoder", "pairs"))
