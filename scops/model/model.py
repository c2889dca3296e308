"""The front door: load or make a model, talk to it, save it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scops.core.folders import cache_folder
from scops.core.layout import Layout
from scops.core.names import nearest
from scops.data.messages import Ask, media, sample_of
from scops.data.processor import Processor
from scops.data.resize import RESIZERS
from scops.data.tokenizer import Tokenizer
from scops.generate.desk import PAGE, Desk
from scops.generate.sampler import Sampling
from scops.generate.talk import MAX_TOKENS, Answer, pieces, prompts
from scops.lab.retrieval import Comparer, Ranking, Scores, Told, pictures_in, texts_in
from scops.model.bridge import adapters_in
from scops.model.folder import OWN, Config, published_config, size_of, write_folder
from scops.native.quantise import quantise, roles_of
from scops.nn import lora
from scops.systems import COMPARING, module_of
from scops.train.checkpoint import replace_folder

BATCH = 8
JUDGED = 32
VECTORS = "vectors"


@dataclass
class Model:
    """A system with weights, tokenizer and the layout that makes prompts.

    Args:
        system, spec: what it is, as in scops.systems.
        module: an nn.Module that is a scops.core.system.Decoder.
        origin: where the weights come from, for people.
        run: the YAML of the run that made it.
        quantised: by role, "int8" or "int4".
    """

    system: str
    spec: Any
    module: Any
    tokenizer: Tokenizer
    layout: Layout
    origin: str = ""
    run: str | None = None
    quantised: dict[str, str] = field(default_factory=dict)
    processor: Processor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.processor = Processor(self.layout, self.tokenizer)

    @property
    def size(self) -> str | None:
        """The name of a known size that is exactly this."""
        return size_of(module_of(self.system), self.spec)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    # Talking ----------------------------------------------------------------------------------------------------------

    def chat(
        self,
        ask: Ask,
        images: Sequence[Any] = (),
        *,
        videos: Sequence[Any] = (),
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        **sampling: Any,
    ) -> str:
        """One reply.

        Args:
            ask: words; or parts of one turn (words, paths, pictures) in order; or OpenAI-style messages; or a Sample.
            images: pictures, documents and videos before the words, when `ask` is no list of messages.
            videos: the same for videos whose names do not say it, or in memory.
            stop: words before which the reply ends.
            sampling: the fields of scops.generate.sampler.Sampling; without them the best token is taken.
        """
        return "".join(self.stream(ask, images, videos=videos, max_tokens=max_tokens, stop=stop, **sampling))

    def stream(
        self,
        ask: Ask,
        images: Sequence[Any] = (),
        *,
        videos: Sequence[Any] = (),
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        **sampling: Any,
    ) -> Iterator[str]:
        """The same reply in pieces, as they come."""
        examples, chosen = prompts(self.processor, [sample_of(ask, images, videos)]), _sampling(sampling)
        said = pieces(self.module, self.processor, examples, sampling=chosen, limit=max_tokens, stops=stop)
        return (piece.text for piece in said if piece.text)

    def generate(
        self,
        asks: Sequence[Ask],
        *,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        batch: int = BATCH,
        **sampling: Any,
    ) -> list[str]:
        """A reply to each of many; the same as asking them one by one (with a seed: ask number r uses seed + r)."""
        return [a.text for a in self.answer(asks, max_tokens=max_tokens, stop=stop, batch=batch, **sampling)]

    def answer(
        self,
        asks: Sequence[Ask],
        *,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        batch: int = BATCH,
        logprobs: int | None = None,
        **sampling: Any,
    ) -> list[Answer]:
        """As `generate`, with what was asked and why each reply ended.

        Args:
            batch: the most that are answered at once; when one is done, the next begins.
            logprobs: tell how likely each token was before sampling, and as many others in its place.
        """
        chosen, samples = _sampling(sampling), [sample_of(ask, name=f"ask {at}") for at, ask in enumerate(asks)]
        if not samples:
            return []
        longest = sorted((len(self.processor.outline(sample, reply=True)) for sample in samples), reverse=True)[:batch]
        tokens = sum(min(length + max_tokens, self.layout.context) + PAGE for length in longest)
        desk = self.desk(tokens=tokens, rows=batch)
        return desk.answers(samples, chosen, limit=max_tokens, stops=stop, logprobs=logprobs)

    def desk(self, **room: Any) -> Desk:
        """For many conversations over time: keeps what it has read, streams and cancels each, from any thread.

        Args:
            room: memory, rows and more, as of scops.generate.desk.Desk.
        """
        return Desk(self.module, self.processor, **room)

    # Comparing --------------------------------------------------------------------------------------------------------

    def score(self, images: Sequence[Any], texts: Sequence[str]) -> Scores:
        """How alike every picture and every text are, and how likely they belong together.

        Args:
            images: paths, data URLs, bytes or Pillow pictures; a document is all its pages.
        """
        shown = [one for number, image in enumerate(images) for one in media(image, f"picture {number}", "image")]
        return self._comparer(keep=False).scores(shown, texts)

    def retrieve(
        self,
        among: str | Path | Sequence[Any],
        *,
        text: str | None = None,
        image: Any = None,
        judged: int = JUDGED,
        keep: bool = True,
        told: Told | None = None,
    ) -> Ranking:
        """The pictures that a text belongs to, or the texts that a picture belongs to, best first.

        Args:
            among: of pictures a folder (also what is below it) or a list; of texts a file with one on each line, or a list.
            judged: so many of the most alike are asked about with both in view, and stand first.
            keep: vectors of pictures in the cache folder by content, so that the next call reads them there.
            told: hears (pictures done, pictures in all).
        """
        if (text is None) == (image is None):
            raise ValueError("retrieve takes a text to find pictures by, or an image to find texts by: one of them")
        if judged < 0:
            raise ValueError(f"judged is 0 or more, not {judged}")
        if text is not None:
            return self._comparer(keep=keep).pictures(text, pictures_in(among), judged=judged, told=told)
        shown = media(image, "the picture", "image")
        if len(shown) != 1:
            raise ValueError(f"{image} has {len(shown)} pages; name one: {image}#page=1")
        return self._comparer(keep=False).texts(shown[0], texts_in(among), judged=judged)

    def _comparer(self, *, keep: bool) -> Comparer:
        if self.system not in COMPARING:
            raise ValueError(
                f"{self.system} writes text, it does not compare pictures with texts; these systems do: "
                f"{', '.join(COMPARING)}"
            )
        return Comparer(self.module, self.processor, folder=cache_folder() / VECTORS if keep else None)

    # Keeping ----------------------------------------------------------------------------------------------------------

    def merge(self) -> "Model":
        """Fold adapters into the weights, here and now."""
        lora.merge(self.module)
        return self

    def compile(self) -> "Model":
        """Let torch compile steps of one token, at the first step of each number of rows and room (chat, stream; not desks)."""
        self.module.compile_steps()
        return self

    def quantise(self, roles: str | Mapping[str, str]) -> "Model":
        """Round weights to "int8" or "int4", here and now: of the language model, or by role {"language": "int4"}."""
        named = roles_of(roles)
        again = sorted(set(named) & set(self.quantised))
        if again:
            raise ValueError(f"{again[0]} is quantised to {self.quantised[again[0]]} already; load the model anew")
        quantise(self.module, named)
        self.quantised |= named
        return self

    def resize_by(self, choice: str) -> "Model":
        """Prepare pictures by "pillow" or "torch" from here on; a saved folder says which."""
        if choice not in RESIZERS:
            raise ValueError(f"pictures are resized by one of {', '.join(RESIZERS)}, not {choice!r}")
        self.layout = self.layout.resized_by(dict.fromkeys(self.layout.media, choice))
        self.processor = Processor(self.layout, self.tokenizer)
        return self

    def save(self, folder: str | Path, layout: str | None = None, *, run: str | None = None) -> Path:
        """A Hugging Face shaped folder; a new one appears whole, in an old one each file is replaced whole.

        Args:
            layout: "scops" (adapters are kept beside the weights), or a published one of the system, without adapters.
            run: the YAML of the run that made it; by default the one it came with.
        """
        folder, layout = Path(folder), layout or OWN
        adapters, weights, published = adapters_in(self.module), self.module.state_dict(), {}
        if layout != OWN and self.quantised:
            raise ValueError(f"the layout {layout!r} has no place for quantised weights; save in {OWN!r}")
        if layout != OWN:
            keys = module_of(self.system).KEYS
            if layout not in keys:
                raise ValueError(
                    f"{self.system} is not published in a layout {layout!r}{nearest(layout, [OWN, *keys])}"
                )
            if adapters:
                raise ValueError(f"the layout {layout!r} has no place for adapters; merge them first (model.merge())")
            weights = keys[layout](self.spec).save(weights)
            published = published_config(self.system, self.spec, layout)
        config = Config(self.system, self.size, self.spec, layout, adapters, self.quantised)

        def fill(place: Path) -> None:
            kept = {"layout": self.layout, "tokenizer": self.tokenizer, "published": published, "run": run or self.run}
            write_folder(place, config, weights, **kept)

        if folder.is_dir() and any(folder.iterdir()):
            fill(folder)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            replace_folder(folder, fill)
        return folder


def _sampling(given: dict[str, Any]) -> Sampling:
    unknown = sorted(set(given) - set(Sampling.__dataclass_fields__))
    if unknown:
        raise ValueError(f"there is no {unknown[0]!r} of sampling{nearest(unknown[0], Sampling.__dataclass_fields__)}")
    return Sampling(**given)
