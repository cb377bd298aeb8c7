"""Hard negatives of a whole split: for each query the nearest items that are no right answers.

Letters: Q queries, P items, D dimensions, a and b ids of a row, m answers, k items found.
"""

from collections.abc import Callable

import numpy as np

from mmtrain.evaluation.ranking.nearest import FlatSearch, flat_search
from mmtrain.evaluation.ranking.tiles import Similarity

QUERIES_AT_ONCE = 4096
FOUND_AT_ONCE = 2**24  # scores and numbers: some 200 MB
Allowed = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def nearest_wrong(
    queries: np.ndarray,
    items: np.ndarray,
    m: int,
    query_ids: np.ndarray,
    item_ids: np.ndarray,
    similarity: Similarity = "cosine",
    *,
    turned: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [Q, m] and item numbers int64 [Q, m], best first; -inf and -1 where fewer items are wrong.

    An item is right, and no negative, when one of its ids is one of the query's: the same picture, the same words, the
    same number, whatever the caller gives an id. The search is exact; a query with many right items is asked again for
    more.

    Args:
        queries: float [Q, D].
        items: float [P, D].
        m: Answers of a query.
        query_ids: int64 [Q, a], -1 for none.
        item_ids: int64 [P, b], -1 for none.
        similarity: What rows are compared by.
        turned: The queries are the second argument of an asymmetric similarity (captions looking for pictures).
    """

    def wrong(asked: np.ndarray, found: np.ndarray, best: np.ndarray) -> np.ndarray:
        return ~_share_an_id(query_ids[asked], item_ids[best])

    search = flat_search(items, similarity, turned=turned)
    return nearest_allowed(search, len(items), queries, m, wrong)


def nearest_allowed(
    search: FlatSearch,
    count: int,
    queries: np.ndarray,
    m: int,
    allowed: Allowed,
    lowest: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [Q, m] and item numbers int64 [Q, m], best first; -inf and -1 where fewer items are allowed.

    Args:
        search: `flat_search` among the items. A query that finds too few is asked again for more, so the result is
            exact; memory stays linear in the items.
        count: P.
        queries: float [Q, D].
        m: Answers of a query.
        allowed: Numbers of queries [q], scores and item numbers [q, k] -> bool [q, k].
        lowest: float [Q], scores below which nothing is allowed, so that nobody needs to ask on.
    """
    scores, numbers = np.full((len(queries), m), -np.inf, np.float32), np.full((len(queries), m), -1, np.int64)
    asked, k = np.arange(len(queries)), 2 * m
    while len(asked) and count:
        at_once = max(1, min(QUERIES_AT_ONCE, FOUND_AT_ONCE // min(k, count)))
        short = [
            _ask(search, queries, part, k, allowed, lowest, scores, numbers)
            for part in np.split(asked, range(at_once, len(asked), at_once))
        ]
        asked = np.concatenate(short) if k < count else asked[:0]
        k *= 4
    return scores, numbers


def _ask(
    search: FlatSearch,
    queries: np.ndarray,
    asked: np.ndarray,
    k: int,
    allowed: Allowed,
    lowest: np.ndarray | None,
    scores: np.ndarray,
    numbers: np.ndarray,
) -> np.ndarray:
    """Fills in the answers of some queries; returns those that should be asked for more."""
    found, best = search(queries[asked], k)
    taken = allowed(asked, found, best)
    if lowest is not None:
        taken &= found >= lowest[asked, None]
    first = np.argsort(~taken, axis=1, kind="stable")[:, : scores.shape[1]]
    chosen, width = np.take_along_axis(taken, first, 1), first.shape[1]
    scores[asked, :width] = np.where(chosen, np.take_along_axis(found, first, 1), -np.inf)
    numbers[asked, :width] = np.where(chosen, np.take_along_axis(best, first, 1), -1)
    short = chosen.sum(1) < scores.shape[1]
    return asked[short if lowest is None else short & (found[:, -1] >= lowest[asked])]


def _share_an_id(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """bool [Q, k]: whether ids [Q, a] and those of k items each [Q, k, b] have one in common."""
    shared = np.zeros(items.shape[:2], bool)
    for column in queries.T:
        shared |= ((items == column[:, None, None]) & (column >= 0)[:, None, None]).any(2)
    return shared
