"""Ranks of one list of queries: its right answers set limits, and what reaches them is counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from mmtrain.evaluation.ranking.relevance import Relevance
from mmtrain.evaluation.ranking.tiles import NO_LIMIT, Rows, Similarity, count_at_least, pair_scores, score_steps

QUERY_BLOCK = 4096  # queries whose right answers are listed at once


@dataclass(frozen=True)
class QueryRanks:
    """Queries: their own index [Q], their image [Q], 0-based rank [Q], and two figures at the depth k [Q] (0 to 1):
    nDCG, and average precision, the mean of right answers / place over the best min(k, right items) right answers,
    where one behind place k counts 0.
    """

    query: np.ndarray
    image: np.ndarray
    rank: np.ndarray
    ndcg: np.ndarray
    average_precision: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["QueryRanks"]) -> "QueryRanks":
        """The queries of all parts, sorted by their index."""
        order = np.argsort(np.concatenate([part.query for part in parts]), kind="stable")
        return cls(**{name: np.concatenate([vars(part)[name] for part in parts])[order] for name in vars(parts[0])})


@dataclass(frozen=True)
class Collection:
    """What is ranked: images [N, D], texts [M, D], each caption's image [M], the captions of each language, and how."""

    images: Rows
    texts: Rows
    image_of_text: np.ndarray
    texts_of: dict[str, np.ndarray]
    relevance: Relevance
    similarity: Similarity
    one_pool: bool  # an image's captions of one language are ranked among the captions of all
    depth: int
    device: torch.device | str

    def cross_modal(self, language: str) -> tuple[QueryRanks, QueryRanks]:
        """The ranks of a language's captions among the images, and of the images they describe among captions.

        One product serves both.
        """
        texts = self.texts_of[language]
        described = np.unique(self.image_of_text[texts])
        pool = np.concatenate(list(self.texts_of.values())) if self.one_pool else texts
        of_images = self._answers(
            self.relevance.images[described],
            self.relevance.texts[pool],
            lambda query, item: pair_scores(self.images, self.texts, described[query], pool[item], self.similarity),
            grades=np.isin(pool, texts).astype(float),
        )
        of_texts = self._answers(
            self.relevance.texts[texts],
            self.relevance.images,
            lambda query, item: pair_scores(self.images, self.texts, item, texts[query], self.similarity),
        )
        limits = of_images.limits()
        image_limits = np.full((len(limits), len(self.images)), NO_LIMIT)
        image_limits[:, described] = limits
        counts, text_counts = self._count(self.images, texts, image_limits, of_texts.limits())
        for other, others in self.texts_of.items() if self.one_pool else ():
            if other != language:
                counts += self._count(self.images, others, image_limits)[0]
        return (
            of_texts.ranks(text_counts, texts, self.image_of_text[texts], self.depth),
            of_images.ranks(counts[:, described], described, described, self.depth),
        )

    def between(self, query: str, answer: str) -> tuple[QueryRanks, int]:
        """Captions of one language among another's; also how many have no right answer there and are left out."""
        texts, pool = self.texts_of[query], self.texts_of[answer]
        table = self.relevance.texts
        answerable = (table[texts] @ table[pool].sum(0)) > 0
        left_out, texts = int((~answerable).sum()), texts[answerable]
        if not len(texts):
            raise ValueError(f"text_to_text {query}->{answer} has no query: no image has captions in both languages")
        asks_second = self.similarity == "late"

        def scores(query: np.ndarray, item: np.ndarray) -> np.ndarray:
            pair = (pool[item], texts[query]) if asks_second else (texts[query], pool[item])
            return pair_scores(self.texts, self.texts, *pair, self.similarity)

        answers = self._answers(table[texts], table[pool], scores)
        if asks_second:
            _, counts = self._count(self.texts[pool], texts, np.empty((0, len(pool)), np.int64), answers.limits())
        else:
            counts, _ = self._count(self.texts[texts], pool, answers.limits())
        return answers.ranks(counts, texts, self.image_of_text[texts], self.depth), left_out

    def _answers(
        self,
        queries: csr_array,
        items: csr_array,
        scores_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
        grades: np.ndarray | None = None,
    ) -> "Answers":
        """queries [Q, G] and items [P, G] are relevance tables, scores_of(query, item) their float64 scores.

        grades [P] are those of an item wherever it is right (default: 1).
        """
        if grades is None:
            grades = np.ones(items.shape[0])
        blocks = []
        groups = items.T.tocsr()
        for start in range(0, queries.shape[0], QUERY_BLOCK):
            query, item = (queries[start : start + QUERY_BLOCK] @ groups).tocoo().coords
            query = query + start
            blocks.append(Answers.of(query, item, grades[item], score_steps(scores_of(query, item)), self.depth))
        return Answers(*map(np.concatenate, zip(*blocks, strict=True)))

    def _count(
        self, rows: Rows, texts: np.ndarray, row_limits: np.ndarray, text_limits: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        text_limits = np.empty((0, len(texts)), np.int64) if text_limits is None else text_limits
        return count_at_least(rows, self.texts[texts], row_limits, text_limits, self.similarity, self.device)


class Answers(NamedTuple):
    """The A best right answers of Q queries, sorted by query and then by falling score; every query has one."""

    query: np.ndarray  # int64 [A]
    item: np.ndarray  # int64 [A]
    slot: np.ndarray  # int64 [A], 0 for the best answer of a query, 1 for its second, ...
    steps: np.ndarray  # int64 [A], its score in steps
    right: np.ndarray  # int64 [A], how many right items of the pool reach that score
    grade: np.ndarray  # [A]
    ideal: np.ndarray  # float64 [Q], the gain of all answers of a query in the best order

    @classmethod
    def of(cls, query: np.ndarray, item: np.ndarray, grade: np.ndarray, steps: np.ndarray, depth: int) -> "Answers":
        """At most `depth` answers of each query from all its right items, with grades and scores in steps [R].

        A right item of grade 0 is no answer: it is never wrong, and gains nothing. Queries are consecutive numbers.
        """
        order = np.lexsort((grade, -steps, query))  # of equal scores the lower grade comes first
        query, item, grade, steps = query[order], item[order], grade[order], steps[order]
        first = np.searchsorted(query, query)
        # The end of a run of equal scores of one query tells how many of its right items score at least as high.
        ends = np.flatnonzero(np.r_[(np.diff(query) != 0) | (np.diff(steps) != 0), True]) + 1
        reached = ends[np.searchsorted(ends, np.arange(len(query)), side="right")] - first
        is_answer = grade > 0
        before: np.ndarray = np.cumsum(is_answer) - is_answer
        slot: np.ndarray = before - before[first]
        best = np.where(is_answer & (slot < depth))  # what comes behind `depth` answers gains nothing
        ideal_gain = _gain(grade[np.lexsort((-grade, query))], np.arange(len(query)) - first + 1, depth)
        ideal = np.bincount(query - query[0], ideal_gain)
        return cls(query[best], item[best], slot[best], steps[best], reached[best], grade[best], ideal)

    def limits(self) -> np.ndarray:
        """The scores in steps, int64 [S, Q] by slot; `NO_LIMIT` where a query has fewer than S answers."""
        limits = np.full((self.slot.max() + 1, len(self.ideal)), NO_LIMIT)
        limits[self.slot, self.query] = self.steps
        return limits

    def ranks(self, counts: np.ndarray, query: np.ndarray, image: np.ndarray, depth: int) -> QueryRanks:
        """counts [S, Q]: how many items of the pool reach each limit, right ones included."""
        wrong = counts[self.slot, self.query] - self.right
        place = wrong + self.slot + 1  # behind the better answers and every wrong item that ties
        ndcg = np.bincount(self.query, _gain(self.grade, place, depth)) / self.ideal
        precision = np.where(place <= depth, (self.slot + 1) / place, 0)
        average_precision = np.bincount(self.query, precision) / np.bincount(self.query)
        return QueryRanks(query, image, wrong[self.slot == 0], ndcg, average_precision)


def _gain(grade: np.ndarray, place: np.ndarray, depth: int) -> np.ndarray:
    """What an answer at a 1-based place adds to the discounted cumulative gain."""
    return np.where(place <= depth, grade / np.log2(1 + place), 0)
