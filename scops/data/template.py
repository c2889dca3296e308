"""Turns -> segments, by a system's template; and the same template as Jinja, for other programs."""

import json
from collections.abc import Iterator, Sequence

from scops.core.sample import Media, Text, Turn
from scops.core.template import Piece, Role, Segment, Special, Template, Written
from scops.data.errors import RowError

MEDIA_FIRST = (
    "{0} | rejectattr('type', 'equalto', 'text') | list + {0} | selectattr('type', 'equalto', 'text') | list".format(
        "message.content"
    )
)


def segments(template: Template, turns: Sequence[Turn], *, reply: bool) -> tuple[Segment, ...]:
    """The conversation as the system writes it.

    Of a learnt turn the words and what closes it are learnt; nothing else is.

    Args:
        reply: end where the assistant begins to answer.
    """
    if not turns:
        raise ValueError("a conversation needs at least one turn")
    if reply and turns[-1].role == "assistant":
        raise ValueError("the last turn is the assistant's already, so there is nothing to reply to")
    if template.system is not None and turns[0].role != "system":
        turns = (Turn("system", (Text(template.system),)), *turns)
    written = [*_media(turns)] if template.media_first else []
    written += _plain(template.start)
    for number, turn in enumerate(turns):
        role = template.roles[turn.role]
        written += _turn(role, turn, media=not template.media_first)
        written += _plain(role.then if reply or number + 1 < len(turns) else ())
    if reply:
        written += _opened(template.roles["assistant"].before)
    return tuple(written)


def jinja(template: Template) -> str:
    """A chat_template.jinja that renders what `segments` writes, media as <image>.

    Content is a string or typed parts ({"type": "text", "text": ...}, {"type": "image"}).
    """
    lines = [
        "{%- macro show(part) -%}",
        "{%- if part.type == 'text' -%}{{- part.text -}}",
        "{%- else -%}{{- '<' ~ part.type | replace('_url', '') ~ '>' -}}{%- endif -%}",
        "{%- endmacro -%}",
    ]
    if template.media_first:
        lines += [
            "{%- for message in messages -%}{%- if message.content is not string -%}",
            "{%- for part in message.content -%}{%- if part.type != 'text' -%}{{- show(part) -}}{%- endif -%}{%- endfor -%}",
            "{%- endif -%}{%- endfor -%}",
        ]
    lines.append(_quoted(template.start))
    if template.system is not None:
        system = template.roles["system"]
        lines += [
            "{%- if messages[0].role != 'system' -%}",
            _quoted((*system.before, template.system, *system.after, *system.rest, *system.then)),
            "{%- endif -%}",
        ]
    lines.append("{%- for message in messages -%}")
    for number, (name, role) in enumerate(template.roles.items()):
        opening = f"{{%- {'elif' if number else 'if'} message.role == '{name}' -%}}"
        lines += [opening, *_jinja_role(role, media=not template.media_first)]
    lines += [
        "{%- else -%}{{- raise_exception('no such role: ' ~ message.role) -}}{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}",
        _quoted(template.roles["assistant"].before),
        "{%- endif -%}",
    ]
    return "\n".join(line for line in lines if line)


def _media(turns: Sequence[Turn]) -> Iterator[Segment]:
    """All of them, before everything else."""
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, Media):
                _check_learnt(turn)
                yield Segment(part, said=_said(turn))


def _turn(role: Role, turn: Turn, *, media: bool) -> Iterator[Segment]:
    """Args:
    media: whether they stand where they are given; else elsewhere.
    """
    _check_learnt(turn)
    yield from _opened(role.before) if turn.role == "assistant" else _plain(role.before)
    first = turn.parts[0] if turn.parts else None
    if role.lead and isinstance(first, Text) and not first.text.startswith(role.lead):
        yield Segment(Written(role.lead), turn.learn)
    if role.wordless and not any(isinstance(part, Media) for part in turn.parts):
        raise RowError(f"of a {turn.role}'s turn only media are written here, but this one has none: {_said(turn)!r}")
    parts = sorted(turn.parts, key=lambda part: isinstance(part, Text)) if role.media_first else turn.parts
    numbers = [n for n, part in enumerate(parts) if (not role.wordless if isinstance(part, Text) else media)]
    for before, number in zip([None, *numbers], numbers, strict=False):
        part = parts[number]
        shown, behind = isinstance(part, Media), before is not None and isinstance(parts[before], Media)
        if behind and not shown:
            yield from _plain(role.around)
        if before is not None and any(isinstance(one, Media) for one in parts[before : number + 1]):
            yield from _plain(role.between)
        if shown:
            yield from _plain(role.around)
        yield Segment(part, turn.learn, said="" if isinstance(part, Text) else _said(turn))
    if numbers and isinstance(parts[numbers[-1]], Media):
        yield from _plain(role.around)
    yield from (Segment(piece, turn.learn) for piece in role.after)
    yield from _plain(role.rest)


def _check_learnt(turn: Turn) -> None:
    for number, part in enumerate(turn.parts):
        if turn.learn and not isinstance(part, Text):
            raise ValueError(f"a learnt turn is text only, but part {number} is {part.kind} {part.name!r}")


def _said(turn: Turn) -> str:
    return "\n".join(part.text for part in turn.parts if isinstance(part, Text))


def _plain(pieces: Sequence[Piece]) -> Iterator[Segment]:
    return (Segment(piece) for piece in pieces)


def _opened(pieces: Sequence[Piece]) -> Iterator[Segment]:
    return (Segment(piece, opens=number == 0) for number, piece in enumerate(pieces))


def _jinja_role(role: Role, *, media: bool) -> list[str]:
    between = _quoted(role.between)
    parted = "{%- if not loop.first and (part.type != 'text' or loop.previtem.type != 'text') -%}"
    parts = [
        *_where("part.type == 'text' and not loop.first and loop.previtem.type != 'text'", role.around),
        parted,
        between,
        "{%- endif -%}",
        *_where("part.type != 'text'", role.around),
        "{{- show(part) -}}",
        *_where("part.type != 'text' and loop.last", role.around),
    ]
    if not media:  # between two texts that media part
        met = "{%- if part.type != 'text' -%}{%- set at.apart = at.text -%}{%- else -%}{%- if at.apart -%}"
        parts = [
            met,
            between,
            "{%- endif -%}{%- set at.text = true -%}{%- set at.apart = false -%}{{- part.text -}}{%- endif -%}",
        ]
    if role.wordless:
        parts = ["{%- if part.type != 'text' -%}", *parts, "{%- endif -%}"]
    lead = ["{%- set words = message.content if message.content is string else message.content[0].text | default(none) -%}"
            "{%- if words is not none and not words.startswith(" + json.dumps(role.lead) + ") -%}",
            "{{- " + json.dumps(role.lead) + " -}}", "{%- endif -%}"] if role.lead else []  # fmt: skip
    return [
        _quoted(role.before),
        *lead,
        "{%- if message.content is string -%}",
        "" if role.wordless else "{{- message.content -}}",
        "{%- else -%}",
        "" if media else "{%- set at = namespace(text=false, apart=false) -%}",
        f"{{%- for part in {MEDIA_FIRST if role.media_first else 'message.content'} -%}}",
        *parts,
        "{%- endfor -%}{%- endif -%}",
        _quoted((*role.after, *role.rest)),
        *(
            ["{%- if add_generation_prompt or not loop.last -%}", _quoted(role.then), "{%- endif -%}"]
            if role.then
            else []
        ),
    ]


def _where(condition: str, pieces: Sequence[Piece]) -> tuple[str, ...]:
    words = _quoted(pieces)
    return (f"{{%- if {condition} -%}}{words}{{%- endif -%}}",) if words else ()


def _quoted(pieces: Sequence[Piece | str]) -> str:
    text = "".join(
        piece if isinstance(piece, str) else piece.token if isinstance(piece, Special) else piece.text
        for piece in pieces
    )
    return "{{- " + json.dumps(text, ensure_ascii=False) + " -}}" if text else ""
