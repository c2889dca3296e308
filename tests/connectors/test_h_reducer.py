"""The H-Reducer against a golden of X-PLUG/mPLUG-DocOwl."""

import pytest
import torch

from scops.connectors.h_reducer import HReducer, HReducerSpec, grid_for, tokens_for
from scops.systems import docowl15
from tests.conftest import Golden, close, randomise


@torch.no_grad()
def test_both_probes_equal_the_reference() -> None:
    golden = Golden("docowl15_hreducer")
    config, features = golden.config["visual_hreducer"], golden.inputs["encoder_hidden_states"]
    spec = HReducerSpec(config["hidden_size"], (1, 4), config["layer_norm_eps"])
    reducer = HReducer(spec, out=golden.config["language_hidden_size"])
    reducer.load_state_dict(docowl15.H_REDUCER.load(golden.weights))
    assert close(reducer.spread(features), golden.outputs["reducer_before"])
    assert close(reducer(features), golden.outputs["output"])


@pytest.mark.parametrize("kernel", [(1, 4), (1, 2), (2, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("side", [4, 6, 9])
@torch.no_grad()
def test_it_makes_as_many_tokens_as_promised(kernel: tuple[int, int], side: int) -> None:
    spec = HReducerSpec(dim=5, kernel=kernel)
    made = randomise(HReducer(spec, out=7))(torch.randn(2, 1 + side * side, 5))
    assert made.shape == (2, tokens_for(spec, side), 7)
    rows, columns = grid_for(spec, side)
    assert rows * columns + 1 == tokens_for(spec, side)


def test_the_published_size() -> None:
    spec = HReducerSpec()
    with torch.device("meta"):
        reducer = HReducer(spec, out=4096)
    assert sum(p.numel() for p in reducer.parameters()) == 25_181_184
    assert tokens_for(spec, 448 // 14) == 257
    assert grid_for(spec, 504 // 14) == (36, 9)


def test_features_without_a_class_token_are_refused() -> None:
    with pytest.raises(ValueError, match="64 features per picture are not a class token"):
        HReducer(HReducerSpec(dim=5), out=7)(torch.zeros(1, 64, 5))
