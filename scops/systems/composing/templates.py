"""How turns are written, by what special tokens the language model's tokenizer has."""

from dataclasses import replace

from scops.core.template import Role, Special, Template, Written
from scops.systems import llama

NEXT = (Written("\n"),)


def _apart(template: Template) -> Template:
    """A new line between the parts of a user's turn, so that neighbouring pictures stay apart."""
    return replace(template, roles={**template.roles, "user": replace(template.roles["user"], between=NEXT)})


def _lines(start: str, end: str) -> Template:
    """Turns on lines of their own, and only replies are ended by a token."""
    roles = {"system": Role(rest=NEXT), "user": Role(rest=NEXT), "assistant": Role(after=(Special(end),))}
    return _apart(Template(roles, start=(Special(start),) if start else (), stops=(end,)))


TEMPLATES = {
    "chatml": _apart(llama.TEMPLATES["chatml"]),
    "vicuna": _apart(llama.TEMPLATES["vicuna"]),
    "plain": _lines("<s>", "</s>"),
    "opt": _lines("</s>", "</s>"),
    "endoftext": _lines("", "<|endoftext|>"),
}
