"""Every system, small, trained by its own published stages on the demo's pictures: does it learn to see?

Towers learn the demo's 96 kinds of things first, in place of CLIP's pairs; language models learn words alone, in place of
a corpus. Then come the published stages, with their objectives and what they train, with fewer steps and larger rates.
Captions stand where a stage learns from pairs, questions (bench.sorts) where it learns from instructions.
"""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import nn
from torch.nn.functional import cross_entropy

import scops
from bench.learning import before, curve, losses_of, parser, percent
from bench.pair import Settings, beginning, head, keep
from bench.small_systems import BERT, CAPTIONS, CLIPS, SPECIALS, TOWER, Small, small_systems
from bench.sorts import ASKED, GROUPS, HELD, MOST, SORTS, TRAINED, Part, Row, rows_of, said, save_rows, share, shown
from scops.core.stage import Stage
from scops.data.tokenizer import Tokenizer
from scops.demo.album import dice_of
from scops.demo.dataset import first_picture, rows_in
from scops.model import Model
from scops.model.training import start
from scops.systems import find, module_of
from scops.systems.mplug_owl import CLIP_MEAN, CLIP_STD
from scops.train.run import Run

SIDE = 64
STEPS, BATCH = 200, 32
SEEING, SEEING_LR = 1500, 1e-3
"""Steps of a tower before all else."""
CLIPS_MADE, CLIPS_HELD, FPS, EACH = 2400, 60, 4, 4
"""Clips to learn from, and held out in each group; so many frames a second, and of each of the two things."""
WHEN = ("first", "last")


# What is learnt -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    """What is shown, a picture or a clip, and what is said of it.

    Args:
        shown: parts of a message.
        asked: a question about it, and the reply.
    """

    shown: Part
    caption: str
    asked: str
    reply: str


def of_pictures(rows: Sequence[Row]) -> list[Thing]:
    return [Thing(shown(row["picture"]), caption(row), ASKED, row["sort"]) for row in rows]


def of_clips(rows: Sequence[Row], data: Path, folder: Path, most: int) -> list[Thing]:
    """Two things, one after the other; asked is of what sort the first or the last one is."""
    dice, things = dice_of("clips", folder.name), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(most):
        when, sort = dice.choice(WHEN), SORTS[number % len(SORTS)]
        wanted = dice.choice([row for row in rows if row["sort"] == sort])
        pair = [wanted, dice.choice([row for row in rows if row is not wanted])]
        pair.sort(key=lambda row: (row is wanted) == (when == "last"))
        path = folder / f"{number}.mp4"
        if not path.exists():
            film(path, [data / row["picture"] for row in pair])
        both = " and then ".join(map(caption, pair))
        things.append(Thing({"type": "video", "video": str(path)}, both, f"What sort of thing comes {when}?", sort))
    return things


def caption(row: Row) -> str:
    return f"{row['name']}, {row['sort']}"


def film(path: Path, pictures: Sequence[Path]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.bit_rate, stream.codec_context.time_base = "yuv420p", 1_000_000, Fraction(1, FPS)
        still = [np.asarray(Image.open(picture).convert("RGB").resize((SIDE, SIDE))) for picture in pictures]
        for number, pixels in enumerate(one for one in still for _ in range(EACH)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def save_sets(things: Sequence[Thing], rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """Words alone, captions and questions, by name."""
    sets: dict[str, list[tuple[list[Part], str]]] = {
        "words": [([said(f"The picture shows a {row['name']}. {ASKED}")], row["sort"]) for row in rows],
        "captions": [([one.shown], one.caption) for one in things],
        "questions": [([one.shown, said(one.asked)], one.reply) for one in things],
    }
    return {name: save_rows(some, folder / f"{name}.jsonl") for name, some in sets.items()}


# What begins ----------------------------------------------------------------------------------------------------------


def seeing(tower: nn.Module, data: Path, kept: Path) -> None:
    """A vision transformer learns which kind of thing a picture shows; the same one once for all systems.

    Args:
        kept: folder.
    """
    path = kept / f"{type(tower).__name__}.pt"
    if not path.exists():
        torch.manual_seed(0)
        kept.mkdir(parents=True, exist_ok=True)
        rows = [row for row in rows_in(data / TRAINED) if "kind" in row["truth"]]
        kinds = sorted({row["truth"]["kind"] for row in rows})
        pictures = [np.asarray(Image.open(data / first_picture(row)).resize((SIDE, SIDE))) for row in rows]
        x_MCHW = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        x_MCHW = (x_MCHW - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
        wanted_M = torch.tensor([kinds.index(row["truth"]["kind"]) for row in rows])
        names = nn.Linear(TOWER["dim"], len(kinds))
        optimiser = torch.optim.AdamW([*tower.parameters(), *names.parameters()], SEEING_LR, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, SEEING_LR, SEEING)
        for _ in track(range(SEEING), f"{type(tower).__name__} learns {len(kinds)} kinds"):
            some = torch.randint(len(rows), (2 * BATCH,))
            shift, turned = torch.randint(-SIDE // 8, SIDE // 8 + 1, (2,)).tolist(), bool(torch.randint(2, ()))
            seen = x_MCHW[some].roll(shift, (2, 3))
            loss = cross_entropy(names(tower(seen.flip(3) if turned else seen).mean(1)), wanted_M[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        torch.save({plain(name): weight for name, weight in tower.state_dict().items()}, path)
    learnt = torch.load(path, weights_only=True)
    tower.load_state_dict({name: learnt[plain(name)] for name in tower.state_dict()})


def plain(name: str) -> str:
    """The last norm by one name, also where it norms the patches alone."""
    return name.replace("post_norm.body.", "post_norm.")


def words_of(small: Small, folder: Path) -> Tokenizer:
    """The demo's tokenizer with all special tokens; a Q-Former that reads has the same with a BERT's."""

    def spoken(roles: tuple[str | None, ...]) -> Tokenizer:
        bos, eos, pad = roles
        return Tokenizer(Tokenizer.from_folder(folder).with_specials(SPECIALS).backend, bos=bos, eos=eos, pad=pad)

    made = spoken(small.roles)
    made.beside = spoken(BERT)
    return made


def begun(small: Small, tokenizer: Tokenizer, data: Path, towers: Path, folder: Path) -> Path:
    """The system before its first stage, kept in the folder."""
    torch.manual_seed(0)
    model = scops.create(small.size, small.changes, tokenizer=tokenizer, pretrained=False)
    seeing(model.module.get_submodule(small.tower), data, towers)
    return model.save(folder)


# How it is trained ----------------------------------------------------------------------------------------------------


def run_of(
    small: Small, name: str, stages: Sequence[Mapping[str, Any]], first: Path, sets: Mapping[str, Path], data: Path
) -> Run:
    return Run.check({
        "system": small.size, "recipe": small.recipe or small.size, "stages": stages, "init": str(first), "seed": 0,
        "data": {name: {"path": str(path), "images": str(data)} for name, path in sets.items()},
        "output_dir": str(first.with_name(name)), "save_steps": 1_000_000, "logging_steps": 10, "feature_cache": "memory",
    }, name)  # fmt: skip


def shortened(stage: Stage, small: Small, data: str) -> dict[str, Any]:
    sees = {"image", "image.encoder"} & {*stage.train}
    return {
        "name": stage.name, "data": [data], "max_steps": STEPS, "batch": BATCH, "learning_rate": small.lr, "min_lr": 0.0,
        "lr_of": {"image.encoder": small.lr / 4} if sees and stage.lr_of else {}, "warmup_steps": STEPS // 10, "weight_decay": 0.05,
    }  # fmt: skip


def trained(
    small: Small, first: Path, sets: Mapping[str, Path], data: Path
) -> tuple[Path, dict[str, list[float]], float]:
    """The folder with the system at its end, the mean loss at the beginning and end of each stage, and seconds."""
    published = module_of(find(small.size)[0]).STAGES[small.recipe or small.size]
    if small.speaks:
        alone = shortened(published[-1], small, "words") | {"train": [*small.speaks], "lr_of": {}, "lora": False}
        first = start(run_of(small, "words", [alone], first, sets, data)).final
    last = "captions" if small.asked == CAPTIONS else "questions"
    stages = [shortened(stage, small, "captions" if stage is not published[-1] else last) for stage in published]
    done = start(run_of(small, "published", stages, first, sets, data))
    return done.final, losses_of(done.folder, published), done.seconds


def answered(model: Model, small: Small, held: Sequence[Thing], data: Path) -> float:
    """The share that is right."""
    if small.asked == CAPTIONS:
        return matched(model, held, data)
    asks = [[data / one.shown[one.shown["type"]], one.asked] for one in held]
    return share(model.generate(asks, max_tokens=8, batch=BATCH), [one.reply for one in held])


def matched(model: Model, held: Sequence[Thing], data: Path) -> float:
    """How often a picture's own caption ranks before one of each other sort."""
    rank_NK = model.score([data / one.shown["image"] for one in held], [one.caption for one in held]).rank_NK
    right = 0
    for number, one in enumerate(held):
        others = {thing.reply: at for at, thing in enumerate(held) if thing.reply != one.reply}
        right += bool((rank_NK[number, number] > rank_NK[number, [*others.values()]]).all())
    return right / len(held)


def prior(things: Sequence[Thing]) -> float:
    """What is right by always saying the most frequent reply."""
    return Counter(one.reply for one in things).most_common(1)[0][1] / len(things)


def main() -> None:
    options = parser("every_system", Path("runs/every"))
    options.add_argument(
        "--words", type=Path, default=Path("runs/demo/tokenizer"), help="made by scops demo (%(default)s)"
    )
    asked = options.parse_args()
    data, folder = asked.data.absolute(), asked.folder.absolute()
    rows = rows_of(data, TRAINED, MOST)
    held = {group: rows_of(data, file, HELD) for group, file in GROUPS.items()}
    pictures = of_pictures(rows), {group: of_pictures(some) for group, some in held.items()}
    clips = (
        of_clips(rows, data, folder / "clips" / "train", CLIPS_MADE),
        {group: of_clips(some, data, folder / "clips" / group, CLIPS_HELD) for group, some in held.items()},
    )
    result = head("every_system", Settings(rounds=1, threads=torch.get_num_threads())) | {
        "command": "python -m bench.every_system", "asked": {group: len(some) for group, some in held.items()},
        "prior": {
            name: {group: prior(some) for group, some in things.items()}
            for name, things in (("a picture", pictures[1]), ("a clip", clips[1]))
        },
        "trained": {},
    }  # fmt: skip
    result["trained"] = before(asked.results, result, "trained") if asked.only else {}
    words = len(SPECIALS) + Tokenizer.from_folder(asked.words).vocab_size
    for name, small in small_systems(words).items():
        if asked.only not in name:
            continue
        place = folder / name.replace(", ", "-")
        shutil.rmtree(place, ignore_errors=True)
        learnt, questions = clips if small.asked == CLIPS else pictures
        sets = save_sets(learnt, rows, place)
        first = begun(small, words_of(small, asked.words), data, folder / "towers", place / "begun")
        final, losses, seconds = trained(small, first, sets, data)
        model = scops.load(final, merge=True)
        right = {group: answered(model, small, some, data) for group, some in questions.items()}
        result["trained"][name] = {
            "size": small.size,
            "asked": small.asked,
            "losses": losses,
            "seconds": seconds,
            "right": right,
        }
        print(name, {group: round(portion, 2) for group, portion in right.items()}, flush=True)
        keep(asked.results, result, markdown(result))  # so that a system that is trained is not lost with a later one
    print(markdown(result))


def markdown(result: dict[str, Any]) -> str:
    """The same for readers."""
    groups = list(result["asked"])
    lines = [
        *beginning(result),
        f"{' and '.join(map(str, result['asked'].values()))} held-out pictures, or {CLIPS_HELD} clips of each; {STEPS} steps of "
        f"{BATCH} rows each stage. Where captions are matched, one of six is right by chance.", "",
        "| system | asked about | loss by stage | seconds | " + " | ".join(groups) + " |",
        "|---|---|---|--:|" + "--:|" * len(groups),
    ]  # fmt: skip
    for about, shares in result["prior"].items():
        lines.append(f"| words alone | {about} | | | " + " | ".join(percent(shares, groups)) + " |")
    for name, one in result["trained"].items():
        shares = " | ".join(percent(one["right"], groups))
        lines.append(f"| {name} | {one['asked']} | {curve(one['losses'])} | {one['seconds']:.0f} | {shares} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
