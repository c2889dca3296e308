"""Weight-only quantisation per role: the projections under a path become int8 or int4, everything else stays as it is."""

from collections.abc import Mapping
from typing import cast

from torch import nn

from scops.core.names import nearest
from scops.language.model import LanguageModel
from scops.native.matrix import BITS, Quantised
from scops.nn.lora import LoRA

DEFAULT_ROLE = "language"


def roles_of(asked: str | Mapping[str, str] | None) -> dict[str, str]:
    """ "int8" is the language model in int8; a mapping names roles (paths of modules) one by one.

    Raises:
        ValueError: another kind of weights.
    """
    roles = {} if asked is None else {DEFAULT_ROLE: asked} if isinstance(asked, str) else dict(asked)
    for role, kind in roles.items():
        if kind not in BITS:
            raise ValueError(
                f"{role} cannot be quantised to {kind!r}{nearest(kind, BITS)}; there are {', '.join(BITS)}"
            )
    return roles


def quantise(module: nn.Module, roles: Mapping[str, str]) -> None:
    """Here and now. A language model's head keeps 8 bits at least, and a tied one becomes its own; words stay floats.

    Raises:
        ValueError: a role that the module has not or that holds no projection, adapters that were not merged.
    """
    known = dict(module.named_modules())
    for role, kind in roles.items():
        if role not in known:
            children = [name for name, _ in module.named_children()]
            raise ValueError(
                f"there is no role {role!r} to be quantised{nearest(role, children)}; there are {', '.join(children)}"
            )
        adapted = [path for path, part in known[role].named_modules() if isinstance(part, LoRA)]
        if adapted:
            raise ValueError(f"{role}.{adapted[0]} has an adapter; merge adapters before quantising")
        if not _under(known[role], BITS[kind]):
            raise ValueError(f"{role} has no projection that could be quantised")


def _under(part: nn.Module, bits: int) -> int:
    count = 0
    for parent in list(part.modules()):
        if isinstance(parent, LanguageModel):
            parent.head = Quantised.of(cast(nn.Linear, parent.projection()), 8)
            count += 1
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, Quantised.of(child, bits))
                count += 1
    return count
