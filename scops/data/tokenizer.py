"""Text to ids and back. Text is only ever text: what a user types can never become a special token."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from scops.checkpoints.write import save_json, save_text
from scops.core.names import nearest
from scops.data import tiktoken
from scops.data.sentencepiece import SPACE, build, read_model

ROLES = ("bos", "eos", "pad")
BESIDE = "qformer_tokenizer"
"""The folder in a model's folder that holds the tokenizer of its connector, as transformers names it."""
MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
INCOMPLETE = "\ufffd"


class Tokenizer:
    """A tokenizer with the three ids that models care about.

    Args:
        bos, eos, pad: spellings of special tokens; None where the model has none.
    Attributes:
        beside: the tokenizer of a connector that reads words of its own; None where it reads none.
    """

    def __init__(
        self, backend: Backend, *, bos: str | None = None, eos: str | None = None, pad: str | None = None
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.beside: Tokenizer | None = None
        self.added = {token.content: at for at, token in backend.get_added_tokens_decoder().items()}
        self.specials = {t.content: at for at, t in backend.get_added_tokens_decoder().items() if t.special}
        self.tokens = {"bos": bos, "eos": eos, "pad": pad}
        self._text = _only_text(backend)
        for token in self.tokens.values():
            if token is not None:
                self.id_of(token)

    @classmethod
    def from_file(
        cls, path: str | Path, *, bos: str | None = None, eos: str | None = None, pad: str | None = None
    ) -> "Tokenizer":
        """A tokenizer.json."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; expected a tokenizer.json")
        try:
            backend = Backend.from_str(path.read_text("utf-8"))
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
        return cls(backend, bos=bos, eos=eos, pad=pad)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """tokenizer.json, or a SentencePiece model, or Qwen's ranks; bos, eos, pad from tokenizer_config.json or the model.

        A connector's own lies in a folder beside it.
        """
        made = cls._from_folder(Path(folder))
        if (Path(folder) / BESIDE).is_dir():
            made.beside = cls._from_folder(Path(folder) / BESIDE)
        return made

    @classmethod
    def _from_folder(cls, folder: Path) -> "Tokenizer":
        named = _roles(folder)
        if (folder / "tokenizer.json").is_file():
            return cls.from_file(folder / "tokenizer.json", **named)
        for name in MODELS:
            if (folder / name).is_file():
                pieces = read_model(folder / name)
                backend = _with_added(build(pieces), folder)
                return cls(backend, **({role: pieces.token(role) for role in ROLES} | named))
        if (folder / tiktoken.QWEN).is_file():
            backend = tiktoken.build(tiktoken.read_ranks(folder / tiktoken.QWEN))
            return cls(backend, **({"eos": tiktoken.QWEN_END, "pad": tiktoken.QWEN_END} | named))
        names = ", ".join((*MODELS, tiktoken.QWEN))
        raise FileNotFoundError(f"{folder} has no tokenizer; expected tokenizer.json or one of {names}")

    def encode_text(self, text: str, *, goes_on: bool = False) -> list[int]:
        """Ids of plain text. Nothing is put around it, and spellings of special tokens are split like other words.

        Args:
            goes_on: it continues a text that is encoded already, so that a blank which the tokenizer puts in front of every
                text (SentencePiece) stands for the first one of its own.
        """
        if goes_on and self._leads:
            text = text.removeprefix(" ")
        return self._text.encode(text, add_special_tokens=False).ids

    @cached_property
    def _leads(self) -> bool:
        """Whether a text is encoded with a blank in front of it."""
        return self._text.encode("a", add_special_tokens=False).tokens[:1] in ([SPACE], [SPACE + "a"])

    def encode_beside(self, text: str) -> np.ndarray:
        """Ids of what the connector reads, as its own tokenizer begins and ends a text.

        Raises:
            ValueError: the connector's tokenizer is missing.
        """
        if self.beside is None:
            raise ValueError(
                f"the connector reads words of its own, but there is no tokenizer for them: the model's folder needs "
                f"{BESIDE}/tokenizer.json"
            )
        before, after = self.beside.around
        return np.array([*before, *self.beside.encode_text(text), *after], np.int64)

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer's own rule puts before and behind a text ("[CLS]" and "[SEP]" in BERT); bos and eos without one."""
        if self.backend.post_processor is None:
            before, after = ([] if one is None else [one] for one in (self.bos_id, self.eos_id))
            return before, after
        made = self.backend.encode("a")
        words = [at for at, special in enumerate(made.special_tokens_mask) if not special]
        return made.ids[: words[0]], made.ids[words[-1] + 1 :]

    def id_of(self, token: str) -> int:
        """The id of exactly one special or added token, by its spelling."""
        if token not in self.added:
            raise ValueError(f"{token!r} is no special token of this tokenizer{nearest(token, self.added)}")
        return self.added[token]

    def stop_id(self, token: str) -> int:
        """The id of a special or added token, or of words that are exactly one token."""
        ids = [] if token in self.added else self.encode_text(token)
        return ids[0] if len(ids) == 1 else self.id_of(token)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    def stream(self, *, skip_special: bool = True) -> "Stream":
        """Text of one growing sequence, as it comes."""
        return Stream(self, skip_special)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def with_specials(self, tokens: Sequence[str]) -> "Tokenizer":
        """The same with special tokens added behind its vocabulary, in this order."""
        backend = Backend.from_str(self.backend.to_str())
        backend.add_special_tokens(list(tokens))
        made = Tokenizer(backend, **self.tokens)
        made.beside = self.beside
        return made

    @property
    def bos_id(self) -> int | None:
        return self._role("bos")

    @property
    def eos_id(self) -> int | None:
        return self._role("eos")

    @property
    def pad_id(self) -> int | None:
        return self._role("pad")

    def _role(self, role: str) -> int | None:
        token = self.tokens[role]
        return None if token is None else self.added[token]

    def save(self, folder: str | Path) -> None:
        """tokenizer.json and tokenizer_config.json, as transformers reads them."""
        folder = Path(folder)
        if self.beside is not None:
            (folder / BESIDE).mkdir(parents=True, exist_ok=True)
            self.beside.save(folder / BESIDE)
        save_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        roles = {f"{role}_token": token for role, token in self.tokens.items() if token is not None}
        # decoding gives back what was encoded, without tidying spaces before punctuation
        save_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | roles,
        )


class Stream:
    """Text piece by piece; the pieces together are what decoding all ids at once gives. Never half a character.

    A token is decoded beside the ones before it, because spaces and bytes depend on their neighbours.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._ids: list[int] = []
        self._shown = 0  # ids before this one have been given out
        self._said = ""  # what they say

    def step(self, token: int) -> str:
        """The text that this id completes; empty while a character is unfinished."""
        self._ids.append(token)
        text = self._decode()
        if text.endswith(INCOMPLETE) or len(text) <= len(self._said):
            return ""
        new = text[len(self._said) :]
        self._ids = self._ids[self._shown :]
        self._shown, self._said = len(self._ids), self._decode()
        return new

    def finish(self) -> str:
        """What was held back at the end: the remains of a broken character."""
        new = self._decode()[len(self._said) :]
        self._ids, self._shown, self._said = [], 0, ""
        return new

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special=self._skip)


def _only_text(backend: Backend) -> Backend:
    """A copy that knows no special or added token but runs of white space (GPT-NeoX adds those, and they are text).

    `encode_special_tokens` of the library spares only special tokens; added ones would still be cut out of the text.
    """
    content = json.loads(backend.to_str())
    white = {t["content"]: t["id"] for t in content["added_tokens"] if t["content"].isspace() and not t["special"]}
    hidden = {token["content"] for token in content["added_tokens"]} - white.keys()
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in white]
    content["post_processor"] = None
    if content["model"]["type"] == "Unigram":
        _hide_pieces(content["model"], hidden)
    else:
        _hide_tokens(content["model"], hidden)
        content["model"]["vocab"] |= white  # where their ids are looked up
    return Backend.from_str(json.dumps(content))


# Both respell a token as something with a space in it, which no text reaches: spaces are cut or rewritten before.
def _hide_pieces(model: dict[str, Any], hidden: set[str]) -> None:
    model["vocab"] = [
        [f" {at}" if piece in hidden else piece, score] for at, (piece, score) in enumerate(model["vocab"])
    ]


def _hide_tokens(model: dict[str, Any], hidden: set[str]) -> None:
    hidden = {token for token in hidden if len(token) > 1}  # one character cannot be split
    respelt = {token: f" {model['vocab'][token]}" for token in hidden if token in model["vocab"]}
    model["vocab"] = {respelt.get(token, token): at for token, at in model["vocab"].items()}
    if model.get("unk_token") in respelt:
        model["unk_token"] = respelt[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if hidden.isdisjoint([*pair, "".join(pair)])]


ADDED = "added_tokens.json"
"""Beside a SentencePiece model: special tokens behind its vocabulary, and their ids."""


def _with_added(backend: Backend, folder: Path) -> Backend:
    """Raises ValueError: ids that leave a gap."""
    path = folder / ADDED
    said: dict[str, int] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    first, known = backend.get_vocab_size(), backend.get_vocab()
    new = {token: at for token, at in sorted(said.items(), key=lambda one: one[1]) if token not in known}
    if [*new.values()] != list(range(first, first + len(new))):
        raise ValueError(f"{path} gives the ids {[*new.values()]}, but the vocabulary ends at {first - 1}")
    backend.add_special_tokens([*new])
    return backend


def _roles(folder: Path) -> dict[str, str]:
    """bos, eos, pad where tokenizer_config.json or special_tokens_map.json names them."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        content = json.loads(path.read_text("utf-8"))
        for role in ROLES:
            token = content.get(f"{role}_token")
            if token is not None:
                found[role] = token["content"] if isinstance(token, dict) else token
    return found
