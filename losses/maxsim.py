"""Many rows an input, compared token by token."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from losses.embeddings import Embeddings
from losses.engine.checks import check_integers, check_mask, full_precision, positive_scale, working_precision
from losses.engine.distributed import default_group, gather, global_sum, longest, rank_and_size
from losses.engine.tiles import lowest
from losses.objective import first_of, slots_of, tokens_of
from losses.temperature import ScaledObjective, clamped_scale

CPU_TILE = 2**22  # products of tokens at once: 16 MiB of float32, near the cache
CUDA_TILE = 2**26


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
    _check_tokens(queries, query_mask, items, item_mask)
    queries, items = working_precision(queries, items)
    queries, items = _summed(queries, query_mask, mean), _repeated(items, item_mask)
    height, width = _tile(queries, items)
    columns = items.split(width)
    return torch.cat([torch.cat([_recomputed(_scores, q, i) for i in columns], 1) for q in queries.split(height)])


@full_precision
def late_interaction_loss(
    queries: Tensor,
    query_mask: Tensor,
    items: Tensor,
    item_mask: Tensor,
    scale: Tensor | float,
    group: ProcessGroup | None = None,
    *,
    negatives: Tensor | None = None,
    negative_mask: Tensor | None = None,
    query_ids: Tensor | None = None,
    item_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
) -> Tensor:
    """Symmetric cross-entropy of scale times `late_interaction` (the mean form) towards the diagonal.

    Each query stands against the items of all queries and against negatives, each item against all queries. For query
    i another item is left out when its id is item_ids[i] or its query's id is query_ids[i], a negative when its id is
    item_ids[i]. Memory is linear in the number of tokens.

    Args:
        queries: float [N, L, D]; with a group, this process's part.
        query_mask: bool [N, L].
        items: float [N, P, D]; item i belongs to query i.
        item_mask: bool [N, P].
        scale: positive multiplier.
        group: processes that hold further pairs, equally many each.
        negatives: float [N, n, Q, D], items that are wrong for every query.
        negative_mask: bool [N, n, Q]; a negative without tokens is none.
        query_ids: int64 [N].
        item_ids: int64 [N].
        negative_ids: int64 [N, n].

    Raises:
        ValueError: wrong shapes, items that are not as many as the queries or have no token, a scale that is not
            positive, negatives without their mask.
    """
    if len(items) != len(queries):
        raise ValueError(f"items: got {len(items)}, expected {len(queries)}, one a query")
    _check_tokens(queries, query_mask, items, item_mask)
    N = len(queries)
    check_integers("query_ids", query_ids, (N,))
    check_integers("item_ids", item_ids, (N,))
    if negatives is None and (negative_mask is not None or negative_ids is not None):
        raise ValueError("negative_mask, negative_ids: they are about negatives, of which there are none")
    queries, items = working_precision(queries, items)
    scale = positive_scale(scale, queries)
    rank, size = rank_and_size(group)
    own = torch.arange(rank * N, (rank + 1) * N, device=queries.device)
    left_out = [(own, torch.arange(size * N, device=queries.device))]
    left_out += [(ids, gather(ids, group)) for ids in (query_ids, item_ids) if ids is not None]
    queries, everyone = _summed(queries, query_mask, True), _repeated(*everyones_tokens(items, item_mask, group))
    right = scale * (queries @ everyone[own].mT).amax(2).sum(1)
    rows, columns = _log_sums(queries, everyone, scale, left_out)
    if negatives is not None:
        wrong, ids = _everyones_negatives(negatives, negative_mask, negative_ids, queries, group)
        if len(wrong):
            pairs = [] if item_ids is None or ids is None else [(item_ids, ids)]
            rows = torch.logaddexp(rows, _log_sums(queries, wrong, scale, pairs)[0])
    others = gather(columns[None], group).logsumexp(0)[own]
    loss = functional.softplus(rows - right).sum() + functional.softplus(others - right).sum()
    return global_sum(loss / (2 * size * N), group)


def everyones_tokens(items: Tensor, mask: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Token rows [b, P, D] and mask [b, P] of all processes, which may be of different lengths P."""
    more = longest(items.shape[1], items.device, group) - items.shape[1]
    return gather(functional.pad(items, (0, 0, 0, more)), group), gather(functional.pad(mask, (0, more)), group)


class LateInteractionLoss(ScaledObjective):
    """`late_interaction_loss` between the token rows of two inputs, with a learnable temperature.

    Args:
        queries: "image", "texts" (the first that is there) or a field's name.
        targets: Likewise.
        negatives: A field of one or more a sample; None for none.
        scale: Multiplier to start from.
        learnable: Whether the temperature trains.

    Raises:
        ValueError: a scale that is not positive.
    """

    needs = frozenset({"query", "positive", "multi"})

    def __init__(
        self,
        queries: str = "query",
        targets: str = "positive",
        negatives: str | None = None,
        scale: float = 1 / 0.07,
        learnable: bool = True,
    ) -> None:
        super().__init__(scale, learnable)
        self.queries, self.targets, self.negatives = queries, targets, negatives
        self.needs = frozenset({queries, targets, "multi"} | ({negatives} if negatives else set()))

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        query, target = first_of(embeddings, self.queries), first_of(embeddings, self.targets)
        given: dict[str, Tensor | None] = {"query_ids": query.ids, "item_ids": target.ids}
        if self.negatives:
            (rows, mask), field = tokens_of(embeddings, self.negatives), slots_of(embeddings, self.negatives)
            if field.present is not None:
                mask = mask & field.present[..., None]
            given |= {"negatives": rows, "negative_mask": mask, "negative_ids": field.ids}
        return late_interaction_loss(
            *(query.tokens, query.mask, target.tokens, target.mask),
            *(clamped_scale(self.log_scale), default_group()),
            **given,
        )

    def chance(self, images: int, captions: float) -> float | None:
        return None if self.negatives else math.log(images)


def _check_tokens(queries: Tensor, query_mask: Tensor, items: Tensor, item_mask: Tensor) -> None:
    for name, rows, mask in (("queries", queries, query_mask), ("items", items, item_mask)):
        if rows.dim() != 3 or 0 in rows.shape:
            raise ValueError(f"{name}: got shape {list(rows.shape)}, expected [N, L, D], each at least 1")
        check_mask("query_mask" if rows is queries else "item_mask", mask, tuple(rows.shape[:2]))
    if queries.shape[2] != items.shape[2]:
        raise ValueError(f"items: got rows of {items.shape[2]}, expected {queries.shape[2]} as the queries have")
    if not item_mask.any(1).all():
        empty = int((~item_mask.any(1)).nonzero()[0, 0])
        raise ValueError(f"item_mask: item {empty} has no token, expected at least one")


def _summed(queries: Tensor, mask: Tensor, mean: bool) -> Tensor:
    """Queries whose score is the plain sum of the largest products: absent tokens are zeros, which add nothing, and for
    the mean the tokens are divided by their number.
    """
    queries = queries.masked_fill(~mask[:, :, None], 0.0)
    return queries / mask.sum(1).clamp(min=1)[:, None, None] if mean else queries


def _repeated(items: Tensor, mask: Tensor) -> Tensor:
    """Items whose absent tokens repeat the first that is there, which changes no maximum."""
    first = items.take_along_dim(mask.int().argmax(1)[:, None, None], 1)
    return items.where(mask[:, :, None], first)


def _tile(queries: Tensor, items: Tensor) -> tuple[int, int]:
    """How many queries [N, L, D] and items [M, P, D] meet at once."""
    products, L, P = CUDA_TILE if queries.is_cuda else CPU_TILE, queries.shape[1], items.shape[1]
    height = min(len(queries), max(1, math.isqrt(products) // L))
    return height, max(1, products // (L * P * height))


def _recomputed(tile: Callable[..., Any], *arguments: Any) -> Any:
    """What a tile gives; its products are computed once more in the backward pass instead of kept."""
    return checkpoint(tile, *arguments, use_reentrant=False, preserve_rng_state=False)


def _scores(queries: Tensor, items: Tensor) -> Tensor:
    """float [n, m] of queries [n, L, D] and items [m, P, D]."""
    # Items come first: the maximum then runs over whole rows of the products, several times as fast.
    products = items.flatten(0, 1) @ queries.flatten(0, 1).T
    return products.view(*items.shape[:2], *queries.shape[:2]).amax(1).sum(2).T


def _log_sums(
    queries: Tensor, items: Tensor, scale: Tensor, left_out: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """The log-sum-exp of the scores of every query [N] and of every item [M], `lowest` where nothing is summed.

    Args:
        queries: float [N, L, D], of `_summed`.
        items: float [M, P, D], of `_repeated`.
        scale: 0-d.
        left_out: labels int64 [N] of queries and [M] of items; a pair of equal labels of any kind is left out.
    """

    def sums(q: Tensor, i: Tensor, scale: Tensor, here: slice, there: slice) -> tuple[Tensor, Tensor]:
        logits = scale * _scores(q, i)
        for rows, columns in left_out:
            logits = logits.masked_fill(rows[here, None] == columns[there], lowest(logits.dtype))
        return logits.logsumexp(1), logits.logsumexp(0)

    height, width = _tile(queries, items)
    rows, columns = (
        [slice(start, start + step) for start in range(0, len(each), step)]
        for each, step in ((queries, height), (items, width))
    )
    parts = [
        [_recomputed(sums, q, i, scale, here, there) for i, there in zip(items.split(width), columns, strict=True)]
        for q, here in zip(queries.split(height), rows, strict=True)
    ]
    of_rows = [torch.stack([tile[0] for tile in row]).logsumexp(0) for row in parts]
    of_columns = [torch.stack([tile[1] for tile in column]).logsumexp(0) for column in zip(*parts, strict=True)]
    return torch.cat(of_rows), torch.cat(of_columns)


def _everyones_negatives(
    negatives: Tensor, mask: Tensor | None, ids: Tensor | None, queries: Tensor, group: ProcessGroup | None
) -> tuple[Tensor, Tensor | None]:
    """Token rows [M, Q, D] of the negatives of all processes that have tokens, of `_repeated`, and their ids [M]."""
    N, _, D = queries.shape
    if negatives.dim() != 4 or negatives.shape[0] != N or negatives.shape[3] != D or 0 in negatives.shape:
        raise ValueError(f"negatives: got shape {list(negatives.shape)}, expected [{N}, n, Q, {D}]")
    if mask is None:
        raise ValueError("negative_mask: got None, expected which tokens of the negatives there are")
    check_mask("negative_mask", mask, tuple(negatives.shape[:3]))
    check_integers("negative_ids", ids, tuple(negatives.shape[:2]))
    everyone, everyones_mask = everyones_tokens(negatives.to(queries.dtype).flatten(0, 1), mask.flatten(0, 1), group)
    there = everyones_mask.any(1)
    everyones_ids = None if ids is None else gather(ids.flatten(), group)[there]
    return _repeated(everyone[there], everyones_mask[there]), everyones_ids
