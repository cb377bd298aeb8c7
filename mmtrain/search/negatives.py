"""The hardest wrong texts and pictures of every caption of SHARDS, written into their records.

Letters: A anchors (pictures or queries), T texts, D dimensions, L lines (a text that is right for an anchor), m
negatives.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmtrain.evaluation.ranking.nearest import FlatSearch
from mmtrain.evaluation.ranking.tiles import Similarity, pair_scores
from mmtrain.search.contrasts import Contrast

ANY = ""  # the pool of the texts of all languages


@dataclass(frozen=True)
class Hardness:
    """Which wrong answers are negatives.

    Args:
        count: m, at most so many of each caption.
        across: Of any language, not of the caption's own.
        min_margin, max_margin: How far below the right answer's score.
        min_score, max_score: In what range of scores.

    Raises:
        ValueError: for a count below 1, and bounds that nothing is between.
    """

    count: int = 7
    across: bool = False
    min_margin: float | None = None
    max_margin: float | None = None
    min_score: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"--negatives: got {self.count}, expected at least 1")
        for name, least, most in (
            ("margin", self.min_margin, self.max_margin),
            ("score", self.min_score, self.max_score),
        ):
            if least is not None and most is not None and least > most:
                raise ValueError(f"--min_{name}, --max_{name}: nothing is between {least} and {most}")

    def bounds(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest score [L] that a negative may have, by the right answers' scores [L]."""
        lowest, highest = np.full(len(scores), -np.inf), np.full(len(scores), np.inf)
        if self.max_margin is not None:
            lowest = scores - self.max_margin
        if self.min_margin is not None:
            highest = scores - self.min_margin
        return np.maximum(lowest, self.min_score or lowest), np.minimum(highest, self.max_score or highest)


@dataclass
class Line:
    """A text that is right for an anchor, its score, and the numbers and scores of wrong texts and wrong anchors."""

    sample: int
    anchor: int
    text: int
    score: float
    texts: list[tuple[int, float]]
    anchors: list[tuple[int, float]]


class Miner:
    """Finds the negatives in one contrast, exactly and in memory linear in its rows."""

    def __init__(self, contrast: Contrast, hardness: Hardness, similarity: Similarity) -> None:
        self.contrast, self.hardness, self.similarity = contrast, hardness, similarity
        self._anchors, self._texts = (
            np.stack(rows) if rows else np.zeros((0, 1), np.float32) for rows in (contrast.anchors, contrast.texts)
        )
        self._words = np.array(contrast.words, np.int64)
        self._word_count = 1 + max([word for _, word in contrast.right], default=0)
        self._right = np.sort([anchor * self._word_count + word for anchor, word in contrast.right])
        self._lines = np.array(contrast.lines, np.int64).reshape(-1, 3)
        language = np.array([ANY if hardness.across else name for name, _ in contrast.written])
        self._pools = {name: np.flatnonzero(language == name) for name in np.unique(language).tolist()}
        self._pool_of_text = language
        self._searches: dict[str | None, FlatSearch] = {}

    def lines(self, first: int, end: int) -> list[Line]:
        """The lines of the samples from `first` up to `end`."""
        part = slice(*np.searchsorted(self._lines[:, 0], [first, end]))
        _, anchors, texts = self._lines[part].T
        scores = pair_scores(*map(torch.from_numpy, (self._anchors, self._texts)), anchors, texts, self.similarity)
        lowest, highest = self.hardness.bounds(scores)
        found: list[Any] = [None] * len(anchors)
        for pool in np.unique(self._pool_of_text[texts]).tolist():
            numbers = self._pools[pool]
            own = np.flatnonzero(self._pool_of_text[texts] == pool)
            for place, negatives in zip(
                own, self._wrong_texts(pool, numbers, anchors[own], lowest[own], highest[own]), strict=True
            ):
                found[place] = negatives
        back = self._wrong_anchors(texts, lowest, highest)
        rows = zip(self._lines[part].tolist(), scores.tolist(), found, back, strict=True)
        return [Line(*line, score, wrong, others) for line, score, wrong, others in rows]
