"""Systems of the house small enough to be trained in a minute, each by its own published stages (bench.every_system)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PICTURES, CLIPS, CAPTIONS = "a picture", "a clip", "its caption"
"""What is asked in the end: the sort of a picture's thing; of a clip's first or last thing; which caption is a picture's."""
Roles = tuple[str | None, str | None, str | None]
BOS: Roles = ("<s>", "</s>", "<unk>")
END: Roles = (None, "<|endoftext|>", "<PAD>")
BERT: Roles = ("[CLS]", "[SEP]", "[PAD]")
DEC: Roles = ("[DEC]", "[SEP]", "[PAD]")
T5: Roles = (None, "</s>", "<pad>")
"""Which tokens begin a text, end it and fill up rows."""
SPECIALS = (
    "<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[DEC]", "<|endoftext|>", "<PAD>",
    "<|endofchunk|>", "<image>", "<fake_token_around_image>", "<end_of_utterance>",
)  # fmt: skip
"""Of all systems together, behind the words of the demo's tokenizer."""

TOWER: dict[str, Any] = {"dim": 192, "hidden": 576, "layers": 3, "heads": 4, "image": 64, "patch": 16}


@dataclass(frozen=True)
class Small:
    """Args:
    size: whose recipe is followed.
    changes: to its Spec.
    tower: where its vision transformer is.
    roles: tokens at the beginning and end of a text, and in empty places.
    asked: PICTURES, CLIPS or CAPTIONS.
    speaks: its language model, which learns words before it sees anything, as published ones did.
    recipe: of its system's STAGES; "" for that named as the size.
    lr: in place of the published rates, which are those of far larger models.
    """

    size: str
    changes: Mapping[str, Any]
    tower: str = "image.encoder"
    roles: Roles = BOS
    asked: str = PICTURES
    speaks: tuple[str, ...] = ("language",)
    recipe: str = ""
    lr: float = 1e-3


def small_systems(words: int) -> dict[str, Small]:
    """By name.

    Args:
        words: of the tokenizer.
    """
    tower = TOWER

    def id_of(special: str) -> int:
        return words - len(SPECIALS) + SPECIALS.index(special)

    llama: dict[str, Any] = {
        "dim": 128, "hidden": 384, "layers": 2, "heads": 4, "kv_heads": 4, "vocab": words, "context": 1024, "tied": True,
    }  # fmt: skip
    plain = {name: llama[name] for name in ("dim", "hidden", "layers", "heads", "vocab", "context")}
    mpt = {name: plain[name] for name in ("dim", "layers", "heads", "vocab", "context")}
    t5 = plain | {"head_dim": 32}
    abstractor = {"dim": 192, "hidden": 256, "layers": 2, "heads": 4, "queries": 8}
    asking = {"dim": 128, "hidden": 256, "layers": 2, "heads": 4, "queries": 8, "width": 192}
    reading = asking | {"vocab": words, "context": 128}
    perceiver = {"dim": 192, "hidden": 384, "depth": 2, "heads": 4, "head_dim": 32, "queries": 8}
    gates = {"heads": 4, "head_dim": 32}
    eva = {"vision": tower, "qformer": asking}
    owl = {"vision": tower, "abstractor": abstractor}
    reader = {"vision": tower, "reducer": {"dim": 192, "kernel": [1, 2]}, "language": llama, "grids": "grid_4"}
    owl3 = {"vision": tower, "language": llama | {"bias": "qkv"}, "hyper": [1, 2]}
    return {
        "mplug-owl": Small("mplug-owl-llama-7b", owl | {"language": llama}, recipe="abstract"),
        "mplug-owl, BLOOMZ": Small("mplug-owl-bloomz-7b-multilingual", owl | {"language": mpt}, recipe="abstract"),
        "mplug-owl-video": Small(
            "mplug-owl-llama-7b-video", owl | {"language": llama, "frames": 4}, "image.encoder.vit", asked=CLIPS,
            recipe="abstract",
        ),
        "mplug-owl2": Small("mplug-owl2-llama2-7b", {"eyes": owl, "language": llama}, recipe="paper"),
        "mplug-owl2.1": Small("mplug-owl2.1", {"eyes": owl, "language": plain | {"trained": 1024}}, roles=END, recipe="finetune"),
        "mplug-owl3, 240728": Small("mplug-owl3-7b-240728", owl3 | {"attention": "adaptive"}, roles=END),
        "mplug-owl3, 241101": Small("mplug-owl3-7b-241101", owl3 | {"attention": "fused"}, roles=END),
        "ureader": Small("ureader-7b", owl | {"language": llama, "grids": "grid_4"}),
        "docowl1.5": Small("docowl1.5-chat", reader, recipe="docowl1.5"),
        "docowl2": Small("docowl2", reader | {"compressor": {"dim": 128, "heads": 4}}),
        "mplug": Small(
            "mplug-base",
            {
                "vision": tower, "fusion": {"layers": 4, "live": 3, "stride": 2}, "reading": 2,
                "text": plain | {"layers": 3}, "pairing": {"space": 64, "queue": 256, "mask": id_of("[MASK]")},
            },
            roles=BERT, speaks=(),
        ),
        "open-flamingo": Small(
            "openflamingo-3b-vitl-mpt1b", {"vision": tower, "perceiver": perceiver, "language": mpt, "gates": gates}, roles=END,
            recipe="openflamingo",
        ),
        "idefics": Small(
            "idefics-9b-instruct", {"vision": tower, "perceiver": perceiver, "language": llama | {"tied": False}, "every": 1}
        ),
        "blip2-qformer": Small(
            "blip2-qformer", {"vision": tower, "qformer": reading, "pairing": {"space": 64}, "opens": id_of("[CLS]")},
            roles=DEC, asked=CAPTIONS, speaks=(),
        ),
        "blip2, OPT": Small("blip2-opt-2.7b", eva | {"language": plain}, roles=BOS),
        "blip2, FlanT5": Small("blip2-flan-t5-xl", eva | {"language": t5}, roles=T5, speaks=("encoder", "decoder")),
        "instructblip": Small("instructblip-vicuna-7b", eva | {"qformer": reading, "language": llama}),
        "minigpt4": Small(
            "minigpt4-7b", {"vision": tower, "connector": {"kind": "QFormerSpec"} | asking, "language": llama}, recipe="minigpt4"
        ),
        "minigpt-v2": Small("minigpt-v2-7b", {"vision": tower, "language": llama}),
        "llava-1.5": Small("llava-v1.5-7b", {"vision": tower, "language": llama}, "image.encoder.vit", recipe="llava-v1.5"),
        "llava-next": Small("llava-v1.6-vicuna-7b", {"vision": tower, "language": llama}, "image.encoder.vit", recipe="llava-v1.6"),
        "timechat": Small(
            "timechat-7b",
            {
                "vision": tower, "language": llama, "frames": 8,
                "connector": {"frame": reading, "video": asking | {"width": 128, "every": 1}, "frames": 8, "window": 4, "stride": 4},
            },
            asked=CLIPS,
        ),
    }  # fmt: skip
