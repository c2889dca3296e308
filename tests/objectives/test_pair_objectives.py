"""Objectives over pairs: what is drawn, what the state keeps, and the same numbers by plain loops."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scops.core.batch import Batch, Example
from scops.core.pairs import Pairing
from scops.models.encoder_decoder import EncoderDecoder
from scops.objectives import COUNTS, OBJECTIVES
from scops.objectives.masked import mask_words
from scops.objectives.matching import drawn
from scops.objectives.prefix_lm import cut
from scops.objectives.queue import AT, PICTURES, TEXTS
from scops.objectives.shadow import PREFIX
from scops.systems import mplug
from tests.conftest import batch_of, close, randomise
from tests.systems.test_mplug import CLS, SEP, TINY, row

ALL = "contrastive+matching+masked+prefix_lm"
NUMBERS = Pairing(space=7, queue=5, mask=4, alpha=0.3, ramp=4, momentum=0.9)


def system(**changes: object) -> EncoderDecoder:
    torch.manual_seed(2)
    return randomise(mplug.build(replace(TINY, pairing=replace(NUMBERS, **changes))))


def captions(*texts: list[int], seed: int = 5) -> list[Example]:
    torch.manual_seed(seed)
    made = [row((0,), [], [*text, SEP]) for text in texts]
    return [replace(one, digests={"image": (f"{seed} {number}",)}) for number, one in enumerate(made)]


def batch(seed: int = 5) -> Batch:
    return batch_of(*captions([8, 9, 10, 11], [12], [13, 14, 15], seed=seed))


def by_loops(model: EncoderDecoder, mean: EncoderDecoder, made: Batch, queue: list, alpha: float) -> Tensor:
    """ITC as the papers write it, one similarity at a time; `queue` holds (picture, text) vectors."""
    vectors = []
    for one in (model, mean):
        pictures = one.picture_vectors(one.connect(made)["image"])[:, 0]
        vectors.append(list(zip(pictures, one.text_vectors(one.texts(*one.captions(made))), strict=True)))
    candidates, losses = [*vectors[1], *queue], []
    for number in range(len(vectors[0])):
        for mine in (0, 1):
            scores = (
                torch.stack([vectors[0][number][mine] @ other[1 - mine] for other in candidates]) / model.temperature
            )
            theirs = (
                torch.stack([vectors[1][number][mine] @ other[1 - mine] for other in candidates]) / model.temperature
            )
            wanted = alpha * theirs.softmax(0)
            wanted[number] += 1 - alpha
            losses.append(-(wanted.detach() * scores.log_softmax(0)).sum())
    return torch.stack(losses).mean()


def test_contrastive_equals_the_plain_formula_while_shadow_queue_and_alpha_move() -> None:
    model, mean, state = system(), system(), {}
    queue: list[tuple[Tensor, Tensor]] = []
    for step, made in enumerate([batch(5), batch(6), batch(7)]):
        loss = OBJECTIVES["contrastive"](model, made, state)
        for path, parameter in mean.named_parameters():  # the shadow, by hand
            with torch.no_grad():
                live = model.get_parameter(path)
                parameter.copy_(live if step == 0 else 0.9 * parameter + 0.1 * live)
        if step == 0:  # random directions stand in a new queue
            with torch.no_grad():
                fresh: dict[str, Tensor] = {}
                OBJECTIVES["contrastive"](model, made, fresh)
            queue = list(zip(fresh[PICTURES][:, 0], fresh[TEXTS], strict=True))
        wanted = by_loops(model, mean, made, queue, alpha=0.3 * step / 4)
        assert (loss.count, loss.unit) == (3, "pair")
        assert close(loss.sum / 3, wanted)
        with torch.no_grad():
            new = mean.picture_vectors(mean.connect(made)["image"])[:, 0]
            words = mean.text_vectors(mean.texts(*mean.captions(made)))
            for number in range(3):
                queue[(3 * step + number) % 5] = new[number], words[number]
        assert close(state[PICTURES][:, 0], torch.stack([picture for picture, _ in queue]))
        assert close(state[TEXTS], torch.stack([text for _, text in queue]))
        assert int(state[AT]) == 3 * (step + 1) % 5
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))


def test_without_shadow_and_queue_contrastive_is_clip_s_loss() -> None:
    model, made, state = system(momentum=0.0, queue=0, smoothing=0.2), batch(), {}
    loss = OBJECTIVES["contrastive"](model, made, state)
    scores = model.similarities(made) / model.temperature
    own = torch.arange(3)
    wanted = (
        F.cross_entropy(scores, own, label_smoothing=0.2) + F.cross_entropy(scores.T, own, label_smoothing=0.2)
    ) / 2
    assert close(loss.sum / 3, wanted.detach())
    assert state.keys() == {"pairs|steps"}


def test_a_temperature_is_held_between_its_ends_and_only_where_it_learns() -> None:
    for learns, wanted in ((True, 0.5), (False, 0.9)):
        model = system()
        model.pairs.temperature.value.data.fill_(0.9)
        model.pairs.temperature.value.requires_grad_(learns)
        OBJECTIVES["contrastive"](model, batch(), {})
        assert float(model.temperature.detach()) == pytest.approx(wanted)


def test_looking_without_gradients_changes_no_state() -> None:
    model, state = system(), {}
    OBJECTIVES[ALL](model, batch(), state)
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        first, second = (OBJECTIVES["contrastive"](model, batch(6), dict(state)).sum for _ in range(2))
    assert torch.equal(first, second)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_only_what_learns_has_a_shadow() -> None:
    model, state = system(), {}
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(not path.startswith("image.encoder"))
    OBJECTIVES["contrastive"](model, batch(), state)
    paths = {name.removeprefix(PREFIX) for name in state if name.startswith(PREFIX)}
    assert "image.connector.norm.bias" in paths
    followed = ("image.", "encoder.", "pairs.")
    assert paths == {p for p, t in model.named_parameters() if t.requires_grad and p.startswith(followed)}


def test_matching_asks_of_pairs_and_of_the_strangers_that_were_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made, asked = system(), batch(), []

    def noted(scores: Tensor, may: Tensor, floor: float) -> Tensor:
        asked.append(drawn(scores, may, floor))
        return asked[-1]

    monkeypatch.setattr(import_module("scops.objectives.matching"), "drawn", noted)
    loss = OBJECTIVES["matching"](model, made, {})
    pictures, texts = model.connect(made)["image"], model.texts(*model.captions(made))
    said, right = [], []
    for number in range(3):
        for picture, text in ((number, number), (asked[0][number], number), (number, asked[1][number])):
            one = torch.tensor([int(text)])
            said.append(model.verdicts(pictures[int(picture)][None], texts.select(one))[0])
            right.append(int(picture == text))
    assert sum(right) == 3
    assert close(loss.sum / 3, F.cross_entropy(torch.stack(said), torch.tensor(right)))


def test_strangers_are_equal_when_seeded_and_never_have_the_same_picture() -> None:
    scores, may = torch.randn(6, 6), ~torch.eye(6, dtype=torch.bool)
    torch.manual_seed(3)
    first = drawn(scores, may, 0.0)
    torch.manual_seed(3)
    assert torch.equal(first, drawn(scores, may, 0.0))
    hardest = [int((scores[i] - 99 * torch.eye(6)[i]).argmax()) for i in range(6)]
    assert drawn(50 * scores, may, 0.0).tolist() == hardest  # by likeness
    twins = [replace(one, digests={"image": ("same",)}) for one in captions([8], [9])]
    other = captions([10, 11], seed=8)
    for _ in range(9):
        assert OBJECTIVES["matching"](system(), batch_of(*twins, *other), {}).sum.isfinite()
    alone = OBJECTIVES["matching"](system(), batch_of(*twins), {})  # nobody is a stranger
    model, made = system(), batch_of(*twins)
    said = model.verdicts(model.connect(made)["image"], model.texts(*model.captions(made)))
    assert close(alone.sum / 2, F.cross_entropy(said, torch.ones(2, dtype=torch.long)))


def test_masks_hide_the_share_of_words_that_is_asked_and_never_the_first_token() -> None:
    ids = torch.randint(5, 90, (40, 300))
    real = torch.arange(300) < torch.randint(100, 301, (40, 1))
    torch.manual_seed(0)
    shown, chosen = mask_words(ids, real, share=0.15, mask=4, vocabulary=90)
    torch.manual_seed(0)
    assert torch.equal(shown, mask_words(ids, real, share=0.15, mask=4, vocabulary=90)[0])
    assert not chosen[:, 0].any()
    assert not (chosen & ~real).any()
    assert torch.equal(shown[~chosen], ids[~chosen])
    count = chosen.sum()
    assert abs(count / real[:, 1:].sum() - 0.15) < 0.015
    assert abs((shown[chosen] == 4).sum() / count - 0.8) < 0.05
    assert abs((shown[chosen] == ids[chosen]).sum() / count - 0.1) < 0.04


def test_masked_equals_the_plain_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = system(ramp=0), batch()
    ids, real = model.captions(made)
    shown, chosen = ids.clone(), torch.zeros_like(real)
    chosen[0, 2] = chosen[0, 3] = chosen[2, 1] = True
    shown[chosen] = 4
    monkeypatch.setattr(import_module("scops.objectives.masked"), "mask_words", lambda *_, **__: (shown, chosen))
    loss = OBJECTIVES["masked"](model, made, {})
    pictures, losses = model.connect(made)["image"], []
    for row_, place in chosen.nonzero().tolist():
        texts = model.texts(shown[row_ : row_ + 1], real[row_ : row_ + 1])
        said = model.filled(pictures[row_ : row_ + 1], texts, torch.tensor([place]))[0].log_softmax(-1)
        # the shadow is the system itself at the first step
        losses.append(-0.7 * said[ids[row_, place]] - 0.3 * (said.exp() * said).sum())
    assert close(loss.sum / 3, torch.stack(losses).mean())


def test_no_word_masked_is_a_loss_of_nothing() -> None:
    loss = OBJECTIVES["masked"](system(masked=0.0), batch(), {})
    assert (float(loss.sum.detach()), loss.count) == (0.0, 3)


def test_a_cut_moves_words_to_the_prompt_and_leaves_the_rest_to_be_learnt() -> None:
    made = cut(batch(), {0: 2, 1: 0, 2: 1})
    assert made.ids_BT[0].tolist() == [CLS, 8, 9, SEP, CLS, 10, 11, SEP]
    assert made.ids_BT[1].tolist() == [CLS, SEP, CLS, 12, SEP, 0, 0, 0]
    assert made.ids_BT[2].tolist() == [CLS, 13, SEP, CLS, 14, 15, SEP, 0]
    assert made.replies == (4, 2, 3)
    targets = made.targets
    assert targets.ids_R.tolist() == [10, 11, SEP, 12, SEP, 14, 15, SEP]
    assert made.ids_BT.flatten()[targets.index_R + 1].tolist() == targets.ids_R.tolist()
    assert targets.count_B == (3, 2, 3)


def test_prefix_lm_equals_writing_the_rest_of_each_text_alone() -> None:
    model, made = system(), batch()
    torch.manual_seed(11)
    loss = OBJECTIVES["prefix_lm"](model, made, {})
    torch.manual_seed(11)
    shares, losses = torch.rand(3).tolist(), []
    texts = ([8, 9, 10, 11], [12], [13, 14, 15])
    for number, (text, share) in enumerate(zip(texts, shares, strict=True)):
        words = int(share * len(text))
        one = row((0,), text[:words], [*text[words:], SEP])
        one = replace(one, media={"image": (made.media["image"][number].numpy(),)})
        scores = model(batch_of(one))[0, one.reply : len(one) - 1]
        losses.append(F.cross_entropy(scores, torch.from_numpy(one.ids_T[one.reply + 1 :]), reduction="none"))
    assert close(loss.sum / 3, torch.cat(losses).mean())


def test_all_together_are_the_sum_and_reach_everything_that_lives() -> None:
    model, state = system(masked=0.6), {}
    torch.manual_seed(0)
    loss = OBJECTIVES[ALL](model, batch(), state)
    assert close(loss.sum.detach(), torch.stack([total for total, _ in loss.parts.values()]).sum())
    assert [*loss.parts] == ALL.split("+")
    assert COUNTS[ALL](batch()) == loss.count == 3
    loss.sum.backward()
    still = {path for path, p in model.named_parameters() if p.grad is None}
    assert still
    assert all(".unused." in path or "fusion.embeddings." in path for path in still)


def test_in_bfloat16_the_losses_are_nearly_those_of_float32() -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        model, made, state = system(masked=0.9).to(dtype), batch(), {}
        made = replace(made, media={"image": made.media["image"].to(dtype)})
        torch.manual_seed(3)
        losses.append(OBJECTIVES[ALL](model, made, state))
        losses[-1].sum.backward()
        assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
    for name in ("contrastive", "masked", "prefix_lm"):
        one, two = (float(loss.parts[name][0]) for loss in losses)
        assert two == pytest.approx(one, rel=0.05), name


def test_rows_that_are_no_pairs_do_not_take_part() -> None:
    model = system(queue=0, momentum=0.0)
    two = replace(row((0, 0), [7], [6, SEP]), digests={"image": ("a", "b")})
    others = [row((), [9], [8, SEP]), two]
    mixed, plain = batch_of(others[0], *captions([8, 9], [12, 7]), others[1]), batch_of(*captions([8, 9], [12, 7]))
    assert COUNTS[ALL](mixed) == 2
    both, without = (OBJECTIVES["contrastive"](model, some, {}).sum.detach() for some in (mixed, plain))
    assert close(both / without, torch.ones(()))  # some 30 nats: the tolerance is for sizes of about one
    nothing = OBJECTIVES[ALL](model, batch_of(*others), {})
    assert (float(nothing.sum), nothing.count) == (0.0, 0)


def test_a_queue_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="has 2 places, but a batch has 3 pairs"):
        OBJECTIVES["contrastive"](system(queue=2), batch(), {})


def test_numpy_is_not_asked_for_random_numbers() -> None:
    """All that is drawn comes from torch's generators, which a checkpoint keeps."""
    before = np.random.get_state()[1].copy()
    OBJECTIVES[ALL](system(), batch(), {})
    assert (np.random.get_state()[1] == before).all()
