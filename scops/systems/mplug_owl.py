"""mPLUG-Owl (arXiv 2304.14178; X-PLUG/mPLUG-Owl): CLIP tower -> visual abstractor -> 65 tokens in the text of a LLaMA or BLOOMZ."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scops.checkpoints.hub_bloom import bloom_config, bloom_spec, hub_bloom
from scops.checkpoints.hub_clip import HUB_CLIP, OPENAI_CLIP
from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.keymap import KeyMap, SplitPerHead, same, split
from scops.connectors.abstractor import AbstractorSpec, VisualAbstractor, tokens_for
from scops.core.layout import Always, Layout, MediaLayout, Pixels, Slot
from scops.core.stage import Lora, Stage
from scops.core.template import Role, Special, Template, Written
from scops.encoders.vit import Vit, VitSpec
from scops.language.bloom import BloomSpec, bloom
from scops.language.llama import LlamaSpec, llama
from scops.language.model import LanguageModel
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.systems import Origins, Published
from scops.systems.llama import language_config, language_spec

TITLE = "mPLUG-Owl: Modularization Empowers Large Language Models with Multimodality"
PAPER = "arXiv 2304.14178"


@dataclass(frozen=True)
class Spec:
    vision: VitSpec = field(default_factory=lambda: VitSpec(eps=1e-6))
    abstractor: AbstractorSpec = field(default_factory=AbstractorSpec)
    language: LlamaSpec | BloomSpec = field(default_factory=LlamaSpec)


SIZES = {"mplug-owl-llama-7b": Spec(), "mplug-owl-bloomz-7b-multilingual": Spec(language=BloomSpec())}


def build(spec: Spec) -> MultimodalDecoder:
    return MultimodalDecoder(
        language(spec.language),
        image=MediaInput(Vit(spec.vision), VisualAbstractor(spec.abstractor, out=spec.language.dim), Inline()),
    )


def language(spec: LlamaSpec | BloomSpec) -> LanguageModel:
    return bloom(spec) if isinstance(spec, BloomSpec) else llama(spec)


# How published --------------------------------------------------------------------------------------------------------


def authors(spec: Spec) -> KeyMap:
    """MplugOwlForConditionalGeneration."""
    return KeyMap(
        tower(spec.vision.heads).under("vision_model.", "image.encoder."),
        same("query_tokens", "image.connector.queries"),
        ABSTRACTOR.under("abstractor.", "image.connector."),
        language_keys(spec.language).under("language_model.", "language."),
    )


def tower(heads: int) -> KeyMap:
    """The authors' copy of CLIP's tower: q, k, v are fused head by head."""
    layer, block = "encoder.layers.{i}.", "blocks.{i}."
    qkv = tuple(f"{block}attn.body.{name}.{{w}}" for name in "qkv")
    return KeyMap(
        same("embeddings.patch_embed.weight", "patch.weight"),
        same("embeddings.cls_token", "cls"),
        same("embeddings.position_embedding", "positions"),
        same("embeddings.pre_layernorm.{w}", "pre_norm.{w}"),
        same(layer + "input_layernorm.{w}", block + "attn.norm.{w}"),
        split(layer + "self_attn.query_key_value.{w}", qkv, SplitPerHead(parts=3, heads=heads)),
        same(layer + "self_attn.dense.{w}", block + "attn.body.o.{w}"),
        same(layer + "post_attention_layernorm.{w}", block + "mlp.norm.{w}"),
        same(layer + "mlp.fc1.{w}", block + "mlp.body.up.{w}"),
        same(layer + "mlp.fc2.{w}", block + "mlp.body.down.{w}"),
        same("post_layernorm.{w}", "post_norm.{w}"),
    )


def language_keys(spec: LlamaSpec | BloomSpec) -> KeyMap:
    return hub_bloom(spec) if isinstance(spec, BloomSpec) else HUB_LLAMA


QUERY_LAYER = KeyMap(
    same("attention.query.{w}", "q.{w}"),
    same("attention.key.{w}", "k.{w}"),
    same("attention.value.{w}", "v.{w}"),
    same("norm1.{w}", "norm_queries.{w}"),
    same("normk.{w}", "norm_features.{w}"),
    same("output.out_proj.{w}", "o.{w}"),
    same("output.norm2.{w}", "norm_mlp.{w}"),
    same("output.mlp.w1.{w}", "mlp.gate.{w}"),
    same("output.mlp.w3.{w}", "mlp.up.{w}"),
    same("output.mlp.w2.{w}", "mlp.down.{w}"),
    same("output.mlp.ffn_ln.{w}", "mlp.norm.{w}"),
)
ABSTRACTOR = KeyMap(
    QUERY_LAYER.under("encoder.layers.{i}.crossattention.", "layers.{i}."),
    same("visual_fc.{w}", "project.{w}"),
    same("vit_eos", "end"),
)
KEYS = {"authors": authors}


def parts(spec: Spec) -> dict[str, tuple[Published, ...]]:
    """What the first stage began with: CLIP's tower (of which this one has another eps) and a language model."""
    return {
        "image.encoder": (Published(HUB_CLIP, ("vision_model",)), Published(OPENAI_CLIP)),
        "language": (Published(language_keys(spec.language)),),
    }


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that an authors' config.json means; None when it is another system's."""
    if config.get("model_type") != "mplug-owl" or "visual_abstractor_config" not in config:
        return None
    if "patch_pos_embed_type" in config:
        return None  # UReader's, as we write it
    return Spec(*sight_of(config), language_of(config["text_config"]))


def sight_of(config: Mapping[str, Any]) -> tuple[VitSpec, AbstractorSpec]:
    """What an authors' config.json says of tower and abstractor."""
    vision, abstractor = config["vision_config"], config["visual_abstractor_config"]
    connector = AbstractorSpec(
        dim=abstractor.get("hidden_size", 1024), hidden=abstractor.get("intermediate_size", 4096),
        layers=abstractor.get("num_hidden_layers", 6), heads=abstractor.get("num_attention_heads", 16),
        queries=config.get("num_query_tokens", 64), eps=abstractor.get("layer_norm_eps", 1e-6),
    )  # fmt: skip
    return tower_spec(vision, image=224), connector


def language_of(text: Mapping[str, Any]) -> LlamaSpec | BloomSpec:
    """What a `text_config` means."""
    kind = text.get("model_type", "llama")
    if kind not in ("llama", "bloom"):
        raise ValueError(f"this mPLUG-Owl has a {kind!r} language model; the published ones have 'llama' or 'bloom'")
    return bloom_spec(text) if kind == "bloom" else language_spec(text)


def tower_spec(config: Mapping[str, Any], *, image: int) -> VitSpec:
    """Of a published vision config; `image` where it names no size."""
    return VitSpec(
        dim=config.get("hidden_size", 1024), hidden=config.get("intermediate_size", 4096),
        layers=config.get("num_hidden_layers", 24), heads=config.get("num_attention_heads", 16),
        image=config.get("image_size", image), patch=config.get("patch_size", 14),
        eps=config.get("layer_norm_eps", 1e-6), activation=config.get("hidden_act", "quick_gelu"),
    )  # fmt: skip


def settled(spec: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """The abstractor's hidden width is the weights': a config.json may say 4096, the class's default, where they have 2816."""
    width = shapes.get("abstractor.encoder.layers.0.crossattention.output.mlp.w1.weight")
    return spec if width is None else replace(spec, abstractor=replace(spec.abstractor, hidden=width[0]))


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`: the authors' config.json."""
    text = bloom_config(spec.language) if isinstance(spec.language, BloomSpec) else language_config(spec.language)
    return sight_config(spec.vision, spec.abstractor) | {"text_config": text}


def sight_config(vision: VitSpec, abstractor: AbstractorSpec) -> dict[str, Any]:
    """The inverse of `sight_of`."""
    return {
        "architectures": ["MplugOwlForConditionalGeneration"],
        "model_type": "mplug-owl",
        "num_query_tokens": abstractor.queries,
        "vision_config": tower_config(vision),
        "visual_abstractor_config": {
            "hidden_size": abstractor.dim, "intermediate_size": abstractor.hidden, "layer_norm_eps": abstractor.eps,
            "num_hidden_layers": abstractor.layers, "num_attention_heads": abstractor.heads,
            "encoder_hidden_size": vision.dim, "model_type": "mplug_owl_visual_abstract",
        },
    }  # fmt: skip


def tower_config(spec: VitSpec) -> dict[str, Any]:
    """The inverse of `tower_spec`."""
    return {
        "hidden_size": spec.dim, "intermediate_size": spec.hidden, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "image_size": spec.image, "patch_size": spec.patch,
        "layer_norm_eps": spec.eps, "hidden_act": spec.activation, "model_type": "mplug_owl_vision_model",
    }  # fmt: skip


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------

SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN = (Written("\nHuman: "),)
TEMPLATE = Template(
    {
        "system": Role(),
        "user": Role(before=HUMAN, between=HUMAN),  # every picture and every text has a line of its own
        "assistant": Role(before=(Written("\nAI: "),), after=(Special("</s>"),)),
    },
    start=(Special("<s>"),),
    system=SYSTEM,
    stops=("</s>",),
)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def layout(spec: Spec) -> Layout:
    slot = Always((Slot("image", tokens_for(spec.abstractor)),))
    return Layout(TEMPLATE, {"image": MediaLayout(squares(spec.vision.image), slot)}, spec.language.context)


def squares(side: int) -> Pixels:
    """Pictures stretched to a square as CLIP has its numbers."""
    return Pixels(side, side, CLIP_MEAN, CLIP_STD, fit="stretch", resample="bicubic")


# How trained ----------------------------------------------------------------------------------------------------------

ALIGN = Stage(
    "align", train=("image.encoder", "image.connector"), data=("pairs",), steps=50_000, batch=2048,
    lr=1e-4, warmup=2_000, schedule="cosine", betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1,
    source="arXiv 2304.14178 section 3.2 (2.1M tokens a batch); pairs: LAION-400M, COYO-700M, CC, COCO",
)  # fmt: skip
LORA = Lora(("language.blocks.*.attn.body.q", "language.blocks.*.attn.body.v"), rank=8, alpha=32.0, dropout=0.05)
INSTRUCT = Stage(
    "instruct", train=(), data=("instructions",), lora=LORA, steps=4_236, batch=256,
    lr=2e-5, warmup=50, schedule="linear", weight_decay=1e-4,
    source="X-PLUG/mPLUG-Owl pipeline: 3 epochs of 361,481 samples; the paper says 2,000 steps",
)  # fmt: skip
INSTRUCT_ABSTRACT = replace(INSTRUCT, train=("image.connector",), steps=2_000,
                            source="arXiv 2304.14178v3 abstract: LoRA and the abstractor")  # fmt: skip
INSTRUCT_FULL = replace(
    INSTRUCT, train=("language",), lora=None, lr=1e-5, source="X-PLUG/mPLUG-Owl pipeline, without LoRA"
)
STAGES = {
    "code": (ALIGN, INSTRUCT),
    "abstract": (ALIGN, INSTRUCT_ABSTRACT),
    "full": (ALIGN, INSTRUCT_FULL),
}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
