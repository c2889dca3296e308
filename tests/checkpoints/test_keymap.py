"""Tables of names read both ways, forget nothing and say what does not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from scops.checkpoints.keymap import (
    Concat,
    KeyMap,
    KeyMismatch,
    LeadingAxes,
    Op,
    Split,
    SplitPerHead,
    TrailingAxes,
    Transpose,
    Unpermute,
    dropped,
    rule,
    same,
    split,
    unchanged,
)
from scops.checkpoints.op import ForTokens

KEYS = KeyMap(
    same("top.weight", "embed.weight"),
    split("h.{i}.qkv.{w}", ("blocks.{i}.q.{w}", "blocks.{i}.k.{w}", "blocks.{i}.v.{w}"), SplitPerHead(3, heads=5)),
    same("h.{i}.out.{w}", "blocks.{i}.o.{w}"),
    split("h.{i}.gate_up", ("blocks.{i}.gate", "blocks.{i}.up")),
    same("cls", "cls", LeadingAxes(2)),
    dropped("h.{i}.inv_freq", "rebuilt"),
)


def state(layers: int = 2) -> dict[str, torch.Tensor]:
    made = {"top.weight": torch.randn(11, 7), "cls": torch.randn(7)}
    for i in range(layers):
        made |= {
            f"h.{i}.qkv.weight": torch.randn(45, 7),
            f"h.{i}.qkv.bias": torch.randn(45),
            f"h.{i}.out.weight": torch.randn(7, 15),
            f"h.{i}.gate_up": torch.randn(6, 7),
            f"h.{i}.inv_freq": torch.randn(3),
        }
    return made


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_save_of_load_is_the_same_bits_but_for_dropped_keys():
    theirs = state()
    assert equal(KEYS.save(KEYS.load(theirs)), {k: v for k, v in theirs.items() if "inv_freq" not in k})


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (Op(), [(4, 3)]),
        (Split(3), [(9, 2)]),
        (Split((4, 1, 1)), [(12, 5)]),
        (SplitPerHead(3, heads=2), [(18,)]),
        (SplitPerHead((4, 1, 1), heads=3), [(36, 5)]),
        (Concat((2, 1)), [(4, 3), (2, 3)]),
        (Transpose(), [(2, 5)]),
        (LeadingAxes(2), [(7,)]),
        (TrailingAxes(3), [(5, 7, 1, 1, 1)]),
        (Unpermute(3), [(18, 4)]),
        (Unpermute(3), [(18,)]),
    ],
)
def test_every_op_is_undone_bitwise_and_owns_its_memory(op, shapes):
    theirs = [torch.randn(shape) for shape in shapes]
    ours = op.load(theirs)
    back = op.save(ours)
    assert len(back) == len(theirs)
    assert all(torch.equal(a, b) and a.is_contiguous() for a, b in zip(back, theirs, strict=True))
    if len(ours) > 1:
        assert len({tensor.untyped_storage().data_ptr() for tensor in ours}) == len(ours)
    outlines = op.load([tensor.to("meta") for tensor in theirs])
    assert [o.shape for o in outlines] == [o.shape for o in ours]


def test_parts_per_head_are_the_rows_of_every_head():
    heads, parts, width = 2, 3, 4
    fused = torch.arange(heads * parts * width).float()
    q, k, v = SplitPerHead(3, heads=heads).load([fused])
    slow = [[fused[(n * parts + p) * width + w] for n in range(heads) for w in range(width)] for p in range(parts)]
    assert [q.tolist(), k.tolist(), v.tolist()] == [[float(x) for x in part] for part in slow]


def test_grouped_fused_rows_are_queries_then_key_then_value_of_each_group():
    q, k, v = SplitPerHead((2, 1, 1), heads=2).load([torch.arange(8)])
    assert (q.tolist(), k.tolist(), v.tolist()) == ([0, 1, 4, 5], [2, 6], [3, 7])


def test_unpermute_takes_neighbours_apart():
    assert Unpermute(1).load([torch.tensor([0, 1, 2, 3, 4, 5])])[0].tolist() == [0, 2, 4, 1, 3, 5]


def test_leftover_keys_are_named_with_their_nearest_pattern():
    odd = {f"h.{i}.qkv.wieght.x": torch.zeros(1) for i in range(7)}
    with pytest.raises(KeyMismatch, match=r"7 keys fit no rule") as error:
        KEYS.load(state() | odd)
    assert str(error.value).count("h.{i}.qkv.{w}") == 5
    assert "and 2 more" in str(error.value)
    with pytest.raises(KeyMismatch, match=r"blocks\.x\.o\.weight.*blocks\.\{i\}\.o\.\{w\}"):
        KEYS.save({"blocks.x.o.weight": torch.zeros(1)})


def test_a_missing_companion_is_an_error_in_both_ways():
    ours = KEYS.load(state())
    del ours["blocks.1.v.bias"]
    with pytest.raises(KeyMismatch, match=r"needs \['blocks.1.v.bias'\] beside it"):
        KEYS.save(ours)
    experts = KeyMap(rule(("e.0.w", "e.1.w"), ("experts",), Concat(2)))
    with pytest.raises(KeyMismatch, match=r"'e.1.w' needs \['e.0.w'\]"):
        experts.load({"e.1.w": torch.zeros(1)})


def test_two_rules_that_make_one_target_are_an_error():
    with pytest.raises(KeyMismatch, match="two rules make 'x'"):
        KeyMap(same("a", "x"), same("b", "x")).load({"a": torch.zeros(1), "b": torch.zeros(1)})


def test_a_key_that_would_not_come_back_is_an_error():
    with pytest.raises(KeyMismatch, match=r"'x.weight'.*would go back by"):
        KeyMap(same("a.{w}", "x.{w}"), same("b.weight", "x.weight")).load({"b.weight": torch.zeros(1)})


def test_the_first_rule_that_fits_takes_the_key():
    for rules in ([dropped("a.b", "no"), same("a.{w}", "x.{w}")], [same("a.{w}", "x.{w}"), dropped("a.b", "no")]):
        made = KeyMap(*rules).load({"a.b": torch.zeros(1), "a.c": torch.zeros(1)})
        assert sorted(made) == (["x.c"] if not rules[0].ours else ["x.b", "x.c"])


def test_holes_must_agree_inside_a_rule():
    with pytest.raises(ValueError, match="different holes"):
        same("a.{i}", "b.{j}")


def test_a_hole_that_stands_twice_holds_the_same_twice():
    keys = KeyMap(same("a.{i}.b.{i}", "x.{i}"))
    assert keys.load_names(["a.3.b.3"]) == {"x.3": ("a.3.b.3",)}
    assert keys.save_names(["x.3"]) == {"a.3.b.3": ("x.3",)}
    with pytest.raises(KeyMismatch):
        keys.load_names(["a.3.b.4"])


def test_a_number_is_no_word_and_a_piece_has_no_dot():
    keys = KeyMap(same("a.{i}.{w}", "b.{i}.{w}"))
    for name in ("a.x.w", "a.1.w.z", "a.1", "a.1.w.", "xa.1.w"):
        with pytest.raises(KeyMismatch):
            keys.load_names([name])


def test_maps_are_mounted_below_prefixes():
    whole = KeyMap(KEYS.under("model.text.", "language."), same("scale", "scale"))
    theirs = {f"model.text.{key}": value for key, value in state(1).items()} | {"scale": torch.ones(1)}
    ours = whole.load(theirs)
    assert equal(ours, {f"language.{k}": v for k, v in KEYS.load(state_of(theirs)).items()} | {"scale": torch.ones(1)})
    assert set(whole.save(ours)) == {key for key in theirs if "inv_freq" not in key}


def state_of(theirs: dict) -> dict:
    return {k.removeprefix("model.text."): v for k, v in theirs.items() if k != "scale"}


def test_names_alone_are_enough():
    names = KEYS.load_names(state(1))
    assert names["blocks.0.k.bias"] == ("h.0.qkv.bias",)
    assert set(names) == set(KEYS.load(state(1)))
    assert set(KEYS.save_names(names)) == {key for key in state(1) if "inv_freq" not in key}


def test_meta_tensors_go_through():
    ours = KEYS.load({key: value.to("meta") for key, value in state().items()})
    assert ours["blocks.1.q.weight"].shape == (15, 7)
    assert ours["cls"].shape == (1, 1, 7)


def test_a_shape_that_an_op_cannot_cut_is_named_with_its_rule():
    with pytest.raises(KeyMismatch, match=r"h\.0\.qkv\.bias.*\(44,\).*44 rows cannot be divided into 5 x \(1, 1, 1\)"):
        KEYS.load({"h.0.qkv.bias": torch.zeros(44)})


def test_unchanged_names_are_the_same_on_both_sides():
    theirs = state()
    assert equal(unchanged(theirs).load(theirs), theirs)
    with pytest.raises(KeyMismatch):
        unchanged(theirs).load_names(["other"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["weight", "bias"])), unique=True))
def test_any_choice_of_layers_comes_back(places):
    theirs = {f"h.{i}.out.{w}": torch.randn(2, 3) for i, w in places}
    assert equal(KEYS.save(KEYS.load(theirs)), theirs)


def test_another_spelling_is_read_and_never_written():
    keys = KeyMap(same("a.{i}.{w}", "blocks.{i}.{w}"), KeyMap(same("old.a.{i}.{w}", "blocks.{i}.{w}")).read_only())
    theirs = {"a.0.weight": torch.randn(2), "a.1.weight": torch.randn(3)}
    ours = keys.load({f"old.{name}": tensor for name, tensor in theirs.items()})
    assert equal(ours, keys.load(theirs))
    assert equal(keys.save(ours), theirs)
    with pytest.raises(KeyMismatch, match=r"two rules make 'blocks\.0\.weight'"):
        keys.load(theirs | {"old.a.0.weight": torch.randn(2)})
    with pytest.raises(KeyMismatch, match=r"fit no rule"):
        keys.load({"older.a.0.weight": torch.randn(2)})
    alone = KeyMap(same("old", "new")).read_only()
    with pytest.raises(KeyMismatch, match="would go back by no rule"):
        alone.load({"old": torch.randn(2)})


def test_positions_are_spread_over_another_grid_and_those_of_equal_size_stay_bitwise() -> None:
    table = torch.randn(1, 1 + 9, 4)
    assert torch.equal(ForTokens(10).load([table])[0], table)
    (spread,) = ForTokens(1 + 36).load([table])
    assert spread.shape == (1, 37, 4)
    assert torch.equal(spread[:, 0], table[:, 0])
    expected = interpolate(table[0, 1:].T.reshape(1, 4, 3, 3), size=(6, 6), mode="bicubic", align_corners=False)
    assert torch.equal(spread[0, 1:].T, expected.reshape(4, 36))
    half = ForTokens(1 + 16).load([table.half()])[0]
    assert half.dtype == torch.float16
    with pytest.raises(ValueError, match="10 positions cannot become 12"):
        ForTokens(12).load([table])
