"""PDF documents: their pages as pictures. A document stands for all its pages in order, `report.pdf#page=3` for one of them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from scops.data.errors import MediaError
from scops.data.source import Stored, content, existing, is_url, looks, where

SUFFIX = ".pdf"
DPI = 144
PIXEL_LIMIT = 16_000_000
"""A page that would have more pixels is drawn smaller."""

_ONE = re.compile(r"(.+)#page=(\d+)", re.DOTALL)
_PDFIUM = Lock()  # the library is not made for several threads


@dataclass(frozen=True)
class Page:
    """One page of a document, counted from 1 as readers do; drawn at so many dots per inch."""

    document: Stored
    number: int
    dpi: int = DPI

    def __str__(self) -> str:
        document = str(self.document) if isinstance(self.document, Path) else "document"
        return f"{document}#page={self.number}"


def is_document(source: object) -> bool:
    """By a file's name, or by how the content begins."""
    if isinstance(source, bytes):
        return source[:1024].lstrip().startswith(b"%PDF-")
    if isinstance(source, str) and is_url(source):
        return source.startswith("data:application/pdf")
    return isinstance(source, Path | str) and _parts(source)[0].suffix.lower() == SUFFIX


def file_of(source: str) -> Path:
    """The file that is meant, without what says which page."""
    return _parts(source)[0]


def pages(document: Stored, name: str = "") -> tuple[Page, ...]:
    """All pages in order, or the one that is named.

    Raises:
        MediaError: naming row and file: missing, broken, encrypted, empty, or without that page.
    """
    number = None
    if isinstance(document, Path) or (isinstance(document, str) and not is_url(document)):
        document, number = _parts(document)
    with _opened(document, name) as opened:
        count = len(opened)
    if number is not None and not 1 <= number <= count:
        raise MediaError(f"{where(document, name)}: there is no page {number}, the document has {count}")
    return tuple(Page(document, one) for one in (range(1, count + 1) if number is None else [number]))


def measured(page: Page, name: str = "") -> tuple[int, int]:
    """(height, width) of what `drawn` would give."""
    with _opened(page.document, name) as opened:
        return _scaled(opened[page.number - 1], page.dpi)[1]


def drawn(page: Page, name: str = "") -> Image.Image:
    """RGB, on white."""
    with _opened(page.document, name) as opened:
        one = opened[page.number - 1]
        scale, _ = _scaled(one, page.dpi)
        return one.render(scale=scale).to_pil().convert("RGB")


def _scaled(page: Any, dpi: int) -> tuple[float, tuple[int, int]]:
    """Pixels per point, 1/72 inch, and the size."""
    wide, high = page.get_size()
    scale = min(dpi / 72, (PIXEL_LIMIT / max(wide * high, 1)) ** 0.5)
    return scale, (max(ceil(high * scale), 1), max(ceil(wide * scale), 1))


def _parts(source: Path | str) -> tuple[Path, int | None]:
    found = _ONE.fullmatch(str(source))
    if found is None or Path(source).exists():
        return Path(source), None
    return Path(found[1]), int(found[2])


@contextmanager
def _opened(document: Stored, name: str) -> Iterator[Any]:
    """The document; whatever goes wrong inside becomes a MediaError."""
    import pypdfium2  # slow to import, and only documents need it

    here, kept = where(document, name), document
    if isinstance(document, bytes) or (isinstance(document, str) and is_url(document)):
        kept = content(document, name, "document")
        start = kept[:64]
    else:
        with existing(document, name, "document").open("rb") as file:
            start = file.read(64)
    with _PDFIUM:
        try:
            opened = pypdfium2.PdfDocument(kept)
        except pypdfium2.PdfiumError as error:
            # PDFium tells of the last document when this one has no pages
            if "password" in str(error).lower() and b"/Encrypt" in content(document, name, "document"):
                raise MediaError(f"{here}: the document is encrypted, and there is no password") from error
            found = "cut off, damaged or without pages" if is_document(start) else f"no PDF document but {looks(start)}"
            raise MediaError(f"{here}: this is {found}") from error
        try:
            yield opened
        except pypdfium2.PdfiumError as error:
            raise MediaError(f"{here}: the page cannot be drawn: {error}") from error
        finally:
            opened.close()
