"""A model whose published weights lie in several places: a folder with parts.json says where.

Many systems publish only what they trained (OpenFlamingo, BLIP-2, MiniGPT-4, LLaVA's projectors); the encoder and the language
model come from folders of their own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scops.checkpoints.keymap import KeyMismatch
from scops.checkpoints.read import open_weights
from scops.checkpoints.reader import Reader
from scops.checkpoints.sources import Source
from scops.core.glob import covered, covers
from scops.core.names import nearest
from scops.core.stage import Lora
from scops.data.tokenizer import Tokenizer
from scops.model.bridge import adapter_group
from scops.model.folder import finished, read_config
from scops.model.trust import check_trust
from scops.systems import Published, module_of, spec_for

FILE = "parts.json"
WHOLE = ""


@dataclass(frozen=True)
class Parts:
    """What a parts.json says; paths are relative to its folder.

    Args:
        size: of `scops ls`; spec: that of the size, with `overrides`.
        weights: by part of the system ("image.encoder", "language"), a file or folder of its own; "" for what the system
            itself published, which counts before the same of a part.
        fresh: paths of our modules that nobody gives.
        tokenizer: folder of the language model's; beside: of the connector's own.
        lora: adapters among the system's own weights.
        adapter: a folder of PEFT's, whose adapters are put on the whole.
    """

    home: Path
    system: str
    size: str
    spec: Any
    weights: Mapping[str, Path]
    tokenizer: Path
    beside: Path | None = None
    fresh: tuple[str, ...] = ()
    lora: tuple[Lora, ...] = field(default=())
    adapter: Path | None = None

    @classmethod
    def read(cls, folder: Path, trust: Sequence[str] = ()) -> "Parts":
        """Args:
            trust: packages whose code it may name, as in `check_trust`.
        Raises:
            ValueError: naming the entry that is missing or not known.
        """
        path = folder / FILE
        try:
            said = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        known = ("size", "weights", "tokenizer", "qformer_tokenizer", "overrides", "fresh", "lora", "adapter")
        for name in set(said) - {*known}:
            raise ValueError(f"{path} has an entry {name!r}{nearest(name, known)}")
        for name in known[:3]:
            if name not in said:
                raise ValueError(f"{path} has no {name!r}; it needs {', '.join(known[:3])}")
        system, size, spec = spec_for(said["size"], said.get("overrides", {}))
        check_trust(spec, trust, str(path))
        beside, adapter = (None if said.get(n) is None else folder / said[n] for n in ("qformer_tokenizer", "adapter"))
        return cls(
            folder, system, size, spec, {part: folder / place for part, place in said["weights"].items()},
            folder / said["tokenizer"], beside, tuple(said.get("fresh", ())),
            tuple(adapter_group(group) for group in said.get("lora", ())), adapter,
        )  # fmt: skip

    def open_tokenizer(self) -> Tokenizer:
        """With the special tokens that the system's release adds to the language model's, if they are not in it."""
        tokenizer = Tokenizer.from_folder(self.tokenizer)
        added = [token for token in getattr(module_of(self.system), "ADDED", ()) if token not in tokenizer.added]
        if added:
            tokenizer = tokenizer.with_specials(added)
        if self.beside is not None:
            tokenizer.beside = Tokenizer.from_folder(self.beside)
        return tokenizer

    def sources(self) -> list[Source]:
        """What the system published first; of a part then only what is not given yet.

        Raises:
            ValueError: a part that the system does not have, or names that none of its layouts knows.
        """
        return sources_of(self.system, self.spec, self.weights, str(self.home / FILE))


def sources_of(system: str, spec: Any, weights: Mapping[str, Path], where: str) -> list[Source]:
    """As Parts.sources.

    Args:
        where: what names the weights, for errors.
    """
    module, made, given = module_of(system), [], set()
    own = [Published(keys(spec)) for keys in module.KEYS.values()]
    layouts = {WHOLE: own, **(module.parts(spec) if hasattr(module, "parts") else {})}
    for part in sorted(weights):
        if part not in layouts:
            raise ValueError(f"{where}: {system} has no part {part!r}{nearest(part, layouts)}")
        source = _opened(weights[part], layouts[part], part)
        mapped = source.open()
        new = [name for name in mapped.names() if name not in given]
        if not new:
            continue
        wanted = dict.fromkeys(published for name in new for published in mapped.sources[name])
        given |= {*new}
        made.append(Source(source.weights, source.keys, part, select=tuple(wanted)))
    return made


def largest(sources: Sequence[Source]) -> Reader:
    """The one of most tensors, whose dtype stands for all."""
    return max((source.open() for source in sources), key=len)


def spec_in(folder: Path, trust: Sequence[str] = ()) -> tuple[str, str | None, Any]:
    """(system, size or None, spec) of a model's folder, whole or in parts."""
    if is_parts(folder):
        said = Parts.read(folder, trust)
        return said.system, None, said.spec
    config = read_config(finished(folder), trust)
    return config.system, config.size, config.spec


def check_whole(folder: Path, source: Source, known: Iterable[str]) -> None:
    """Of a published folder without a parts.json.

    Args:
        known: parts of the system that are often published elsewhere; "" is the system itself.
    Raises:
        ValueError: the folder has nothing of one of them.
    """
    names = source.open().names()
    missing = [part for part in known if part and not any(covers(part, name) for name in names)]
    if missing:
        raise ValueError(
            f"{folder} holds no weights of {' and '.join(missing)}; write a {FILE} that says where they are "
            '({"size": ..., "weights": {"": FILE, "'
            + missing[0]
            + '": PLACE}, "tokenizer": FOLDER}; docs/checkpoints.md)'
        )


def is_parts(folder: Path) -> bool:
    return (folder / FILE).is_file()


def _opened(path: Path, layouts: Sequence[Published], part: str) -> Source:
    """The file under the first layout that knows its names."""
    reader, wrong = open_weights(path), []
    for layout in layouts:
        select = layout.select
        try:
            names = covered(select, reader.names(), str(path)) if select else reader.names()
            layout.keys.load_names(names)
            return Source(reader, layout.keys, part, select=select)
        except (KeyMismatch, ValueError) as error:
            wrong.append(str(error))
    raise ValueError(f"{path} fits no layout of {part or 'the system'} that is known:\n" + "\n".join(wrong))
