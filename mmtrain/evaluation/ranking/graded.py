"""Queries with several right answers of different grades, as in document retrieval and question sets.

nDCG there weighs each answer by its grade (Järvelin and Kekäläinen 2002, with the grade itself as gain, as trec_eval
does); recall, MRR and average precision take any grade above 0 as right.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_array

from mmtrain.evaluation.ranking.queries import Answers, QueryRanks
from mmtrain.evaluation.ranking.tiles import Rows, Similarity, count_at_least, pair_scores, score_steps
from mmtrain.evaluation.ranking.token_rows import TokenRows


class Scores(Protocol):
    """The scores of M queries for N items, which are compared in steps of the tie tolerance."""

    def of_pairs(self, item: np.ndarray, query: np.ndarray) -> np.ndarray:
        """float64 [P] of the pairs (item[p], query[p])."""

    def reaching(self, query: np.ndarray, pool: np.ndarray | None, limits: np.ndarray) -> np.ndarray:
        """int64 [S, m]: how many items of the pool [n] (None: of all) reach the limits [S, m] of the queries [m]."""


@dataclass(frozen=True)
class EmbeddingScores:
    """The scores of queries [M, D], texts, with items [N, D], the specific side of asymmetric similarity."""

    items: Rows
    queries: Rows
    similarity: Similarity = "cosine"
    device: torch.device | str = "cpu"

    def of_pairs(self, item: np.ndarray, query: np.ndarray) -> np.ndarray:
        return pair_scores(self.items, self.queries, item, query, self.similarity)

    def reaching(self, query: np.ndarray, pool: np.ndarray | None, limits: np.ndarray) -> np.ndarray:
        items = self.items if pool is None else self.items[pool]
        none = np.empty((0, len(items)), dtype=np.int64)
        return count_at_least(items, self.queries[query], none, limits, self.similarity, self.device)[1]


Pools = Iterable[tuple[np.ndarray, np.ndarray | None]]  # queries int64 [m] with the items int64 [n] of their pool


def rank_in_pools(
    scores: Scores, grades: csr_array, pools: Pools, depths: Sequence[int] = (10,)
) -> dict[int, QueryRanks]:
    """By depth the ranks of the queries that have a right item in their pool; {} where none has.

    Args:
        scores: Of M queries for N items.
        grades: Sparse [M, N], above 0 is right.
        pools: Each query once; None stands for all items.
        depths: nDCG and average precision are taken at so many answers.
    """
    parts: dict[int, list[QueryRanks]] = {depth: [] for depth in depths}
    for own, pool in pools:
        table = (grades[own] if pool is None else grades[own][:, pool]).tocoo()
        right = table.data > 0
        if not right.any():
            continue
        item, grade = table.coords[1][right], table.data[right]
        number = item if pool is None else pool[item]
        answerable, query = np.unique(table.coords[0][right], return_inverse=True)
        own = own[answerable]
        steps = score_steps(scores.of_pairs(number, own[query]))
        answers = {depth: Answers.of(query, number, grade, steps, depth) for depth in depths}
        counts = scores.reaching(own, pool, answers[max(depths)].limits())
        for depth, each in answers.items():
            parts[depth].append(each.ranks(counts, own, each.item[each.slot == 0], depth))
    return {depth: QueryRanks.joined(each) for depth, each in parts.items() if each}


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
    pools: Pools = [(np.arange(len(queries)), None)]
    if groups is not None:
        group = np.asarray(groups)
        if len(group) != len(queries) + len(items):
            raise ValueError(f"groups has {len(group)} entries for {len(queries)} queries and {len(items)} items")
        of_query, of_item = group[: len(queries)], group[len(queries) :]
        pools = [(np.flatnonzero(of_query == each), np.flatnonzero(of_item == each)) for each in np.unique(of_query)]
    ranks = rank_in_pools(EmbeddingScores(items, queries, similarity, device), grades, pools, [depth]).get(depth)
    if ranks is None:
        raise ValueError("grades: no query has a right item in its pool")
    return ranks, len(queries) - len(ranks.query)
