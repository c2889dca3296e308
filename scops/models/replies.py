"""A row of a batch as a prompt and a reply, which the encoder and the decoder of one system read each for itself."""

# B rows, T tokens, D width
import torch
from torch import Tensor

from scops.core.batch import Batch


def prompts_of(batch: Batch, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """What stands before the replies (B, T, D), and which of it is no padding (B, T)."""
    starts = _starts(batch)
    start_B1 = torch.tensor(starts, device=batch.ids_BT.device)[:, None]
    return x_BTD[:, : max(starts)], torch.arange(max(starts), device=batch.ids_BT.device) < start_B1


def replies_of(batch: Batch) -> Batch:
    """The replies alone, from position 0."""
    starts = _starts(batch)
    lengths = tuple(end - start for start, end in zip(starts, batch.lengths, strict=True))
    start_B1 = torch.tensor(starts, device=batch.ids_BT.device)[:, None]
    position_1T = torch.arange(max(lengths), device=batch.ids_BT.device)[None]
    at_BT = (start_B1 + position_1T).clamp(max=batch.ids_BT.shape[1] - 1)
    return Batch(batch.ids_BT.gather(1, at_BT), position_1T.expand_as(at_BT), lengths, ((0,),) * len(starts))


def _starts(batch: Batch) -> tuple[int, ...]:
    """Where the replies begin, on the host.

    Raises:
        ValueError: a packed batch, or one without replies.
    """
    if batch.packed:
        raise ValueError(
            "an encoder-decoder reads one conversation per row, but this batch is packed; leave out `packing`"
        )
    if not batch.replies:
        raise ValueError(
            "the batch does not say where its replies begin; make its examples with scops.data.processor.Processor, "
            "and let the template open an assistant's turn with a special token"
        )
    for row, (start, end) in enumerate(zip(batch.replies, batch.lengths, strict=True)):
        if not 0 < start < end:
            raise ValueError(
                f"row {row}: the reply begins at {start} of {end} tokens; prompt and reply need one at least"
            )
    return batch.replies
