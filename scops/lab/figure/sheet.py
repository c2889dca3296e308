"""The figure of a system: inputs -> language model, and below it what each stage of each recipe trains.

The words are those of the code (classes, parameter paths), the counts those of the built modules. Nothing is computed:
a system on the meta device is enough.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from torch import nn

from scops.core.layout import Layout
from scops.core.stage import Stage
from scops.lab.figure.boxes import PAPER, SOFT
from scops.lab.figure.lane import BETWEEN, BLUE, Card, Lane, card, draw_lane, is_input, lanes_of, read_by
from scops.lab.figure.modules import Opener
from scops.lab.figure.source import Sources
from scops.lab.figure.svg import Font, Page
from scops.lab.figure.training import Training, symbol

MARGIN, APART, STAGES, LEAST = 26, 34, 26, 560
"""Pixels: around everything, between inputs, for the stages below a card, of the whole width."""
HEADING, BELOW, STAGE = Font(19, bold=True), Font(12, colour=SOFT), Font(10, colour=SOFT)


def figure(
    name: str,
    module: nn.Module,
    layout: Layout,
    recipes: Mapping[str, Sequence[Stage]],
    *,
    title: str = "",
    paper: str = "",
) -> str:
    """An SVG document with a background of its own; the same text for the same system.

    Args:
        module: the system as built; a child with an encoder and a connector is drawn as an input, every other as one card.
        recipes: as in a system's STAGES; of the first, the stages are marked at the parts as well.
    """
    return Sheet(name, module, layout, recipes, ". ".join(filter(None, (title, paper)))).svg()


class Sheet:
    """Cards in their places; see `figure`."""

    def __init__(
        self, name: str, module: nn.Module, layout: Layout, recipes: Mapping[str, Sequence[Stage]], says: str
    ) -> None:
        self.name, self.module, self.says = name, module, says
        inputs = {kind: child for kind, child in module.named_children() if is_input(child)}
        self.stages = next(iter(recipes.values()), ())
        opener = Opener(("text", *inputs))
        self.lanes = lanes_of(opener, inputs, layout, least=sum(28 + STAGE.width(stage.name) for stage in self.stages))
        self.rest = [
            card(opener, path, child, BLUE, inner=read_by(opener, child, self.lanes))
            for path, child in module.named_children()
            if path not in inputs
        ]
        cards = [*(one for lane in self.lanes for one in lane.cards), *self.rest]
        self.training = Training(module, recipes, tuple(one.path for one in cards if not one.same), opener.lanes)
        self.columns = [max(widths) for widths in zip(*(lane.widths for lane in self.lanes), strict=True)]

    def svg(self) -> str:
        page = Page()
        width, height = self.draw(page)
        return page.svg(width, height, title=f"{self.name}: architecture", words=self.says)

    def draw(self, page: Page) -> tuple[float, float]:
        """Width and height of what was drawn."""
        steps = [MARGIN, *(wide + BETWEEN for wide in self.columns), *(one.box.width + BETWEEN for one in self.rest)]
        places = [*accumulate(steps)]
        width = max(places[-1] - BETWEEN, MARGIN + self.training.width, LEAST) + MARGIN
        words = BELOW.lines(self.says, width - 2 * MARGIN)
        top = MARGIN + HEADING.line + len(words) * BELOW.line + 14
        heights = [self._height(lane) for lane in self.lanes]
        below = (
            top
            + max(sum(heights) + APART * (len(heights) - 1), *(one.box.height + STAGES for one in self.rest), 0)
            + 26
        )
        height = below + self.training.height + MARGIN
        page.rect(0.5, 0.5, width - 1, height - 1, fill=PAPER, stroke="#d5dbe1", radius=10)
        self._heading(page, words, width)
        for one, place in zip(self.rest, places[len(self.columns) :], strict=False):
            self._card(page, one, place, top)
        for number, (lane, high) in enumerate(zip(self.lanes, heights, strict=True)):
            for one, place in zip(lane.cards, places[1:], strict=False):
                self._card(page, one, place, top)
            draw_lane(page, lane, number, self.columns, places, top)
            top += high + APART
        self.training.draw(page, MARGIN, below)
        return width, height

    def _heading(self, page: Page, words: Sequence[str], width: float) -> None:
        count = f"{sum(p.numel() for p in self.module.parameters()):,} parameters"
        page.text(MARGIN, MARGIN - 6, self.name, HEADING)
        page.text(width - MARGIN - BELOW.width(count), MARGIN, count, BELOW)
        for at, line in enumerate(words):
            page.text(MARGIN, MARGIN - 6 + HEADING.line + at * BELOW.line, line, BELOW)

    def _height(self, lane: Lane) -> float:
        sources = Sources(lane.examples).height + 20 if lane.examples else 0
        return max(sources, *(one.box.height + STAGES for one in lane.cards))

    def _card(self, page: Page, one: Card, left: float, top: float) -> None:
        """With a sign for every stage of the first recipe below it."""
        one.box.draw(page, left, top)
        x, y = left + 4, top + one.box.height + 14
        for stage, learnt in zip(self.stages, self.training.states(self.stages), strict=True):
            symbol(page, learnt[one.same or one.path].state, x + 6, y)
            page.text(x + 16, y - 7, stage.name, STAGE)
            x += 28 + STAGE.width(stage.name)
