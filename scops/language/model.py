"""A language model is an embedding, blocks, a norm and a head; what the blocks do is their own affair."""

# B rows, T tokens, D width, V vocabulary
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.functional import linear

from scops.nn.block import Contextual, run
from scops.nn.context import Context


class LanguageModel(nn.Module):
    """ids -> embed (-> embed_norm) (-> enter) -> blocks -> norm -> head.

    Args:
        head: a projection, or None for one tied to the embedding.
        embed_norm: of words alone; media tokens do not pass it (BLOOM).
        enter: what words and media tokens pass before the first block, given (x, ctx) (OPT's positions).
        window: how far back a token sees (Mistral's sliding window); None for all the way.
        stretch: of so many tokens, what their keys depend on besides all that stands before them (DynamicNtk.stretch).
    """

    def __init__(
        self,
        embed: nn.Embedding,
        blocks: Sequence[nn.Module],
        *,
        norm: nn.Module,
        head: nn.Module | None,
        embed_norm: nn.Module | None = None,
        enter: Contextual | None = None,
        window: int | None = None,
        stretch: Callable[[int], int] | None = None,
    ):
        super().__init__()
        self.stretch = stretch
        self.embed, self.embed_norm = embed, embed_norm or nn.Identity()
        self.enter: nn.Module = enter or nn.Identity()
        self.blocks, self.norm, self.window = nn.ModuleList(blocks), norm, window
        if head is not None:
            self.head = head

    def words(self, ids: Tensor) -> Tensor:
        """What stands in the sequence for these ids, ids.shape + (D,)."""
        return self.embed_norm(self.embed(ids))

    def projection(self) -> nn.Module:
        """The head, or one over the embedding that it is tied to."""
        if not self.tied:
            return self.head
        vocab, dim = self.embed.weight.shape
        tied = nn.Linear(dim, vocab, bias=False, device="meta")
        tied.weight = self.embed.weight
        return tied

    @property
    def tied(self) -> bool:
        return "head" not in self._modules

    def hidden(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        x_BTD = run(self.enter, x_BTD, ctx)
        for block in self.blocks:
            x_BTD = block(x_BTD, ctx)
        return self.norm(x_BTD)

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return linear(x, self.embed.weight) if self.tied else self.head(x)
