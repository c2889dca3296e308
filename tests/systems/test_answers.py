"""Every system, saved and loaded again at a tiny size with random weights, answers through the front door."""

from pathlib import Path

import pytest

import scops
from scops.systems import SYSTEMS, module_of
from tests import tiny

ASKED = "what is this?"


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_loaded_folder_answers(name: str, tmp_path: Path) -> None:
    made = tiny.MODELS[name]()
    made.save(tmp_path / name)
    loaded = scops.load(tmp_path / name)
    shown = [tiny.picture()] if name != "text" else []
    before, after = (model.chat(ASKED, shown, max_tokens=12) for model in (made, loaded))
    assert isinstance(after, str)
    assert after
    assert after == before


PUBLISHED = [name for name, make in tiny.MODELS.items() if "authors" in module_of(make().system).KEYS]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_folder_in_the_authors_layout_answers_alike(name: str, tmp_path: Path) -> None:
    made = tiny.MODELS[name]()
    loaded = scops.load(made.save(tmp_path / name, layout="authors"))
    shown = [tiny.picture(size=(90, 40)), tiny.picture("blue")]
    assert loaded.chat(ASKED, shown, max_tokens=12) == made.chat(ASKED, shown, max_tokens=12)


def test_every_system_in_the_table_stands_here() -> None:
    assert {model().system for model in tiny.MODELS.values()} == set(SYSTEMS)
