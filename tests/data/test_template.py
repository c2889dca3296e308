"""Turns become the segments that published prompts have, and the Jinja form writes the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scops.core.sample import Media, Text, Turn
from scops.core.template import Piece, Role, Special, Template, Written
from scops.data.errors import RowError
from scops.data.template import jinja, segments

OWL = Template(
    {
        "system": Role(),
        "user": Role(before=(Written("\nHuman: "),), between=(Written("\nHuman: "),)),
        "assistant": Role(before=(Written("\nAI: "),), after=(Special("</s>"),)),
    },
    start=(Special("<s>"),),
    system="The following is a \"conversation\".\\n {% if %} {{ x }} 'é' 🦉\t",
)
CHATML = Template(
    {
        role: Role((Special("<|im_start|>"), Written(f"{role}\n")), (), (Special("<|im_end|>"),), (Written("\n"),))
        for role in ("system", "user", "assistant")
    }
)
IMAGE = Media("image", b"")


def shown(template: Template, turns: tuple[Turn, ...], reply: bool) -> str:
    def text(piece: Piece | Text | Media) -> str:
        return (
            piece.token if isinstance(piece, Special) else f"<{piece.kind}>" if isinstance(piece, Media) else piece.text
        )

    return "".join(text(segment.piece) for segment in segments(template, turns, reply=reply))


def environment() -> ImmutableSandboxedEnvironment:
    def stop(message: str) -> None:
        raise ValueError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    made.globals["raise_exception"] = stop
    return made


def rendered(template: Template, turns: tuple[Turn, ...], reply: bool, plain: bool = False) -> str:
    def content(turn: Turn) -> str | list[dict[str, str]]:
        if plain and len(turn.parts) == 1 and isinstance(turn.parts[0], Text):
            return turn.parts[0].text
        return [{"type": "text", "text": p.text} if isinstance(p, Text) else {"type": p.kind} for p in turn.parts]

    messages = [{"role": turn.role, "content": content(turn)} for turn in turns]
    return environment().from_string(jinja(template)).render(messages=messages, add_generation_prompt=reply)


def test_owl_prompt_is_the_published_one() -> None:
    turns = (Turn("user", (IMAGE, IMAGE, Text("What is it?"))),)
    prompt = shown(OWL, turns, reply=True)
    assert prompt == f"<s>{OWL.system}\nHuman: <image>\nHuman: <image>\nHuman: What is it?\nAI: "


def test_only_words_and_closing_of_a_learnt_turn_are_learnt() -> None:
    turns = (
        Turn("user", (Text("a"),)),
        Turn("assistant", (Text("b"), Text("c")), learn=True),
        Turn("user", (Text("d"),)),
    )
    learnt = [segment.piece for segment in segments(CHATML, turns, reply=True) if segment.learn]
    assert learnt == [Text("b"), Text("c"), Special("<|im_end|>")]
    unlearnt = (Turn("user", (Text("a"),)), Turn("assistant", (Text("b"),)))
    assert not any(segment.learn for segment in segments(CHATML, unlearnt, reply=False))


def test_own_system_turn_replaces_the_templates() -> None:
    turns = (Turn("system", (Text("Be brief."),)), Turn("user", (Text("Hi"),)))
    assert shown(OWL, turns, reply=False) == "<s>Be brief.\nHuman: Hi"
    assert shown(OWL, turns[1:], reply=False) == f"<s>{OWL.system}\nHuman: Hi"
    assert shown(CHATML, turns[1:], reply=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_between_stands_only_beside_media() -> None:
    role = Role(between=(Written("|"),))
    template = Template({"system": role, "user": role, "assistant": role})
    turns = (Turn("user", (Text("a"), Text("b"), IMAGE, IMAGE, Text("c"))),)
    assert shown(template, turns, reply=False) == "ab|<image>|<image>|c"


def test_media_may_stand_before_everything_and_part_texts_where_they_were() -> None:
    role = Role(before=(Written("Q: "),), between=(Written("|"),))
    template = Template({"system": role, "user": role, "assistant": role}, start=(Special("<s>"),), media_first=True)
    turns = (
        Turn("user", (IMAGE, Text("a"), Text("b"), IMAGE, IMAGE, Text("c"), IMAGE)),
        Turn("user", (IMAGE, Text("d"))),
    )
    assert shown(template, turns, reply=False) == "<image>" * 5 + "<s>Q: ab|cQ: d"
    said = [segment.said for segment in segments(template, turns, reply=False) if isinstance(segment.piece, Media)]
    assert said == ["a\nb\nc"] * 4 + ["d"]


def test_a_reply_begins_with_its_lead_once_and_a_prompt_ends_before_it() -> None:
    answer = Role(before=(Written(" Answer:"),), after=(Written("\n"),), lead=" ")
    template = Template({"system": Role(), "user": Role(), "assistant": answer})
    asked = (Turn("user", (Text("What?"),)),)
    for reply in ("an owl", " an owl"):
        turns = (*asked, Turn("assistant", (Text(reply),), learn=True))
        assert shown(template, turns, reply=False) == "What? Answer: an owl\n"
        learnt = [s.piece.text for s in segments(template, turns, reply=False) if s.learn]
        assert "".join(learnt) == " an owl\n"
    assert shown(template, asked, reply=True) == "What? Answer:"


def test_media_stand_in_one_fence_and_words_after_a_gap() -> None:
    role = Role(before=(Written("User:"),), around=(Special("#"),), lead=" ")
    template = Template({"system": role, "user": role, "assistant": role})
    for parts, expected in (
        ((IMAGE, IMAGE, Text("a"), IMAGE), "User:#<image>#<image>#a#<image>#"),
        ((Text("a"), IMAGE, Text("b"), Text("c")), "User: a#<image>#bc"),
    ):
        assert shown(template, (Turn("user", parts),), reply=False) == expected


def test_what_stands_between_turns_is_not_written_behind_the_last() -> None:
    template = Template(
        {"system": Role(), "user": Role(rest=(Written("!"),)), "assistant": Role(then=(Written(" | "),))}
    )
    turns = (Turn("user", (Text("a"),)), Turn("assistant", (Text("b"),)), Turn("user", (Text("c"),)))
    assert shown(template, turns, reply=True) == "a!b | c!"
    assert shown(template, (*turns, Turn("assistant", (Text("d"),))), reply=False) == "a!b | c!d"


def test_a_role_without_words_writes_its_media_alone() -> None:
    template = Template({"system": Role(), "user": Role(wordless=True), "assistant": Role()})
    turns = (Turn("user", (Text("what?"), IMAGE)), Turn("assistant", (Text("an owl"),)))
    assert shown(template, turns, reply=False) == rendered(template, turns, False) == "<image>an owl"
    with pytest.raises(RowError, match="has none: 'what'"):
        segments(template, (Turn("user", (Text("what"),)),), reply=True)


def test_wrong_conversations_are_refused() -> None:
    with pytest.raises(ValueError, match="assistant's already"):
        segments(CHATML, (Turn("assistant", (Text("a"),)),), reply=True)
    with pytest.raises(ValueError, match="at least one turn"):
        segments(CHATML, (), reply=True)
    with pytest.raises(ValueError, match=r"text only, but part 1 is image 'a.png'"):
        segments(CHATML, (Turn("assistant", (Text("a"), Media("image", b"", "a.png")), learn=True),), reply=False)


def test_jinja_refuses_unknown_roles() -> None:
    with pytest.raises(ValueError, match="no such role: tool"):
        environment().from_string(jinja(CHATML)).render(messages=[{"role": "tool", "content": ""}])


words = st.one_of(
    st.text(max_size=8), st.sampled_from(["<image>", " \n", "{{ x }}", "{% endfor %}", "<s>", '"\\n'])
).map(Text)
turn = st.one_of(
    st.builds(lambda part: Turn("system", (part,)), words),
    st.builds(lambda parts: Turn("user", tuple(parts)), st.lists(st.one_of(words, st.just(IMAGE)), max_size=4)),
    st.builds(lambda part, learn: Turn("assistant", (part,), learn), words, st.booleans()),
)
piece = st.one_of(st.text(max_size=5).map(Written), st.sampled_from(["<s>", "}}", "'"]).map(Special))
pieces = st.lists(piece, max_size=2).map(tuple)
role = st.builds(Role, pieces, pieces, pieces, pieces, around=pieces, media_first=st.booleans())
answer = st.builds(Role, pieces, pieces, pieces, pieces, st.sampled_from(["", " ", "a'\n"]), pieces)
roles = st.fixed_dictionaries({"system": role, "user": role, "assistant": answer})
said = st.one_of(st.none(), st.text(max_size=5))
template = st.builds(Template, roles, pieces, said, media_first=st.booleans())


@given(template, st.lists(turn, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_jinja_writes_what_segments_write(template: Template, turns: list[Turn], reply: bool, plain: bool) -> None:
    reply = reply and turns[-1].role != "assistant"
    assert rendered(template, tuple(turns), reply, plain) == shown(template, tuple(turns), reply)
