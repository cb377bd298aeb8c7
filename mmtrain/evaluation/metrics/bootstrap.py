"""95 % intervals by resampling images, each with all its queries (Efron and Tibshirani 1993, chapter 13).

The captions of one image, also in several languages, are hit or missed together; drawing images instead of single
queries keeps that in the interval.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mmtrain.evaluation.ranking.queries import QueryRanks
from mmtrain.evaluation.ranking.ranks import ALL_DIRECTIONS, RetrievalRanks

DRAWS = 1000  # that decide about a difference
WEIGHTS_AT_ONCE = 2**21  # counts of images in the draws that share a product


def resampled_recall(ranks: Sequence[QueryRanks], images: int, k: int, samples: int, seed: int) -> np.ndarray:
    """R@k in percent [samples, len(ranks)] of draws of images with replacement; NaN where a draw has no query.

    The draws depend on images, samples and seed alone, so those of two models are pairs.
    """
    queries = np.stack([np.bincount(each.image, minlength=images) for each in ranks], 1).astype(np.float32)
    hits = np.stack([np.bincount(each.image[each.rank < k], minlength=images) for each in ranks], 1).astype(np.float32)
    recalls = []
    with np.errstate(invalid="ignore"):
        for weights in drawn(images, samples, seed):
            recalls.append(100 * (weights @ hits) / (weights @ queries))
    return np.concatenate(recalls, dtype=np.float64)


def resampled_means(values: np.ndarray, members: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means [samples, G, F] of values [Q, F] over the members bool [G, Q], of draws of queries with replacement.

    Values that are NaN do not count; a mean over nothing is NaN.
    """
    counted = ~np.isnan(values)
    columns = [(member[:, None] * counted).astype(np.float32) for member in members]
    known, means = np.nan_to_num(values), []
    with np.errstate(invalid="ignore"):
        centres = [(known * column).sum(0) / column.sum(0) for column in columns]
        # float32 holds the distances from the mean, so that the mean is in its interval to the last bit
        sums = [((known - own) * column).astype(np.float32) for own, column in zip(centres, columns, strict=True)]
        for weights in drawn(len(values), samples, seed):
            pairs = zip(sums, columns, strict=True)
            means.append(np.stack([weights @ own / (weights @ column) for own, column in pairs], 1))
    return np.concatenate(means, dtype=np.float64) + np.stack(centres)


def drawn(count: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Draws of `count` things with replacement, some at once: how often each comes, float32 [some, count]."""
    random = np.random.default_rng(seed)
    at_once = max(1, WEIGHTS_AT_ONCE // count)
    for start in range(0, samples, at_once):
        draws = [random.integers(0, count, count) for _ in range(min(at_once, samples - start))]
        yield np.array([np.bincount(draw, minlength=count) for draw in draws], dtype=np.float32)


def interval95(draws: np.ndarray) -> list[float]:
    """The 2.5th and 97.5th percentile of the draws [samples] that are not NaN."""
    return [float(bound) for bound in np.nanpercentile(draws, [2.5, 97.5])]


def mean_over_languages(draws: np.ndarray) -> np.ndarray:
    """The mean over the languages present in each draw of draws [samples, K], without the draws that have none."""
    return np.nanmean(draws[~np.isnan(draws).all(1)], axis=1)


def paired_bootstrap(
    first: RetrievalRanks, second: RetrievalRanks, *, k: int = 1, samples: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, dict[str, float | list[float]]]]:
    """The gain of `second` over `first` in R@k on the same queries.

    Returns {direction: {language or "mean": {"first":, "second":, "difference":, "ci95": [lo, hi], "p":}}}, in percent
    and percentage points. p is two-sided: twice the share of draws on the other side of zero, at least 1 / (samples +
    1). Raises ValueError unless both hold the ranks of the same queries.
    """
    _check_same_queries(first, second)
    result: dict[str, dict[str, dict[str, float | list[float]]]] = {}
    for direction in ALL_DIRECTIONS:
        tables = getattr(first, direction), getattr(second, direction)
        if not tables[0]:
            continue
        recalls = [{name: 100 * float(np.mean(each.rank < k)) for name, each in table.items()} for table in tables]
        draws = [resampled_recall(list(table.values()), first.images, k, samples, seed) for table in tables]
        columns = {name: (draws[1] - draws[0])[:, column] for column, name in enumerate(tables[0])}
        if direction != "text_to_text":
            columns["mean"] = mean_over_languages(draws[1] - draws[0])
            for recall in recalls:
                recall["mean"] = float(np.mean(list(recall.values())))
        result[direction] = {
            name: {
                "first": recalls[0][name],
                "second": recalls[1][name],
                "difference": recalls[1][name] - recalls[0][name],
                "ci95": interval95(gains),
                "p": two_sided(gains),
            }
            for name, gains in columns.items()
        }
    return result


def two_sided(gains: np.ndarray) -> float:
    """p of a difference by its draws: twice the share on the other side of zero, at least 1 / (samples + 1)."""
    side = min(np.sum(gains <= 0), np.sum(gains >= 0))
    return float(min(1.0, 2 * (side + 1) / (len(gains) + 1)))


def _check_same_queries(first: RetrievalRanks, second: RetrievalRanks) -> None:
    for direction in ALL_DIRECTIONS:
        ours, theirs = getattr(first, direction), getattr(second, direction)
        same = list(ours) == list(theirs) and all(
            np.array_equal(ours[name].query, theirs[name].query)
            and np.array_equal(ours[name].image, theirs[name].image)
            for name in ours
        )
        if first.images != second.images or not same:
            raise ValueError(
                f"{direction}: the two models were ranked on different queries; "
                "compare needs the same images, captions, languages and protocol"
            )
