"""Claims that hold for every decoder, against its slow twin: rows alone, and reading everything again."""

# B rows, S steps, V vocabulary
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scops.checkpoints.keymap import KeyMap
from scops.core.batch import Example
from scops.data.collate import pack
from scops.models.cached import CachedSession, Stepper
from scops.models.recompute import Recompute
from scops.nn.cache import Cache, FixedCache, GrowingCache
from scops.nn.paged import PagedCache, PagedRow, Pages
from tests.conftest import batch_of, close

STEPS = 5
CAPACITY = 40


def follow(session: Any, ids_BS: Tensor) -> Tensor:
    """(S + 1, B, V): a session's scores before and after each of these tokens."""
    return torch.stack([session.logits_BV, *(session.step(ids_B) for ids_B in ids_BS.T)])


def greedy(session: Any, count: int, *, but: int | None = None) -> Tensor:
    """(B, count): the best tokens, never `but`."""
    made = []
    for _ in range(count):
        if but is not None:
            session.logits_BV[:, but] = -torch.inf
        made.append(session.logits_BV.argmax(-1))
        session.step(made[-1])
    return torch.stack(made, 1)


def recomputed(system: Any, examples: Sequence[Example], ids_BS: Tensor) -> Tensor:
    return follow(Recompute(system, [batch_of(one) for one in examples]), ids_BS)


Rows = Mapping[str, Example] | Sequence[Example]


def rows_stand_alone(system: Any, examples: Rows) -> bool:
    """A ragged batch is what each of its rows is alone."""
    examples = numbered(examples)
    together = system(batch_of(*examples.values()))
    for row, (name, one) in zip(together, examples.items(), strict=True):
        assert close(row[: len(one)], system(batch_of(one))[0]), name
    return True


def documents_stand_alone(system: Any, examples: Rows, *, capacity: int) -> bool:
    """In packed rows of so many tokens each of them is what it is alone."""
    examples = numbered(examples)
    batch = pack([replace(one, name=name) for name, one in examples.items()], capacity=capacity, pad_id=0)
    assert batch.packed
    alone = {name: system(batch_of(one))[0] for name, one in examples.items()}
    names = iter(batch.names)
    for row_TV, starts, length in zip(system(batch), batch.documents, batch.lengths, strict=True):
        for start, end in zip(starts, (*starts[1:], length), strict=True):
            name = next(names)
            assert close(row_TV[start:end], alone[name]), name
    return True


def numbered(examples: Rows) -> Mapping[str, Example]:
    """By name, or by number where they have none."""
    return examples if isinstance(examples, Mapping) else {f"row {number}": one for number, one in enumerate(examples)}


def cache_of(kind: type | int, rows: int, capacity: int = CAPACITY) -> Cache:
    """FixedCache, GrowingCache, or pages of so many tokens."""
    if isinstance(kind, int):
        return PagedCache(Pages(rows * -(-capacity // kind), size=kind), [PagedRow() for _ in range(rows)])
    assert kind in (FixedCache, GrowingCache)
    return FixedCache(rows, capacity) if kind is FixedCache else GrowingCache(rows)


def cached_equals_recompute(
    system: Any, examples: Sequence[Example], cache: Cache, *, more: int = STEPS, steps: Stepper | None = None
) -> bool:
    """Prompts of unequal length and so many tokens more; `steps` as CachedSession's."""
    ids_BS = torch.randint(1, 50, (len(examples), more))
    session = CachedSession(system, batch_of(*examples), cache, steps=steps)
    return close(follow(session, ids_BS), recomputed(system, examples, ids_BS))


def replies_equal_recompute(system: Any, examples: Sequence[Example], cache: Cache, *, more: int = STEPS) -> bool:
    """What is written behind prompts that were read before."""
    ids_BS = torch.randint(1, 50, (len(examples), more))
    return close(follow(system.cached(batch_of(*examples), cache), ids_BS), recomputed(system, examples, ids_BS))


def shared_equals_recompute(
    system: Any,
    examples: Sequence[Example],
    *,
    tokens: int,
    page: int,
    most: int,
    media_bytes: int = 1 << 20,
    more: int = STEPS,
) -> bool:
    """The same in pages, where prompts are read `most` tokens at a time, so that parts end inside items."""
    ids_BS = torch.randint(1, 50, (len(examples), more))
    session = system.shared(tokens, page=page, media_bytes=media_bytes)
    rows, first = [session.open(one) for one in examples], []
    for row in rows:
        while (logits_V := session.read(row, most)) is None:
            pass
        first.append(logits_V)
    made = torch.stack([torch.stack(first), *(session.step(rows, ids_B) for ids_B in ids_BS.T)])
    return close(made, recomputed(system, examples, ids_BS))


def come_back_bitwise(keys: KeyMap, published: Mapping[str, Tensor], *, but: str = "") -> bool:
    """save(load(x)) == x.

    Args:
        but: how the names of tensors end that are computed anew, and so do not come back; "" for none.
    """
    back = keys.save(keys.load(published))
    kept = {name: tensor for name, tensor in published.items() if not (but and name.endswith(but))}
    assert back.keys() == kept.keys()
    for name, tensor in kept.items():
        assert torch.equal(back[name], tensor), name
    return True


def published(module_file: Any, spec: Any, weights: Mapping[str, Tensor]) -> Any:
    """A system with weights of the authors' layout."""
    system = module_file.build(spec)
    system.load_state_dict(module_file.KEYS["authors"](spec).load(weights))
    return system.eval()
