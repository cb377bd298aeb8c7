"""Queries with several right answers of different grades, as in document retrieval and question sets.

nDCG there weighs each answer by its grade (Järvelin and Kekäläinen 2002, with the grade itself as gain, as trec_eval
does); recall and MRR take any grade above 0 as right.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mmtrain.evaluation.ranking.queries import QueryRanks
from mmtrain.evaluation.ranking.tiles import NO_LIMIT, Similarity, count_at_least, pair_scores, score_steps


def rank_graded(
    item_embeddings: np.ndarray | Tensor,
    query_embeddings: np.ndarray | Tensor,
    grades: csr_array,
    *,
    depth: int = 10,
    similarity: Similarity = "cosine",
    groups: Sequence[int] | np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> tuple[QueryRanks, int]:
    """The exact rank of every query's best right item, and nDCG by grades.

    Args:
        item_embeddings: [N, D], the images or pages; the specific side of asymmetric similarity.
        query_embeddings: [M, D], texts.
        grades: Sparse [M, N], how relevant each item is: above 0 is right, what is not stored is wrong.
        depth: nDCG is taken at this many answers.
        groups: int [M + N], queries then items: a query is ranked among the items of its group, such as the pages of
            its document. Default: among all.

    Returns:
        The ranks (0-based; `image` is the best right item) and how many queries were left out, because no item of their
        pool is right. An item ties against us: with wrong ones, and with right ones of a lower grade.

    Raises:
        ValueError: shapes that do not fit, or no query with a right item.
    """
    items, queries = torch.as_tensor(item_embeddings), torch.as_tensor(query_embeddings)
    if grades.shape != (len(queries), len(items)):
        raise ValueError(f"grades is {list(grades.shape)}; there are {len(queries)} queries and {len(items)} items")
    group = np.zeros(len(queries) + len(items), dtype=np.int64) if groups is None else np.asarray(groups)
    if len(group) != len(queries) + len(items):
        raise ValueError(f"groups has {len(group)} entries for {len(queries)} queries and {len(items)} items")
    of_query, of_item = group[: len(queries)], group[len(queries) :]
    parts = []
    for each in np.unique(of_query):
        asked, pool = np.flatnonzero(of_query == each), np.flatnonzero(of_item == each)
        wanted = csr_array(grades[asked][:, pool]) if len(pool) else csr_array((len(asked), 0))
        answerable = (wanted > 0).sum(1) > 0
        asked, wanted = asked[answerable], wanted[answerable]
        if len(asked):
            parts.append(_ranked(items[pool], queries[asked], wanted, asked, pool, depth, similarity, device))
    if not parts:
        raise ValueError("grades: no query has a right item in its pool")
    joined = (np.concatenate([getattr(part, name) for part in parts]) for name in ("query", "image", "rank", "ndcg"))
    ranks = QueryRanks(*joined)
    return ranks, len(queries) - len(ranks.query)


def _ranked(
    items: Tensor,
    queries: Tensor,
    grades: csr_array,
    asked: np.ndarray,
    pool: np.ndarray,
    depth: int,
    similarity: Similarity,
    device: torch.device | str,
) -> QueryRanks:
    """Ranks of Q queries among P items; asked [Q] and pool [P] are their numbers in the collection."""
    query, item = grades.nonzero()
    grade = np.asarray(grades[query, item], dtype=np.float64)
    query, item, grade = query[grade > 0], item[grade > 0], grade[grade > 0]
    steps = score_steps(pair_scores(items, queries, item, query, similarity))
    order = np.lexsort((grade, -steps, query))  # of equal scores the lower grade comes first
    query, item, grade, steps = query[order], item[order], grade[order], steps[order]
    first = np.searchsorted(query, np.arange(len(asked)))
    slot = np.arange(len(query)) - first[query]
    # where a run of equal scores of one query ends tells how many of its right items score at least as high
    ends = np.flatnonzero(np.r_[(np.diff(query) != 0) | (np.diff(steps) != 0), True]) + 1
    reached = ends[np.searchsorted(ends, np.arange(len(query)), side="right")] - first[query]
    kept = slot < depth  # what comes behind `depth` right items gains nothing
    limits = np.full((slot[kept].max() + 1, len(asked)), NO_LIMIT)
    limits[slot[kept], query[kept]] = steps[kept]
    none = np.empty((0, len(items)), dtype=np.int64)
    _, counts = count_at_least(items, queries, none.reshape(0, len(items)), limits, similarity, device)
    wrong = counts[slot[kept], query[kept]] - reached[kept]
    place = wrong + slot[kept] + 1
    gain = np.where(place <= depth, grade[kept] / np.log2(1 + place), 0)
    best = np.lexsort((-grade, query))
    ideal_place = np.arange(len(query)) - first[query[best]] + 1
    ideal = np.where(ideal_place <= depth, grade[best] / np.log2(1 + ideal_place), 0)
    ndcg = np.bincount(query[kept], gain) / np.bincount(query[best], ideal)
    return QueryRanks(asked, pool[item[first]], wrong[slot[kept] == 0], ndcg)
