"""What a conversation will cost, told before there are weights: tokens, parameters, FLOPs and bytes.

The system's own forward runs on the meta device, where tensors have shapes and no numbers. So no formula stands here that a
new system could make wrong. FLOPs are those of torch.utils.flop_counter: 2 for each multiplication that is added up, of matrix
products and convolutions; causal attention counts as if every token saw all.
"""

# T tokens, V vocabulary, N heads, H head width
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from scops.core.batch import Batch
from scops.core.layout import Layout
from scops.core.sample import Sample
from scops.core.system import Decoder
from scops.data.collate import pad
from scops.data.processor import Processor
from scops.data.tokenizer import Tokenizer
from scops.lab.memory import peak_bytes
from scops.lab.tokens import Counting, Prompt, shapes_of, told
from scops.models.cached import CachedSession
from scops.native.matrix import Quantised
from scops.train.stage import role_of

UNBOUND = 1 << 40
"""More tokens than any prompt has: what does not fit is counted all the same."""


@dataclass(frozen=True)
class Part:
    """Parameters and bytes of one role."""

    role: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Flops:
    """
    Args:
        encode, connect: all pictures, by encoders and by connectors.
        read: the prompt, by what answers.
        step: the first token that is given back to the model; each further one takes `more`.
    """

    encode: int
    connect: int
    read: int
    step: int
    more: int

    @property
    def prefill(self) -> int:
        """All before the first token is there."""
        return self.encode + self.connect + self.read

    def reply(self, tokens: int) -> int:
        """Of so many tokens of a reply, beside `prefill`, which brings the first; the last is not given back."""
        steps = max(tokens - 1, 0)
        return steps * self.step + steps * (steps - 1) // 2 * self.more


@dataclass(frozen=True)
class Bytes:
    """
    Args:
        weights: parameters and buffers.
        media: prepared pictures.
        cache: all keys and values of one conversation: `per_token` for each that there is room for, and `beside`, those of what
            stands beside the sequence.
        activations: the most that is alive at one moment while the prompt is read, beside all this.
    """

    weights: int
    media: int
    cache: int
    per_token: int
    beside: int
    activations: int

    @property
    def peak(self) -> int:
        return self.weights + self.media + self.cache + self.activations


@dataclass(frozen=True)
class Cost:
    """Of one conversation.

    Args:
        reply: tokens of the reply that there is room for.
        context: the most tokens that the system takes, prompt and reply together.
    """

    prompt: Prompt
    reply: int
    context: int
    parts: tuple[Part, ...]
    flops: Flops
    bytes: Bytes

    @property
    def fits(self) -> bool:
        return self.prompt.tokens < self.context


def cost(
    system: nn.Module, layout: Layout, tokenizer: Tokenizer | None, sample: Sample, *, text: int = 0, reply: int
) -> Cost:
    """What it costs to read a sample and to write the reply.

    Args:
        system: a Decoder on the meta device, in the dtype that is meant.
        tokenizer: None only estimates how many tokens words are.
        text: tokens that scops.lab.tokens.HERE stands for in the sample's words.
        reply: the most tokens of the reply.
    """
    system, counting = system.eval().requires_grad_(False), Counting(tokenizer, text)
    processor = Processor(replace(layout, context=UNBOUND), cast(Any, counting))
    example, items = processor.planned(sample, reply=True)
    tokens, decoder = len(example), cast(Decoder, system)
    reply = max(min(reply, layout.context - tokens), 0)
    dtype, shapes = next(decoder.parameters()).dtype, shapes_of(items)
    media = {kind: torch.empty(shape, dtype=dtype, device="meta") for kind, shape in shapes.items()}
    batch = replace(pad([example], pad_id=0).to("meta"), media=media)
    with torch.no_grad():
        made, flops = _flops(decoder, batch, tokens)
        held = _bytes(system, batch, tokens + reply)
    return Cost(told(sample, example, items, counting, made), reply, layout.context, parts(system), flops, held)


def parts(system: nn.Module) -> tuple[Part, ...]:
    """By role, in the system's order. A quantised weight counts as the parameters that it stands for."""
    parameters: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for path, tensor in system.named_parameters():
        parameters[role_of(path)] = parameters.get(role_of(path), 0) + tensor.numel()
    for path, module in system.named_modules():
        if isinstance(module, Quantised):
            parameters[role_of(path)] = parameters.get(role_of(path), 0) + module.in_features * module.out_features
    for path, tensor in [*system.named_parameters(), *system.named_buffers()]:
        sizes[role_of(path)] = sizes.get(role_of(path), 0) + tensor.nbytes
    return tuple(Part(role, parameters.get(role, 0), size) for role, size in sizes.items())


def _flops(system: Decoder, batch: Batch, tokens: int) -> tuple[dict[str, Sequence[int]], Flops]:
    """By input of the model the tokens that its connector makes of each item, and what everything takes."""
    encode, features = counted(lambda: system.encode(batch))
    batch = replace(batch, media={}, features=features)
    connect, made = counted(lambda: system.connect(batch))
    read, session = counted(lambda: system.session(batch, tokens + 2))
    id_B = torch.zeros(1, dtype=torch.long, device="meta")
    step, next_step = (counted(lambda: session.step(id_B))[0] for _ in range(2))
    counts: dict[str, Sequence[int]] = {kind: [len(tokens_QD) for tokens_QD in items] for kind, items in made.items()}
    return counts, Flops(encode, connect, read - connect, step, next_step - step)


def counted(call: Callable[[], Any]) -> tuple[int, Any]:
    """FLOPs, and what the call returns."""
    with FlopCounterMode(display=False) as counter:
        made = call()
    return counter.get_total_flops(), made


def _bytes(system: nn.Module, batch: Batch, capacity: int) -> Bytes:
    decoder, opened = cast(Decoder, system), []
    with FusedAttention():
        most = peak_bytes(lambda: opened.append(decoder.session(batch, capacity)))
    cache, per_token = cast(CachedSession, opened[0]).cache.nbytes, decoder.token_bytes()
    return Bytes(
        weights=sum(part.bytes for part in parts(system)),
        media=sum(pictures.nbytes for pictures in batch.media.values()),
        cache=cache,
        per_token=per_token,
        beside=cache - capacity * per_token,
        activations=most - cache,
    )


class FusedAttention(TorchFunctionMode):
    """Attention makes its result, and of a mask of truth values one of numbers, but never writes all scores down.

    So do the kernels that torch takes (FlashAttention, arXiv 2205.14135).
    """

    def __torch_function__(
        self, func: Callable, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q_BNTH, _, v_BKSH = cast(Sequence[Tensor], args)
        mask = (kwargs or {}).get("attn_mask")
        numbers = q_BNTH.new_empty(mask.shape) if mask is not None and mask.dtype is torch.bool else None
        rows, heads, queries, _ = q_BNTH.shape
        made_BTNH = q_BNTH.new_empty(rows, queries, heads, v_BKSH.shape[-1])
        del numbers  # held until the result is there
        return made_BTNH.transpose(1, 2)  # as kernels lay it out, so that heads side by side are no copy
