"""Videos written on the spot: counted without decoding, chosen frames exactly, and what is broken told with row and file."""

import base64
import random
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scops.core.layout import WHOLE, ClipLayout, Layout, MediaLayout, PerSecond, Pixels, Slot
from scops.core.sample import Media, Sample, Text, Turn
from scops.data import video
from scops.data.errors import MediaError
from scops.data.image import prepare
from scops.data.processor import Processor
from scops.systems.mplug_owl import TEMPLATE
from scops.systems.mplug_owl_video import Clip, Evenly
from tests.films import film, level, shown, sound
from tests.tiny import tokenizer

PIXELS = Pixels(20, 28, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
KINDS = {
    "mp4, mpeg4": {},
    "mp4, h264 with frames that look ahead": {"codec": "libx264"},
    "odd sizes": {"codec": "libx264", "size": (33, 47)},
    "mkv": {"format": "matroska", "codec": "libx264"},
    "webm": {"format": "webm", "codec": "libvpx"},
    "avi": {"format": "avi"},
    "transport stream": {"format": "mpegts", "codec": "libx264"},
    "fragments": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "no steady beat": {"times": [0, 1, 5, 6, 20, 21, 22, 40, 41, 60]},
    "no steady beat, mkv": {"times": [0, 1, 5, 6, 20, 21, 22, 40, 41, 60], "format": "matroska"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_counted_frame_can_be_had_and_is_itself(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.film"
    content = film(path, 10, **KINDS[kind])
    for source in (path, str(path), content, "data:video/mp4;base64," + base64.b64encode(content).decode()):
        assert video.facts(source).count == 10
    assert all(abs(shown(image) - level(number)) <= 2 for number, image in enumerate(video.frames(path, range(10))))
    chosen = video.frames(content, (0, 3, 3, 7))
    assert [abs(shown(image) - level(number)) <= 2 for number, image in zip((0, 3, 3, 7), chosen, strict=True)]
    height, width = KINDS[kind].get("size", (32, 48))
    assert {image.size for image in chosen} == {(width, height)}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "beat" not in kind])
def test_a_video_of_one_frame(kind: str, tmp_path: Path) -> None:
    film(tmp_path / "a", 1, **KINDS[kind])
    assert video.facts(tmp_path / "a").count == 1
    assert abs(shown(video.frames(tmp_path / "a", (0, 0, 0))[2]) - level(0)) <= 2


def test_frames_a_second_are_the_average(tmp_path: Path) -> None:
    film(tmp_path / "a", 10, fps=25)
    assert video.facts(tmp_path / "a").fps == 25
    film(tmp_path / "b", 3, times=[0, 8, 16])
    assert video.facts(tmp_path / "b").fps == pytest.approx(1.4, abs=0.5)


@pytest.mark.parametrize(("turned", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1)), (270, (0, 1))])
def test_what_a_phone_wrote_beside_the_frames_turns_them(turned: int, corner: tuple, tmp_path: Path) -> None:
    """A white corner, left and above at first, goes counterclockwise."""
    film(tmp_path / "a", 2, turned=turned)
    image = np.asarray(video.frames(tmp_path / "a", (1,))[0].convert("L")).astype(int)
    assert image.shape == ((32, 48) if turned % 180 == 0 else (48, 32))
    corners = {(row, column): image[-3 if row else 3, -3 if column else 3] for row in (0, 1) for column in (0, 1)}
    assert max(corners, key=lambda at: corners[at]) == corner


def test_only_chosen_frames_are_kept(tmp_path: Path) -> None:
    film(tmp_path / "a", 60, size=(256, 256))
    tracemalloc.start()
    made = video.frames(tmp_path / "a", (0, 30, 59))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made) == 3
    assert most < 20 * 256 * 256 * 3


@pytest.mark.parametrize("number", [-1, 10])
def test_a_frame_that_is_not_there_is_told(number: int, tmp_path: Path) -> None:
    film(tmp_path / "a", 10)
    with pytest.raises(MediaError, match=rf"row 3 \(.*a\): the video says that it has frame {number}, but only 10"):
        video.frames(tmp_path / "a", (number,), "row 3")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mp4", {}),
        ("mp4", {"options": {"movflags": "faststart"}}),
        ("matroska", {}),
        ("webm", {"codec": "libvpx"}),
        ("avi", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_files_that_are_cut_off_are_refused(kind: str, options: dict, share: float, tmp_path: Path) -> None:
    content = film(tmp_path / "whole", 30, format=kind, size=(64, 64), **options)
    (tmp_path / "cut.film").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(MediaError, match=r"t.jsonl row 17 \(.*cut.film\): "):
        video.facts(tmp_path / "cut.film", "t.jsonl row 17")


BROKEN = {
    "empty": (b"", "not a whole video but an empty file"),
    "words": (b"hello", "not a whole video but text that begins 'hello'"),
    "web page": (b"<!DOCTYPE html><html>", "not a whole video but a web page"),
    "playlist": (b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n#EXT-X-ENDLIST\n", "not a whole video but text"),
    "list of files": (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a whole video but text"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_video_is_told(kind: str, tmp_path: Path) -> None:
    content, words = BROKEN[kind]
    (tmp_path / "a.mp4").write_bytes(content)
    for source in (content, tmp_path / "a.mp4"):
        with pytest.raises(MediaError, match=words) as caught:
            video.facts(source, "row 5")
        assert "row 5 (" in str(caught.value)


def test_missing_files_folders_addresses_sounds_and_pictures_are_told(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg")
    sound(tmp_path / "a.m4a")
    cases = {
        tmp_path / "none.mp4": "the video's file is missing",
        tmp_path: "the video's file is a folder",
        "https://example.org/a.mp4": "addresses are not fetched",
        tmp_path / "a.jpg": "not a whole video",
        tmp_path / "a.m4a": "no video in it, only audio",
        7: "a video is a path, bytes or a data URL",
    }
    for source, words in cases.items():
        with pytest.raises(MediaError, match=words):
            video.facts(source, "row 1")


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "a", 1)
    monkeypatch.setattr(video, "PIXEL_LIMIT", 1000)
    with pytest.raises(MediaError, match="the video is 32x48, over the limit of 1000 pixels"):
        video.facts(tmp_path / "a")


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_gives_frames_or_a_media_error(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    name, options = dice.choice(list(KINDS.items()))
    content = bytearray(film(tmp_path / "a", 10, **options))
    for _ in range(dice.randint(1, 30)):
        content[dice.randrange(len(content))] = dice.randrange(256)
    with suppress(MediaError):
        facts = video.facts(bytes(content))
        chosen = PerSecond(most=4)(facts.count, facts.fps)
        assert len(video.frames(bytes(content), chosen)) == len(chosen), name


# Layout and processor -------------------------------------------------------------------------------------------------


def processor(frames: object, **options: object) -> Processor:
    slot = lambda times: (Slot("image", 3, (WHOLE,) * len(times)),)
    media = {"image": MediaLayout(PIXELS, lambda cut: (Slot("image", 3),)), "video": ClipLayout(PIXELS, slot, frames)}
    return Processor(Layout(TEMPLATE, media, 200), tokenizer(), **options)


def asked(*parts: object, name: str = "row 9") -> Sample:
    return Sample((Turn("user", (*parts, Text("what is this?"))),), name)


def test_a_clip_is_one_item_of_its_frames_beside_pictures(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 10)
    owl = Image.new("RGB", (40, 30), "red")
    made = processor(Evenly(4))(asked(Media("video", tmp_path / "a.mp4"), Media("image", owl)), reply=True)
    assert [(span.kind, span.length, span.places) for span in made.spans] == [
        ("image", 3, (WHOLE,) * 4), ("image", 3, (WHOLE,)),
    ]  # fmt: skip
    numbers = Evenly(4)(10, 8.0)
    expected = [prepare(frame, PIXELS) for frame in video.frames(tmp_path / "a.mp4", numbers)]
    assert all(
        np.array_equal(m, e) for m, e in zip(made.media["image"], [*expected, prepare(owl, PIXELS)], strict=True)
    )
    assert len(set(made.digests["image"])) == 5


@pytest.mark.parametrize(("count", "fps"), [(1, 8), (9, 8), (40, 8), (50, 2)])
def test_promised_tokens_and_frames_are_made(count: int, fps: int, tmp_path: Path) -> None:
    """One frame a second, and an item for each."""
    film(tmp_path / "a.mp4", count, fps=fps)
    each = ClipLayout(PIXELS, lambda times: (Slot("image", 2),) * len(times), PerSecond(most=6))
    writer = Processor(Layout(TEMPLATE, {"video": each}, 200), tokenizer())
    sample = asked(Media("video", tmp_path / "a.mp4"))
    outline, made = writer.outline(sample, reply=True), writer(sample, reply=True)
    seconds = -(-count // fps)
    assert len(made.media["image"]) == len(made.spans) == len(outline.spans) == min(seconds, 6)
    assert np.array_equal(outline.ids_T, made.ids_T)


def test_digests_tell_content_policy_preparation_and_place_apart(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 10)
    film(tmp_path / "b.mp4", 11)
    one = video.digests(tmp_path / "a.mp4", (0, 0, 5), PIXELS)
    assert len(set(one)) == 3
    assert one == video.digests((tmp_path / "a.mp4").read_bytes(), (0, 0, 5), PIXELS)
    others = [
        *video.digests(tmp_path / "b.mp4", (0, 0, 5), PIXELS),
        *video.digests(tmp_path / "a.mp4", (0, 0, 6), PIXELS),
        *video.digests(tmp_path / "a.mp4", (0, 0, 5), Pixels(20, 28, (0.5,) * 3, (0.5,) * 3)),
    ]
    assert not set(one) & set(others)


def test_known_clips_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "a.mp4", 10)
    monkeypatch.setattr(video, "frames", lambda *_: pytest.fail("decoded"))
    made = processor(Evenly(3), known=lambda digest: True)(asked(Media("video", tmp_path / "a.mp4")), reply=True)
    assert not made.media
    assert len(made.digests["image"]) == 3


def test_a_system_of_pictures_refuses_videos_and_a_bad_policy_is_told(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 3)
    only = Processor(
        Layout(TEMPLATE, {"image": MediaLayout(PIXELS, lambda cut: (Slot("image", 3),))}, 200), tokenizer()
    )
    with pytest.raises(MediaError, match="takes no 'video'; known: image"):
        only(asked(Media("video", tmp_path / "a.mp4")), reply=True)
    with pytest.raises(ValueError, match=r"row 9: of 3 frames the layout chose \(0, 3\)"):
        processor(lambda count, fps: (0, 3))(asked(Media("video", tmp_path / "a.mp4")), reply=True)
    with pytest.raises(MediaError, match=r"row 9 \(.*none.mp4\): the video's file is missing"):
        processor(Evenly(3))(asked(Media("video", tmp_path / "none.mp4")), reply=True)


def test_a_clip_of_one_item_has_a_place_for_each_of_its_frames() -> None:
    assert Clip(65)((0.0, 0.5, 1.0)) == (Slot("image", 65, (WHOLE,) * 3),)
