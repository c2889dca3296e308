"""A conversation of several turns."""

import torch

from scops.cli.chat import Talk
from scops.core.sample import Media, Text
from scops.generate.desk import PAGE
from scops.generate.sampler import Sampling
from tests import tiny


def test_a_later_turn_reads_only_what_is_new() -> None:
    model = tiny.owl()
    talk = Talk(model, None, Sampling(), 6, ())
    seen: list[int] = []
    model.module.image.encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    read: list[int] = []
    model.module.language.embed.register_forward_hook(lambda module, inputs, output: read.append(output.shape[1]))
    first = "".join(piece.text for piece in talk.say((Media("image", tiny.picture()), Text("what is this? " * 3))))
    assert seen == [1]
    asked = talk.asked
    read.clear()
    second = "".join(piece.text for piece in talk.say((Text("and now?"),)))
    assert seen == [1], "the picture was encoded again"
    assert max(read) < talk.asked - asked + PAGE, "the whole conversation was read again"
    turns = [("user", [tiny.picture(), "what is this? " * 3]), ("assistant", [first]), ("user", ["and now?"])]
    messages = [{"role": role, "content": [_part(one) for one in parts]} for role, parts in turns]
    assert second == model.chat(messages, max_tokens=6)


def _part(one: object) -> dict:
    return {"type": "text", "text": one} if isinstance(one, str) else {"type": "image", "image": one}


def test_an_answer_that_is_left_is_not_kept() -> None:
    talk = Talk(tiny.owl(), None, Sampling(), 6, ())
    answer = talk.say((Text("what is this?"),))
    next(answer)
    answer.close()
    assert talk.turns == ()
    with torch.no_grad():
        assert "".join(piece.text for piece in talk.say((Text("what?"),))) == talk.model.chat("what?", max_tokens=6)
