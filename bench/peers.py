"""The other sides: transformers with our weights, and what both read and are compared by."""

# B rows, T tokens, V vocabulary
from collections.abc import Mapping

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from scops.core.batch import Batch, Example
from scops.data.collate import pad
from scops.language.llama import LlamaSpec
from scops.model import Model
from scops.systems import llama

transformers.logging.set_verbosity_error()

TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 5e-2}
"""Of the largest number of the reference; bfloat16 keeps 8 bits, and the two sides round at other places in thirty layers."""

TEXT = (
    "An owl is a bird of the night. It sees well in little light, hears better still, and flies without a sound, "
    "because the edges of its feathers are soft. By day it sits in a hollow tree and sleeps. Most owls hunt mice, some "
    "take insects, and a few of the largest catch fish. "
)


def language_of(spec: LlamaSpec, state: Mapping[str, Tensor]) -> nn.Module:
    """transformers' own module for this language model.

    Args:
        state: under transformers' names, as the system's KEYS saves it; its dtype is the module's.
    """
    numbers = llama.language_config(spec)
    config = transformers.AutoConfig.for_model(
        numbers.pop("model_type"), **numbers, bos_token_id=None, eos_token_id=None
    )
    dtype = next(iter(state.values())).dtype
    theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    found = theirs.load_state_dict(state, strict=False)
    if found.unexpected_keys or set(found.missing_keys) - ({"lm_head.weight"} if spec.tied else set()):
        raise ValueError(f"transformers' {type(theirs).__name__} and our key map disagree: {found}")
    return theirs.eval()


def peer_of(model: Model) -> nn.Module:
    """transformers' module with the weights of a language model of ours."""
    return language_of(model.spec.language, llama.KEYS["transformers"](model.spec).save(model.module.state_dict()))


def prompt(model: Model, tokens: int) -> list[int]:
    """So many ids of English."""
    once = model.tokenizer.encode_text(TEXT)
    return (once * (tokens // len(once) + 1))[:tokens]


def batch_of(ids: list[int]) -> Batch:
    return pad([Example(np.array(ids), np.zeros(len(ids), np.bool_))], pad_id=0)


def compare(ours: Tensor, theirs: Tensor, what: str, *, tolerance: Mapping[torch.dtype, float] = TOLERANCE) -> float:
    """The largest difference as a share of their largest number.

    Raises:
        ValueError: over the tolerance for the dtype of `ours`.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"{what}: ours are {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")
    share = ((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max()).item()
    if not share <= tolerance[ours.dtype]:
        raise ValueError(f"{what} differ by {share:.2g} of the largest; {tolerance[ours.dtype]:.2g} is allowed")
    return share
