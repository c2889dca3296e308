"""transformers' MptForCausalLM, and MosaicGPT as MPT-1B was published -> our language model; their config.json both ways."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scops.checkpoints.keymap import KeyMap, Rule, dropped, same, split
from scops.language.mpt import MptSpec


@dataclass(frozen=True)
class Spelling:
    """What one publication calls norms and feed-forward."""

    norm: str
    up: str
    down: str


FOUNDRY = Spelling("norm_", "ffn.up_proj", "ffn.down_proj")
MOSAIC_GPT = Spelling("ln_", "mlp.mlp_up", "mlp.mlp_down")


def hub_mpt(spec: MptSpec, spelling: Spelling = FOUNDRY) -> KeyMap:
    return KeyMap(
        same("transformer.wte.weight", "embed.weight"),
        mpt_layer(spec, "transformer.blocks.{i}.", "blocks.{i}.", spelling),
        same(f"transformer.{spelling.norm}f.weight", "norm.weight"),
        dropped("lm_head.weight", "the head is the embedding") if spec.tied else same("lm_head.weight", "head.weight"),
    )


def mpt_files(spec: MptSpec) -> tuple[KeyMap, ...]:
    """In either spelling of published files."""
    return tuple(hub_mpt(spec, spelling) for spelling in (FOUNDRY, MOSAIC_GPT))


def mpt_layer(spec: MptSpec, theirs: str, ours: str, spelling: Spelling = FOUNDRY) -> list[Rule]:
    """One block."""
    attn = ours + "attn.body."
    return [
        same(f"{theirs}{spelling.norm}1.weight", ours + "attn.norm.weight"),
        split(theirs + "attn.Wqkv.weight", [f"{attn}{name}.project.weight" for name in "qkv"]),
        *(same(f"{theirs}attn.{name}_ln.weight", f"{attn}{name}.norm.weight") for name in spec.norms),
        same(theirs + "attn.out_proj.weight", attn + "o.weight"),
        same(f"{theirs}{spelling.norm}2.weight", ours + "mlp.norm.weight"),
        same(f"{theirs}{spelling.up}.weight", ours + "mlp.body.up.weight"),
        same(f"{theirs}{spelling.down}.weight", ours + "mlp.body.down.weight"),
    ]


def mpt_spec(config: Mapping[str, Any]) -> MptSpec:
    """The numbers of a published config.json or `text_config`, of model_type "mpt" or "mosaic_gpt".

    What it leaves out is transformers' default for "mpt".

    Raises:
        ValueError: what no published size has: biases, learned positions, keys shared by heads, other scales.
    """
    attention = config.get("attn_config") or {name.removeprefix("attn_"): value for name, value in config.items()}
    wrong = {
        "no_bias": config.get("no_bias", True) is not True,
        "alibi": attention.get("alibi", True) is not True,
        "attn_type": attention.get("attn_type", attention.get("type", "multihead_attention")) != "multihead_attention",
        "softmax_scale": attention.get("softmax_scale") is not None,
        "logit_scale": config.get("logit_scale") is not None,
        "prefix_lm": bool(attention.get("prefix_lm", False)),
    }
    if any(wrong.values()):
        found = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
        raise ValueError(f"this MPT has a {found} that no published size has")
    return MptSpec(
        dim=config.get("d_model", config.get("hidden_size", 2048)),
        layers=config.get("n_layers", config.get("num_hidden_layers", 24)),
        heads=config.get("n_heads", config.get("num_attention_heads", 16)),
        vocab=config.get("vocab_size", 50368), times=config.get("expansion_ratio", config.get("mlp_ratio", 4)),
        eps=config.get("layer_norm_epsilon", 1e-5), norms="qk" if attention.get("qk_ln") else "",
        clip=attention.get("clip_qkv"), steepest=attention.get("alibi_bias_max", 8),
        context=config.get("max_seq_len", 2048), tied=config.get("tie_word_embeddings", True),
    )  # fmt: skip


def mpt_config(spec: MptSpec) -> dict[str, Any]:
    """The inverse of `mpt_spec`."""
    return {
        "architectures": ["MptForCausalLM"], "model_type": "mpt", "d_model": spec.dim, "n_layers": spec.layers,
        "n_heads": spec.heads, "vocab_size": spec.vocab, "expansion_ratio": spec.times,
        "layer_norm_epsilon": spec.eps, "max_seq_len": spec.context, "no_bias": True,
        "tie_word_embeddings": spec.tied,
        "attn_config": {
            "alibi": True, "alibi_bias_max": spec.steepest, "attn_type": "multihead_attention", "clip_qkv": spec.clip,
            "qk_ln": bool(spec.norms), "softmax_scale": None,
        },
    }  # fmt: skip
