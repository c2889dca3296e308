"""A look at data before training: what is there, what is missing, what would be dropped and why, and what is learnt."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from rich.text import Text as Rich

from scops.core.batch import Example
from scops.core.sample import Sample
from scops.data.errors import BadSample
from scops.data.processor import Processor
from scops.data.tokenizer import Tokenizer

EXAMPLES = 3
"""Messages kept per reason."""

BAR = 40
"""Characters of the longest bar."""


@dataclass
class Report:
    """What a check found.

    Args:
        rows: in the data set; checked: of these, spread evenly.
        images: pictures and pages seen; videos: seen; decoded: of both, unpacked as far as they are looked at.
        media_tokens, learnt: of all tokens.
        lengths: tokens of every good row.
        drops: rows by reason (the error's class); examples: its first messages.
        datasets: good rows by data set.
    """

    rows: int
    checked: int = 0
    images: int = 0
    videos: int = 0
    decoded: int = 0
    media_tokens: int = 0
    learnt: int = 0
    lengths: list[int] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    datasets: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def dropped(self) -> float:
        """Share of the checked rows."""
        return sum(self.drops.values()) / max(self.checked, 1)

    def drop(self, error: BadSample) -> None:
        reason = type(error).__name__
        self.drops[reason] += 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < EXAMPLES:
            kept.append(str(error))

    def histogram(self, bins: int = 8) -> list[tuple[int, int, int]]:
        """(from, to, rows) of the lengths, the last end included."""
        if not self.lengths:
            return []
        counts, edges = np.histogram(self.lengths, min(bins, max(self.lengths) - min(self.lengths) + 1))
        starts = np.ceil(edges).astype(int).tolist()
        return list(zip(starts, starts[1:], counts.tolist(), strict=False))

    def render(self) -> Rich:
        """For the terminal."""
        good = self.checked - sum(self.drops.values())
        text = Rich(f"{self.checked} of {self.rows} rows looked at, {good} good\n")
        videos = f" and {self.videos} videos" if self.videos else ""
        text.append(f"{self.images} images{videos}, {self.decoded} of them unpacked\n")
        share = self.learnt / max(self.tokens, 1)
        text.append(f"{self.tokens} tokens: {self.media_tokens} of media, {self.learnt} learnt ({share:.1%})\n")
        bars = self.histogram()
        most = max((rows for _, _, rows in bars), default=1)
        for start, end, rows in bars:
            text.append(f"{start:>7} .. {end:<7}").append("█" * round(BAR * rows / most), "cyan").append(f" {rows}\n")
        for name, rows in self.datasets.items() if len(self.datasets) > 1 else ():
            text.append(f"{rows:>7} rows of {name}\n")
        for reason, rows in self.drops.most_common():
            text.append(f"{rows} dropped: {reason}\n", "bold red")
            for message in self.examples[reason]:
                text.append(f"    {message}\n", "red")
        return text


def check(dataset: Sequence[Sample], processor: Processor, *, limit: int | None = None, decoded: int = 1000) -> Report:
    """Counts over a data set, as training would see it.

    Args:
        limit: at most so many rows, spread evenly.
        decoded: so many pictures and videos are unpacked, which finds cut files; of the others only headers are read.
    """
    rows = len(dataset)
    report = Report(rows)
    wanted = rows if limit is None else min(limit, rows)
    for at in (number * rows // wanted for number in range(wanted)):
        report.checked += 1
        try:
            sample = dataset[at]
            videos = sum(item.kind == "video" for item in sample.media)
            report.videos, report.images = report.videos + videos, report.images + len(sample.media) - videos
            for item in sample.media[: max(decoded - report.decoded, 0)]:
                report.decoded += 1
                processor.unpack(item, sample)
            example = processor.outline(sample)
        except BadSample as error:
            report.drop(error)
            continue
        report.lengths.append(len(example))
        report.media_tokens += sum(span.length for span in example.spans)
        report.learnt += int(example.learn_T.sum())
        report.datasets[sample.dataset] += 1
    return report


def show(example: Example, tokenizer: Tokenizer) -> Rich:
    """The tokens as words: learnt ones green, others dim, every picture a block with its number of tokens."""
    spans = {span.start: span for span in example.spans if span.length}
    owner = np.full(len(example), -1)
    for start, span in spans.items():
        owner[start : start + span.length] = start
    text = Rich()
    for (start, learn), run in groupby(range(len(example)), lambda at: (int(owner[at]), bool(example.learn_T[at]))):
        ids = [int(example.ids_T[at]) for at in run]
        if start >= 0:
            text.append(f"[{spans[start].kind}: {spans[start].length} tokens]", "black on cyan")
        else:
            text.append(tokenizer.decode(ids, skip_special=False), "bold green" if learn else "dim")
    return text
