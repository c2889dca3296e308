"""One input of a system from left to right: what is given, encoder, connector, and where the result goes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from scops.core.layout import Layout
from scops.lab.figure.boxes import LINE, NOTE, Box, Column, Plate
from scops.lab.figure.frames import Frame
from scops.lab.figure.modules import Opener, counted, has_blocks, learned
from scops.lab.figure.passage import passage
from scops.lab.figure.source import Reading, Shown, Sources, shown
from scops.lab.figure.svg import Page
from scops.models.decoder import Inline

BETWEEN, LEVEL, TURN = 72, 50, 14
"""Pixels: between cards, from a lane's top to its arrows, from the last card back to where arrows turn."""
GREEN, VIOLET, BLUE = ("#eef7f1", "#6aa583"), ("#f4f0fb", "#9a80c8"), ("#eef3fc", "#6f8fcb")
"""(fill, edge) of encoders, connectors and all else."""
FLOW = "#2f8f78"


@dataclass(frozen=True)
class Card:
    """One part with all that it is made of.

    Args:
        same: the path under which it stood before, if it is another input's part too.
    """

    path: str
    box: Frame
    same: str = ""


@dataclass(frozen=True)
class Lane:
    """Args:
    inline: whether its tokens stand in the sequence.
    between: what leaves the encoder and the connector: count and width.
    """

    kind: str
    inline: bool
    examples: tuple[Shown, ...]
    cards: tuple[Card, Card]
    between: tuple[str, str]

    @property
    def widths(self) -> tuple[float, float, float]:
        encoder, connector = self.cards
        return Sources(self.examples).width, encoder.box.width, connector.box.width

    @property
    def words(self) -> str:
        """What stands in the text for the first example."""
        if not self.examples:
            return self.kind
        slots = self.examples[0].slots
        if not self.inline:
            return slots[0].written
        each = str(slots[0].tokens) if len({slot.tokens for slot in slots}) == 1 else "tokens"
        return f"{self.kind}: {each}" if len(slots) == 1 else f"{self.kind}: {len(slots)} × {each}"


def is_input(module: nn.Module) -> bool:
    return {"encoder", "connector"} <= {name for name, _ in module.named_children()}


def card(
    opener: Opener,
    path: str,
    module: nn.Module,
    colours: tuple[str, str],
    *,
    inner: Column | None = None,
    least: float = 0,
) -> Card:
    fill, edge = colours
    count = counted(sum(p.numel() for p in module.parameters()))
    own = learned(module) if has_blocks(module) else ()  # else they stand inside
    box = Frame(
        type(module).__name__, inner or opener.opened(module), right=count, notes=(path, *own),
        fill=fill, stroke=edge, large=True, least=least, mark=f"card:{path}",
    )  # fmt: skip
    return Card(path, box)


def lanes_of(opener: Opener, inputs: dict[str, nn.Module], layout: Layout, *, least: float) -> list[Lane]:
    """Args:
    least: pixels that a card is wide at least.
    """
    known: dict[int, str] = {}
    lanes = []
    for kind, child in inputs.items():
        parts, examples, cards = dict(child.named_children()), tuple(shown(layout, kind)), []
        passed = passage(parts["encoder"], parts["connector"], examples)
        opener_of_lane = replace(opener, order=passed.order)
        for part, colours in (("encoder", GREEN), ("connector", VIOLET)):
            path, module = f"{kind}.{part}", parts[part]
            same = known.setdefault(id(module), path)
            if same == path:
                cards.append(card(opener_of_lane, path, module, colours, least=least))
            else:
                fill, edge = colours
                again = Plate(f"as {same}")
                cards.append(
                    Card(
                        path,
                        Frame(type(module).__name__, again, notes=(path,), fill=fill, stroke=edge, large=True),
                        same,
                    )
                )
        inline = isinstance(getattr(child, "placement", None), Inline)
        lanes.append(Lane(kind, inline, examples, (cards[0], cards[1]), passed.between))
    return lanes


def read_by(opener: Opener, module: nn.Module, lanes: Sequence[Lane]) -> Column:
    """The inside of a card that is no input's; with word embeddings stands what the inputs put among the words."""
    inside = opener.opened(module)
    children = [child for _, child in module.named_children()]
    if not children or not isinstance(children[0], nn.Embedding):
        return inside
    boxes: list[Box] = [*inside.boxes]
    words = boxes[0]
    assert isinstance(words, Plate)
    boxes[0] = Reading(
        words, tuple((one.kind, one.words) for one in lanes if one.inline),
        tuple((one.kind, one.words) for one in lanes if not one.inline),
    )  # fmt: skip
    if getattr(module, "tied", False):
        boxes.append(Plate("Linear", "head", ("the embedding again",), dashed=True))
    return Column(tuple(boxes))


def draw_lane(
    page: Page, lane: Lane, number: int, columns: Sequence[float], places: Sequence[float], top: float
) -> None:
    """Sources and arrows; its cards stand already.

    Args:
        columns: how wide sources, encoders and connectors are.
        places: left edges of the columns and of what follows them.
    """
    sources, level = Sources(lane.examples), top + LEVEL
    if lane.examples:
        sources.draw(page, places[0] + (columns[0] - sources.width) / 2, level - Sources.HIGH / 2)
        page.line((places[0] + columns[0] / 2 + 50, level), (places[1], level), colour=LINE, arrow=True, thick=1.6)
    ends = [place + one.box.width for place, one in zip(places[1:], lane.cards, strict=False)]
    page.line((ends[0], level), (places[2], level), colour=LINE, arrow=True, thick=1.6)
    for words, start, end in zip(lane.between, ends, (places[2], places[3]), strict=True):
        page.text(start, level - NOTE.line - 3, words, NOTE, width=min(end - start, BETWEEN))
    turn = places[3] - TURN - 9 * number
    way = [(ends[1], level), (turn, level)]
    if lane.inline and (place := page.marks.get(f"place:{lane.kind}")):
        x, y, wide, _ = place
        way += [(turn, y - 11), (x + wide / 2, y - 11), (x + wide / 2, y)]
    elif not lane.inline and (place := _asking(page, lane.kind)):
        x, y, _, high = place
        way += [(turn, y + high / 2), (x, y + high / 2)]
    else:
        way.append((places[3], level))
    page.line(*way, colour=FLOW, arrow=True, thick=1.6)


def _asking(page: Page, kind: str) -> tuple[float, float, float, float] | None:
    """The part that asks what stands beside the sequence."""
    asking = [place for mark, place in page.marks.items() if mark.startswith("memory:")]
    return page.marks.get(f"memory:{kind}") or next(iter(asking), None)
