"""Token rows of one item, fewer of them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

ROUNDS = 10  # of k-means


def kept(rows: Tensor, mask: Tensor, budget: int | None = None) -> Iterator[Tensor]:
    """Of each item its token rows [l, d] that there are, at most `budget`, of rows [N, L, d] and mask bool [N, L]."""
    for each, there in zip(rows, mask, strict=True):
        own = each[there]
        yield own if budget is None else pooled(own, budget)[0]


def pooled(rows: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Unit rows [L, d] as at most `budget` of them [n, d], the means of clusters, and each row's cluster int64 [L].

    K-means by cosine from the rows that are farthest from each other, beginning with the first: nothing is drawn, and
    nothing but the item's own rows counts.

    Args:
        rows: float [L, d].
        budget: At least 1; rows that are no more stay as they are.
    """
    if len(rows) <= budget:
        return rows, torch.arange(len(rows))
    chosen, nearest = [0], rows @ rows[0]
    while len(chosen) < budget:
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, rows @ rows[chosen[-1]])
    centres = rows[chosen]
    for _ in range(ROUNDS):
        cluster = (rows @ centres.T).argmax(1)
        means = torch.zeros_like(centres).index_add(0, cluster, rows)
        # a cluster that lost all its rows keeps its centre
        centres = functional.normalize(means.where(means.any(1, keepdim=True), centres), dim=1)
    return centres, (rows @ centres.T).argmax(1)
