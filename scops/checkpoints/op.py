"""Reversible changes of tensors: load turns theirs into ours, save is its exact inverse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scops.ops.positions import spread


class Op:
    """The same tensors on both sides."""

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        return tensors

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        return tensors


def shares_of(parts: int | Sequence[int]) -> tuple[int, ...]:
    return (1,) * parts if isinstance(parts, int) else tuple(parts)


def rows_of(rows: int, shares: tuple[int, ...], unit: int = 1) -> list[int]:
    """How many of `rows` rows each share gets when the rows hold `unit` groups of all shares."""
    whole = sum(shares) * unit
    if rows % whole:
        raise ValueError(f"{rows} rows cannot be divided into {unit} x {shares}")
    return [rows // whole * share for share in shares]


@dataclass(frozen=True)
class Split(Op):
    """One fused tensor, cut along dim 0 (fused qkv, kv, gate_up).

    Args:
        parts: a number of equal parts, or their sizes, of which only the ratio counts: (4, 1, 1) is GQA's qkv.
    """

    parts: int | tuple[int, ...]

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        (fused,) = tensors
        return [part.clone() for part in fused.split(rows_of(len(fused), shares_of(self.parts)))]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat(tensors)]


@dataclass(frozen=True)
class SplitPerHead(Op):
    """One fused tensor whose rows are ordered (head, part, width): GPT-NeoX's query_key_value, InternLM2's wqkv.

    Args:
        parts: equal parts per head, or how many head widths each part takes: (groups, 1, 1) in InternLM2.
        heads: key heads where these are fewer.
    """

    parts: int | tuple[int, ...]
    heads: int

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        (fused,) = tensors
        widths = rows_of(len(fused), shares_of(self.parts), self.heads)
        per_head = fused.unflatten(0, (self.heads, sum(widths)))
        return [part.flatten(0, 1).contiguous().clone() for part in per_head.split(widths, dim=1)]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat([part.unflatten(0, (self.heads, -1)) for part in tensors], dim=1).flatten(0, 1)]


@dataclass(frozen=True)
class Concat(Op):
    """Several tensors of theirs, one below the other in ours; the inverse of Split."""

    parts: int | tuple[int, ...]

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        return Split(self.parts).save(tensors)

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        return Split(self.parts).load(tensors)


@dataclass(frozen=True)
class Copies(Op):
    """One tensor of theirs begins several of ours (an expert per modality); one again only while they are equal."""

    count: int

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        (one,) = tensors
        return [one.clone() for _ in range(self.count)]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        first, *others = tensors
        if not first.is_meta and not all(torch.equal(first, other) for other in others):
            raise ValueError(
                f"{len(tensors)} tensors that began as one differ by now, so that one cannot stand for them"
            )
        return [first]


@dataclass(frozen=True)
class WithTables(Op):
    """Beside one tensor theirs keeps tables that ours computes: checked when read, written again when saved.

    Args:
        tables: of the tensor, float32.
    """

    tables: Callable[[Tensor], Sequence[Tensor]]

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        tensor, *kept = tensors
        if not tensor.is_meta:
            for found, expected in zip(kept, self.tables(tensor), strict=True):
                rounding = max(1e-3, 2 * torch.finfo(found.dtype).eps)
                if found.shape != expected.shape or (found.float() - expected).abs().max() > rounding:
                    raise ValueError(
                        f"a fixed table of shape {tuple(found.shape)} is not the one that is computed, "
                        f"{tuple(expected.shape)}; this checkpoint was made by another formula or for other sizes"
                    )
        return [tensor]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        (tensor,) = tensors
        return [tensor, *(table.to(tensor) for table in self.tables(tensor))]


@dataclass(frozen=True)
class Transpose(Op):
    """Theirs is (in, out), ours (out, in): GPT-2's Conv1D, projections kept as bare parameters."""

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.transpose(0, 1).contiguous() for tensor in tensors]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        return self.load(tensors)


@dataclass(frozen=True)
class LeadingAxes(Op):
    """Ours has `count` more leading axes of size one: a class token (D) that we keep as (1, 1, D)."""

    count: int

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor[(None,) * self.count] for tensor in tensors]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        for tensor in tensors:
            if tensor.shape[: self.count] != (1,) * self.count:
                raise ValueError(f"shape {tuple(tensor.shape)} has no {self.count} leading axes of size 1")
        return [tensor[(0,) * self.count] for tensor in tensors]


@dataclass(frozen=True)
class TrailingAxes(Op):
    """Theirs has `count` more trailing axes of size one: a projection that is published as a convolution."""

    count: int

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        for tensor in tensors:
            if tensor.shape[-self.count :] != (1,) * self.count:
                raise ValueError(f"shape {tuple(tensor.shape)} has no {self.count} trailing axes of size 1")
        return [tensor[(..., *(0,) * self.count)] for tensor in tensors]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor[(..., *(None,) * self.count)] for tensor in tensors]


@dataclass(frozen=True)
class Repeated(Op):
    """One tensor of ours that theirs holds several times, because it is tied there."""

    count: int

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        first, *others = tensors
        if not all(first.shape == other.shape and (first.is_meta or torch.equal(first, other)) for other in others):
            raise ValueError("these should be one tied tensor, but their numbers differ")
        return [first]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        (tensor,) = tensors
        return [tensor.clone() for _ in range(self.count)]


@dataclass(frozen=True)
class Unpermute(Op):
    """Rotary rows paired (0, 1), (2, 3), ... in theirs (Meta, llama.cpp), (0, H/2), (1, H/2 + 1), ... in ours."""

    heads: int

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        return [self._swap(tensor, lambda rows: (self.heads, rows // self.heads // 2, 2)) for tensor in tensors]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        return [self._swap(tensor, lambda rows: (self.heads, 2, rows // self.heads // 2)) for tensor in tensors]

    def _swap(self, tensor, axes) -> Tensor:
        if len(tensor) % (2 * self.heads):
            raise ValueError(f"{len(tensor)} rows are not {self.heads} heads of an even width")
        return tensor.unflatten(0, axes(len(tensor))).transpose(1, 2).flatten(0, 2).contiguous()


@dataclass(frozen=True)
class FirstRows(Op):
    """Ours has the first of their rows: a vocabulary whose last rows no token uses. Only for reading."""

    count: int

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        for tensor in tensors:
            if len(tensor) < self.count:
                raise ValueError(f"{len(tensor)} rows, but at least {self.count} are needed")
        return [tensor[: self.count].clone() for tensor in tensors]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        raise ValueError("rows that were cut cannot be written again")


@dataclass(frozen=True)
class Inverse(Op):
    """The other way round: ours is what the op says of theirs."""

    op: Op

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        return self.op.save(tensors)

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        return self.op.load(tensors)


@dataclass(frozen=True)
class ForTokens(Op):
    """Positions (1, tokens, width) of a square grid, spread over another one (bicubic); saved as they are.

    Args:
        tokens: of ours, the class token included.
    """

    tokens: int

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        return [spread(table, self.tokens) for table in tensors]
