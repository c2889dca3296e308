"""report.html: pictures with answers beside the truth, the table, the curve; one file that needs nothing else."""

import base64
import io
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from scops import __version__
from scops.checkpoints.write import save_text
from scops.demo.results import Story, columns_of, table_rows
from scops.demo.score import right

SIDE = 112
SHOWN = 4


def write_report(story: Story, data: Path) -> Path:
    template = Environment(autoescape=True).from_string((files("scops") / "demo" / "report.html").read_text("utf-8"))
    curve = story.trained.folder / "loss.png" if story.trained else None
    page = template.render(
        version=__version__,
        columns=columns_of(story),
        rows=table_rows(story),
        groups=[_group(story, data, at) for at in range(len(story.papers))],
        own=[{"picture": _thumbnail(path), "answer": said} for path, said in story.own],
        curve=_data_url(curve.read_bytes()) if curve and curve.is_file() else None,
        notes=story.notes,
        seconds=round(story.seconds),
        final=story.trained.final if story.trained else "",
    )
    path = story.folder / "report.html"
    save_text(path, page)
    return path


def _group(story: Story, data: Path, at: int) -> dict[str, Any]:
    paper = story.papers[at]
    cards = []
    for number, question in enumerate(paper.questions[:SHOWN]):
        answers = {name: story.answers[name][at][number] for name in ("owl-nano", "owl-tiny") if name in story.answers}
        marks = {name: right(paper.task, question.truth, said) for name, said in answers.items()}
        pictures = [_thumbnail(data / path) for path in question.pictures]
        cards.append({"question": question, "pictures": pictures, "answers": answers, "marks": marks})
    return {"name": paper.group.name, "task": paper.task, "cards": cards}


def _thumbnail(path: Path) -> str:
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return _data_url(file.getvalue())


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
