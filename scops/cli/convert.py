"""`scops convert SRC DST`: the same model in another layout."""

from pathlib import Path

from scops.cli.show import as_json


def convert(
    source: str, target: Path, *, layout: str, merge: bool, quantise: str | None, dtype: str, json: bool
) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is there already; give a new folder")
    from scops.model.opening import load

    model = load(source, dtype=dtype, merge=merge, quantise=quantise)
    model.save(target, layout)
    files = {path.name: path.stat().st_size for path in sorted(target.iterdir())}
    if json:
        as_json({"from": model.origin, "to": str(target), "layout": layout, "files": files})
    else:
        print(f"{model.origin} -> {target} in the {layout} layout: {', '.join(files)}")
