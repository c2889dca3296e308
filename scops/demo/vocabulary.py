"""A small tokenizer for a small decoder: byte-level BPE learnt from the demo's own sentences."""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from scops.data.tokenizer import Tokenizer

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"


def learn_vocabulary(data: Path, folder: Path, *, size: int) -> Path:
    """A folder with tokenizer.json of at most `size` tokens, learnt once from the data set's training files."""
    if (folder / "tokenizer.json").is_file():
        return folder
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, START, END], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(sentences(data), trainer)
    Tokenizer(backend, bos=START, eos=END, pad=PAD).save(folder)
    return folder


def sentences(data: Path) -> Iterator[str]:
    """All that is said in the training files."""
    for path in sorted(data.glob("train_*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            for message in json.loads(line)["messages"]:
                yield from (part["text"] for part in message["content"] if part["type"] == "text")
