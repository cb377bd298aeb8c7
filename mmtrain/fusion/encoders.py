"""Fusion encoders: from the features of a picture and of a text to one vector that knows both.

Letters: N pairs, P image tokens, L text tokens, W the fusion's width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """forward(image [N, Wi], image_tokens [N, P, Wi], text [N, Wt], text_tokens [N, L, Wt], mask [N, L]) -> [N, W].

    `tokens` takes the same and gives [N, 1 + L, W]: a vector for the pooled text and one for each of its tokens, of
    which `forward` is the first. `image` and `text` are the towers' pooled features, `mask` says which text tokens are
    there. A fusion learns the towers' widths Wi and Wt when a training module connects it to them, so a config need not
    repeat them.

    Where each picture meets many texts, `image_side` and `text_side` are computed once for each of them and `meet` for
    each pair, which gives what `forward` gives in evaluation. A fusion whose sides take no work need not write them.

    Args:
        width: W; 768 in the paper of `ConcatFusion` and `TextToImageAttention`.
        image_width: The image tower's width, where the fusion stands alone.
        text_width: The text tower's, likewise.

    Attributes:
        reads_rows: Whether the features are the pair's rows in the shared space, without tokens.

    Raises:
        ValueError: for a width below 1.
    """

    reads_rows = False

    def __init__(self, width: int = 768, image_width: int | None = None, text_width: int | None = None) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"fusion.width: got {width}, expected at least 1")
        self.width, self.image_width, self.text_width = width, image_width, text_width
        if image_width is not None and text_width is not None:
            self.connect(image_width, text_width)

    def connect(self, image_width: int, text_width: int) -> "Fusion":
        """Makes the layers for towers of these widths; a second time only checks.

        Raises:
            ValueError: when it was made for other widths.
        """
        for side, ours, theirs in (
            ("image", self.image_width, image_width),
            ("text", self.text_width, text_width),
        ):
            if ours not in (None, theirs):
                raise ValueError(f"fusion.{side}_width: got {ours}, but the {side} tower gives features of {theirs}")
        if not any(True for _ in self.parameters()):
            self.image_width, self.text_width = image_width, text_width
            self.build(image_width, text_width)
        return self

    def build(self, image_width: int, text_width: int) -> None:
        """Makes the layers."""
        raise NotImplementedError

    def forward(self, image: Tensor, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        """One vector a pair, [N, W]; shapes as above."""
        raise NotImplementedError

    def tokens(self, image: Tensor, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        """Vectors [N, 1 + L, W] of the pooled text and of each of its tokens."""
        raise NotImplementedError

    def image_side(self, image: Tensor) -> tuple[Tensor, ...]:
        """What `meet` needs of pictures [n, 1 + P, Wi]: tensors of n rows each."""
        return (image,)

    def text_side(self, text: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """What `meet` needs of texts [n, 1 + L, Wt] and their mask [n, 1 + L]: tensors of n rows each."""
        return text, mask

    def meet(self, image: Sequence[Tensor], text: Sequence[Tensor]) -> Tensor:
        """The fused vectors [N, W] of the sides of N pictures and N texts."""
        return fuse(self, *image, *text)


class CrossAttentionFusion(Fusion):
    """Text tokens attend to each other and to the image tokens, in every layer (ALBEF, Li et al. 2021, section 3.1;
    X-VLM, Zeng et al. 2022). The pooled text goes in front of the tokens; its place is read at the end.

    Args:
        width: W.
        layers: Transformer layers, each with self-attention, cross-attention and an MLP, normalised before each.
        heads: Attention heads; they divide W.
        dropout: In all of them.
        image_width: The image tower's width, where the fusion stands alone.
        text_width: The text tower's, likewise.

    Raises:
        ValueError: for no layer, or heads that do not divide W.
    """

    def __init__(
        self,
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        image_width: int | None = None,
        text_width: int | None = None,
    ) -> None:
        if layers < 1:
            raise ValueError(f"fusion.layers: got {layers}, expected at least 1")
        if width % heads:
            raise ValueError(f"fusion.heads: got {heads}, expected a divisor of the width {width}")
        self.layers, self.heads, self.dropout = layers, heads, dropout  # first: `build` reads them
        super().__init__(width, image_width, text_width)

    def build(self, image_width: int, text_width: int) -> None:
        self.image_in = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, self.width))
        self.text_in = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, self.width))
        self.blocks: Any = nn.ModuleList(  # which says of its members only that they are modules
            nn.TransformerDecoderLayer(
                self.width, self.heads, 4 * self.width, self.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(self.layers)
        )
        self.norm = nn.LayerNorm(self.width)

    def forward(self, image: Tensor, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        return self.norm(self._rows(image_tokens, text, text_tokens, mask)[:, 0])

    def tokens(self, image: Tensor, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        return self.norm(self._rows(image_tokens, text, text_tokens, mask))

    def _rows(self, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        rows = self.text_in(torch.cat([text.unsqueeze(1), text_tokens], 1))
        absent = ~torch.cat([mask.new_ones(len(mask), 1), mask], 1)
        pictures = self.image_in(image_tokens)
        for block in self.blocks:
            rows = block(rows, pictures, tgt_key_padding_mask=absent)
        return rows

    def image_side(self, image: Tensor) -> tuple[Tensor, ...]:
        """Of each block the keys and values [n, P, 2 W]."""
        rows = self.image_in(image[:, 1:])
        return tuple(keys_values(block.multihead_attn, rows) for block in self.blocks)

    def text_side(self, text: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The tokens [n, 1 + L, W] after the first self-attention, which has seen no picture yet, and their mask."""
        return self._read(self.blocks[0], self.text_in(text), mask), mask

    def meet(self, image: Sequence[Tensor], text: Sequence[Tensor]) -> Tensor:
        rows, mask = text
        for block, seen in zip(self.blocks, image, strict=True):
            if block is not self.blocks[0]:
                rows = self._read(block, rows, mask)
            rows = rows + attended(block.multihead_attn, block.norm2(rows), seen)
            rows = rows + block.linear2(block.activation(block.linear1(block.norm3(rows))))
        return self.norm(rows[:, 0])

    def _read(self, block: nn.TransformerDecoderLayer, rows: Tensor, mask: Tensor) -> Tensor:
        """Self-attention; in the last block only of the pooled text, the one place that `meet` gives."""
        places = 1 if block is self.blocks[-1] else rows.shape[1]
        normed = block.norm1(rows)
        seen = keys_values(block.self_attn, normed)
        return rows[:, :places] + attended(block.self_attn, normed[:, :places], seen, mask[:, None, None, :])


class ConcatFusion(Fusion):
    """Pooled features side by side, one linear layer and ReLU (Ber-ViT-Conc of Sanchez Villegas et al. 2024)."""

    def build(self, image_width: int, text_width: int) -> None:
        self.out = nn.Linear(image_width + text_width, self.width)

    def forward(self, image: Tensor, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        return self.out(torch.cat([text, image], 1)).relu()

    def tokens(self, image: Tensor, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        rows = torch.cat([text.unsqueeze(1), text_tokens], 1)
        return self.out(torch.cat([rows, image.unsqueeze(1).expand(-1, rows.shape[1], -1)], 2)).relu()


class TextToImageAttention(Fusion):
    """The pooled text looks at the image tokens, in one head of scaled dot products; what it saw stands beside it
    before a linear layer and ReLU (Ber-ViT-Att of Sanchez Villegas et al. 2024).
    """

    def build(self, image_width: int, text_width: int) -> None:
        self.query = nn.Linear(text_width, self.width)
        self.key = nn.Linear(image_width, self.width)
        self.value = nn.Linear(image_width, self.width)
        self.out = nn.Linear(text_width + self.width, self.width)

    def forward(self, image: Tensor, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        return self._beside_what_it_saw(text.unsqueeze(1), image_tokens)[:, 0]

    def tokens(self, image: Tensor, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        return self._beside_what_it_saw(torch.cat([text.unsqueeze(1), text_tokens], 1), image_tokens)

    def _beside_what_it_saw(self, rows: Tensor, image_tokens: Tensor) -> Tensor:
        """rows [N, n, Wt] -> [N, n, W]."""
        seen = nn.functional.scaled_dot_product_attention(
            self.query(rows), self.key(image_tokens), self.value(image_tokens)
        )
        return self.out(torch.cat([rows, seen], 2)).relu()


class RowFusion(Fusion):
    """`pair_rows` of a picture's and a text's rows in the shared space through two layers. `MatchingHead` takes it."""

    reads_rows = True

    def build(self, image_width: int, text_width: int) -> None:
        if image_width != text_width:
            raise ValueError(f"fusion: RowFusion compares rows of one width, got {image_width} and {text_width}")
        self.layers = nn.Sequential(
            nn.Linear(4 * image_width, self.width), nn.GELU(), nn.Linear(self.width, self.width), nn.GELU()
        )

    def forward(self, image: Tensor, image_tokens: Tensor, text: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        return self.layers(pair_rows(image, text))


def pair_rows(image: Tensor, text: Tensor) -> Tensor:
    """v, t, |v - t| and v * t side by side [N, 4 D], of a picture's and a text's unit rows [N, D] of the shared space.

    Each is scaled so that its numbers are of the order of 1, as those of a fused vector are: one learning rate, and one
    penalty of a regression, is then right for all of them.
    """
    scale = image.shape[1] ** 0.5
    return torch.cat([scale * image, scale * text, scale * (image - text).abs(), scale**2 * image * text], 1)


def keys_values(attention: nn.MultiheadAttention, rows: Tensor) -> Tensor:
    """Side by side [N, S, 2 W] of rows [N, S, W]."""
    W = attention.embed_dim
    return nn.functional.linear(rows, attention.in_proj_weight[W:], attention.in_proj_bias[W:])


def attended(attention: nn.MultiheadAttention, rows: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
    """What rows [N, n, W] see in keys and values [N, S, 2 W] by a mask [N, 1, 1, S]: [N, n, W]."""
    W = attention.embed_dim
    projected = nn.functional.linear(rows, attention.in_proj_weight[:W], attention.in_proj_bias[:W])
    query, keys, values = (
        each.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for each in (projected, *seen.chunk(2, 2))
    )
    found = nn.functional.scaled_dot_product_attention(query, keys, values, mask)
    return attention.out_proj(found.transpose(1, 2).flatten(2))


def fuse(fusion: Fusion, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """The fused vectors [N, W] of pairs whose pooled features lead their tokens.

    Args:
        image: [N, 1 + P, Wi], the form in which `losses.Embeddings.tokens` carries features.
        text: [N, 1 + L, Wt].
        mask: bool [N, 1 + L].
    """
    return fusion(image[:, 0], image[:, 1:], text[:, 0], text[:, 1:], mask[:, 1:])
