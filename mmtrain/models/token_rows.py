"""Token rows of one item: fewer of them, and in fewer bits."""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

ROUNDS = 10  # of k-means
SHARPNESS = 20.0  # of attention: 1 / 0.05 times the cosines
Stored = Literal["float16", "int8"]
TokenPooling = Literal["kmeans", "attention"]


def kept(rows: Tensor, mask: Tensor, budget: int | None = None, pooling: TokenPooling = "kmeans") -> Iterator[Tensor]:
    """Of each item its token rows [l, d] that there are, at most `budget`, of rows [N, L, d] and mask bool [N, L]."""
    for each, there in zip(rows, mask, strict=True):
        own = each[there]
        yield own if budget is None else pooled(own, budget, pooling)[0]


def pooled(rows: Tensor, budget: int, pooling: TokenPooling = "kmeans") -> tuple[Tensor, Tensor]:
    """Unit rows [L, d] as at most `budget` of them [n, d], and which of these is nearest to each row, int64 [L].

    Both ways begin with the rows that are farthest from each other, the first among them: nothing is drawn, and nothing
    but the item's own rows counts.

    Args:
        rows: float [L, d].
        budget: At least 1; rows that are no more stay as they are.
        pooling: "kmeans" gives the means of clusters by cosine; "attention" lets each of those rows attend to all by
            softmax(20 times the cosines), and gives what it reads.

    Raises:
        ValueError: for another pooling.
    """
    if pooling not in get_args(TokenPooling):
        raise ValueError(f"pooling: got {pooling!r}, expected {' or '.join(get_args(TokenPooling))}")
    if len(rows) <= budget:
        return rows, torch.arange(len(rows))
    chosen, nearest = [0], rows @ rows[0]
    while len(chosen) < budget:
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, rows @ rows[chosen[-1]])
    centres = rows[chosen]
    if pooling == "attention":
        centres = functional.normalize((SHARPNESS * centres @ rows.T).softmax(1) @ rows, dim=1)
    for _ in range(ROUNDS if pooling == "kmeans" else 0):
        cluster = (rows @ centres.T).argmax(1)
        means = torch.zeros_like(centres).index_add(0, cluster, rows)
        # a cluster that lost all its rows keeps its centre
        centres = functional.normalize(means.where(means.any(1, keepdim=True), centres), dim=1)
    return centres, (rows @ centres.T).argmax(1)


def stored(rows: np.ndarray, dtype: Stored) -> np.ndarray:
    """Unit rows [n, d] in fewer bits: float16, or int8 with the largest coordinate of each row at 127."""
    if dtype == "float16":
        return rows.astype(np.float16)
    return np.rint(rows * (127 / np.abs(rows).max(1, keepdims=True).clip(1e-12))).astype(np.int8)


def restored(rows: np.ndarray) -> np.ndarray:
    """Stored rows [n, d] as float32 of unit length, which is why no scale is stored."""
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
