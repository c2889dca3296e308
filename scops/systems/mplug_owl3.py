"""mPLUG-Owl3 (arXiv 2408.04840; mPLUG/mPLUG-Owl3-7B-240728 and -241101): SigLIP -> projector -> beside the text of a Qwen2,
four of whose layers ask pictures and text at once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from scops.checkpoints.hub_hyper import llama_into_hyper
from scops.checkpoints.hub_llama import llama_keys
from scops.checkpoints.hub_siglip import HUB_SIGLIP_BARE
from scops.checkpoints.keymap import KeyMap, Rule, SplitPerHead, same, split
from scops.core.layout import ClipLayout, Layout, MediaLayout, Pixels
from scops.core.stage import Stage
from scops.data.tiling import AnchorFit
from scops.encoders.siglip import Siglip, SiglipSpec
from scops.language.hyper import hyper_llama
from scops.language.llama import LlamaSpec
from scops.models.beside import Beside
from scops.models.decoder import MediaInput, MultimodalDecoder
from scops.nn.feed_forward import FeedForward
from scops.systems import Origins
from scops.systems.llama import language_config, language_spec
from scops.systems.mplug_owl3_wording import GRIDS, TEMPLATE, WORDINGS

TITLE = "mPLUG-Owl3: Towards Long Image-Sequence Understanding in Multi-Modal Large Language Models"
PAPER = "arXiv 2408.04840"

QWEN2_7B = LlamaSpec(
    dim=3584, hidden=18944, layers=28, heads=28, kv_heads=4, vocab=151851, rope_base=1e6, context=32768, bias="qkv"
)


@dataclass(frozen=True)
class Spec:
    """Args:
    hyper: layers with Hyper Attention, counted from 1 as published.
    attention: its arrangement, "adaptive" (240728), "fused" (241101) or "static" (an early port).
    projector: "linear" or "mlp", a key of PROJECTORS.
    wording: how the text tells of a picture that was cut, a key of WORDINGS (the published cut_prompt and add_global).
    when: pictures are cut, "always", or "alone" in their sample.
    """

    vision: SiglipSpec = field(default_factory=lambda: SiglipSpec(skip=1))
    language: LlamaSpec = QWEN2_7B
    hyper: tuple[int, ...] = (1, 9, 17, 25)
    attention: str = "adaptive"
    projector: str = "linear"
    wording: str = "v2_global"
    when: str = "alone"


SIZES = {
    "mplug-owl3-7b-240728": Spec(),
    "mplug-owl3-7b-241101": Spec(
        SiglipSpec(image=378, skip=1), attention="fused", projector="mlp", wording="v3_global", when="always"
    ),
}


def build(spec: Spec) -> MultimodalDecoder:
    language = hyper_llama(spec.language, spec.hyper, spec.attention, memory="image")
    connector = PROJECTORS[spec.projector](spec.vision.dim, spec.language.dim)
    return MultimodalDecoder(language, image=MediaInput(Siglip(spec.vision), connector, Beside("image")))


def _mlp(width: int, dim: int) -> FeedForward:
    return FeedForward(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))


PROJECTORS = {"linear": nn.Linear, "mlp": _mlp}


# How published --------------------------------------------------------------------------------------------------------

_LAYER, _BLOCK = "language_model.model.layers.{i}.self_attn.", "language.blocks.{i}.attn."
GATES: dict[str, tuple[Rule, ...]] = {
    "adaptive": (same(_LAYER + "gate_proj.0.{w}", _BLOCK + "gate.project.{w}"),),
    "static": (same(_LAYER + "gate", _BLOCK + "gate.weight"),),
    "fused": (),
}
PROJECTOR_KEYS = {
    "linear": (same("vision2text_model.{w}", "image.connector.{w}"),),
    "mlp": (
        same("vision2text_model.0.{w}", "image.connector.up.{w}"),
        same("vision2text_model.2.{w}", "image.connector.down.{w}"),
    ),
}


def authors(spec: Spec) -> KeyMap:
    """mPLUGOwl3Model. Pictures' keys and values of a hyper layer are one tensor, head by head."""
    pictures = tuple(f"{_BLOCK}pictures.{name}.{{w}}" for name in "kv")
    return KeyMap(
        HUB_SIGLIP_BARE.under("vision_model.", "image.encoder."),
        PROJECTOR_KEYS[spec.projector],
        split(_LAYER + "v_kv_proj.{w}", pictures, SplitPerHead(parts=2, heads=spec.language.kv_heads)),
        GATES[spec.attention],
        _language(spec).under("language_model.", "language."),
    )


def _language(spec: Spec) -> KeyMap:
    return llama_keys(tied=spec.language.tied)


def from_qwen2(spec: Spec) -> KeyMap:
    """A plain Qwen2ForCausalLM -> `language` without gates."""
    return llama_into_hyper(spec.hyper, _language(spec))


KEYS = {"authors": authors}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that an authors' config.json means; None when it is another system's.

    It does not say how pictures are attended to: pictures of 378 stand for the release 241101, until `settled`.
    """
    if config.get("model_type") != "mplugowl3":
        return None
    vision = config.get("vision_config") or {}
    tower = SiglipSpec(
        dim=vision.get("hidden_size", 1152), hidden=vision.get("intermediate_size", 4304),
        layers=vision.get("num_hidden_layers", 27), heads=vision.get("num_attention_heads", 16),
        image=vision.get("image_size", 384), patch=vision.get("patch_size", 14),
        eps=vision.get("layer_norm_eps", 1e-6), activation=vision.get("hidden_act", "gelu_pytorch_tanh"), skip=1,
    )  # fmt: skip
    known = next((size for size in SIZES.values() if size.vision.image == tower.image), SIZES["mplug-owl3-7b-240728"])
    language = language_spec({**config, "model_type": "qwen2"})
    hyper = tuple(config.get("hyper_layers", known.hyper))
    return replace(known, vision=tower, language=language, hyper=hyper)


def settled(spec: Spec, names: Collection[str]) -> Spec:
    """The spec with what the published weights' names say of it and config.json does not.

    Raises:
        ValueError: Hyper Attention in other layers than config.json names, or in several arrangements, or no projector.
    """
    names = frozenset(names)
    marks = {"adaptive": "gate_proj.0.weight", "static": "gate"}
    found = {}
    for number in range(1, spec.language.layers + 1):
        layer = _LAYER.format(i=number - 1)
        if (layer + "v_kv_proj.weight" in names) != (number in spec.hyper):
            has = "has no" if number in spec.hyper else "has"
            raise ValueError(
                f"config.json names hyper_layers {list(spec.hyper)}, counted from 1, but layer {number} {has} "
                f"{layer}v_kv_proj.weight"
            )
        if number in spec.hyper:
            found[number] = next((name for name, mark in marks.items() if layer + mark in names), "fused")
    if len({*found.values()}) != 1:
        raise ValueError(f"Hyper Attention is arranged differently in different layers: {found}")
    projectors = {"mlp": "vision2text_model.0.weight", "linear": "vision2text_model.weight"}
    projector = next((name for name, mark in projectors.items() if mark in names), None)
    if projector is None:
        raise ValueError(f"the weights have no projector: neither {' nor '.join(projectors.values())}")
    attention = found[spec.hyper[0]]
    release = SIZES["mplug-owl3-7b-241101" if attention == "fused" else "mplug-owl3-7b-240728"]
    return replace(spec, attention=attention, projector=projector, wording=release.wording, when=release.when)


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`: the authors' config.json."""
    vision, language = spec.vision, language_config(spec.language)
    absent = {"attention_bias", "sliding_window"} | ({"head_dim"} if spec.language.head_dim is None else set())
    return {name: value for name, value in language.items() if name not in absent} | {
        "architectures": ["mPLUGOwl3Model"],
        "model_type": "mplugowl3",
        "hyper_layers": list(spec.hyper),
        "use_sliding_window": False,
        "vision_config": {
            "hidden_size": vision.dim, "image_size": vision.image, "intermediate_size": vision.hidden,
            "model_type": "siglip_vision_model", "num_attention_heads": vision.heads,
            "num_hidden_layers": vision.layers, "patch_size": vision.patch, "layer_norm_eps": vision.eps,
            "hidden_act": vision.activation,
        },
    }  # fmt: skip


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------


def layout(spec: Spec) -> Layout:
    side, half, wording = spec.vision.image, (0.5, 0.5, 0.5), WORDINGS[spec.wording]
    pixels = Pixels(side, side, half, half, fit="stretch", resample="bicubic")
    cut = AnchorFit(side, GRIDS, whole="" if wording.whole is None else "last")
    media = {
        "image": MediaLayout(pixels, wording.of_picture, cut, spec.when),
        "video": ClipLayout(pixels, wording.of_clip),
    }
    return Layout(TEMPLATE, media, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

PICTURES = ("image.connector", "language.blocks.*.attn.pictures")
ALIGN = Stage(
    "align", train=(*PICTURES, "language.blocks.*.attn.gate"), data=("pairs",), steps=20_000, batch=2048, lr=1e-3,
    min_lr=1e-5, warmup=600, source="arXiv 2408.04840 section 3.1, table of hyper-parameters: 384 x 384, 768 tokens; "
    "pairs (41M): DataComp 35.22%, LAION-en 26.07, COYO 14.47, COYO-OCR 9.6, LAION-zh 7.73, Wukong 5.64, CC12M 0.81, other 0.46",
)  # fmt: skip
MULTI = Stage(
    "multi-image", train=("image.connector", "language"), data=("interleaved",), steps=3_000, batch=1024, lr=2e-5,
    min_lr=1e-7, warmup=90, source="arXiv 2408.04840 section 3.1: up to 6 tiles of 384 x 384, 4096 tokens; ShareGPTVideo 34.63%, "
    "selective captions 19.29, LLaVA-Interleave 16.69, VATEX 15.77, text reading 7.36, interleaved captions 5.25, MMDU 1.01",
)  # fmt: skip
TUNE = replace(
    MULTI, name="instruct", data=("instructions",), steps=11_000, warmup=330,
    source="arXiv 2408.04840 section 3.1: up to 6 tiles of 384 x 384, 4096 tokens; LLaVA-SFT 57.95%, Cauldron 12.5, Mantis 10.41, "
    "LLaVA-Interleave 9.26, ALLaVA 6.95, ShareGPTVideo-QA 2.02, VideoInstruct 0.84, MSRVTT and MSVD 0.06",
)  # fmt: skip
STAGES = {
    "mplug-owl3-7b-240728": (ALIGN, MULTI, TUNE),
    "mplug-owl3-7b-241101": (
        replace(ALIGN, train=PICTURES),
        MULTI,
        TUNE,
    ),  # without gates; its own recipe is unpublished
}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
