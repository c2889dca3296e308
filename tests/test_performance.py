"""What the pages say of speed is what bench/results says; growth is measured as it says. Nothing here is timed."""

import json
from pathlib import Path

import pytest
import torch

from bench import growth, plot, readme
from scops.connectors.abstractor import AbstractorSpec
from scops.encoders.vit import VitSpec
from scops.lab.memory import peak_bytes
from scops.language.llama import LlamaSpec
from scops.systems import mplug_owl

PNG = b"\x89PNG"


def pair(case: str, peer: str, ratio: float) -> dict:
    spread = {"median": ratio, "min": ratio / 2, "max": ratio * 2}
    return {"case": case, "peer": peer, "counted": "tokens/s", "numbers": {"ours": 8.0, "theirs": 4.0}, "ratio": spread}


def result(what: str = "decode", date: str = "2026-11-21", machine: str = "a machine", *pairs: dict) -> dict:
    return {
        "what": what,
        "hardware": machine,
        "date": date,
        "threads": 2,
        "pairs": list(pairs) or [pair("one", "a peer", 2.0)],
    }


def curve() -> growth.Curve:
    points = (growth.Point(size, (size**2 / 1e3,) * 3, size * 1000) for size in (1, 2, 4, 8))
    return growth.Curve("prefill", "context", tuple(points))


def measured() -> dict:
    made = growth.asdict(curve()) | {"exponents": curve().exponents()}
    return {"what": "growth", "hardware": "a machine", "date": "2026-11-21", "threads": 2, "curves": [made] * 3}


@pytest.mark.parametrize(("page", "section"), readme.SECTIONS.items(), ids=[path.stem for path in readme.SECTIONS])
def test_the_pages_say_what_the_results_say(page: Path, section) -> None:
    text = page.read_text("utf-8")
    said = text.partition(readme.BEGIN)[2].partition(readme.END)[0].strip()
    assert said in (readme.NOTHING, section(readme.newest(readme.RESULTS))), f"{page.name}: run `make performance`"
    assert readme.with_section(text, said) == text


def test_of_each_bench_and_machine_the_newest_result_counts(tmp_path: Path) -> None:
    for number, one in enumerate(
        [result(date="2026-11-22"), result(), result(machine="another"), result("prefill", "2026-01-01")]
    ):
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    found = [(one["hardware"], one["what"], one["date"]) for one in readme.newest(tmp_path)]
    assert found == [
        ("a machine", "decode", "2026-11-22"), ("a machine", "prefill", "2026-01-01"), ("another", "decode", "2026-11-21"),
    ]  # fmt: skip


def test_a_summary_has_a_line_per_bench_and_peer_and_a_page_one_per_case() -> None:
    cases = [pair("short", "a peer", 2.0), pair("long", "a peer", 3.5), pair("long", "another", 0.5)]
    results = [result("decode", "2026-11-21", "a machine", *cases), measured()]
    summary, page, grown = readme.summary(results), readme.page(results), readme.growth(results)
    assert "| [decode](bench/decode.py) | a peer | 2 | 2.00 to 3.50 |" in summary
    assert "| [decode](bench/decode.py) | another | 1 | 0.50 |" in summary
    assert "| decode | long | another | 8 | 4 | tokens/s | 0.50 | 0.25 | 1.00 |" in page
    assert "growth" not in summary + page
    assert "| prefill | context | 1 to 8 | 1 to 64 | 0.001 to 0.008 | n^2.0 | n^1.0 |" in grown
    assert readme.summary([measured()]) == readme.growth([result()]) == readme.NOTHING


def test_text_without_markers_is_refused_and_the_rest_of_a_text_stays() -> None:
    with pytest.raises(ValueError, match="begins '# Title'"):
        readme.with_section("# Title", "a table")
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.with_section(text, "new") == f"before\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nafter\n"


def test_plots_are_drawn(tmp_path: Path) -> None:
    plot.ratios([result(), result("prefill")], tmp_path / "new" / "a.png")
    plot.growth(measured(), tmp_path / "b.png")
    assert all(path.read_bytes().startswith(PNG) for path in (tmp_path / "new" / "a.png", tmp_path / "b.png"))


def test_an_exponent_is_the_slope_of_the_upper_half() -> None:
    assert growth.exponent([2, 4, 16], [3 * size**1.5 for size in (2, 4, 16)]) == pytest.approx(1.5)
    bent = growth.Curve("a", "b", tuple(growth.Point(size, (max(size, 4.0),), 7) for size in (1, 2, 4, 8, 16)))
    assert bent.exponents() == {"time": pytest.approx(1.0), "memory": pytest.approx(0.0)}


def test_growth_is_measured_on_every_curve() -> None:
    spec = mplug_owl.Spec(
        VitSpec(dim=12, hidden=20, layers=1, heads=2, image=28, patch=14),
        AbstractorSpec(dim=12, hidden=20, layers=1, heads=2, queries=3),
        LlamaSpec(dim=24, hidden=40, layers=2, heads=4, kv_heads=2, vocab=50, context=4096),
    )
    small = growth.Small(spec)
    for one in small.growths():
        made = growth.Growth(one.work, one.against, (2, 6), one.prepare).measure(rounds=2)
        assert [point.size for point in made.points] == [2, 6]
        assert made.points[0].memory < made.points[1].memory
        assert all(len(point.seconds) == 2 and min(point.seconds) > 0 for point in made.points)
    assert small.shown(3).ids_BT.shape == (1, growth.TEXT + 3 * 4)  # 3 queries and the end


def test_memory_is_what_is_alive_at_once() -> None:
    def call() -> torch.Tensor:
        first = torch.zeros(1000)
        second = first + 1  # 8,000 bytes
        del first
        second.view(10, 100)[2:].add_(1)  # views and writing in place hold nothing new
        torch.stack([torch.ones(500) for _ in range(2)])  # 4,000, two of 2,000 and 4,000
        return second

    assert peak_bytes(call) == 12_000
    assert peak_bytes(lambda: [torch.zeros(1000).sum() for _ in range(9)]) == 4000 + 9 * 4
