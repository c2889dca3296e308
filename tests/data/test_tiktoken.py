"""Qwen's ranks against a slow twin that joins bytes as tiktoken does: the lowest rank first."""

import base64
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from scops.data import tiktoken
from scops.data.tokenizer import Tokenizer

CORPUS = ["the owl sees it's own picture, 猫头鹰看见了 1234 times\n\n  and   more", "What is this? ASSISTANT: 你好"] * 5


def ranks() -> dict[bytes, int]:
    """Learnt from a few words; bytes first, as in the published file."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    )
    byte_of = {letter: byte for byte, letter in tiktoken.LETTERS.items()}
    tokens = [bytes(byte_of[letter] for letter in token) for token in backend.get_vocab()]
    tokens = [bytes([byte]) for byte in range(256)] + sorted(
        {t for t in tokens if len(t) > 1}, key=lambda t: (len(t), t)
    )
    return {token: rank for rank, token in enumerate(tokens)}


RANKS = ranks()
BACKEND = tiktoken.build(RANKS)


def joined(word: bytes) -> list[int]:
    parts = [word[at : at + 1] for at in range(len(word))]
    while True:
        pairs = [(RANKS[a + b], at) for at, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in RANKS]
        if not pairs:
            return [RANKS[part] for part in parts]
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@given(st.lists(st.sampled_from(CORPUS[0] + CORPUS[1]), max_size=12).map("".join))
def test_words_are_joined_as_by_ranks_alone(word: str) -> None:
    cut = [piece for piece, _ in BACKEND.pre_tokenizer.pre_tokenize_str(word)]
    byte_of = {letter: byte for byte, letter in tiktoken.LETTERS.items()}
    expected = [one for piece in cut for one in joined(bytes(byte_of[letter] for letter in piece))]
    assert BACKEND.encode(word).ids == expected
    assert BACKEND.decode(expected) == word


def written(folder: Path, table: dict[bytes, int]) -> None:
    lines = [base64.b64encode(token) + b" " + str(rank).encode() for token, rank in table.items()]
    random.Random(0).shuffle(lines)
    (folder / tiktoken.QWEN).write_bytes(b"\n".join(lines))


def test_a_folder_of_qwen_brings_its_tokenizer(tmp_path: Path) -> None:
    written(tmp_path, RANKS)
    tokenizer = Tokenizer.from_folder(tmp_path)
    first = len(RANKS)
    assert [tokenizer.id_of(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_204|>")] == [
        first, first + 1, first + 2, first + 207,
    ]  # fmt: skip
    assert tokenizer.vocab_size == first + 208
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, first, first)
    assert first not in tokenizer.encode_text("a <|endoftext|> b")
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.from_folder(tmp_path / "saved").encode_text(CORPUS[0]) == tokenizer.encode_text(CORPUS[0])


@pytest.mark.parametrize(
    ("line", "said"), [(b"?? 3", "line 257"), (b"YQ==", "line 257"), (b"YWI= 900", "do not count")]
)
def test_another_file_is_refused_with_the_line(tmp_path: Path, line: bytes, said: str) -> None:
    written(tmp_path, {token: rank for token, rank in RANKS.items() if rank < 256})
    path = tmp_path / tiktoken.QWEN
    path.write_bytes(path.read_bytes() + b"\n" + line)
    with pytest.raises(ValueError, match=said):
        tiktoken.read_ranks(path)
