"""Cached conversations against the slow twin that reads everything again."""

import pytest
import torch

from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import mplug_owl
from tests.conftest import batch_of, close, example, randomise
from tests.systems.test_mplug_owl import TINY, rows
from tests.twins import cache_of, cached_equals_recompute


def decoder(**changes: object) -> MultimodalDecoder:
    sizes = {"dim": 24, "hidden": 36, "layers": 3, "heads": 4, "kv_heads": 2, "vocab": 53} | changes
    return randomise(MultimodalDecoder(llama(LlamaSpec(**sizes))))


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_session_equals_recompute_for_unequal_prompts_with_pictures_anywhere(cache: type) -> None:
    examples = list(rows().values())
    assert cached_equals_recompute(randomise(mplug_owl.build(TINY)), examples, cache_of(cache, len(examples)))


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_sliding_window_in_a_cache_equals_recompute(cache: type) -> None:
    examples = [example([1, 2, 3, 4, 5, 6, 7, 8, 9]), example([4, 5])]
    assert cached_equals_recompute(decoder(window=4), examples, cache_of(cache, 2, 20))


@torch.no_grad()
def test_selected_rows_go_on_as_if_alone() -> None:
    system, examples = decoder(), [example([1, 2, 3]), example([4, 5, 6, 7, 8]), example([9])]
    session = system.session(batch_of(*examples), capacity=12)
    session.step(torch.tensor([3, 4, 5]))
    session.select(torch.tensor([2, 0, 2]))
    alone = [system.session(batch_of(examples[i]), capacity=12) for i in (2, 0, 2)]
    for one, first in zip(alone, (5, 3, 5), strict=True):
        one.step(torch.tensor([first]))
    ids_B = torch.tensor([7, 8, 9])
    expected = torch.cat([one.step(ids_B[i : i + 1]) for i, one in enumerate(alone)])
    assert close(session.step(ids_B), expected)


@torch.no_grad()
def test_a_full_cache_says_so() -> None:
    session = decoder().session(batch_of(example([1, 2, 3])), capacity=4)
    session.step(torch.tensor([1]))
    with pytest.raises(ValueError, match="holds 4 tokens per row, but 5"):
        session.step(torch.tensor([1]))
