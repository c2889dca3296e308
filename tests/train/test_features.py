"""What a frozen encoder makes is made once."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from scops.core.layout import WHOLE
from scops.data.collate import pad
from scops.systems import mplug_owl_video
from scops.train import features as features_module
from scops.train.batches import Batcher
from scops.train.features import Features
from scops.train.run import Plan
from scops.train.stage import enter
from tests.conftest import close, randomise
from tests.conftest import example as row_of
from tests.systems.test_mplug_owl_video import ROOM, TINY
from tests.train.toy import STAGES, Toy, Writer, go, rows, run


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_losses_do_not_change_by_the_cache_and_each_picture_is_seen_once(tmp_path):
    modules = {kind: Toy() for kind in ("off", "memory", "disk")}
    for kind, module in modules.items():
        go(tmp_path / kind, module, feature_cache=kind)
    assert losses(tmp_path / "off") == pytest.approx(losses(tmp_path / "memory"), abs=1e-5)
    assert losses(tmp_path / "disk") == losses(tmp_path / "memory")
    pictures = sum(1 for row in rows(17) if row.extra[1])
    assert [modules[kind].encoded for kind in ("memory", "disk")] == [pictures, pictures]
    assert modules["off"].encoded > 3 * pictures


def test_a_second_run_reads_from_disk(tmp_path):
    go(tmp_path / "one", feature_cache="disk", feature_cache_dir=str(tmp_path / "kept"))
    module = Toy()
    go(tmp_path / "two", module, feature_cache="disk", feature_cache_dir=str(tmp_path / "kept"))
    assert module.encoded == 0
    assert losses(tmp_path / "one") == losses(tmp_path / "two")


def test_another_encoder_has_another_folder(tmp_path):
    go(tmp_path / "one", feature_cache="disk", feature_cache_dir=str(tmp_path / "kept"))
    module = Toy(seed=1)
    go(tmp_path / "two", module, feature_cache="disk", feature_cache_dir=str(tmp_path / "kept"))
    assert module.encoded > 0
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_shards_hold_all_and_memory_stays_within_its_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "SHARD", 3)
    module, made = Toy().eval(), [Writer()(row) for row in rows(17)]
    batch = pad(made, pad_id=0)
    with torch.no_grad():
        expected = module.encode(batch)["image"]
    small = Features(folder=tmp_path / "f", budget=100)
    for example in made:
        small.of(module, pad([example], pad_id=0), [example], dtype=torch.float32)
    small.flush()
    assert small.bytes <= 100
    again = Features(folder=tmp_path / "f", budget=100)
    before = module.encoded
    found = again.of(module, pad(made, pad_id=0), made, dtype=torch.float32)["image"]
    assert module.encoded == before
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_one_picture_can_be_asked_for_by_its_digest():
    module, made = Toy().eval(), Writer()(rows(1)[0])
    store, batch = Features(folder=None, budget=1000), pad([made], pad_id=0)
    expected = store.of(module, batch, [made], dtype=torch.float32)["image"][0]
    assert torch.equal(store.kept("image", made.digests["image"][0]), expected)
    assert store.kept("image", "f" * 64) is None
    assert store.kept("video", made.digests["image"][0]) is None


def test_without_disk_a_full_memory_encodes_again(tmp_path):
    module, example = Toy().eval(), Writer()(rows(1)[0])
    none = Features(folder=None, budget=0)
    for _ in range(2):
        none.of(module, pad([example], pad_id=0), [example], dtype=torch.float32)
    assert module.encoded == 2
    assert not none.knows(example)


def test_an_encoder_that_learns_is_not_cached(tmp_path):
    module = Toy()
    batcher = Batcher(run(tmp_path), module, device=torch.device("cpu"), dtype=torch.float32)
    enter(module, STAGES["align"])
    batcher.enter()
    assert batcher.features is not None
    from dataclasses import replace

    stage = replace(STAGES["align"], train=("image",))
    enter(module, stage)
    batcher.enter()
    assert batcher.features is None
    (batch,) = batcher.micro(Plan(stage, {}, 1, None), [Writer()(row) for row in rows(4)])
    assert batch.media
    assert not batch.features
    shutil.rmtree(tmp_path)


@torch.no_grad()
def test_frames_of_a_clip_are_encoded_together_and_known_one_by_one():
    system, features = randomise(mplug_owl_video.build(TINY)), Features(folder=None, budget=1 << 20)
    clips = [(3, "abc"), (1, "d"), (2, "ef"), (3, "ghi"), (3, "abc")]
    pictures = {digest: torch.randn(3, 14, 14) for _, digests in clips for digest in digests}
    examples = [
        replace(
            row_of([1, *[0] * ROOM], ((1, ROOM, (WHOLE,) * count),), [pictures[digest] for digest in digests]),
            digests={"image": tuple(digests)},
        )
        for count, digests in clips
    ]
    batch = pad(examples, pad_id=0)
    found = features.of(system, batch, examples, dtype=torch.float32)["image"]
    assert close(found, system.encode(batch)["image"])
    bare = [replace(one, media={}) for one in examples]
    again = features.of(system, pad(bare, pad_id=0), bare, dtype=torch.float32)["image"]
    assert torch.equal(found, again)
    known = replace(pad(bare, pad_id=0), features={"image": again})
    assert close(system(known), system(batch))
