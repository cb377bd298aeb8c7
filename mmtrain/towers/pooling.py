"""From a sequence of token features to one vector."""

from typing import Literal

import torch
from torch import Tensor, nn

Pool = Literal["cls", "mean", "max", "last", "attention"]


class Pooling(nn.Module):
    """Pools features [N, T, W] to [N, W]; positions where `mask` [N, T] is False are ignored.

    Args:
        kind: "cls" takes the first token, "last" the last unmasked one, "mean" and "max" all unmasked ones,
            "attention" a learned query over them (the MAP head of Zhai et al. 2022, "Scaling Vision Transformers").
        width: W.
        heads: Attention heads of "attention".

    Raises:
        ValueError: for another kind, or a width that the heads do not divide.
    """

    def __init__(self, kind: Pool, width: int, heads: int = 8) -> None:
        super().__init__()
        if kind not in ("cls", "mean", "max", "last", "attention"):
            raise ValueError(f"pooling: got {kind!r}, expected cls, mean, max, last or attention")
        self.kind = kind
        if kind == "attention":
            if width % heads:
                raise ValueError(f"pooling attention: width {width} is no multiple of its {heads} heads")
            self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
            self.norm = nn.LayerNorm(width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.kind == "cls":
            return features[:, 0]
        if mask is None:
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        # A row without any token pools its first position, so that no pooling divides by zero or attends to nothing.
        mask = torch.cat([mask[:, :1] | ~mask.any(1, keepdim=True), mask[:, 1:]], dim=1)
        if self.kind == "mean":
            weights = mask.unsqueeze(-1).to(features.dtype)
            return (features * weights).sum(1) / weights.sum(1)
        if self.kind == "max":
            return features.masked_fill(~mask.unsqueeze(-1), torch.finfo(features.dtype).min).amax(1)
        if self.kind == "last":
            positions = torch.arange(mask.shape[1], device=mask.device)
            last = (positions * mask).amax(1)
            return features[torch.arange(len(features), device=mask.device), last]
        query = self.query.expand(len(features), -1, -1)
        pooled, _ = self.attention(query, features, features, key_padding_mask=~mask, need_weights=False)
        pooled = pooled[:, 0]
        return pooled + self.mlp(self.norm(pooled))
