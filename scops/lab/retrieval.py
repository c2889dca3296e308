"""Which text belongs to which picture: cosines in the common space, and verdicts on the most alike (ALBEF, arXiv 2107.07651, 4.3).

Works on any system that compares (scops.core.pairs.Comparing).
"""

# N pictures, K texts, P features per picture, Q picture vectors, E width of the common space, D width, T tokens
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from scops.core.batch import Batch, Example
from scops.core.pairs import Comparing, Texts, likeness
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pad
from scops.data.errors import BadSample
from scops.data.image import SUFFIXES as PICTURES
from scops.data.messages import media
from scops.data.processor import Processor
from scops.generate.talk import placed
from scops.train.features import Features
from scops.train.fingerprint import fingerprint

KIND = "image"
GROUP = 8
"""Pictures, or pairs, that are looked at together."""
BUDGET = 2**30
"""Bytes of picture vectors in memory."""

Told = Callable[[int, int], None]
"""(pictures done, pictures in all)"""

Judged = tuple[Tensor, Tensor]
"""Of pairs, how likely they belong together, and what they are ranked by."""


@dataclass(frozen=True)
class Scores:
    """What a system says of every picture with every text.

    Args:
        pictures, texts: their names, and the texts themselves.
        likeness_NK: cosines, -1 to 1.
        match_NK: how likely they belong together, 0 to 1.
        rank_NK: what retrieval ranks by, as published: the score of the verdict "belongs together", and for some systems the
            cosine added.
    """

    pictures: tuple[str, ...]
    texts: tuple[str, ...]
    likeness_NK: Tensor
    match_NK: Tensor
    rank_NK: Tensor


@dataclass(frozen=True)
class Found:
    """One picture or text of those that were looked through.

    Args:
        number: its place among them.
        match, rank: as in Scores; None where it was not among the most alike, which alone are judged.
    """

    number: int
    name: str
    likeness: float
    match: float | None = None
    rank: float | None = None


@dataclass(frozen=True)
class Ranking:
    """The best first.

    Args:
        unread: what was no picture, and why.
    """

    found: tuple[Found, ...]
    unread: tuple[str, ...] = ()


class Comparer:
    """A system and what makes its pictures and texts into numbers.

    Args:
        folder: where picture vectors are kept by the pictures' content, one folder per weights; None keeps none.
    """

    def __init__(self, system: Comparing, processor: Processor, *, folder: Path | None = None):
        self.system, self.processor = system, processor
        self.kept = Features(folder=_home(system, folder) if folder else None, budget=BUDGET)
        known = lambda digest: self.kept.kept(KIND, digest) is not None
        self.asking = Processor(processor.layout, processor.tokenizer, known=known)

    @torch.no_grad()
    def scores(self, pictures: Sequence[Media], texts: Sequence[str]) -> Scores:
        """Of every picture with every text."""
        if not pictures or not texts:
            raise ValueError(f"{len(pictures)} pictures and {len(texts)} texts; give at least one of each")
        check(texts)
        features_NPD = self._features([self._picture(one, self.processor) for one in pictures])
        read = self._texts(texts)
        made = self.system.picture_vectors(features_NPD), self.system.text_vectors(read)
        likeness_NK = likeness(*made).float()
        picture_R = torch.arange(len(pictures), device=likeness_NK.device).repeat_interleave(len(texts))
        text_R = torch.arange(len(texts), device=likeness_NK.device).repeat(len(pictures))
        match_R, rank_R = self._judged(features_NPD, read, picture_R, text_R, likeness_NK.flatten())
        made = (x.view_as(likeness_NK).cpu() for x in (likeness_NK, match_R, rank_R))
        return Scores(tuple(one.name for one in pictures), tuple(texts), *made)

    @torch.no_grad()
    def pictures(self, text: str, among: Sequence[Media], *, judged: int, told: Told | None = None) -> Ranking:
        """The pictures that a text belongs to.

        Args:
            judged: how many of the most alike are asked about with the text in view.
        """
        check([text])
        texts = self._texts([text])
        vector_1E, alike, unread = self.system.text_vectors(texts), dict[int, float](), list[str]()
        for some in _groups(range(len(among))):
            examples = self._read(some, among, unread)
            if examples:
                made_N1 = likeness(self._vectors([*examples.values()]).to(vector_1E), vector_1E)
                alike |= dict(zip(examples, made_N1[:, 0].tolist(), strict=True))
            if told:
                told(some[-1] + 1, len(among))
        self.kept.flush()
        if not alike:
            raise ValueError(f"none of {len(among)} pictures can be read: {'; '.join(unread[:3]) or 'there is none'}")

        def judge(some: Sequence[int], alike_R: Tensor) -> Judged:
            features_RPD = self._features([self._picture(among[number], self.processor) for number in some])
            picture_R = torch.arange(len(some), device=features_RPD.device)
            return self._judged(features_RPD, texts, picture_R, torch.zeros_like(picture_R), alike_R)

        return Ranking(_ranked(alike, judge, judged, [one.name for one in among]), tuple(unread))

    @torch.no_grad()
    def texts(self, picture: Media, among: Sequence[str], *, judged: int) -> Ranking:
        """The texts that belong to a picture."""
        if not among:
            raise ValueError("there is no text to choose among; give at least one")
        check(among)
        features_1PD = self._features([self._picture(picture, self.processor)])
        vectors_1QE, alike = self.system.picture_vectors(features_1PD), dict[int, float]()
        for some in _groups(range(len(among))):
            vectors_KE = self.system.text_vectors(self._texts([among[number] for number in some]))
            alike |= dict(zip(some, likeness(vectors_1QE, vectors_KE)[0].tolist(), strict=True))

        def judge(some: Sequence[int], alike_R: Tensor) -> Judged:
            text_R = torch.arange(len(some), device=features_1PD.device)
            texts = self._texts([among[number] for number in some])
            return self._judged(features_1PD, texts, torch.zeros_like(text_R), text_R, alike_R)

        return Ranking(_ranked(alike, judge, judged, among))

    # Into numbers -----------------------------------------------------------------------------------------------------

    def _picture(self, media: Media, processor: Processor) -> Example:
        return processor(Sample((Turn("user", (media,)),), name=media.name), reply=True)

    def _batch(self, examples: Sequence[Example]) -> Batch:
        return placed(pad(list(examples), pad_id=self.processor.tokenizer.pad_id or 0), self.system)

    def _features(self, examples: Sequence[Example]) -> Tensor:
        """(N, P, D)"""
        return torch.cat([self.system.connect(self._batch(some))[KIND] for some in _groups(examples)])

    def _texts(self, texts: Sequence[str]) -> Texts:
        samples = [
            Sample((Turn("user", ()), Turn("assistant", (Text(text),), learn=True)), name=text) for text in texts
        ]
        return self.system.texts(*self.system.captions(self._batch([self.processor(sample) for sample in samples])))

    def _judged(self, features_NPD: Tensor, texts: Texts, picture_R: Tensor, text_R: Tensor, alike_R: Tensor) -> Judged:
        said_R2 = torch.cat([
            self.system.verdicts(features_NPD[p], texts.select(t)).float()
            for p, t in zip(picture_R.split(GROUP), text_R.split(GROUP), strict=True)
        ])  # fmt: skip
        return said_R2.softmax(-1)[:, 1], said_R2[:, 1] + self.system.pairing.likeness * alike_R.to(said_R2.device)

    def _read(self, some: Sequence[int], among: Sequence[Media], unread: list[str]) -> dict[int, Example]:
        """By number, without pixels where the vectors are known; what cannot be read is noted."""
        examples: dict[int, Example] = {}
        for number in some:
            try:
                examples[number] = self._picture(among[number], self.asking)
            except BadSample as error:
                unread.append(str(error))
        return examples

    def _vectors(self, examples: Sequence[Example]) -> Tensor:
        """(N, Q, E)"""
        weight = next(self.system.parameters())
        batch = pad([replace(example, media={}) for example in examples], pad_id=0).to(weight.device)
        return self.kept.of(cast(Any, _Vectors(self.system)), batch, examples, dtype=weight.dtype)[KIND]


class _Vectors:
    """In place of an encoder: what is kept of a picture is its vectors."""

    def __init__(self, system: Comparing):
        self.system = system

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {kind: self.system.picture_vectors(made) for kind, made in self.system.connect(batch).items()}


def _home(system: Any, folder: Path) -> Path:
    """Vectors depend on all weights."""
    return folder / fingerprint({path: tensor.detach() for path, tensor in system.state_dict().items()})[:16]


def _groups(many: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (many[at : at + GROUP] for at in range(0, len(many), GROUP))


def _ranked(
    alike: Mapping[int, float], judge: Callable[[Sequence[int], Tensor], Judged], judged: int, names: Sequence[str]
) -> tuple[Found, ...]:
    """Those that were judged by their verdicts, behind them the others by likeness."""
    order = sorted(alike, key=lambda number: -alike[number])
    first: list[Found] = []
    for some in _groups(order[:judged]):
        made = judge(some, torch.tensor([alike[number] for number in some]))
        for number, match, rank in zip(some, *(x.tolist() for x in made), strict=True):
            first.append(Found(number, names[number], alike[number], match, rank))
    first.sort(key=lambda one: -(one.rank or 0.0))
    return *first, *(Found(number, names[number], alike[number]) for number in order[judged:])


def check(texts: Sequence[str]) -> None:
    """Raises ValueError: a text without words."""
    for number, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {number} has no words")


def pictures_in(among: str | Path | Sequence[Any]) -> list[Media]:
    """Of a folder, by its files' names, the pictures in it and below; or of a list, whatever `scops.data.messages.media` takes."""
    if not isinstance(among, str | Path):
        return [one for number, source in enumerate(among) for one in media(source, f"picture {number}", KIND)]
    folder = Path(among).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one with pictures, or a list of them")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not found:
        raise ValueError(f"{folder} holds no picture ({' '.join(sorted(PICTURES))})")
    return [Media(KIND, path, str(path)) for path in found]


def texts_in(among: str | Path | Sequence[str]) -> list[str]:
    """Of a file, its lines that have words; or of a list."""
    if not isinstance(among, str | Path):
        return list(among)
    path = Path(among).expanduser()
    if not path.is_file():
        raise ValueError(f"{path} is no file; give one with a text on each line, or a list of texts")
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
