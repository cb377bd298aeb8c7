"""Hard negatives of a whole split: for each query the nearest items that are no right answers.

Letters: Q queries, P items, D dimensions, a and b ids of a row, m answers.
"""

import numpy as np

from mmtrain.evaluation.ranking.nearest import flat_top_k
from mmtrain.evaluation.ranking.tiles import Similarity

QUERIES_AT_ONCE = 4096


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
    scores, numbers = np.full((len(queries), m), -np.inf, np.float32), np.full((len(queries), m), -1, np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        asked, k = np.arange(start, min(start + QUERIES_AT_ONCE, len(queries))), 2 * m
        while len(asked) and len(items):
            found, best = flat_top_k(queries[asked], items, k, similarity, turned=turned)
            wrong = ~_share_an_id(query_ids[asked], item_ids[best])
            first = np.argsort(~wrong, axis=1, kind="stable")[:, :m]
            taken = np.take_along_axis(wrong, first, 1)
            width = first.shape[1]
            scores[asked, :width] = np.where(taken, np.take_along_axis(found, first, 1), -np.inf)
            numbers[asked, :width] = np.where(taken, np.take_along_axis(best, first, 1), -1)
            asked = asked[taken.sum(1) < m] if k < len(items) else asked[:0]
            k *= 4
    return scores, numbers


def _share_an_id(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """bool [Q, k]: whether ids [Q, a] and those of k items each [Q, k, b] have one in common."""
    shared = np.zeros(items.shape[:2], bool)
    for column in queries.T:
        shared |= ((items == column[:, None, None]) & (column >= 0)[:, None, None]).any(2)
    return shared
