"""A run is checked word by word."""

import pytest
import yaml

from scops.core.stage import Lora, Stage
from scops.train.run import Run, settle

STAGES = {
    "align": Stage("align", train=("image.connector",), data=("pairs",), lr=1e-3, steps=9),
    "tune": Stage(
        "tune", train=("image.connector",), data=("pairs", "talk"), lora=Lora(("language.*.q",), 8, 32.0, 0.05)
    ),
}
WORDS = {
    "system": "toy",
    "stages": ["align", {"name": "tune", "batch": 4}],
    "data": {"pairs": {"path": "p"}, "talk": {}},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(WORDS))
    return path


def test_changes_lead_inwards_by_name_and_number(file):
    run = Run.load(file, [
        "stages.align.max_steps=7", "stages.1.lora.rank=4", "learning_rate=1e-4", "data.pairs.weight=2", "seed=3",
        "stages.tune.lr_of={image.connector: 1e-5}",
    ])  # fmt: skip
    align, tune = settle(run, STAGES)
    assert (align.stage.steps, align.stage.lr, align.weights) == (7, 1e-4, {"pairs": 2.0})
    assert (tune.stage.batch, tune.stage.lora) == (4, Lora(("language.*.q",), 4, 32.0, 0.05))
    assert (tune.stage.lr_of, run.seed) == ({"image.connector": 1e-5}, 3)


def test_what_is_not_changed_stays_as_published(file):
    align, tune = settle(Run.load(file), STAGES)
    assert align.stage == STAGES["align"]
    assert tune.stage.lora == STAGES["tune"].lora
    assert tune.weights == {"pairs": None, "talk": None}


def test_an_empty_train_leaves_the_adapters_alone_to_learn(file):
    assert settle(Run.load(file, ["stages.tune.train=[]"]), STAGES)[1].stage.train == ()


def test_a_saved_run_is_the_same_run(file, tmp_path):
    run = Run.load(file, ["stages.tune.lora=false", "stages.0.data={own: {path: x, weight: 2}}"])
    run.save(tmp_path / "again.yaml")
    assert Run.load(tmp_path / "again.yaml") == run


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sede=1", r"sede: there is no such key; did you mean 'seed'"),
        ("stages.tune.lerning_rate=1", r"stages\.1\.lerning_rate: there is no such key; did you mean 'learning_rate'"),
        ("stages.tune.lora.rnk=1", r"stages\.1\.lora\.rnk: there is no such key; did you mean 'rank'"),
        ("data.pairs.wieght=1", r"data\.pairs\.wieght: there is no such key; did you mean 'weight'"),
        ("stages.tone.batch=1", r"stages\.tone\.batch: there is no 'tone'; did you mean 'tune'"),
        ("stages.tune.batch=many", r"stages\.1\.batch: 'many' does not fit"),
        ("stages.tune.batch=0", r"stages\.1\.batch: 0 does not fit"),
        ("seed.deeper=1", "does not fit"),
        ("nothing", "a change is written key=value, not 'nothing'"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest(file, override, words):
    with pytest.raises(ValueError, match=words):
        Run.load(file, [override])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"stages": ["aling"]}, "toy has no stage 'aling'; did you mean 'align'"),
        (
            {"data": {"pair": {}}},
            "stage 'align' learns from 'pairs', but the run has no such data set; did you mean 'pair'",
        ),
        (
            {"stages": [{"name": "align", "objective": "next_tokens"}]},
            "no objective 'next_tokens'; did you mean 'next_token'",
        ),
        ({"stages": [{"name": "align", "lora": {"rank": 2}}]}, "needs `targets`"),
    ],
)
def test_what_does_not_exist_is_answered_with_the_nearest(words, error):
    with pytest.raises(ValueError, match=error):
        settle(Run.check(WORDS | words), STAGES)


def test_a_missing_word_is_named():
    with pytest.raises(ValueError, match="system: is missing"):
        Run.check({"stages": ["align"]})


def test_two_paths_for_one_data_set_are_refused():
    stages = [{"name": "align", "data": {"pairs": {"path": "other"}}}]
    with pytest.raises(ValueError, match="'pairs' has two paths: 'p' and 'other'"):
        settle(Run.check(WORDS | {"stages": stages}), STAGES)
