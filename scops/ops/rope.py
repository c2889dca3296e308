"""Rotary positions, half-split layout (RoFormer, arXiv 2104.09864; the order of GPT-NeoX, LLaMA on the Hub and Qwen)."""

# B rows, N heads, T tokens, H head width
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Rotary(Protocol):
    """What attention asks of any rope: cos and sin, float32 (B, 1, T, H).

    Args:
        stretch_BT: as in the context; None is all 0.
    """

    def turns(self, positions_BT: Tensor, stretch_BT: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Rope:
    """How far heads are turned at a position. Holds numbers, no tensors, so it follows any device.

    Args:
        frequencies: radians per position for each of the H / 2 pairs.
        amplitude: factor on cosine and sine (YaRN's attention factor).
    """

    frequencies: tuple[float, ...]
    amplitude: float = 1.0

    def turns(self, positions_BT: Tensor, stretch_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same for documents of any length."""
        frequencies = torch.tensor(self.frequencies, dtype=torch.float32, device=positions_BT.device)
        cos_B1TH, sin_B1TH = _twice(positions_BT[:, None, :, None].float() * frequencies)
        return (cos_B1TH, sin_B1TH) if self.amplitude == 1 else (cos_B1TH * self.amplitude, sin_B1TH * self.amplitude)


MOST_STRETCH = 32


@dataclass(frozen=True, eq=False)
class DynamicNtk:
    """Slower turns for documents beyond the trained length, by its doublings (Qwen, QwenLM/Qwen-7B modeling_qwen.py).

    With k doublings the base is base * a ** (H / (H - 2)), a = 2 ** (k + 1) - 1; without any it is the base itself.

    Args:
        trained: tokens.
    """

    head_dim: int
    base: float
    trained: int

    def stretch(self, tokens: int) -> int:
        """How often the trained length is doubled until it holds so many tokens."""
        doublings = max(0, (tokens - 1) // self.trained).bit_length()
        if doublings >= MOST_STRETCH:
            raise ValueError(
                f"{tokens} tokens are {doublings} doublings of {self.trained}; there are {MOST_STRETCH - 1}"
            )
        return doublings

    @cached_property
    def frequencies(self) -> tuple[tuple[float, ...], ...]:
        power = self.head_dim / (self.head_dim - 2)
        return tuple(_frequencies(self.head_dim, self.base * (2 ** (k + 1) - 1) ** power) for k in range(MOST_STRETCH))

    def turns(self, positions_BT: Tensor, stretch_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        stretch_BT = torch.zeros_like(positions_BT) if stretch_BT is None else stretch_BT
        frequencies = torch.tensor(self.frequencies, dtype=torch.float32, device=positions_BT.device)[stretch_BT]
        return _twice((positions_BT[..., None].float() * frequencies)[:, None])


def _twice(angles: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin for both channels of each pair, (..., H / 2) -> (..., H)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)


def turned(x_BNTH: Tensor, cos_B1TH: Tensor, sin_B1TH: Tensor) -> Tensor:
    """Pairs (i, i + R / 2) turned by their angles, of the first R of H channels for which there are angles; others stay."""
    if cos_B1TH.shape[-1] < x_BNTH.shape[-1]:
        first, rest = x_BNTH.split([cos_B1TH.shape[-1], x_BNTH.shape[-1] - cos_B1TH.shape[-1]], dim=-1)
        return torch.cat([turned(first, cos_B1TH, sin_B1TH), rest], -1)
    a, b = x_BNTH.chunk(2, dim=-1)
    return x_BNTH * cos_B1TH + torch.cat([-b, a], -1) * sin_B1TH


def plain(head_dim: int, base: float = 10000.0) -> Rope:
    """frequency_i = base ** (-2 i / H)."""
    return Rope(_frequencies(head_dim, base))


def scaled(head_dim: int, base: float, scaling: Mapping[str, object] | None, *, context: int) -> Rope:
    """The rope that a published config.json asks for.

    Args:
        scaling: its `rope_scaling` or `rope_parameters`, with `rope_type` "default", "linear", "llama3" or "yarn".
        context: its `max_position_embeddings`; YaRN falls back on it.

    Raises:
        ValueError: another rope_type.
    """
    kind = "default" if scaling is None else scaling.get("rope_type", scaling.get("type", "default"))
    known = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
    if kind not in known:
        raise ValueError(f"rope scaling {kind!r} is not one of {', '.join(known)}")
    return known[kind](head_dim, base, scaling or {}, context)


def _frequencies(head_dim: int, base: float) -> tuple[float, ...]:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim  # float32, as published
    return tuple((1.0 / base**exponents).tolist())


def _default(head_dim: int, base: float, scaling: Mapping, context: int) -> Rope:
    return plain(head_dim, base)


def _linear(head_dim: int, base: float, scaling: Mapping, context: int) -> Rope:
    """Position interpolation (arXiv 2306.15595)."""
    return Rope(tuple(f / scaling["factor"] for f in _frequencies(head_dim, base)))


def _llama3(head_dim: int, base: float, scaling: Mapping, context: int) -> Rope:
    """Long wavelengths stretched, short ones kept, a ramp between (Llama 3.1 model code)."""
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    trained = scaling["original_max_position_embeddings"]

    def stretch(frequency: float) -> float:
        turns = trained * frequency / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        return frequency * (kept + (1 - kept) / factor)

    return Rope(tuple(map(stretch, _frequencies(head_dim, base))))


def _yarn(head_dim: int, base: float, scaling: Mapping, context: int) -> Rope:
    """YaRN (arXiv 2309.00071): interpolation by wavelength, and a factor on the attention scores."""
    trained = scaling.get("original_max_position_embeddings") or context
    factor = scaling.get("factor") or context / trained

    def pair_turning(times: float) -> float:
        return head_dim * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_turning(scaling.get("beta_fast") or 32), pair_turning(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    high = high + 0.001 if low == high else high

    def stretch(i: int, frequency: float) -> float:
        interpolated = min(max((i - low) / (high - low), 0.0), 1.0)
        return frequency * (1 - interpolated + interpolated / factor)

    frequencies = tuple(stretch(i, f) for i, f in enumerate(_frequencies(head_dim, base)))
    return Rope(frequencies, _yarn_amplitude(factor, scaling))


def _yarn_amplitude(factor: float, scaling: Mapping) -> float:
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]

    def growth(times: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * times * math.log(factor) + 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return growth(scaling["mscale"]) / growth(scaling["mscale_all_dim"])
    return growth(1.0)
