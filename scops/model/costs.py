"""What a conversation will cost, of anything that has a name: a size, a folder, a model, or a size with changed numbers."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scops.checkpoints.packages import cached
from scops.checkpoints.read import open_weights
from scops.core.layout import Layout
from scops.core.sample import Media, Sample, Text, Turn
from scops.core.stage import Lora
from scops.data.documents import file_of
from scops.data.image import Sized
from scops.data.messages import media
from scops.data.tokenizer import Tokenizer
from scops.data.video import Facts
from scops.generate.talk import MAX_TOKENS
from scops.lab.cost import Cost
from scops.lab.cost import cost as cost_of
from scops.lab.tokens import HERE
from scops.model.bridge import adapters_in
from scops.model.empty import outline
from scops.model.filling import AUTO, dtype_of
from scops.model.folder import finished, read_config, recorded_layout, told
from scops.model.model import Model
from scops.model.parts import Parts, is_parts, largest
from scops.model.unpacked import tokenizer_of
from scops.native.quantise import quantise as round_weights
from scops.native.quantise import roles_of
from scops.systems import module_of, rechosen, spec_for

SIZE = re.compile(r"(\d+)x(\d+)")
LENGTH = re.compile(r"(\d+(?:\.\d+)?)s?(?:@(\d+(?:\.\d+)?))?")
FPS = 30.0
A4 = (1191, 1684)
"""Width and height of a page of A4 as documents are drawn, 144 dots per inch."""


@dataclass(frozen=True)
class Planned:
    """Something that could be loaded.

    Args:
        tokenizer: None when there is none at hand.
        dtype: of the weights when nobody asks for another.
    """

    system: str
    spec: Any
    layout: Layout
    tokenizer: Tokenizer | None
    dtype: torch.dtype = torch.float32
    adapters: tuple[Lora, ...] = ()
    quantised: Mapping[str, str] | None = None


def cost(
    name: str | Path | Model,
    *,
    images: Sequence[Any] = (),
    videos: Sequence[Any] = (),
    pages: int = 0,
    text: int | str = 0,
    max_tokens: int = MAX_TOKENS,
    dtype: torch.dtype | str = AUTO,
    quantise: str | Mapping[str, str] | None = None,
    changes: Mapping[str, Any] | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
) -> Cost:
    """What one question and its answer will cost; no weight is loaded.

    Args:
        name: a size of `scops ls`, a model's folder, or a model.
        images: pictures (of which only the size is read) or their sizes, (width, height) or "1344x896".
        videos: videos, or seconds, (seconds, frames a second) or "12.5@24".
        pages: so many pages of A4.
        text: the user's words, or how many tokens they are.
        max_tokens: of the reply.
        dtype, quantise: as of scops.load.
        changes: to the spec, nested as its fields are, as of scops.create.
        tokenizer: a folder with one, where `name` has none; without any, words are estimated, 4 characters a token.
    """
    plan = _planned(name, changes or {})
    found = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_folder(tokenizer) if tokenizer else None
    kept = plan.dtype if dtype == AUTO else dtype_of(dtype)
    system = outline(plan.system, plan.spec, dtype=kept, adapters=plan.adapters, quantised=plan.quantised)
    if quantise:
        with torch.device("meta"):
            round_weights(system, roles_of(quantise))
    pictures = [*images, *[A4] * pages]
    sample = _sample([*map(_picture, pictures)], [*map(_video, videos)], HERE if isinstance(text, int) else text)
    count = text if isinstance(text, int) else 0
    return cost_of(system, plan.layout, found or plan.tokenizer, sample, text=count, reply=max_tokens)


def _planned(name: str | Path | Model, changes: Mapping[str, Any]) -> Planned:
    if isinstance(name, Model):
        adapters = adapters_in(name.module)
        plan = Planned(name.system, name.spec, name.layout, name.tokenizer, name.dtype, adapters, dict(name.quantised))
    elif (path := Path(name).expanduser()).is_dir():
        plan = _of_parts(Parts.read(path)) if is_parts(path) else _of_folder(finished(path))
    elif path.is_file():
        raise ValueError(f"{name} is a file, but costs are told of a size (scops ls) or of a model's folder")
    else:
        system, size, spec = spec_for(str(name), changes)
        package = module_of(system).origins(size).tokenizer
        at_hand = tokenizer_of(package) if package and cached(package) else None
        return Planned(system, spec, module_of(system).layout(spec), at_hand)
    if not changes:
        return plan
    spec = rechosen(plan.system, plan.spec, changes)
    return Planned(plan.system, spec, module_of(plan.system).layout(spec), plan.tokenizer, plan.dtype)


def _of_folder(folder: Path) -> Planned:
    """Its config.json is enough; with a tokenizer words are counted, and weights say their dtype."""
    config, tokenizer, dtype = read_config(folder), None, torch.float32
    with suppress(FileNotFoundError):
        tokenizer = Tokenizer.from_folder(folder)
    with suppress(FileNotFoundError):
        dtype = dtype_of(AUTO, open_weights(folder))
    spec = told(config, tokenizer) if tokenizer else config.spec
    layout = recorded_layout(folder, module_of(config.system).layout(spec))
    return Planned(config.system, spec, layout, tokenizer, dtype, config.lora, config.quantised)


def _of_parts(said: Parts) -> Planned:
    layout, tokenizer = module_of(said.system).layout(said.spec), said.open_tokenizer()
    return Planned(said.system, said.spec, layout, tokenizer, dtype_of(AUTO, largest(said.sources())), said.lora)


def _sample(pictures: Sequence[Sequence[Media]], videos: Sequence[Sequence[Media]], text: str) -> Sample:
    """As a question with pictures before its words is asked; what was given as a size is called by it."""
    before = [one for many in (*pictures, *videos) for one in many]
    met, named = Counter[str](), list[Media | Text]()
    for one in before:
        met[one.kind] += 1
        named.append(Media(one.kind, one.source, f"{one.kind} {met[one.kind]} {one.name}"))
    return Sample((Turn("user", (*named, Text(text)) if text else tuple(named)),), "what is to be counted")


def _picture(given: Any) -> tuple[Media, ...]:
    size = SIZE.fullmatch(given) if isinstance(given, str) else None
    if size or (isinstance(given, tuple) and len(given) == 2):
        width, height = map(int, size.groups() if size else given)
        return (Media("image", Sized(height, width), f"{width}x{height}"),)
    if isinstance(given, str) and not given.startswith("data:") and not file_of(given).is_file():
        raise ValueError(f"{given!r} is neither a size (WIDTHxHEIGHT, as 1344x896) nor the file of a picture")
    return media(given, "picture", "image")


def _video(given: Any) -> tuple[Media, ...]:
    length = LENGTH.fullmatch(given) if isinstance(given, str) else None
    if length:
        given = float(length[1]), float(length[2] or FPS)
    if isinstance(given, int | float):
        given = float(given), FPS
    if isinstance(given, tuple) and len(given) == 2:
        seconds, fps = given
        if not (seconds > 0 and fps > 0):
            raise ValueError(
                f"a video lasts more than 0 seconds at more than 0 frames a second, not {seconds:g} at {fps:g}"
            )
        return (Media("video", Facts(max(round(seconds * fps), 1), fps), f"{seconds:g} s at {fps:g} a second"),)
    if isinstance(given, str) and not given.startswith("data:") and not Path(given).is_file():
        raise ValueError(f"{given!r} is neither a length (SECONDS or SECONDS@FPS, as 60@25) nor the file of a video")
    return media(given, "video", "video")
