"""Pairs of former batches, kept in an objective's state as a ring (MoCo, arXiv 1911.05722, section 3.1)."""

# N pairs, Q picture vectors per pair, E width of the common space, S places of the ring
import torch
from torch import Tensor
from torch.nn.functional import normalize

from scops.objectives.processes import gathered

PICTURES, TEXTS, AT = "queue|pictures", "queue|texts", "queue|at"


def queued(state: dict[str, Tensor], places: int, pictures_NQE: Tensor, texts_NE: Tensor) -> tuple[Tensor, Tensor]:
    """What the ring holds, (S, Q, E) and (S, E) in float32; random directions at first, the same in every process."""
    if PICTURES not in state:
        made = torch.Generator().manual_seed(0)
        for name, shape in ((PICTURES, pictures_NQE.shape[1:]), (TEXTS, texts_NE.shape[1:])):
            state[name] = normalize(torch.randn(places, *shape, generator=made), dim=-1).to(texts_NE.device)
        state[AT] = torch.zeros((), dtype=torch.long)
    return state[PICTURES], state[TEXTS]


def enqueue(state: dict[str, Tensor], pictures_NQE: Tensor, texts_NE: Tensor) -> None:
    """The pairs of all processes take the places of the oldest."""
    pictures_NQE, texts_NE = gathered(pictures_NQE), gathered(texts_NE)
    places, pairs = len(state[PICTURES]), len(texts_NE)
    if pairs > places:
        raise ValueError(f"the queue has {places} places, but a batch has {pairs} pairs; give it as many at least")
    start = int(state[AT])
    place_N = (start + torch.arange(pairs, device=texts_NE.device)) % places
    state[PICTURES][place_N] = pictures_NQE.float()
    state[TEXTS][place_N] = texts_NE.float()
    state[AT] = torch.tensor((start + pairs) % places)
