"""How fresh parameters start."""

import torch
from torch import nn

from scops.nn.initialise import IntoWords, initialise


def test_what_passes_through_keeps_its_size_whatever_the_width():
    torch.manual_seed(0)
    for width in (33, 500):
        stack = nn.Sequential(*(nn.Linear(width, width) for _ in range(3)))
        initialise(stack)
        made = stack(torch.randn(64, width))
        assert 0.7 < made.std().item() < 1.4
        assert all(not layer.bias.any() for layer in stack)


def test_norms_start_as_identity_and_bare_parameters_small():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.words, self.queries = (
                nn.LayerNorm(5),
                nn.Embedding(400, 7),
                nn.Parameter(torch.ones(300, 7)),
            )

    odd = Odd()
    nn.init.zeros_(odd.norm.weight)
    initialise(odd)
    assert odd.norm.weight.eq(1).all()
    assert 0.015 < odd.queries.std().item() < 0.025
    assert 0.045 < odd.words.weight.std().item() < 0.055


def test_media_tokens_start_as_small_as_word_embeddings():
    into, words = IntoWords(99, 64), nn.Embedding(300, 64)
    for part in (into, words):
        initialise(part)
    assert 0.8 < into(torch.randn(50, 99)).std().item() / words.weight.std().item() < 1.25
