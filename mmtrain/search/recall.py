"""What an index loses against exact search: measured when it is built, for texts of each language and for pictures.

Texts and pictures apart, because they lie apart in the space: lists, graphs and codes are made for the pictures in the
index, and a text is far from all of them. (Liang et al., "Mind the Gap", NeurIPS 2022.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtrain.evaluation.ranking.nearest import flat_top_k
from mmtrain.evaluation.ranking.tiles import TIE_TOLERANCE
from mmtrain.search.index import SearchIndex

AT = 10  # the figures are of the ten best
QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Queries:
    """Rows that ask, and what they belong to."""

    rows: np.ndarray  # float32 [Q, D]
    items: np.ndarray  # int64 [Q], the number of the picture itself, or of the picture that a caption is of


def recall_lost(index: SearchIndex, texts: dict[str, Queries], pictures: Queries) -> dict[str, Any]:
    """index.json's `recall`: {"at": 10, "text": {language: figures}, "image": figures}, figures in percent.

    found_alone   of the ten best by exact search, those among the ten that FAISS alone puts first
    found         the same after its candidates were scored in full, which is what a search gives
    R@10_exact, R@10   of captions: the share whose own picture is among the ten, by exact search and by this index

    A picture that asks does not count among its own answers. Answers that score as high as the tenth best are as good.
    """
    return {
        "at": AT,
        "text": {language: _figures(index, queries, own=False) for language, queries in texts.items()},
        "image": _figures(index, pictures, own=True) if len(index) > 1 else None,
    }


def _figures(index: SearchIndex, queries: Queries, own: bool) -> dict[str, float]:
    """Figures of one kind of queries; `own` leaves each query's own picture out of the answers."""
    k = min(AT, len(index) - own)
    counts = np.zeros(4)
    for start in range(0, len(queries.rows), QUERIES_AT_ONCE):
        rows, items = (each[start : start + QUERIES_AT_ONCE] for each in (queries.rows, queries.items))
        _, exact = flat_top_k(rows, index.rows, k + own, index.similarity, turned=True)
        answers = [exact, index.propose(rows, k + own), index.search(rows, k + own)[1]]
        for query, item, three in zip(rows, items, zip(*answers, strict=True), strict=True):
            if own:
                three = tuple(numbers[numbers != item] for numbers in three)
            best, alone, used = (numbers[numbers >= 0][:k] for numbers in three)
            least = index.scores(query, best).min() - TIE_TOLERANCE
            counts[0] += (index.scores(query, alone) >= least).sum() / k
            counts[1] += (index.scores(query, used) >= least).sum() / k
            counts[2:] += item in best, item in used
    shares = 100 * counts / len(queries.rows)
    names = ("found_alone", "found") if own else ("found_alone", "found", f"R@{AT}_exact", f"R@{AT}")
    figures = {name: round(float(share), 2) for name, share in zip(names, shares, strict=False)}
    return {"queries": len(queries.rows)} | figures


def table_rows(recall: dict[str, Any]) -> Sequence[tuple[str, dict[str, float]]]:
    """The rows of a table of `recall`: each language's texts, then pictures."""
    return [
        *((f"text, {language}", figures) for language, figures in recall["text"].items()),
        ("image", recall["image"]),
    ]
