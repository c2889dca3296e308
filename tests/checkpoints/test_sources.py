"""Every parameter comes from exactly one source, or is declared fresh; nothing is touched before everything fits."""

import pytest
import torch
from torch import nn

from scops.checkpoints.keymap import KeyMap, KeyMismatch, same, split
from scops.checkpoints.sources import Source, assemble
from scops.checkpoints.write import save_weights


class Part(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(4, width), nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)


class Whole(nn.Module):
    def __init__(self, *, table: torch.Tensor | None = None) -> None:
        super().__init__()
        self.left, self.right = Part(), Part(5)
        self.head = nn.Linear(5, 7, bias=False)
        self.embed = nn.Embedding(7, 5)
        self.embed.weight = self.head.weight
        self.register_buffer("table", torch.arange(6.0) if table is None else table, persistent=False)


PART = KeyMap(split("qk.{w}", ("q.{w}", "k.{w}")), same("bn.{w}", "norm.{w}"))
EMBED = KeyMap(same("wte", "embed.weight"))


def part_state(width: int) -> dict[str, torch.Tensor]:
    return PART.save(
        {k: torch.randn(v.shape) if v.ndim else torch.tensor(9) for k, v in Part(width).state_dict().items()}
    )


def sources(**changes: Source) -> list[Source]:
    made = {
        "left": Source(part_state(3), PART, under="left"),
        "right": Source(part_state(5), PART, under="right"),
        "embed": Source({"wte": torch.randn(7, 5)}, EMBED),
    }
    return [source for source in (made | changes).values() if source is not None]


def build(*, meta: bool) -> Whole:
    if not meta:
        return Whole()
    with torch.device("meta"):
        return Whole(table=torch.arange(6.0, device="cpu"))


@pytest.mark.parametrize("meta", [False, True])
def test_every_parameter_and_buffer_is_filled_and_ties_stay(meta):
    module, given = build(meta=meta), sources()
    origin = assemble(module, given)
    assert all(parameter.device.type == "cpu" for parameter in module.parameters())
    for name, source in (("left", given[0]), ("right", given[1])):
        wanted = PART.load(source.weights)
        assert all(torch.equal(module.get_submodule(name).state_dict()[key], wanted[key]) for key in wanted)
    assert module.embed.weight is module.head.weight
    assert torch.equal(module.embed.weight, given[2].weights["wte"])
    assert isinstance(module.left.q.weight, nn.Parameter)
    assert module.left.q.weight.requires_grad
    assert origin["left.q.weight"] == "state dict"
    assert set(origin) == set(module.state_dict()) - {"embed.weight"}


def test_a_folder_of_ours_needs_no_map(tmp_path):
    module, again = Whole(), build(meta=True)
    save_weights(tmp_path, module.state_dict(), shard_bytes=100)
    assemble(again, [Source(tmp_path)])
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("meta", [False, True])
def test_fresh_parameters_are_initialised_and_the_rest_is_loaded(meta):
    module = build(meta=meta)
    before = None if meta else module.right.q.weight.clone()
    origin = assemble(module, sources(right=None), fresh=("right",))
    assert origin["right.q.weight"] == "fresh"
    assert module.right.q.weight.isfinite().all()
    assert module.right.q.weight.std() > 0
    assert meta or torch.equal(module.right.q.weight, before)
    assert torch.equal(module.right.norm.running_var, torch.ones(5))


def test_one_fresh_tensor_beside_a_loaded_one_on_meta():
    module = build(meta=True)
    bias = {"q.bias": torch.randn(3)}
    rest = {key: value for key, value in PART.load(part_state(3)).items() if not key.startswith("q.")}
    assemble(module, [*sources(left=None), Source(bias | rest, under="left")], fresh=("left.q.weight",))
    assert torch.equal(module.left.q.bias, bias["q.bias"])
    assert module.left.q.weight.std() > 0


def test_a_bare_fresh_parameter_on_meta_is_an_error():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, device="meta"))

    with pytest.raises(ValueError, match=r"'scale' is fresh and on the meta device, and Bare has no reset_parameters"):
        assemble(Bare(), [], fresh=("scale",))


def test_a_buffer_without_values_is_an_error():
    with torch.device("meta"):
        module = Whole()
    with pytest.raises(ValueError, match=r"still on the meta device:\s+table"):
        assemble(module, sources())


def test_dtype_is_kept_or_cast_as_told_and_integers_stay():
    half = {key: value.half() if value.is_floating_point() else value for key, value in part_state(3).items()}
    for meta in (False, True):
        kept, cast = build(meta=meta), build(meta=meta)
        given = sources(left=Source(half, PART, under="left."))
        assemble(kept, given)
        assemble(cast, given, dtype=torch.bfloat16)
        assert {p.dtype for p in kept.parameters()} == {torch.float32}
        assert {p.dtype for p in cast.parameters()} == {torch.bfloat16}
        assert cast.left.norm.num_batches_tracked.dtype == torch.int64
        assert cast.embed.weight is cast.head.weight
        assert torch.equal(kept.left.q.weight, PART.load(half)["q.weight"].float())


def test_missing_paths_are_named():
    with pytest.raises(
        ValueError,
        match=r"9 paths come from no source .* not declared fresh:\n  'right.q.weight'.*\n(.*\n)+  \.\.\. and 4 more",
    ):
        assemble(Whole(), sources(right=None))


def test_a_path_given_twice_is_an_error_unless_it_says_replaces():
    again = {"q.weight": torch.randn(3, 4)}
    with pytest.raises(ValueError, match=r"'left\.q\.weight' is given twice"):
        assemble(Whole(), [*sources(), Source(again, under="left")])
    module = Whole()
    assemble(module, [*sources(), Source(again, under="left", replaces=("left.q",))])
    assert torch.equal(module.left.q.weight, again["q.weight"])
    with pytest.raises(ValueError, match=r"replaces 'left\.v'"):
        assemble(Whole(), [*sources(), Source(again, under="left", replaces=("left.v",))])


def test_both_names_of_a_tie_may_not_be_given():
    with pytest.raises(ValueError, match="is given twice"):
        assemble(Whole(), [*sources(), Source({"head.weight": torch.zeros(7, 5)})])


def test_fresh_and_given_is_an_error():
    with pytest.raises(ValueError, match=r"declared fresh and given by a source:\n  'left\.q\.weight'"):
        assemble(Whole(), sources(), fresh=("left.q.weight",))


def test_a_glob_that_covers_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"fresh 'rigth'.*right"):
        assemble(Whole(), sources(), fresh=("rigth",))


def test_a_name_the_module_has_not_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"gives 'left\.q\.wieght', which the module has not.*left\.q\.weight"):
        assemble(Whole(), [*sources(), Source({"q.wieght": torch.zeros(1)}, under="left")])


def test_shapes_that_differ_are_named_and_nothing_is_touched():
    module = Whole()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"'right\.q\.weight' is \(3, 4\) in state dict \(from qk\.weight\) and \(5, 4\) in the module"
    ):
        assemble(module, sources(right=Source(part_state(3), PART, under="right")))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_leftover_keys_name_the_file():
    with pytest.raises(KeyMismatch, match=r"state dict .*1 keys fit no rule:\n  'odd'"):
        assemble(Whole(), sources(left=Source(part_state(3) | {"odd": torch.zeros(1)}, PART, under="left")))


def test_select_reads_a_part_of_a_file():
    both = {f"a.{k}": v for k, v in part_state(3).items()} | {f"b.{k}": v for k, v in part_state(5).items()}
    module = Whole()
    left = Source(both, PART.under("a."), under="left", select=("a",))
    right = Source(both, PART.under("b."), under="right", select=("b.*",))
    assemble(module, sources(left=left, right=right))
    assert torch.equal(module.right.k.bias, PART.load(part_state_of(both, "b."))["k.bias"])
    with pytest.raises(ValueError, match=r"is asked for 'c'"):
        assemble(module, sources(left=Source(both, PART, select=("c",))))


def part_state_of(both: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in both.items() if key.startswith(prefix)}
