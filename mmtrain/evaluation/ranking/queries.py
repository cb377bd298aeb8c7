"""Counting one list of queries: the limits its right answers set, and the ranks that follow from what reaches them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mmtrain.evaluation.ranking.relevance import Relevance
from mmtrain.evaluation.ranking.tiles import NO_LIMIT, Similarity, count_at_least, pair_scores, score_steps

QUERY_BLOCK = 4096  # queries whose right answers are listed at once


@dataclass(frozen=True)
class QueryRanks:
    """Queries: their own index [Q], their image [Q], 0-based rank [Q], and nDCG at the depth [Q] (0 to 1)."""

    query: np.ndarray
    image: np.ndarray
    rank: np.ndarray
    ndcg: np.ndarray


@dataclass(frozen=True)
class Collection:
    """What is ranked: images [N, D], texts [M, D], each caption's image [M], the captions of each language, and how."""

    images: Tensor
    texts: Tensor
    image_of_text: np.ndarray
    texts_of: dict[str, np.ndarray]
    relevance: Relevance
    similarity: Similarity
    one_pool: bool  # an image's captions of one language are ranked among the captions of all
    depth: int
    device: torch.device | str

    def cross_modal(self, language: str) -> tuple[QueryRanks, QueryRanks]:
        """The captions of a language among the images, and the images it describes among captions; one product serves
        both.
        """
        chosen = self.texts_of[language]
        described = np.unique(self.image_of_text[chosen])
        pooled = np.concatenate(list(self.texts_of.values())) if self.one_pool else chosen
        of_images = _limits(
            self.relevance.images[described],
            self.relevance.texts[pooled],
            lambda query, item: self._scores(described[query], pooled[item]),
            self.depth,
            wanted=np.isin(pooled, chosen),
        )
        of_texts = _limits(
            self.relevance.texts[chosen],
            self.relevance.images,
            lambda query, item: self._scores(item, chosen[query]),
            self.depth,
        )
        image_limits = np.full((len(of_images.steps), len(self.images)), NO_LIMIT)
        image_limits[:, described] = of_images.steps
        counts, text_counts = self._count(self.images, chosen, image_limits, of_texts.steps)
        for other, texts in self.texts_of.items() if self.one_pool else ():
            if other != language:
                counts += self._count(self.images, texts, image_limits)[0]
        return (
            _query_ranks(of_texts, text_counts, chosen, self.image_of_text[chosen], self.depth),
            _query_ranks(of_images, counts[:, described], described, described, self.depth),
        )

    def between(self, query: str, answer: str) -> tuple[QueryRanks, int]:
        """Captions of one language among another's; also how many have no right answer there and are left out."""
        asked, pooled = self.texts_of[query], self.texts_of[answer]
        table = self.relevance.texts
        answerable = (table[asked] @ table[pooled].sum(0)) > 0
        left_out, asked = int((~answerable).sum()), asked[answerable]
        if not len(asked):
            raise ValueError(f"text_to_text {query}->{answer} has no query: no image has captions in both languages")
        limits = _limits(
            table[asked],
            table[pooled],
            lambda query, item: pair_scores(self.texts, self.texts, asked[query], pooled[item], self.similarity),
            self.depth,
        )
        counts, _ = self._count(self.texts[asked], pooled, limits.steps)
        return _query_ranks(limits, counts, asked, self.image_of_text[asked], self.depth), left_out

    def _scores(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        return pair_scores(self.images, self.texts, images, texts, self.similarity)

    def _count(
        self, rows: Tensor, texts: np.ndarray, row_limits: np.ndarray, text_limits: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        if text_limits is None:
            text_limits = np.empty((0, len(texts)), dtype=np.int64)
        return count_at_least(rows, self.texts[texts], row_limits, text_limits, self.similarity, self.device)


@dataclass(frozen=True)
class _Limits:
    """For each of Q queries its best right answers, at most S: their score in steps [S, Q] (`NO_LIMIT` where it has
    fewer), how many right answers of the whole pool reach that score [S, Q], and how many answers were wanted in all
    [Q].
    """

    steps: np.ndarray
    right: np.ndarray
    wanted: np.ndarray


def _limits(
    queries: csr_array,
    items: csr_array,
    scores_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    depth: int,
    wanted: np.ndarray | None = None,
) -> _Limits:
    """queries [Q, G] and items [P, G] are relevance tables, scores_of(query, item) their float64 scores; wanted bool
    [P] marks the right items that count as an answer (default: all).
    """
    blocks = []
    groups = items.T.tocsr()
    for start in range(0, queries.shape[0], QUERY_BLOCK):
        table = (queries[start : start + QUERY_BLOCK] @ groups).tocoo()
        query, item = table.coords
        steps = score_steps(scores_of(query + start, item))
        order = np.lexsort((-steps, query))
        query, item, steps = query[order], item[order], steps[order]
        is_wanted = np.ones(len(item), dtype=bool) if wanted is None else wanted[item]
        size = min(QUERY_BLOCK, queries.shape[0] - start)
        first = np.searchsorted(query, np.arange(size))
        # The end of a run of equal scores of one query tells how many of its right answers score at least as high.
        ends = np.flatnonzero(np.r_[(np.diff(query) != 0) | (np.diff(steps) != 0), True]) + 1
        reached = ends[np.searchsorted(ends, np.arange(len(query)), side="right")] - first[query]
        before = np.cumsum(is_wanted) - is_wanted
        slot = before - before[first[query]]
        kept = is_wanted & (slot < depth)
        slots = slot[kept].max() + 1
        block = _Limits(
            np.full((slots, size), NO_LIMIT), np.zeros((slots, size), dtype=np.int64), np.bincount(query[is_wanted])
        )
        block.steps[slot[kept], query[kept]] = steps[kept]
        block.right[slot[kept], query[kept]] = reached[kept]
        blocks.append(block)
    slots = max(len(block.steps) for block in blocks)
    return _Limits(
        np.hstack([_padded(block.steps, slots, NO_LIMIT) for block in blocks]),
        np.hstack([_padded(block.right, slots, 0) for block in blocks]),
        np.concatenate([block.wanted for block in blocks]),
    )


def _padded(table: np.ndarray, rows: int, value: int) -> np.ndarray:
    return np.pad(table, ((0, rows - len(table)), (0, 0)), constant_values=value)


def _query_ranks(limits: _Limits, counts: np.ndarray, query: np.ndarray, image: np.ndarray, depth: int) -> QueryRanks:
    """counts [S, Q]: how many items of the pool reach each limit, right ones included."""
    wrong = counts - limits.right
    slot = np.arange(len(wrong))[:, None]
    place = wrong + slot + 1  # 1-based place of the s-th right answer: behind its better brothers and every wrong tie
    counted = (limits.steps != NO_LIMIT) & (place <= depth)
    gain = np.where(counted, 1 / np.log2(1 + place), 0).sum(0)
    best_gain = np.cumsum(1 / np.log2(np.arange(depth) + 2))
    return QueryRanks(query, image, wrong[0], gain / best_gain[np.minimum(limits.wanted, depth) - 1])
