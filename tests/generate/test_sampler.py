"""Sampling: every filter against a plain loop, seeds that repeat, rows that do not disturb each other."""

import math

import pytest
import torch

from scops.generate.sampler import Sampler, Sampling, above_share, best_k, biased, drawn, nucleus, penalised

LOGITS = torch.randn(7, 23, generator=torch.Generator().manual_seed(0)) * 2


def kept(logits_BV: torch.Tensor) -> list[set[int]]:
    return [{i for i, x in enumerate(row) if x > -math.inf} for row in logits_BV.tolist()]


def by_probability(row: list[float]) -> list[tuple[float, int]]:
    total = sum(math.exp(x) for x in row)
    return sorted(((math.exp(x) / total, i) for i, x in enumerate(row)), reverse=True)


@pytest.mark.parametrize("k", [1, 4, 22])
def test_best_k_keeps_the_k_best(k: int) -> None:
    assert kept(best_k(LOGITS, k)) == [{i for _, i in by_probability(row)[:k]} for row in LOGITS.tolist()]


def test_best_k_keeps_exactly_k_of_equals() -> None:
    assert kept(best_k(torch.zeros(2, 5), 3)) == [{0, 1, 2}] * 2


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.8, 0.99])
def test_nucleus_keeps_the_fewest_that_reach_p(p: float) -> None:
    for row, ids in zip(LOGITS.tolist(), kept(nucleus(LOGITS, p)), strict=True):
        wanted, reached = set(), 0.0
        for probability, i in by_probability(row):
            if reached >= p:
                break
            wanted.add(i)
            reached += probability
        assert ids == wanted


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_above_share_is_relative_to_the_best(share: float) -> None:
    for row, ids in zip(LOGITS.tolist(), kept(above_share(LOGITS, share)), strict=True):
        ranked = by_probability(row)
        assert ids == {i for probability, i in ranked if probability >= share * ranked[0][0] * (1 - 1e-6)}


def test_penalty_lowers_seen_tokens_whatever_their_sign() -> None:
    seen_BV = torch.rand(LOGITS.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    out = penalised(LOGITS, seen_BV, 1.7)
    assert torch.equal(out[~seen_BV], LOGITS[~seen_BV])
    assert (out[seen_BV] < LOGITS[seen_BV]).all()


def test_penalty_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    prompts = torch.randint(0, 23, (7, 5), generator=torch.Generator().manual_seed(2))
    reference = transformers.RepetitionPenaltyLogitsProcessor(1.3)(prompts, LOGITS.clone())
    sampler = Sampler(Sampling(repetition_penalty=1.3), rows=7, prompts=prompts.tolist())
    assert torch.equal(penalised(LOGITS, sampler._seen_by(range(7), LOGITS), 1.3), reference)


def test_bias_can_force_and_forbid() -> None:
    assert (biased(LOGITS, {5: 100.0}).argmax(-1) == 5).all()
    best = int(LOGITS[0].argmax())
    assert int(biased(LOGITS, {best: -1e9})[0].argmax()) != best
    with pytest.raises(ValueError, match="only 23 tokens"):
        biased(LOGITS, {23: 1.0})


def test_draws_follow_the_probabilities() -> None:
    uniform = (torch.arange(20000) + 0.5) / 20000
    counts = torch.bincount(drawn(LOGITS[:1].expand(20000, -1), uniform), minlength=23) / 20000
    assert torch.allclose(counts, LOGITS[0].softmax(-1), atol=1e-4)


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 1e-17])
def test_an_excluded_token_is_never_drawn(u: float) -> None:
    logits = torch.full((1, 6), -math.inf)
    logits[0, [2, 4]] = torch.tensor([1.0, 3.0])
    assert int(drawn(logits, torch.tensor([u], dtype=torch.float64))) in (2, 4)


def test_seeds_repeat_and_rows_do_not_disturb_each_other() -> None:
    hot = Sampling(temperature=1.3, top_k=9, top_p=0.95, min_p=0.01, seed=40)
    together = Sampler(hot, rows=7)
    first = [together(LOGITS, range(7)) for _ in range(4)]
    again = Sampler(hot, rows=7)
    assert all(torch.equal(ids, again(LOGITS, range(7))) for ids in first)
    alone = Sampler(Sampling(temperature=1.3, top_k=9, top_p=0.95, min_p=0.01, seed=45), rows=1)
    assert [int(alone(LOGITS[5:6], [0])) for _ in range(4)] == [int(ids[5]) for ids in first]


def test_temperature_zero_is_the_best_token() -> None:
    assert torch.equal(Sampler(Sampling(), rows=7)(LOGITS, range(7)), LOGITS.argmax(-1))


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -0.1}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": 2.0}, {"repetition_penalty": 0.0}],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
