"""Rows per second of one optimiser step of owl-tiny's second stage: packed rows and a head on supervised tokens only
(scops), against padded rows and logits of every token (as transformers' models train), with the same parts and rows.
"""

# B rows, T tokens, M pictures, P grid cells, D width
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.pair import Pair, Settings, Skip, interleave, run, timed
from bench.peers import TOLERANCE, language_of
from bench.rows import rows_of
from scops.checkpoints.hub_llama import HUB_LLAMA_TIED
from scops.core.batch import Batch, Example
from scops.core.stage import Lora
from scops.data.collate import pack, pad
from scops.models.decoder import MultimodalDecoder
from scops.nn import lora
from scops.nn.initialise import initialise
from scops.systems import owl_small
from scops.train.step import gradients

ROWS, CAPACITY = 12, 256
"""As many as the time allows; padded, 58 % of these are real tokens, as 54 to 62 % are of the demo's rows in its batch of 32."""
IGNORED = -100
CLIP = 1.0
NOTHING = 3e-5
"""Of the largest gradient; real ones are over 1e-4 of it. A key's bias has none in theory, and 1e-9 of it by rounding."""


@dataclass(frozen=True)
class Step:
    """What one step found."""

    loss: float
    norm: float


@dataclass(frozen=True)
class Side:
    """One way to train.

    Args:
        forward_back: leaves gradients.
        learns: what is trained, by our own paths.
    """

    forward_back: Callable[[], Step]
    learns: Mapping[str, nn.Parameter]

    def stepper(self) -> Callable[[], Step]:
        """A whole optimiser step."""
        optimiser = torch.optim.AdamW(self.learns.values(), lr=1e-6)

        def step() -> Step:
            optimiser.zero_grad()
            found = self.forward_back()
            optimiser.step()
            return found

        return step


class Trio:
    """The same random parts three times, with the same rows.

    ours: packed, head on supervised tokens only, scops' own step
    padded: scops' parts, one row per conversation, logits of every token
    transformers: LlamaForCausalLM on embeddings into which the connector's tokens are scattered, its own loss
    """

    def __init__(self, spec: owl_small.Spec, examples: Sequence[Example], *, capacity: int, adapters: Lora) -> None:
        torch.manual_seed(0)
        system = owl_small.build(spec)
        initialise(system)
        language = language_of(spec.language, HUB_LLAMA_TIED.save(system.language.state_dict()))
        system.requires_grad_(False)
        language.requires_grad_(False)
        lora.add(system, adapters)
        for _, b in lora.adapters(system).values():
            nn.init.normal_(b, std=0.02)  # zero would let the adapters' first halves learn nothing
        system.image.connector.requires_grad_(True)
        lora.add(language, replace(adapters, targets=tuple(map(_published, adapters.targets))))
        for path, (a, b) in lora.adapters(system).items():
            other = language.get_submodule(_published(path))
            other.load_state_dict({"lora_a": a, "lora_b": b}, strict=False)
        packed, padded = pack(examples, capacity=capacity, pad_id=0), pad(examples, pad_id=0)
        cells = int(spec.side / 32) ** 2
        known = {
            digest: torch.randn(cells, system.image.encoder.width)
            for example in examples
            for digest in example.digests.get("image", ())
        }
        self.packed, self.padded = _seen(packed, known), _seen(padded, known)
        self.ours = self._ours(system.train())
        self.plain = self._plain(copy.deepcopy(system))
        self.transformers = self._transformers(language.train(), copy.deepcopy(system.image.connector))

    def _ours(self, system: MultimodalDecoder) -> Side:
        learns = _learning(system)

        def forward_back() -> Step:
            found = gradients(system, "next_token", [self.packed], learns, state={}, clip=CLIP, where="bench")
            total, count = found.sums["loss"]
            return Step(total / count, found.norm)

        return Side(forward_back, learns)

    def _plain(self, system: MultimodalDecoder) -> Side:
        learns, batch, labels_BT = _learning(system), self.padded, _labels(self.padded)

        def forward_back() -> Step:
            logits_RV = system(batch)[:, :-1].flatten(0, 1).float()
            return _back(F.cross_entropy(logits_RV, labels_BT[:, 1:].flatten(), ignore_index=IGNORED), learns)

        return Side(forward_back, learns)

    def _transformers(self, language: nn.Module, connector: nn.Module) -> Side:
        learns = {f"image.connector.{path}": p for path, p in connector.named_parameters()}
        for path, (a, b) in lora.adapters(language).items():
            learns |= {f"{_ours(path)}.lora_a": a, f"{_ours(path)}.lora_b": b}
        batch, labels_BT = self.padded, _labels(self.padded)
        real_BT = (torch.arange(batch.ids_BT.shape[1]) < torch.tensor(batch.lengths)[:, None]).long()
        is_media_BT = torch.zeros(batch.ids_BT.numel(), dtype=torch.bool)
        is_media_BT[batch.where["image"].index_R] = True
        is_media_BT1 = is_media_BT.view_as(batch.ids_BT)[..., None]

        def forward_back() -> Step:
            x_BTD = language.get_input_embeddings()(batch.ids_BT)
            x_BTD = x_BTD.masked_scatter(is_media_BT1, connector(batch.features["image"]))
            return _back(language(inputs_embeds=x_BTD, attention_mask=real_BT, labels=labels_BT).loss, learns)

        return Side(forward_back, learns)


def check(ours: Side, theirs: Side) -> str:
    """Loss, norm and every gradient are the same.

    Raises:
        ValueError: naming what differs.
    """
    mine, other = ours.forward_back(), theirs.forward_back()
    if ours.learns.keys() != theirs.learns.keys():
        raise ValueError(f"only one side trains {sorted(ours.learns.keys() ^ theirs.learns.keys())[:5]}")
    allowed = TOLERANCE[torch.float32]
    shares = {"the loss": abs(mine.loss / other.loss - 1), "the gradient's norm": abs(mine.norm / other.norm - 1)}
    largest = {path: float(p.grad.abs().max()) for path, p in theirs.learns.items()}
    floor = NOTHING * max(largest.values())
    for path, parameter in ours.learns.items():
        off = float((parameter.grad - theirs.learns[path].grad).abs().max())
        shares[path] = off / max(largest[path], floor)
    for side in (ours, theirs):
        for parameter in side.learns.values():
            parameter.grad = None
    worst = max(shares, key=lambda name: shares[name])
    if not shares[worst] <= allowed:
        raise ValueError(f"{worst} differs by {shares[worst]:.2g} of its size; {allowed:.2g} is allowed")
    return f"loss {mine.loss:.4f} on both sides, loss and gradients differ by {shares[worst]:.1e} at most"


def measure(settings: Settings) -> Iterator[Pair | Skip]:
    spec = owl_small.SIZES["owl-tiny"]
    trio = Trio(spec, rows_of(spec, ROWS), capacity=CAPACITY, adapters=owl_small.ADAPTERS)
    shares = [f"{batch.tokens / batch.ids_BT.numel():.0%}" for batch in (trio.padded, trio.packed)]
    learnt = len(trio.packed.targets.ids_R) / trio.packed.tokens
    case = (
        f"{ROWS} rows, {trio.packed.tokens} tokens ({learnt:.0%} learnt), {shares[0]} real padded, {shares[1]} packed"
    )
    peers = {"transformers, padded": trio.transformers, "scops' parts, padded": trio.plain}
    checked = {peer: check(trio.ours, side) for peer, side in peers.items()}  # all, before anything has moved
    for peer, side in peers.items():
        seconds = interleave(timed(trio.ours.stepper()), timed(side.stepper()), settings.rounds)
        yield Pair(case, peer, "rows", ROWS, checked[peer], seconds)


def _seen(batch: Batch, known: Mapping[str, Tensor]) -> Batch:
    """The batch with its pictures' features, in its own order."""
    return replace(batch, features={"image": torch.stack([known[digest] for digest in batch.digests["image"]])})


def _labels(batch: Batch) -> Tensor:
    """(B, T): the id where it is learnt."""
    assert batch.targets is not None
    labels = torch.full((batch.ids_BT.numel(),), IGNORED)
    labels[batch.targets.index_R + 1] = batch.targets.ids_R
    return labels.view_as(batch.ids_BT)


def _learning(module: nn.Module) -> dict[str, nn.Parameter]:
    return {path: p for path, p in module.named_parameters() if p.requires_grad}


def _back(loss: Tensor, learns: Mapping[str, nn.Parameter]) -> Step:
    loss.backward()
    return Step(loss.item(), nn.utils.clip_grad_norm_([*learns.values()], CLIP).item())


_NAMES = (("language.blocks.", "model.layers."), (".attn.body.", ".self_attn."))


def _published(path: str) -> str:
    """Our path of a projection of attention as transformers writes it."""
    for mine, other in _NAMES:
        path = path.replace(mine, other)
    return f"{path}_proj"


def _ours(path: str) -> str:
    for mine, other in _NAMES:
        path = path.replace(other, mine)
    return path.removesuffix("_proj")


if __name__ == "__main__":
    run("train_step", measure, rounds=3)
