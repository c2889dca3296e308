"""SentencePiece vocabularies as tokenizers pipelines (google/sentencepiece, sentencepiece_model.proto).

GGUF files carry the same pieces. The model file is read here: neither sentencepiece nor protobuf is needed.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
SPACE = "▁"


@dataclass(frozen=True)
class Pieces:
    """A vocabulary with scores.

    Args:
        types: NORMAL, UNKNOWN, ... of each piece; only NORMAL pieces are ever made from text.
        prefix: a space is put in front of every text ("dummy prefix").
        squeeze: runs of spaces become one and the ends are stripped.
        charsmap: precompiled normalisation of characters; empty for none.
        ids: unk, bos, eos, pad where they exist.
    """

    pieces: list[str]
    scores: list[float]
    types: list[int]
    kind: int = BPE
    prefix: bool = True
    squeeze: bool = False
    charsmap: bytes = b""
    ids: dict[str, int] = field(default_factory=dict)

    def token(self, role: str) -> str | None:
        """The piece that is unk, bos, eos or pad."""
        at = self.ids.get(role, -1)
        return self.pieces[at] if 0 <= at < len(self.pieces) else None


def read_model(path: str | Path) -> Pieces:
    """A `tokenizer.model` or `spiece.model` file."""
    path = Path(path)
    try:
        return _parse(path.read_bytes())
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole SentencePiece model ({path.stat().st_size} bytes): {error}") from error


def _parse(data: bytes) -> Pieces:
    pieces, scores, types, trainer, normalizer = [], [], [], {}, {}
    for number, value in _fields(data):
        if number == 1:
            entry = dict(_fields(value))
            pieces.append(entry[1].decode("utf-8"))
            scores.append(struct.unpack("<f", entry[2])[0] if 2 in entry else 0.0)
            types.append(entry.get(3, NORMAL))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    defaults = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
    ids = {role: _signed(trainer.get(number, default)) for role, (number, default) in defaults.items()}
    kind = trainer.get(3, UNIGRAM)
    if kind not in (UNIGRAM, BPE):
        raise ValueError(f"model type {kind} is neither unigram (1) nor BPE (2)")
    charsmap = normalizer.get(2, b"")
    return Pieces(
        pieces, scores, types, kind, bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1)), charsmap,
        {role: at for role, at in ids.items() if at >= 0},
    )  # fmt: skip


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Protocol buffer wire format: field numbers and values, int or bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"field {number} ends at byte {at + size} of {len(data)}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        shift += 7


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def build(pieces: Pieces) -> Tokenizer:
    """The same ids as the SentencePiece library gives."""
    tokenizer = Tokenizer(_unigram(pieces) if pieces.kind == UNIGRAM else _bpe(pieces))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(pieces.charsmap)] if pieces.charsmap else []
    if pieces.squeeze:
        steps += [normalizers.Replace(Regex(" +"), " "), normalizers.Replace(Regex("^ | $"), "")]
    if pieces.prefix:
        steps.append(normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    if pieces.kind == UNIGRAM:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False)
    ends = [decoders.Strip(" ", 1, 0)] if pieces.prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    mark_specials(tokenizer, pieces.pieces, pieces.types)
    return tokenizer


def mark_specials(tokenizer: Tokenizer, pieces: list[str], types: list[int]) -> None:
    """Control and unknown pieces become special tokens, user-defined ones added tokens."""
    typed = list(zip(pieces, types, strict=True))
    tokenizer.add_special_tokens(
        [AddedToken(p, special=True, normalized=False) for p, t in typed if t in (UNKNOWN, CONTROL)]
    )
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p, t in typed if t == USER])


def _unigram(pieces: Pieces) -> models.Unigram:
    scored = list(zip(pieces.pieces, pieces.scores, strict=True))
    return models.Unigram(scored, unk_id=pieces.ids.get("unk", 0), byte_fallback=BYTE in pieces.types)


def _bpe(pieces: Pieces) -> models.BPE:
    vocabulary = {piece: at for at, piece in enumerate(pieces.pieces)}
    return models.BPE(
        vocabulary, merges(pieces), unk_token=pieces.token("unk"), fuse_unk=True, byte_fallback=BYTE in pieces.types
    )


def merges(pieces: Pieces) -> list[tuple[str, str]]:
    """Every way to put a normal piece together from two others, the best piece first.

    SentencePiece merges the neighbours whose union scores highest; a list in the order of the scores says the same.
    Pieces that text may not become (control, user-defined) are never a result, so no text can spell them.
    """
    made_of = {
        piece: at for at, (piece, kind) in enumerate(zip(pieces.pieces, pieces.types, strict=True)) if kind == NORMAL
    }
    found = [
        (-pieces.scores[at], made_of[piece[:cut]], made_of[piece[cut:]])
        for piece, at in made_of.items()
        for cut in range(1, len(piece))
        if piece[:cut] in made_of and piece[cut:] in made_of
    ]
    return [(pieces.pieces[left], pieces.pieces[right]) for _, left, right in sorted(found)]
