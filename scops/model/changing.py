"""The same model by a changed spec: weights are taken over, and learned positions follow the grid of the pictures."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor, nn

from scops.model.bridge import adapters_in
from scops.model.empty import outline
from scops.model.model import Model
from scops.ops.positions import spread
from scops.systems import changed, module_of

POSITIONS = "positions"
"""What encoders call their table of learned positions, tokens on the last axis but one."""
SHOWN = 5


def with_changes(model: Model, overrides: Mapping[str, Any]) -> Model:
    """The model with other numbers, as of how pictures are cut, or how large they are. The old one is used up.

    Args:
        overrides: to the spec, nested as its fields are.
    Raises:
        ValueError: weights that would not fit, or pictures that are no whole patches.
    """
    module_file, spec = module_of(model.system), changed(model.spec, overrides) if overrides else model.spec
    if spec == model.spec:
        return model
    _check_patches(model.spec, spec)
    adapters = adapters_in(model.module)
    module = outline(model.system, spec, dtype=model.dtype, adapters=adapters, quantised=model.quantised)
    by = getattr(module_file, "SPREAD", "bicubic")
    module.load_state_dict(_fitted(model.module.state_dict(keep_vars=True), module.state_dict(), by), assign=True)
    resize = {kind: media.pixels.resize for kind, media in model.layout.media.items()}
    layout = module_file.layout(spec).resized_by(resize)
    made = Model(model.system, spec, module.to(model.device).eval(), model.tokenizer, layout, model.origin, model.run)
    made.quantised = model.quantised
    return made


def _fitted(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], by: str) -> dict[str, Tensor]:
    """The very tensors of `state`, but for positions of another shape."""
    wrong = [f"there is no {path!r} in the model as it is" for path in wanted if path not in state]
    wrong += [f"{path!r} would be left over" for path in state if path not in wanted]
    made = dict(state)
    for path in state.keys() & wanted.keys():
        old, new = tuple(state[path].shape), tuple(wanted[path].shape)
        if old == new:
            continue
        if path.rpartition(".")[2] != POSITIONS or (*old[:-2], old[-1]) != (*new[:-2], new[-1]):
            wrong.append(f"{path!r} is {old} and would be {new}")
            continue
        made[path] = nn.Parameter(spread(state[path].detach(), new[-2], by))
    if wrong:
        more = f"\n  ... and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(
            "a model's numbers change only where its weights stay as they are, or are positions of an encoder's grid:\n  "
            + "\n  ".join(sorted(wrong)[:SHOWN])
            + more
        )
    return made


def _check_patches(old: Any, new: Any, at: str = "") -> None:
    """Of towers whose pictures change their size and were whole patches before (SigLIP's are not)."""
    if not (is_dataclass(new) and type(old) is type(new)):
        return
    named = vars(new)
    if {"image", "patch"} <= named.keys() and (was := vars(old)["image"]) != new.image:
        patch = new.patch
        if new.image < patch or (was % patch == 0 and new.image % patch):
            least = max(new.image // patch, 1) * patch
            raise ValueError(
                f"{at}image is {new.image}, expected whole patches of {patch} pixels, such as {least} or {least + patch}; "
                f"it was {was}"
            )
    for name, value in named.items():
        _check_patches(getattr(old, name), value, f"{at}{name}.")
