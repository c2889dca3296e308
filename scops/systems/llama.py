"""Language models alone: the LLaMA family, in transformers' layout and from a GGUF file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scops.checkpoints.hub_llama import llama_keys
from scops.checkpoints.keymap import KeyMap
from scops.core.layout import Layout
from scops.core.stage import Lora, Stage
from scops.core.template import Role, Special, Template, Written
from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import MultimodalDecoder
from scops.systems import Origin, Origins

TITLE = "LLaMA, Vicuna, Mistral, SmolLM2, Qwen2, Qwen3: language models alone"
PAPER = "arXiv 2302.13971, 2310.06825, 2502.02737, 2407.10671, 2505.09388"


@dataclass(frozen=True)
class Spec:
    """Args:
    template: how turns are written, a key of TEMPLATES.
    system: the system text used when a conversation brings none.
    """

    language: LlamaSpec = field(default_factory=LlamaSpec)
    template: str = "plain"
    system: str | None = None


SMOLLM2_135M = LlamaSpec(
    dim=576, hidden=1536, layers=30, heads=9, kv_heads=3, vocab=49152, eps=1e-5, rope_base=1e5, context=8192, tied=True
)
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
SIZES = {
    "smollm2-135m-instruct": Spec(SMOLLM2_135M, "chatml", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    "llama-7b": Spec(LlamaSpec()),
    "vicuna-7b-v1.5": Spec(LlamaSpec(context=4096, eps=1e-5), "vicuna", _VICUNA),
    "mistral-7b-v0.1": Spec(LlamaSpec(hidden=14336, kv_heads=8, eps=1e-5, context=32768, window=4096)),
    "qwen2-7b-instruct": Spec(
        LlamaSpec(dim=3584, hidden=18944, layers=28, heads=28, kv_heads=4, vocab=152064, rope_base=1e6, context=32768, bias="qkv"),
        "chatml", "You are a helpful assistant.",
    ),
    "qwen3-8b": Spec(
        LlamaSpec(hidden=12288, layers=36, kv_heads=8, vocab=151936, head_dim=128, rope_base=1e6, context=40960, norms="qk"),
        "chatml",
    ),
}  # fmt: skip


def build(spec: Spec) -> MultimodalDecoder:
    return MultimodalDecoder(llama(spec.language))


# How published --------------------------------------------------------------------------------------------------------


def transformers(spec: Spec) -> KeyMap:
    return llama_keys(tied=spec.language.tied).under("", "language.")


KEYS = {"transformers": transformers}
BIASES = {"llama": "", "mistral": "", "qwen2": "qkv", "qwen3": ""}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that a transformers config.json means; None when it is another system's."""
    if config.get("model_type") not in BIASES:
        return None
    return Spec(language_spec(config))


def language_spec(config: Mapping[str, Any]) -> LlamaSpec:
    """The numbers of a published `config.json` or `text_config`; what it leaves out is transformers' default for LLaMA.

    Raises:
        ValueError: sliding windows in some layers only, or an activation other than silu.
    """
    kind = config.get("model_type", "llama")
    if config.get("use_sliding_window"):
        raise ValueError(
            f"this {kind} has sliding windows in some layers (use_sliding_window), which no published size uses"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"this {kind} has the activation {config['hidden_act']!r}; the family has 'silu'")
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    heads = config.get("num_attention_heads", 32)
    return LlamaSpec(
        dim=config.get("hidden_size", 4096),
        hidden=config.get("intermediate_size", 11008),
        layers=config.get("num_hidden_layers", 32),
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        vocab=config.get("vocab_size", 32000),
        head_dim=config.get("head_dim"),
        eps=config.get("rms_norm_eps", 1e-6),
        rope_base=config.get("rope_theta") or (scaling or {}).get("rope_theta", 10000.0),
        rope_scaling=None if scaling is None or _is_default(scaling) else scaling,
        context=config.get("max_position_embeddings", 2048),
        bias="qkvo" if config.get("attention_bias") else BIASES.get(kind, ""),
        norms="qk" if kind == "qwen3" else "",
        window=config.get("sliding_window") if kind == "mistral" else None,
        tied=config.get("tie_word_embeddings", False),
    )


def language_config(spec: LlamaSpec) -> dict[str, Any]:
    """The inverse of `language_spec`: what transformers writes in config.json for these numbers."""
    found = (spec.bias, spec.norms, spec.window is not None)
    if found not in KINDS:
        raise ValueError(
            f"no model of the family has biases on {spec.bias!r}, norms on {spec.norms!r} and window {spec.window}"
        )
    kind, architecture = KINDS[found]
    config = {
        "architectures": [architecture], "model_type": kind, "hidden_size": spec.dim, "intermediate_size": spec.hidden,
        "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads, "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_width, "vocab_size": spec.vocab, "rms_norm_eps": spec.eps, "rope_theta": spec.rope_base,
        "max_position_embeddings": spec.context, "tie_word_embeddings": spec.tied, "hidden_act": "silu",
        "attention_bias": spec.bias == "qkvo", "sliding_window": spec.window,
    }  # fmt: skip
    return config if spec.rope_scaling is None else config | {"rope_scaling": dict(spec.rope_scaling)}


KINDS = {
    ("", "", False): ("llama", "LlamaForCausalLM"),
    ("qkvo", "", False): ("llama", "LlamaForCausalLM"),
    ("", "", True): ("mistral", "MistralForCausalLM"),
    ("qkv", "", False): ("qwen2", "Qwen2ForCausalLM"),
    ("", "qk", False): ("qwen3", "Qwen3ForCausalLM"),
}
CONFIGS = {"transformers": lambda spec: language_config(spec.language)}


def _is_default(scaling: Mapping[str, Any]) -> bool:
    return scaling.get("rope_type", scaling.get("type", "default")) == "default"


# How read -------------------------------------------------------------------------------------------------------------


def _chatml_role(name: str) -> Role:
    return Role((Special("<|im_start|>"), Written(f"{name}\n")), (), (Special("<|im_end|>"),), (Written("\n"),))


TEMPLATES = {
    "plain": Template(
        {"system": Role((), (), (Written("\n"),)), "user": Role(), "assistant": Role((), (), (Special("</s>"),))},
        start=(Special("<s>"),), stops=("</s>",),
    ),
    "vicuna": Template(
        {
            "system": Role((), (), (Written(" "),)),
            "user": Role((Written("USER: "),), (), (Written(" "),)),
            "assistant": Role((Written("ASSISTANT: "),), (), (Special("</s>"),)),
        },
        start=(Special("<s>"),), stops=("</s>",),
    ),
    "chatml": Template({role: _chatml_role(role) for role in ("system", "user", "assistant")}, stops=("<|im_end|>",)),
}  # fmt: skip


def template(name: str, system: str | None = None) -> Template:
    return replace(TEMPLATES[name], system=system)


def layout(spec: Spec) -> Layout:
    return Layout(template(spec.template, spec.system), {}, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

_PROJECTIONS = tuple(f"language.blocks.*.{path}" for path in ("attn.body.?", "mlp.body.*"))
STAGES = {
    "finetune": (Stage("finetune", train=("language",), data=("text",), lr=2e-5, source="common practice"),),
    "lora": (
        Stage("lora", train=(), data=("text",), lora=Lora(_PROJECTIONS, rank=16, alpha=32.0, dropout=0.05), lr=2e-4,
              source="common practice"),
    ),
}  # fmt: skip


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """None but SmolLM2's are carried by a registry: load a folder of the authors' instead."""
    if size != "smollm2-135m-instruct":
        return Origins(fresh=("language",))
    return Origins((Origin("smollm2-135m", transformers(SIZES[size])),), tokenizer="smollm2-135m")
