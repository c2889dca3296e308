"""A model of parts that are chosen by name or by their numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scops.data.tokenizer import Tokenizer
from scops.model.model import Model
from scops.model.opening import Pretrained, create
from scops.systems import KIND

Part = str | Mapping[str, Any] | Any
"""A name that is offered; {"kind": name} with numbers; or a part's own spec."""


def compose(
    encoder: Part,
    connector: Part,
    language: Part,
    *,
    fusion: Part = "inline",
    grids: Sequence[tuple[int, int]] = (),
    template: str | None = None,
    tokenizer: Tokenizer | None = None,
    pretrained: Pretrained = True,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
) -> Model:
    """Any encoder, connector, fusion and language model of the house, or a connector of one's own.

    Args:
        encoder, connector, language, fusion: as in docs/systems/composed.md; a connector also package.module:Class.
        grids: (rows, columns) that large pictures are cut into, the whole picture before them.
        template: how turns are written; by default as the named language model has them.
        tokenizer: by default that of the language model's package or folder.
        pretrained: False makes every part fresh; by part, a file or folder of its published weights, or False:
            {"image.encoder": "clip", "language": "vicuna"}.
    Raises:
        ValueError: what is not offered, parts that do not go together, or weights that nobody has.
    """
    parts: dict[str, Any] = {
        "encoder": encoder, "connector": connector, "fusion": fusion, "language": language, "grids": [*map(list, grids)],
        "template": template,
    }  # fmt: skip
    for name in ("encoder", "connector", "fusion", "language"):
        if isinstance(parts[name], Mapping) and KIND not in parts[name]:
            raise ValueError(f"{name} has numbers, but no {KIND!r} that says of which part: {parts[name]}")
    chosen = {name: part for name, part in parts.items() if part is not None}
    return create("composed", chosen, tokenizer=tokenizer, pretrained=pretrained, dtype=dtype, device=device)
