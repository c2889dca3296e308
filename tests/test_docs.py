"""The guides say what is so: their Python runs, their runs and commands are known, their links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from scops.cli.app import app
from scops.model.training import stages_of
from scops.systems import SYSTEMS
from scops.train.run import Run, settle
from tests import tiny

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GUIDES = sorted([*DOCS.glob("*.md"), *DOCS.glob("systems/*.md")])
FRONT = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")]
PAGES = [*FRONT, *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text("utf-8")) if name.strip() == language]


def links(page: Path) -> Iterator[str]:
    """Targets inside the project, as they stand in the page."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text("utf-8")))
    return (target for target in LINK.findall(prose) if not re.match(r"[a-z][a-z+.-]*:", target))


def anchors(page: Path) -> set[str]:
    """Of the page's headings, as they are shown on the web."""
    prose = FENCE.sub("", page.read_text("utf-8"))
    heads = re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.owl().save(tmp_path_factory.mktemp("docs") / "model")


@pytest.mark.parametrize("page", [page for page in GUIDES if blocks(page, "python run")], ids=label)
def test_the_python_of_a_guide_runs(
    page: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, in one namespace, beside a model and two pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model, target_is_directory=True)
    tiny.picture("red").save("owl.png")
    tiny.picture("blue").save("other.png")
    names: dict[str, object] = {"__name__": "docs"}
    for number, block in enumerate(blocks(page, "python run")):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_the_other_python_of_a_page_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec", dont_inherit=True)


@pytest.mark.parametrize("page", GUIDES, ids=label)
def test_the_runs_of_a_guide_are_runs(page: Path) -> None:
    for block in blocks(page, "yaml"):
        words = yaml.safe_load(block)
        if {"system", "stages"} <= set(words):
            run = Run.check(words, page.name)
            assert len(settle(run, stages_of(run))) == len(run.stages)
        elif "lora" in words:
            Run.check({"system": "owl-tiny", "stages": [{"name": "align", **words}]}, page.name)
        else:
            Run.check({"stages": ["align"], **words}, page.name)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_the_commands_of_a_page_are_known(page: Path) -> None:
    for block in [*blocks(page, "console"), *blocks(page, "bash"), *blocks(page, "sh")]:
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["scops"]:
                check_command(words[1:], line)


def check_command(words: list[str], line: str) -> None:
    command = typer.main.get_command(app)
    while (inner := getattr(command, "commands", None)) is not None and words:
        if words[0].startswith("-"):
            break
        assert words[0] in inner, f"{line!r}: there is no command {words[0]!r}"
        command, words = inner[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{line!r}: there is no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{label(page)} links to {link}, which is not there"
        assert place.is_relative_to(ROOT), f"{label(page)} links to {link}, outside the project"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), (
                f"{label(page)} links to {link}; the headings there: {sorted(anchors(place))}"
            )


def test_every_system_has_a_page() -> None:
    assert [name for name in SYSTEMS if not (DOCS / "systems" / f"{name}.md").is_file()] == []


@pytest.mark.parametrize("folder", ["decisions", "systems", "."])
def test_the_index_links_every_page(folder: str) -> None:
    index = DOCS / "index.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links(index)}
    pages = set((DOCS / folder).glob("*.md")) - {index}
    assert sorted(label(page) for page in pages if page.resolve() not in linked) == []
