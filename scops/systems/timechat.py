"""TimeChat (arXiv 2312.02051; RenShuhuai-Andy/TimeChat): clips whose frames know when they were taken, in the text of a LLaMA-2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scops.checkpoints.hub_eva import LAVIS_EVA, eva_config, eva_spec
from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.hub_peft import PEFT_LLAMA
from scops.checkpoints.hub_qformer import LAVIS_QFORMER, qformer_config, qformer_spec
from scops.checkpoints.keymap import KeyMap, same
from scops.connectors.video_qformer import VideoQFormer, VideoQFormerSpec, tokens_for
from scops.core.layout import WHOLE, Always, Arranged, ClipLayout, Layout, MediaLayout, Slot
from scops.core.stage import Lora, Stage
from scops.core.template import Role, Special, Template, Written
from scops.encoders.eva import EvaSpec, EvaVit
from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.systems import Origins, Published
from scops.systems.llama import language_config, language_spec
from scops.systems.minigpt4 import towers
from scops.systems.mplug_owl import squares

TITLE = "TimeChat: A Time-sensitive Multimodal Large Language Model for Long Video Understanding"
PAPER = "arXiv 2312.02051"


@dataclass(frozen=True)
class Spec:
    """Args:
    frames: of a clip, chosen evenly; a shorter clip is looked at whole.
    """

    vision: EvaSpec = field(default_factory=EvaSpec)
    connector: VideoQFormerSpec = field(default_factory=VideoQFormerSpec)
    language: LlamaSpec = field(default_factory=lambda: LlamaSpec(eps=1e-5, context=4096))
    frames: int = 96

    def __post_init__(self) -> None:
        if self.frames > self.connector.frames:
            raise ValueError(
                f"clips of {self.frames} frames are asked for, but there are positions for {self.connector.frames}"
            )


SIZES = {"timechat-7b": Spec()}


def build(spec: Spec) -> MultimodalDecoder:
    connector = VideoQFormer(spec.connector, out=spec.language.dim)
    return MultimodalDecoder(llama(spec.language), image=MediaInput(EvaVit(spec.vision), connector, Inline()))


# How published --------------------------------------------------------------------------------------------------------

CONNECTOR = KeyMap(
    same("ln_vision.{w}", "norm.{w}"),
    same("query_tokens", "frame.queries"),
    LAVIS_QFORMER.under("Qformer.bert.", "frame."),
    same("video_frame_position_embedding.weight", "positions.weight"),
    same("video_query_tokens", "video.queries"),
    LAVIS_QFORMER.under("video_Qformer.bert.", "video."),
    same("llama_proj.{w}", "project.{w}"),
)


def authors(spec: Spec) -> KeyMap:
    """The state of a TimeChat, whose language model has adapters or none."""
    return KeyMap(
        LAVIS_EVA.under("visual_encoder.", "image.encoder."),
        CONNECTOR.under("", "image.connector."),
        PEFT_LLAMA.under("llama_model.", "language."),
    )


KEYS = {"authors": authors}


def parts(spec: Spec) -> dict[str, tuple[Published, ...]]:
    """A release is the connector without its first norm, and adapters; InstructBLIP's file brings that norm."""
    instructblip = "ln_vision", "query_tokens", "Qformer.bert.embeddings", "Qformer.bert.encoder"
    return {
        "image.encoder": towers(spec.vision),
        "image.connector": (Published(CONNECTOR, instructblip),),
        "language": (Published(HUB_LLAMA),),
    }


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that a config.json in the words of the authors' YAML files means; None when it is another system's.

    Numbers that the YAML files leave to the code stand in `vision_config`, `qformer_config`, `video_qformer_config` and
    `text_config`.
    """
    if config.get("arch") != "timechat":
        return None
    vision = eva_spec(dict(config.get("vision_config", {})) | {"image_size": config.get("image_size", 224)})
    asked = {"encoder_hidden_size": vision.dim, **config.get("qformer_config", {})}
    words = 30523 if config.get("qformer_text_input", False) else 0
    frame = qformer_spec(asked, queries=config.get("num_query_token", 32), words=words)
    asked = {
        "num_hidden_layers": 2, "cross_attention_frequency": 1, "encoder_hidden_size": frame.dim,
        **config.get("video_qformer_config", {}),
    }  # fmt: skip
    video = qformer_spec(asked, queries=config.get("num_video_query_token", 32), words=0)
    positions, window = config.get("max_frame_pos", 32), max(config.get("window_size", 0), 0)
    connector = VideoQFormerSpec(frame, video, positions, window, config.get("stride", 0))
    return Spec(vision, connector, language_spec(config["text_config"]), config.get("num_frm", positions))


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`."""
    connector = spec.connector
    return {
        "arch": "timechat", "model_type": "pretrain_llama_v2", "image_size": spec.vision.image,
        "num_query_token": connector.frame.queries, "num_video_query_token": connector.video.queries,
        "qformer_text_input": connector.frame.vocab > 0, "max_frame_pos": connector.frames, "num_frm": spec.frames,
        "window_size": connector.window, "stride": connector.stride, "vision_config": eva_config(spec.vision),
        "qformer_config": qformer_config(connector.frame), "video_qformer_config": qformer_config(connector.video),
        "text_config": language_config(spec.language),
    }  # fmt: skip


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------

SYSTEM = (
    "You are able to understand the visual content that the user provides. "
    "Follow the instructions carefully and explain your answers in detail."
)
TEMPLATE = Template(
    {
        "system": Role(before=(Written("[INST] <<SYS>>\n"),), after=(Written("\n<</SYS>>\n\n"),)),
        "user": Role(between=(Written(" "),)),
        "assistant": Role(
            before=(Written(" [/INST]"),),
            after=(Special("</s>"),),
            rest=(Special("<s>"), Written("[INST] ")),  # the next question's beginning; the first has the system's
        ),
    },
    start=(Special("<s>"),),
    system=SYSTEM,
    stops=("</s>",),
)


@dataclass(frozen=True)
class Evenly:
    """So many frames, each the first of its share; all of a clip that has fewer.

    Source: RenShuhuai-Andy/TimeChat, timechat/processors/video_processor.py, load_video.
    """

    frames: int

    def __call__(self, count: int, fps: float) -> tuple[int, ...]:
        chosen = min(self.frames, count)
        return tuple(np.arange(0, count, count / chosen)[:chosen].astype(int).tolist())


@dataclass(frozen=True)
class Clip:
    """One item of all frames between its marks, and in words how many there are and when they were taken."""

    spec: VideoQFormerSpec

    def __call__(self, times: Sequence[float]) -> tuple[Arranged, ...]:
        seconds = [str(round(time, 1)) for time in times]
        told = f"</Video> The video contains {len(times)} frames sampled at {', '.join(seconds)} seconds. "
        return Written("<Video>"), item(self.spec, seconds), Written(told)


def item(spec: VideoQFormerSpec, seconds: Sequence[str]) -> Slot:
    words = tuple(f"This frame is sampled at {one} second." for one in seconds) if spec.frame.vocab else ()
    return Slot("image", tokens_for(spec, len(seconds)), (WHOLE,) * len(seconds), words=words)


def layout(spec: Spec) -> Layout:
    """A picture is a clip of one frame, taken at the beginning."""
    pixels, picture = squares(spec.vision.image), item(spec.connector, ("0.0",))
    return Layout(
        TEMPLATE,
        {
            "image": MediaLayout(pixels, Always((Written("<Image>"), picture, Written("</Image> ")))),
            "video": ClipLayout(pixels, Clip(spec.connector), Evenly(spec.frames)),
        },
        spec.language.context,
    )


# How trained ----------------------------------------------------------------------------------------------------------

LORA = Lora(tuple(f"language.blocks.*.attn.body.{name}" for name in "qkvo"), rank=32, alpha=32.0, dropout=0.1)
INSTRUCT = Stage(
    "instruct", train=tuple(f"image.connector.{part}" for part in ("frame", "positions", "video", "project")),
    data=("timed", "general"), lora=LORA, steps=16_500, batch=32, lr=3e-5, min_lr=1e-5, warmup=3_300, weight_decay=0.05,
    clip=None,
    source="RenShuhuai-Andy/TimeChat train_configs/stage2_finetune_time104k_valley72k.yaml: 3 epochs of 22,000 passes of 1 x 8 "
    "rows, 4 to a step; TimeIT-104K and Valley-73K at 96 frames of 224 pixels; begins with Video-LLaMA's and InstructBLIP's weights",
)  # fmt: skip
STAGES = {"timechat-7b": (INSTRUCT,)}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: put the published files together in a parts.json."""
    return Origins(fresh=("image", "language"))
