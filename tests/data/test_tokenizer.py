"""Text stays text, ids come back as the same text, and SentencePiece models give SentencePiece's ids."""

import json
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from scops.data.sentencepiece import build, read_model
from scops.data.tokenizer import Tokenizer

CORPUS = [
    "The picture shows a small red kite above the sea.",
    "the kite, the kites and the kitchen: 12 cats, 345 dogs!",
    "How many cats are there? There are three; isn't that nice?",
    "naïve café 你好世界 привет",
    "red, green, blue. A house is behind a tree   and two clouds",
] * 3
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "[PAD]"]
ADDED = ["<tool>", "<row_1>"]
WHITE = "    "


def byte_level(*, ignore_merges: bool = False) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    if ignore_merges:  # as LLaMA 3, here with special tokens inside the vocabulary and nothing that cuts the text
        content = json.loads(backend.to_str())
        content["model"]["ignore_merges"] = True
        content["pre_tokenizer"]["use_regex"] = False
        backend = Backend.from_str(json.dumps(content))
    backend.add_tokens([AddedToken(token, normalized=False) for token in [*ADDED, WHITE]])
    return backend


def word_pieces() -> Backend:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", *SPECIALS], show_progress=False)
    backend.train_from_iterator([*CORPUS, "< > / | [ ] _ im start end s PAD image tool row 1"], trainer)
    backend.add_tokens(ADDED)
    return backend


@cache
def sentencepiece_file(kind: str, folder: str) -> str:
    sentencepiece = pytest.importorskip("sentencepiece")
    prefix = f"{folder}/{kind}"
    llama = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 10),
        model_prefix=prefix,
        model_type=kind,
        vocab_size=420 if kind == "bpe" else 150,
        hard_vocab_limit=False,
        minloglevel=2,
        **(llama if kind == "bpe" else {"control_symbols": "<image>", "pad_id": 3}),
    )
    return prefix + ".model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("sentencepiece"))


def every_kind(folder: str) -> dict[str, Tokenizer]:
    backends = {
        "byte level": byte_level(),
        "whole words first": byte_level(ignore_merges=True),
        "word pieces": word_pieces(),
        "sentencepiece bpe": build(read_model(sentencepiece_file("bpe", folder))),
        "sentencepiece unigram": build(read_model(sentencepiece_file("unigram", folder))),
    }
    return {name: Tokenizer(backend) for name, backend in backends.items()}


def test_no_spelling_of_a_special_or_added_token_becomes_its_id(folder):
    for kind, tokenizer in every_kind(folder).items():
        unknown = {tokenizer.added.get("<unk>"), tokenizer.added.get("[UNK]")}
        assert tokenizer.added
        for token in [t for t in tokenizer.added if not t.isspace()]:
            for text in (token, f"a {token} b", f"a{token}b", f"{token}{token}", f"{token}\n", token.upper()):
                assert tokenizer.id_of(token) not in set(tokenizer.encode_text(text)) - unknown, (kind, token, text)
                assert not set(tokenizer.encode_text(text)) & (set(tokenizer.specials.values()) - unknown), (kind, text)


def test_added_white_space_stays_one_token():
    tokenizer = Tokenizer(byte_level())
    assert tokenizer.encode_text(f"a{WHITE}b").count(tokenizer.id_of(WHITE)) == 1


def test_plain_text_has_the_ids_that_the_library_gives(folder):
    for kind, tokenizer in every_kind(folder).items():
        for text in CORPUS[:5]:
            assert tokenizer.encode_text(text) == tokenizer.backend.encode(text, add_special_tokens=False).ids, kind


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_gives_sentencepiece_ids(kind, folder):
    sentencepiece = pytest.importorskip("sentencepiece")
    path = sentencepiece_file(kind, folder)
    theirs, ours = sentencepiece.SentencePieceProcessor(model_file=path), Tokenizer(build(read_model(path)))
    words = ("the kite kites kitchen cats 12 345 isn't there?! naïve café 世界 привет 🙂 ﬁ ½ xyzzy \t tab").split(" ")  # noqa: SIM905
    texts = [
        *CORPUS[:5],
        "",
        " ",
        "  two  spaces ",
        " lead",
        "trail ",
        "line\nline\n",
        *words,
        " ".join(words),
        "aaaaaaa",
        "eeeee the thethe",
    ]
    texts += [" ".join(words[i:] + words[:i]) for i in range(len(words))]
    for text in texts:
        assert ours.encode_text(text) == theirs.encode(text), repr(text)
        if theirs.unk_id() not in theirs.encode(text):  # written as " ⁇ " there and left out here
            assert ours.decode(ours.encode_text(text)) == theirs.decode(theirs.encode(text)), repr(text)


@given(st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_byte_level_text_comes_back(text):
    tokenizer = cached_byte_level()
    assert tokenizer.decode(tokenizer.encode_text(text), skip_special=False) == text


@given(st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_sentencepiece_text_comes_back(text):
    tokenizer = cached_bpe()
    if "▁" not in text:  # that character is its way to write a space
        assert tokenizer.decode(tokenizer.encode_text(text), skip_special=False) == text


@given(st.text(max_size=20), st.booleans())
@settings(max_examples=150, deadline=None)
def test_streamed_pieces_are_the_whole_and_never_half_a_character(text, which):
    tokenizer = cached_byte_level() if which else cached_bpe()
    ids = tokenizer.encode_text(text)
    stream = tokenizer.stream()
    pieces = [stream.step(token) for token in ids]
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


def test_a_stream_keeps_spaces_around_skipped_tokens():
    tokenizer = cached_bpe()
    ids = [
        tokenizer.id_of("<s>"),
        *tokenizer.encode_text("the kite"),
        tokenizer.id_of("</s>"),
        *tokenizer.encode_text("red"),
    ]
    for skip in (True, False):
        stream = tokenizer.stream(skip_special=skip)
        streamed = "".join(stream.step(token) for token in ids) + stream.finish()
        assert streamed == tokenizer.decode(ids, skip_special=skip)


def test_a_broken_character_at_the_end_is_given_out_by_finish():
    tokenizer = cached_byte_level()
    stream = tokenizer.stream()
    first = tokenizer.encode_text("龘")[:1]
    assert tokenizer.decode(first) == "\ufffd"
    assert (stream.step(first[0]), stream.finish()) == ("", "\ufffd")


@cache
def cached_byte_level() -> Tokenizer:
    return Tokenizer(byte_level())


@cache
def cached_bpe() -> Tokenizer:
    with tempfile.TemporaryDirectory() as place:
        return Tokenizer(build(read_model(sentencepiece_file("bpe", place))))


def test_a_saved_tokenizer_is_the_same_one(tmp_path):
    tokenizer = Tokenizer(byte_level(), bos="<s>", eos="<|im_end|>", pad="[PAD]")
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert (
        (again.bos_id, again.eos_id, again.pad_id)
        == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
        == (0, 3, 5)
    )
    assert (again.added, again.vocab_size) == (tokenizer.added, tokenizer.vocab_size)
    assert all(again.encode_text(text) == tokenizer.encode_text(text) for text in CORPUS)


def test_transformers_reads_a_saved_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer(byte_level(), bos="<s>", eos="</s>", pad="[PAD]")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 5)
    for text in CORPUS:
        ids = tokenizer.encode_text(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)


def test_a_folder_with_a_sentencepiece_model_is_enough(tmp_path, folder):
    (tmp_path / "tokenizer.model").write_bytes(Path(sentencepiece_file("bpe", folder)).read_bytes())
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)


def test_an_unknown_special_token_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"<\|im_strat\|>.*did you mean.*<\|im_start\|>"):
        Tokenizer(byte_level()).id_of("<|im_strat|>")


def test_a_text_that_goes_on_has_its_first_blank_once(folder):
    """Where SentencePiece puts one in front of every text."""
    for kind, tokenizer in every_kind(folder).items():
        encode, leads = tokenizer.encode_text, kind.startswith("sentencepiece")
        assert encode(" kites fly", goes_on=True) == encode("kites fly" if leads else " kites fly"), kind
        assert encode("kites fly", goes_on=True) == encode("kites fly"), kind


def test_tokens_beside_a_sentencepiece_model_stand_behind_its_vocabulary(folder, tmp_path):
    """As LLaVA 1.0 adds <im_start> and <im_end>."""
    (tmp_path / "tokenizer.model").write_bytes(Path(sentencepiece_file("bpe", folder)).read_bytes())
    bare = Tokenizer.from_folder(tmp_path)
    size = bare.vocab_size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<im_end>": size + 1, "<im_start>": size, "</s>": 2}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<im_end>"}))
    made = Tokenizer.from_folder(tmp_path)
    assert [made.id_of(token) for token in ("<im_start>", "<im_end>")] == [size, size + 1]
    assert made.pad_id == size + 1
    assert made.encode_text("a <im_start> b") == bare.encode_text("a <im_start> b")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<im_start>": size + 3}))
    with pytest.raises(ValueError, match=f"the ids .{size + 3}., but the vocabulary ends at {size - 1}"):
        Tokenizer.from_folder(tmp_path)


def test_files_that_are_no_tokenizer_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected tokenizer.json or one of"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs")
    with pytest.raises(ValueError, match=r"tokenizer.model is not a whole SentencePiece model"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"is not a tokenizer.json"):
        Tokenizer.from_folder(tmp_path)
