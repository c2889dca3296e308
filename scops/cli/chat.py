"""`scops chat MODEL [FILES and TEXT]`: one answer, streamed; or a conversation when nothing is asked."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scops.cli.show import as_json
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.documents import SUFFIX as DOCUMENT
from scops.data.documents import file_of
from scops.data.image import SUFFIXES as PICTURES
from scops.data.messages import media
from scops.data.video import SUFFIXES as VIDEOS
from scops.generate.sampler import Sampling
from scops.generate.text import Piece

FILES = {"picture": PICTURES, "document": {DOCUMENT}, "video": set(VIDEOS)}
HELP = (
    "/image PATH shows a picture, a document or a video with your next words, /video PATH a video whatever its name, "
    "/reset begins anew, /quit ends"
)
SHOWS = {"/image": "", "/video": "video"}


def chat(
    name: str,
    arguments: Sequence[str],
    *,
    system: str | None,
    sampling: Sampling,
    limit: int,
    stop: Sequence[str],
    dtype: str,
    device: str,
    quantise: str | None,
    json: bool,
) -> None:
    parts = parts_of(arguments)  # a wrong path is told before anything is loaded
    if parts and not any(isinstance(part, Text) for part in parts):
        raise ValueError(
            f'{len(parts)} pictures or videos and no words; ask something: scops chat {name} picture.png "What is this?"'
        )
    from scops.model.opening import load

    talk = Talk(load(name, dtype=dtype, device=device, quantise=quantise), system, sampling, limit, stop)
    if parts:
        _once(talk, parts, json=json)
    elif json:
        raise ValueError("--json answers one question; give words, and pictures if any, after the model")
    else:
        _loop(talk)


def parts_of(arguments: Sequence[str]) -> tuple[Text | Media, ...]:
    """Existing files are pictures, documents or videos by their names, all else is words; neighbouring words are one text.

    Raises:
        ValueError: what looks like a file's path is not there, or a document cannot be opened.
    """
    parts: list[Text | Media] = []
    for argument in arguments:
        path = file_of(argument)
        if len(argument) < 4096 and path.is_file():
            parts += media(Path(argument), "chat")
        elif (kind := _looks_like(path)) and " " not in argument.strip():
            raise ValueError(f"{argument} looks like a {kind}, but there is no such file")
        elif parts and isinstance(parts[-1], Text):
            parts[-1] = Text(f"{parts[-1].text} {argument}")
        else:
            parts.append(Text(argument))
    return tuple(parts)


def _looks_like(path: Path) -> str | None:
    return next((kind for kind, suffixes in FILES.items() if path.suffix.lower() in suffixes), None)


class Talk:
    """A conversation so far; what the person said stays even when the answer is cut short.

    It sits at a desk, so that earlier turns and their pictures are not read again.
    """

    def __init__(self, model: Any, system: str | None, sampling: Sampling, limit: int, stop: Sequence[str]) -> None:
        self.model, self.sampling, self.limit, self.stop = model, sampling, limit, stop
        self.desk = model.desk(rows=1)
        self.system = (Turn("system", (Text(system),)),) if system is not None else ()
        self.turns: tuple[Turn, ...] = self.system
        self.asked = 0

    def say(self, parts: tuple[Text | Media, ...]) -> Iterator[Any]:
        """Pieces of the answer; turns are kept when it is complete."""
        turns = (*self.turns, Turn("user", parts))
        sample = Sample(turns, name="chat")
        ticket = self.desk.submit(sample, sampling=self.sampling, limit=self.limit, stops=self.stop)
        self.asked = len(ticket.prompt)
        try:
            yield from ticket.pieces()
        finally:
            ticket.cancel()
        self.turns = (*turns, Turn("assistant", (Text(ticket.answer().text),)))


def _once(talk: Talk, parts: tuple[Text | Media, ...], *, json: bool) -> None:
    started, text, last = time.perf_counter(), "", Piece(0, "")
    for piece in talk.say(parts):
        text, last = text + piece.text, piece
        if not json:
            print(piece.text, end="", flush=True)
    if not json:
        print()
        return
    asked = [{"text": p.text} if isinstance(p, Text) else {p.kind: p.name} for p in parts]
    as_json(
        {
            "model": talk.model.origin,
            "asked": asked,
            "reply": text,
            "ended": last.ended,
            "tokens": {"prompt": talk.asked, "reply": last.tokens},
            "seconds": round(time.perf_counter() - started, 3),
            "sampling": vars(talk.sampling),
        }
    )


def _loop(talk: Talk) -> None:
    print(f"{talk.model.origin}\n{HELP}", file=sys.stderr)
    shown: tuple[Media, ...] = ()
    while (line := _asked()) is not None:
        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            talk.turns, shown = talk.system, ()
        elif command in SHOWS:
            shown += _shown(rest.strip(), SHOWS[command])
        elif command.startswith("/"):
            print(HELP, file=sys.stderr)
        elif line.strip():
            try:
                for piece in talk.say((*shown, Text(line.strip()))):
                    print(piece.text, end="", flush=True)
                print()
                shown = ()
            except KeyboardInterrupt:  # ends this answer, not the conversation
                print("  (stopped; not kept)", file=sys.stderr)
            except ValueError as error:  # a broken picture, a full context
                print(f"error: {error}", file=sys.stderr)
                shown = ()


def _asked() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _shown(path: str, kind: str) -> tuple[Media, ...]:
    if not file_of(path).expanduser().is_file():
        print(f"error: there is no file {path!r}", file=sys.stderr)
        return ()
    try:
        return media(path, "chat", kind)
    except ValueError as error:  # a document that cannot be opened
        print(f"error: {error}", file=sys.stderr)
        return ()
