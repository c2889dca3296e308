"""The CLIP tower against transformers' own."""

import pytest
import torch

from scops.checkpoints.hub_clip import clip_keys
from scops.encoders.vit import Vit, VitSpec
from tests.conftest import close, randomise

transformers = pytest.importorskip("transformers")


@torch.no_grad()
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_every_token_equals_transformers(activation: str) -> None:
    config = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, image_size=21, patch_size=7,
        hidden_act=activation,
    )  # fmt: skip
    theirs = randomise(transformers.CLIPVisionModel(config))
    tower = Vit(VitSpec(dim=24, hidden=40, layers=3, heads=3, image=21, patch=7, activation=activation))
    tower.load_state_dict(clip_keys(theirs.state_dict()).load(theirs.state_dict()))
    pixels = torch.randn(2, 3, 21, 21)
    last = theirs(pixels).last_hidden_state
    post = next(module for name, module in theirs.named_modules() if name.endswith("post_layernorm"))
    assert close(tower(pixels), post(last))


def test_pictures_of_another_size_are_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"\(14, 21\).*\(21, 21\)"):
        Vit(VitSpec(dim=24, hidden=40, layers=1, heads=3, image=21, patch=7))(torch.randn(1, 3, 14, 21))


def test_openai_l14_has_the_published_count() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Vit(VitSpec()).parameters()) == 303_179_776
