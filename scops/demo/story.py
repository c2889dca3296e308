"""The whole story in minutes: a shipped system answers, a small one is trained live, both are examined, a report is written."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scops.checkpoints.packages import Unreachable, fetch
from scops.demo import exam
from scops.demo.dataset import MANIFEST, Plan, prepare
from scops.demo.report import write_report
from scops.demo.results import Story, shares_table
from scops.demo.vocabulary import learn_vocabulary
from scops.model import Model, load
from scops.model.training import start
from scops.train.features import Features
from scops.train.run import Run

PLAN = Plan(side=224, variants=3, scenes=1200, which=700, words=400, texts=600, held=160)


def tell(folder: Path, *, pictures: Sequence[Path] = (), each: int = 24, console: Console | None = None) -> Story:
    """Run the demo and leave everything below `folder`; what stands there from an earlier run is used again.

    Args:
        pictures: of the user's; owl-tiny says what it sees.
        each: questions per group and task of the examination.
    """
    console, begun = console or Console(), time.monotonic()
    story = Story(folder)
    folder.mkdir(parents=True, exist_ok=True)
    console.rule("[bold]1  Pictures, questions and answers")
    data = _data(folder / "data", console)
    story.papers = exam.papers(data, each=each)
    console.print(f"{sum(len(p.questions) for p in story.papers)} questions in {len(story.papers)} papers; {data}")
    console.rule("[bold]2  owl-tiny answers")
    _shipped(story, data, pictures, console)
    console.rule("[bold]3  owl-nano is trained, stage by stage")
    nano = _trained(story, data, console)
    console.rule("[bold]4  Held-out numbers")
    _examine(story, "owl-nano", nano, data, console)
    _baselines(story, nano, data, console)
    console.print(shares_table(story))
    for note in story.notes:
        console.print(f"[yellow]{note}")
    story.seconds = time.monotonic() - begun
    report = write_report(story, data)
    console.rule("[bold]5  Yours")
    final = story.trained.final if story.trained else folder
    picture = data / next(paper for paper in story.papers if not paper.group.trained).questions[0].pictures[0]
    systems = [*(["owl-tiny"] if "owl-tiny" in story.answers else []), str(final)]
    talks = [f'talk     scops chat {system} {picture} "What is this?"' for system in systems]
    for line in (f"report   {report}", *talks, f"took     {story.seconds:.0f} s"):
        console.print(line, soft_wrap=True)
    return story


def _data(folder: Path, console: Console) -> Path:
    try:
        return prepare(folder, plan=PLAN)
    except ValueError:
        if not (folder / MANIFEST).is_file():  # nothing that a demo made
            raise
        console.print(f"{folder} is of another plan and is drawn anew")
        shutil.rmtree(folder)
        return prepare(folder, plan=PLAN)


def _shipped(story: Story, data: Path, pictures: Sequence[Path], console: Console) -> None:
    try:
        tiny = load("owl-tiny", dtype="bfloat16", merge=True)
    except (Unreachable, ValueError) as error:
        _note(story, "owl-tiny is left out", error, console)
        return
    for picture in pictures:
        said = tiny.chat("What does the picture show?", [picture])
        story.own.append((picture, said))
        console.print(f"{picture}: {said}")
    _examine(story, "owl-tiny", tiny, data, console)
    for paper, answers in zip(story.papers, story.answers["owl-tiny"], strict=True):
        question = paper.questions[0]
        console.print(
            f"  [dim]{question.pictures[0]}[/]  {question.text}  [bold]{answers[0]}[/]  [dim]truth: {question.truth}"
        )


def _trained(story: Story, data: Path, console: Console) -> Model:
    vocabulary = learn_vocabulary(data, data / "tokenizer", size=4096)
    changes = [f"output_dir={story.folder / 'owl-nano'}", f"tokenizer={vocabulary}"]
    changes += [
        f"data.{name}.path={data / f'train_{name}.jsonl'}"
        for name in ("labels", "names", "scenes", "which", "words", "text")
    ]
    try:
        fetch("efficientnet-lite0")
    except Unreachable as error:
        _note(story, "the encoder is trained from scratch and will see little", error, console)
        changes += ["pretrained=false", "stages.words.train=[image,language.embed]"]
        changes += ["stages.words.batch=64", "stages.words.max_steps=60"]  # every step goes through the encoder
    run = Run.load(Path(str(files("scops") / "recipes" / "owl-nano.yaml")), changes)
    before = story.folder / "owl-nano" / "run.yaml"
    if before.is_file() and before.read_text("utf-8") != run.words():
        console.print(f"{before.parent} is of another recipe and is trained anew")
        shutil.rmtree(before.parent)
    story.trained = start(run)
    return load(story.trained.final)


def _note(story: Story, what: str, why: Exception, console: Console) -> None:
    """All of the reason at once, its first line again at the end."""
    console.print(f"[yellow]{what}: {why}")
    story.notes.append(f"{what}: {str(why).partition('; ')[0]}")


def _examine(story: Story, name: str, model: Model, data: Path, console: Console) -> None:
    with _bar(f"{name} answers", sum(len(p.questions) for p in story.papers), console) as tick:
        answers = [exam.answers_of(model, data, paper, tick=tick) for paper in story.papers]
    story.answers[name] = answers
    story.shares[name] = [exam.share(p, a) for p, a in zip(story.papers, answers, strict=True)]


def _baselines(story: Story, model: Model, data: Path, console: Console) -> None:
    story.shares["text-only prior"] = exam.prior_shares(data, story.papers)
    asked = [q for paper in story.papers for q in paper.questions]
    train = [q for q in exam.training_questions(data) if q.task in ("name", "kind", "count")]
    pictures = list(dict.fromkeys(q.pictures[0] for q in [*asked, *train] if len(q.pictures) == 1))
    with _bar("nearest neighbours", len(pictures), console) as tick:
        pooled = exam.pooled_features(model, data, pictures, features=_features(story), tick=tick)
    story.shares["nearest neighbour"] = exam.neighbour_shares(data, story.papers, pooled)


def _features(story: Story) -> Features | None:
    """What training has kept of the encoder that it ended with."""
    kept = sorted((story.folder / "owl-nano" / "features").glob("*/made_by.json"))
    return Features(folder=kept[-1].parent, budget=0) if len(kept) == 1 else None


@contextmanager
def _bar(words: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(words, total=total)
        yield lambda count: progress.advance(task, count)
