"""Token by token: rows that end leave the batch, the others go on undisturbed."""

# B rows, V vocabulary
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from scops.core.session import Session
from scops.generate.sampler import Sampler


@dataclass(frozen=True)
class Token:
    """One token of one row.

    Args:
        row: the row's number in the batch at the start.
        ended: None while the row goes on; "stop" when a stop token or the caller ended it, "length" at the limit.
    """

    row: int
    id: int
    ended: str | None = None


@dataclass(frozen=True)
class Reply:
    """What a row wrote, without the stop token; `ended` is "stop" or "length"."""

    ids: tuple[int, ...]
    ended: str


def _going_on(row: int, token: int) -> bool:
    return False


@torch.no_grad()
def tokens(
    session: Session,
    *,
    stops: Collection[int],
    limit: int | Sequence[int],
    sampler: Sampler,
    halt: Callable[[int, int], bool] = _going_on,
) -> Iterator[tuple[Token, ...]]:
    """At each step the new token of every row that still goes on. No step is asked of the session that is not needed.

    Args:
        stops: token ids that end a row.
        limit: the most tokens a row may get, for all rows or each; the session needs room for the prompt and limit - 1.
        halt: asked (row, token) for each token that is no stop; True ends the row (stop strings).
    """
    stops, rows = frozenset(stops), list(range(len(session.logits_BV)))
    limits = [limit] * len(rows) if isinstance(limit, int) else list(limit)
    if len(limits) != len(rows):
        raise ValueError(f"generate: {len(limits)} limits for {len(rows)} rows")
    if min(limits) < 1:
        raise ValueError(f"generate: the limit is at least 1 token, not {min(limits)}")
    for count in range(1, max(limits) + 1):
        ids_B = sampler(session.logits_BV, rows)
        step = []
        for row, token in zip(rows, ids_B.tolist(), strict=True):
            ended = "stop" if token in stops or halt(row, token) else "length" if count == limits[row] else None
            step.append(Token(row, token, ended))
        yield tuple(step)
        kept = [i for i, token in enumerate(step) if token.ended is None]
        if not kept:
            return
        if len(kept) < len(rows):
            kept_R = torch.tensor(kept, device=ids_B.device)
            session.select(kept_R)
            rows, ids_B = [rows[i] for i in kept], ids_B[kept_R]
        session.step(ids_B)


def generate(session: Session, *, stops: Collection[int], limit: int | Sequence[int], sampler: Sampler) -> list[Reply]:
    """Every row to its end."""
    ids: list[list[int]] = [[] for _ in range(len(session.logits_BV))]
    ended = [""] * len(ids)
    for step in tokens(session, stops=stops, limit=limit, sampler=sampler):
        for token in step:
            if token.id not in stops:
                ids[token.row].append(token.id)
            ended[token.row] = token.ended or ""
    return [Reply(tuple(row), why) for row, why in zip(ids, ended, strict=True)]
