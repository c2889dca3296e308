"""A check counts what training would see and drop; show marks what is learnt."""

import json
from pathlib import Path

from scops.core.layout import WHOLE, ClipLayout, Layout, MediaLayout, Slot
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.check import check, show
from scops.data.processor import Processor
from scops.data.readers import open_dataset
from tests.data.test_processor import CHATML, PIXELS, chat, five, picture, processor
from tests.data.vocabularies import chatml
from tests.films import film


def process(context: int = 60) -> Processor:
    return Processor(Layout(CHATML, {"image": MediaLayout(PIXELS, five)}, context), chatml())


def test_counts_and_reasons(tmp_path: Path) -> None:
    good = picture().source
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "cut.png").write_bytes(picture(90, 90).source[:100])
    (tmp_path / "page.png").write_text("<html>")

    def row(image: str, question: str = "<image>What?", **reply: object) -> dict[str, object]:
        answer = {"from": "gpt", "value": "An owl", **reply}
        return {"image": image, "conversations": [{"from": "human", "value": question}, answer]}

    rows = [
        row("good.png"),
        {**row("x", "Hi there"), "image": None},
        row("none.png"),
        row("cut.png"),
        row("page.png"),
        row("good.png", "<image><image>"),
        row("good.png", "<image>" + "long " * 99),
        row("good.png", loss=False),
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data, make = open_dataset(path), process()
    report = check(data, make)
    assert report.drops == {"MediaError": 3, "RowError": 1, "TooLong": 1, "NothingToLearn": 1}
    assert [message.split(" image")[0] for message in report.examples["MediaError"]] == [
        f"train.jsonl row {at}" for at in (2, 3, 4)
    ]
    kept = [make(data[at]) for at in (0, 1)]
    assert report.lengths == [len(one) for one in kept]
    assert report.learnt == sum(int(one.learn_T.sum()) for one in kept)
    assert (report.rows, report.checked, report.images, report.media_tokens) == (8, 8, 6, 5)
    assert report.datasets == {"train": 2}
    assert report.dropped == 6 / 8
    assert sum(rows for _, _, rows in report.histogram()) == 2
    text = report.render().plain
    for words in ("8 of 8 rows looked at, 2 good", "1 dropped: TooLong", "cut.png", "1 dropped: NothingToLearn"):
        assert words in text


def test_videos_are_counted_and_damage_between_their_headers_is_found(tmp_path: Path) -> None:
    content = film(tmp_path / "a.mp4", 6)
    (tmp_path / "cut.mp4").write_bytes(content[:900])
    path = tmp_path / "train.jsonl"
    rows = [{"video": f"{name}.mp4", "question": "Hm?", "answer": "An owl"} for name in ("a", "cut", "gone")]
    path.write_text("\n".join(map(json.dumps, rows)))
    clip = ClipLayout(PIXELS, lambda times: (Slot("image", 5, (WHOLE,) * len(times)),))
    report = check(open_dataset(path), Processor(Layout(CHATML, {"video": clip}, 60), chatml()))
    assert (report.videos, report.images, report.drops) == (3, 0, {"MediaError": 2})
    assert [message.split(" video")[0] for message in report.examples["MediaError"]] == [
        "train.jsonl row 1",
        "train.jsonl row 2",
    ]
    assert "0 images and 3 videos, 3 of them unpacked" in report.render().plain


def test_pictures_beyond_the_limit_are_measured_only() -> None:
    cut = Media("image", picture(90, 90).source[:100])
    rows = [Sample((Turn("user", (media,)), *chat("", "y")[1:])) for media in (picture(), picture(), cut)]
    assert not check(rows, process(), decoded=2).drops
    assert check(rows, process(), decoded=3).drops == {"MediaError": 1}


def test_a_limit_spreads_over_the_rows() -> None:
    class Counted(list):
        asked: list[int]

        def __getitem__(self, at: int) -> Sample:
            self.asked.append(at)
            return super().__getitem__(at)

    rows = Counted([Sample(chat("x", "y"))] * 10)
    rows.asked = []
    report = check(rows, process(), limit=4)
    assert rows.asked == [0, 2, 5, 7]
    assert (report.rows, report.checked) == (10, 4)
    assert check([], process()).render().plain.startswith("0 of 0")


def test_show_marks_learnt_words_and_pictures() -> None:
    make = processor(CHATML, arrange=lambda cut: (Slot("image", 3),))
    turns = (Turn("user", (picture(), picture(), Text("what is it?"))), *chat("", "an owl")[1:])
    text = show(make(Sample(turns)), make.tokenizer)
    assert text.plain == (
        "<|im_start|>user\n[image: 3 tokens][image: 3 tokens]what is it?<|im_end|>\n"
        "<|im_start|>assistant\nan owl<|im_end|>\n"
    )
    green = [text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style)]
    assert green == ["an owl<|im_end|>"]
