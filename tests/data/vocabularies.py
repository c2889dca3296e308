"""Small real tokenizers of the two families: byte-level BPE with ChatML specials, and SentencePiece-like Metaspace."""

from functools import cache

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from scops.data.tokenizer import Tokenizer

CORPUS = ["the owl sees a picture of an owl", "Human: what is it? AI: an image", "user\nsystem\nassistant\n" * 3] * 4


@cache
def chatml() -> Tokenizer:
    """Byte-level BPE, as in SmolLM2 and Qwen."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image|>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet)
    )
    return Tokenizer(backend, bos="<|im_start|>", eos="<|im_end|>", pad="<|endoftext|>")


@cache
def metaspace(*, across: bool = True) -> Tokenizer:
    """BPE over Metaspace with byte fallback, as LLaMA's SentencePiece vocabulary is written.

    Args:
        across: whether pieces may run past a blank; in LLaMA's they do not.
    """
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", "<image>"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=[*specials, *pieces], show_progress=False)
    backend.pre_tokenizer = None if across else pre_tokenizers.Split("▁", "merged_with_next")
    backend.train_from_iterator([text.replace(" ", "▁") for text in CORPUS], trainer)
    backend.pre_tokenizer = None
    return Tokenizer(_unspecial(backend, pieces, specials), bos="<s>", eos="</s>")


@cache
def unigram() -> Tokenizer:
    """Unigram, as in T5, where a special token also stands in the list of pieces."""
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=specials, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator([*CORPUS, "".join(map(chr, range(33, 127)))] * 3, trainer)
    return Tokenizer(backend, eos="</s>", pad="<pad>")


def _unspecial(backend: Backend, pieces: list[str], specials: list[str]) -> Backend:
    """The byte pieces are ordinary pieces of the vocabulary, not special ones."""
    import json

    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in specials]
    made = Backend.from_str(json.dumps(content))
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return made


TOKENIZERS = (chatml, metaspace, unigram)
