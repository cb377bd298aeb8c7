"""Several pictures and a text as one row, over the tokens that the towers make of them (after Coral: MERIT, Chow et al.
2025).

Letters: N queries, m pieces of each text, n pictures of each, T features of a piece or picture, W width, D dimensions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from losses import FieldEmbeddings
from mmtrain.fusion.decoder import sines


class ComposedQuery(nn.Module):
    """forward(texts, images) -> rows float [N, D] of unit length; of one input alone it is that input's row.

    The row is the sum of the inputs' rows and of what transformer layers add, which read the features of all inputs at
    once. Texts and pictures alternate: piece k of a text stands at place 2 k, the picture behind it at 2 k + 1, so a
    picture keeps its place between the words. What the layers add begins as nothing: an untrained composition is the
    normalised sum, and so is one without layers. In Coral a language model reads the inputs; here layers of our own do.

    Args:
        layers: How many; 0 adds nothing.
        width: W; None for the text tower's.
        heads: They divide W; None for W / 64.
        dropout: In all layers.
        image_width: The image tower's width; None for what the model says, as for the two below.
        text_width: The text tower's.
        dimension: D.

    Raises:
        ValueError: for a number of layers below 0, or heads that do not divide W.
    """

    def __init__(
        self,
        layers: int = 2,
        width: int | None = None,
        heads: int | None = None,
        dropout: float = 0.0,
        image_width: int | None = None,
        text_width: int | None = None,
        dimension: int | None = None,
    ) -> None:
        super().__init__()
        if layers < 0:
            raise ValueError(f"composition.layers: got {layers}, expected 0 or more")
        self.layers, self.width, self.heads, self.dropout = layers, width, heads, dropout
        self.image_width, self.text_width, self.dimension = image_width, text_width, dimension
        if image_width is not None and text_width is not None and dimension is not None:
            self.build(image_width, text_width, dimension)

    def build(self, image_width: int, text_width: int, dimension: int) -> None:
        """Makes the layers; a second time, for the same widths, nothing.

        Raises:
            ValueError: heads that do not divide the width.
        """
        if hasattr(self, "blocks"):
            return
        self.image_width, self.text_width, self.dimension = image_width, text_width, dimension
        self.width = self.width or text_width
        self.heads = self.heads or max(self.width // 64, 1)
        if self.width % self.heads:
            raise ValueError(f"composition.heads: got {self.heads}, expected a divisor of the width {self.width}")
        self.blocks: Any = nn.ModuleList(  # which says of its members only that they are modules
            nn.TransformerEncoderLayer(
                self.width, self.heads, 4 * self.width, self.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(self.layers)
        )
        if not self.layers:
            return
        self.text_in = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, self.width))
        self.image_in = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, self.width))
        self.first = nn.Parameter(torch.randn(1, 1, self.width) * self.width**-0.5)
        out = nn.Linear(self.width, dimension, bias=False)
        nn.init.zeros_(out.weight)
        self.out = nn.Sequential(nn.LayerNorm(self.width), out)

    def forward(self, texts: FieldEmbeddings, images: FieldEmbeddings) -> Tensor:
        """Rows [N, D], float32 at least; zeros for a query of nothing.

        Args:
            texts: The pieces of each query's text: rows [N, m, D], present [N, m], tokens [N, m, T, W].
            images: Its pictures, likewise with n.
        """
        there = [_present(each) for each in (texts, images)]
        total = torch.stack(
            [(each.rows * there.unsqueeze(-1)).sum(1) for each, there in zip((texts, images), there, strict=True)]
        ).sum(0)
        if self.layers:
            several = torch.cat(there, 1).sum(1, keepdim=True) > 1
            total = total + several * self._added(texts, images, there)
        return functional.normalize(total if total.dtype == torch.float64 else total.float(), dim=-1)

    def _added(self, texts: FieldEmbeddings, images: FieldEmbeddings, there: list[Tensor]) -> Tensor:
        N = len(texts.rows)
        rows, absent = [self.first.expand(N, -1, -1)], [there[0].new_zeros(N, 1)]
        for kind, (field, read) in enumerate(((texts, self.text_in), (images, self.image_in))):
            assert field.tokens is not None
            features = read(field.tokens.leading)
            places = sines(2 * features.shape[1], features)[kind::2, None]
            mask = field.tokens.leading_mask
            own = there[kind].unsqueeze(-1).expand(features.shape[:3]) if mask is None else mask
            rows.append((features + places).flatten(1, 2))
            absent.append(~(own & there[kind].unsqueeze(-1)).flatten(1))
        read_rows, hidden = torch.cat(rows, 1), torch.cat(absent, 1)
        for block in self.blocks:
            read_rows = block(read_rows, src_key_padding_mask=hidden)
        return self.out(read_rows[:, 0])


def _present(field: FieldEmbeddings) -> Tensor:
    if field.present is None:
        return torch.ones(field.rows.shape[:2], dtype=torch.bool, device=field.rows.device)
    return field.present
