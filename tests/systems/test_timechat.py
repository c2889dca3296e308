"""TimeChat from files to answers; its connector's golden stands in tests/connectors/test_video_qformer.py."""

# T tokens, D width
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import scops
from scops.checkpoints.write import save_tensors
from scops.connectors.qformer import QFormerSpec
from scops.connectors.video_qformer import VideoQFormerSpec, tokens_for
from scops.core.batch import Example, Span
from scops.core.layout import WHOLE
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.messages import sample_of
from scops.data.processor import Processor
from scops.encoders.eva import EvaSpec
from scops.language.llama import LlamaSpec
from scops.model import Model
from scops.models.decoder import MultimodalDecoder
from scops.nn import lora
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import spec_to_json, timechat
from scops.train.stage import enter
from tests import tiny, twins
from tests.conftest import batch_of, close, randomise
from tests.connectors.test_video_qformer import in_plain_operations
from tests.data.vocabularies import metaspace
from tests.films import film
from tests.systems import lavis_twin as twin
from tests.systems.test_stages import LANGUAGE, follow

FULL = timechat.SIZES["timechat-7b"]
EYE = EvaSpec(dim=12, hidden=20, layers=2, heads=2, image=14, patch=7)
FRAME = QFormerSpec(dim=12, hidden=20, layers=3, heads=3, queries=3, width=12, vocab=40, context=12)
VIDEO = QFormerSpec(dim=12, hidden=18, layers=2, heads=2, queries=2, width=12, every=1)
TINY = timechat.Spec(
    EYE, VideoQFormerSpec(FRAME, VIDEO, frames=7, window=2, stride=2),
    LlamaSpec(dim=24, hidden=36, layers=2, heads=4, kv_heads=2, vocab=53), frames=5,
)  # fmt: skip


def built(spec: timechat.Spec = TINY) -> MultimodalDecoder:
    return randomise(timechat.build(spec))


def row(entries: tuple[int | tuple[int, ...], ...]) -> Example:
    """Args:
    entries: ids, and for a clip the lengths of its frames' sentences.
    """
    draw, ids, spans, media, words = np.random.default_rng(len(entries)), [], [], [], []
    for entry in entries:
        if isinstance(entry, int):
            ids.append(entry)
            continue
        room = tokens_for(TINY.connector, len(entry))
        spans.append(Span("image", len(ids), room, (WHOLE,) * len(entry)))
        media += [torch.randn(3, 14, 14).numpy() for _ in entry]
        words += [draw.integers(1, 40, length) for length in entry]
        ids += [0] * room
    learn = np.array([at > 0 and not any(s.start <= at < s.start + s.length for s in spans) for at in range(len(ids))])
    return Example(
        np.array(ids), learn, tuple(spans), {"image": tuple(media)} if media else {},
        words={"image": tuple(words)} if words else {},
    )  # fmt: skip


ROWS = {
    "clip first": ((4, 6, 5), 5, 6, 7),
    "clip last": (1, 9, 8, 7, (3, 3)),
    "adjacent": (1, 3, (5,), (2, 7, 4, 1, 3, 6, 2), 4),
    "three": (1, (6, 2, 4), 2, 3, (3,), 4, (8, 1, 2, 2, 5), 8),
    "none": (1, 2, 3, 4, 5),
    "alone": ((2, 9),),
}


def rows() -> dict[str, Example]:
    return {name: row(entries) for name, entries in ROWS.items()}


def embedded(w: Mapping[str, Tensor], one: Example) -> Tensor:
    """(1, T, D): words with clips among them."""
    x = w["llama_model.model.embed_tokens.weight"][torch.from_numpy(one.ids_T)].clone()
    for span, here in one.items():
        pixels = torch.from_numpy(np.stack(one.media["image"][here]))
        seen = twin.tower(twin.below(w, "visual_encoder."), pixels, TINY.vision)
        x[span.start : span.start + span.length] = in_plain_operations(
            w, seen, one.words["image"][here], TINY.connector
        )
    return x[None]


@torch.no_grad()
def test_logits_and_best_tokens_equal_the_same_in_plain_operations_and_transformers() -> None:
    system = built()
    w = twin.named(timechat.KEYS["authors"](TINY), system)
    reference = twin.language(twin.below(w, "llama_model."), TINY.language)
    for one in rows().values():
        x = embedded(w, one)
        assert close(system.read(batch_of(one))[0], x)
        assert close(system(batch_of(one)), reference(inputs_embeds=x).logits)
        theirs = reference.generate(
            inputs_embeds=x, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0]
        session, ours = system.session(batch_of(one), len(one) + 6), []
        for _ in range(6):
            ours.append(session.logits_BV.argmax(-1))
            session.step(ours[-1])
        assert torch.cat(ours).tolist() == theirs.tolist()


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone() -> None:
    """Though what stands behind a sentence counts: it is padded to the longest of its own clip, not of the batch."""
    assert twins.rows_stand_alone(built(), rows())


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_equal_recomputing(cache: type) -> None:
    examples = list(rows().values())
    assert twins.cached_equals_recompute(built(), examples, twins.cache_of(cache, len(examples)))


@torch.no_grad()
def test_the_shared_session_equals_recomputing() -> None:
    assert twins.shared_equals_recompute(built(), list(rows().values()), tokens=300, page=3, most=4)


# How published --------------------------------------------------------------------------------------------------------


def test_keys_round_trip_bitwise() -> None:
    keys = timechat.KEYS["authors"](TINY)
    assert twins.come_back_bitwise(keys, twin.named(keys, built()))


SMALL = {
    "tiny": TINY,
    "full": FULL,
    "without sentences and windows": replace(
        TINY, connector=replace(TINY.connector, frame=replace(FRAME, vocab=0), window=0, stride=0)
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_configuration_comes_back(name: str) -> None:
    spec = SMALL[name]
    words = replace(spec.language, head_dim=spec.language.head_width)
    assert timechat.spec_of(json.loads(json.dumps(timechat.config_of(spec)))) == replace(spec, language=words)


def test_the_authors_own_words_are_enough() -> None:
    """As in eval_configs/timechat.yaml; the language model's numbers stand in its own config.json."""
    said = {
        "arch": "timechat", "image_size": 224, "num_query_token": 32, "max_frame_pos": 96, "qformer_text_input": True,
        "window_size": 32, "stride": 32, "text_config": {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
    }  # fmt: skip
    assert timechat.spec_of(said) == FULL
    assert timechat.spec_of({"arch": "minigpt4"}) is None
    plain = timechat.spec_of({"arch": "timechat", "text_config": {}})  # the code's defaults
    assert (plain.connector.frames, plain.connector.window, plain.connector.frame.vocab) == (32, 0, 0)


def test_full_size_has_the_published_shapes_and_the_counts_of_its_parts() -> None:
    with torch.device("meta"):
        system = timechat.build(FULL)
    parts = system.image.encoder, system.image.connector, system.language
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    attention, mlp, norm = 4 * (768**2 + 768), 2 * 768 * 3072 + 3072 + 768, 2 * 768
    cross = lambda width: 2 * (768**2 + 768) + 2 * (width * 768 + 768) + norm
    frame = 12 * (attention + 2 * mlp + 3 * norm) + 6 * cross(1408) + 768 * (30523 + 512 + 32) + norm
    video = 2 * (attention + mlp + 2 * norm + cross(768)) + 768 * 32 + norm
    rest = 2 * 1408 + 96 * 768 + 768 * 4096 + 4096
    assert counts == [985_894_528, frame + video + rest, 6_738_415_616]
    names = timechat.KEYS["authors"](FULL).save(system.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in names.items()}
    assert shapes["Qformer.bert.embeddings.word_embeddings.weight"] == (30523, 768)
    assert shapes["Qformer.bert.encoder.layer.11.output.dense.weight"] == (768, 3072)
    assert shapes["video_Qformer.bert.encoder.layer.1.crossattention.self.key.weight"] == (768, 768)
    assert shapes["video_query_tokens"] == (1, 32, 768)
    assert shapes["video_frame_position_embedding.weight"] == (96, 768)
    assert shapes["llama_proj.weight"] == (4096, 768)
    assert "video_Qformer.bert.encoder.layer.0.output.dense.weight" not in shapes
    assert tokens_for(FULL.connector, 96) == 96


def test_a_release_is_opened_with_the_files_around_it(tmp_path: Path) -> None:
    """It holds what was trained: all of the connector but its first norm, and adapters."""
    made = tiny.timechat()
    state = twin.named(timechat.KEYS["authors"](made.spec), made.module)
    groups = replace(timechat.LORA, rank=3, alpha=6.0)
    lora.add(made.module, groups)
    with torch.no_grad():
        for _, b in lora.adapters(made.module).values():
            b.normal_()
    released = {n: x for n, x in state.items() if not n.startswith(("visual_encoder.", "ln_vision", "llama_model."))}
    for path, pair in lora.adapters(made.module).items():
        _, _, number, *_, name = path.split(".")
        for half, x in zip("AB", pair, strict=True):
            theirs = (
                f"llama_model.base_model.model.model.layers.{number}.self_attn.{name}_proj.lora_{half}.default.weight"
            )
            released[theirs] = x.detach()
    assert "Qformer.bert.embeddings.word_embeddings.weight" in released
    home = tmp_path / "timechat"
    for folder in ("llama", "timechat"):
        (tmp_path / folder).mkdir()
    torch.save({"model": twin.below(state, "visual_encoder.")}, tmp_path / "eva_vit_g.pth")
    others = {n: x + 1 for n, x in state.items() if n.startswith(("Qformer.", "query_tokens"))}
    norm = {n: x for n, x in state.items() if n.startswith("ln_vision")}
    torch.save(others | norm | {"llm_proj.weight": torch.ones(2, 2)}, tmp_path / "instruct_blip.pth")
    save_tensors(tmp_path / "llama" / "model.safetensors", twin.below(state, "llama_model."))
    made.tokenizer.save(tmp_path / "llama")
    torch.save({"model": released}, home / "timechat_7b.pth")
    said = {
        "size": "timechat-7b", "overrides": spec_to_json(made.spec), "tokenizer": "../llama",
        "qformer_tokenizer": "../llama/qformer_tokenizer",
        "weights": {"": "timechat_7b.pth", "image.encoder": "../eva_vit_g.pth", "image.connector": "../instruct_blip.pth",
                    "language": "../llama"},
        "lora": [{"targets": groups.targets, "rank": 3, "alpha": 6.0, "dropout": 0.1}],
    }  # fmt: skip
    (home / "parts.json").write_text(json.dumps(said))
    loaded = scops.load(home)
    ours = made.module.state_dict()
    assert all(torch.equal(x, ours[name]) for name, x in loaded.module.state_dict().items())
    film(clip := tmp_path / "a.mp4", 9)
    assert loaded.chat("hm", [clip], max_tokens=7) == made.chat("hm", [clip], max_tokens=7)
    (tmp_path / "instruct_blip.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"instruct_blip\.pth"):
        scops.load(home)


# How read -------------------------------------------------------------------------------------------------------------

ASKED = (
    "You are able to understand the visual content that the user provides. "
    "Follow the instructions carefully and explain your answers in detail."
)
ROOM = "<ImageHere>"


def ids_of(tokenizer: scops.data.tokenizer.Tokenizer, pieces: tuple[str, ...], room: int) -> list[int]:
    made: list[int] = []
    for piece in pieces:
        if piece == ROOM:
            made += [0] * room
        else:
            made += [tokenizer.id_of(piece)] if piece in ("<s>", "</s>") else tokenizer.encode_text(piece)
    return made


def test_prompts_are_written_as_the_released_code_asks(tmp_path: Path) -> None:
    """Two spaces before the question, as its `ask` joins what ends in one."""
    tokenizer = metaspace()
    tokenizer.beside = tiny.bert_tokenizer()
    film(clip := tmp_path / "a.mp4", 7, fps=2)
    turns = (
        Turn("user", (Media("video", clip), Text("when?"))), Turn("assistant", (Text("now"),)), Turn("user", (Text("sure?"),)),
    )  # fmt: skip
    spec = replace(TINY, language=replace(TINY.language, context=2000))
    made = Processor(timechat.layout(spec), tokenizer)(Sample(turns), reply=True)
    told = "The video contains 5 frames sampled at 0.0, 0.5, 1.0, 2.0, 2.5 seconds. "
    pieces = (
        "<s>", f"[INST] <<SYS>>\n{ASKED}\n<</SYS>>\n\n<Video>", ROOM, f"</Video> {told} when? [/INST]now", "</s>", "<s>",
        "[INST] sure? [/INST]",
    )  # fmt: skip
    assert made.ids_T.tolist() == ids_of(tokenizer, pieces, 6)
    assert [tokenizer.beside.decode(ids_T.tolist()) for ids_T in made.words["image"]] == [
        f"This frame is sampled at {seconds} second." for seconds in ("0.0", "0.5", "1.0", "2.0", "2.5")
    ]
    shown = (Turn("user", (Media("image", tiny.picture()), Text("what?"))),)
    made = Processor(timechat.layout(spec), tokenizer)(Sample(shown), reply=True)
    pieces = ("<s>", f"[INST] <<SYS>>\n{ASKED}\n<</SYS>>\n\n<Image>", ROOM, "</Image>  what? [/INST]")
    assert made.ids_T.tolist() == ids_of(tokenizer, pieces, 2)


def test_what_the_authors_train_on_is_learnt() -> None:
    tokenizer = metaspace()
    turns = []
    for question, answer in (("when?", "now"), ("sure?", "yes")):
        turns += [Turn("user", (Text(question),)), Turn("assistant", (Text(answer),), learn=True)]
    made = Processor(timechat.layout(replace(TINY, language=replace(TINY.language, context=900))), tokenizer)(
        Sample(tuple(turns))
    )
    learnt = tokenizer.decode(made.ids_T[made.learn_T].tolist(), skip_special=False)
    assert learnt.replace(" ", "") == "now</s>yes</s>"


@pytest.mark.parametrize("count", [1, 2, 3, 95, 96, 97, 100, 191, 192, 1001, 54_321])
def test_frames_are_chosen_as_published(count: int) -> None:
    chosen = timechat.Evenly(96)(count, 25.0)
    frames = min(96, count)
    assert chosen == tuple(np.arange(0, count, count / frames).astype(int).tolist())[:frames]
    assert len(chosen) == frames
    assert chosen[0] == 0
    assert all(0 <= number < count for number in chosen)


def test_where_rounding_makes_the_published_rule_choose_one_too_many_we_do_not() -> None:
    """Never for the released 96 frames."""
    published = {(n, most): len(np.arange(0, n, n / most)) for most in range(1, 40) for n in range(most, 400)}
    odd = [pair for pair, chosen in published.items() if chosen != pair[1]]
    assert odd
    assert all(len(timechat.Evenly(most)(n, 25.0)) == most for n, most in odd)


@pytest.fixture(scope="module")
def model() -> Model:
    made = tiny.timechat()
    with torch.no_grad():
        made.module.image.connector.project.weight *= 30  # random pictures speak softly
    return made


def test_clips_and_pictures_are_asked_about(model: Model, tmp_path: Path) -> None:
    film(clip := tmp_path / "a.mp4", 12, size=(40, 50))
    film(short := tmp_path / "b.mp4", 3)
    asks = [[clip, "what is this?"], [short, clip, "hm"], ["hm"], [tiny.picture(), "what is this?"]]
    said = [model.chat(ask, max_tokens=8) for ask in asks]
    assert model.generate(asks, max_tokens=8) == said
    assert model.chat("what is this?", videos=[clip.read_bytes()], max_tokens=8) == said[0]


def test_when_frames_were_taken_changes_what_is_read(model: Model, tmp_path: Path) -> None:
    """The same pictures at another speed."""
    film(tmp_path / "a.mp4", 5, fps=8)
    film(tmp_path / "b.mp4", 5, fps=2)
    made = [model.processor(sample_of("hm", [tmp_path / name]), reply=True) for name in ("a.mp4", "b.mp4")]
    pictures = [torch.from_numpy(np.stack(one.media["image"])) for one in made]
    assert (pictures[0] - pictures[1]).abs().max() < 0.5
    with torch.no_grad():
        first, second = (model.module.connect(batch_of(one))["image"][0] for one in made)
    assert (first - second).abs().max() > 1e-3


def test_more_frames_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="clips of 8 frames are asked for, but there are positions for 7"):
        replace(TINY, frames=8)
    with pytest.raises(ValueError, match="a clip has 8 frames, but there are positions for 7"):
        built()(batch_of(Example(
            np.zeros(8, np.int64), np.zeros(8, np.bool_), (Span("image", 0, 8, (WHOLE,) * 8),),
            {"image": tuple(np.zeros((8, 3, 14, 14), np.float32))},
        )))  # fmt: skip


# How trained ----------------------------------------------------------------------------------------------------------

LEARNS = tuple(f"image.connector.{name}." for name in ("frame", "positions", "video", "project"))
STAGES = {"timechat-7b": ((LEARNS, "q k v o"),)}


@pytest.mark.parametrize("recipe", STAGES)
def test_stages_of_timechat_move_exactly_what_they_name(recipe: str) -> None:
    batch = batch_of(*(one for name, one in rows().items() if name in ("clip first", "adjacent", "three")))
    spec = replace(TINY, language=replace(LANGUAGE, tied=False))
    follow(built(spec), timechat.STAGES[recipe], STAGES[recipe], batch)


def test_no_recipe_is_left_out_here() -> None:
    assert timechat.STAGES.keys() == STAGES.keys()


def test_the_full_size_learns_all_of_the_connector_but_its_first_norm() -> None:
    with torch.device("meta"):
        system = timechat.build(FULL)
    whole = sum(p.numel() for p in system.image.connector.parameters())
    trainables = enter(system, timechat.STAGES["timechat-7b"][0])
    adapters = 32 * 4 * 2 * 32 * 4096  # 32 blocks, 4 projections, two matrices of rank 32
    assert sum(p.numel() for p in trainables.values()) == whole - 2 * 1408 + adapters
