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


def owl() -> Model:
    """owl-nano, smaller still: sees pictures of 64x64 as 4 tokens."""
    model = scops.create(
        "owl-nano",
        {"abstractor": ABSTRACTOR, "language": LANGUAGE | {"tied": True}, "side": 64},
        tokenizer=tokenizer(),
        pretrained=False,
    )
    randomise(model.module.language)
    randomise(model.module.image.connector)
    for part in model.module.image.encoder.modules():  # so that something of the picture reaches the end
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    return model


def mplug() -> Model:
    """The published mPLUG-Owl at a tiny size."""
    vision = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14}
    sizes = {"vision": vision, "abstractor": ABSTRACTOR, "language": LANGUAGE}
    model = scops.create("mplug-owl", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def owl2() -> Model:
    """mPLUG-Owl2 at a tiny size."""
    vision = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14}
    sizes = {"eyes": {"vision": vision, "abstractor": ABSTRACTOR}, "language": LANGUAGE}
    model = scops.create("mplug-owl2", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def owl21() -> Model:
    """mPLUG-Owl2.1 at a tiny size, trained on documents shorter than what it is asked."""
    vision = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14}
    language = {name: LANGUAGE[name] for name in ("dim", "hidden", "layers", "heads", "vocab", "context")}
    sizes = {"eyes": {"vision": vision, "abstractor": ABSTRACTOR}, "language": language | {"trained": 24}}
    model = scops.create("mplug-owl2.1", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def owl3(release: str = "240728", attention: str = "adaptive") -> Model:
    """mPLUG-Owl3 at a tiny size: pictures stand beside the text."""
    vision = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 13}
    language = LANGUAGE | {"bias": "qkv", "context": 900}
    changes = {"vision": vision, "language": language, "hyper": [1, 2], "attention": attention}
    model = scops.create(f"mplug-owl3-7b-{release}", changes, tokenizer=qwen_tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def owl3_fused() -> Model:
    return owl3("241101", "fused")


READER_VISION = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 7}


def ureader() -> Model:
    """UReader that cuts pictures into up to 4 tiles, 4 tokens each."""
    sizes = {"vision": READER_VISION, "abstractor": ABSTRACTOR, "language": LANGUAGE, "grids": "grid_4"}
    model = scops.create("ureader", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def docowl15() -> Model:
    """DocOwl 1.5 likewise: 5 tokens a piece, and the words in front of it."""
    sizes = {
        "vision": READER_VISION,
        "reducer": {"dim": 12},
        "language": LANGUAGE | {"context": 400},
        "grids": "grid_4",
    }
    model = scops.create("docowl1.5", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def docowl2() -> Model:
    """DocOwl 2: 5 tokens a page, however it is cut."""
    compressor = {"dim": LANGUAGE["dim"], "heads": 2}
    sizes = {"vision": READER_VISION, "reducer": {"dim": 12}, "compressor": compressor, "language": LANGUAGE}
    model = scops.create("docowl2", sizes | {"grids": "grid_4"}, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def skip() -> Model:
    """mPLUG, the encoder-decoder with skip connections, at a tiny size."""
    sizes = {
        "vision": {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 32, "patch": 16},
        "fusion": {"layers": 5, "live": 4, "stride": 3},
        "text": {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "vocab": 310, "context": 160},
        "reading": 2,
        "pairing": {"space": 6, "queue": 8, "mask": 9},
    }
    model = scops.create("mplug-base", sizes, tokenizer=bert_tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def blip2_pairs() -> Model:
    """BLIP-2's first stage at a tiny size: it compares, and words of the user begin its captions."""
    tokenizer = dec_tokenizer()
    sizes = {
        "vision": {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14},
        "qformer": {
            "dim": 24, "hidden": 40, "layers": 3, "heads": 4, "queries": 3, "width": 12, "vocab": 310, "context": 160,
        },
        "pairing": {"space": 6},
        "opens": tokenizer.id_of("[CLS]"),
    }  # fmt: skip
    model = scops.create("blip2-qformer", sizes, tokenizer=tokenizer, pretrained=False)
    randomise(model.module)
    model.module.pairs.temperature.value.data.fill_(0.07)
    return model


def text_only() -> Model:
    model = scops.create("llama-7b", {"language": LANGUAGE}, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def mplug_bloomz() -> Model:
    """Another language model behind the same tower, with linear biases instead of positions."""
    vision = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14}
    language = {"dim": 24, "layers": 2, "heads": 3, "vocab": 307, "context": 160}
    sizes = {"vision": vision, "abstractor": ABSTRACTOR, "language": language}
    model = scops.create("mplug-owl-bloomz-7b-multilingual", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def mplug_video() -> Model:
    """Pictures, and clips of three frames."""
    vision = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14}
    sizes = {
        "vision": vision,
        "abstractor": ABSTRACTOR | {"hidden": 256},
        "language": LANGUAGE | {"context": 240},
        "frames": 3,
    }
    model = scops.create("mplug-owl-video", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


EVA = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14}
ASKING = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "queries": 3, "width": 12}
T5 = {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "head_dim": 5, "vocab": 308, "context": 160}


def blip2_opt() -> Model:
    """BLIP-2 with OPT: 3 tokens of a picture in front of all text."""
    language = {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "vocab": 307, "context": 160}
    sizes = {"vision": EVA, "qformer": ASKING, "language": language}
    model = scops.create("blip2-opt-2.7b", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def blip2_t5() -> Model:
    """BLIP-2 with T5, which reads pictures and words and writes the reply."""
    sizes = {"vision": EVA, "qformer": ASKING, "language": T5}
    model = scops.create("blip2-flan-t5-xl", sizes, tokenizer=t5_tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def instructblip() -> Model:
    """InstructBLIP: the Q-Former reads the instruction by a tokenizer of its own."""
    sizes = {"vision": EVA, "qformer": ASKING | {"vocab": 310, "context": 60}, "language": LANGUAGE}
    words = tokenizer()
    words.beside = bert_tokenizer()
    model = scops.create("instructblip-vicuna-7b", sizes, tokenizer=words, pretrained=False)
    randomise(model.module)
    return model


def instructblip_t5() -> Model:
    sizes = {"vision": EVA, "qformer": ASKING | {"vocab": 310, "context": 60}, "language": T5}
    words = t5_tokenizer()
    words.beside = bert_tokenizer()
    model = scops.create("instructblip-flan-t5-xl", sizes, tokenizer=words, pretrained=False)
    randomise(model.module)
    return model


def composed() -> Model:
    """A few tokens of a whole and a cut picture, with keys and values of their own."""
    vision = {"kind": "VitSpec", "dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 7}
    sizes = {
        "encoder": vision,
        "connector": ABSTRACTOR,
        "language": LANGUAGE | {"context": 240},
        "grids": [[1, 1], [1, 2]],
    }
    model = scops.create("owl2-smol", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def gpt_neox_tokenizer() -> Tokenizer:
    """With OpenFlamingo's special tokens at its end, and no beginning of a text."""
    backend = Backend.from_str(_trained())
    backend.add_special_tokens(["<|endofchunk|>", "<image>", "<PAD>"])
    return Tokenizer(backend, eos="<|endoftext|>", pad="<PAD>")


def open_flamingo(changes: Mapping[str, Any] | None = None) -> Model:
    """OpenFlamingo at a tiny size: pictures stand beside an MPT, two of whose layers look at the latest."""
    sizes: dict[str, Any] = {
        "vision": {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14},
        "perceiver": {"dim": 12, "hidden": 20, "depth": 2, "heads": 2, "head_dim": 5, "queries": 3},
        "language": {"dim": 24, "layers": 2, "heads": 3, "vocab": 310, "context": 160},
        "gates": {"heads": 2, "head_dim": 6},
    }
    sizes |= changes or {}
    model = scops.create("openflamingo-3b-vitl-mpt1b", sizes, tokenizer=gpt_neox_tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def flamingo() -> Model:
    """The paper's Flamingo at a tiny size, for pictures and clips of three frames."""
    sizes = {
        "vision": {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14},
        "perceiver": {"dim": 12, "hidden": 20, "depth": 2, "heads": 2, "head_dim": 5, "queries": 3, "frames": 3},
        "language": {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "vocab": 310, "context": 160},
        "gates": {"every": 2, "heads": 2, "head_dim": 6},
    }
    model = scops.create("flamingo-3b", sizes, tokenizer=gpt_neox_tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def llava() -> Model:
    """LLaVA-1.5: 4 tokens a picture."""
    vision = {"dim": 12, "hidden": 20, "layers": 3, "heads": 2, "image": 28, "patch": 14}
    model = scops.create("llava", {"vision": vision, "language": LANGUAGE}, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def idefics(size: str = "idefics-9b", more: int = 2) -> Model:
    """IDEFICS at a tiny size: a LLaMA that looks at the latest picture before its first layer."""
    backend = Backend.from_str(_trained())
    backend.add_special_tokens(["<fake_token_around_image>", "<end_of_utterance>"])
    sizes = {
        "vision": {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "image": 28, "patch": 14},
        "perceiver": {"dim": 12, "hidden": 48, "depth": 2, "heads": 2, "head_dim": 5, "queries": 3},
        "language": LANGUAGE | {"kv_heads": 4, "vocab": 310},
        "every": 2,
        "more": more,
    }
    words = Tokenizer(backend, bos="<s>", eos="</s>", pad="<unk>")
    model = scops.create(size, sizes, tokenizer=words, pretrained=False)
    randomise(model.module)
    return model


def llava_next() -> Model:
    """LLaVA-NeXT: 4 tokens a view, up to four views, and a token behind each row of the tiles."""
    vision = {"dim": 12, "hidden": 20, "layers": 3, "heads": 2, "image": 28, "patch": 14}
    sizes = {"vision": vision, "language": LANGUAGE | {"context": 400}}
    model = scops.create("llava-next", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


FINE = EVA | {"patch": 7}


def minigpt4() -> Model:
    """MiniGPT-4 with a Q-Former: 3 tokens a picture."""
    connector = {"kind": "QFormerSpec"} | ASKING
    sizes = {"vision": FINE, "connector": connector, "language": LANGUAGE | {"context": 400}}
    model = scops.create("minigpt4", sizes, tokenizer=tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def minigpt_v2() -> Model:
    """MiniGPT-v2: 16 patches become 4 tokens."""
    model = scops.create(
        "minigpt-v2-7b", {"vision": FINE, "language": LANGUAGE}, tokenizer=tokenizer(), pretrained=False
    )
    randomise(model.module)
    return model


def timechat() -> Model:
    """TimeChat: up to 5 frames, asked in twos, 3 tokens each time."""
    frame = ASKING | {"vocab": 310, "context": 64}
    connector = {"frame": frame, "video": ASKING | {"every": 1}, "frames": 6, "window": 2, "stride": 2}
    sizes = {"vision": FINE, "connector": connector, "language": LANGUAGE | {"context": 600}, "frames": 5}
    speaking = tokenizer()
    speaking.beside = bert_tokenizer()
    model = scops.create("timechat", sizes, tokenizer=speaking, pretrained=False)
    randomise(model.module)
    return model


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
