"""About 1,650 concepts that emoji draw, in three styles: Noto and Fluent 3D to train on, Twemoji never trained on.

Pictures: npm @iconify-json/noto, @lobehub/fluent-emoji-3d, @twemoji/svg. Names, tags, kinds, Chinese: emojibase-data.
Joined by code points without the variation selector. Left out: variants of skin tone and hair (parts, not things), and
flags of countries and regions (Noto's set here draws none, so each would be seen in one style); other flags stay.
"""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from scops.checkpoints.packages import PACKAGES, Unreachable, fetch
from scops.demo.concepts import Concept, Gallery
from scops.demo.wording import spoken

NOTO, FLUENT, TWEMOJI = "noto", "fluent", "twemoji"
SOURCES = {NOTO: "noto-emoji", FLUENT: "fluent-emoji", TWEMOJI: "twemoji", "names": "emoji-names"}
COMPONENTS = "component"
COUNTRIES = ("country-flag", "subdivision-flag")
FLIPPING = ("animals-nature", "food-drink", "activities")
SIDED = ("left", "right", "facing")
SELECTOR = "fe0f"
NOTO_BOX = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 128 128">'


@dataclass(frozen=True)
class Drawings:
    """By style and code, the picture as its package holds it: SVG text or encoded pixels.

    Args:
        render: resvg's `svg_to_bytes`, SVG text to PNG.
    """

    of: dict[str, dict[str, bytes]]
    render: Callable[..., bytes]

    def draw(self, concept: Concept, style: str, side: int) -> Image.Image:
        """RGBA, side x side."""
        held = self.of[style][concept.code]
        if style != FLUENT:
            held = bytes(self.render(svg_string=held.decode(), width=side, height=side, skip_system_fonts=True))
        with Image.open(io.BytesIO(held)) as picture:
            made = picture.convert("RGBA")
        return made if made.size == (side, side) else made.resize((side, side), Image.Resampling.BICUBIC)


def emoji() -> Gallery:
    """All concepts that have a name and a drawing to train on.

    Raises:
        scops.checkpoints.packages.Unreachable: npm's registry gives no packages and the cache has none, or nothing
            here draws SVG.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise Unreachable("emoji are SVG, which resvg-py draws; try: python -m pip install 'scops[demo]'") from error
    paths = {what: fetch(package) for what, package in SOURCES.items()}
    drawings = {NOTO: noto(paths[NOTO]), FLUENT: fluent(paths[FLUENT]), TWEMOJI: twemoji(paths[TWEMOJI])}
    known = {style: frozenset(held) for style, held in drawings.items()}
    concepts = tuple(c for c in named(paths["names"], known) if {NOTO, FLUENT} & set(c.styles))
    source = " ".join(f"{PACKAGES[p].name}@{PACKAGES[p].version}" for p in SOURCES.values())
    return Gallery(source, concepts, Drawings(drawings, svg_to_bytes).draw, (NOTO, FLUENT), TWEMOJI)


def named(path: Path, known: dict[str, frozenset[str]]) -> list[Concept]:
    """emojibase's entries in its own order, with the styles that draw them."""
    wanted = ("package/en/data.json", "package/zh/data.json", "package/meta/groups.json")
    english, chinese, meta = (json.loads(held) for held in members(path, wanted))
    translated = {entry["hexcode"]: entry["label"] for entry in chinese}
    concepts = []
    for entry in english:
        if "group" not in entry:
            continue  # single regional letters
        group, kind = meta["groups"][str(entry["group"])], meta["subgroups"][str(entry["subgroup"])]
        if group != COMPONENTS and kind not in COUNTRIES:
            concepts.append(concept(entry, group, kind, translated.get(entry["hexcode"], ""), known))
    return concepts


def concept(entry: dict[str, Any], group: str, kind: str, chinese: str, known: dict[str, frozenset[str]]) -> Concept:
    code, name = plain(entry["hexcode"]), spoken(entry["label"])
    return Concept(
        code=code,
        name=name,
        kind=kind,
        tags=tuple(entry.get("tags", ())),
        chinese=chinese,
        styles=tuple(style for style, codes in known.items() if code in codes),
        flips=group in FLIPPING and not any(word in name for word in SIDED),
    )


def noto(path: Path) -> dict[str, bytes]:
    """Code -> SVG."""
    wanted = ("package/icons.json", "package/chars.json")
    icons, names = (json.loads(held) for held in members(path, wanted))
    bodies = icons["icons"]
    parents = {name: alias["parent"] for name, alias in icons["aliases"].items()}
    found = {plain(code): parents.get(name, name) for code, name in names.items()}
    return {code: f"{NOTO_BOX}{bodies[name]['body']}</svg>".encode() for code, name in found.items() if name in bodies}


def fluent(path: Path) -> dict[str, bytes]:
    """Code -> WebP, 256 x 256."""
    return by_file_name(path, ".webp")


def twemoji(path: Path) -> dict[str, bytes]:
    """Code -> SVG."""
    return by_file_name(path, ".svg")


def by_file_name(path: Path, ending: str) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {
            plain(Path(member.name).stem): content(archive, member)
            for member in archive
            if member.isfile() and member.name.endswith(ending)
        }


def members(path: Path, names: tuple[str, ...]) -> list[bytes]:
    """Files of a tarball, in the order asked for."""
    with tarfile.open(path) as archive:
        held = {member.name: content(archive, member) for member in archive if member.name in names}
    missing = [name for name in names if name not in held]
    if missing:
        raise ValueError(f"{path} holds no {missing[0]}; expected {', '.join(names)}")
    return [held[name] for name in names]


def content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, member.name
    return file.read()


def plain(code: str) -> str:
    """Code points in lower case without the variation selector: the sets differ only in that."""
    return "-".join(part for part in code.lower().split("-") if part != SELECTOR)
