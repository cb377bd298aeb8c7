"""Queries with several right answers of different grades, as in document retrieval and question sets.

nDCG there weighs each answer by its grade (Järvelin and Kekäläinen 2002, with the grade itself as gain, as trec_eval
does); recall, MRR and average precision take any grade above 0 as right.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array

from mmtrain.evaluation.ranking.queries import Answers, QueryRanks
from mmtrain.evaluation.ranking.tiles import Rows, Similarity, count_at_least, pair_scores, score_steps
from mmtrain.evaluation.ranking.token_rows import TokenRows


def rank_graded(
    item_embeddings: np.ndarray | Rows,
    query_embeddings: np.ndarray | Rows,
    grades: csr_array,
    *,
    depth: int = 10,
    similarity: Similarity = "cosine",
    groups: Sequence[int] | np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> tuple[QueryRanks, int]:
    """The exact rank of every query's best right item, nDCG by grades, and average precision.

    Args:
        item_embeddings: [N, D], the images or pages; the specific side of asymmetric similarity.
        query_embeddings: [M, D], texts.
        grades: Sparse [M, N], how relevant each item is: above 0 is right, what is not stored is wrong.
        depth: nDCG and average precision are taken at this many answers; the number of items is all of them.
        groups: int [M + N], queries then items: a query is ranked among the items of its group, such as the pages of
            its document. Default: among all.

    Returns:
        The ranks (0-based; `image` is the best right item) and how many queries were left out, because no item of their
        pool is right. An item ties against us: with wrong ones, and with right ones of a lower grade.

    Raises:
        ValueError: shapes that do not fit, or no query with a right item.
    """
    items, queries = (
        rows if isinstance(rows, TokenRows) else torch.as_tensor(rows) for rows in (item_embeddings, query_embeddings)
    )
    if grades.shape != (len(queries), len(items)):
        raise ValueError(f"grades is {list(grades.shape)}; there are {len(queries)} queries and {len(items)} items")
    group = np.zeros(len(queries) + len(items), dtype=np.int64) if groups is None else np.asarray(groups)
    if len(group) != len(queries) + len(items):
        raise ValueError(f"groups has {len(group)} entries for {len(queries)} queries and {len(items)} items")
    of_query, of_item = group[: len(queries)], group[len(queries) :]
    parts = []
    for each in np.unique(of_query):
        own, pool = np.flatnonzero(of_query == each), np.flatnonzero(of_item == each)
        table = grades[own][:, pool].tocoo()
        right = table.data > 0
        if not right.any():
            continue
        item, grade = table.coords[1][right], table.data[right]
        answerable, query = np.unique(table.coords[0][right], return_inverse=True)
        own = own[answerable]
        steps = score_steps(pair_scores(items[pool], queries[own], item, query, similarity))
        answers = Answers.of(query, item, grade, steps, depth)
        no_limits = np.empty((0, len(pool)), dtype=np.int64)
        _, counts = count_at_least(items[pool], queries[own], no_limits, answers.limits(), similarity, device)
        parts.append(answers.ranks(counts, own, pool[answers.item[answers.slot == 0]], depth))
    if not parts:
        raise ValueError("grades: no query has a right item in its pool")
    ranks = QueryRanks.joined(parts)
    return ranks, len(queries) - len(ranks.query)
