"""A connector of one's own: tried when it is built, saved by its name, imported only for those who trust it."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import scops
from scops.cli.app import main
from scops.connectors.own import Features, OwnSpec, own_connector
from scops.model import Model
from scops.model.opening import reading
from scops.model.parts import spec_in
from scops.model.trust import ENV
from tests import tiny
from tests.conftest import randomise
from tests.my_pkg.connectors import Pooled
from tests.systems.test_composed import words

OWN = "tests.my_pkg.connectors:Pooled"
STRANGER = """
from pathlib import Path
from tests.my_pkg.connectors import Pooled
Path(__file__).with_name("ran").touch()
class Theirs(Pooled): pass
"""


def made(connector: Any = OWN, **more: Any) -> Model:
    chosen = words("clip", "linear", "inline", "smollm2-135m") | {"connector": connector}
    return scops.compose(**chosen, tokenizer=tiny.tokenizer(), pretrained=False, **more)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose connector stands in a package that leaves a file behind when it is imported."""
    package = tmp_path / "path" / "strangers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "theirs.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(package.parent)
    folder = made("strangers.theirs:Theirs").save(tmp_path / "model")
    (package / "ran").unlink()
    forget("strangers")
    yield folder
    forget("strangers")


def forget(package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def ran(folder: Path) -> bool:
    return (folder.parent / "path" / "strangers" / "ran").exists()


# Promises -------------------------------------------------------------------------------------------------------------

BROKEN = {
    "Miscounts": r"made \(2, 4, 24\) of features \(2, 17, 12\), expected \(2, 3, 24\): its tokens_for says 3",
    "SaysNothing": "tokens_for said None, but a picture takes a whole number",
    "Mixes": "makes something else of a picture when another is beside it",
    "Lists": r"made a list, expected a tensor \(2, 4, 24\)",
    "Refuses": r"Refuses\(Features\(width=12, .* failed: ValueError: 12 is an odd width",
    "Fails": r"cannot read features \(2, 17, 12\): RuntimeError",
    "NoConnector": "is no connector: that is a class of nn.Module",
    "Poled": "has no 'Poled'; did you mean 'Pooled'",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_connector_that_breaks_its_promise_is_not_built(name: str) -> None:
    with pytest.raises(ValueError, match=BROKEN[name]):
        made(f"tests.my_pkg.connectors:{name}")


NAMES = {
    "no such module": ("tests.my_package.connectors:Pooled", "No module named 'tests.my_package'.*PYTHONPATH"),
    "no module": (":Pooled", "named package.module:Class"),
    "a path": ("../connectors.py:Pooled", "named package.module:Class"),
    "a number it does not take": ({"kind": OWN, "windo": 2}, "unexpected keyword argument 'windo'"),
    "numbers that JSON does not hold": ({"kind": OWN, "window": {1}}, "must be what JSON can hold"),
    "numbers that JSON changes": ({"kind": OWN, "window": (2, 2)}, "come back from JSON as"),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_found_or_kept_is_named(name: str) -> None:
    connector, message = NAMES[name]
    with pytest.raises(ValueError, match=message):
        made(connector)


def test_trying_it_draws_no_random_number_of_anybodys() -> None:
    features = Features(12, 4, 4, 1)
    states = []
    for make in (lambda: Pooled(features, 24), lambda: own_connector(OwnSpec(OWN), features, 24)):
        torch.manual_seed(5)
        connector = make()
        states.append((torch.random.get_rng_state(), connector.project.weight, connector.training))
    assert torch.equal(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])
    assert states[0][2] == states[1][2]


# Numbers of its own ---------------------------------------------------------------------------------------------------


def test_its_first_values_and_what_no_file_keeps_are_its_own(tmp_path: Path) -> None:
    model = made({"kind": OWN, "window": 4})
    connector = model.module.image.connector
    assert model.layout.media["image"].tokens == 1
    assert (connector.project.bias == 0.25).all()
    with torch.no_grad():
        connector.project.bias.normal_()
    loaded = scops.load(model.save(tmp_path / "kept"), trust=["tests.my_pkg"], dtype="bfloat16")
    back = loaded.module.image.connector
    assert (loaded.spec, back.window, float(back.scale)) == (model.spec, 4, 0.5)
    assert torch.equal(back.project.bias, connector.project.bias.bfloat16())
    assert back.scale.dtype == torch.bfloat16


# Trust ----------------------------------------------------------------------------------------------------------------

OPENERS: dict[str, Callable[[Path], Any]] = {"load": scops.load, "reading": reading, "spec_in": spec_in}


@pytest.mark.parametrize("way", OPENERS)
def test_a_folder_runs_no_code_that_nobody_trusts(way: str, stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=rf"names the connector strangers\.theirs:Theirs.*trust=\['strangers'\].*{ENV}"
    ):
        OPENERS[way](stranger)
    monkeypatch.setenv(ENV, "others, strangers.elsewhere,strange")
    with pytest.raises(ValueError, match="code outside scops"):
        OPENERS[way](stranger)
    assert not ran(stranger)
    monkeypatch.setenv(ENV, "others, strangers")
    OPENERS[way](stranger)
    assert ran(stranger) == (way != "spec_in")  # which imports nothing


@pytest.mark.parametrize("trust", [["strangers"], ["strangers.theirs"], ("others", "strangers")])
def test_load_takes_a_package_or_a_module(trust: Any, stranger: Path) -> None:
    assert isinstance(scops.load(stranger, trust=trust).chat("hm", [tiny.picture()], max_tokens=2), str)
    assert ran(stranger)
    with pytest.raises(ValueError, match="trust is a list"):
        scops.load(stranger, trust="strangers")


def test_parts_json_and_a_changed_config_are_no_way_around(stranger: Path, tmp_path: Path) -> None:
    home = tmp_path / "parts"
    home.mkdir()
    said = {"size": "composed", "overrides": {"connector": "strangers.theirs:Theirs"}, "weights": {}, "tokenizer": "."}
    (home / "parts.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"parts\.json names the connector strangers"):
        scops.load(home)
    config = json.loads((stranger / "config.json").read_text())
    config["scops"]["spec"]["connector"]["path"] = "os:system"
    (stranger / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="names the connector os:system"):
        scops.load(stranger)
    with pytest.raises(ValueError, match="os:system is no connector"):
        scops.load(stranger, trust=["os"])
    assert not ran(stranger)


# From run to answer ---------------------------------------------------------------------------------------------------


def run_of(home: Path, **more: Any) -> Path:
    """Two steps over two rows."""
    tiny.tokenizer().save(home / "tokenizer")
    tiny.picture("red").save(home / "red.png")
    row = {"image": "red.png", "caption": "an owl"}
    (home / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    stage = {"name": "align", "data": ["rows"], "max_steps": 2, "batch": 2, "warmup_steps": 0}
    run = {
        "system": "composed", "pretrained": False, "tokenizer": str(home / "tokenizer"), "output_dir": str(home / "out"),
        "stages": [stage], "data": {"rows": {"path": str(home / "rows.jsonl")}}, "device": "cpu", **more,
    }  # fmt: skip
    (home / "run.yaml").write_text(json.dumps(run))  # JSON is YAML
    return home / "run.yaml"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


def test_a_run_names_it_and_its_folder_chats_for_those_who_trust_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = words("clip", "linear", "inline", "smollm2-135m") | {"connector": {"kind": OWN, "window": 2}}
    file = run_of(tmp_path, **chosen)
    assert said(capsys, "train", file)[0] == 0
    final = tmp_path / "out" / "final"
    status, _, error = said(capsys, "chat", final, tmp_path / "red.png", "what?", "--max-tokens", 3)
    assert status == 1
    assert error.startswith("error: ")
    assert "names the connector tests.my_pkg.connectors:Pooled" in error
    monkeypatch.setenv(ENV, "tests")
    for verb in (["chat", final, tmp_path / "red.png", "what?", "--max-tokens", 3], ["info", final], ["verify", final]):
        assert said(capsys, *verb)[0] == 0
    monkeypatch.delenv(ENV)
    again = run_of(tmp_path, init=str(final), output_dir=str(tmp_path / "second"), pretrained=True, tokenizer=None)
    assert "trust: [tests] in a run" in said(capsys, "train", again)[2]
    assert said(capsys, "train", again, "trust=[tests]")[0] == 0
    assert scops.load(tmp_path / "second", trust=["tests"]).spec.connector.numbers == {"window": 2}


def test_what_it_makes_is_kept_alike_in_all_sessions(tmp_path: Path) -> None:
    model = made()
    randomise(model.module)
    asks = [[tiny.picture(), "what is this?"], ["and this?"], [tiny.picture("blue"), tiny.picture(), "which?"]]
    assert model.generate(asks, max_tokens=6) == [model.chat(ask, max_tokens=6) for ask in asks]
