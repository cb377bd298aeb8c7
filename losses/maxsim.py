"""Many rows an input, compared token by token."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from losses.embeddings import Embeddings
from losses.engine.checks import check_mask, full_precision, positive_scale, working_precision
from losses.engine.distributed import default_group, gather, global_sum, longest, rank_and_size
from losses.engine.tiles import edges
from losses.objective import tokens_of
from losses.temperature import ScaledObjective, clamped_scale

TILE = 2**24  # products of tokens at once: 64 MiB of float32


@full_precision
def late_interaction(
    queries: Tensor, query_mask: Tensor, items: Tensor, item_mask: Tensor, mean: bool = False
) -> Tensor:
    """The sum (or mean) over a query's tokens of the largest product with any token of the item: float [N, M].

    MaxSim of Khattab and Zaharia, "ColBERT", SIGIR 2020, equation 3. Tokens that are not there are left out, not
    compared as zeros; a query without tokens scores 0. The products exist a tile at a time, once in the forward and
    once more in the backward pass.

    Args:
        queries: float [N, L, D], unit rows where there is a token.
        query_mask: bool [N, L].
        items: float [M, P, D].
        item_mask: bool [M, P].
        mean: whether the sum is divided by the query's number of tokens.

    Raises:
        ValueError: wrong shapes, or an item without tokens.
    """
    _check("queries", queries, "query_mask", query_mask)
    _check("items", items, "item_mask", item_mask)
    if queries.shape[2] != items.shape[2]:
        raise ValueError(f"items: got rows of {items.shape[2]}, expected {queries.shape[2]} as the queries have")
    if not item_mask.any(1).all():
        empty = int((~item_mask.any(1)).nonzero()[0, 0])
        raise ValueError(f"item_mask: item {empty} has no token, expected at least one")
    queries, items = working_precision(queries, items)
    height, width = _tile(queries, items)
    rows = []
    for q in _parts(len(queries), height):
        tiles = [
            checkpoint(
                _scores,
                *(queries[q], query_mask[q], items[i], item_mask[i]),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for i in _parts(len(items), width)
        ]
        rows.append(torch.cat(tiles, 1))
    scores = torch.cat(rows)
    return scores / query_mask.sum(1, keepdim=True).clamp(min=1) if mean else scores


@full_precision
def late_interaction_loss(
    queries: Tensor,
    query_mask: Tensor,
    items: Tensor,
    item_mask: Tensor,
    scale: Tensor | float,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Symmetric cross-entropy of scale times `late_interaction` (the mean form) towards the diagonal.

    Args:
        queries: float [N, L, D]; with a group, this process's part.
        query_mask: bool [N, L].
        items: float [N, P, D]; item i belongs to query i.
        item_mask: bool [N, P].
        scale: positive multiplier.
        group: processes that hold further pairs, equally many each.

    Raises:
        ValueError: wrong shapes, items that are not as many as the queries or have no token, a scale that is not
            positive.
    """
    if len(items) != len(queries):
        raise ValueError(f"items: got {len(items)}, expected {len(queries)}, one a query")
    queries, items = working_precision(queries, items)
    everyone = everyones_tokens(items, item_mask, group)
    logits = gather(late_interaction(queries, query_mask, *everyone, mean=True), group)
    logits = positive_scale(scale, queries) * logits
    own = torch.arange(len(logits), device=logits.device)
    loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    return global_sum(loss / rank_and_size(group)[1], group)


def everyones_tokens(items: Tensor, mask: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Token rows [b, P, D] and mask [b, P] of all processes, which may be of different lengths P."""
    more = longest(items.shape[1], items.device, group) - items.shape[1]
    return gather(functional.pad(items, (0, 0, 0, more)), group), gather(functional.pad(mask, (0, more)), group)


class LateInteractionLoss(ScaledObjective):
    """`late_interaction_loss` between the token rows of two inputs, with a learnable temperature.

    Args:
        queries: "image", "texts" (their first slot) or a field's name.
        targets: Likewise.
        scale: Multiplier to start from.
        learnable: Whether the temperature trains.

    Raises:
        ValueError: a scale that is not positive.
    """

    needs = frozenset({"query", "positive", "multi"})

    def __init__(
        self, queries: str = "query", targets: str = "positive", scale: float = 1 / 0.07, learnable: bool = True
    ) -> None:
        super().__init__(scale, learnable)
        self.queries, self.targets = queries, targets
        self.needs = frozenset({queries, targets, "multi"})

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        queries, targets = tokens_of(embeddings, self.queries), tokens_of(embeddings, self.targets)
        return late_interaction_loss(*queries, *targets, clamped_scale(self.log_scale), default_group())

    def chance(self, images: int, captions: float) -> float:
        return math.log(images)


def _check(name: str, rows: Tensor, mask_name: str, mask: Tensor) -> None:
    if rows.dim() != 3 or 0 in rows.shape:
        raise ValueError(f"{name}: got shape {list(rows.shape)}, expected [N, L, D], each at least 1")
    check_mask(mask_name, mask, tuple(rows.shape[:2]))


def _tile(queries: Tensor, items: Tensor) -> tuple[int, int]:
    """How many queries and items meet at once."""
    L, P = queries.shape[1], items.shape[1]
    height = max(1, min(len(queries), TILE // (L * P * min(len(items), 64))))
    return height, max(1, TILE // (L * P * height))


def _parts(length: int, step: int) -> Iterator[slice]:
    starts = edges(length, step)
    yield from map(slice, starts, starts[1:])


def _scores(queries: Tensor, query_mask: Tensor, items: Tensor, item_mask: Tensor) -> Tensor:
    """float [n, m] of queries [n, L, D] and items [m, P, D]."""
    products = (queries.flatten(0, 1) @ items.flatten(0, 1).T).view(*queries.shape[:2], *items.shape[:2])
    best = products.masked_fill(~item_mask, -torch.inf).amax(3)
    return best.masked_fill(~query_mask[:, :, None], 0.0).sum(1)
