"""PDF documents written on the spot: their pages as pictures, bounded, and what is broken told with row and file."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from scops.core.layout import Pixels
from scops.data import documents
from scops.data.documents import Page, is_document, pages
from scops.data.errors import MediaError
from scops.data.image import decode, digest, measure

COLOURS = ["red", "lime", "blue"]
PIXELS = Pixels(20, 28, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def pdf(path: Path, colours: list[str] = COLOURS, size: tuple[int, int] = (60, 80)) -> bytes:
    """A page of 60 x 80 points for each colour."""
    first, *rest = [Image.new("RGB", size, colour) for colour in colours]
    first.save(path, "PDF", save_all=True, append_images=rest, resolution=72)
    return path.read_bytes()


def colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(round(level / 255) for level in image.getpixel((image.width // 2, image.height // 2)))


def test_pages_stand_in_order_and_one_can_be_named(tmp_path: Path) -> None:
    content = pdf(tmp_path / "a.pdf")
    url = "data:application/pdf;base64," + base64.b64encode(content).decode()
    for source in (tmp_path / "a.pdf", str(tmp_path / "a.pdf"), content, url):
        assert is_document(source)
        found = pages(source)
        assert [page.number for page in found] == [1, 2, 3]
        assert [colour(decode(page)) for page in found] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert [page.number for page in pages(tmp_path / "a.pdf#page=2")] == [2]
    assert colour(decode(pages(f"{tmp_path}/a.pdf#page=3")[0])) == (0, 0, 1)


def test_what_is_no_document_is_not_taken_for_one(tmp_path: Path) -> None:
    for source in ("a.png", Path("pdf"), b"\x89PNG", "data:image/png;base64,", "https://a.org/b.pdf", 7, "#page=2"):
        assert not is_document(source)
    named = tmp_path / "a.pdf#page=2"
    pdf(tmp_path / "b.pdf", COLOURS[:1])
    (tmp_path / "b.pdf").rename(named)  # a file that is called so is that file
    assert [page.number for page in pages(named)] == [1]


@pytest.mark.parametrize("size", [(60, 80), (61, 33), (1, 1), (3, 2000)])
@pytest.mark.parametrize("dpi", [36, 72, 100, 144])
def test_a_page_measures_what_is_drawn(size: tuple[int, int], dpi: int, tmp_path: Path) -> None:
    pdf(tmp_path / "a.pdf", size=size)
    page = Page(tmp_path / "a.pdf", 2, dpi)
    drawn = decode(page)
    assert drawn.mode == "RGB"
    assert measure(page) == (drawn.height, drawn.width)
    assert abs(drawn.width - size[0] * dpi / 72) <= 1


def huge(points: float) -> bytes:
    document, held = pypdfium2.PdfDocument.new(), io.BytesIO()
    document.new_page(points, points * 2)
    document.save(held)
    return held.getvalue()


@pytest.mark.parametrize("points", [5000, 20_000, 200_000])
def test_a_huge_page_is_drawn_within_the_limit(points: float) -> None:
    (page,) = pages(huge(points))
    high, wide = measure(page)
    assert high * wide <= documents.PIXEL_LIMIT * 1.01
    assert high == pytest.approx(2 * wide, rel=0.01)
    if points == 20_000:
        assert decode(page).size == (wide, high)


def test_digests_tell_pages_and_documents_apart(tmp_path: Path) -> None:
    content = pdf(tmp_path / "a.pdf")
    pdf(tmp_path / "b.pdf", COLOURS[:2])
    found = [*pages(tmp_path / "a.pdf"), *pages(tmp_path / "b.pdf"), Page(tmp_path / "a.pdf", 1, 72)]
    assert len({digest(page, PIXELS) for page in found}) == 6
    assert digest(found[0], PIXELS) == digest(pages(content)[0], PIXELS)


def encrypted() -> bytes:
    """Standard security handler, whose user password is not the empty one."""
    word = "(" + "x" * 32 + ")"
    head = b"%PDF-1.4\n"
    bodies = [
        b"1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n",
        b"2 0 obj\n<</Type/Pages/Kids[3 0 R]/Count 1>>\nendobj\n",
        b"3 0 obj\n<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>\nendobj\n",
        f"4 0 obj\n<</Filter/Standard/V 1/R 2/P -4/O{word}/U{word}>>\nendobj\n".encode(),
    ]
    made, places = head, []
    for body in bodies:
        places.append(len(made))
        made += body
    rows = "".join(f"{place:010} 00000 n \n" for place in places)
    return (
        made
        + (
            f"xref\n0 5\n0000000000 65535 f \n{rows}trailer\n<</Size 5/Root 1 0 R/Encrypt 4 0 R/ID[(a)(a)]>>\n"
            f"startxref\n{len(made)}\n%%EOF\n"
        ).encode()
    )


def no_pages() -> bytes:
    held = io.BytesIO()
    pypdfium2.PdfDocument.new().save(held)
    return held.getvalue()


def test_broken_documents_are_told_with_row_and_file(tmp_path: Path) -> None:
    whole = pdf(tmp_path / "whole.pdf")
    cases = {
        "empty": (b"", "no PDF document but an empty file"),
        "words": (b"hello", "no PDF document but text that begins 'hello'"),
        "cut": (whole[:300], "this is cut off, damaged or without pages"),
        "locked": (encrypted(), "the document is encrypted, and there is no password"),
        "bare": (no_pages(), "this is cut off, damaged or without pages"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / f"{name}.pdf").write_bytes(content)
        with pytest.raises(MediaError, match=words) as caught:
            pages(tmp_path / f"{name}.pdf", "t.jsonl row 4")
        assert f"t.jsonl row 4 ({tmp_path / name}.pdf): " in str(caught.value)
        with pytest.raises(MediaError, match=words):
            pages(content)


def test_missing_documents_and_pages_are_told(tmp_path: Path) -> None:
    pdf(tmp_path / "a.pdf")
    for number in (0, 4, 10**9):
        with pytest.raises(MediaError, match=f"there is no page {number}, the document has 3"):
            pages(tmp_path / f"a.pdf#page={number}", "row 1")
    with pytest.raises(MediaError, match=r"row 1 \(.*none.pdf\): the document's file is missing"):
        pages(tmp_path / "none.pdf#page=2", "row 1")
    with pytest.raises(MediaError, match="the document's file is a folder"):
        pages(tmp_path, "row 1")


def test_threads_may_draw_at_once(tmp_path: Path) -> None:
    pdf(tmp_path / "a.pdf")
    wanted = [decode(page).tobytes() for page in pages(tmp_path / "a.pdf")]
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda number: decode(Page(tmp_path / "a.pdf", number % 3 + 1)).tobytes(), range(60)))
    assert made == [wanted[number % 3] for number in range(60)]
    assert np.frombuffer(wanted[0], np.uint8).size
