"""Where a medium's bytes come from: a file, bytes, or a base64 data URL. Nothing is fetched from the network."""

import base64
import binascii
import hashlib
from pathlib import Path

from scops.data.errors import MediaError

Stored = Path | str | bytes
"""A file, a base64 data URL or a file's name, or the content itself."""


def content(source: Stored, name: str, what: str = "picture") -> bytes:
    """All of it.

    Args:
        name: the row, for the error; what: is looked for, likewise.
    Raises:
        MediaError: naming row and file.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, str) and is_url(source):
        return unpack_url(source, name)
    return existing(source, name, what).read_bytes()


def content_hash(source: Stored, name: str, what: str = "picture") -> str:
    """sha256 of the content; a file is read in pieces."""
    if isinstance(source, bytes) or (isinstance(source, str) and is_url(source)):
        return hashlib.sha256(content(source, name, what)).hexdigest()
    with existing(source, name, what).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing(source: Path | str, name: str, what: str = "picture") -> Path:
    """The file, if it is one."""
    if not isinstance(source, Path | str):
        raise MediaError(f"{where(source, name)}: a {what} is a path, bytes or a data URL")
    path = Path(source)
    if path.is_file():
        return path
    found = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "missing"
    raise MediaError(f"{where(path, name)}: the {what}'s file is {found}")


def where(source: object, name: str) -> str:
    """Row and file, for errors."""
    words = (
        str(source) if isinstance(source, Path | str) else f"{len(source)} bytes" if isinstance(source, bytes) else ""
    )
    words = words if len(words) <= 200 else words[:60] + "..."
    words = words or type(source).__name__
    return f"{name} ({words})" if name and name != words else words


def looks(start: bytes) -> str:
    """What a file seems to be by its beginning, for errors."""
    if not start:
        return "an empty file"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.isascii():
        return f"text that begins {start[:24].decode()!r}"
    return f"data that begins {start[:8].hex(' ')}"


def is_url(text: str) -> bool:
    return text.startswith("data:") or "://" in text


def unpack_url(url: str, name: str = "") -> bytes:
    """The bytes in a base64 data URL; other addresses are refused, since nothing is fetched."""
    head, comma, body = url.partition(",")
    if not head.startswith("data:"):
        raise MediaError(f"{where(url, name)}: addresses are not fetched; give a file, bytes or a data URL")
    if not comma or not head.endswith(";base64"):
        raise MediaError(
            f"{where(url, name)}: a data URL is 'data:image/png;base64,...', this one begins {head[:40]!r}"
        )
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise MediaError(f"{where(url, name)}: the data URL is not base64: {error}") from error
