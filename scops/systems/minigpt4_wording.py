"""How MiniGPT-4 and MiniGPT-v2 write a conversation (Vision-CAIR/MiniGPT-4, minigpt4/conversation/conversation.py).

As the released code asks: where it writes a beginning-of-sequence token twice, so do we.
"""

from scops.core.template import Role, Special, Template, Written

SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. "
    "You will be able to see the image once I provide it to you. Please answer my questions."
)
BETWEEN = (Written(" "),)
ASKED = Role(before=(Special("<s>"), Written("[INST] ")), between=BETWEEN)
START = (Special("<s>"),)
TEMPLATES = {
    "vicuna0": Template(
        {
            "system": Role(after=(Written("###"),)),
            "user": Role(before=(Written("Human: "),), between=BETWEEN, after=(Written("###"),)),
            "assistant": Role(before=(Written("Assistant: "),), after=(Written("###"),)),
        },
        start=START, system=SYSTEM, stops=("</s>",), ends=("###",),
    ),
    "llama2": Template(
        {
            "system": Role(), "user": ASKED,
            "assistant": Role(before=(Written(" [/INST] "),), after=(Special("</s>"),)),
        },
        start=START, system=SYSTEM, stops=("</s>",),
    ),
    "v2": Template(
        {"system": Role(), "user": ASKED, "assistant": Role(before=(Written(" [/INST]"),), after=(Special("</s>"),))},
        start=START, stops=("</s>",),
    ),
}  # fmt: skip
