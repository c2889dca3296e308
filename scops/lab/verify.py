"""Are these weights the model they say they are: names, shapes, values, ties, and outputs against a golden."""

# T tokens, V vocabulary
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scops.checkpoints.keymap import KeyMap, unchanged
from scops.checkpoints.read import open_weights
from scops.checkpoints.reader import MappedReader, Reader
from scops.checkpoints.write import save_tensors
from scops.core.batch import Example, Span, Words
from scops.core.names import nearest
from scops.core.system import Decoder
from scops.data.collate import pad

SHOWN = 5
TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}
"""Largest allowed difference, as a share of the golden's largest output."""

INPUTS, OUTPUTS = "inputs.safetensors", "outputs.safetensors"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    good: bool
    says: str


def found(check: str, look: Callable[[], str]) -> Finding:
    """The check's own words, or those of what it raised."""
    try:
        return Finding(check, True, look())
    except (ValueError, OSError, KeyError) as error:
        return Finding(check, False, str(error.args[0]) if isinstance(error, KeyError) else str(error))


def check_weights(reader: Reader, keys: KeyMap | None, module: nn.Module) -> list[Finding]:
    """All checks that need no forward.

    Args:
        keys: from the file's names to the module's; None when they are the module's own.
        module: as it should be, on the meta device.
    """
    names = found("names", lambda: _names(reader, keys, module))
    findings = [names]
    if names.good:
        findings.append(found("shapes", lambda: _shapes(_mapped(reader, keys), module)))
    findings += [found("dtypes", lambda: _dtypes(reader)), found("values", lambda: _values(reader))]
    if names.good and keys is not None:
        findings.append(found("ties", lambda: _ties(reader, _mapped(reader, keys))))
    return findings


def _mapped(reader: Reader, keys: KeyMap | None) -> MappedReader:
    return MappedReader(reader, unchanged(reader.names()) if keys is None else keys)


def _names(reader: Reader, keys: KeyMap | None, module: nn.Module) -> str:
    given, wanted = set(_mapped(reader, keys).names()), set(module.state_dict())
    missing, leftover = sorted(wanted - given), sorted(given - wanted)
    if missing or leftover:
        lines = [
            f"missing {name!r}{nearest(name, leftover)}" if leftover else f"missing {name!r}"
            for name in missing[:SHOWN]
        ]
        lines += [f"left over {name!r}{nearest(name, wanted)}" for name in leftover[:SHOWN]]
        raise ValueError(f"{len(missing)} missing, {len(leftover)} left over:\n  " + "\n  ".join(lines))
    return f"{len(reader.names())} names in {reader.path.name} ({reader.kind}) give all {len(wanted)} of the model"


def _shapes(reader: Reader, module: nn.Module) -> str:
    state = module.state_dict()
    wrong = [
        f"{name!r} is {reader.shape(name)}, expected {tuple(tensor.shape)}"
        for name, tensor in state.items()
        if reader.shape(name) != tuple(tensor.shape)
    ]
    if wrong:
        raise ValueError(f"{len(wrong)} shapes differ:\n  " + "\n  ".join(wrong[:SHOWN]))
    return f"all as built, {sum(tensor.numel() for tensor in state.values()):,} numbers"


def _dtypes(reader: Reader) -> str:
    counts = Counter(str(reader.dtype(name)).removeprefix("torch.") for name in reader.names())
    return ", ".join(f"{count} {dtype}" for dtype, count in counts.most_common())


def _values(reader: Reader) -> str:
    """One tensor in memory at a time."""
    bad, zero, largest = [], [], (0.0, "")
    for name in reader.names():
        tensor = reader[name]
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        nans, top = int(tensor.isnan().sum()), float(tensor.nan_to_num(posinf=np.inf, neginf=-np.inf).abs().max())
        if nans or top == float("inf"):
            bad.append(f"{name!r}: {nans} NaN, {int(tensor.isinf().sum())} infinite of {tensor.numel()}")
        if top == 0 and tensor.ndim > 1:
            zero.append(name)
        largest = max(largest, (top, name))
    if bad:
        raise ValueError(f"{len(bad)} tensors with numbers that are none:\n  " + "\n  ".join(bad[:SHOWN]))
    empty = f"; {len(zero)} matrices are all zero, first {zero[0]!r}" if zero else ""
    return f"finite, largest {largest[0]:.4g} in {largest[1]!r}{empty}"


def _ties(reader: Reader, mapped: MappedReader) -> str:
    """A head that is dropped because it is the embedding must be the embedding."""
    used = {source for sources in mapped.sources.values() for source in sources}
    heads = [name for name in reader.names() if name not in used and name.endswith("lm_head.weight")]
    embeds = [sources[0] for path, sources in mapped.sources.items() if path.endswith("embed.weight")]
    for head in heads:
        if not any(reader.shape(head) == reader.shape(e) and torch.equal(reader[head], reader[e]) for e in embeds):
            raise ValueError(f"{head!r} should be the embedding ({', '.join(embeds)}), but its numbers differ")
    return f"{', '.join(heads)} is the embedding" if heads else "nothing is stored twice"


def write_golden(folder: str | Path, system: Decoder, examples: Sequence[Example]) -> None:
    """Inputs and what the system says to them, for a later look on another machine or in another layout."""
    inputs: dict[str, Tensor] = {}
    for at, example in enumerate(examples):
        inputs[f"{at}.ids"] = torch.from_numpy(example.ids_T)
        if example.reply is not None:
            inputs[f"{at}.reply"] = torch.tensor(example.reply)
        for kind, items in example.media.items():
            spans = [span for span in example.spans if span.kind == kind]
            inputs[f"{at}.spans.{kind}"] = torch.tensor([(span.start, span.length, len(span.places)) for span in spans])
            inputs[f"{at}.places.{kind}"] = torch.tensor([place for span in spans for place in span.places])
            inputs[f"{at}.extents.{kind}"] = torch.tensor([span.extent or (-1, -1) for span in spans])
            if kind in example.words:
                told = Words.of(example.words[kind])
                inputs[f"{at}.words.{kind}"] = told.ids_IT.masked_fill(~told.real_IT, -1)
            inputs[f"{at}.media.{kind}"] = torch.from_numpy(np.stack(items))
    save_tensors(Path(folder) / INPUTS, inputs)
    save_tensors(Path(folder) / OUTPUTS, {f"{at}.logits": x for at, x in enumerate(_outputs(system, examples))})


def check_golden(folder: str | Path, system: Decoder) -> str:
    """Raises ValueError with the largest difference when the system says something else than the golden."""
    inputs, outputs = (open_weights(Path(folder) / name) for name in (INPUTS, OUTPUTS))
    count = len({name.split(".")[0] for name in inputs.names()})
    examples = [_example(inputs, at) for at in range(count)]
    tolerance, worst = TOLERANCE[next(system.parameters()).dtype], 0.0
    for at, made_V in enumerate(_outputs(system, examples)):
        wanted_V = outputs[f"{at}.logits"]
        if made_V.shape != wanted_V.shape:
            raise ValueError(f"golden {at}: logits are {tuple(made_V.shape)}, expected {tuple(wanted_V.shape)}")
        difference = float((made_V - wanted_V).abs().max() / wanted_V.abs().max().clamp_min(1))
        if not difference <= tolerance:  # so that NaN fails too
            raise ValueError(f"golden {at} of {count}: logits differ by {difference:.3g}, allowed are {tolerance:g}")
        worst = max(worst, difference)
    return f"{count} inputs, largest difference {worst:.3g} (allowed {tolerance:g})"


@torch.no_grad()
def _outputs(system: Decoder, examples: Sequence[Example]) -> list[Tensor]:
    """Scores after the last token of each example alone, (V)."""
    weight, made = next(system.parameters()), []
    for example in examples:
        batch = pad([example], pad_id=0)
        media = {kind: items.to(weight.dtype) for kind, items in batch.media.items()}
        hidden_BTD = system.hidden(replace(batch, media=media).to(weight.device))
        made.append(system.head(hidden_BTD[0, len(example) - 1]).float().cpu())
    return made


def _example(inputs: Reader, at: int) -> Example:
    ids_T = inputs[f"{at}.ids"].numpy()
    spans, media, words = [], {}, {}
    for name in inputs.names():
        if name.startswith(f"{at}.spans."):
            kind = name.split(".", 2)[2]
            places = iter(inputs[f"{at}.places.{kind}"].tolist())
            extents = inputs[f"{at}.extents.{kind}"].tolist()
            for (start, length, pictures), extent in zip(inputs[name].tolist(), extents, strict=True):
                here = tuple((row, column) for row, column in islice(places, pictures))
                spans.append(Span(kind, start, length, here, None if extent == [-1, -1] else tuple(extent)))
            if f"{at}.words.{kind}" in inputs.names():
                rows = inputs[f"{at}.words.{kind}"].numpy()
                words[kind] = tuple(ids_T[ids_T >= 0] for ids_T in rows)
            media[kind] = tuple(inputs[f"{at}.media.{kind}"].numpy())
    ordered = tuple(sorted(spans, key=lambda span: span.start))
    reply = int(inputs[f"{at}.reply"]) if f"{at}.reply" in inputs.names() else None
    return Example(ids_T, np.zeros(len(ids_T), np.bool_), ordered, media, words=words, reply=reply)
