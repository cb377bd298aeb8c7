"""Retrieval figures of a shared image-text space, with the protocol they were measured under.

Recall at k is any-positive: the share of queries with a right answer among the first k, which is how big_vision and
CLIP_benchmark count it. All figures come from the exact ranks of `rank_retrieval`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from mmtrain.evaluation.metrics.bootstrap import interval95, mean_over_languages, resampled_recall
from mmtrain.evaluation.metrics.consistency import consistent_rows, mean_rank_variance, rank_correlation
from mmtrain.evaluation.ranking.queries import QueryRanks
from mmtrain.evaluation.ranking.ranks import ALL_DIRECTIONS, DIRECTIONS, RetrievalRanks, rank_retrieval
from mmtrain.evaluation.ranking.tiles import Similarity

MEAN_RECALL_AT = (1, 5, 10)  # also where other recalls are shown


def retrieval_metrics(
    image_embeddings: np.ndarray | Tensor,
    text_embeddings: np.ndarray | Tensor,
    image_of_text: Sequence[int] | np.ndarray | Tensor,
    language_of_text: Sequence[str] | np.ndarray,
    recall_at: Sequence[int] = (1, 5, 10),
    captions: Literal["all", "first"] = "all",
    similarity: Similarity = "cosine",
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Measure image_embeddings [N, D] against text_embeddings [M, D]; further options are those of `rank_retrieval`.

    Returns the contents of metrics.json: protocol, text_to_image, image_to_text, text_to_text, mean_recall,
    mean_rank_variance and rank_correlation. R@k, MRR, nDCG and intervals are in percent; median and mean ranks are
    1-based. bootstrap is the number of resamples behind the 95 % intervals (0 leaves them out), seed makes them
    repeatable.
    """
    columns = (image_embeddings, text_embeddings, image_of_text, language_of_text)
    ranks = rank_retrieval(*columns, recall_at=recall_at, captions=captions, similarity=similarity, **options)
    return summarise(ranks, bootstrap=bootstrap, seed=seed)


def summarise(ranks: RetrievalRanks, *, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The figures of `retrieval_metrics` from ranks."""
    figures: dict[str, dict[str, Any]] = {
        direction: {name: _figures(queries, ranks.recall_at) for name, queries in getattr(ranks, direction).items()}
        for direction in ALL_DIRECTIONS
    }
    for direction in DIRECTIONS:
        languages = list(figures[direction].values())
        figures[direction]["mean"] = {name: float(np.mean([each[name] for each in languages])) for name in languages[0]}
    if bootstrap:
        _add_intervals(figures, ranks, bootstrap, seed)
    tables = {direction: ranks.by_image(direction) for direction in DIRECTIONS}
    compared = {direction: int(consistent_rows(table).sum()) for direction, table in tables.items()}
    protocol = ranks.protocol | {
        "recall_at": list(ranks.recall_at),
        "bootstrap": {"samples": bootstrap, "seed": seed, "resampled": "images"},
        "mean_rank_variance": {
            "ranks": "0-based, first caption of an image in each language, ddof 0",
            "images_compared": compared,
            "images_left_out": {direction: ranks.images - count for direction, count in compared.items()},
        },
    }
    recalls = [
        100 * float(np.mean(each.rank < k))
        for direction in DIRECTIONS
        for each in ranks.of(direction).values()
        for k in MEAN_RECALL_AT
    ]
    return {
        "protocol": protocol,
        **figures,
        "mean_recall": float(np.mean(recalls)),
        "mean_rank_variance": {
            direction: {kind: _or_null(mean_rank_variance(table, kind)) for kind in ("var", "std", "mad")}
            for direction, table in tables.items()
        },
        "rank_correlation": {"languages": ranks.languages}
        | {direction: _rows(rank_correlation(table)) for direction, table in tables.items()},
    }


def _add_intervals(figures: dict[str, dict[str, Any]], ranks: RetrievalRanks, samples: int, seed: int) -> None:
    """Give every entry of figures the interval of its R@k, k the smallest; all share the same draws."""
    k = ranks.recall_at[0]
    entries = [(name, key) for name, direction in figures.items() for key in direction if key != "mean"]
    draws = resampled_recall([getattr(ranks, name)[key] for name, key in entries], ranks.images, k, samples, seed)
    for column, (name, key) in enumerate(entries):
        figures[name][key][f"R@{k}_ci95"] = interval95(draws[:, column])
    for name in DIRECTIONS:
        columns = [column for column, entry in enumerate(entries) if entry[0] == name]
        figures[name]["mean"][f"R@{k}_ci95"] = interval95(mean_over_languages(draws[:, columns]))


def _figures(ranks: QueryRanks, recall_at: tuple[int, ...]) -> dict[str, Any]:
    place = ranks.rank + 1
    depth = recall_at[-1]
    figures: dict[str, Any] = {f"R@{k}": 100 * float(np.mean(place <= k)) for k in recall_at}
    figures |= {f"MRR@{k}": 100 * float(np.mean(np.where(place <= k, 1 / place, 0))) for k in recall_at}
    return figures | {
        f"nDCG@{depth}": 100 * float(ranks.ndcg.mean()),
        "median_rank": float(np.median(place)),
        "mean_rank": float(place.mean()),
        "queries": len(place),
    }


def _or_null(value: float) -> float | None:
    """The value, or None for NaN, which JSON has not."""
    return None if np.isnan(value) else float(value)


def _rows(table: np.ndarray) -> list[list[float | None]]:
    values = table.astype(object)
    values[np.isnan(table)] = None
    return values.tolist()


def flat_figures(metrics: dict, recall_at: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """mean_recall, <direction>/R@K/<language or mean>, mean_rank_variance/<direction> and
    questions/<figure>/<language or mean> of a metrics.json, as far as it has them.
    """
    figures = {name: metrics[name] for name in ("mean_recall",) if name in metrics}
    for language, table in metrics.get("questions", {}).items():
        if language != "groups":
            figures |= {f"questions/{name}/{language}": value for name, value in table.items() if "_ci95" not in name}
    for direction in DIRECTIONS:
        for language, table in metrics.get(direction, {}).items():
            figures |= {f"{direction}/R@{k}/{language}": table[f"R@{k}"] for k in recall_at}
        variance = metrics.get("mean_rank_variance", {}).get(direction, {}).get("var")
        if variance is not None:
            figures[f"mean_rank_variance/{direction}"] = variance
    return figures
