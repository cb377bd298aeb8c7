"""From a sequence of token features to one vector."""

from typing import Literal

import torch
from torch import Tensor, nn

Pool = Literal["cls", "mean", "max", "last", "attention"]
HEADS = 8  # of attention pooling


class Pooling(nn.Module):
    """Pools features [N, T, W] to [N, W]; positions where `mask` [N, T] is False are ignored.

    Args:
        kind: "cls" takes the first token, "last" the last unmasked one, "mean" and "max" all unmasked ones,
            "attention" a learned query over them (the MAP head of Zhai et al. 2022, "Scaling Vision Transformers").
        width: W.

    Raises:
        ValueError: for another kind, or a width that the heads of attention do not divide.
    """

    def __init__(self, kind: Pool, width: int) -> None:
        super().__init__()
        if kind not in ("cls", "mean", "max", "last", "attention"):
            raise ValueError(f"pooling: got {kind!r}, expected cls, mean, max, last or attention")
        self.kind = kind
        if kind == "attention":
            if width % HEADS:
                raise ValueError(f"pooling attention: width {width} is no multiple of its {HEADS} heads")
            self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
            self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
            self.norm = nn.LayerNorm(width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """[N, W] of features [N, T, W] and a mask bool [N, T], None for all."""
        if self.kind == "cls":
            return features[:, 0]
        if mask is None:
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        # A row without any token pools its first position: no division by zero, no attention to nothing.
        mask = torch.cat([mask[:, :1] | ~mask.any(1, keepdim=True), mask[:, 1:]], dim=1)
        if self.kind == "mean":
            weights = mask.unsqueeze(-1).to(features.dtype)
            return (features * weights).sum(1) / weights.sum(1)
        if self.kind == "max":
            return features.masked_fill(~mask.unsqueeze(-1), torch.finfo(features.dtype).min).amax(1)
        if self.kind == "last":
            last = (torch.arange(mask.shape[1], device=mask.device) * mask).amax(1)
            return features.gather(1, last.view(-1, 1, 1).expand(-1, -1, features.shape[2]))[:, 0]
        query = self.query.expand(features.shape[0], -1, -1)  # len() would be a constant in an exported graph
        pooled = self.attention(query, features, features, key_padding_mask=~mask, need_weights=False)[0][:, 0]
        return pooled + self.mlp(self.norm(pooled))
