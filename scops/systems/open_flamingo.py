"""OpenFlamingo (arXiv 2308.01390; mlfoundations/open_flamingo): CLIP -> Perceiver Resampler -> beside the text of a frozen
language model, which asks the latest picture before every n-th layer."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from scops.checkpoints.hub_clip import HUB_CLIP, OPENAI_CLIP
from scops.checkpoints.hub_flamingo import RESAMPLER, gated_keys
from scops.checkpoints.keymap import FirstRows, KeyMap, Rule, dropped, same
from scops.connectors.perceiver import PerceiverResampler, PerceiverSpec
from scops.core.layout import Always, Layout, MediaLayout, Slot
from scops.core.stage import Stage
from scops.core.template import Role, Special, Template
from scops.encoders.vit import Vit, VitSpec
from scops.language.gated import GatedSpec
from scops.language.gpt_neox import GptNeoxSpec
from scops.language.llama import LlamaSpec
from scops.language.model import LanguageModel
from scops.language.mpt import MptSpec
from scops.models.beside import Beside
from scops.models.decoder import MediaInput, MultimodalDecoder
from scops.nn.idle import Idle
from scops.systems import Origins, Published
from scops.systems.mplug_owl import squares, tower_config, tower_spec
from scops.systems.open_flamingo_parts import FAMILIES

TITLE = "OpenFlamingo: An Open-Source Framework for Training Large Autoregressive Vision-Language Models"
PAPER = "arXiv 2308.01390"


@dataclass(frozen=True)
class Spec:
    vision: VitSpec = field(default_factory=VitSpec)
    perceiver: PerceiverSpec = field(default_factory=lambda: PerceiverSpec(first=1))
    language: MptSpec | GptNeoxSpec | LlamaSpec = field(default_factory=MptSpec)
    gates: GatedSpec = field(default_factory=GatedSpec)


VOCABULARY = 50280
"""GPT-NeoX's 50,277 tokens, then <|endofchunk|>, <image> and <PAD>; rows that the language models have beyond are cut."""
MPT_1B = MptSpec(dim=2048, layers=24, heads=16, vocab=VOCABULARY, norms="qk")
_3B = Spec(language=MPT_1B)
_4B = Spec(language=GptNeoxSpec(vocab=VOCABULARY), gates=GatedSpec(every=2))
_9B = Spec(language=MptSpec(vocab=VOCABULARY), gates=GatedSpec(every=4))
SIZES = {
    "openflamingo-3b-vitl-mpt1b": _3B,
    "openflamingo-3b-vitl-mpt1b-langinstruct": _3B,  # of another language model of the same size
    "openflamingo-4b-vitl-rpj3b": _4B,
    "openflamingo-4b-vitl-rpj3b-langinstruct": _4B,
    "openflamingo-9b-vitl-mpt7b": _9B,
}


def build(spec: Spec) -> MultimodalDecoder:
    if spec.perceiver.dim != spec.vision.dim:
        raise ValueError(
            f"the resampler is {spec.perceiver.dim} wide and the tower {spec.vision.dim}; it takes features as they are"
        )
    encoder = Vit(spec.vision, post_norm=Idle(nn.LayerNorm(spec.vision.dim, spec.vision.eps)))
    return MultimodalDecoder(
        language(spec), image=MediaInput(encoder, PerceiverResampler(spec.perceiver), Beside("image"))
    )


def language(spec: Spec) -> LanguageModel:
    family = FAMILIES[type(spec.language)]
    return family.build(spec.language, spec.gates, memory="image", width=spec.perceiver.dim)


# How published --------------------------------------------------------------------------------------------------------

TOWER = KeyMap(
    same("ln_post.{w}", "post_norm.body.{w}"),
    dropped("proj", "of the pooled picture, which nobody asks for"),
    OPENAI_CLIP,
)


def authors(spec: Spec) -> KeyMap:
    """Flamingo of open_flamingo/src/flamingo.py, all parts of it; its released files hold `trained` alone."""
    return KeyMap(TOWER.under("vision_encoder.", "image.encoder."), trained(spec), plain(spec, wrapped=True))


def trained(spec: Spec) -> KeyMap:
    """The resampler and the gated layers."""
    layer = FAMILIES[type(spec.language)].layer
    gates = gated_keys(immediate=spec.gates.immediate)
    return KeyMap(
        RESAMPLER.under("perceiver.", "image.connector."),
        gates.under(f"lang_encoder.{layer}gated_cross_attn_layer.", "language.blocks.{i}."),
    )


def plain(spec: Spec, *, wrapped: bool) -> KeyMap:
    """The language model.

    Args:
        wrapped: its layers stand inside Flamingo's.
    """
    family = FAMILIES[type(spec.language)]
    inside = lambda name: name.replace(family.layer, family.layer + "decoder_layer.") if wrapped else name
    rules = family.keys(spec.language)
    moved = KeyMap(Rule(tuple(map(inside, r.theirs)), r.ours, r.op, r.why) for r in rules)
    return moved.under("lang_encoder.", "language.")


KEYS = {"authors": authors}
ADDED = ("<|endofchunk|>", "<image>", "<PAD>")
"""Special tokens behind the language model's own."""


def parts(spec: Spec) -> dict[str, tuple[Published, ...]]:
    """A release holds `trained` and the embedding alone; the tower is CLIP's, the language model somebody else's."""
    hub = KeyMap(same("vision_model.post_layernorm.{w}", "post_norm.body.{w}"), HUB_CLIP)
    towers = Published(hub, ("vision_model",)), Published(TOWER.under("visual."), ("visual",)), Published(TOWER)
    layouts = FAMILIES[type(spec.language)].layouts(spec.language)
    return {"image.encoder": towers, "language": tuple(Published(cut(keys, spec.language.vocab)) for keys in layouts)}


def cut(keys: KeyMap, rows: int) -> KeyMap:
    """Of a language model with more rows of the vocabulary than the tokenizer has tokens."""
    of_words = ("embed.weight",), ("head.weight",)
    return KeyMap(replace(r, op=FirstRows(rows)) if r.ours in of_words else r for r in keys)


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that a config.json of ours for the authors' weights means; None when it is another system's.

    They publish none: beside the arguments of create_model_and_transforms stand the configs of tower and language model.
    """
    if config.get("model_type") != "open_flamingo":
        return None
    text = config["text_config"]
    kinds = {kind: family for family in FAMILIES.values() for kind in family.kinds}
    if text.get("model_type") not in kinds:
        raise ValueError(
            f"this OpenFlamingo has a {text.get('model_type')!r} language model; known are {', '.join(sorted(kinds))}"
        )
    vision = tower_spec({"layer_norm_eps": 1e-5} | config.get("vision_config", {}), image=224)
    gates = GatedSpec(
        every=config.get("cross_attn_every_n_layers", 1), immediate=config.get("only_attend_immediate_media", True),
        **config.get("gated_cross_attn", {}),
    )  # fmt: skip
    sizes = {"dim": vision.dim, "hidden": 4 * vision.dim, "first": 1} | config.get("perceiver", {})
    return Spec(vision, PerceiverSpec(**sizes), kinds[text["model_type"]].read(text), gates)


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`."""
    gates = asdict(spec.gates)
    return {
        "architectures": ["Flamingo"],
        "model_type": "open_flamingo",
        "cross_attn_every_n_layers": gates.pop("every"),
        "only_attend_immediate_media": gates.pop("immediate"),
        "gated_cross_attn": gates,
        "perceiver": asdict(spec.perceiver),
        "vision_config": tower_config(spec.vision) | {"model_type": "clip_vision_model"},
        "text_config": FAMILIES[type(spec.language)].write(spec.language),
    }


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------

CHUNK = Special("<|endofchunk|>")
TEMPLATE = Template({"system": Role(), "user": Role(), "assistant": Role(after=(CHUNK,))}, stops=(CHUNK.token,))
"""As in the paper's prompts, <image>words of the example<|endofchunk|>, with no word of its own: examples are turns before."""
BEGUN = replace(TEMPLATE, start=(Special("<s>"),))
"""LLaMA's tokenizer begins every text; that of MPT and RedPajama does not."""


def layout(spec: Spec) -> Layout:
    pixels = replace(squares(spec.vision.image), fit="crop")  # CLIP's own preparation
    picture = Always((Slot("image", 0), Special("<image>")))  # beside the text, from this token on
    template = BEGUN if isinstance(spec.language, LlamaSpec) else TEMPLATE
    return Layout(template, {"image": MediaLayout(pixels, picture)}, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

PRETRAIN = Stage(
    "pretrain", train=("image.connector", "language.blocks.*.gated_attn", "language.blocks.*.gated_mlp", "language.embed"),
    data=("interleaved", "pairs"), rows={"language.embed": (-3, -2)}, steps=29_297, batch=6_144, lr=1e-4, warmup=1_875,
    schedule="constant", weight_decay=0.1,
    source="arXiv 2308.01390 section 3.3 and open_flamingo/train (README): 60M sequences of MMC4 (at most 256 tokens and 6 "
    "pictures) and 120M pairs of LAION-2B (32 tokens, loss times 0.2), 32 and 64 a GPU, 64 GPUs; the 4B models also learn "
    "from sequences by ChatGPT; pictures of 224; only the rows of <|endofchunk|> and <image> learn",
)  # fmt: skip
STAGES = {"openflamingo": (PRETRAIN,)}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
