"""`scops cost NAME`: what a question and its answer will take, told before anything is loaded."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scops.cli.show import as_json, pairs, short, table
from scops.lab.cost import Cost
from scops.lab.tokens import Medium, Stretch
from scops.model.costs import cost as cost_of
from scops.train.changes import changed

UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
WORK = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"), (1, ""))


def cost(
    name: str,
    changes: Sequence[str],
    *,
    images: Sequence[str],
    videos: Sequence[str],
    pages: int,
    text: str,
    max_tokens: int,
    dtype: str,
    quantise: str | None,
    tokenizer: Path | None,
    json: bool,
) -> None:
    found = cost_of(
        name, images=images, videos=videos, pages=pages, text=int(text) if text.isdecimal() else text,
        max_tokens=max_tokens, dtype=dtype, quantise=quantise, changes=changed({}, changes), tokenizer=tokenizer,
    )  # fmt: skip
    if json:
        as_json(plain(found))
    else:
        say(found)


def plain(found: Cost) -> dict[str, Any]:
    """Everything that is told, with its sums, as plain data."""
    media = [asdict(one) | {"tokens": one.tokens, "beside": one.beside} for one in found.prompt.media]
    flops = asdict(found.flops) | {"prefill": found.flops.prefill, "reply": found.flops.reply(found.reply)}
    return asdict(found) | {
        "fits": found.fits,
        "prompt": asdict(found.prompt) | {"media": media},
        "flops": flops,
        "bytes": asdict(found.bytes) | {"peak": found.bytes.peak},
    }


def say(found: Cost) -> None:
    prompt, flops, held = found.prompt, found.flops, found.bytes
    rows: list[tuple[Any, ...]] = [(one.name, formula(one), one.tokens, one.beside or "") for one in prompt.media]
    rows += [("words", "", prompt.text, ""), ("template", "" if prompt.exact else "estimated", prompt.template, "")]
    rows.append(("prompt", "", f"{prompt.tokens:,}", sum(one.beside for one in prompt.media) or ""))
    table(("where tokens go", "", "tokens", "beside"), rows, right=("tokens", "beside"))
    if not prompt.exact:
        print("No tokenizer is at hand: words are estimated at 4 characters a token (--tokenizer FOLDER counts them).")
    if found.fits:
        print(f"{prompt.tokens:,} and {found.reply:,} of the reply, of {found.context:,}")
    else:
        print(f"This does not fit: {prompt.tokens:,} tokens, but the context is {found.context:,}, prompt and reply.")
    parts = [(part.role, short(part.parameters), size(part.bytes)) for part in found.parts]
    table(("part", "parameters", "bytes"), parts, title="\nParts", right=("parameters", "bytes"))
    pairs(
        {
            "encoders": work(flops.encode),
            "connectors": work(flops.connect),
            "reading": work(flops.read),
            "before the first token": work(flops.prefill),
            "a further token": f"{work(flops.step)}, and {work(flops.more)} more for each after it",
            f"a reply of {found.reply}": work(flops.reply(found.reply)),
        },
        title="FLOPs",
    )
    pairs(
        {
            "weights": size(held.weights),
            "pictures": size(held.media),
            "keys and values": f"{size(held.cache)}: {size(held.per_token)} a token"
            + (f", {size(held.beside)} beside the sequence" if held.beside else ""),
            "activations": size(held.activations),
            "at most": size(held.peak),
        },
        title="Memory",
    )


def formula(medium: Medium) -> str:
    """ "2x3: 6 tiles x 65 + 1 whole picture x 65 + 14 words"."""
    cut = medium.grid != (1, 1)
    terms = [_term(one) for one in medium.stretches] + ([f"{medium.words} words"] if medium.words else [])
    return (f"{medium.grid[0]}x{medium.grid[1]}: " if cut else "") + " + ".join(terms)


def _term(one: Stretch) -> str:
    of = f" of {one.pictures} {'frames' if one.what == 'clip' else 'pictures'}" if one.pictures > 1 else ""
    return f"{one.items} {one.what}{'s' if one.items > 1 else ''}{of} x {one.tokens or one.beside}"


def size(count: int) -> str:
    """1536 -> 1.5 KiB."""
    return _in_units(count, UNITS)


def work(count: int) -> str:
    """1500 -> 1.5 k."""
    return _in_units(count, WORK).rstrip()


def _in_units(count: int, units: Sequence[tuple[int, str]]) -> str:
    unit, name = next(((unit, name) for unit, name in units if count >= unit), units[-1])
    return f"{count / unit:.4g} {name}"
