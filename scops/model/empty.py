"""A system without memory: names and shapes at once, whatever its size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from scops.core.stage import Lora
from scops.data.tokenizer import Tokenizer
from scops.native.quantise import quantise
from scops.nn import lora
from scops.systems import module_of


class _WithoutNumbers(TorchFunctionMode):
    """What has no memory needs no random numbers; torch would load its compiler (seconds) to draw none of them."""

    def __torch_function__(
        self, func: Callable, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in (nn.init.normal_, torch.Tensor.normal_):
            tensor = args[0] if args else given["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **given)


def outline(
    system: str,
    spec: Any,
    *,
    dtype: torch.dtype = torch.float32,
    adapters: Sequence[Lora] = (),
    quantised: Mapping[str, str] | None = None,
) -> Any:
    """The system on the meta device; adapters are float32 whatever the weights are kept in."""
    with _WithoutNumbers(), torch.device("meta"):
        module = module_of(system).build(spec).to(dtype)
        for group in adapters:
            lora.add(module, group)
        quantise(module, quantised or {})
    return module


def empty(
    system: str,
    spec: Any,
    tokenizer: Tokenizer,
    dtype: torch.dtype,
    adapters: Sequence[Lora] = (),
    quantised: Mapping[str, str] | None = None,
) -> Any:
    """The same, with a vocabulary that the tokenizer fits into.

    Raises:
        ValueError: it does not.
    """
    module = outline(system, spec, dtype=dtype, adapters=adapters, quantised=quantised)
    of_spec = getattr(module_of(system), "vocabulary", None)  # of a system that may have no head
    first = torch.zeros(1, dtype=torch.long, device="meta")
    vocabulary = of_spec(spec) if of_spec else module.head(module.embed(first)).shape[-1]
    if tokenizer.vocab_size > vocabulary:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the vocabulary of this {system} is {vocabulary}; "
            "give the tokenizer that belongs to it"
        )
    return module
