"""BM25 over words (Robertson and Zaragoza 2009), in Lucene's form, by bm25s."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from mmtrain.evaluation.ranking.tiles import score_steps

NEEDED = "--text_baselines: bm25 needs {}, which is not installed; pip install 'mmtrain[documents]'"


def words(text: str, language: str = "") -> list[str]:
    """The words of a text in any language, folded: by ICU, which knows those of zh, ja, th, lo and km by dictionary.

    Nothing is stemmed, no word is left out. Raises ValueError where icu4py is not installed.
    """
    try:
        from icu4py.breakers import WordBreaker
    except ImportError:
        raise ValueError(NEEDED.format("icu4py")) from None
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [word for word in WordBreaker(folded, language) if any(map(str.isalnum, word))]


class Bm25Scores:
    """The scores of Q queries for N pages, both as words; k1 = 1.5, b = 0.75.

    How rare a word is and how long a page are counted over all pages. A page that shares no word scores 0.

    Raises:
        ValueError: where bm25s is not installed.
    """

    def __init__(self, pages: Sequence[Sequence[str]], queries: Sequence[Sequence[str]]) -> None:
        try:
            import bm25s
        except ImportError:
            raise ValueError(NEEDED.format("bm25s")) from None
        self._count, self._queries, known = len(pages), queries, set().union(*pages)
        self._known = [[word for word in query if word in known] for query in queries]
        self._index = bm25s.BM25(k1=1.5, b=0.75, method="lucene", dtype="float64")
        if known:
            self._index.index([list(page) for page in pages], show_progress=False)

    def of_query(self, query: int) -> np.ndarray:
        """float64 [N]."""
        return self._index.get_scores(self._known[query]) if self._known[query] else np.zeros(self._count)

    def of_pairs(self, item: np.ndarray, query: np.ndarray) -> np.ndarray:
        scores = np.empty(len(query))
        for each in np.unique(query).tolist():
            own = query == each
            scores[own] = self.of_query(each)[item[own]]
        return scores

    def reaching(self, query: np.ndarray, pool: np.ndarray | None, limits: np.ndarray) -> np.ndarray:
        counts = np.empty_like(limits)
        for column, each in enumerate(query.tolist()):
            scores = self.of_query(each)
            steps = np.sort(score_steps(scores if pool is None else scores[pool]))
            counts[:, column] = len(steps) - np.searchsorted(steps, limits[:, column])
        return counts
