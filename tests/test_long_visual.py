"""The bench of many pictures asks the same of all sides. Nothing here is timed."""

from pathlib import Path

import pytest

pytest.importorskip("scops.systems.mplug_owl3")

from bench import long_visual, plot
from bench.long_visual import BESIDE, INSIDE, LATEST, TEXT, Side, asdict, markdown, measure, mplug_owl3, sides
from bench.pair import Settings, head
from scops.language.gated import GatedSpec
from scops.language.llama import LlamaSpec


@pytest.fixture(scope="module")
def both() -> list[Side]:
    vision = mplug_owl3.SiglipSpec(dim=12, hidden=20, layers=1, heads=2, image=28, patch=14)
    language = LlamaSpec(dim=24, hidden=40, layers=3, heads=4, kv_heads=2, vocab=60, context=512)
    return sides(vision, language, hyper=(1, 3), gates=GatedSpec(every=2, heads=2, head_dim=6))


def test_all_sides_read_the_same_pictures_and_as_many_words(both: list[Side]) -> None:
    beside, latest, inside = (side.batch(3) for side in both)
    assert [side.name for side in both] == [BESIDE, LATEST, INSIDE]
    assert latest.features["image"].equal(beside.features["image"])
    assert latest.ids_BT.equal(beside.ids_BT)
    assert beside.features["image"].equal(inside.features["image"])
    assert beside.ids_BT.shape == (1, TEXT + 3)
    assert inside.ids_BT.shape == (1, TEXT + 3 * 4)
    assert beside.where["image"].length_M == (0, 0, 0)
    assert inside.where["image"].length_M == (4, 4, 4)


def test_a_result_is_written_and_plotted(both: list[Side], tmp_path: Path) -> None:
    points = [measure(both, pictures, rounds=1) for pictures in (1, 3)]
    for *beside, inside in points:
        assert all(0 < one.kept <= one.peak for one in beside)
    assert points[-1][0].kept < points[-1][2].kept
    result = head(long_visual.WHAT, Settings(rounds=1, threads=1))
    result["sides"] = {side.name: [asdict(some[at]) for some in points] for at, side in enumerate(both)}
    assert f"| 3 | {INSIDE} |" in markdown(result)
    plot.long_visual(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
