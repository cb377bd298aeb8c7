"""What an index loses against exact search: measured when it is built, for texts of each language and for images.

Texts and images are measured apart because they lie apart in the space (Liang et al., "Mind the Gap", NeurIPS 2022):
lists, graphs and codes are made for the images of the index, and a text is far from all of them.
"""

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
    """Rows to search by, and the items that they belong to."""

    rows: np.ndarray  # float32 [Q, D]
    items: np.ndarray  # int64 [Q], the number of the image itself, or of the image that a caption is of


def recall_lost(index: SearchIndex, texts: dict[str, Queries], images: Queries) -> dict[str, Any]:
    """index.json's `recall`: {"at": 10, "text": {language: figures}, "image": figures}, figures in percent.

    found_alone   of the ten best by exact search, the share among the ten that FAISS alone puts first
    found         the same after its candidates were scored in full, which is what a search gives
    R@10_exact, R@10   of captions: the share whose own image is among the ten, by exact search and by this index

    An image is no answer to itself. An answer that scores as high as the tenth best counts as one of the ten.
    """
    return {
        "at": AT,
        "text": {language: _figures(index, queries, own=False) for language, queries in texts.items()},
        "image": _figures(index, images, own=True) if len(index) > 1 else None,
    }


def _figures(index: SearchIndex, queries: Queries, own: bool) -> dict[str, float]:
    """Figures of one kind of queries; `own` leaves each query's own image out of the answers."""
    k = min(AT, len(index) - own)
    counts = np.zeros(4)
    for start in range(0, len(queries.rows), QUERIES_AT_ONCE):
        rows, items = (each[start : start + QUERIES_AT_ONCE] for each in (queries.rows, queries.items))
        _, exact = flat_top_k(rows, index.rows, k + own, index.similarity, turned=True)
        answers = [exact, index.propose(rows, k + own), index.search(rows, k + own)[1]]
        for query, item, three in zip(rows, items, zip(*answers, strict=True), strict=True):
            best, alone, full = (numbers[(numbers >= 0) & ~(own & (numbers == item))][:k] for numbers in three)
            least = index.scores(query, best).min() - TIE_TOLERANCE
            counts[0] += (index.scores(query, alone) >= least).sum() / k
            counts[1] += (index.scores(query, full) >= least).sum() / k
            counts[2:] += item in best, item in full
    shares = 100 * counts / len(queries.rows)
    names = ("found_alone", "found") if own else ("found_alone", "found", f"R@{AT}_exact", f"R@{AT}")
    figures = {name: round(float(share), 2) for name, share in zip(names, shares, strict=False)}
    return {"queries": len(queries.rows)} | figures
