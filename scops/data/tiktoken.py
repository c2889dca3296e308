"""Byte-pair ranks as tiktoken keeps them (Qwen 1: qwen.tiktoken) -> the tokenizers library's byte-level BPE.

A line is a token's bytes in base64 and its rank, which is also its id. Patterns and special tokens stand in
QwenLM/Qwen-7B, tokenization_qwen.py.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

QWEN = "qwen.tiktoken"
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_END = "<|endoftext|>"
QWEN_SPECIALS = (QWEN_END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))


def read_ranks(path: Path) -> dict[bytes, int]:
    """Raises:
    ValueError: naming the line that is none of such a file.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(f"{path}, line {number}: a token in base64 and its rank, not {line[:40]!r}") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError(f"{path}: {len(ranks)} tokens, but ranks do not count from 0 or a single byte has none")
    return ranks


def build(ranks: Mapping[bytes, int], words: str = QWEN_WORDS, specials: Sequence[str] = QWEN_SPECIALS) -> Backend:
    """Args:
    words: the expression that cuts text before bytes are joined.
    specials: take the ids behind the ranks, in their order.
    """
    vocab = {_written(token): rank for token, rank in ranks.items()}
    backend = Backend(models.BPE(vocab, [(_written(a), _written(b)) for a, b in joins(ranks)], ignore_merges=True))
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(words), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return backend


def joins(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that is a token, the lower rank of what it makes first."""
    found = [
        (rank, ranks[token[:at]], ranks[token[at:]], token[:at], token[at:])
        for token, rank in ranks.items()
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def _letters() -> dict[int, str]:
    """GPT-2's letter for every byte: printable Latin-1 stands for itself, the others for letters from 256 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + at) for at, byte in enumerate(others)}


LETTERS = _letters()


def _written(token: bytes) -> str:
    return "".join(LETTERS[byte] for byte in token)
