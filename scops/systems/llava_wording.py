"""How the LLaVA models are talked to (haotian-liu/LLaVA, llava/conversation.py).

A picture has a line of its own; a reply begins with a blank, which SentencePiece puts there by itself.
"""

from scops.core.template import Role, Special, Template, Written

ASSISTANT = "artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the"
HUMAN = f"A chat between a curious human and an {ASSISTANT} human's questions."
HELPFUL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
LINE = (Written("\n"),)
BOS, EOS = (Special("<s>"),), Special("</s>")
INSTRUCTED = Role(after=(Written(" "), EOS), lead=" ")


def asking(before: tuple, rest: tuple) -> Role:
    """Pictures first, each on its line, as the authors' training data and all demos have them."""
    return Role(before, LINE, rest=rest, media_first=True)


def headed(before: tuple, after: tuple) -> dict[str, Role]:
    """Roles that all look alike.

    Args:
        before: with {} where the role's name stands.
    """

    def role(name: str) -> Role:
        opening = tuple(Written(p.text.format(name)) if isinstance(p, Written) else p for p in before)
        return Role(opening, LINE, after, media_first=True)

    return {name: role(name) for name in ("system", "user", "assistant")}


def chatml(system: str) -> Template:
    """No line break behind a turn (conv_chatml_direct, conv_mpt)."""
    roles = headed((Special("<|im_start|>"), Written("{}\n")), (Special("<|im_end|>"),))
    return Template(roles, system=system, stops=("<|im_end|>",))


TEMPLATES = {
    "v1": Template(
        {
            "system": Role(rest=(Written(" "),)),
            "user": asking((Written("USER: "),), (Written(" "),)),
            "assistant": Role((Written("ASSISTANT:"),), after=(EOS,), lead=" "),
        },
        start=BOS, system=HUMAN, stops=("</s>",),
    ),
    "v0": Template(
        {
            "system": Role(rest=(Written("###"),)),
            "user": asking((Written("Human: "),), (Written("###"),)),
            "assistant": Role((Written("Assistant:"),), after=(Written("###"),), lead=" "),
        },
        start=BOS, system=HUMAN, stops=("</s>",), ends=("###",),
    ),
    "llava_llama_2": Template(
        {
            "system": Role((Written("[INST] <<SYS>>\n"),), rest=(Written("\n<</SYS>>\n\n"),)),
            "user": asking((), (Written(" [/INST]"),)),
            "assistant": Role(after=INSTRUCTED.after, lead=" ", then=(*BOS, Written("[INST] "))),
        },
        start=BOS, system=HELPFUL, stops=("</s>",),
    ),
    "mistral_instruct": Template(
        {
            "system": Role(rest=(Written("\n"),)),
            "user": asking((Written("[INST] "),), (Written(" [/INST]"),)),
            "assistant": INSTRUCTED,
        },
        start=BOS, stops=("</s>",),
    ),
    "chatml_direct": chatml("Answer the questions."),
    "mpt": chatml(
        "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
    ),
    "llava_llama_3": Template(
        headed((Special("<|start_header_id|>"), Written("{}"), Special("<|end_header_id|>"), *LINE, *LINE), (Special("<|eot_id|>"),)),
        start=(Special("<|begin_of_text|>"),), system=HELPFUL, stops=("<|eot_id|>",),
    ),
}  # fmt: skip
PLAIN = Template(
    {"system": Role(), "user": Role(wordless=True), "assistant": Role(after=LINE)}, start=BOS, stops=("</s>",)
)
"""Of the first stage: a picture and its caption, whatever was asked."""
