"""Questions beside numbered items: which are right, and among which each question looks.

Letters: Q questions, N items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from mmtrain.evaluation.metrics.questions import DEPTHS, Values, chance, question_values
from mmtrain.evaluation.questions import Question
from mmtrain.evaluation.ranking.graded import Scores, rank_in_pools
from mmtrain.evaluation.ranking.queries import QueryRanks

Ranks = dict[int, QueryRanks]  # by depth of nDCG


@dataclass(frozen=True)
class Asked:
    """Questions and the items that they are about.

    Attributes:
        grades: Sparse [Q, N].
        pools: Questions with the items of their pool, None for all.
        size: int64 [Q], the items in the pool of each.
        right: int64 [Q], those of them that are right.
        unknown: Ids that questions name and no item has.
    """

    questions: Sequence[Question]
    grades: csr_array
    pools: Sequence[tuple[np.ndarray, np.ndarray | None]]
    size: np.ndarray
    right: np.ndarray
    unknown: frozenset[str]

    @classmethod
    def of(cls, questions: Sequence[Question], ids: Sequence[str], named: Mapping[str, Sequence[int]]) -> "Asked":
        """Questions to the items with these ids; `named` has the items of the pools that have names."""
        number = {id: item for item, id in enumerate(ids)}
        mentioned: set[str] = set()
        asked_of: dict[str | tuple[int, ...] | None, list[int]] = {}
        entries = []
        for place, question in enumerate(questions):
            mentioned |= question.relevant.keys()
            entries += [(place, number[item], grade) for item, grade in question.right.items() if item in number]
            pool: str | tuple[int, ...] | None = None
            if isinstance(question.pool, str):
                pool = question.pool
            elif question.pool is not None:
                mentioned.update(question.pool)
                pool = tuple(sorted({number[item] for item in question.pool if item in number}))
            asked_of.setdefault(pool, []).append(place)
        rows, columns, grades = (np.array(column) for column in zip(*entries, strict=True)) if entries else [[]] * 3
        shape = len(questions), len(ids)
        table = csr_array((grades, (rows, columns)), shape=shape, dtype=np.float64)
        size, right = np.full(len(questions), len(ids)), np.diff(table.indptr)
        pools: list[tuple[np.ndarray, np.ndarray | None]] = []
        for pool, places in asked_of.items():
            items = None
            if pool is not None:
                items = np.array(named.get(pool, ()) if isinstance(pool, str) else pool, dtype=np.int64)
                size[places], right[places] = len(items), np.diff(table[places][:, items].indptr)
            pools.append((np.array(places), items))
        return cls(questions, table, pools, size, right, frozenset(mentioned - number.keys()))

    def ranks(self, scores: Scores, answering: np.ndarray | None = None) -> Ranks:
        """The ranks of the questions with a right item in their pool; of those that are true in bool [Q] alone."""
        pools = self.pools
        if answering is not None:
            pools = [(places[answering[places]], items) for places, items in pools]
        return rank_in_pools(scores, self.grades, pools, DEPTHS)

    def values(self, ranks: Ranks) -> Values:
        """The figures of each question."""
        return question_values(ranks, len(self.questions))

    def pool(self, place: int) -> np.ndarray:
        """The items int64 [n] among which a question looks."""
        items = next(items for places, items in self.pools if place in places)
        return np.arange(self.grades.shape[1]) if items is None else items

    def facts(self) -> dict[str, object]:
        """What "protocol" says of the questions."""
        answered = self.right > 0
        looking = np.array([bool(question.relevant or not question.choices) for question in self.questions])
        facts: dict[str, object] = {
            "questions": len(self.questions),
            "items": self.grades.shape[1],
            "excluded": int((looking & ~answered).sum()),
            "unknown_items": len(self.unknown),
        }
        if answered.any():
            size = self.size[answered]
            facts |= {"pools": [int(size.min()), int(size.max())], "chance": chance(self.right[answered], size)}
        return facts
