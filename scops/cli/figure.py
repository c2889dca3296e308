"""scops info --figure: the architecture of a system as one SVG file."""

from pathlib import Path

from scops.checkpoints.write import save_text
from scops.cli.info import spec_of
from scops.cli.show import as_json
from scops.lab.figure import Sheet
from scops.model.empty import outline
from scops.systems import module_of


def write(name: str, path: Path, *, json: bool) -> None:
    if path.suffix != ".svg":
        raise ValueError(
            f"a figure is an SVG file, but {path} ends in {path.suffix!r}; name it {path.with_suffix('.svg').name}"
        )
    sheet = drawn(name)
    save_text(path, sheet.svg())
    if json:
        as_json({"name": sheet.name, "figure": path})
    else:
        print(f"{sheet.name}: drawn in {path}")


def drawn(name: str) -> Sheet:
    """Of a system, a size or a folder, as `scops info` takes them."""
    system, size, spec = spec_of(name)
    module = module_of(system)
    recipes = {size: module.STAGES[size]} if size and size in module.STAGES else module.STAGES
    words = f"{module.TITLE}. {module.PAPER}"
    return Sheet(size or Path(name).name, outline(system, spec), module.layout(spec), recipes, words)
