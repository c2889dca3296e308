"""The SigLIP tower against transformers' own."""

import pytest
import torch

from scops.checkpoints.hub_siglip import HUB_SIGLIP, HUB_SIGLIP_BARE
from scops.encoders.siglip import Siglip, SiglipSpec
from tests.conftest import close, randomise

transformers = pytest.importorskip("transformers")

SPEC = SiglipSpec(dim=24, hidden=40, layers=3, heads=3, image=30, patch=7)  # 2 pixels are left beside whole patches


@pytest.fixture
def theirs() -> torch.nn.Module:
    config = transformers.SiglipVisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, image_size=30, patch_size=7
    )
    return randomise(transformers.SiglipVisionModel(config))


def tower(theirs: torch.nn.Module, skip: int = 0) -> Siglip:
    made = Siglip(SiglipSpec(**{**vars(SPEC), "skip": skip}))
    state = theirs.state_dict()
    keys = HUB_SIGLIP if any(name.startswith("vision_model.") for name in state) else HUB_SIGLIP_BARE
    made.load_state_dict(keys.load(state))
    return made.eval()


@torch.no_grad()
@pytest.mark.parametrize("skip", [1, 2])
def test_features_are_what_enters_the_last_blocks(theirs: torch.nn.Module, skip: int) -> None:
    pixels = torch.randn(2, 3, 30, 30)
    hidden = theirs(pixels, output_hidden_states=True).hidden_states
    assert close(tower(theirs, skip)(pixels), hidden[-1 - skip])


@torch.no_grad()
def test_tokens_and_the_head_equal_transformers(theirs: torch.nn.Module) -> None:
    pixels, made = torch.randn(2, 3, 30, 30), tower(theirs)
    expected = theirs(pixels)
    assert close(made(pixels), expected.last_hidden_state)
    assert close(made.pooled(pixels), expected.pooler_output)


@pytest.mark.parametrize("keys", [HUB_SIGLIP, HUB_SIGLIP_BARE])
def test_keys_round_trip_bitwise(theirs: torch.nn.Module, keys: object) -> None:
    prefix = "vision_model." if keys is HUB_SIGLIP else ""
    state = {prefix + name.removeprefix("vision_model."): t for name, t in theirs.state_dict().items()}
    made = keys.load(state)
    assert made.keys() == Siglip(SPEC).state_dict().keys()
    back = keys.save(made)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_so400m_has_the_published_count() -> None:
    with torch.device("meta"):
        made = Siglip(SiglipSpec())
    assert sum(p.numel() for p in made.parameters()) == 428_225_600
    assert sum(p.numel() for p in made.head.parameters()) == 15_238_352
    assert made.tokens == 729


def test_other_sizes_and_a_head_without_its_block_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(28, 30\).*\(30, 30\)"):
        Siglip(SPEC)(torch.randn(1, 3, 28, 30))
    with pytest.raises(ValueError, match="last of 3 blocks, but 1 of them do not run"):
        Siglip(SiglipSpec(**{**vars(SPEC), "skip": 1})).pooled(torch.randn(1, 3, 30, 30))
