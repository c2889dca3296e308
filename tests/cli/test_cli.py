"""The command line: its words are frozen, errors are one line, every verb answers, help comes without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import scops
from scops.cli.app import app, main
from scops.cli.cost import plain
from tests import tiny
from tests.data.test_documents import pdf
from tests.films import film

VERBS = {
    "ls": {"--json"},
    "info": {"--figure", "--json"},
    "cost": {"--image", "--video", "--pages", "--text", "--max-tokens", "--dtype", "--quantise", "--tokenizer", "--json"},
    "chat": {"--system", "--max-tokens", "--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty", "--seed",
             "--stop", "--dtype", "--device", "--quantise", "--json"},
    "train": set(),
    "demo": {"--folder", "--each"},
    "eval": {"--limit", "--batch", "--max-tokens", "--out", "--dtype", "--device", "--quantise", "--json"},
    "score": {"--text", "--dtype", "--device", "--json"},
    "retrieve": {"--text", "--image", "--top", "--judged", "--keep", "--no-keep", "--dtype", "--device", "--json"},
    "data check": {"--model", "--limit", "--json"},
    "data show": {"--model", "--limit"},
    "convert": {"--layout", "--merge", "--quantise", "--dtype", "--json"},
    "verify": {"--golden", "--json"},
    "env": {"--json"},
}  # fmt: skip


class Said:
    """What a command printed, and its status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> object:
    def run(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        printed = capsys.readouterr()
        return Said(int(stopped.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.owl().save(tmp_path_factory.mktemp("models") / "owl")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    tiny.picture().save(path)
    return path


@pytest.fixture(scope="module")
def rows(picture: Path) -> Path:
    """Two good rows, one without an answer, one whose picture is missing."""

    def row(question: list, *answers: str, **extra: object) -> dict:
        return {
            "messages": [{"role": "user", "content": question}, *({"role": "assistant", "content": a} for a in answers)]
        } | extra

    image = {"type": "image", "image": picture.name}
    words = {"type": "text", "text": "what is this?"}
    path = picture.parent / "rows.jsonl"
    found = [
        row([image, words], "an owl", task="name", truth="owl"),
        row([words], "two", task="count", truth={"count": "2"}),
        row([words]),
        row([{"type": "image", "image": "gone.png"}, words], "an owl", task="name", truth="owl"),
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in found))
    return path


# Words ----------------------------------------------------------------------------------------------------------------


def options_of(verb: str) -> set[str]:
    """Long options, from the verb's help."""
    wide = {"COLUMNS": "300", "TERMINAL_WIDTH": "300"}
    shown = CliRunner().invoke(app, [*verb.split(), "--help"], env=wide)
    assert shown.exit_code == 0, shown.output
    words = shown.output.replace("│", " ").split()
    return {word.rstrip(",") for word in words if word.startswith("--") and word[2:3].isalpha()} - {"--help"}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_options_are_frozen(verb: str) -> None:
    assert options_of(verb) == VERBS[verb]


def test_the_verbs_are_frozen() -> None:
    listed = {command.name or command.callback.__name__ for command in app.registered_commands}
    groups = {group.name: {c.name for c in group.typer_instance.registered_commands} for group in app.registered_groups}
    assert listed | {f"{name} {verb}" for name, verbs in groups.items() for verb in verbs} == set(VERBS)


def test_version(say) -> None:
    assert (said := say("--version")).status == 0
    assert said.out.strip() == f"scops {scops.__version__}"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["chat", "--help"], ["ls"]])
def test_quick_answers_do_not_import_torch(arguments: list[str]) -> None:
    heavy = "sorted({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    look = f"import sys, atexit; atexit.register(lambda: print('HEAVY', {heavy}))\n"
    code = f"{look}from scops.cli.app import main; main({arguments!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []")


def test_importing_scops_imports_nothing_heavy() -> None:
    code = "import sys, scops; scops.__version__; print({'torch', 'numpy', 'typer', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "owl-tyni"], "did you mean 'owl-tiny'"),
        (["chat", "owl-nan", "hi"], "did you mean 'owl-nano'"),
        (["chat", "some/where/else", "hi"], "neither a folder nor a file"),
        (["chat", "owl-tiny", "gone.png", "hi"], "gone.png looks like a picture, but there is no such file"),
        (["chat", "owl-tiny", "gone.mp4", "hi"], "gone.mp4 looks like a video, but there is no such file"),
        (
            ["chat", "owl-tiny", "gone.pdf#page=2", "hi"],
            "gone.pdf#page=2 looks like a document, but there is no such file",
        ),
        (["verify", "nowhere"], "nowhere is no folder"),
        (["data", "check", "gone.jsonl"], "gone.jsonl does not exist"),
        (["train", "gone.yaml"], "gone.yaml"),
    ],
)
def test_an_error_is_one_clear_line_and_a_status(say, arguments: list[str], words: str) -> None:
    said = say(*arguments)
    assert said.status == 1
    assert said.err.startswith("error: ")
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not said.out


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="owl-tyni"):
        main(["info", "owl-tyni", "--debug"])


def test_wrong_words_are_a_usage_error(say) -> None:
    assert say("tchat").status == 2
    assert say("chat").status == 2
    assert say("ls", "--jason").status == 2


# Verbs ----------------------------------------------------------------------------------------------------------------


def test_ls_lists_systems_sizes_and_parts(say) -> None:
    found = json.loads(say("ls", "--json").out)
    assert {"mplug-owl", "owl-small", "llama"} <= {system["name"] for system in found["systems"]}
    assert all(system["paper"] and system["title"] for system in found["systems"])
    assert {"efficientnet", "vit", "abstractor", "llama"} <= {part["name"] for part in found["parts"]}
    assert all(part["says"] for part in found["parts"])
    shown = say("ls").out
    assert all(size in shown for system in found["systems"] for size in system["sizes"])


def test_info_counts_the_published_size_by_role(say) -> None:
    found = json.loads(say("info", "mplug-owl", "--json").out)
    assert found["parameters"] == 7_123_068_928
    by_role = {role["role"]: role["parameters"] for role in found["roles"]}
    assert (by_role["image.encoder"], by_role["language"]) == (303_179_776, 6_738_415_616)
    assert sum(by_role.values()) == found["parameters"]
    assert found["media"]["image"]["tokens"] == 65
    assert found["layouts"] == ["authors"]
    shown = say("info", "mplug-owl").out
    assert "7,123,068,928" in shown
    assert "arXiv 2304.14178" in shown


def test_info_reads_a_folder(say, owl: Path) -> None:
    found = json.loads(say("info", owl, "--json").out)
    assert found["system"] == "owl-small"
    assert found["spec"]["side"] == 64


def test_info_draws_a_figure(say, owl: Path, tmp_path: Path) -> None:
    said = say("info", owl, "--figure", tmp_path / "owl.svg", "--json")
    assert json.loads(said.out) == {"name": owl.name, "figure": str(tmp_path / "owl.svg")}
    assert (tmp_path / "owl.svg").read_text("utf-8").startswith("<svg ")
    assert "name it owl.svg" in say("info", owl, "--figure", tmp_path / "owl.png").err


def test_cost_tells_what_a_question_takes(say, owl: Path, picture: Path) -> None:
    asked = ["--image", "90x40", "--image", picture, "--text", "what is this?", "--max-tokens", 9]
    found = json.loads(say("cost", owl, *asked, "--json").out)
    cost = scops.cost(owl, images=["90x40", str(picture)], text="what is this?", max_tokens=9)
    assert found == json.loads(json.dumps(plain(cost)))
    assert found["prompt"]["tokens"] == cost.prompt.tokens
    assert [medium["tokens"] for medium in found["prompt"]["media"]] == [4, 4]
    assert found["flops"]["prefill"] == sum(found["flops"][name] for name in ("encode", "connect", "read"))
    assert found["flops"]["reply"] == cost.flops.reply(9)
    assert found["bytes"]["peak"] == cost.bytes.peak
    assert found["fits"]
    shown = say("cost", owl, *asked).out
    for words in ("image 1 90x40", "1 picture x 4", f"image 2 {picture}", "image.encoder", "keys and values", "FLOPs"):
        assert words in shown
    assert "at hand" not in shown


def test_cost_says_how_a_picture_is_cut_and_what_does_not_fit(say, tmp_path: Path) -> None:
    folder = tiny.ureader().save(tmp_path / "reader")
    (folder / "tokenizer.json").unlink()
    shown = say("cost", folder, "--image", "300x900", "--text", 500).out
    assert "3x1: 1 whole picture x 4 + 3 tiles x 4" in shown
    assert "This does not fit: " in shown
    assert "No tokenizer is at hand" in shown
    wider = say("cost", folder, "abstractor.queries=7", "--image", "300x900").out
    assert "3x1: 1 whole picture x 8 + 3 tiles x 8" in wider


def test_cost_counts_beside_the_sequence_and_frames(say, tmp_path: Path) -> None:
    folder = tiny.owl3().save(tmp_path / "owl3")
    shown = say("cost", folder, "--video", "2@4", "--pages", 1).out
    assert "video 1 2 s at 4 a second" in shown
    assert "2 frames x 4" in shown
    assert "beside the sequence" in shown
    assert "neither a length (SECONDS or SECONDS@FPS" in say("cost", folder, "--video", "soon").err


def test_chat_answers_about_a_picture(say, owl: Path, picture: Path) -> None:
    wanted = scops.load(owl).chat([picture, "what is this?"], max_tokens=7)
    assert say("chat", owl, picture, "what", "is", "this?", "--max-tokens", 7).out == wanted + "\n"
    found = json.loads(say("chat", owl, picture, "what is this?", "--max-tokens", 7, "--json").out)
    assert found["reply"] == wanted
    assert found["asked"] == [{"image": str(picture)}, {"text": "what is this?"}]
    assert found["tokens"]["reply"] <= 7


def test_chat_keeps_the_order_of_pictures_and_words(say, owl: Path, picture: Path) -> None:
    found = json.loads(say("chat", owl, "first", picture, "then", picture, "--max-tokens", 3, "--json").out)
    assert [next(iter(part)) for part in found["asked"]] == ["text", "image", "text", "image"]


def test_chat_repeats_with_a_seed(say, owl: Path) -> None:
    hot = ["chat", owl, "an owl", "--max-tokens", 12, "--temperature", 1.5]
    assert say(*hot, "--seed", 3).out == say(*hot, "--seed", 3).out
    assert len({say(*hot, "--seed", seed).out for seed in range(4)}) > 1


def test_pictures_without_words_ask_for_words(say, owl: Path, picture: Path) -> None:
    assert "no words" in say("chat", owl, picture).err


def test_chat_answers_about_videos_and_documents(say, tmp_path: Path) -> None:
    folder, clip, report = tiny.mplug_video().save(tmp_path / "video"), tmp_path / "a.mp4", tmp_path / "b.pdf"
    film(clip, 5)
    pdf(report)
    wanted = scops.load(folder).chat([clip, "what is this?"], max_tokens=5)
    assert say("chat", folder, clip, "what is this?", "--max-tokens", 5).out == wanted + "\n"
    found = json.loads(say("chat", folder, "see", report, f"{report}#page=2", "hm", "--max-tokens", 3, "--json").out)
    assert [list(part) for part in found["asked"]] == [["text"], *[["image"]] * 4, ["text"]]
    assert [part["image"] for part in found["asked"][1:5]] == [f"{report}#page={n}" for n in (1, 2, 3, 2)]
    assert "takes no 'video'" in say("chat", tiny.owl().save(tmp_path / "owl"), clip, "hm").err
    clip.write_bytes(clip.read_bytes()[:200])
    assert "a.mp4: this is not a whole video" in say("chat", folder, clip, "hm").err
    report.write_bytes(b"%PDF-1.4 hm")
    assert "b.pdf): this is cut off, damaged or without pages" in say("chat", folder, report, "hm").err


def test_a_conversation_shows_videos_and_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say) -> None:
    folder, clip = tiny.mplug_video().save(tmp_path / "video"), tmp_path / "film.bin"
    film(clip, 5)
    (tmp_path / "bad.pdf").write_bytes(b"hm")
    lines = iter([f"/video {clip}", f"/image {tmp_path / 'bad.pdf'}", "what is this?", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    said = say("chat", folder, "--max-tokens", 5)
    assert said.out == scops.load(folder).chat("what is this?", videos=[clip], max_tokens=5) + "\n"
    assert "no PDF document but text that begins 'hm'" in said.err


def test_a_broken_picture_is_named(say, owl: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 30)
    said = say("chat", owl, tmp_path / "torn.png", "what?")
    assert said.status == 1
    assert "torn.png" in said.err


def test_a_conversation_from_standard_input(owl: Path, picture: Path) -> None:
    lines = [
        "what is this?",
        f"/image {picture}",
        "/image gone.png",
        "and this?",
        "/reset",
        "hm",
        "/nonsense",
        "/quit",
        "never",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "scops.cli.app", "chat", str(owl), "--max-tokens", "6"],
        input="\n".join(lines), capture_output=True, text=True, encoding="utf-8", env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = scops.load(owl)
    first = model.chat("what is this?", max_tokens=6)
    second = model.chat(
        [
            {"role": "user", "content": "what is this?"},
            {"role": "assistant", "content": first},
            {"role": "user", "content": [{"type": "image", "image": str(picture)}, "and this?"]},
        ],
        max_tokens=6,
    )
    assert done.stdout == "".join(f"{said}\n" for said in (first, second, model.chat("hm", max_tokens=6)))
    assert "no file 'gone.png'" in done.stderr


@pytest.mark.parametrize("name", ["skip", "blip2_pairs"])
def test_score_and_retrieve_say_what_the_model_says(
    say, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOPS_CACHE", str(tmp_path / "cache"))
    folder, shown = tiny.MODELS[name]().save(tmp_path / "m"), [tmp_path / "p" / f"{n}.png" for n in ("red", "blue")]
    (tmp_path / "p").mkdir()
    for path in shown:
        tiny.picture(path.stem).save(path)
    model, texts = scops.load(folder), ["an owl", "a branch"]
    wanted = model.score(shown, texts)
    asked = [word for text in texts for word in ("--text", text)]
    pairs = json.loads(say("score", folder, *shown, *asked, "--json").out)["pairs"]
    assert [(pair["picture"], pair["text"]) for pair in pairs] == [(str(p), t) for p in shown for t in texts]
    assert [pair["match"] for pair in pairs] == pytest.approx(wanted.match_NK.flatten().tolist(), abs=1e-5)
    assert [pair["likeness"] for pair in pairs] == pytest.approx(wanted.likeness_NK.flatten().tolist(), abs=1e-5)
    printed = say("score", folder, *shown, *asked).out
    assert all(word in printed for word in (str(shown[0]), "a branch", "match", "%"))
    found = json.loads(say("retrieve", folder, tmp_path / "p", "--text", "an owl", "--judged", 1, "--json").out)
    ranking = model.retrieve(tmp_path / "p", text="an owl", judged=1).found
    assert [one["name"] for one in found["found"]] == [one.name for one in ranking]
    assert found["found"][1]["match"] is None
    assert str(shown[0]) in say("retrieve", folder, tmp_path / "p", "--text", "an owl", "--no-keep").out
    (tmp_path / "lines.txt").write_text("an owl\na branch\nthe user\n")
    found = json.loads(say("retrieve", folder, tmp_path / "lines.txt", "--image", shown[0], "--top", 2, "--json").out)
    assert (found["of"], len(found["found"])) == (3, 2)
    (tmp_path / "p" / "torn.png").write_bytes(b"no picture")
    said = say("retrieve", folder, tmp_path / "p", "--text", "an owl", "--json")
    assert json.loads(said.out)["of"] == 2
    assert "left out: " in said.err
    assert "torn.png" in said.err


def test_score_and_retrieve_refuse_what_cannot_be_asked(say, owl: Path, picture: Path) -> None:
    for words in (["score", owl, picture, "--text", "hm"], ["retrieve", owl, picture.parent, "--text", "hm"]):
        said = say(*words)
        assert said.status == 1
        assert "these systems do: mplug, blip2-qformer" in said.err
    assert "one of them" in say("retrieve", owl, picture.parent).err
    assert "gone.png: there is no such file" in say("score", owl, "gone.png", "--text", "hm").err
    assert "gone.png: there is no such file" in say("retrieve", owl, picture.parent, "--image", "gone.png").err


def test_eval_marks_every_answer(say, owl: Path, rows: Path, tmp_path: Path) -> None:
    found = json.loads(say("eval", owl, rows, "--max-tokens", 5, "--out", tmp_path / "r.json", "--json").out)
    assert {task: scores["questions"] for task, scores in found["scores"].items()} == {"name": 1, "count": 1, "all": 2}
    assert found["dropped"]["rows"] == 2
    assert set(found["dropped"]["by"]) == {"NoAnswer", "MediaError"}
    assert {"sampling", "preprocessing", "versions", "prompts_sha256", "data", "model"} <= set(found)
    whole = json.loads((tmp_path / "r.json").read_text())
    model = scops.load(owl)
    assert [row["reply"] for row in whole["replies"]] == [
        model.chat([rows.parent / "red.png", "what is this?"], max_tokens=5), model.chat("what is this?", max_tokens=5),
    ]  # fmt: skip
    assert whole["prompts_sha256"] == found["prompts_sha256"]
    again = json.loads(say("eval", owl, rows, "--max-tokens", 5, "--batch", 1, "--json").out)
    assert (again["scores"], again["prompts_sha256"]) == (found["scores"], found["prompts_sha256"])
    printed = say("eval", owl, rows, "--max-tokens", 5, "--limit", 1).out
    assert all(word in printed for word in ("name", "exact", "anls"))
    assert all(0 <= row["anls"] <= 1 for row in whole["replies"])


def test_eval_of_rows_that_cannot_be_asked_fails(say, owl: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    said = say("eval", owl, tmp_path / "rows.jsonl")
    assert (said.status, "none of 1 rows can be asked" in said.err) == (1, True)


def test_data_check_counts_and_data_show_shows(say, owl: Path, rows: Path) -> None:
    found = json.loads(say("data", "check", rows, "--model", owl, "--json").out)
    assert (found["rows"], found["images"]) == (4, 2)
    assert found["drops"] == {"NothingToLearn": 1, "MediaError": 1}
    assert "4 of 4 rows" in say("data", "check", rows, "--model", owl).out
    shown = say("data", "show", rows, "--model", owl, "--limit", 4).out
    assert "[image: 4 tokens]" in shown
    assert "dropped (MediaError)" in shown


def test_data_without_a_usable_row_fails(say, owl: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    assert say("data", "check", tmp_path / "rows.jsonl", "--model", owl).status == 1


def test_convert_goes_there_and_back(say, tmp_path: Path) -> None:
    ours, theirs, back = (tmp_path / name for name in ("ours", "theirs", "back"))
    tiny.mplug().save(ours)
    assert "model.safetensors" in json.loads(say("convert", ours, theirs, "--layout", "authors", "--json").out)["files"]
    assert say("convert", theirs, back).status == 0
    assert (ours / "model.safetensors").read_bytes() == (back / "model.safetensors").read_bytes()
    assert "there already" in say("convert", ours, theirs).err
    assert "did you mean 'authors'" in say("convert", ours, tmp_path / "x", "--layout", "author").err


def test_verify_says_what_is_wrong_by_its_status(say, owl: Path, tmp_path: Path) -> None:
    found = json.loads(say("verify", owl, "--json").out)
    assert found["good"]
    model = tiny.text_only()
    with __import__("torch").no_grad():
        model.module.language.norm.weight[0] = float("nan")
    said = say("verify", model.save(tmp_path / "m"))
    assert said.status == 1
    assert "1 NaN" in said.out


def test_env_says_versions_and_threads(say) -> None:
    found = json.loads(say("env", "--json").out)
    assert found["versions"]["scops"] == scops.__version__
    assert found["torch"]["threads"] >= 1
    assert "folder" in found["cache"]
    assert "torch" in say("env").out


def test_a_real_process_answers_and_fails(owl: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "scops.cli.app", *arguments], capture_output=True, text=True)

    good = run("chat", str(owl), "hi", "--max-tokens", "3", "--json")
    assert good.returncode == 0
    assert json.loads(good.stdout)["ended"] in ("stop", "length")
    bad = run("info", "nothing-like-it")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "Traceback" not in bad.stderr
