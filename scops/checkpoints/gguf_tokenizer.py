"""The tokenizer of a GGUF file: byte-level BPE ("gpt2") with its pre-tokenizer, or SentencePiece scores ("llama")."""

from collections.abc import Callable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from scops.core.names import nearest
from scops.data.sentencepiece import Pieces, build, mark_specials

# The expressions with which the published tokenizers cut text before merging.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def words() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def digits() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), words()])


def cut(expression: str) -> PreTokenizer:
    return Sequence([Split(Regex(expression), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


# tokenizer.ggml.pre -> (how text is cut, is it NFC first, are whole words looked up before merging)
PRE: dict[str, tuple[Callable[[], PreTokenizer], bool, bool]] = {
    "default": (words, False, False),
    "gpt-2": (words, False, False),
    "mpt": (words, False, False),
    "olmo": (words, False, False),
    "smollm": (digits, False, False),
    "starcoder": (digits, False, False),
    "refact": (digits, False, False),
    "llama-bpe": (lambda: cut(LLAMA3), False, True),
    "qwen2": (lambda: cut(QWEN2), True, False),
}


def gguf_tokenizer(value: Callable[..., Any], ids: dict[str, int]) -> Tokenizer:
    """`value(key[, default])` answers with metadata, `ids` are those of unk, bos, eos, pad."""
    kind = value("tokenizer.ggml.model")
    tokens: list[str] = value("tokenizer.ggml.tokens")
    types: list[int] = value("tokenizer.ggml.token_type")
    if kind == "llama":
        scores = value("tokenizer.ggml.scores")
        tokenizer = build(Pieces(tokens, scores, types, prefix=value("tokenizer.ggml.add_space_prefix", True), ids=ids))
    elif kind == "gpt2":
        tokenizer = _byte_level(tokens, types, value("tokenizer.ggml.merges"), value("tokenizer.ggml.pre", "default"))
    else:
        raise ValueError(f"tokenizer.ggml.model is {kind!r}{nearest(kind, ('gpt2', 'llama'))}")
    if value("tokenizer.ggml.add_bos_token", kind == "llama") and "bos" in ids:
        bos = tokens[ids["bos"]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 {bos}:1 $B:1", special_tokens=[(bos, ids["bos"])]
        )
    return tokenizer


def _byte_level(tokens: list[str], types: list[int], merges: list[str], pre: str) -> Tokenizer:
    if pre not in PRE:
        raise ValueError(f"tokenizer.ggml.pre is {pre!r}, and how it cuts text is not known here{nearest(pre, PRE)}")
    cutting, composed, whole = PRE[pre]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ", 1) for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=whole))
    tokenizer.pre_tokenizer = cutting()
    if composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    mark_specials(tokenizer, tokens, types)
    return tokenizer
