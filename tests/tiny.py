"""Systems small enough for every test: real builds, random weights, a tokenizer trained on the spot."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from PIL import Image
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import nn

import scops
from scops.data.tokenizer import Tokenizer
from scops.model import Model
from tests.conftest import randomise

SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<|endoftext|>"]
VOCABULARY = 300
LANGUAGE = {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "kv_heads": 2, "vocab": 307, "context": 160}
VISION = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14}
FINE = VISION | {"patch": 7}
ABSTRACTOR = {"dim": 12, "hidden": 20, "layers": 1, "heads": 2, "queries": 3}


@cache
def _trained(*more: str) -> str:
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[*SPECIALS, *more], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(
        ["what is this? an owl on a branch. the user asks, the assistant answers."] * 9, trainer
    )
    return backend.to_str()


def tokenizer() -> Tokenizer:
    return Tokenizer(Backend.from_str(_trained()), bos="<s>", eos="<|im_end|>", pad="</s>")


def qwen_tokenizer() -> Tokenizer:
    """With the special tokens of Qwen2."""
    backend = Backend.from_str(_trained())
    backend.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(backend, bos="<|endoftext|>", eos="<|im_end|>", pad="</s>")


def t5_tokenizer() -> Tokenizer:
    return Tokenizer(Backend.from_str(_trained("<pad>")), eos="</s>", pad="<pad>")


def bert_tokenizer() -> Tokenizer:
    backend = Backend.from_str(_trained("[PAD]", "[CLS]", "[SEP]", "[MASK]"))
    return Tokenizer(backend, bos="[CLS]", eos="[SEP]", pad="[PAD]")


def dec_tokenizer() -> Tokenizer:
    """A BERT's with [DEC], which opens what is written."""
    backend = Backend.from_str(_trained("[PAD]", "[CLS]", "[SEP]", "[DEC]"))
    return Tokenizer(backend, bos="[DEC]", eos="[SEP]", pad="[PAD]")


def made(size: str, changes: Mapping[str, Any], words: Tokenizer | None = None) -> Model:
    """A system of this size with these changes, all of it random."""
    model = scops.create(size, changes, tokenizer=words or tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def owl() -> Model:
    """owl-nano, smaller still: sees pictures of 64x64 as 4 tokens."""
    sizes = {"abstractor": ABSTRACTOR, "language": LANGUAGE | {"tied": True}, "side": 64}
    model = scops.create("owl-nano", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module.language)
    randomise(model.module.image.connector)
    for part in model.module.image.encoder.modules():  # so that something of the picture reaches the end
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    return model


def mplug() -> Model:
    """The published mPLUG-Owl at a tiny size."""
    return made("mplug-owl", {"vision": VISION, "abstractor": ABSTRACTOR, "language": LANGUAGE})


def owl2() -> Model:
    """mPLUG-Owl2 at a tiny size."""
    sizes = {"eyes": {"vision": VISION, "abstractor": ABSTRACTOR}, "language": LANGUAGE}
    return made("mplug-owl2", sizes)


def owl21() -> Model:
    """mPLUG-Owl2.1 at a tiny size, trained on documents shorter than what it is asked."""
    language = {name: LANGUAGE[name] for name in ("dim", "hidden", "layers", "heads", "vocab", "context")}
    sizes = {"eyes": {"vision": VISION, "abstractor": ABSTRACTOR}, "language": language | {"trained": 24}}
    return made("mplug-owl2.1", sizes)


def owl3(release: str = "240728", attention: str = "adaptive") -> Model:
    """mPLUG-Owl3 at a tiny size: pictures stand beside the text."""
    language = LANGUAGE | {"bias": "qkv", "context": 900}
    sizes = {"vision": VISION | {"patch": 13}, "language": language, "hyper": [1, 2], "attention": attention}
    return made(f"mplug-owl3-7b-{release}", sizes, qwen_tokenizer())


def owl3_fused() -> Model:
    return owl3("241101", "fused")


def ureader() -> Model:
    """UReader that cuts pictures into up to 4 tiles, 4 tokens each."""
    sizes = {"vision": FINE, "abstractor": ABSTRACTOR, "language": LANGUAGE, "grids": "grid_4"}
    return made("ureader", sizes)


def docowl15() -> Model:
    """DocOwl 1.5 likewise: 5 tokens a piece, and the words in front of it."""
    sizes = {"vision": FINE, "reducer": {"dim": 12}, "language": LANGUAGE | {"context": 400}, "grids": "grid_4"}
    return made("docowl1.5", sizes)


def docowl2() -> Model:
    """DocOwl 2: 5 tokens a page, however it is cut."""
    compressor = {"dim": LANGUAGE["dim"], "heads": 2}
    sizes = {"vision": FINE, "reducer": {"dim": 12}, "compressor": compressor, "language": LANGUAGE}
    return made("docowl2", sizes | {"grids": "grid_4"})


def skip() -> Model:
    """mPLUG, the encoder-decoder with skip connections, at a tiny size."""
    sizes = {
        "vision": {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 32, "patch": 16},
        "fusion": {"layers": 5, "live": 4, "stride": 3},
        "text": {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "vocab": 310, "context": 160},
        "reading": 2,
        "pairing": {"space": 6, "queue": 8, "mask": 9},
    }
    return made("mplug-base", sizes, bert_tokenizer())


def blip2_pairs() -> Model:
    """BLIP-2's first stage at a tiny size: it compares, and words of the user begin its captions."""
    words = dec_tokenizer()
    sizes = {
        "vision": VISION,
        "qformer": {
            "dim": 24, "hidden": 40, "layers": 3, "heads": 4, "queries": 3, "width": 12, "vocab": 310, "context": 160,
        },
        "pairing": {"space": 6},
        "opens": words.id_of("[CLS]"),
    }  # fmt: skip
    model = made("blip2-qformer", sizes, words)
    model.module.pairs.temperature.value.data.fill_(0.07)
    return model


def text_only() -> Model:
    return made("llama-7b", {"language": LANGUAGE})


def mplug_bloomz() -> Model:
    """Another language model behind the same tower, with linear biases instead of positions."""
    language = {"dim": 24, "layers": 2, "heads": 3, "vocab": 307, "context": 160}
    sizes = {"vision": VISION, "abstractor": ABSTRACTOR, "language": language}
    return made("mplug-owl-bloomz-7b-multilingual", sizes)


def mplug_video() -> Model:
    """Pictures, and clips of three frames."""
    sizes = {
        "vision": VISION,
        "abstractor": ABSTRACTOR | {"hidden": 256},
        "language": LANGUAGE | {"context": 240},
        "frames": 3,
    }
    return made("mplug-owl-video", sizes)


ASKING = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "queries": 3, "width": 12}
T5 = {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "head_dim": 5, "vocab": 308, "context": 160}


def blip2_opt() -> Model:
    """BLIP-2 with OPT: 3 tokens of a picture in front of all text."""
    language = {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "vocab": 307, "context": 160}
    sizes = {"vision": VISION, "qformer": ASKING, "language": language}
    return made("blip2-opt-2.7b", sizes)


def blip2_t5() -> Model:
    """BLIP-2 with T5, which reads pictures and words and writes the reply."""
    sizes = {"vision": VISION, "qformer": ASKING, "language": T5}
    return made("blip2-flan-t5-xl", sizes, t5_tokenizer())


def instructblip() -> Model:
    """InstructBLIP: the Q-Former reads the instruction by a tokenizer of its own."""
    sizes = {"vision": VISION, "qformer": ASKING | {"vocab": 310, "context": 60}, "language": LANGUAGE}
    words = tokenizer()
    words.beside = bert_tokenizer()
    return made("instructblip-vicuna-7b", sizes, words)


def instructblip_t5() -> Model:
    sizes = {"vision": VISION, "qformer": ASKING | {"vocab": 310, "context": 60}, "language": T5}
    words = t5_tokenizer()
    words.beside = bert_tokenizer()
    return made("instructblip-flan-t5-xl", sizes, words)


def composed() -> Model:
    """A few tokens of a whole and a cut picture, with keys and values of their own."""
    sizes = {
        "encoder": FINE | {"kind": "VitSpec"},
        "connector": ABSTRACTOR,
        "language": LANGUAGE | {"context": 240},
        "grids": [[1, 1], [1, 2]],
    }
    return made("owl2-smol", sizes)


def gpt_neox_tokenizer() -> Tokenizer:
    """With OpenFlamingo's special tokens at its end, and no beginning of a text."""
    backend = Backend.from_str(_trained())
    backend.add_special_tokens(["<|endofchunk|>", "<image>", "<PAD>"])
    return Tokenizer(backend, eos="<|endoftext|>", pad="<PAD>")


def open_flamingo(changes: Mapping[str, Any] | None = None) -> Model:
    """OpenFlamingo at a tiny size: pictures stand beside an MPT, two of whose layers look at the latest."""
    sizes: dict[str, Any] = {
        "vision": VISION,
        "perceiver": {"dim": 12, "hidden": 20, "depth": 2, "heads": 2, "head_dim": 5, "queries": 3},
        "language": {"dim": 24, "layers": 2, "heads": 3, "vocab": 310, "context": 160},
        "gates": {"heads": 2, "head_dim": 6},
    }
    sizes |= changes or {}
    return made("openflamingo-3b-vitl-mpt1b", sizes, gpt_neox_tokenizer())


def flamingo() -> Model:
    """The paper's Flamingo at a tiny size, for pictures and clips of three frames."""
    sizes = {
        "vision": VISION,
        "perceiver": {"dim": 12, "hidden": 20, "depth": 2, "heads": 2, "head_dim": 5, "queries": 3, "frames": 3},
        "language": {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "vocab": 310, "context": 160},
        "gates": {"every": 2, "heads": 2, "head_dim": 6},
    }
    return made("flamingo-3b", sizes, gpt_neox_tokenizer())


def llava() -> Model:
    """LLaVA-1.5: 4 tokens a picture."""
    return made("llava", {"vision": VISION | {"layers": 3}, "language": LANGUAGE})


def idefics(size: str = "idefics-9b", more: int = 2) -> Model:
    """IDEFICS at a tiny size: a LLaMA that looks at the latest picture before its first layer."""
    backend = Backend.from_str(_trained())
    backend.add_special_tokens(["<fake_token_around_image>", "<end_of_utterance>"])
    sizes = {
        "vision": VISION,
        "perceiver": {"dim": 12, "hidden": 48, "depth": 2, "heads": 2, "head_dim": 5, "queries": 3},
        "language": LANGUAGE | {"kv_heads": 4, "vocab": 310},
        "every": 2,
        "more": more,
    }
    words = Tokenizer(backend, bos="<s>", eos="</s>", pad="<unk>")
    return made(size, sizes, words)


def llava_next() -> Model:
    """LLaVA-NeXT: 4 tokens a view, up to four views, and a token behind each row of the tiles."""
    sizes = {"vision": VISION | {"layers": 3}, "language": LANGUAGE | {"context": 400}}
    return made("llava-next", sizes)


def minigpt4() -> Model:
    """MiniGPT-4 with a Q-Former: 3 tokens a picture."""
    connector = {"kind": "QFormerSpec"} | ASKING
    sizes = {"vision": FINE, "connector": connector, "language": LANGUAGE | {"context": 400}}
    return made("minigpt4", sizes)


def minigpt_v2() -> Model:
    """MiniGPT-v2: 16 patches become 4 tokens."""
    return made("minigpt-v2-7b", {"vision": FINE, "language": LANGUAGE})


def timechat() -> Model:
    """TimeChat: up to 5 frames, asked in twos, 3 tokens each time."""
    frame = ASKING | {"vocab": 310, "context": 64}
    connector = {"frame": frame, "video": ASKING | {"every": 1}, "frames": 6, "window": 2, "stride": 2}
    sizes = {"vision": FINE, "connector": connector, "language": LANGUAGE | {"context": 600}, "frames": 5}
    speaking = tokenizer()
    speaking.beside = bert_tokenizer()
    return made("timechat", sizes, speaking)


MODELS = {
    "composed": composed,
    "owl": owl,
    "mplug": mplug,
    "mplug_bloomz": mplug_bloomz,
    "mplug_video": mplug_video,
    "owl2": owl2,
    "owl21": owl21,
    "owl3": owl3,
    "owl3-fused": owl3_fused,
    "ureader": ureader,
    "docowl15": docowl15,
    "docowl2": docowl2,
    "skip": skip,
    "blip2_pairs": blip2_pairs,
    "flamingo": flamingo,
    "open_flamingo": open_flamingo,
    "blip2_opt": blip2_opt,
    "blip2_t5": blip2_t5,
    "instructblip": instructblip,
    "instructblip_t5": instructblip_t5,
    "idefics": idefics,
    "llava": llava,
    "llava_next": llava_next,
    "minigpt4": minigpt4,
    "minigpt_v2": minigpt_v2,
    "timechat": timechat,
    "text": text_only,
}


def picture(colour: str = "red", size: tuple[int, int] = (50, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)
