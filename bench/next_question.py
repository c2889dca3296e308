"""Milliseconds to the first token of the next question about the same picture (576 tokens): against transformers' LLaVA."""

# V vocabulary
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import scops
from bench.decode import SIZE
from bench.llava_peer import EYES, asked, endless, inputs_of, llava, peer_of, picture
from bench.pair import Pair, Settings, Skip, interleave, run, timed
from bench.peers import compare, prompt
from scops.core.batch import Example
from scops.encoders.vit import VitSpec
from scops.generate.desk import Desk
from scops.generate.sampler import Sampling
from scops.model import Model

BEFORE, QUESTION = 24, 32


@dataclass
class Asking:
    """Questions about pictures, none asked twice; both sides get the same ones in the same order.

    Args:
        same: all about one picture, else each about a new one.
    """

    model: Model
    eyes: VitSpec
    same: bool
    seed: int = 0
    made: list[Example] = field(default_factory=list)

    def __getitem__(self, number: int) -> Example:
        while len(self.made) <= number:
            words = prompt(self.model, 2 * (BEFORE + QUESTION) + len(self.made))
            before, after = words[:BEFORE], words[-QUESTION:]
            shown = picture(self.seed if self.same else 1 + len(self.made), self.eyes)
            self.made.append(asked(before, shown, after[::-1] if len(self.made) % 2 else after, self.eyes))
        return self.made[number]


@dataclass
class Side:
    """The next question every time."""

    questions: Asking
    answer: Callable[[Example], int]
    at: int = 0

    def __call__(self) -> int:
        self.at += 1
        return self.answer(self.questions[self.at - 1])


def scores(desk: Desk, example: Example) -> Tensor:
    """(V,) of the next token, through the desk's own session."""
    session = desk.scheduler.session
    row = session.open(example)
    logits_V = None
    while logits_V is None:
        logits_V = session.read(row, desk.scheduler.chunk)
    session.release(row)
    return logits_V


def check(desk: Desk, peer: nn.Module, questions: Asking, dtype: torch.dtype) -> str:
    """Equal scores for a first and for a next question."""
    shares = []
    with torch.no_grad():
        for number in range(2):
            theirs_V = peer(**inputs_of(questions[number], dtype), logits_to_keep=1).logits[0, -1]
            shares.append(compare(scores(desk, questions[number]), theirs_V, f"scores of question {number}"))
    return f"next token's scores differ by {max(shares):.1e} at most"


def measure(settings: Settings) -> Iterator[Pair | Skip]:
    for dtype in (torch.float32, torch.bfloat16):
        model = scops.load(SIZE, dtype=dtype)
        for same in (True, False):
            yield pair(model, EYES, settings, same=same)


@torch.no_grad()
def pair(model: Model, eyes: VitSpec, settings: Settings, *, same: bool) -> Pair:
    system, dtype = llava(model, eyes), model.dtype
    peer, questions = peer_of(system, model, eyes), Asking(model, eyes, same)
    desk = Desk(system, endless(model), tokens=2 * (len(questions[0]) + 16), chunk=2048)
    checked = check(desk, peer, questions, dtype)

    def ours(example: Example) -> int:
        ticket = desk.enter(example, Sampling(), limit=1)
        return ticket.answer().tokens

    def theirs(example: Example) -> int:
        return int(peer(**inputs_of(example, dtype), use_cache=True, logits_to_keep=1).logits[0, -1].argmax())

    mine, other = (Side(questions, answer, at=2) for answer in (ours, theirs))  # what was checked is not asked again
    seconds = interleave(timed(mine), timed(other), settings.rounds)
    about = "the next question about a picture" if same else "a question about a new picture"
    return Pair(
        f"{about} of {eyes.tokens - 1} tokens, {str(dtype).removeprefix('torch.')}",
        "transformers' LLaVA", "first token", None, checked, seconds,
    )  # fmt: skip


if __name__ == "__main__":
    run("next_question", measure, rounds=5)
