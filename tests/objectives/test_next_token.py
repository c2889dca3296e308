"""Next-token loss against the plain way: all logits, all rows."""

import torch
from torch.nn import functional as F

from scops.data.collate import pack, pad
from scops.objectives import COUNTS, next_token
from tests.train.toy import Toy, Writer, rows


def examples(count: int = 7) -> list:
    from dataclasses import replace

    made = [Writer()(row) for row in rows(count)]
    return [replace(example, dataset="even" if i % 2 == 0 else "odd") for i, example in enumerate(made)]


def slow(system: Toy, example) -> tuple[torch.Tensor, int]:
    batch = pad([example], pad_id=0)
    logits_TV = system(batch)[0]
    learn = torch.from_numpy(example.learn_T)
    return F.cross_entropy(logits_TV[:-1][learn[1:]], batch.ids_BT[0, 1:][learn[1:]], reduction="sum"), int(
        learn[1:].sum()
    )


def test_sum_and_count_equal_single_rows_with_all_logits():
    system, made = Toy().eval(), examples()
    loss = next_token(system, pad(made, pad_id=0), {})
    singles = [slow(system, example) for example in made]
    assert loss.count == sum(count for _, count in singles) == COUNTS["next_token"](pad(made, pad_id=0))
    torch.testing.assert_close(loss.sum, sum(value for value, _ in singles))


def test_parts_are_the_loss_of_each_data_set_padded_or_packed():
    system, made = Toy().eval(), examples()
    for batch in (pad(made, pad_id=0), pack(made, capacity=20, pad_id=0)):
        loss = next_token(system, batch, {})
        assert set(loss.parts) == {"even", "odd"}
        assert sum(count for _, count in loss.parts.values()) == loss.count
        torch.testing.assert_close(sum(value for value, _ in loss.parts.values()), loss.sum.detach())
    odd = [slow(system, example) for example in made[1::2]]
    parts = next_token(system, pad(made, pad_id=0), {}).parts
    torch.testing.assert_close(parts["odd"][0], sum(value for value, _ in odd).detach())
    assert parts["odd"][1] == sum(count for _, count in odd)
