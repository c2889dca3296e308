"""Every system draws: well-formed, each part named, no text on another, the same text each time."""

import xml.etree.ElementTree as xml
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scops.cli.figure import drawn
from scops.core.layout import UNCUT, ClipLayout, Cut, Layout, MediaLayout, Pixels, Slot
from scops.core.stage import Lora, Stage
from scops.core.template import Role, Template, Written
from scops.encoders.vit import Vit, VitSpec
from scops.lab.figure.kinds import kinds_of
from scops.lab.figure.modules import Opener, notes_of
from scops.lab.figure.passage import passage
from scops.lab.figure.sheet import Sheet
from scops.lab.figure.source import shown
from scops.lab.figure.svg import Font, Page
from scops.lab.figure.training import learnt
from scops.language.llama import LlamaSpec, attention, block
from scops.language.model import LanguageModel
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.nn.attention import CrossAttention, SelfAttention
from scops.nn.block import Block, Contextual, PostNorm, PreNorm, Routed
from scops.nn.feed_forward import FeedForward, SwiGlu
from scops.ops.rope import scaled
from scops.systems import SYSTEMS

LANGUAGE = LlamaSpec(dim=24, hidden=40, layers=9, heads=4, kv_heads=2, vocab=60)
TEMPLATE = Template({role: Role() for role in ("system", "user", "assistant")})
PIXELS = Pixels(28, 28, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


FIGURES = Path(__file__).parents[2] / "docs" / "img" / "figures"


class Beside:
    """A placement that is not Inline."""


class Hyper(Contextual):
    """x + o(c (1 - g) + p g)"""

    def __init__(self) -> None:
        super().__init__()
        self.memory = "image"
        self.norm, self.gate = nn.RMSNorm(24), nn.Linear(6, 6)
        self.body = attention(LANGUAGE, scaled(6, 1e4, None, context=64))
        self.keys = nn.Linear(24, 24)


class Odd(nn.Module):
    """What nobody knows"""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.free = nn.Sequential(nn.Linear(24, 24), nn.GELU()), nn.Parameter(torch.zeros(1, 3, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def language(*blocks: nn.Module) -> LanguageModel:
    return LanguageModel(nn.Embedding(60, 24), blocks, norm=nn.RMSNorm(24), head=None)


def plain() -> Block:
    return block(LANGUAGE, scaled(6, 1e4, None, context=64))


def hyper() -> Block:
    return Block(attn=Hyper(), mlp=PreNorm(nn.RMSNorm(24), SwiGlu(24, 40)))


def adaptive() -> Block:
    rope = scaled(6, 1e4, None, context=64)
    k, v = (Routed(nn.Linear(24, 12), nn.Linear(24, 12)) for _ in "kv")
    norm = Routed(nn.RMSNorm(24), nn.RMSNorm(24))
    feed = Routed(SwiGlu(24, 40), SwiGlu(24, 40))
    return Block(attn=PreNorm(norm, attention(LANGUAGE, rope, k=k, v=v)), mlp=PreNorm(nn.RMSNorm(24), feed))


def asking() -> Block:
    q, k, v, o = (nn.Linear(24, 24) for _ in range(4))
    feed = FeedForward(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24))
    return Block(
        cross=PreNorm(nn.LayerNorm(24), CrossAttention("image", q=q, k=k, v=v, o=o, head_dim=6), scale=Odd()),
        ffn=PostNorm(nn.LayerNorm(24), feed),
    )


def tiles(cut: Cut) -> list[Slot | Written]:
    return [Written("<crop>"), *(Slot("image", 5, (place,)) for place in cut.places)]


def cut(height: int, width: int) -> Cut:
    return Cut((3, 2), ((84, 56),), whole="first") if (height, width) != (28, 28) else UNCUT


def media(placement: object, *, second: bool = False) -> dict[str, MediaInput]:
    tower, connector = Vit(VitSpec(dim=12, hidden=20, layers=2, heads=2, image=28)), nn.Linear(12, 24)
    inputs = {"image": MediaInput(tower, connector, placement)}
    return inputs | ({"video": MediaInput(tower, Odd2(), placement)} if second else {})


class Odd2(nn.Module):
    """Another connector"""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(12, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x)


BESIDE = Layout(TEMPLATE, {"image": MediaLayout(PIXELS, lambda cut: [Slot("image", 0, written="<|image|>")])})
CUT = Layout(
    TEMPLATE,
    {
        "image": MediaLayout(PIXELS, tiles, cut),
        "video": ClipLayout(PIXELS, lambda times: [Slot("video", 7, ((-1, -1),) * len(times))]),
    },
)
TOGETHER = MultimodalDecoder(language(*(hyper() if at % 4 == 0 else plain() for at in range(9))), **media(Beside()))
ROUTED = MultimodalDecoder(language(*(adaptive() for _ in range(3))), **media(Inline(), second=True))
ASKED = MultimodalDecoder(language(asking(), asking()), **media(Beside()))
STAGE = Stage("align", train=("image.connector", "language.blocks.*.attn.gate"), data=("pairs",))
TUNE = Stage("tune", train=("image.connector",), data=("x",), lora=Lora(("language.blocks.*.attn.body.q",), rank=4))
SHEETS = {
    "hyper": (TOGETHER, BESIDE, {"paper": (STAGE,)}),
    "routed": (ROUTED, CUT, {"tune": (TUNE,)}),
    "asking": (ASKED, BESIDE, {}),
}


def sheet_of(name: str) -> tuple[Page, float, float]:
    module, layout, recipes = SHEETS[name]
    page = Page()
    return page, *Sheet(name, module, layout, recipes, "a system of odd parts").draw(page)


def sizes() -> list[str]:
    return [size for system in SYSTEMS.values() for size in system.sizes]


def check(page: Page, width: float, height: float) -> None:
    """No text lies on another or outside the sheet."""
    for one in page.written:
        assert one.left >= 0
        assert one.top >= 0
        assert one.right <= width, one
        assert one.bottom <= height, one
    for a, b in combinations(page.written, 2):
        apart = a.right <= b.left or b.right <= a.left or a.bottom <= b.top or b.bottom <= a.top
        assert apart, f"{a} lies on {b}"


@pytest.mark.parametrize("name", SHEETS)
def test_no_text_of_odd_parts_lies_on_another(name: str) -> None:
    check(*sheet_of(name))


@pytest.mark.parametrize("size", sizes())
def test_every_size_is_drawn_and_names_its_parts(size: str) -> None:
    sheet = drawn(size)
    page = Page()
    check(page, *sheet.draw(page))
    text = sheet.svg()
    assert text == drawn(size).svg()
    words = {found.text for found in xml.fromstring(text).iter("{http://www.w3.org/2000/svg}text")}
    assert {size, *sheet.training.parts} <= words
    assert {stage.name for stages in sheet.training.recipes.values() for stage in stages} <= words


def test_the_figures_of_the_docs_are_those_of_the_code() -> None:
    """After a change of a system: make figures."""
    assert {path.stem for path in FIGURES.glob("*.svg")} == set(sizes())
    old = [size for size in sizes() if (FIGURES / f"{size}.svg").read_text("utf-8") != drawn(size).svg()]
    assert not old, f"{old} look different now: make figures"


PAGES = {path.stem: path for path in (FIGURES.parents[1] / "systems").glob("*.md") if path.stem in SYSTEMS}


@pytest.mark.parametrize("system", PAGES)
def test_every_page_shows_a_figure_of_its_system(system: str) -> None:
    text = PAGES[system].read_text("utf-8")
    assert any(f"](../img/figures/{size}.svg)" in text for size in SYSTEMS[system].sizes), "make figures"


def words_of(name: str) -> list[str]:
    page, *_ = sheet_of(name)
    return [one.text for one in page.written]


def test_odd_blocks_are_a_kind_of_their_own() -> None:
    words = words_of("hyper")
    assert {"9 blocks", "3 × Block", "6 × Block", "1, 5, 9", "Hyper", "the others"} <= set(words)
    assert "<|image|>" in words


def test_routed_parts_have_a_lane_for_each_kind_of_token() -> None:
    words = words_of("routed")
    assert {"k text", "k image", "v text", "v image", "norm text", "norm image", "mlp text", "mlp image"} <= set(words)


def test_a_cut_picture_and_a_clip_are_counted() -> None:
    words = words_of("routed")
    assert {"3 × 2 tiles of 28 × 28", "7 × 5 = 35 tokens", "image: 7 × 5", "video: 7", "as image.encoder"} <= set(words)


def test_an_arrow_goes_to_who_asks_a_memory() -> None:
    page, *_ = sheet_of("asking")
    assert "memory:image" in page.marks
    assert "4 heads of 6, asks image" in words_of("asking")


def test_what_a_stage_trains_is_counted() -> None:
    found = learnt(TOGETHER, STAGE, ("image.encoder", "image.connector", "language"))
    assert [one.state for one in found.values()] == ["frozen", "trains", "part"]
    assert found["language"].trained == 3 * (6 * 6 + 6)
    assert found["language"].named == ("attn.gate",)
    tuned = learnt(ROUTED, TUNE, ("language",))["language"]
    assert (tuned.state, tuned.adapters) == ("lora", 3 * 4 * (24 + 24))
    with pytest.raises(ValueError, match="no path is like that"):
        learnt(TOGETHER, Stage("x", train=("language.blok",), data=()), ("language",))


def test_kinds_of_blocks_are_told_by_what_they_are_made_of() -> None:
    assert kinds_of([plain(), hyper(), plain()]) == [[0, 2], [1]]
    widths = [nn.Linear(2, width) for width in (3, 4, 5, 6)]
    assert kinds_of(widths) == [[0, 1, 2, 3]]  # too many kinds of sizes: one of Linear


class Backwards(nn.Module):
    """Its last part works first, one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.last, self.blocks, self.first = (
            nn.Linear(12, 12),
            nn.ModuleList([nn.Linear(12, 12)]),
            nn.Conv2d(3, 12, 14, 14),
        )
        self.then, self.unused = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.then(self.blocks[0](self.first(x).flatten(2).transpose(1, 2))))


def test_arrows_lead_only_where_a_run_went() -> None:
    tower = Backwards()
    passed = passage(tower, nn.Linear(12, 24), shown(BESIDE, "image"))
    assert passed.between == ("4 × 12", "4 × 24")
    assert Opener(order=passed.order).opened(tower).loose == {1, 2, 3, 4}
    assert Opener().opened(Vit(VitSpec(dim=12, hidden=20, layers=2, heads=2, image=28))).loose == frozenset()


def test_a_part_in_a_wrapper_shows_its_heads_and_lanes() -> None:
    q = nn.Sequential(Routed(nn.Linear(24, 24), nn.Linear(24, 24)), nn.Identity())
    k, v, o = (nn.Linear(24, 12), nn.Linear(24, 12), nn.Linear(24, 24))
    page = Page()
    Opener(("text", "image")).box(SelfAttention(q=q, k=k, v=v, o=o, head_dim=6), "attn").draw(page, 0, 0)
    assert {"4 heads of 6, 2 for k and v", "q text", "q image", "k"} <= {one.text for one in page.written}


def test_an_unknown_module_is_named_by_its_class() -> None:
    page = Page()
    Opener().box(Odd(), "strange").draw(page, 0, 0)
    assert {"Odd", "strange"} <= {one.text for one in page.written}
    assert "learned: free 3 × 24" in notes_of(Odd())


def test_text_is_escaped_and_measured() -> None:
    page, font = Page(), Font(10)
    page.text(0, 0, "<|image|> & more", font)
    assert xml.fromstring(page.svg(100, 20, title="a & b", words="<c>")).find("{*}text").text == "<|image|> & more"
    assert font.width("mm") == 2 * font.width("m") > font.width("ii")
    assert font.lines("one two three", font.width("one two")) == ["one two", "three"]
