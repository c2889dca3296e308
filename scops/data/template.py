"""Turns -> segments, by a system's template; and the same template as Jinja, for other programs."""

import json
from collections.abc import Iterator, Sequence

from scops.core.layout import Piece, Role, Segment, Special, Template
from scops.core.sample import Media, Text, Turn


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
    written = [*_plain(template.start)]
    for turn in turns:
        written += _turn(template.roles[turn.role], turn)
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
        _quoted(template.start),
    ]
    if template.system is not None:
        system = template.roles["system"]
        lines += [
            "{%- if messages[0].role != 'system' -%}",
            _quoted((*system.before, template.system, *system.after, *system.rest)),
            "{%- endif -%}",
        ]
    lines.append("{%- for message in messages -%}")
    for number, (name, role) in enumerate(template.roles.items()):
        lines += [f"{{%- {'elif' if number else 'if'} message.role == '{name}' -%}}", *_jinja_role(role)]
    lines += [
        "{%- else -%}{{- raise_exception('no such role: ' ~ message.role) -}}{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}",
        _quoted(template.roles["assistant"].before),
        "{%- endif -%}",
    ]
    return "\n".join(line for line in lines if line)


def _turn(role: Role, turn: Turn) -> Iterator[Segment]:
    yield from _opened(role.before) if turn.role == "assistant" else _plain(role.before)
    for number, part in enumerate(turn.parts):
        if turn.learn and not isinstance(part, Text):
            raise ValueError(f"a learnt turn is text only, but part {number} is {part.kind} {part.name!r}")
        if number and (isinstance(part, Media) or isinstance(turn.parts[number - 1], Media)):
            yield from _plain(role.between)
        yield Segment(part, turn.learn, said="" if isinstance(part, Text) else _said(turn))
    yield from (Segment(piece, turn.learn) for piece in role.after)
    yield from _plain(role.rest)


def _said(turn: Turn) -> str:
    return "\n".join(part.text for part in turn.parts if isinstance(part, Text))


def _plain(pieces: Sequence[Piece]) -> Iterator[Segment]:
    return (Segment(piece) for piece in pieces)


def _opened(pieces: Sequence[Piece]) -> Iterator[Segment]:
    return (Segment(piece, opens=number == 0) for number, piece in enumerate(pieces))


def _jinja_role(role: Role) -> list[str]:
    return [
        _quoted(role.before),
        "{%- if message.content is string -%}{{- message.content -}}{%- else -%}",
        "{%- for part in message.content -%}",
        "{%- if not loop.first and (part.type != 'text' or loop.previtem.type != 'text') -%}",
        _quoted(role.between),
        "{%- endif -%}{{- show(part) -}}",
        "{%- endfor -%}{%- endif -%}",
        _quoted((*role.after, *role.rest)),
    ]


def _quoted(pieces: Sequence[Piece | str]) -> str:
    text = "".join(
        piece if isinstance(piece, str) else piece.token if isinstance(piece, Special) else piece.text
        for piece in pieces
    )
    return "{{- " + json.dumps(text, ensure_ascii=False) + " -}}" if text else ""
