"""Agreement of languages: rank variance, rank correlation, and the similarity of captions across languages."""

from typing import Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from mmtrain.evaluation.ranking.ranks import RetrievalRanks
from mmtrain.evaluation.ranking.tiles import unit_rows

IMAGE_BLOCK = 256


def mean_rank_variance(ranks: np.ndarray, kind: Literal["var", "std", "mad"] = "var") -> float:
    """How far an image's rank moves with the language, averaged over images; 0 is perfect agreement.

    ranks [N, K]: 0-based, NaN for a missing language. For each image: "var" is the variance over its present languages
    (ddof 0), "std" its square root, "mad" the mean absolute deviation from the mean. Images with fewer than two
    languages are left out (`consistent_rows`); NaN when all are. Nie et al. 2024 (CCRK) define "var"; their published
    figures are "std", as their code computes it.

    Raises:
        ValueError: for another kind, or ranks of another shape.
    """
    if kind not in ("var", "std", "mad"):
        raise ValueError(f"kind is {kind!r}; accepted are 'var', 'std' and 'mad'")
    ranks = np.asarray(ranks, dtype=np.float64)
    if ranks.ndim != 2:
        raise ValueError(f"ranks has shape {list(ranks.shape)}; give [images, languages]")
    ranks = ranks[consistent_rows(ranks)]
    if not len(ranks):
        return float("nan")
    if kind == "mad":
        spread = np.nanmean(np.abs(ranks - np.nanmean(ranks, axis=1, keepdims=True)), axis=1)
    else:
        spread = np.nanvar(ranks, axis=1) if kind == "var" else np.nanstd(ranks, axis=1)
    return float(spread.mean())


def consistent_rows(ranks: np.ndarray) -> np.ndarray:
    """bool [N]: which rows of ranks [N, K] have at least two languages; a rank variance uses only those."""
    return (~np.isnan(ranks)).sum(1) >= 2


def rank_correlation(ranks: np.ndarray) -> np.ndarray:
    """Spearman's correlation [K, K] of the ranks [N, K] of two languages over the images that have both.

    NaN where fewer than three images have both or all their ranks are equal.
    """
    present = ~np.isnan(ranks)
    some = ranks[present.any(1)]
    if not np.isnan(some).any():  # every image has all the languages or none
        places = rankdata(some, axis=0) - (len(some) + 1) / 2
        return _cosines(places.T @ places, (places**2).sum(0)[:, None], (places**2).sum(0), len(some))
    return np.array([_correlations(ranks[present[:, a]], a) for a in range(ranks.shape[1])])


def _correlations(ranks: np.ndarray, a: int) -> np.ndarray:
    """The correlation [K] of language a, which all these ranks [n, K] have, with each language."""
    ranks = ranks[np.argsort(ranks[:, a])]
    both = ~np.isnan(ranks)
    count = both.sum(0)
    # a's places among the images that have the other language too: those before, and the middle of those equal
    upto = np.vstack([np.zeros_like(count), np.cumsum(both, axis=0)])
    first, last = (np.searchsorted(ranks[:, a], ranks[:, a], side) for side in ("left", "right"))
    own = (upto[first] + upto[last] - count) / 2 * both
    other = (rankdata(np.where(both, ranks, np.inf), axis=0) - (count + 1) / 2) * both
    return _cosines((own * other).sum(0), (own**2).sum(0), (other**2).sum(0), count)


def _cosines(products: np.ndarray, one: np.ndarray, other: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    """Products over the root of both squares; NaN for fewer than three images or a square of nothing."""
    squares = one * other
    known = (squares > 0) & (np.asarray(count) >= 3)
    return np.where(known, products / np.sqrt(np.where(known, squares, 1)), np.nan)


def language_similarity(ranks: RetrievalRanks, text_embeddings: np.ndarray | Tensor) -> np.ndarray:
    """Mean cosine [K, K] between the first captions of the same image in two languages; NaN where no image has both.

    text_embeddings [M, D] are those that were ranked; rows and columns are ranks.languages.
    """
    texts = torch.as_tensor(text_embeddings)
    languages = ranks.languages
    first = np.full((len(languages), ranks.images), -1)
    for row, language in enumerate(languages):
        backwards = ranks.texts_of[language][::-1]
        first[row, ranks.image_of_text[backwards]] = backwards  # the first caption is written last and stays
    sums = torch.zeros(len(languages), len(languages), dtype=torch.float64)
    for start in range(0, ranks.images, IMAGE_BLOCK):
        captions = torch.from_numpy(first[:, start : start + IMAGE_BLOCK]).flatten()
        rows = unit_rows(texts[captions.clamp(min=0)], "cosine") * (captions >= 0)[:, None]
        rows = rows.reshape(len(languages), -1)  # all images of the block in one long row: one product sums over them
        sums += rows @ rows.T
    present = (first >= 0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return sums.numpy() / (present @ present.T)
