"""The front door: load or make a model, talk to it, save it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scops.bridge import adapters_in
from scops.checkpoints.keymap import KeyMap
from scops.core.batch import Batch
from scops.core.layout import Layout
from scops.data.collate import pad
from scops.data.processor import Processor
from scops.data.tokenizer import Tokenizer
from scops.folder import OWN, Config, size_of, write_folder
from scops.generate.sampler import Sampler, Sampling
from scops.generate.text import Piece, Words
from scops.generate.text import stream as stream_words
from scops.core.names import nearest
from scops.messages import Ask, sample_of
from scops.nn import lora
from scops.systems import module_of
from scops.train.checkpoint import replace_folder

MAX_TOKENS = 256


@dataclass(frozen=True)
class Answer:
    """What a model said to one conversation.

    Args:
        ended: "stop" or "length".
        tokens: of the reply; prompt: ids of the question, media positions included.
    """

    text: str
    ended: str
    tokens: int
    prompt: tuple[int, ...] = field(repr=False)


@dataclass
class Model:
    """A system with weights, tokenizer and the layout that makes prompts.

    Args:
        system, spec: what it is, as in scops.systems.
        origin: where the weights come from, for people.
        run: the YAML of the run that made it.
    """

    system: str
    spec: Any
    module: nn.Module
    tokenizer: Tokenizer
    layout: Layout
    origin: str = ""
    run: str | None = None

    def __post_init__(self) -> None:
        rows = self.module.embed(torch.zeros(1, dtype=torch.long, device="meta")).shape[-1] if False else None
        self.processor = Processor(self.layout, self.tokenizer)

    @property
    def size(self) -> str | None:
        """A known size's name, when it is exactly that."""
        return size_of(module_of(self.system), self.spec)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype
