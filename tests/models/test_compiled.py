"""The compiled step against reading everything again: one graph, however long the context has grown."""

import shutil

import pytest
import torch

from scops.language.llama import LlamaSpec, llama
from scops.models.cached import CachedSession
from scops.models.compiled import CompiledSteps
from scops.models.decoder import MultimodalDecoder
from scops.models.recompute import Recompute
from scops.nn.cache import FixedCache, GrowingCache
from tests.conftest import batch_of, close, example, randomise

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler here")
PROMPTS = [[1, 2, 3, 4, 5], [4]]
STEPS = 6


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 3])
def test_one_graph_serves_all_steps_and_equals_recomputing(window: int | None) -> None:
    sizes = {"dim": 24, "hidden": 40, "layers": 2, "heads": 4, "kv_heads": 2, "vocab": 53, "norms": "qk"}
    system = randomise(MultimodalDecoder(llama(LlamaSpec(**sizes, window=window))))
    told: list[str] = []
    steps = CompiledSteps(system.language, say=told.append)
    session = CachedSession(system, batch_of(*map(example, PROMPTS)), FixedCache(2, 12), steps=steps)
    ids_BS = torch.randint(1, 50, (2, STEPS))
    made = [session.step(ids_BS[:, 0])]
    with torch._dynamo.config.patch(error_on_recompile=True):
        made += [session.step(ids_B) for ids_B in ids_BS.T[1:]]
        CachedSession(system, batch_of(*map(example, PROMPTS)), FixedCache(2, 12), steps=steps).step(ids_BS[:, 0])
    slow = Recompute(system, [batch_of(example(one)) for one in PROMPTS])
    assert close(torch.stack(made), torch.stack([slow.step(ids_B) for ids_B in ids_BS.T]))
    assert told == ["compiling a step of 2 rows with room for 12 tokens (once; some ten seconds)"]


@torch.no_grad()
def test_what_a_graph_writes_into_is_said_to_stay() -> None:
    """Else torch records no CUDA graph: "skipping cudagraphs due to mutated inputs"."""
    system = randomise(MultimodalDecoder(llama(LlamaSpec(dim=16, hidden=24, layers=2, heads=2, kv_heads=1, vocab=31))))
    steps = CompiledSteps(system.language, say=lambda words: None)
    steps.compiled = steps._step
    session = CachedSession(system, batch_of(example([1, 2])), FixedCache(1, 6), steps=steps)
    session.step(torch.tensor([3]))
    kept = [tensor for pair in session.cache.slots.values() for tensor in pair]
    assert len(kept) == 4
    assert all(torch._dynamo.utils.get_static_address_type(tensor) == "unguarded" for tensor in kept)


def test_what_is_not_a_step_over_a_fixed_cache_runs_as_it_is() -> None:
    system = randomise(MultimodalDecoder(llama(LlamaSpec(dim=16, hidden=24, layers=1, heads=2, kv_heads=1, vocab=31))))
    steps = CompiledSteps(system.language, say=lambda words: pytest.fail(words))
    session = CachedSession(system, batch_of(example([1, 2])), GrowingCache(1), steps=steps)
    assert session.step(torch.tensor([3])).requires_grad
