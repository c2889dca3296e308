"""The published layouts of transformers, live."""

import pytest
import torch

from scops.checkpoints.hub_clip import HUB_CLIP, HUB_CLIP_BARE, OPENAI_CLIP, clip_keys
from scops.checkpoints.hub_llama import HUB_LLAMA, HUB_LLAMA_TIED
from scops.checkpoints.sources import Source, assemble
from scops.encoders.vit import Vit, VitSpec
from scops.language.llama import LlamaSpec, llama
from tests.conftest import close, randomise

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 31, "head_dim": 6,
}  # fmt: skip
SPEC = {"dim": 12, "hidden": 20, "layers": 3, "heads": 4, "kv_heads": 2, "vocab": 31, "head_dim": 6}
FAMILY = {
    "Llama": {},
    "Mistral": {},
    "Qwen2": {"bias": "qkv"},
    "Qwen3": {"norms": "qk"},
}


def published(name: str, *, tied: bool) -> dict[str, torch.Tensor]:
    config = getattr(transformers, f"{name}Config")(**SIZES, tie_word_embeddings=tied)
    torch.manual_seed(1)
    state = getattr(transformers, f"{name}ForCausalLM")(config).state_dict()
    return {key: torch.randn_like(value) for key, value in state.items()}


@pytest.mark.parametrize("name", FAMILY)
def test_the_llama_family_fills_our_decoder_and_comes_back_bitwise(name):
    state = published(name, tied=False)
    with torch.device("meta"):
        ours = llama(LlamaSpec(**SPEC, **FAMILY[name]))
    assemble(ours, [Source(state, HUB_LLAMA)])
    back = HUB_LLAMA.save(ours.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_a_tied_file_may_carry_its_head_and_old_files_their_frequencies():
    state = published("Llama", tied=True)
    assert "lm_head.weight" in state
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.zeros(3) for i in range(3)}
    ours = llama(LlamaSpec(**SPEC, tied=True))
    assemble(ours, [Source(state | old, HUB_LLAMA_TIED)])
    assert HUB_LLAMA_TIED.save_names(ours.state_dict()).keys() == state.keys() - {"lm_head.weight"}


def clip_state() -> dict[str, torch.Tensor]:
    config = transformers.CLIPVisionConfig(
        hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4, image_size=9, patch_size=3
    )
    state = transformers.CLIPVisionModel(config).state_dict()
    return {key.removeprefix("vision_model."): torch.randn_like(value) for key, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_clip_fills_our_vit_and_comes_back_bitwise(prefix):
    state = {prefix + key: value for key, value in clip_state().items()}
    keys = clip_keys(state)
    assert keys is (HUB_CLIP if prefix else HUB_CLIP_BARE)
    with torch.device("meta"):
        ours = Vit(VitSpec(dim=12, hidden=20, layers=3, heads=4, image=9, patch=3))
    assemble(ours, [Source(state | {prefix + "embeddings.position_ids": torch.arange(10)[None]}, keys)])
    back = keys.save(ours.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert torch.equal(ours.cls.flatten(), state[prefix + "embeddings.class_embedding"])


class OpenAiBlock(torch.nn.Module):
    """As openai/CLIP writes it down, with torch's own attention."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(dim), torch.nn.LayerNorm(dim)
        self.mlp = torch.nn.ModuleDict({"c_fc": torch.nn.Linear(dim, 4 * dim), "c_proj": torch.nn.Linear(4 * dim, dim)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        wide = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](wide * torch.sigmoid(1.702 * wide))


class OpenAiTower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 12, 3, 3, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.zeros(12))
        self.positional_embedding = torch.nn.Parameter(torch.zeros(10, 12))
        self.ln_pre, self.ln_post = torch.nn.LayerNorm(12), torch.nn.LayerNorm(12)
        self.transformer = torch.nn.ModuleDict({"resblocks": torch.nn.ModuleList(OpenAiBlock(12, 4) for _ in range(3))})

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x)


@torch.no_grad()
def test_openai_s_tower_fills_ours_and_comes_back_bitwise():
    theirs = randomise(OpenAiTower())
    ours = Vit(VitSpec(dim=12, hidden=48, layers=3, heads=4, image=9, patch=3))
    state = theirs.state_dict()
    ours.load_state_dict(OPENAI_CLIP.load(state))
    pixels = torch.randn(2, 3, 9, 9)
    assert close(ours(pixels), theirs(pixels))
    back = OPENAI_CLIP.save(ours.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
