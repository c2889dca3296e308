"""Low-rank adapters as PEFT files: adapter_config.json and adapter_model.safetensors (arXiv 2106.09685)."""

# r rank
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from scops.checkpoints.keymap import KeyMap, Move, Op
from scops.checkpoints.read import open_weights
from scops.checkpoints.write import save_json, save_tensors

CONFIG, WEIGHTS, OLD_WEIGHTS = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
# What PEFT can write and plain B A alpha / r does not say.
PLAIN = {
    "use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "lora_bias": False, "bias": "none",
    "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None,
    "trainable_token_indices": None,
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """W + alpha / rank * B A on each projection named.

    Args:
        weights: path of the projection (no ".weight") -> A (rank, in), B (out, rank).
    """

    weights: Mapping[str, tuple[Tensor, Tensor]]
    rank: int
    alpha: float
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for path, (a, b) in self.weights.items():
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != self.rank or b.shape[1] != self.rank:
                raise ValueError(
                    f"adapter of {path!r}: A {tuple(a.shape)} and B {tuple(b.shape)}, "
                    f"expected ({self.rank}, in) and (out, {self.rank})"
                )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def write_adapter(
    folder: str | Path, adapter: Adapter, keys: KeyMap, *, base: str = "", task: str | None = "CAUSAL_LM"
) -> None:
    """A folder that `peft.PeftModel.from_pretrained` reads.

    Args:
        keys: the map between our parameters and those of the published model.
        base: name or path of the published model the adapter belongs to.
        task: PEFT's task_type.
    """
    folder = Path(folder)
    modules = _published(adapter.weights, keys)
    state = {}
    for path, (a, b) in adapter.weights.items():
        state[f"{PREFIX}{modules[path]}.lora_A.weight"] = a
        state[f"{PREFIX}{modules[path]}.lora_B.weight"] = b
    config = {
        "peft_type": "LORA", "task_type": task, "base_model_name_or_path": base or None, "inference_mode": True,
        "r": adapter.rank, "lora_alpha": adapter.alpha, "lora_dropout": adapter.dropout,
        "target_modules": sorted(modules.values()), "init_lora_weights": True,
    }  # fmt: skip
    save_tensors(folder / WEIGHTS, state)
    save_json(folder / CONFIG, config | PLAIN)


def read_adapter(folder: str | Path, keys: KeyMap) -> Adapter:
    """ValueError for adapters that are more than B A alpha / r, and for projections that are not ours one to one."""
    folder = Path(folder)
    weights = OLD_WEIGHTS if (folder / OLD_WEIGHTS).exists() and not (folder / WEIGHTS).exists() else WEIGHTS
    for name in (CONFIG, weights):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder} has no {name}; expected a PEFT adapter folder with {CONFIG} and {WEIGHTS}"
            )
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG}: peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    odd = {key: config[key] for key, plain in PLAIN.items() if config.get(key) and config[key] != plain}
    if odd:
        raise ValueError(f"{folder / CONFIG}: {odd} is not read; expected plain low-rank pairs on linear projections")
    file = open_weights(folder / weights)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name in file.names():
        module, dot, part = name.removeprefix(PREFIX).partition(".lora_")
        if not name.startswith(PREFIX) or not dot or part not in ("A.weight", "B.weight"):
            raise ValueError(f"{folder / weights}: {name!r}, expected {PREFIX}<module>.lora_A.weight or .lora_B.weight")
        pairs.setdefault(module, {})[part[0]] = file[name]
    halves = [module for module, parts in pairs.items() if set(parts) != {"A", "B"}]
    if halves:
        raise ValueError(f"{folder / weights}: only one of lora_A, lora_B for {halves[:5]}")
    ours = _ours(pairs, keys)
    weights = {ours[module]: (parts["A"], parts["B"]) for module, parts in pairs.items()}
    return Adapter(weights, config["r"], config["lora_alpha"], config.get("lora_dropout", 0.0))


def _published(paths: Mapping[str, object], keys: KeyMap) -> dict[str, str]:
    return _rename(keys.moves_out(f"{path}.weight" for path in paths))


def _ours(modules: Mapping[str, object], keys: KeyMap) -> dict[str, str]:
    return _rename(keys.moves_in(f"{module}.weight" for module in modules))


def _rename(moves: list[Move]) -> dict[str, str]:
    """A low-rank pair can be renamed only where the projection itself is only renamed."""
    changed = [str(move.rule) for move in moves if type(move.rule.op) is not Op or len(move.targets) != 1]
    if changed:
        raise ValueError(
            f"adapters on projections that the published layout fuses or reorders cannot be renamed: {changed[:5]}"
        )
    return {move.sources[0].removesuffix(".weight"): move.targets[0].removesuffix(".weight") for move in moves}
