"""Where models come from: a folder, a GGUF file, a size whose weights registries carry, the hub, or nothing at all."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scops.checkpoints.read import open_weights
from scops.checkpoints.sources import Source
from scops.data.tokenizer import Tokenizer
from scops.model import bridge, parts, peft
from scops.model.changing import with_changes
from scops.model.empty import empty
from scops.model.filling import AUTO, dtype_of, fill
from scops.model.folder import OWN, finished, read_config, recorded_layout, told, written_for
from scops.model.model import Model
from scops.model.parts import Parts, largest, sources_of
from scops.model.unpacked import tokenizer_of, weights_of
from scops.native.quantise import roles_of
from scops.systems import Origin, Origins, find, module_of, spec_for, spec_from_json

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Pretrained = bool | Mapping[str, str | Path | bool]
HUB_FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "*.jinja")


def load(
    name: str | Path,
    *,
    dtype: torch.dtype | str = AUTO,
    device: torch.device | str = "cpu",
    merge: bool = False,
    quantise: str | Mapping[str, str] | None = None,
    trust: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Model:
    """A model that is ready to talk.

    Args:
        name: a folder (ours, the authors', PEFT's with adapters, or one with a parts.json), a .gguf file, a size of `scops ls`,
            or a hub id (owner/name).
        dtype: of the weights; "auto" is as they are kept.
        device: "auto" is the fastest there is.
        merge: fold adapters into the weights.
        quantise: "int8" or "int4" for the language model, or by role {"language": "int4"}; adapters are merged first.
        trust: packages outside scops whose connectors the folder may name; without it, naming one is an error.
        overrides: changes to a folder's spec that its weights outlive: how pictures are cut, or the side that they are brought to
            (learned positions follow its grid).
    Raises:
        ValueError, OSError: saying what was found, what was expected and where.
    """
    roles_of(quantise)
    path = Path(name).expanduser()
    if overrides and (not path.is_dir() or peft.is_adapter(path) or not (finished(path) / "config.json").is_file()):
        raise ValueError(f"overrides change the spec of a folder with a config.json, and {name} is none")
    if path.is_dir() and peft.is_adapter(path):
        model = peft.put_on(load(peft.base_of(path), dtype=dtype, device=device, trust=trust), path)
    elif path.is_dir():
        model = with_changes(_from_folder(path, dtype, device, trust), overrides or {})
    elif path.is_file():
        model = _from_file(path, dtype, device)
    elif (unknown := _unknown(str(name))) is None:
        model = _from_packages(str(name), dtype, device)
    elif HUB_ID.fullmatch(str(name)):
        model = _from_folder(_from_hub(str(name)), dtype, device, trust)
        model.origin = f"hub {name}"
    elif len(path.parts) > 1:
        raise ValueError(f"{name} is neither a folder nor a file, and no hub id (owner/name)")
    else:
        raise ValueError(f"there is no folder or file {str(name)!r}, and {unknown}")
    if merge or quantise:
        model.merge()
    return model.quantise(quantise) if quantise else model


def create(
    name: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    pretrained: Pretrained = True,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
) -> Model:
    """A model to be trained: published parts where a registry carries them, the rest fresh (from torch's generator).

    Args:
        overrides: changes to the size's spec, nested as its fields are: {"language": {"layers": 2}}.
        tokenizer: instead of the size's own, or of the language model's folder.
        pretrained: False makes every part fresh; by part, a file or folder of its published weights, or False:
            {"image.encoder": "clip", "language": False}.
    """
    system, size, spec = spec_for(name, overrides or {})
    module_file, label = module_of(system), size if not overrides else f"{name} with changes"
    chosen = hasattr(module_file, "origins_of")
    origins: Origins = module_file.origins_of(spec) if chosen else module_file.origins(size)
    said = {} if isinstance(pretrained, bool) else {part: at for part, at in pretrained.items() if at is not True}
    folders = {part: Path(at).expanduser() for part, at in said.items() if not isinstance(at, bool)}
    if tokenizer is None and "language" in folders:
        tokenizer = Tokenizer.from_folder(folders["language"])
    tokenizer = tokenizer or _packaged_tokenizer(origins, label)
    module = empty(system, spec, tokenizer, torch.float32 if dtype == AUTO else dtype_of(dtype))
    if pretrained is False:
        sources, fresh = [], tuple(part for part, _ in module.named_children())
    else:
        if missing := [part for part in origins.elsewhere if part not in said]:
            raise ValueError(
                f"no registry carries the weights of {' and '.join(missing)}; say where they are, pretrained="
                f"{{{missing[0]!r}: FOLDER}}, or False in place of a folder for a part that begins anew"
            )
        carried = [origin for origin in origins.weights if origin.under.rstrip(".") not in said]
        sources = [*_sources(carried), *sources_of(system, spec, folders, "pretrained")]
        fresh = (*origins.fresh, *(part for part in said if part not in folders))
    fill(module, sources, device, fresh=fresh)
    return _model(system, spec, module, tokenizer, f"{label}, fresh {', '.join(fresh) or 'nothing'}")


def reading(name: str | Path, trust: Sequence[str] = ()) -> tuple[Any, Tokenizer]:
    """(layout, tokenizer) of what `load` takes, without any weights: what data is looked at with."""
    path = Path(name).expanduser()
    if path.is_dir() and parts.is_parts(path):
        said = Parts.read(path, trust)
        return module_of(said.system).layout(said.spec), said.open_tokenizer()
    if path.is_dir():
        path = finished(path)
        config, tokenizer = read_config(path, trust), Tokenizer.from_folder(path)
        spec = told(config, tokenizer)
        return recorded_layout(path, module_of(config.system).layout(spec)), tokenizer
    system, size = find(str(name))
    module_file = module_of(system)
    return module_file.layout(module_file.SIZES[size]), _packaged_tokenizer(module_file.origins(size), size)


def _from_folder(
    folder: Path,
    dtype: torch.dtype | str,
    device: torch.device | str,
    trust: Sequence[str] = (),
) -> Model:
    if parts.is_parts(folder):
        return _from_parts(Parts.read(folder, trust), dtype, device)
    ggufs = sorted(folder.glob("*.gguf"))
    if not (folder / "config.json").is_file() and len(ggufs) == 1:
        return _from_file(ggufs[0], dtype, device)
    folder = finished(folder)
    config, tokenizer = read_config(folder, trust), Tokenizer.from_folder(folder)
    spec = told(config, tokenizer)
    module_file, reader = module_of(config.system), open_weights(folder)
    layout = recorded_layout(folder, module_file.layout(spec))
    module = empty(config.system, spec, tokenizer, dtype_of(dtype, reader), config.lora, config.quantised)
    keys = None if config.layout == OWN else module_file.KEYS[config.layout](spec)
    source = Source(reader, keys)
    if keys is not None and hasattr(module_file, "parts"):
        parts.check_whole(folder, source, module_file.parts(spec))
    fill(module, [source], device)
    origin = f"{folder} ({config.layout} layout)"
    model = Model(config.system, spec, module.eval(), tokenizer, layout, origin)
    model.quantised = dict(config.quantised)
    with suppress(FileNotFoundError):
        model.run = (folder / "run.yaml").read_text("utf-8")
    return model


def _from_parts(said: Parts, dtype: torch.dtype | str, device: torch.device | str) -> Model:
    tokenizer, sources = said.open_tokenizer(), said.sources()
    module = empty(said.system, said.spec, tokenizer, dtype_of(dtype, largest(sources)), said.lora)
    fill(module, sources, device, fresh=said.fresh)
    model = _model(said.system, said.spec, module, tokenizer, f"the parts that {said.home / parts.FILE} names")
    return model if said.adapter is None else peft.put_on(model, said.adapter)


def _from_file(path: Path, dtype: torch.dtype | str, device: torch.device | str) -> Model:
    reader: Any = open_weights(path)
    if not hasattr(reader, "special_tokens"):  # only a GGUF file says what model it is and brings its tokenizer
        raise ValueError(
            f"{path} ({reader.kind}) holds weights alone; give the folder with its config.json and tokenizer"
        )
    numbers = {name: value for name, value in reader.config.items() if name != "architecture"}
    if numbers["head_dim"] == numbers["dim"] // numbers["heads"]:
        numbers["head_dim"] = None
    module_file, tokenizer = module_of("llama"), Tokenizer(reader.tokenizer(), **reader.special_tokens)
    spec = written_for("llama", spec_from_json(module_file.Spec, {"language": numbers}), tokenizer)
    module = empty("llama", spec, tokenizer, dtype_of(dtype, reader))
    fill(module, [Source(reader, module_file.KEYS["transformers"](spec))], device)
    return _model("llama", spec, module, tokenizer, str(path))


def _unknown(name: str) -> ValueError | None:
    """Why no size is called so."""
    try:
        find(name)
    except ValueError as error:
        return error
    return None


def _from_packages(name: str, dtype: torch.dtype | str, device: torch.device | str) -> Model:
    system, size = find(name)
    module_file = module_of(system)
    spec, origins = module_file.SIZES[size], module_file.origins(size)
    home = bridge.shipped(origins.bridge)
    if origins.fresh and home is None:
        raise ValueError(
            f"no package carries weights for {', '.join(origins.fresh)} of {size}; give a folder or a hub id that has "
            f"them, train them (scops train), or start with scops.create({size!r})"
        )
    tokenizer = _packaged_tokenizer(origins, size)
    sources, notes = _sources(origins.weights), bridge.read_notes(home) if home else {}
    if home:
        sources.append(Source(home / bridge.WEIGHTS))
    wanted = torch.float32 if dtype == AUTO else dtype_of(dtype)
    module = empty(system, spec, tokenizer, wanted, bridge.adapters_of(notes))
    fill(module, sources, device)
    packages = ", ".join(origin.package for origin in origins.weights)
    return _model(
        system, spec, module, tokenizer, f"packages {packages}" + (f" and the bridge {origins.bridge}" if home else "")
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # whatever the network does
        first = str(error).strip().partition("\n")[0]
        raise RuntimeError(
            f"{name} is no folder here and could not be fetched from the hub ({type(error).__name__}: {first}); "
            "without a network, copy the model's folder here and give its path"
        ) from error


def _sources(origins: Sequence[Origin]) -> list[Source]:
    return [Source(weights_of(origin.package), origin.keys, origin.under) for origin in origins]


def _packaged_tokenizer(origins: Origins, size: str) -> Tokenizer:
    tokenizer = tokenizer_of(origins.tokenizer) if origins.tokenizer else None
    if tokenizer is None:
        raise ValueError(f"no package carries the tokenizer of {size}; give one: a folder with tokenizer.json")
    return tokenizer


def _model(system: str, spec: Any, module: nn.Module, tokenizer: Tokenizer, origin: str) -> Model:
    return Model(system, spec, module.eval(), tokenizer, module_of(system).layout(spec), origin)
