"""Data sets in every form give the same samples; what is wrong in them is named by file and row."""

import base64
import io
import json
import logging
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scops.core.sample import Media, Sample, Text, Turn
from scops.data.documents import Page
from scops.data.errors import MediaError, RowError
from scops.data.readers import Dataset, open_dataset
from scops.data.readers.dataset import braces
from tests.data.test_documents import pdf
from tests.films import film

Write = Callable[[list[Mapping[str, Any]]], Dataset]


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def lines(rows: list[Mapping[str, Any]]) -> Dataset:
        path = tmp_path / "train.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return open_dataset(path)

    return lines


def parts(sample: Sample) -> list[list[object]]:
    """Words as they are, pictures by their source."""
    return [[part.text if isinstance(part, Text) else part.source for part in turn.parts] for turn in sample.turns]


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if at % 2 else "human", "value": text} for at, text in enumerate(texts)]


def test_llava_rows(write: Write, tmp_path: Path) -> None:
    rows = [
        {"id": 7, "image": "a/b.jpg", "conversations": said("<image>\nWhat?", "An <image>\n owl.", "Sure?", "Yes.")},
        {"image": ["1.png", "2.png"], "conversations": said("Is\n<image>\nlike\n\n<image>", "No.")},
        {"conversations": said("Hi", "Hello")},
        {"images": [], "system": "Be brief.", "conversations": said("Hi", "Hello")},
    ]
    data = write(rows)
    assert parts(data[0]) == [[tmp_path / "a/b.jpg", "What?"], ["An <image>\n owl."], ["Sure?"], ["Yes."]]
    assert parts(data[1]) == [["Is", tmp_path / "1.png", "like\n", tmp_path / "2.png"], ["No."]]
    assert parts(data[2]) == [["Hi"], ["Hello"]]
    assert [turn.role for turn in data[3].turns] == ["system", "user", "assistant"]
    assert [turn.learn for turn in data[0].turns] == [False, True, False, True]
    assert (data[0].name, data[0].dataset, data[0].extra) == ("train.jsonl row 0", "train", {"id": 7})
    assert data[1].media[1].name == "train.jsonl row 1 image 1"
    assert (len(data), data.form) == (4, "conversations")


def test_messages_with_markers_or_typed_parts(write: Write, tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    typed = [
        {"type": "text", "text": "See <image>"},
        {"type": "image"},
        {"type": "image", "image": "b.png"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image", "path": "c.png"},
    ]
    rows = [
        {
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "x <image>"}],
            "images": ["a.png"],
        },
        {
            "messages": [{"role": "user", "content": typed}, {"role": "assistant", "content": "y", "loss": False}],
            "images": [{"bytes": None, "path": "a.png"}],
        },
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r", "loss": True}]},
    ]
    data = write(rows)
    assert parts(data[0]) == [["S"], ["x ", tmp_path / "a.png"]]
    assert parts(data[1]) == [
        ["See <image>", tmp_path / "a.png", tmp_path / "b.png", png(), tmp_path / "c.png"],
        ["y"],
    ]
    assert [turn.learn for turn in data[1].turns] == [False, False]
    assert [turn.learn for turn in data[2].turns] == [False, True]


def test_videos_stand_where_their_markers_or_parts_do(write: Write, tmp_path: Path) -> None:
    data = write(
        [
            {"video": "a.mp4", "conversations": said("<video>\nWhat?", "A <video>.")},
            {"videos": ["a.mp4", "b.mp4"], "image": "c.png", "conversations": said("<video> <image><video> hm", "x")},
        ]
    )
    kinds = [(part.kind, part.source.name) for part in data[1].turns[0].parts if isinstance(part, Media)]
    assert parts(data[0]) == [[tmp_path / "a.mp4", "What?"], ["A <video>."]]
    assert data[0].media[0].kind == "video"
    assert data[0].media[0].name == "train.jsonl row 0 video 0"
    assert kinds == [("video", "a.mp4"), ("image", "c.png"), ("video", "b.mp4")]
    bare = write([{"question": "Hm?", "answer": "x", "video": "a.mp4", "image": "c.png"}])[0]
    assert [part.kind for part in bare.media] == ["image", "video"]
    typed = [
        {"type": "video"}, {"type": "text", "text": "<video>"}, {"type": "video_url", "video_url": {"url": "b.mp4"}},
        {"type": "image"},
    ]  # fmt: skip
    row = {"messages": [{"role": "user", "content": typed}], "video": "a.mp4", "images": ["c.png"]}
    (turn,) = write([row])[0].turns
    assert [(p.kind, p.source.name) if isinstance(p, Media) else p.text for p in turn.parts] == [
        ("video", "a.mp4"), "<video>", ("video", "b.mp4"), ("image", "c.png"),
    ]  # fmt: skip


def test_a_document_is_all_its_pages_and_one_marker(write: Write, tmp_path: Path) -> None:
    pdf(tmp_path / "a.pdf")
    data = write(
        [
            {"images": ["a.pdf", "b.png"], "conversations": said("See <image> and <image>.", "x")},
            {"image": "a.pdf#page=2", "conversations": said("<image>", "x")},
            {"image": "a.pdf", "conversations": said("<image><image>", "x")},
            {"image": "gone.pdf", "conversations": said("<image>", "x")},
            {"image": "a.pdf#page=4", "conversations": said("<image>", "x")},
        ]
    )
    pages = [Page(tmp_path / "a.pdf", number) for number in (1, 2, 3)]
    assert parts(data[0])[0] == ["See ", *pages, " and ", tmp_path / "b.png", "."]
    assert [media.name for media in data[0].media][:2] == [
        "train.jsonl row 0 image 0 page 1",
        "train.jsonl row 0 image 0 page 2",
    ]
    assert parts(data[1])[0] == [pages[1]]
    with pytest.raises(RowError, match="2 markers <image> in the user's text, but 1 images"):
        data[2]
    with pytest.raises(MediaError, match=r"train.jsonl row 3 image 0 \(.*gone.pdf\): the document's file is missing"):
        data[3]
    with pytest.raises(MediaError, match=r"row 4 image 0 \(.*a.pdf\): there is no page 4, the document has 3"):
        data[4]


def test_finevision_question_and_caption_rows(write: Write, tmp_path: Path) -> None:
    both = [tmp_path / "a.png", tmp_path / "b.png"]
    fine = {"images": ["a.png", "b.png"], "texts": [{"user": "Q", "assistant": "A"}, {"user": "R", "assistant": "B"}]}
    assert parts(write([{**fine, "rating": 3}])[0]) == [[*both, "Q"], ["A"], ["R"], ["B"]]
    asked = {"image": "a.png", "question": "Q", "answer": "A"}
    data = write([asked, {**asked, "question": "So <image>?"}])
    assert [parts(one) for one in data] == [[[both[0], "Q"], ["A"]], [["So ", both[0], "?"], ["A"]]]
    assert parts(write([{"image": "a.png", "caption": "An <image>"}])[0]) == [[both[0]], ["An <image>"]]


BAD = {
    "2 markers <image> in the user's text, but 1 images": {"image": "a", "conversations": said("<image><image>", "x")},
    "0 markers <image> in the user's text, but 1 images": {"image": "a", "conversations": said("x", "<image>")},
    "1 markers <image> in the user's text, but 0 images": {"conversations": said("<image>", "x")},
    "expected a list of objects": {"conversations": []},
    "'conversations' is 'x'": {"conversations": "x"},
    "is from 'gtp'; did you mean 'gpt'": {"conversations": [{"from": "gtp", "value": "x"}]},
    "is from [1]": {"conversations": [{"from": [1], "value": "x"}]},
    "the text of message 0 is NoneType": {"conversations": [{"from": "human"}]},
    "both 'image' and 'images'": {"image": "a", "images": ["b"], "conversations": said("<image>", "x")},
    "both a field 'system'": {"system": "S", "conversations": [{"from": "system", "value": "x"}]},
    "image 0 is ''": {"image": "", "conversations": said("<image>", "x")},
    "image 0 is 7": {"image": 7, "conversations": said("<image>", "x")},
    "image 1 is None": {"images": ["a", {"path": None}], "conversations": said("<image><image>", "x")},
    "not fetched": {"image": "https://example.org/a.png", "conversations": said("<image>", "x")},
    "'loss' of message 0 is true, but a user": {"conversations": [{"from": "human", "value": "x", "loss": True}]},
    "'loss' of message 1 is 'no'": {
        "conversations": [*said("x"), {"from": "gpt", "value": "x", "loss": "no"}],
    },
    "no 'conversations', which the first row has; did you mean 'conversation'": {"conversation": said("x")},
    "no image in it and none left": {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
    "1 of 2 images stand in no part": {
        "messages": [{"role": "user", "content": [{"type": "image"}]}],
        "images": ["a", "b"],
    },
    "0 markers <video> in the user's text, but 1 videos": {"video": "a.mp4", "conversations": said("x", "<video>")},
    "1 markers <video> in the user's text, but 0 videos": {"image": "a", "conversations": said("<image><video>", "x")},
    "both 'video' and 'videos'": {"video": "a", "videos": ["b"], "conversations": said("<video>", "x")},
    "video 0 is 7": {"video": 7, "conversations": said("<video>", "x")},
    "no video in it and none left in 'videos'": {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
    "2 of 2 videos stand in no part": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "videos": ["a", "b"],
    },
    "{'type': 'sound'}": {"messages": [{"role": "user", "content": [{"type": "sound"}]}]},
    "'messages' is": {"messages": ["x"]},
}


@pytest.mark.parametrize("words", BAD)
def test_malformed_rows_are_named(words: str, write: Write) -> None:
    first = (
        {"messages": [{"role": "user", "content": "x"}]} if "messages" in BAD[words] else {"conversations": said("x")}
    )
    data = write([first, BAD[words]])
    with pytest.raises(RowError) as error:
        data[1]
    assert "train.jsonl row 1" in str(error.value)
    assert words in str(error.value)


def test_lines_that_are_no_objects_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"caption": "x"}\n\n{"caption": \n[1]\n"é"\n')
    data = open_dataset(path)
    assert len(data) == 4
    for at, words in ((1, "row 1: this is not JSON"), (2, "row 2: a row is an object, not list"), (3, "not str")):
        with pytest.raises(RowError, match=words):
            data[at]


texts = st.text(max_size=5)
values = st.recursive(texts | st.integers() | st.floats(allow_nan=False) | st.none(), st.lists, max_leaves=5)
rows = st.lists(st.dictionaries(texts, values, max_size=3), min_size=1, max_size=5)


@given(rows, st.booleans(), st.sampled_from([None, 1]), st.sampled_from([b"", b"\xef\xbb\xbf", b"\n "]))
def test_arrays_and_lines_hold_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], plain: bool, indent: int | None, head: bytes
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [{**row, "caption": str(at)} for at, row in enumerate(rows)]
    (folder / "a.json").write_bytes(head + json.dumps(rows, ensure_ascii=plain, indent=indent).encode(errors="replace"))
    lines = "\n".join(json.dumps(row, ensure_ascii=plain) for row in rows)
    (folder / "b.jsonl").write_bytes(head + lines.encode(errors="replace"))
    array, lined = open_dataset(folder / "a.json"), open_dataset(folder / "b.jsonl")
    assert (array.rows.container, lined.rows.container) == ("a JSON array", "JSON lines")
    assert [dict(array.rows[at]) for at in range(len(array))] == [dict(lined.rows[at]) for at in range(len(lined))]
    assert [parts(one) for one in array] == [[[""], [str(at)]] for at in range(len(rows))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"caption": 1}, {]', "row 1: this is not JSON"),
        ('[{"caption": 1} {}]', "after row 0 stands"),
        ('[{"caption": 1}', "after row 0 stands"),
        ('[{"caption": 1}] x', "after the array stands 'x'"),
        ('[{"caption": 1},', "row 1: this is not JSON"),
    ],
)
def test_broken_arrays_are_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(RowError, match=words):
        open_dataset(path)


def test_parquet_with_image_structs_in_several_files_and_groups(tmp_path: Path) -> None:
    rows = [
        {
            "images": [{"bytes": png(), "path": f"{at}.png"}],
            "texts": [{"user": f"Q{at}", "assistant": "A"}],
            "source": at,
        }
        for at in range(7)
    ]
    pq.write_table(pa.Table.from_pylist(rows[:5]), tmp_path / "0.parquet", row_group_size=2)
    pq.write_table(pa.Table.from_pylist(rows[5:]), tmp_path / "1.parquet")
    data = open_dataset(tmp_path, name="fine")
    assert [parts(one) for one in data] == [[[png(), f"Q{at}"], ["A"]] for at in range(7)]
    assert [data[at].name for at in (0, 4, 5, -1)] == [
        f"{n}.parquet row {r}" for n, r in ((0, 0), (0, 4), (1, 0), (1, 1))
    ]
    assert data[3].extra == {"source": 3}
    again = pickle.loads(pickle.dumps(data))
    assert parts(again[6]) == parts(data[6])
    assert len(open_dataset(tmp_path / "1.parquet")) == 2


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_webdataset_shards(tmp_path: Path) -> None:
    talk = {"image": ["l.png", "r.png"], "conversations": said("<image> or <image>?", "The first.")}
    shard(
        tmp_path / "d-000.tar",
        {
            "x/0001.jpg": png(),
            "x/0001.txt": "Ein Käuzchen".encode(),
            "x/0002.txt": b"b",
            "x/0002.PNG": png("blue"),
            "x/._0002.png": b"",
            "x/0002.cls": b"3",
        },
    )
    shard(tmp_path / "d-001.tar", {"0001.webp": png(), "0001.txt": b"c", "0001.json": b'{"url": "u"}'})
    folder, pattern = open_dataset(tmp_path), open_dataset(f"{tmp_path}/d-{{000..001}}.tar")
    for data in (folder, pattern, open_dataset(f"{tmp_path}/d-*.tar")):
        assert [parts(one) for one in data] == [[[png()], ["Ein Käuzchen"]], [[png("blue")], ["b"]], [[png()], ["c"]]]
        assert [one.name for one in data] == ["d-000.tar x/0001", "d-000.tar x/0002", "d-001.tar 0001"]
    assert folder[1].extra == {"__key__": "x/0002", "cls": b"3"}
    assert folder[2].extra == {"__key__": "0001", "url": "u"}
    other = tmp_path / "talk.tar"
    data = open_dataset(
        shard(other, {"1.left.png": png(), "1.right.png": png("blue"), "1.json": json.dumps(talk).encode()})
    )
    assert parts(data[0]) == [[png(), " or ", png("blue"), "?"], ["The first."]]
    assert parts(pickle.loads(pickle.dumps(data))[0]) == parts(data[0])


def test_shards_bring_videos_and_documents(tmp_path: Path) -> None:
    film(tmp_path / "x.mp4", 3)
    members = {
        "a.mp4": (tmp_path / "x.mp4").read_bytes(),
        "a.pdf": pdf(tmp_path / "x.pdf"),
        "a.json": json.dumps({"video": "said.mp4", "question": "Hm?", "answer": "x"}).encode(),
        "b.webm": b"1",
        "b.json": json.dumps({"videos": ["x", "y"], "question": "Hm?", "answer": "x"}).encode(),
    }
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    data = open_dataset(tmp_path / "s.tar")
    assert [media.kind for media in data[0].media] == ["image"] * 3 + ["video"]
    assert data[0].media[-1].source == members["a.mp4"]
    with pytest.raises(RowError, match=r"s.tar b: the JSON names 2 videos, the shard has 1"):
        data[1]


def test_bad_shards_are_named(tmp_path: Path) -> None:
    good = shard(tmp_path / "good.tar", {"1.txt": b"x", "1.png": png() * 50})
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.tar"):
        open_dataset(cut)
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("1.txt"))
    with pytest.raises(ValueError, match=r"two members '1\.txt'"):
        open_dataset(tmp_path / "twice.tar")
    first = {"0.txt": b"x"}
    for bad, words in (
        ({"1.txt": b"\xff\xfe"}, "not UTF-8"),
        ({"1.json": b"["}, "JSON cannot be read"),
        ({"1.json": b"[]"}, "JSON is list"),
        ({"1.txt": b"x", "1.json": b'{"caption": "y"}'}, "'caption' is given by two"),
        ({"1.json": b'{"images": ["a", "b"]}', "1.png": b""}, "names 2 images, the shard has 1"),
    ):
        data = open_dataset(shard(tmp_path / "bad.tar", first | bad))
        with pytest.raises(RowError, match=f"bad.tar 1: .*{words}"):
            data[1]


def test_a_sample_of_rows_is_random_but_always_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"caption": str(at)}) + "\n" for at in range(100)))
    one, two = (open_dataset(f"{path}#20") for _ in range(2))
    captions = [int(sample.turns[1].parts[0].text) for sample in one]
    assert captions == [int(sample.turns[1].parts[0].text) for sample in two] == sorted(set(captions))
    assert len(captions) == 20
    assert captions != list(range(20))
    assert one[3].name == f"a.jsonl row {captions[3]}"
    assert parts(one[4:7][1]) == parts(one[5])
    with pytest.raises(ValueError, match="asks for 101 rows, but there are 100"):
        open_dataset(f"{path}#101")
    odd = tmp_path / "b#3"
    path.rename(odd)
    assert len(open_dataset(odd)) == 100


def test_columns_and_image_folder_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"photo": "x.png", "ask": "Q", "reply": "A", "id": 1}) + "\n" + json.dumps({"ask": "Q"}))
    columns = {"image": "photo", "question": "ask", "answer": "reply"}
    data = open_dataset(path, columns=columns, images="/pictures", name="vqa")
    assert parts(data[0]) == [[Path("/pictures/x.png"), "Q"], ["A"]]
    assert (data[0].dataset, data[0].extra) == ("vqa", {"id": 1})
    with pytest.raises(RowError, match=r"row 1: no column 'photo' for 'image'"):
        data[1]
    with pytest.raises(ValueError, match=r"'qestion'.*did you mean 'question'"):
        open_dataset(path, columns={"qestion": "ask"})


def test_the_form_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"caption": "x"}')
    with caplog.at_level(logging.INFO, "scops.data"):
        open_dataset(path)
    assert [record.getMessage() for record in caplog.records] == ["a: 1 rows of JSON lines with 'caption'"]


def test_what_is_no_data_set_is_said(tmp_path: Path) -> None:
    def refused(words: str, content: bytes | None = None, name: str = "a.jsonl") -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            open_dataset(tmp_path / name)

    refused("has 'foo'; expected one of conversations, messages", b'{"foo": 1}')
    refused("no data set that is read", b"")
    refused("a has no rows", b"[]")
    refused("is compressed", b"\x1f\x8b\x08\x00")
    refused("did you mean 'a.jsonl'", name="a.json1")
    refused("not a readable parquet", b"PAR1owl", "b.parquet")
    refused("1 .parquet, 1 .jsonl .json files", name="")
    with pytest.raises(FileNotFoundError, match="2 of 2 files are missing"):
        open_dataset(tmp_path / "x{0,1}.tar")
    for name in ("a.jsonl", "c.jsonl"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(ValueError, match="2 JSON files"):
        open_dataset(tmp_path)


def test_braces_count_and_list() -> None:
    assert braces("a{08..10}.tar") == ["a08.tar", "a09.tar", "a10.tar"]
    assert braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert braces("plain") == ["plain"]


def test_pictures_in_memory_stay_as_they_are(tmp_path: Path) -> None:
    class Two:
        container = "a list"

        def __len__(self) -> int:
            return 1

        def __getitem__(self, number: int) -> Mapping[str, Any]:
            return {"image": image, "caption": "x"}

        def name(self, number: int) -> str:
            return "here"

    image = Image.new("RGB", (2, 2))
    sample = Dataset(Two(), "memory", images=tmp_path)[0]
    assert sample.turns[0] == Turn("user", (Media("image", image, "here image 0"),))
