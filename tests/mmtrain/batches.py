"""A batch made by hand."""

from typing import Any

import torch
from torch import Tensor

from datamodules import Batch


def made_batch(images: Tensor, K: int = 2, L: int = 6, **more: Any) -> Batch:
    """B images, all different, with K captions each of L tokens in K languages."""
    B, random = len(images), torch.Generator().manual_seed(0)
    numbers = torch.arange(B)
    return Batch(
        images=images,
        tokens=torch.randint(1, 255, (B, K, L), generator=random),
        token_mask=torch.ones(B, K, L, dtype=torch.bool),
        present=torch.ones(B, K, dtype=torch.bool),
        languages=torch.arange(K).expand(B, K),
        image_ids=numbers,
        text_ids=torch.arange(B * K).view(B, K),
        rows=numbers,
        sources=0 * numbers,
        ids=[str(number) for number in range(B)],
        captions=[["text"] * K for _ in range(B)],
        **more,
    )
