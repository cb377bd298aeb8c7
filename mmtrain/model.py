"""The two towers and their projections into the shared space."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from losses import micro_batched
from mmtrain.towers import ImageTower, TextTower

Projection = Literal["linear", "mlp", "none"]


class ImageTextModel(nn.Module):
    """Images and captions of any language as rows of unit length in one space.

    Args:
        image: The image tower.
        text: The text tower.
        dimension: D, the width of the shared space.
        projection: linear, mlp (one hidden layer of the tower's width) or none (both towers are D wide already).
        buckets: Captions are sorted by length and encoded in this many parts, each cut to its longest caption, so that
            no time goes into padding; the result is the same. 1 encodes them as they come.

    Raises:
        ValueError: when projection is none and a tower's width is not D.
    """

    def __init__(
        self,
        image: ImageTower,
        text: TextTower,
        dimension: int = 256,
        projection: Projection = "linear",
        buckets: int = 4,
    ) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.dimension = dimension
        self.projection = projection
        self.buckets = buckets
        self.image_projection = _projection(projection, "image", image.width, dimension)
        self.text_projection = _projection(projection, "text", text.width, dimension)
        self.micro_batch: int | None = None

    def encode_image(self, images: Tensor) -> Tensor:
        """images [N, ...] -> float [N, D], unit rows."""
        return self._in_parts(self._image_rows, images)

    def encode_text(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> Tensor:
        """tokens int64 [N, L], mask bool [N, L], languages int64 [N] -> float [N, D], unit rows."""
        if languages is None:
            languages = tokens.new_full((len(tokens),), -1)
        lengths = mask.sum(1)
        order = lengths.argsort(stable=True)
        rows = []
        for part in order.chunk(self.buckets if len(tokens) > self.buckets else 1):
            longest = max(int(lengths[part[-1]]), 1)
            rows.append(self._in_parts(self._text_rows, tokens[part, :longest], mask[part, :longest], languages[part]))
        return torch.cat(rows)[order.argsort()]

    def tokens(self, images: Tensor, tokens: Tensor, mask: Tensor, languages: Tensor | None) -> dict[str, Tensor]:
        """Rows of the space and token features of both towers: image [N, D], text [M, D], image_tokens [N, 1 + P, Wi],
        text_tokens [M, 1 + L, Wt], in both of which the tower's pooled features lead.
        """
        pooled_image, image_tokens = self.image(images)
        pooled_text, text_tokens = self.text(tokens, mask, languages)
        return {
            "image": _unit(self.image_projection(pooled_image)),
            "text": _unit(self.text_projection(pooled_text)),
            "image_tokens": torch.cat([pooled_image.unsqueeze(1), image_tokens], 1),
            "text_tokens": torch.cat([pooled_text.unsqueeze(1), text_tokens], 1),
        }

    def _in_parts(self, encode: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.micro_batch is None or len(inputs[0]) <= self.micro_batch:
            return encode(*inputs)
        return micro_batched(encode, *inputs, micro_batch=self.micro_batch)

    def _image_rows(self, images: Tensor) -> Tensor:
        return _unit(self.image_projection(self.image(images)[0]))

    def _text_rows(self, tokens: Tensor, mask: Tensor, languages: Tensor) -> Tensor:
        return _unit(self.text_projection(self.text(tokens, mask, languages)[0]))


def _unit(rows: Tensor) -> Tensor:
    # float32 at least: half precision leaves rows that are not of unit length
    return functional.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=-1)


def _projection(kind: Projection, side: str, width: int, dimension: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, dimension, bias=False)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, dimension))
    if kind != "none":
        raise ValueError(f"projection: got {kind!r}, expected linear, mlp or none")
    if width != dimension:
        raise ValueError(f"projection none needs {side} features of width {dimension}, the tower gives {width}")
    return nn.Identity()
